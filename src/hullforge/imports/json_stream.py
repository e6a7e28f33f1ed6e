"""The objects of a long list in a JSON file, one by one.

Comes in: a file, plain or compressed with gzip or bzip2, that holds a list, or an object with a list under `entries`.
Goes out: the list's elements, each decoded when its turn comes; memory holds one and a piece of text. NaN and
Infinity are let through, since published files hold them. Never skips what it can't decode.
"""

import bz2
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from hullforge.errors import TableError

_PIECE = 1 << 20
_BLANK = " \t\r\n"


def opened(path: Path) -> IO[bytes]:
    """Open a file that may be compressed; raises `TableError` when it is absent."""
    if not path.is_file():
        raise TableError(f"{path}: no such file")
    if path.suffix.lower() == ".bz2":
        return bz2.open(path, "rb")
    if path.suffix.lower() == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")


def objects(path: Path) -> Iterator[Any]:
    """Give the elements of the list in the file.

    Raises `TableError` naming the file when it is absent, holds no such list, or ends before its list does.
    """
    number = 0
    try:
        with opened(path) as binary, io.TextIOWrapper(binary, encoding="utf-8") as stream:
            text = _Text(stream)
            _find_list(text, path)
            if text.next() == "]":
                return
            while True:
                yield text.value()
                number += 1
                mark = text.take()
                if mark == "]":
                    return
                if mark != ",":
                    raise json.JSONDecodeError(f"found {mark!r}, ',' or ']' is needed", "", 0)
    except (json.JSONDecodeError, UnicodeDecodeError, EOFError, OSError) as error:
        raise TableError(
            f"{path}: not whole after {number} entries ({error}); it is no JSON, or was cut short: fetch it again"
        ) from error


def _find_list(text: "_Text", path: Path) -> None:
    """Go to the first element of the list."""
    mark = text.take()
    while mark == "{" or mark == ",":
        if text.next() == "}":
            break
        key = text.value()
        if text.take() != ":":
            break
        if key == "entries":
            mark = text.take()
            break
        text.value()
        mark = text.take()
    if mark != "[":
        raise TableError(
            f"{path}: neither a list of entries nor an object with a list under 'entries'; these are what is read"
        )


class _Text:
    """Text that comes in pieces, of which what was read is forgotten."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self._piece, self._at, self._ended = stream, "", 0, False
        self._decoder = json.JSONDecoder()

    def next(self) -> str:
        """Give the next character that isn't blank without taking it; '' at the end."""
        while True:
            while self._at < len(self._piece) and self._piece[self._at] in _BLANK:
                self._at += 1
            if self._at < len(self._piece):
                return self._piece[self._at]
            if not self._more():
                return ""

    def take(self) -> str:
        """Take the next character that isn't blank; '' at the end."""
        mark = self.next()
        self._at += len(mark)
        return mark

    def value(self) -> Any:
        """Take one whole value."""
        self.next()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._piece, self._at)
            except json.JSONDecodeError:
                if not self._more():
                    raise
                continue
            # A number may go on in the next piece; of '1.' or '1e+' the end is not yet read as part of it.
            if end > len(self._piece) - 3 and self._more():
                continue
            self._at = end
            return value

    def _more(self) -> bool:
        piece = "" if self._ended else self._stream.read(_PIECE)
        self._ended = self._ended or not piece
        if piece:
            self._piece, self._at = self._piece[self._at :] + piece, 0
        return bool(piece)
