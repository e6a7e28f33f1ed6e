"""VASP's PAW data sets: which label an element gets, what is known of it, where the user's copy lies, what is recorded.

Comes in: the protocol's family and labels; goes out: labels, numbers of electrons, titles and hashes. POTCARs are the
user's property: they are found through PMG_VASP_PSP_DIR as pymatgen does, copied into a running calculation's folder
and nowhere else. What pymatgen's table of all POTCARs says (title, electrons, sections) needs no library.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hullforge.errors import EngineError
from hullforge.store import atomic
from hullforge.store.structures import SYMBOLS

FAMILIES = ("PBE", "PBE_52", "PBE_54", "PBE_64")
#: A section that a POTCAR needs for a meta-GGA: the kinetic energy density of the core electrons, where it has any.
TAU_SECTION = "mkineticenergy-densitypseudized"
#: Titles, hashes and electrons of the POTCARs of a step, in its folder; never their content.
RECORD_FILE = "potcars.json"


@dataclass(frozen=True)
class Known:
    """What pymatgen knows of a POTCAR: its title without spaces, valence electrons, and whether it can do meta-GGA."""

    title: str
    electrons: float
    tau: bool


def known(family: str, label: str) -> Known:
    """Give what is known of a POTCAR; raises `EngineError` when its family has none of that label."""
    found = _table()[family].get(label)
    if found is None:
        raise EngineError(f"engine vasp: the POTCAR family {family} has no '{label}'")
    return found


@cache
def _table() -> dict[str, dict[str, Known]]:
    import bz2
    import json

    import pymatgen.io.vasp as package

    path = Path(str(package.__file__)).with_name("potcar-summary-stats.json.bz2")
    table = json.loads(bz2.decompress(path.read_bytes()))
    return {
        family: {
            entry["symbol"]: Known(title, float(entry["ZVAL"]), _has_tau(entry))
            for title, entries in table[family].items()
            for entry in entries
        }
        for family in FAMILIES
    }


def _has_tau(entry: dict[str, Any]) -> bool:
    """Whether a POTCAR can do meta-GGA: it has its core's kinetic energy density, or no core (H, He, Li_sv, Be_sv)."""
    element = str(entry["symbol"]).split("_")[0]
    coreless = element in SYMBOLS and float(entry["ZVAL"]) == SYMBOLS.index(element)
    return coreless or TAU_SECTION in entry["keywords"]["data"]


def library() -> Path | None:
    """Give the folder of the user's POTCARs, from PMG_VASP_PSP_DIR or pymatgen's settings; None when there is none."""
    import os

    from pymatgen.core import SETTINGS

    named = os.environ.get("PMG_VASP_PSP_DIR") or SETTINGS.get("PMG_VASP_PSP_DIR")
    return Path(str(named)).expanduser() if named else None


def places(family: str, label: str) -> tuple[str, ...]:
    """Give where a POTCAR is looked for, below the library; the same places as pymatgen's, and their compressed forms."""
    from pymatgen.core import SETTINGS
    from pymatgen.io.vasp.inputs import POTCAR_FUNCTIONAL_MAP

    folder = SETTINGS.get("PMG_VASP_PSP_SUB_DIRS", {}).get(family, POTCAR_FUNCTIONAL_MAP[family])
    names = (f"{folder}/POTCAR.{label}", f"{folder}/{label}/POTCAR")
    return tuple(name + suffix for name in names for suffix in ("", ".gz", ".bz2", ".xz", ".Z"))


def find(family: str, label: str) -> Path | None:
    """Give the file of a POTCAR in the user's library; None when it isn't there."""
    root = library()
    if root is None:
        return None
    return next((root / place for place in places(family, label) if (root / place).is_file()), None)


def text(family: str, label: str) -> str:
    """Read a POTCAR; raises `EngineError` when the library lacks it or it can't be read."""
    path = find(family, label)
    if path is None:
        raise EngineError(
            f"engine vasp: no POTCAR {label} of the family {family} in {library() or 'PMG_VASP_PSP_DIR, which is not set'};"
            f" looked for {places(family, label)[0]}(.gz)"
        )
    return _content(path)


@cache
def read(path: Path) -> dict[str, Any]:
    """Give title (without spaces), SHA-256 of the content and valence electrons of a POTCAR file.

    Raises `EngineError` when it isn't one.
    """
    content = _content(path)
    title, zval = re.search(r"TITEL\s*=\s*(.+)", content), re.search(r"ZVAL\s*=\s*([0-9.]+)", content)
    if title is None or zval is None:
        raise EngineError(f"engine vasp: {path.name} is no POTCAR: it has no TITEL or no ZVAL")
    return {
        "title": title.group(1).replace(" ", ""),
        "sha256": hashlib.sha256(content.encode()).hexdigest(),
        "electrons": float(zval.group(1)),
    }


def _content(path: Path) -> str:
    from monty.io import zopen

    try:
        with zopen(path, mode="rt", errors="replace", encoding="utf-8") as stream:
            return str(stream.read())
    except (OSError, EOFError, ValueError) as error:
        raise EngineError(f"engine vasp: {path.name} can't be read: {error}") from error


def describe(family: str, label: str) -> str:
    """Give family, label, title and the start of the SHA-256 of a POTCAR, for the tables.

    Without a library the hash is missing, and the title is the one that pymatgen knows.
    """
    path = find(family, label)
    if path is None:
        return f"{family} {label} ({known(family, label).title})"
    found = read(path)
    return f"{family} {label} ({found['title']}, sha256 {found['sha256'][:16]})"


def write(folder: Path, family: str, labels: Sequence[str], source: str) -> None:
    """Write POTCAR (`source` library) or POTCAR.spec (`source` spec), and the record of what was used.

    Raises `EngineError` when the library lacks one.
    """
    record: list[dict[str, Any]] = []
    for label in labels:
        path = find(family, label) if source == "library" else None
        entry = read(path) if path is not None else {"title": known(family, label).title, "sha256": None}
        record.append({"family": family, "label": label, **{key: entry[key] for key in ("title", "sha256")}})
    if source == "library":
        atomic.write_text(folder / "POTCAR", "".join(text(family, label) for label in labels))
    else:
        atomic.write_text(folder / "POTCAR.spec", "\n".join(labels) + "\n")
    atomic.write_json(folder / RECORD_FILE, record)
