"""Screening: what survives does not depend on how the ranks were cut."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from ase.build import bulk

from hullforge.config import Screening, ScreenSettings
from hullforge.crystals import decorations
from hullforge.crystals.prototypes import compile_structure
from hullforge.errors import ModelError
from hullforge.screening import draws, model, screen
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
        model.Screener(members, model.Normalisation(0.1, 5.0), ELEMENTS).save(
            folder / "screener" / "model.pt"
        )

    def run(self, shard: int = 0, name: str = "out", seed: int = 5, **screening) -> pa.Table:
        screening = {"e_above_hull_cutoff": 0.2, "control_share": 0.1} | screening
        out = self.folder / f"{name}-{shard}.parquet"
        screen.run(
            ScreenSettings(elements=ELEMENTS, screening=Screening(**screening), seed=seed),
            self.folder / "prototypes.parquet", self.folder / "screener", self.folder / "hull.parquet", shard, out,
        )  # fmt: skip
        return tables.read(out, "screen")

    @property
    def size(self) -> int:
        return sum(decorations.count(p, len(ELEMENTS)) for p in self.known)


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
    scorer = screen.Scorer(campaign.known, ELEMENTS, screener, hull, model.GraphTable(campaign.known), 5)
    for index, prototype in enumerate(campaign.known):
        count = decorations.count(prototype, len(ELEMENTS))
        with model.threads(1):
            whole = np.concatenate(list(scorer.score(index, 0, count)))
            for step in (1, 7, 40):
                pieces = [
                    rows
                    for at in range(0, count, step)
                    for rows in scorer.score(index, at, min(at + step, count))
                ]
                assert np.concatenate(pieces).tobytes() == whole.tobytes()


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
        assert energy == pytest.approx(predicted.formation_energy_per_atom[0], abs=1e-5)
        assert row["uncertainty"] == pytest.approx(predicted.uncertainty[0], rel=1e-4)
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
