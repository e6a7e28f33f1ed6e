"""Prototypes that earlier rounds found: relaxed structures near the hull that no known prototype stands for.

Comes in: the table of prototypes of the round before, the calculations since that table was made, and the hull
of the first functional. Goes out: the table of the next round, with every prototype of the one before as it was,
and the table `rejects` of structures that no prototype could be made of. Two relaxed structures that compile to
one id are one prototype, that of the smallest calculation id. Never judges energies: the hull does.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from hullforge.config import HarvestSettings
from hullforge.crystals import prototypes
from hullforge.crystals.sources import Entry, Reject
from hullforge.errors import PrototypeError
from hullforge.store import tables
from hullforge.store.structures import atoms_from_row

log = logging.getLogger(__name__)

COLUMNS = ("calculation_id", "round", "chemical_formula_reduced", "numbers", "cell", "positions", "pbc")


def run(
    settings: HarvestSettings,
    before: Path,
    calculations: Sequence[Path],
    hull: Path,
    out: Path,
    rejects: Path,
) -> None:
    """Write the table of prototypes `before` with those found in `calculations` added to `out`.

    A structure counts when it lies within `e_above_hull` (eV/atom) of `hull`, passes the filters of the
    configuration, and has a protostructure label that the table lacks. What can't be compiled goes to `rejects`.
    The same tables give the same bytes. Raises `TableError` for tables that are absent or broken.
    """
    known = prototypes.load(before)
    labels = {prototype.protostructure for prototype in known}
    found = {prototype.prototype_id: prototype for prototype in known}
    wanted = settings.prototypes.model_copy(update={"symprec": settings.harvest.symprec})
    rejected: list[Reject] = []
    rows = _near(calculations, hull, settings.harvest.e_above_hull).to_pylist()
    for row in sorted(rows, key=lambda row: row["calculation_id"]):
        name = f"{row['chemical_formula_reduced']} ({row['calculation_id']})"
        entry = Entry(name, f"round {row['round']}, {row['calculation_id']}", atoms_from_row(row))
        try:
            prototype = prototypes.compile_entry(entry, wanted)
        except PrototypeError as error:
            rejected.append(Reject(entry.source, name, str(error)))
            continue
        if prototype is None or prototype.protostructure in labels:
            continue
        if not prototypes.keys(entry, prototype) & set(wanted.exclude):
            found.setdefault(prototype.prototype_id, prototype)
    log.info(
        "%d new prototypes from %d structures near the hull; %d with those known before",
        len(found) - len(known),
        len(rows),
        len(found),
    )
    if rejected:
        log.warning("%d structures near the hull can't be prototypes: see %s", len(rejected), rejects)
    prototypes.write(found.values(), rejected, out, rejects)


def _near(calculations: Sequence[Path], hull: Path, e_above_hull: float) -> pa.Table:
    """Give the geometries of the calculations that the hull places within `e_above_hull`."""
    placed = tables.read(hull, "hull", ["calculation_id", "e_above_hull"])
    # Without a distance (an elemental reference is missing) the comparison is null, and the row is dropped.
    near = placed.filter(pc.less_equal(placed["e_above_hull"], e_above_hull))["calculation_id"]
    parts = [tables.read(path, "calculations", COLUMNS) for path in calculations]
    return pa.concat_tables(
        part.filter(pc.is_in(part["calculation_id"], value_set=near.combine_chunks())) for part in parts
    )
