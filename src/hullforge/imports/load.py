"""From what importers give to the tables `entries` and `refusals`.

Comes in: an importer, its sources and what the user says of their theory. Goes out: `entries`, written row group by
row group, beside it `refusals`, and a `Summary` of both. Never places an energy: that is done by `hullforge.thermo`.
"""

import math
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from hullforge.errors import TableError
from hullforge.imports.base import Found, Importer, Refused
from hullforge.store import ids, tables
from hullforge.store.vocabulary import ImportRefusal
from hullforge.thermo.build import Refusal, build

Row = dict[str, Any]

#: Rows that become Arrow columns at once; as Python objects a row takes ten times the memory.
_AT_ONCE = 512


@dataclass(frozen=True)
class Said:
    """What the user says where the source doesn't: functional, correction scheme, source and code.

    `functional` refuses rows that name another one; `source` names the source whatever it is called.
    """

    functional: str = ""
    correction_scheme: str = ""
    source: str = ""
    software: str = ""


@dataclass
class Summary:
    """What became of the rows: entries by theory, refused rows by reason with the first of each."""

    entries: int = 0
    theories: Counter[tuple[str, str]] = field(default_factory=Counter)
    refused: Counter[ImportRefusal] = field(default_factory=Counter)
    first: dict[ImportRefusal, Refused] = field(default_factory=dict)
    impossible: list[str] = field(default_factory=list)

    def add(self, item: Row | Refused) -> None:
        """Count a row."""
        if isinstance(item, Refused):
            self.refused[item.reason] += 1
            self.first.setdefault(item.reason, item)
        else:
            self.entries += 1
            label = " ".join(
                item[name] for name in ("source", "functional", "run_type", "software") if item[name]
            )
            self.theories[item["theory_id"], label] += 1

    def lines(self) -> list[str]:
        """Give the summary as lines of text."""
        out = [f"{self.entries} entries, {sum(self.refused.values())} refused"]
        out += [
            f"  {count:>8}  {label} ({theory})" for (theory, label), count in sorted(self.theories.items())
        ]
        for reason, count in sorted(self.refused.items()):
            one = self.first[reason]
            where = f"{one.row}{f' ({one.id})' if one.id else ''}"
            out.append(f"  {count:>8}  refused: {reason.value}, such as {where}: {one.message}")
        if self.impossible:
            out.append(f"  {len(self.impossible):>8}  kept, but hulls will refuse them: {self.impossible[0]}")
        if len(self.theories) > 1:
            out.append(
                f"  these are {len(self.theories)} theories, whose energies can't be compared without a correction"
            )
        return out


def run(
    importer: Importer, sources: Iterable[str], said: Said, out: Path, *, progress: bool = True
) -> Summary:
    """Read all sources into the table `entries` at `out`, and what was refused into `refusals_beside(out)`.

    Raises `TableError` when a source as a whole can't be read, nobody says of which functional its energies are, or
    they are total energies where energies per atom are meant; then nothing is written.
    """
    summary, checks, sources = Summary(), Checks(), list(sources)
    if not said.source and not importer.name and sources and "://" not in sources[0]:
        said = replace(said, source=_own_name(sources[0]))  # files that are read together are one source
    with (
        tables.writer(out, "entries") as entries,
        tables.writer(refusals_beside(out), "refusals") as refusals,
        tqdm(unit="rows", desc="importing", disable=None if progress else True) as bar,
    ):
        for source in sources:
            for piece in _pieces(rows(importer, source, said, checks)):
                good = [item for item in piece if not isinstance(item, Refused)]
                bad = [item for item in piece if isinstance(item, Refused)]
                for item in piece:
                    summary.add(item)
                if good:
                    entries(good)
                if bad:
                    refusals([_refusal(item, source) for item in bad])
                bar.update(len(piece))
        summary.impossible = checks.impossible()
    return summary


def refusals_beside(entries: Path) -> Path:
    """Where the table `refusals` of an `entries` table lies."""
    return entries.with_name(f"{entries.stem}-refusals.parquet")


class Checks:
    """What only all rows together show: ids that repeat, elements with two Hubbard U, energies that aren't per atom.

    Of each row its id, formula and energy are kept, nothing more.
    """

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._formulas: list[str] = []
        self._energies = array("d")
        self._hubbards: dict[str, float] = {}

    def problem(self, found: Found) -> tuple[ImportRefusal, str] | None:
        """Tell why a row doesn't go with the rows before it; a row that does is remembered."""
        if not found.id:
            return ImportRefusal.NO_ID, "the id is empty; each entry needs one"
        if found.id in self._seen:
            return ImportRefusal.REPEATED_ID, "an earlier row has the same id; each entry needs its own"
        for element, value in (found.hubbards or {}).items():
            before = self._hubbards.setdefault(element, value)
            if before != value:
                return ImportRefusal.OTHER_THEORY, (
                    f"Hubbard U of {element} is {value:g} eV, in earlier rows {before:g} eV; such energies don't compare"
                )
        self._seen[found.id] = len(self._formulas)
        self._formulas.append(
            sys.intern("".join(f"{element}{count}" for element, count in found.counts.items()))
        )
        self._energies.append(math.nan if found.energy is None else found.energy)
        return None

    def impossible(self) -> list[str]:
        """Tell which entries can't have such an energy per atom, a sentence each; hulls refuse them.

        Raises `TableError` when it is so throughout: then total energies were taken for energies per atom.
        """
        entries = pa.table(
            {"id": list(self._seen), "formula": self._formulas, "energy_per_atom": np.array(self._energies)},
            schema=pa.schema({"id": pa.string(), "formula": pa.string(), "energy_per_atom": pa.float64()}),
        )
        refused = build(entries.filter(pc.is_finite(entries["energy_per_atom"])), on_bad="refuse").refused
        return [
            f"{row['id']}: {row['detail']}"
            for row in refused.to_pylist()
            if row["reason"] == Refusal.IMPOSSIBLE_ENERGY.value
        ]


def rows(importer: Importer, source: str, said: Said, checks: Checks) -> Iterator[Row | Refused]:
    """Give the rows of one source for the table `entries`, and what is refused, in the source's order.

    Raises `TableError` as `run` does.
    """
    name = said.source or importer.name or _own_name(source)
    for item in importer.read(source):
        if isinstance(item, Refused):
            yield item
            continue
        problem = _other_functional(item, said) or _no_energy(item) or checks.problem(item)
        yield Refused(item.row, item.id, *problem) if problem else _row(item, name, said, source)


def _own_name(source: str) -> str:
    """Call a source that nobody named: a provider by its address, a file by its name."""
    scheme, found, address = source.partition("://")
    return address.strip("/") if found else Path(scheme).name.split(".")[0]


def _other_functional(found: Found, said: Said) -> tuple[ImportRefusal, str] | None:
    if said.functional and found.functional and said.functional.casefold() != found.functional.casefold():
        return ImportRefusal.OTHER_FUNCTIONAL, f"it is of {found.functional}, asked for is {said.functional}"
    return None


def _no_energy(found: Found) -> tuple[ImportRefusal, str] | None:
    if found.energy is None and found.formation_energy is None:
        return ImportRefusal.NO_ENERGY, "it has neither a total nor a formation energy"
    return None


def _row(found: Found, source: str, said: Said, where: str) -> Row:
    functional = said.functional or found.functional
    if not functional:
        raise TableError(
            f"{where}, {found.row}: nothing says of which functional the energies are; name it: --functional PBE"
        )
    software = said.software or found.software
    structure = found.structure
    return {
        "id": found.id,
        "source": source,
        "functional": functional,
        "correction_scheme": "none"
        if found.correction is None and not said.correction_scheme
        else said.correction_scheme or found.correction_scheme or "published",
        "theory_id": theory_id(source, functional, found.run_type, found.pseudopotentials, software),
        "run_type": found.run_type or None,
        "hubbards": None if found.hubbards is None else dict(found.hubbards),
        "software": software or None,
        "energy_per_atom": found.energy,
        # Where the user names the scheme, a row without a correction is one that it leaves as it is.
        "energy_correction_per_atom": 0.0
        if found.correction is None and said.correction_scheme and found.energy is not None
        else found.correction,
        "formation_energy_per_atom": found.formation_energy,
        "e_above_hull": found.e_above_hull,
        "band_gap": found.band_gap,
        "total_magnetization": found.magnetization,
        "space_group_it_number": found.space_group,
        "numbers": structure.numbers if structure else None,
        "cell": structure.cell if structure else None,
        "positions": structure.positions if structure else None,
        "pbc": structure.pbc if structure else None,
        "volume": _volume(structure.cell) if structure else None,
        **_composition(found.counts),
        "nsites": len(structure.numbers) if structure else found.nsites,
    }


@lru_cache
def theory_id(source: str, functional: str, run_type: str, pseudopotentials: str, software: str) -> str:
    """Id of what is known of a published energy's theory; what isn't known is part of it, as unknown."""
    return ids.content_id(
        "p1",
        {
            "source": source,
            "functional": functional,
            "run_type": run_type,
            "pseudopotentials": pseudopotentials,
            "software": software,
        },
    )[:11]


def _composition(counts: Mapping[str, int]) -> Row:
    elements = sorted(counts)
    divisor = math.gcd(*counts.values())
    return {
        "elements": elements,
        "nelements": len(elements),
        "chemsys": "-".join(elements),
        "chemical_formula_reduced": "".join(
            element + (str(counts[element] // divisor) if counts[element] > divisor else "")
            for element in elements
        ),
    }


def _volume(cell: list[float]) -> float:
    a, b, c, d, e, f, g, h, i = cell
    return abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))


def _pieces(items: Iterator[Row | Refused]) -> Iterator[list[Row | Refused]]:
    piece: list[Row | Refused] = []
    for item in items:
        piece.append(item)
        if len(piece) == _AT_ONCE:
            yield piece
            piece = []
    if piece:
        yield piece


def _refusal(refused: Refused, file: str) -> Row:
    return {
        "file": file if "://" in file else Path(file).name,
        "row": refused.row,
        "id": refused.id,
        "reason": refused.reason.value,
        "message": refused.message,
    }
