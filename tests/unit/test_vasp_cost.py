"""What a campaign with VASP will cost, before and after some of it is done; and the campaign that the docs start from."""

from pathlib import Path

import pytest

from hullforge import check, config
from hullforge.dft import protocol
from hullforge.dft.engines import vasp_cost
from hullforge.store import ids, tables
from hullforge.store.structures import composition_columns

EXAMPLE = Path(__file__).parents[2] / "config" / "campaigns" / "vasp.yaml"
ROCKSALT = {
    "cell": [0, 2.1, 2.1, 2.1, 0, 2.1, 2.1, 2.1, 0],
    "positions": [[0, 0, 0], [2.1, 2.1, 2.1]],
    "pbc": [True] * 3,
}


@pytest.fixture
def campaign(tmp_path):
    data = {
        "campaign": "c",
        "output": str(tmp_path),
        "elements": ["Li", "Mg", "O", "F"],
        "engine": {"name": "vasp", "version": "6.4.3"},
        "execution": {"command": ["ls"], "potcars": "spec"},
        "protocol": "alexandria",
        "functionals": ["PBE", "SCAN"],
        "promotion": {"max_structures": 15},
        "rounds": [{"budget": 10}, {"budget": 20}],
    }
    return config.load(data)


def structure(numbers):
    cell = ids.structure_id(numbers, ROCKSALT["cell"], ROCKSALT["positions"], ROCKSALT["pbc"])
    return {
        "numbers": list(numbers),
        "structure_id": cell,
        "volume": 18.5,
        **ROCKSALT,
        **composition_columns(numbers),
    }


def test_before_anything_is_known_there_are_counts_alone(campaign):
    pbe, scan = vasp_cost.estimate(campaign)
    assert (pbe.calculations, pbe.steps, pbe.electrons, pbe.core_hours) == (30, 3, None, None)
    # 10 of round 0, all of which may go on, and 15 of round 1.
    assert (scan.calculations, scan.steps) == (25, 1)
    assert "no structure is known yet" in vasp_cost.render([pbe, scan])


def test_core_hours_follow_those_of_what_is_done(campaign, monkeypatch):
    theory = protocol.load("alexandria").theory_id("PBE", campaign.engine)
    lithium_fluoride, magnesia = structure((3, 9)), structure((12, 8))
    done = [(lithium_fluoride, 3600.0), (lithium_fluoride, 7200.0)]
    monkeypatch.setattr(
        vasp_cost, "_done", lambda _, functional, name: done if (functional, name) == ("PBE", theory) else []
    )
    monkeypatch.setattr(vasp_cost, "_starts", lambda _: [magnesia, magnesia])
    pbe, scan = vasp_cost.estimate(campaign)
    # LiF has 3 + 7 electrons and MgO 8 + 6, both on 8 x 8 x 8 points; 1.5 h a LiF, times (10^2 + 14^2) / 2 / 10^2.
    assert (pbe.done, pbe.structures, pbe.electrons, pbe.kpoints) == (2, 4, 12.0, 512.0)
    assert pbe.core_hours == pytest.approx(28 * 1.5 * (100 + 196) / 200)
    assert scan.core_hours is None


def test_what_is_done_is_read_from_batches_and_rounds_once(campaign, monkeypatch):
    batch = campaign.folder / "round-000/dft/PBE-t1-x/batch-0/calculations.parquet"
    closed = campaign.folder / "round-000/calculations.parquet"
    for path in (batch, closed):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.with_name("costs.parquet").touch()
    row = {**structure((3, 9)), "calculation_id": "c0", "functional": "PBE", "theory_id": "t1-x"}
    other = {**row, "calculation_id": "c1", "theory_id": "t1-other"}
    answers = {"calculations": [row, other], "costs": [{"calculation_id": "c0", "cpu_time_s": 5.0}]}
    monkeypatch.setattr(vasp_cost, "_rows", lambda _path, name, _columns: answers[name])
    found = list(vasp_cost._done(campaign.folder, "PBE", "t1-x"))
    assert [(entry["calculation_id"], seconds) for entry, seconds in found] == [("c0", 5.0)]


def test_the_check_of_a_campaign_says_what_it_will_cost(campaign):
    check.check_config(campaign)
    check.check_machine(campaign.model_copy(update={"prerelax": config.Prerelax(backend="none")}))
    text = "\n".join(check.remarks(campaign))
    assert "PBE         <= 30" in text


def test_the_example_campaign_is_one():
    example = config.load(EXAMPLE)
    check.check_config(example)
    assert example.execution.launcher[-1] == "{cores}"
    assert example.rounds[0].budget == 100


def test_execution_and_step_counts_are_no_part_of_the_theory(campaign):
    theory = protocol.load("alexandria")
    assert "execution" not in str(theory.theory("PBE", campaign.engine))
    data = theory.model_dump()
    data["engines"]["vasp"]["functionals"]["PBE"]["steps"]["relax1"]["limits"]["max_ionic_steps"] = 99
    longer = protocol.Protocol.model_validate(data)
    assert longer.theory_id("PBE", campaign.engine) == theory.theory_id("PBE", campaign.engine)


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ("incar", "ISMEAR", 0),
        ("potcars", "family", "PBE_54"),
        ("low_dimensional", "vacuum", 20.0),
        ("base_digest", "MPRelaxSet", "s1-00000000"),
    ],
)
def test_whatever_fixes_an_energy_is_part_of_its_own_theory_and_no_other(campaign, place, key, value):
    theory = protocol.load("alexandria")
    data = theory.model_dump()
    data["engines"]["vasp"]["functionals"]["PBE"].setdefault(place, {})[key] = value
    changed = protocol.Protocol.model_validate(data)
    assert changed.theory_id("PBE", campaign.engine) != theory.theory_id("PBE", campaign.engine)
    assert changed.theory_id("SCAN", campaign.engine) == theory.theory_id("SCAN", campaign.engine)


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("calculations", (*vasp_cost.STRUCTURE, "theory_id")),
        ("costs", ("calculation_id", "cpu_time_s")),
        ("prerelax", vasp_cost.STRUCTURE[2:]),
    ],
)
def test_the_columns_that_are_read_are_the_tables_own(tmp_path, name, columns):
    tables.write(tmp_path / "t.parquet", name, [])
    # Not through _rows: there a column that isn't known would pass for a table that isn't there.
    assert tables.read_rows(tmp_path / "t.parquet", name, columns) == []
