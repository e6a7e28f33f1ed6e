"""ALEXANDRIA's JSON files, and any list of computed entries that pymatgen wrote.

Comes in: a .json, .json.gz or .json.bz2 file with ComputedEntry or ComputedStructureEntry dictionaries, as a list or
under `entries`. Goes out: a row an entry, streamed. ALEXANDRIA gives `energy_total` and `energy_corrected` in `data`,
eV per cell; its correction's name isn't in the file, and is called 'published' unless the user says more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hullforge.imports import json_stream
from hullforge.imports.base import Found, Refused
from hullforge.imports.pymatgen_entries import found, guarded, id_of

#: Keys of an entry's data that may hold its id.
_IDS = ("mat_id", "material_id")


@dataclass(frozen=True)
class Alexandria:
    """Importer of JSON files of computed entries; with an empty `name` files are called by their own."""

    name: str = "alexandria"

    def read(self, source: str) -> Iterator[Found | Refused]:
        """Read the file `source`; raises `TableError` when it is no such list, or not whole."""
        for number, entry in enumerate(json_stream.objects(Path(source)), start=1):
            row, id_ = f"entry {number}", id_of(entry, _IDS)
            yield guarded(lambda entry=entry, row=row, id_=id_: found(entry, row, id_), row, id_)  # type: ignore[misc]
