"""The seven properties that ALEXANDRIA reports of each crystal, in one row per calculation.

Comes in: calculations of one functional and the hull that decides with it. Goes out: the table `properties`, each
absent value with its reason, and the file of definitions. Everything follows from the two tables, so that `problems`
can compute it again. Computes no energies and no hulls.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hullforge.store import definitions, tables
from hullforge.store.columns import NULL_REASONS
from hullforge.store.schema import TABLES
from hullforge.store.vocabulary import HullStatus, NullReason

#: Columns of `calculations` and `hull` that properties follow from.
CALCULATIONS = (
    "calculation_id", "structure_id", "candidate_id", "functional", "theory_id", "nsites", "nelements", "chemsys",
    "chemical_formula_reduced", "volume", "pbc", "energy", "energy_per_atom", "total_magnetization", "band_gap",
    "dos_at_fermi",
)  # fmt: skip
HULL = (
    "calculation_id", "correction_scheme", "hull_status", "formation_energy_per_atom", "e_above_hull",
)  # fmt: skip


def table(calculations: pa.Table, hull: pa.Table) -> pa.Table:
    """Make the table `properties` of calculations of one functional and its deciding hull (columns as above)."""
    calculations, hull = (
        t.select(list(names)).combine_chunks() for t, names in ((calculations, CALCULATIONS), (hull, HULL))
    )
    rows = pc.index_in(calculations["calculation_id"], hull["calculation_id"].combine_chunks())
    columns = {name: calculations[name] for name in CALCULATIONS}
    for name in HULL[1:]:
        columns[name] = hull[name].take(rows)
    periodic = pc.list_parent_indices(calculations["pbc"]), pc.list_flatten(calculations["pbc"])
    bulk = np.ones(calculations.num_rows, bool)
    np.logical_and.at(bulk, periodic[0].to_numpy(), periodic[1].to_numpy(zero_copy_only=False))
    volume = pc.if_else(pa.array(bulk), calculations["volume"], pa.scalar(None, pa.float64()))
    columns["volume_per_atom"] = pc.divide(volume, pc.cast(calculations["nsites"], pa.float64()))
    columns["magnetization_per_volume"] = pc.divide(pc.abs(calculations["total_magnetization"]), volume)
    columns["null_reasons"] = pa.array(_reasons(columns, bulk), NULL_REASONS)
    names = [column.name for column in TABLES["properties"].columns]
    return tables.conform("properties", pa.table({name: columns[name] for name in names}))


def _reasons(columns: dict[str, Any], bulk: np.ndarray[Any, Any]) -> list[list[dict[str, str]]]:
    """Give for each row the absent properties with the code of the reason."""
    names = ("formation_energy_per_atom", "e_above_hull", "volume_per_atom", "magnetization_per_volume",
             "band_gap", "dos_at_fermi")  # fmt: skip
    absent = {name: ~columns[name].is_valid().to_numpy(zero_copy_only=False) for name in names}
    statuses = columns["hull_status"].to_pylist()
    imported = ~columns["candidate_id"].is_valid().to_numpy(zero_copy_only=False)
    out = []
    for row, status in enumerate(statuses):
        told = NullReason.NOT_TOLD if imported[row] else NullReason.NOT_COMPUTED
        reasons = {
            "formation_energy_per_atom": status or NullReason.NOT_IN_HULL,
            "e_above_hull": status or NullReason.NOT_IN_HULL,
            "volume_per_atom": NullReason.NOT_PERIODIC,
            "magnetization_per_volume": told if bulk[row] else NullReason.NOT_PERIODIC,
            "band_gap": told,
            "dos_at_fermi": told,
        }
        out.append([{"property": name, "reason": str(reasons[name])} for name in names if absent[name][row]])
    return out


def problems(published: pa.Table, calculations: pa.Table, hull: pa.Table) -> Iterator[str]:
    """Give what differs between a published table and the one that follows from its release's other tables."""
    wanted = table(calculations, hull)
    if published.num_rows != wanted.num_rows:
        yield f"{published.num_rows} rows, there are {wanted.num_rows} calculations"
        return
    for name in wanted.column_names:
        if published[name].combine_chunks().equals(wanted[name].combine_chunks()):
            continue
        pairs = zip(
            *(
                t[column].to_pylist()
                for t, column in ((wanted, "calculation_id"), (published, name), (wanted, name))
            ),
            strict=True,
        )
        for calculation, found, value in pairs:
            if found != value:
                yield f"calculation_id {calculation}: {name} is {found}, the other tables give {value}"


def text() -> str:
    """Give the file of definitions."""
    null_reasons = {
        reason.value: reason.description
        for reason in (*NullReason, *HullStatus)
        if reason is not HullStatus.OK
    }
    columns = {name: [column.name for column in TABLES[name].columns] for name in definitions.TABLES}
    return json.dumps(definitions.document(columns, null_reasons), indent=1) + "\n"


def units(text: str) -> dict[str, str]:
    """Give the unit of each property by its id, from a file of definitions; raises what bad JSON raises."""
    document = json.loads(text)
    defined = {definition["property-id"] for definition in document["definitions"]}
    return {
        entry["property-id"]: entry["unit"]
        for entry in document["properties"].values()
        if entry["property-id"] in defined
    }


def undefined(schema: pa.Schema, known: dict[str, str]) -> Iterator[str]:
    """Give the columns whose property has no definition, or one with another unit."""
    for field in schema:
        name = ((field.metadata or {}).get(b"property") or b"").decode()
        if not name:
            continue
        unit = (field.metadata.get(b"unit") or b"").decode()
        if name not in known:
            yield f"column {field.name} holds {name}, which property_definitions.json does not define"
        elif known[name] != unit:
            yield f"column {field.name} has the unit {unit}, property_definitions.json says {known[name]}"
