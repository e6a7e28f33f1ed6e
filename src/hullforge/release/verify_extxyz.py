"""Whether an extended XYZ of a release says what its table says: a part of `hullforge verify`.

Comes in: the file, and the table that it was made from. Goes out: problems, each naming the frame, its id and the key
or the atom that differs. Every number counts, compared as a double: geometry, energies, forces, the sign of stress.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa

from hullforge.release import extxyz

#: Frames compared at once.
_ROWS = 2048
_PAIR = re.compile(r'(\S+?)=("(?:[^"\\]|\\.)*"|\S+)')
_UNITS = {"energy": " eV", "free_energy": " eV"}


def problems(path: Path, table: pa.Table, source: str, key: str, info: tuple[str, ...]) -> Iterator[str]:
    """Give what differs between the file at `path` and `table`, whose path in the release is `source`.

    `key`: the column with the id of a frame; `info`: the columns that are written, `key` among them.
    """
    number = 0
    with path.open("rb") as file:
        given = _frames(file)
        for batch in table.to_batches(max_chunksize=_ROWS):
            try:
                text = b"".join(extxyz.texts(pa.Table.from_batches([batch]), info))
            except (ValueError, IndexError, KeyError) as error:
                yield f"can't be compared: {source} can't be written as extended XYZ ({error})"
                return
            start = file.tell()
            if file.read(len(text)) == text:
                number += batch.num_rows
                continue
            file.seek(start)
            for wanted in _frames(io.BytesIO(text)):
                try:
                    found = next(given, None)
                except ValueError as error:
                    yield f"frame {number} {error}"
                    return
                if found is None:
                    yield f"{number} frames, {source} has {table.num_rows} rows"
                    return
                if found != wanted:
                    difference = _difference(found, wanted, source)
                    if difference:
                        name = dict(_PAIR.findall(wanted[0].decode()))[key]
                        yield f"frame {number}: {key} {name}: {difference}"
                number += 1
        if file.read(1):
            yield f"more than the {table.num_rows} frames that {source} has rows"


def _frames(file: IO[bytes]) -> Iterator[tuple[bytes, list[bytes]]]:
    """Header and atoms' lines of each frame; raises `ValueError` where it isn't one."""
    while line := file.readline():
        if not line.strip().isdigit():
            raise ValueError("is not extended XYZ: its first line is no number of atoms")
        header = file.readline()
        atoms = [file.readline() for _ in range(int(line))]
        if not all(text.endswith(b"\n") for text in (header, *atoms)):
            raise ValueError("is cut short")
        yield header, atoms


def _difference(
    found: tuple[bytes, list[bytes]], wanted: tuple[bytes, list[bytes]], source: str
) -> str | None:
    """Say what differs first, if anything but the way numbers are written does."""
    a, b = (
        {key: value.strip('"') for key, value in _PAIR.findall(frame[0].decode(errors="replace"))}
        for frame in (found, wanted)
    )
    for key in [*b, *(key for key in a if key not in b)]:
        if key not in a or key not in b or not _same(a[key].split(), b[key].split()):
            unit = _UNITS.get(key, "")
            there, here = (f"{pairs[key]}{unit}" if key in pairs else "nothing" for pairs in (b, a))
            return f"{key} is {here}, {source} has {there}"
    if len(found[1]) != len(wanted[1]):
        return f"{len(found[1])} atoms, {source} has {len(wanted[1])}"
    for atom, (line, other) in enumerate(zip(found[1], wanted[1], strict=True)):
        words, others = line.decode(errors="replace").split(), other.decode().split()
        if not _same(words, others):
            return f"atom {atom} ({b['Properties']}) is {' '.join(words)}, {source} has {' '.join(others)}"
    return None


def _same(a: list[str], b: list[str]) -> bool:
    """Whether words are the same, numbers among them as doubles."""
    return len(a) == len(b) and all(x == y or _number(x) == _number(y) for x, y in zip(a, b, strict=True))


def _number(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word
