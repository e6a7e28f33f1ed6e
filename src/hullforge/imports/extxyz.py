"""Extended XYZ files, frame by frame.

Comes in: a .extxyz or .xyz file, perhaps compressed, with an energy in each frame's second line. Goes out: a row a
frame. Frames are cut by their number of atoms and each is read on its own, so that one that can't be read is refused
and the next ones are not lost; memory holds one.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from hullforge.errors import TableError
from hullforge.imports.base import BadRowError, Found, Refused
from hullforge.imports.columns import Columns, found, id_of
from hullforge.imports.json_stream import opened
from hullforge.imports.pymatgen_entries import guarded
from hullforge.store.vocabulary import ImportRefusal


@dataclass(frozen=True)
class ExtXyz:
    """Importer of extended XYZ; `energy` is a frame's total energy in eV unless the columns say otherwise."""

    columns: Columns = field(default_factory=Columns)
    name: str = ""

    def read(self, source: str) -> Iterator[Found | Refused]:
        """Read the file; raises `TableError` where a frame's number of atoms should stand and doesn't."""
        path = Path(source)
        for number, text in enumerate(_frames(path), start=1):
            row, otherwise = f"frame {number}", f"{path.name}:{number}"
            values = _values(text)
            if isinstance(values, str):
                yield Refused(row, "", ImportRefusal.UNREADABLE, values)
                continue
            yield self._frame(values, row, otherwise)

    def _frame(self, values: dict[str, Any], row: str, otherwise: str) -> Found | Refused:
        """Frames may differ in what they hold, so what is missing is missing in this one."""
        named = {**self.columns.named, **({} if "total_magnetization" in values else _MAGNETIC)}
        try:
            meant = Columns({k: v for k, v in named.items() if v.split("/")[0] in values}).found_in(
                values, row
            )
        except TableError as error:
            return Refused(row, "", ImportRefusal.NO_ENERGY, str(error))
        id_ = id_of(values, meant, otherwise)

        def read() -> Found:
            missing = [name for meaning, name in self.columns.named.items() if meant.get(meaning) != name]
            if missing:
                raise BadRowError(ImportRefusal.NO_ENERGY, f"it has no {', '.join(missing)}")
            return found(values, meant, row, id_)

        return guarded(read, row, id_)


_MAGNETIC = {"total_magnetization": "magmom"}


def _frames(path: Path) -> Iterator[str]:
    """Give each frame's text: the line with its number of atoms, its header, and so many lines."""
    number = 0
    try:
        with opened(path) as binary, io.TextIOWrapper(binary, encoding="utf-8") as stream:
            for line in stream:
                if not line.strip():
                    continue
                number += 1
                if not line.strip().isdigit():
                    raise TableError(
                        f"{path}, frame {number}: it begins with {line.strip()[:40]!r}; a number of atoms is needed"
                    )
                body = list(islice(stream, int(line) + 1))
                if len(body) != int(line) + 1:
                    raise TableError(f"{path}, frame {number}: the file ends within it; fetch it again")
                yield "".join([line, *body])
    except (UnicodeDecodeError, EOFError, OSError) as error:
        raise TableError(f"{path}: not whole after {number} frames ({error})") from error


def _values(text: str) -> dict[str, Any] | str:
    """Read one frame with ASE into values by name; gives the parser's words where it can't."""
    from ase.io.extxyz import read_extxyz

    try:
        (atoms,) = read_extxyz(io.StringIO(text), index=slice(None))
    except Exception as error:  # noqa: BLE001 - the parser raises anything
        return f"not extended XYZ: {type(error).__name__} {error}"
    # ASE moves an energy from the header to a calculator.
    values = {**atoms.info, **(atoms.calc.results if atoms.calc else {})}
    return {
        **values,
        "species_at_sites": list(atoms.symbols),
        "lattice_vectors": atoms.cell.array.tolist(),
        "cartesian_site_positions": atoms.positions.tolist(),
        "dimension_types": [int(periodic) for periodic in atoms.pbc],
    }
