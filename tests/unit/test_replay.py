"""Known results: which candidate a structure is, the table they become, and the engine that answers from it."""

import csv
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT
from hullforge import config
from hullforge.config import DftSettings, Engine, Limits, SiteGroups
from hullforge.crystals import decorations, prototypes
from hullforge.dft import batch, protocol
from hullforge.dft.engines import base, replay
from hullforge.dft.step import read_frames, read_result
from hullforge.errors import ConfigError, EngineError, TableError
from hullforge.replay import build, sources
from hullforge.replay.mapping import Mapper, Match, rotations
from hullforge.store import ids, structures, tables
from hullforge.store.structures import NUMBERS, SYMBOLS

FOLDER = ROOT / "config" / "campaigns" / "perovskites" / "prototypes"
CATIONS, ANIONS = ("Li", "Na", "K", "Ca", "Ti", "Sr", "La"), ("N", "O", "F", "S")
POOL = (*CATIONS, *ANIONS)


def compiled():
    folder = config.PrototypesSettings(
        prototypes=config.PrototypeTable(library="none", folder=FOLDER, nspecies=(3, 4, 5))
    )
    return {prototype.name: prototype for prototype in prototypes.collect(folder)}


PROTOTYPES = compiled()
#: Letters of cations in each label; the other letters are anions.
CATION_LETTERS = {"abx3": "AB", "abx2y": "BC", "abxyz": "AE"}


def groups():
    found = []
    for name, prototype in PROTOTYPES.items():
        letters = decorations.LETTERS[: prototype.nspecies]
        elements = {letter: CATIONS if letter in CATION_LETTERS[name] else ANIONS for letter in letters}
        found.append(SiteGroups(prototype=name, elements=elements))
    return tuple(found)


SPACES = decorations.spaces(list(PROTOTYPES.values()), POOL, groups())
MAPPER = Mapper(SPACES)
IDEAL = {
    "A": [0, 0, 0], "B": [0.5, 0.5, 0.5], "X": [[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
}  # fmt: skip


def perovskite(a, b, anions):
    """Numbers and fractional positions of the ideal cubic cell with the cations `a` at the corner, `b` in the centre."""
    return [NUMBERS[s] for s in (a, b, *anions)], np.array([IDEAL["A"], IDEAL["B"], *IDEAL["X"]], dtype=float)


@st.composite
def perovskites(draw):
    a, b = draw(st.lists(st.sampled_from(CATIONS), min_size=2, max_size=2, unique=True))
    kinds = draw(st.integers(1, 3))
    used = draw(st.lists(st.sampled_from(ANIONS), min_size=kinds, max_size=kinds, unique=True))
    anions = {1: used * 3, 2: [used[0], used[0], used[-1]], 3: used}[kinds]
    return a, b, tuple(draw(st.permutations(anions)))


@given(
    perovskites(),
    st.permutations(range(5)),
    st.integers(0, 10**6),
    st.lists(st.floats(0, 1), min_size=3, max_size=3),
    st.floats(3.4, 5.5),
)
@settings(max_examples=120, deadline=None)
def test_a_shaken_shifted_permuted_and_turned_perovskite_is_itself(crystal, order, seed, shift, length):
    a, b, anions = crystal
    numbers, places = perovskite(a, b, anions)
    rng = np.random.default_rng(seed)
    turn = rotations(np.eye(3))[rng.integers(48)]
    # Atoms that move by a tenth of the edge stay nearest to their own sites.
    shaken = (places + rng.uniform(-0.1, 0.1, (5, 3)) + shift) @ turn
    numbers, shaken = np.array(numbers)[list(order)], shaken[list(order)]
    cell = length * np.eye(3)
    match = MAPPER.match(numbers, cell, shaken @ cell)
    assert isinstance(match, Match)
    prototype = match.prototype
    assert prototype.name == {1: "abx3", 2: "abx2y", 3: "abxyz"}[len(set(anions))]
    assert match.species == decorations.canonical(prototype, match.species)
    on_site = numbers[match.order]
    assert [SYMBOLS[n] for n in on_site] == [match.species[s] for s in prototype.site_species]
    # The octahedral cation is the one whose nearest neighbours are six anions at half an edge.
    fractional = prototype.positions @ np.linalg.inv(prototype.cell)
    anion_sites = [i for i, n in enumerate(on_site) if SYMBOLS[n] in ANIONS]
    for site, expected in (
        (int(np.flatnonzero(on_site == NUMBERS[x])[0]), half) for x, half in ((a, False), (b, True))
    ):
        difference = fractional[anion_sites] - fractional[site]
        difference -= np.round(difference)
        assert (np.linalg.norm(difference, axis=1) < 0.51).all() == expected


def test_the_same_crystal_in_other_settings_is_one_candidate():
    numbers, places = perovskite("Sr", "Ti", ("O", "N", "F"))
    names = set()
    for turn in rotations(np.eye(3)):
        match = MAPPER.match(numbers, 4 * np.eye(3), 4 * (places @ turn))
        names.add(ids.candidate_id(match.prototype.prototype_id, match.species))
    assert len(names) == 1
    swapped = MAPPER.match(perovskite("Ti", "Sr", ("O", "N", "F"))[0], 4 * np.eye(3), 4 * places)
    assert ids.candidate_id(swapped.prototype.prototype_id, swapped.species) not in names


@pytest.mark.parametrize(
    ("symbols", "change", "words"),
    [
        (("Sr", "Ti", "O", "O", "Au"), None, "not in the pool: Au"),
        (("Sr", "Sr", "O", "O", "O"), None, "2 + 3 sites"),
        (("Sr", "O", "Ti", "Ti", "Ti"), None, "that it may hold"),
        (("Sr", "Ti", "O", "O", "O"), lambda x: x[[0, 1, 2, 2, 2]], "do not stand on the sites"),
        (("Sr", "Ti", "O", "O", "O"), lambda x: x * np.nan, "not a number"),
    ],
)
def test_what_is_no_decoration_says_why(symbols, change, words):
    places = perovskite("Sr", "Ti", "OOO")[1]
    positions = 4 * (change(places) if change else places)
    assert words in MAPPER.match([NUMBERS[s] for s in symbols], 4 * np.eye(3), positions)


def test_a_sheared_cell_and_another_number_of_sites_are_no_decorations():
    numbers, places = perovskite("Sr", "Ti", "OOO")
    cell = 4 * np.eye(3)
    cell[0, 1] = 2.5
    assert isinstance(MAPPER.match(numbers, cell, places @ cell), str)
    assert "6 sites" in MAPPER.match([*numbers, 8], cell, np.vstack([places, [0.2, 0.2, 0.2]]) @ cell)


def test_readings_that_fit_alike_are_not_guessed():
    mapper = Mapper(decorations.spaces([PROTOTYPES["abxyz"]], ("Sr", "Ti", "O", "N", "F")))
    numbers, places = perovskite("Sr", "Ti", ("O", "N", "F"))
    places[1], places[4] = [0.25, 0.5, 0.5], [0.25, 0.5, 0.49]
    answer = mapper.match(numbers, 4 * np.eye(3), 4 * places)
    assert isinstance(answer, str)


# ------------------------------------------------------------------------------------------------ the table


def known(a, b, anions, energy, source="x:1", above=None):
    numbers, places = perovskite(a, b, anions)
    return sources.Known(source, numbers, 4 * np.eye(3), 4 * places, (True, True, True), energy, above)


def test_the_lowest_energy_of_a_candidate_stays_and_is_counted():
    rows = [
        known("Sr", "Ti", "OOO", 0.3, "x:1"),
        known("Sr", "Ti", "OOO", 0.1, "x:2"),
        known("Ca", "Ti", "OOO", 0.2),
    ]
    made = build.make(rows, SPACES, "RPBE", formation=False)
    assert (len(made.rows), made.repeated, made.known) == (2, 1, [])
    assert {row["energy_per_atom"] for row in made.rows} == {0.1, 0.2}
    assert all(row["e_above_known"] is None for row in made.rows)


def test_known_phases_are_the_elements_and_what_competes():
    rows = [known("Sr", "Ti", "OOO", -0.7, above=0.1), known("Ti", "Sr", "OOO", -0.5, above=0.3)]
    rows += [known("Ca", "Ti", "OOO", 0.2, above=0.2), known("Au", "Ti", "OOO", 0.2)]
    made = build.make(rows, SPACES, "RPBE", formation=True)
    phases = {name: energy for name, _, energy in made.known}
    assert phases == pytest.approx(
        {"Ca": 0, "O": 0, "Sr": 0, "Ti": 0, "competing-O3SrTi": -0.8, "competing-CaO3Ti": 0.0}
    )
    above = {tuple(row["species"]): row["e_above_known"] for row in made.rows}
    assert above == pytest.approx({("Sr", "Ti", "O"): 0.1, ("Ti", "Sr", "O"): 0.3, ("Ca", "Ti", "O"): 0.2})
    assert [name for name, *_ in made.rejected] == ["x:1"]


def test_competing_phases_above_the_elements_are_said_aloud(caplog):
    build.make([known("Sr", "Ti", "OOO", 0.5, above=0.1)], SPACES, "RPBE", formation=True)
    assert "above the elements" in caplog.text


CIF = """data_x
_cell_length_a 4
_cell_length_b 4
_cell_length_c 4
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Sr 0.02 0 0
Ti 0.5 0.48 0.5
O 0.5 0.5 0
O 0.5 0 0.5
O 0 0.5 0.5
"""


def write_csv(path, *rows):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("id", "cif", "e", "above"), *rows])
    return path


def test_a_csv_is_read_with_its_own_names(tmp_path):
    path = write_csv(tmp_path / "a.csv", ("p", CIF, "-5.0", "1.0"))
    (row,) = sources.read(path, sources.Columns("e", name="id", above="above"), "PBE")
    assert (row.source, row.energy, row.above) == ("a.csv:p", -1.0, 0.2)
    (row,) = sources.read(path, sources.Columns("e", per_atom=True), "PBE")
    assert (row.source, row.energy, row.above) == ("a.csv:1", -5.0, None)
    assert MAPPER.match(row.numbers, row.cell, row.positions).species == ("Sr", "Ti", "O")


@pytest.mark.parametrize(
    ("columns", "row", "words"),
    [
        (sources.Columns("energy"), ("p", CIF, "1", "1"), "no column energy; it has id, cif, e, above"),
        (sources.Columns("e"), ("p", CIF, "abc", "1"), "row 1, column e: 'abc'"),
        (sources.Columns("e"), ("p", CIF, "nan", "1"), "not a finite number"),
        (sources.Columns("e"), ("p", "data_x", "1", "1"), "row 1: not a CIF"),
    ],
)
def test_a_csv_that_can_not_be_read_says_where(tmp_path, columns, row, words):
    path = write_csv(tmp_path / "a.csv", row)
    with pytest.raises(TableError) as error:
        list(sources.read(path, columns, "PBE"))
    assert words in str(error.value)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(TableError, match="no such file"):
        sources.read(tmp_path / "a.csv", sources.Columns("e"), "PBE")
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(TableError, match="xlsx"):
        sources.read(tmp_path / "a.xlsx", sources.Columns("e"), "PBE")


# ------------------------------------------------------------------------------------------------ the engine


@pytest.fixture
def table(tmp_path):
    made = build.make([known("Sr", "Ti", "OOO", -0.25)], SPACES, "RPBE", formation=False)
    path = tmp_path / "replay.parquet"
    tables.write(path, "replay", made.rows)
    return path


def engine_of(path, version=None):
    answers = replay.ReplayEngine().answers(path)
    return Engine(name="replay", version=version or replay.version_of(answers), table=path)


def test_the_version_is_the_content_of_the_table(table, tmp_path):
    version = engine_of(table).version
    rows = tables.read_rows(table, "replay")
    tables.write(tmp_path / "copy.parquet", "replay", rows)
    assert engine_of(tmp_path / "copy.parquet").version == version
    rows[0]["energy_per_atom"] += 1e-6
    tables.write(tmp_path / "copy.parquet", "replay", rows)
    other = engine_of(tmp_path / "copy.parquet").version
    assert other != version
    theory = protocol.load("replay")
    one, two = (Engine(name="replay", version=v, table=table) for v in (version, other))
    assert theory.theory_id("RPBE", one) != theory.theory_id("RPBE", two)
    moved = Engine(name="replay", version=version, table=tmp_path / "copy.parquet")
    assert theory.theory_id("RPBE", one) == theory.theory_id("RPBE", moved)


def test_a_table_of_another_version_or_functional_is_refused(table):
    theory = protocol.load("replay")
    engine = base.get("replay")
    engine.check(["O"], theory, ["RPBE"], engine_of(table))
    with pytest.raises(EngineError, match=r"set engine\.version to r1-"):
        engine.check(["O"], theory, ["RPBE"], engine_of(table, "r1-0"))
    for functionals in (["PBE"], ["RPBE", "PBE"]):
        with pytest.raises(EngineError, match="holds results of RPBE"):
            engine.check(["O"], theory, functionals, engine_of(table))


@pytest.mark.parametrize(
    "edit", [{"name": "replay", "version": "r1"}, {"name": "emt", "version": "1", "table": "x"}]
)
def test_a_table_belongs_to_the_engine_replay(edit):
    with pytest.raises(ConfigError, match=r"engine\.table"):
        config.validated(Engine, edit, "x")


def test_a_batch_gets_the_tables_word_and_a_failure_for_what_it_lacks(table, tmp_path):
    space = SPACES[[space.prototype.name for space in SPACES].index("abx3")]
    starts = []
    for species in (("Sr", "Ti", "O"), ("Ti", "Sr", "O")):
        atoms = decorations.decorate(space.prototype, species)
        starts.append(
            {
                "candidate_id": ids.candidate_id(space.prototype.prototype_id, species),
                "prototype_id": space.prototype.prototype_id,
                "round": 0,
                "batch": 0,
                "status": "skipped",
                "message": "",
                "backend": "none",
                "n_steps": 0,
                "volume_ratio": None,
                "energy_per_atom": None,
                **structures.row_from_atoms(atoms),
            }
        )
    tables.write(tmp_path / "starts.parquet", "prerelax", starts)
    theory = protocol.load("replay")
    settings_ = DftSettings(
        source="test",
        round=0,
        functional="RPBE",
        engine=engine_of(table),
        protocol=theory.only("RPBE", "replay"),
    )
    batch.run(settings_, tmp_path / "starts.parquet", 0, tmp_path / "work", tmp_path / "out", 2, Limits())
    (done,) = tables.read_rows(tmp_path / "out" / "calculations.parquet", "calculations")
    (answer,) = tables.read_rows(table, "replay")
    assert done["energy_per_atom"] == pytest.approx(-0.25)
    assert (done["positions"], done["cell"]) == (answer["positions"], answer["cell"])
    assert (done["run_type"], done["forces"], done["protocol_drift"]) == ("replay", None, [])
    (failed,) = tables.read_rows(tmp_path / "out" / "failures.parquet", "failures")
    assert failed["reason"] == "not_in_table"
    assert failed["n_attempts"] == 1
    assert "no row for this candidate" in failed["message"]


def test_the_child_needs_the_standard_library_alone_and_writes_what_the_runner_reads(tmp_path):
    geometry = {"numbers": [8], "cell": [1.0] * 9, "positions": [[0.0] * 3], "pbc": [True] * 3}
    for number, answer in enumerate(({**geometry, "energy_per_atom": 2.5}, None)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "step.json").write_text(json.dumps({"physics": {"answer": answer, "table": "r1-x"}}))
        done = subprocess.run(base.get("replay").command(), cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        result = read_result(folder)
        if answer is None:
            assert (result.status, result.code) == ("error", "not_in_table")
        else:
            assert result.final == read_frames(folder)[-1]
            assert result.final.energy == 2.5


def test_the_example_campaign_is_a_valid_configuration():
    campaign = config.load(ROOT / "config" / "campaigns" / "perovskites.yaml")
    assert campaign.engine.table == Path("tables/perovskites/replay.parquet")
    kept = campaign.prototypes.model_copy(update={"folder": FOLDER})
    found = prototypes.collect(config.PrototypesSettings(prototypes=kept))
    spaces = decorations.spaces(found, campaign.elements, campaign.prototypes.site_groups)
    assert {space.prototype.name: space.count for space in spaces} == {
        "abx3": 52 * 51 * 4, "abx2y": 52 * 51 * 12, "abxyz": 52 * 51 * 4,
    }  # fmt: skip
