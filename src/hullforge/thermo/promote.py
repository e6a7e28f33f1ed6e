"""Which structures go on from the first functional to the next ones: the stage `promote` of a round.

Comes in: the first functional's hull after this round and the round's calculations. Goes out: the table
`promotion` with the final geometries of what lies near the hull, split in balanced batches. Decides by distance
alone; elemental references always pass, since without them the next functionals have no formation energies.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hullforge.config import PromotionSettings
from hullforge.errors import TableError
from hullforge.store import tables
from hullforge.store.schema import TABLES
from hullforge.store.vocabulary import HullStatus

Row = dict[str, Any]


def run(settings: PromotionSettings, hull: Path, calculations: list[Path], out: Path) -> None:
    """Write the table `promotion` of round `settings.round` to `out`.

    Raises `TableError` when the hull is of another round, or a structure of it isn't among the calculations.
    """
    chosen = promoted(settings, tables.read_rows(hull, "hull"))
    geometries = _geometries([row["calculation_id"] for row in chosen], calculations)
    rows = [_promotion_row(row, geometries) for row in chosen]
    # Dealt from large to small, so that no batch gets all the large cells.
    rows.sort(key=lambda row: (-row["nsites"], row["candidate_id"]))
    for number, row in enumerate(rows):
        row["batch"] = number % settings.batches
    tables.write(out, "promotion", rows)


def promoted(settings: PromotionSettings, hull: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Give the rows of `hull` that go on, lowest first.

    Of this round's structures: the lowest of each element that is a reference, then those within
    `settings.promotion.e_above_hull` (eV/atom), `max_structures` in all, references among them.
    """
    stale = {row["hull_version"] for row in hull} - {settings.round}
    if stale:
        raise TableError(f"the hull is of round {min(stale)}, not of round {settings.round}")
    candidates = sorted(
        (dict(row) for row in hull if row["round"] == settings.round and row["hull_status"] == HullStatus.OK),
        key=lambda row: (row["e_above_hull"], row["calculation_id"]),
    )
    references: dict[str, Row] = {}
    for row in candidates:
        if row["nelements"] == 1 and row["is_on_hull"]:
            references.setdefault(row["elements"][0], row)
    ids = {row["calculation_id"] for row in references.values()}
    others = [
        row
        for row in candidates
        if row["calculation_id"] not in ids and row["e_above_hull"] <= settings.promotion.e_above_hull
    ]
    return [*references.values(), *others[: max(0, settings.promotion.max_structures - len(references))]]


def _geometries(ids: Sequence[str], calculations: Sequence[Path]) -> dict[str, Row]:
    """Read the rows of these calculations."""
    wanted = pa.array(list(ids), pa.string())
    columns = [c.name for c in TABLES["calculations"].columns if c.name in _SHARED]
    found: dict[str, Row] = {}
    for path in calculations:
        table = tables.read(path, "calculations", columns)
        for row in table.filter(pc.is_in(table["calculation_id"], wanted)).to_pylist():
            found[row["calculation_id"]] = row
    missing = sorted(set(ids) - set(found))
    if missing:
        raise TableError(
            f"{len(missing)} structures of the hull are not among the round's calculations; first: {missing[0]}"
        )
    return found


_SHARED = {column.name for column in TABLES["promotion"].columns} | {"calculation_id"}


def _promotion_row(row: Mapping[str, Any], geometries: Mapping[str, Row]) -> Row:
    calculation = geometries[row["calculation_id"]]
    return {key: value for key, value in calculation.items() if key != "calculation_id"} | {
        "parent_calculation_id": row["calculation_id"],
        "e_above_hull": row["e_above_hull"],
        "batch": 0,
    }
