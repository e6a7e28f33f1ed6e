"""Promotion: near the hull, of this round, lowest first, elemental references always, batches alike."""

import pytest
import synthetic_campaign

from hullforge.config import Promotion, PromotionSettings
from hullforge.errors import TableError
from hullforge.store import tables
from hullforge.thermo import promote


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    return synthetic_campaign.make(synthetic_campaign.campaign(tmp_path_factory.mktemp("campaign")))


def run(rounds, tmp_path, round_=1, limit=0.1, most=1000, batches=1):
    settings = PromotionSettings(
        promotion=Promotion(e_above_hull=limit, max_structures=most), round=round_, batches=batches
    )
    folder = rounds[round_]
    promote.run(
        settings, folder / "hull" / "PBE.parquet", [folder / "calculations.parquet"], tmp_path / "p.parquet"
    )
    return tables.read_rows(tmp_path / "p.parquet", "promotion")


def formulas(rows):
    return sorted(row["chemical_formula_reduced"] for row in rows)


def test_only_this_round_goes_on(rounds, tmp_path):
    assert formulas(run(rounds, tmp_path, round_=0)) == ["Al", "AlCu", "Cu", "Ni"]
    assert formulas(run(rounds, tmp_path, round_=1)) == ["AlNi", "CuNi"]


def test_what_lies_above_the_limit_or_was_not_placed_stays(rounds, tmp_path):
    rows = tables.read_rows(rounds[1] / "hull" / "PBE.parquet", "hull")
    above = {r["chemical_formula_reduced"]: r["e_above_hull"] for r in rows}
    assert above["AgCu"] is None
    assert above["CuNi"] > 0
    assert formulas(run(rounds, tmp_path, limit=above["CuNi"] / 2)) == ["AlNi"]
    assert formulas(run(rounds, tmp_path, limit=100)) == ["AlNi", "CuNi"]


def test_the_lowest_come_first_when_there_is_room_for_few(rounds, tmp_path):
    assert formulas(run(rounds, tmp_path, limit=100, most=1)) == ["AlNi"]


def test_elemental_references_pass_even_without_room(rounds, tmp_path):
    assert formulas(run(rounds, tmp_path, round_=0, most=0)) == ["Al", "Cu", "Ni"]


def test_an_element_above_its_hull_passes_only_within_the_limit():
    row = {"round": 0, "hull_version": 0, "hull_status": "ok", "nelements": 1, "elements": ["Al"]}
    hull = [
        row | {"calculation_id": "a", "e_above_hull": 0.0, "is_on_hull": True},
        row | {"calculation_id": "b", "e_above_hull": 0.3, "is_on_hull": False},
    ]
    settings = PromotionSettings(promotion=Promotion(), round=0, batches=1)
    assert [r["calculation_id"] for r in promote.promoted(settings, hull)] == ["a"]


def test_the_row_is_the_final_geometry_of_its_calculation(rounds, tmp_path):
    calculations = tables.read_rows(rounds[1] / "calculations.parquet", "calculations")
    by_id = {row["calculation_id"]: row for row in calculations}
    for row in run(rounds, tmp_path):
        parent = by_id[row["parent_calculation_id"]]
        for column in ("structure_id", "candidate_id", "positions", "cell", "round"):
            assert row[column] == parent[column]


def test_batches_are_alike_and_all_used(rounds, tmp_path):
    rows = run(rounds, tmp_path, round_=0, batches=3)
    sizes = [sum(row["batch"] == b for row in rows) for b in range(3)]
    assert sorted(sizes) == [1, 1, 2]
    assert rows[0]["chemical_formula_reduced"] == "AlCu"


def test_a_hull_of_another_round_is_refused(rounds, tmp_path):
    settings = PromotionSettings(promotion=Promotion(), round=1, batches=1)
    with pytest.raises(TableError, match="the hull is of round 0, not of round 1"):
        promote.run(settings, rounds[0] / "hull" / "PBE.parquet", [], tmp_path / "p.parquet")


def test_a_structure_without_calculation_is_named(rounds, tmp_path):
    settings = PromotionSettings(promotion=Promotion(), round=1, batches=1)
    with pytest.raises(TableError, match="not among the round's calculations; first: k1-"):
        promote.run(settings, rounds[1] / "hull" / "PBE.parquet", [], tmp_path / "p.parquet")


def test_an_empty_hull_promotes_nothing(tmp_path):
    tables.write(tmp_path / "h.parquet", "hull", [])
    settings = PromotionSettings(promotion=Promotion(), round=0, batches=2)
    promote.run(settings, tmp_path / "h.parquet", [], tmp_path / "p.parquet")
    assert tables.read_rows(tmp_path / "p.parquet", "promotion") == []
