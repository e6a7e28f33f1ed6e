"""The hull of any files, as a user asks for it: `hullforge hull FILE...`.

Comes in: files with energies, perhaps others to be measured against their hull. Goes out: lines of text (how many
entries, what is on the hull, which references are missing, what was refused and why, the lowest entries), and the
table `placed`. Works on whole columns, so that a million entries take seconds.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from hullforge.errors import TableError
from hullforge.imports import files as readers
from hullforge.imports.columns import Columns
from hullforge.imports.files import Read, Refusal, Scale
from hullforge.store import atomic, tables
from hullforge.store.structures import NUMBERS
from hullforge.store.vocabulary import HullStatus
from hullforge.thermo.build import Built, build, query
from hullforge.thermo.formulas import Formulas, parse
from hullforge.thermo.hull import ON_HULL

_SCALES = {
    Scale.RAW: "total energies without correction",
    Scale.CORRECTED: "corrected energies",
    Scale.FORMATION: "formation energies as published",
}
#: Published distances that differ by more are counted, eV/atom.
_SAME = 1e-3


@dataclass(frozen=True)
class Wish:
    """What the user asks for: energies, theories, columns, and which entries to print."""

    scale: Scale = Scale.AUTO
    any_theory: bool = False
    columns: Columns = field(default_factory=Columns)
    chemsys: str = ""
    rows: int = 20
    theory: str = ""


@dataclass(frozen=True)
class Answer:
    """The table `placed`, sorted by id, and what to print."""

    placed: pa.Table
    lines: list[str]


def answer(paths: list[Path], queried: list[Path], wish: Wish) -> Answer:
    """Make the hull of `paths`; with `queried`, measure these against it instead of listing the hull's own.

    Raises `TableError` for files that can't be read or whose energies don't compare, and when the entries can make
    no hull.
    """
    elements = _system(wish.chemsys)
    given = readers.read(paths, wish.columns).of_theory(wish.theory)
    scale = given.scale(wish.scale)
    entries = given.table(scale, any_theory=wish.any_theory)
    built = build(entries, on_bad="refuse")
    if built.entries.num_rows == 0:
        raise TableError(
            f"{', '.join(map(str, paths))}: of {entries.num_rows} rows none can be placed"
            + _first(given, built)
        )
    lines = _summary(given, built, scale, entries)
    if queried:
        asked = readers.read(queried, wish.columns)
        if not wish.any_theory:
            _same_theory(given, asked, scale)
        placed = _asked(asked, built, scale)
        lines += _query_summary(asked, placed)
        return Answer(placed, lines + _listing(placed, elements, wish.rows, "e_above_hull"))
    placed = _own(built, entries)
    return Answer(
        placed,
        lines
        + _listing(placed, elements, wish.rows, "e_above_hull" if elements else "formation_energy_per_atom"),
    )


def write(path: Path, placed: pa.Table) -> None:
    """Write the table `placed` as Parquet, or as CSV with decompositions as text; whole or not at all.

    Raises `TableError` for another kind of file.
    """
    if path.suffix.lower() == ".parquet":
        tables.write(path, "placed", placed)
        return
    if path.suffix.lower() != ".csv":
        raise TableError(f"--out {path}: '{path.suffix}' is nothing that is written; .csv and .parquet are")
    flat = placed.drop_columns(["chemical_potentials"])
    index = flat.column_names.index("decomposition")
    flat = flat.set_column(index, "decomposition", _texts(placed["decomposition"].combine_chunks()))
    with atomic.atomic_path(path) as temporary:
        pa_csv.write_csv(flat, temporary, pa_csv.WriteOptions(quoting_style="needed"))


# ------------------------------------------------------------------------------------------ tables


def _own(built: Built, entries: pa.Table) -> pa.Table:
    """Give the hull's own entries as the table `placed`."""
    rows = pa.array(built.rows)
    columns = {name: built.entries[name] for name in built.entries.column_names}
    return tables.conform(
        "placed",
        pa.table(
            {
                **columns,
                "formula": entries["formula"].take(rows),
                "energy_per_atom": entries["energy_per_atom"].take(rows),
            }
        ),
    )


def _same_theory(given: Read, asked: Read, scale: Scale) -> None:
    """Raise `TableError` where rows that are asked name another theory than the hull's."""
    of, others = (set(pc.unique(read.theories(scale)).to_pylist()) - {""} for read in (given, asked))
    if of and others - of:
        raise TableError(
            f"the hull is of {', '.join(sorted(of))}, and rows of {', '.join(asked.files)} are of"
            f" {', '.join(sorted(others - of))}; say that you know them to compare: --any-theory"
        )


def _asked(asked: Read, built: Built, scale: Scale) -> pa.Table:
    """Measure rows against a fixed hull; a row that can't be placed says why in its status."""
    # Rows without any correction are taken to be on the hull's scale already.
    bare = scale is Scale.CORRECTED and asked.rows["correction"].null_count == len(asked.rows)
    energies = asked.table(
        Scale.RAW if bare else asked.scale() if scale is Scale.CORRECTED else scale, any_theory=True
    )
    values = energies["energy_per_atom"].to_numpy(zero_copy_only=False).astype(float)
    formulas = parse(energies["formula"])
    good = (formulas.problem == 0)[formulas.code] & np.isfinite(values)
    distance = np.full(len(values), np.nan)
    if good.any():
        distance[good] = query(built, energies["formula"].filter(pa.array(good)), values[good])
    status = np.where(np.isnan(distance), HullStatus.MISSING_REFERENCE.value, HullStatus.OK.value).astype(
        object
    )
    status[~np.isfinite(values)] = "energy_not_finite"
    status[(formulas.problem > 0)[formulas.code]] = "bad_formula"
    count = len(values)
    return tables.conform(
        "placed",
        pa.table(
            {
                "id": pc.fill_null(energies["id"], ""),
                "formula": pc.fill_null(energies["formula"], ""),
                "energy_per_atom": pa.array(values, mask=np.isnan(values)),
                "formation_energy_per_atom": pa.nulls(count, pa.float64()),
                "e_above_hull": pa.array(distance, mask=np.isnan(distance)),
                "is_on_hull": pa.array(np.nan_to_num(distance, nan=1.0) <= ON_HULL),
                "hull_status": pa.array(status, pa.string()),
                "decomposition": pa.array(
                    [[]] * count, pa.list_(pa.struct([("id", pa.string()), ("fraction", pa.float64())]))
                ),
                "chemical_potentials": pa.nulls(count, pa.list_(pa.float64())),
            }
        ),
    )


def _texts(decompositions: pa.ListArray) -> pa.Array:
    """Write decompositions as '0.667 a + 0.333 b', fractions of atoms."""
    parts = decompositions.flatten()
    shares = pc.round(parts.field("fraction"), 6).cast(pa.string())
    words = pc.binary_join_element_wise(shares, parts.field("id"), " ")
    return pc.binary_join(pa.ListArray.from_arrays(decompositions.offsets, words), " + ")


# ------------------------------------------------------------------------------------------ text


def _summary(given: Read, built: Built, scale: Scale, entries: pa.Table) -> list[str]:
    placed = pc.sum(pc.equal(built.entries["hull_status"], HullStatus.OK.value)).as_py()
    stable = pc.sum(built.entries["is_on_hull"]).as_py()
    names = (
        pc.unique(entries["theory_id"]).to_pylist() if "theory_id" in entries.column_names else ["any theory"]
    )
    theory = next((name for name in names if name), "a theory that no file names")
    lines = [
        f"{placed} entries placed, {stable} of them on the hull: {_SCALES[scale]}, {theory}",
        *(f"  {count:>9}  rows of {file}" for file, count in given.files.items()),
    ]
    if built.missing:
        most = sorted(built.missing.items(), key=lambda pair: (-pair[1], pair[0]))
        words = ", ".join(f"{element} ({count})" for element, count in most[:12]) + (
            ", ..." if len(most) > 12 else ""
        )
        lines.append(
            f"no entry of these elements themselves, so that entries with them have no distance: {words}"
        )
    lines += _refused([*given.refused, *_refusals(built)])
    return lines + _published(given, built)


def _refusals(built: Built) -> list[Refusal]:
    return [
        Refusal("", "", row["id"] or "", row["reason"], row["detail"]) for row in built.refused.to_pylist()
    ]


def _refused(refused: Iterable[Refusal]) -> list[str]:
    counts: Counter[str] = Counter()
    first: dict[str, Refusal] = {}
    for refusal in refused:
        counts[refusal.reason] += 1
        first.setdefault(refusal.reason, refusal)
    return [
        f"  {count:>9}  refused, {reason}, such as {_where(first[reason])}: {first[reason].message}"
        for reason, count in sorted(counts.items())
    ]


def _where(refusal: Refusal) -> str:
    return " ".join(part for part in (refusal.file, refusal.row, refusal.id) if part) or "one without an id"


def _first(given: Read, built: Built) -> str:
    return "".join(f"\n{line}" for line in _refused([*given.refused, *_refusals(built)]))


def _published(given: Read, built: Built) -> list[str]:
    """Compare with the distances that the files give, which are to the hull of all that their source has."""
    published = given.rows["above"].take(pa.array(built.rows)).to_numpy(zero_copy_only=False).astype(float)
    own = built.entries["e_above_hull"].to_numpy(zero_copy_only=False).astype(float)
    differences = np.abs(published - own)
    differences = differences[np.isfinite(differences)]
    if not len(differences):
        return []
    many = int((differences > _SAME).sum())
    text = f"published distances: {len(differences)} compared, {many} differ by more than {_SAME:g} eV/atom"
    return [
        f"{text}, the largest by {differences.max():.4f}; theirs are to the hull of all that the source has"
    ]


def _query_summary(asked: Read, placed: pa.Table) -> list[str]:
    distances = placed["e_above_hull"].to_numpy(zero_copy_only=False).astype(float)
    statuses = Counter(
        {pair["values"]: pair["counts"] for pair in pc.value_counts(placed["hull_status"]).to_pylist()}
    )
    others = ", ".join(
        f"{count} {status}" for status, count in sorted(statuses.items()) if status != HullStatus.OK.value
    )
    return [
        f"asked: {placed.num_rows} rows of {', '.join(asked.files)}: {int((distances < -ON_HULL).sum())} below the hull,"
        f" {int((np.abs(distances) <= ON_HULL).sum())} on it, {int((distances > ON_HULL).sum())} above"
        + (f"; without a distance: {others}" if others else ""),
        *_refused(asked.refused),
    ]


def _listing(placed: pa.Table, elements: list[str], most: int, key: str) -> list[str]:
    """Give the lowest entries by `key`, of all or of the systems of `elements` only, as a table."""
    chosen, title = placed, "the lowest entries"
    if elements:
        formulas = parse(placed["formula"])
        chosen = placed.filter(pa.array(_within(formulas, elements)))
        title = f"entries of {'-'.join(elements)} and its subsystems, the lowest"
    order = pc.sort_indices(chosen, [(key, "ascending", "at_end"), ("id", "ascending", "at_end")])
    shown = chosen.take(order[:most])
    if not most or not shown.num_rows:
        return [f"{title}: none"] if most else []
    rows = [
        (
            row["id"],
            row["formula"],
            _number(row["formation_energy_per_atom"]),
            _number(row["e_above_hull"]),
            row["hull_status"],
        )
        for row in shown.to_pylist()
    ]
    header = ("id", "formula", "formation", "above hull", "status")
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [f"{title} ({shown.num_rows} of {chosen.num_rows}, eV/atom):"]
    for row in (header, *rows):
        cells = [
            cell.rjust(width) if i in (2, 3) else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines


def _within(formulas: Formulas, elements: list[str]) -> Any:
    allowed = np.array([symbol in elements for symbol in formulas.order])
    return formulas.usable(allowed)[formulas.code]


def _number(value: float | None) -> str:
    return "" if value is None else f"{round(value, 4) + 0.0:.4f}"


def _system(chemsys: str) -> list[str]:
    elements = [element for element in chemsys.replace(",", "-").split("-") if element]
    unknown = [element for element in elements if NUMBERS.get(element, 0) == 0]
    if unknown:
        raise TableError(f"--chemsys {chemsys}: {', '.join(unknown)} is no element; write Li-Fe-O")
    return sorted(set(elements))
