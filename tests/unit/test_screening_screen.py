"""Screening: what survives does not depend on how the ranks were cut."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from ase.build import bulk
from hypothesis import given
from hypothesis import strategies as st

from hullforge.config import Chemistry, Screening, ScreenSettings, SiteGroups
from hullforge.crystals import decorations
from hullforge.crystals.chemistry import Filter
from hullforge.crystals.decorations import Decorations
from hullforge.crystals.prototypes import compile_structure
from hullforge.errors import ModelError
from hullforge.screening import choices, draws, model, screen
from hullforge.screening.network import PRESETS
from hullforge.store import ids, tables
from hullforge.store.schema import TABLES
from hullforge.store.structures import NUMBERS

ELEMENTS = ("Li", "O", "Mg", "Al", "Si", "Fe")


def hull_row(formula: str, elements: list[str], energy: float) -> dict[str, Any]:
    def blank(column):
        kind = str(column.type)
        return (
            None
            if column.null
            else []
            if kind.startswith("list")
            else {"string": "", "bool": False}.get(kind, 0)
        )

    return {column.name: blank(column) for column in TABLES["hull"].columns} | {
        "calculation_id": f"k1-{formula}", "elements": elements, "nelements": len(elements),
        "chemical_formula_reduced": formula, "formation_energy_per_atom": energy, "e_above_hull": 0.0,
        "is_on_hull": True, "hull_status": "ok",
    }  # fmt: skip


class Campaign:
    def __init__(self, folder: Path, references: tuple[str, ...] = ELEMENTS):
        self.folder = folder
        structures = [bulk("Cu"), bulk("W"), bulk("NaCl", "rocksalt", a=5.6), bulk("CaF2", "fluorite", a=5.4)]
        structures.append(heusler := bulk("Cu", cubic=False).repeat((2, 2, 1)))
        heusler.symbols[:] = ["Cu", "Mn", "Al", "Cu"]
        compiled = [compile_structure(atoms, str(at), "test") for at, atoms in enumerate(structures)]
        self.known = sorted(compiled, key=lambda p: p.prototype_id)
        tables.write(folder / "prototypes.parquet", "prototypes", [p.row() for p in self.known])
        rows = [hull_row(symbol, [symbol], 0.0) for symbol in references]
        if {"Li", "O"} <= set(references):
            rows.append(hull_row("Li2O", ["Li", "O"], -2.0))
        tables.write(folder / "hull.parquet", "hull", rows)
        torch.manual_seed(0)
        members = [model.Network(PRESETS["tiny"]) for _ in range(2)]
        landmarks = [model.Landmarks(torch.randn(40, PRESETS["tiny"].readout[-1]), 0.5) for _ in members]
        screener = model.Screener(members, model.Normalisation(0.1, 5.0), ELEMENTS, landmarks=landmarks)
        screener.save(folder / "screener" / "model.pt")

    def run(self, shard: int = 0, name: str = "out", seed: int = 5, groups=(), **screening) -> pa.Table:
        screening = {"e_above_hull_cutoff": 0.2, "control_share": 0.1} | screening
        out = self.folder / f"{name}-{shard}.parquet"
        screen.run(
            ScreenSettings(elements=ELEMENTS, site_groups=groups, screening=Screening(**screening), seed=seed),
            self.folder / "prototypes.parquet", self.folder / "screener", self.folder / "hull.parquet", shard, out,
        )  # fmt: skip
        return tables.read(out, "screen")

    @property
    def size(self) -> int:
        return sum(Decorations(p, ELEMENTS).count for p in self.known)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory) -> Campaign:
    return Campaign(tmp_path_factory.mktemp("screen"))


def test_survivors_are_the_same_however_the_ranks_are_sharded(campaign):
    whole = campaign.run()
    for shards in (2, 3, 7):
        parts = [campaign.run(shard, f"of{shards}", shards=shards) for shard in range(shards)]
        assert (
            pa.concat_tables(parts)
            .sort_by([("prototype_id", "ascending"), ("rank", "ascending")])
            .equals(whole)
        )


def test_scores_are_the_same_however_the_ranks_are_cut(campaign, monkeypatch):
    monkeypatch.setattr(screen.Scorer, "block", 16)
    monkeypatch.setattr(screen, "SPAN", 32)
    hull = screen.load_hull(campaign.folder / "hull.parquet", ELEMENTS)
    screener = model.load(campaign.folder / "screener" / "model.pt")
    scorer = screen.Scorer(
        campaign.known,
        decorations.spaces(campaign.known, ELEMENTS),
        ELEMENTS,
        screener,
        hull,
        model.GraphTable(campaign.known),
        5,
        Filter(Chemistry()),
    )
    for index, prototype in enumerate(campaign.known):
        count = Decorations(prototype, ELEMENTS).count
        with model.threads(1):
            whole = np.concatenate(list(scorer.score(index, 0, count)))
            for step in (1, 7, 40):
                pieces = [
                    rows
                    for at in range(0, count, step)
                    for rows in scorer.score(index, at, min(at + step, count))
                ]
                assert np.concatenate(pieces).tobytes() == whole.tobytes()


def test_the_chemistry_filter_drops_rows_and_changes_no_other(campaign, monkeypatch, caplog):
    # Small blocks, so that some are dropped whole.
    monkeypatch.setattr(screen.Scorer, "block", 4)
    monkeypatch.setattr(screen, "SPAN", 8)
    whole = campaign.run(name="all", e_above_hull_cutoff=1e3)
    chemistry = Chemistry(test="pauling")
    by_id = {p.prototype_id: p for p in campaign.known}

    def sensible(row):
        numbers = np.array([[NUMBERS[symbol] for symbol in row["species"]]])
        return Filter(chemistry).passes(numbers, by_id[row["prototype_id"]].species_counts)[0]

    wanted = [row for row in whole.to_pylist() if sensible(row)]
    assert 0 < len(wanted) < whole.num_rows
    with caplog.at_level("INFO", logger="hullforge"):
        found = campaign.run(name="sensible", e_above_hull_cutoff=1e3, chemistry=chemistry)
    assert found.to_pylist() == wanted
    assert f"{campaign.size - len(wanted)} of {campaign.size} decorations are dropped" in caplog.text


def test_confined_species_are_all_that_is_screened(campaign):
    [halite] = [p for p in campaign.known if p.protostructure == "AB_cF8_225_a_b"]
    groups = (SiteGroups(prototype=halite.prototype_id, elements={"A": ("Li", "Mg"), "B": ("O",)}),)
    found = [
        row for shard in range(3)
        for row in campaign.run(shard, "confined", groups=groups, e_above_hull_cutoff=1e3, shards=3).to_pylist()
    ]  # fmt: skip
    mine = [row["species"] for row in found if row["prototype_id"] == halite.prototype_id]
    assert mine == [["Li", "O"], ["O", "Mg"]]
    others = [row for row in campaign.run(name="free", e_above_hull_cutoff=1e3).to_pylist()
              if row["prototype_id"] != halite.prototype_id]  # fmt: skip
    assert [row for row in found if row["prototype_id"] != halite.prototype_id] == others


def test_rows_say_what_was_predicted_for_whom(campaign):
    table = campaign.run(e_above_hull_cutoff=1e3)
    assert table.num_rows == campaign.size
    screener = model.load(campaign.folder / "screener" / "model.pt")
    graphs = model.GraphTable(campaign.known)
    for row in table.to_pylist()[:: max(1, table.num_rows // 20)]:
        index = next(i for i, p in enumerate(campaign.known) if p.prototype_id == row["prototype_id"])
        numbers = np.array([[NUMBERS[symbol] for symbol in row["species"]]])
        predicted = screener.predict_mixed(graphs, np.array([index]), numbers)
        assert row["candidate_id"] == ids.candidate_id(row["prototype_id"], row["species"])
        energy = row["predicted_formation_energy_per_atom"]
        assert energy == pytest.approx(predicted.energy[0], abs=1e-5)
        assert row["uncertainty"] == pytest.approx(predicted.uncertainty[0], rel=1e-4)
        assert row["latent_distance"] == pytest.approx(predicted.latent_distance[0], rel=1e-4)
        assert row["latent_distance"] > 0
        assert 2 < row["predicted_volume_per_atom"] < 60
        # As much Li2O as its scarcer element allows; all else on this hull is elements.
        share = dict(
            zip(
                row["species"],
                campaign.known[index].species_counts / campaign.known[index].nsites,
                strict=True,
            )
        )
        on_hull = -2.0 * min(share.get("Li", 0) / (2 / 3), share.get("O", 0) / (1 / 3))
        assert row["predicted_e_above_hull"] == pytest.approx(energy - on_hull, abs=1e-9)


def test_only_the_lowest_are_kept_beside_the_control(campaign):
    everything = campaign.run(e_above_hull_cutoff=1e3, control_share=0.0)
    energies = np.sort(everything["predicted_e_above_hull"].to_numpy())
    few = campaign.run(e_above_hull_cutoff=1e3, control_share=0.0, keep_per_shard=9)
    assert np.sort(few["predicted_e_above_hull"].to_numpy()).tolist() == energies[:9].tolist()
    cutoff = float(energies[20])
    below = campaign.run(e_above_hull_cutoff=cutoff, control_share=0.0)
    assert below.num_rows == 21
    assert not below["is_control"].to_numpy(zero_copy_only=False).any()


def formula(row, known) -> str:
    [prototype] = [p for p in known if p.prototype_id == row["prototype_id"]]
    return choices.formula(prototype, row["species"])


def test_of_each_composition_the_lowest_alone_is_kept(campaign):
    options = {"e_above_hull_cutoff": 1e3, "control_share": 0.0}
    everything = campaign.run(name="every", **options).to_pylist()
    lowest: dict[str, dict[str, Any]] = {}
    for row in sorted(everything, key=lambda r: r["predicted_e_above_hull"]):
        lowest.setdefault(formula(row, campaign.known), row)
    assert len(lowest) < len(everything)
    best = campaign.run(name="best", best_per_composition=True, **options).to_pylist()
    assert {formula(row, campaign.known): row for row in best} == lowest
    assert len(best) == len(lowest)
    few = campaign.run(name="few", best_per_composition=True, keep_per_shard=9, **options).to_pylist()
    ids_of = {row["candidate_id"] for row in few}
    assert ids_of == {row["candidate_id"] for row in list(lowest.values())[:9]}


def test_the_lowest_of_a_composition_survives_every_sharding(campaign):
    options = {"e_above_hull_cutoff": 1e3, "control_share": 0.0, "best_per_composition": True}
    whole = {formula(row, campaign.known): row for row in campaign.run(name="merged", **options).to_pylist()}
    for shards in (2, 3, 7):
        merged: dict[str, dict[str, Any]] = {}
        for shard in range(shards):
            for row in campaign.run(shard, f"merged{shards}", shards=shards, **options).to_pylist():
                name = formula(row, campaign.known)
                before = merged.setdefault(name, row)
                if row["predicted_e_above_hull"] < before["predicted_e_above_hull"]:
                    merged[name] = row
        assert merged == whole


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=60),
    st.integers(1, 6),
    st.lists(st.integers(1, 9), min_size=1, max_size=9),
    st.booleans(),
)
def test_the_lowest_are_the_same_however_they_are_offered(values, limit, cuts, distinct):
    rows = np.zeros(len(values), dtype=screen.ROW)
    rows["rank"] = np.arange(len(values))
    rows["above"] = [above for above, _ in values]
    rows["composition"] = [composition for _, composition in values]
    low = screen.Lowest("above", limit, "composition" if distinct else None)
    at = 0
    for cut in itertools.cycle(cuts):
        low.add(rows[at : at + cut])
        at += cut
        if at >= len(rows):
            break
    wanted = sorted(rows.tolist(), key=lambda row: (row[3], row[1]))
    if distinct:
        wanted = list({row[8]: row for row in reversed(wanted)}.values())
        wanted.sort(key=lambda row: (row[3], row[1]))
    assert [row[1] for row in low.rows().tolist()] == [row[1] for row in wanted[:limit]]


def test_a_screener_of_distances_to_the_hull_gives_both_columns(campaign, tmp_path):
    trained = model.load(campaign.folder / "screener" / "model.pt")
    energies = campaign.run(name="energies", e_above_hull_cutoff=1e3).to_pylist()
    trained.target = "e_above_hull"
    trained.save(tmp_path / "screener" / "model.pt")
    out = tmp_path / "out.parquet"
    screen.run(
        ScreenSettings(
            elements=ELEMENTS, screening=Screening(e_above_hull_cutoff=1e3, control_share=0.1), seed=5
        ),
        campaign.folder / "prototypes.parquet", tmp_path / "screener", campaign.folder / "hull.parquet", 0, out,
    )  # fmt: skip
    distances = tables.read_rows(out, "screen")
    assert len(distances) == len(energies) == campaign.size
    for distance, energy in zip(distances, energies, strict=True):
        assert distance["candidate_id"] == energy["candidate_id"]
        # What the network says is the distance now; the hull between the two columns is the same.
        said = energy["predicted_formation_energy_per_atom"]
        assert distance["predicted_e_above_hull"] == pytest.approx(said, abs=1e-9)
        hull = said - energy["predicted_e_above_hull"]
        assert distance["predicted_formation_energy_per_atom"] == pytest.approx(said + hull, abs=1e-9)


def test_a_distance_without_references_is_no_formation_energy(tmp_path):
    campaign = Campaign(tmp_path, references=tuple(symbol for symbol in ELEMENTS if symbol != "Fe"))
    trained = model.load(tmp_path / "screener" / "model.pt")
    trained.target = "e_above_hull"
    trained.save(tmp_path / "screener" / "model.pt")
    with pytest.warns(UserWarning, match="no elemental reference for Fe"):
        table = campaign.run(e_above_hull_cutoff=1e3)
    iron = [row for row in table.to_pylist() if row["species"] == ["Fe"]]
    assert len(iron) == 2
    for name in ("predicted_formation_energy_per_atom", "predicted_e_above_hull"):
        assert all(row[name] is None for row in iron)


def test_the_control_is_drawn_whatever_is_predicted(campaign):
    loose = campaign.run(e_above_hull_cutoff=1e3, control_share=0.3)
    strict = campaign.run(e_above_hull_cutoff=-1e3, control_share=0.3)
    assert strict.equals(loose.filter(loose["is_control"]))
    assert 0.15 < strict.num_rows / campaign.size < 0.45
    assert campaign.run(e_above_hull_cutoff=-1e3, control_share=0.3, seed=6) != strict


def test_a_control_cut_by_the_limit_is_still_unbiased(campaign):
    table = campaign.run(e_above_hull_cutoff=1e3, control_share=1.0, keep_per_shard=10)
    assert table["is_control"].to_numpy(zero_copy_only=False).sum() == 10


def test_candidates_that_cannot_be_placed_are_left_out_but_for_elements(tmp_path):
    campaign = Campaign(tmp_path, references=tuple(symbol for symbol in ELEMENTS if symbol != "Fe"))
    with pytest.warns(UserWarning, match="no elemental reference for Fe"):
        table = campaign.run(e_above_hull_cutoff=1e3)
    with_iron = [row for row in table.to_pylist() if "Fe" in row["species"]]
    assert {tuple(row["species"]) for row in with_iron} == {("Fe",)}
    assert len(with_iron) == 2
    assert all(row["predicted_e_above_hull"] is None and not row["is_control"] for row in with_iron)


def test_a_hull_without_entries_leaves_elements_alone(tmp_path):
    campaign = Campaign(tmp_path, references=())
    with pytest.warns(UserWarning, match="no elemental reference"):
        table = campaign.run()
    assert table.num_rows == 2 * len(ELEMENTS)


def test_a_screener_that_is_absent_is_an_error(campaign, tmp_path):
    with pytest.raises(ModelError, match="no such model file"):
        screen.run(
            ScreenSettings(elements=ELEMENTS, screening=Screening(), seed=0),
            campaign.folder / "prototypes.parquet", tmp_path, campaign.folder / "hull.parquet", 0, tmp_path / "out",
        )  # fmt: skip


def test_draws_are_uniform_and_depend_on_everything():
    rows = np.arange(20_000)[:, None] + np.array([[0, 7]])
    one = draws.uniform(1, "a", rows)
    assert one.min() >= 0
    assert one.max() < 1
    np.testing.assert_allclose(np.histogram(one, bins=10, range=(0, 1))[0] / 20_000, 0.1, atol=0.01)
    for other in (
        draws.uniform(2, "a", rows),
        draws.uniform(1, "b", rows),
        draws.uniform(1, "a", rows[:, ::-1]),
    ):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.03
    np.testing.assert_array_equal(draws.uniform(1, "a", rows[::-1])[::-1], one)
