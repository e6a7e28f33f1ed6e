"""Curation of a release: each rule has its reason, each frame that is left out its row, and pieces don't matter."""

import json
from itertools import pairwise

import numpy as np
import pytest
import synthetic_campaign
from pydantic import ValidationError

from hullforge.config import Curation, Split
from hullforge.crystals import curate, curation
from hullforge.release import build, layout
from hullforge.release.verify import verify
from hullforge.store import streams, tables


def frame(number=0, **changes):
    """A sound frame of two atoms."""
    row = {
        "calculation_id": f"k1-{number // 4}", "functional": "PBE", "theory_id": "t1", "step": number % 4,
        "protocol_step": "relax1", "numbers": [11, 17], "cell": [4.0 + 0.01 * number, 0, 0, 0, 4, 0, 0, 0, 4],
        "positions": [[0.0, 0, 0], [2, 2, 2]], "pbc": [True] * 3, "energy": -6.0 - number, "free_energy": None,
        "electronic_converged": True, "forces": [[0.0, 0, 0.1]] * 2, "stress": [0.01] * 6, "magmoms": None,
    } | changes  # fmt: skip
    chemistry = {"nelements": 2, "chemsys": "Cl-Na", "chemical_formula_reduced": "ClNa"}
    return {"frame_id": f"{row['calculation_id']}-{row['step']}"} | chemistry | row


def frames(*rows):
    return tables.from_rows("frames", rows)


def calculations(*names, **changes):
    import pyarrow as pa

    rows = [
        {
            "calculation_id": name,
            "round": 0,
            "nelements": 2,
            "chemsys": "Cl-Na",
            "protocol_drift": [],
            "chemical_formula_reduced": "ClNa",
        }
        | frame()
        for name in names
    ]
    return pa.Table.from_pylist(
        [row | {"calculation_id": n} | changes for n, row in zip(names, rows, strict=True)]
    )


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({"electronic_converged": False}, "electronic_not_converged", "did not converge"),
        ({"energy": 200.0}, "energy_out_of_bounds", r"100 eV/atom; -200 to 50"),
        ({"energy": -500.0}, "energy_out_of_bounds", r"-250 eV/atom"),
        ({"forces": [[0, 0, 0], [0, -50.1, 0]]}, "force_out_of_bounds", r"50\.1 eV/angstrom; at most 50"),
        ({"stress": [0, 0, 0, 0, -0.6, 0]}, "stress_out_of_bounds", r"0\.6 eV/angstrom\^3; at most 0\.5"),
        ({"positions": [[0, 0, 0], [0.5, 0, 0]]}, "atoms_too_close", "of the sum of the covalent radii; 0.5"),
        ({"cell": [9, 0, 0, 0, 9, 0, 0, 0, 9], "positions": [[0, 0, 0], [4.5] * 3]}, "isolated_atom", "7.794 angstrom; 6 is"),
        ({"forces": [[0, 0, float("nan")]] * 2}, "not_finite", "force"),
        ({"energy": float("inf")}, "not_finite", "energy"),
    ],
)  # fmt: skip
def test_a_frame_that_breaks_a_rule_is_a_row_with_its_reason(changes, reason, message):
    import re

    table = frames(frame(0), frame(1, **changes), frame(2))
    ((kept, left_out),) = curate.frames([table], calculations("k1-0"), Curation())
    assert kept["frame_id"].to_pylist() == ["k1-0-0", "k1-0-2"]
    (row,) = left_out.to_pylist()
    assert (row["frame_id"], row["reason"]) == ("k1-0-1", reason)
    assert re.search(message, row["message"]), row["message"]


def test_every_limit_can_be_switched_off():
    wild = frame(
        1, electronic_converged=False, energy=900.0, forces=[[99.0, 0, 0]] * 2, stress=[9.0] * 6, positions=[[0.0] * 3] * 2
    )  # fmt: skip
    rules = Curation(
        electronic_convergence=False, energy_per_atom=None, max_force=None, max_stress=None,
        min_distance_ratio=None, isolated_cutoff=None,
    )  # fmt: skip
    assert curation.rejections(frames(frame(0), wild), rules) == [None, None]


def test_frames_without_forces_or_stress_are_fit():
    table = frames(frame(0, forces=None, stress=None, electronic_converged=None), frame(1))
    assert curation.rejections(table, Curation()) == [None, None]


def test_frames_of_calculations_that_drifted_are_left_out():
    table = frames(frame(0))
    drifted = calculations("k1-0", protocol_drift=["relax1:encut=400"])
    ((kept, left_out),) = curate.frames([table], drifted, Curation())
    assert kept.num_rows == 0
    assert left_out["reason"].to_pylist() == ["protocol_drift"]
    ((kept, _),) = curate.frames([table], drifted, Curation(protocol_drift=False))
    assert kept.num_rows == 1


def test_a_geometry_that_comes_again_is_left_out_also_in_another_piece():
    first, again = frame(0), frame(4, cell=frame(0)["cell"])
    static = frame(5, cell=frame(0)["cell"], protocol_step="static")
    pieces = [frames(first), frames(again, static)]
    found = list(curate.frames(pieces, calculations("k1-0", "k1-1"), Curation()))
    assert [left_out["frame_id"].to_pylist() for _, left_out in found] == [[], ["k1-1-0"]]
    assert found[1][0]["protocol_step"].to_pylist() == ["static"]


def test_calculations_that_ended_in_one_structure_keep_the_first_ones_frames():
    moved = frame(0, positions=[[1.0, 1, 1], [3, 3, 3.01]])
    keys = ("numbers", "cell", "positions", "pbc")
    table = tables.from_rows("frames", [frame(0), frame(4)])
    import pyarrow as pa

    both = pa.concat_tables(
        [calculations("k1-0"), calculations("k1-1", **{key: moved[key] for key in keys})],
        promote_options="permissive",
    )
    ((kept, left_out),) = curate.frames([table], both, Curation(near_duplicates=True))
    assert kept["calculation_id"].to_pylist() == ["k1-0"]
    assert left_out.to_pylist()[0]["message"] == "the same structure as calculation k1-0"


def test_a_relaxation_is_thinned_step_by_step_of_the_protocol():
    rows = [frame(n, calculation_id="k1-0", step=n, energy=-6.0 - 1e-5 * n) for n in range(9)]
    rows += [frame(n, calculation_id="k1-0", step=n, energy=-7.0, protocol_step="static") for n in (9, 10)]
    ((kept, left_out),) = curate.frames(
        [frames(*rows)], calculations("k1-0"), Curation(thin_energy_per_atom=0.001)
    )
    steps = kept["step"].to_pylist()
    assert {0, 8, 9, 10} <= set(steps)
    assert len(steps) == 5
    assert set(left_out["reason"].to_pylist()) == {"thinned"}


def test_pieces_of_any_size_from_files_in_any_order_give_the_same_rows(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    table = frames(*[frame(n) for n in range(200)])
    order = table["calculation_id"].unique()
    rng = np.random.default_rng(1)
    shuffled = table.take(rng.permutation(200))
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path, part in zip(paths, (shuffled.slice(0, 30), shuffled.slice(30)), strict=True):
        pq.write_table(part, path, row_group_size=7)
    whole = list(streams.sorted_pieces(paths, "frames", "calculation_id", order, tmp_path))
    assert len(whole) == 1
    assert whole[0].equals(table)
    monkeypatch.setattr(streams, "PIECE", 33)
    pieces = list(streams.sorted_pieces(paths, "frames", "calculation_id", order, tmp_path))
    assert len(pieces) > 4
    seen = [set(piece["calculation_id"].to_pylist()) for piece in pieces]
    assert not any(a & b for a, b in pairwise(seen))
    import pyarrow as pa

    assert pa.concat_tables(pieces).equals(table)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".pieces")] == []


def test_a_curated_release_counts_what_it_left_out_and_verifies(tmp_path):
    settings = synthetic_campaign.campaign(
        tmp_path,
        release={"curation": {"energy_per_atom": [-5.0, 0.0], "split": {"test": 0.3, "validation": 0.3}}},
    )
    build.run(settings, synthetic_campaign.make(settings), tmp_path / "out")
    assert verify(tmp_path / "out") == []
    rejections = tables.read_rows(tmp_path / "out" / layout.table("rejections"), "rejections")
    assert {row["reason"] for row in rejections} == {"energy_out_of_bounds"}
    data = json.loads((tmp_path / "out" / layout.DATASET).read_text())
    assert data["counts"]["rejections"] == len(rejections) > 0
    kept = 0
    sides: dict[str, set] = {}
    for functional in ("PBE", "SCAN"):
        kept += data["by_functional"][functional]["frames"]
        for row in tables.read_rows(tmp_path / "out" / layout.table("frames", functional), "frames"):
            sides.setdefault(row["structure_group"], set()).add(row["split"])
    assert kept + len(rejections) == 22
    assert all(len(found) == 1 for found in sides.values())
    assert len(set.union(*sides.values())) > 1
    assert "energy_out_of_bounds" in (tmp_path / "out" / layout.CARD).read_text()


def test_impossible_rules_are_refused():
    with pytest.raises(ValidationError, match="lower limit first"):
        Curation(energy_per_atom=(0, -20))
    with pytest.raises(ValidationError, match="at most 1"):
        Split(validation=0.6, test=0.6)


def test_rows_of_older_rounds_lack_the_split():
    table = frames(frame(0))
    assert table["split"].to_pylist() == [None]
    old = table.drop_columns(["split", "structure_group"])
    assert tables.conform("frames", old).equals(table)
