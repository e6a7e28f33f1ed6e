"""Where things lie in a release folder: the one place that both the builder and `verify` take paths from.

Files are named by functional inside a plain folder per table, not in hive folders: every file keeps its own
`functional` column, and readers that also find `functional=PBE` in the path refuse to merge the two.
"""

import hashlib
import re
from pathlib import Path

SUMS = "SHA256SUMS"
#: Hashes of the tables' decoded content (`hullforge.release.logical`).
LOGICAL = "LOGICAL_HASHES"
DATASET, CONFIG, CARD, DICTIONARY, LICENSE = (
    "dataset.json",
    "config.json",
    "README.md",
    "dictionary.md",
    "LICENSE",
)
PROPERTIES = "property_definitions.json"
CHANGES = "CHANGES.md"
SOFTWARE, LOCK = "software.json", "requirements.lock"
#: Code for readers, which needs nothing of hullforge.
MATGL = "load_matgl.py"
CITATION = "CITATION.cff"
DATACITE, ZENODO = "datacite.json", ".zenodo.json"
CROISSANT = "croissant.json"

#: Tables with one file, and tables with one file per functional.
WHOLE = ("structures", "failures", "elemental_references", "prototypes", "selection", "rejections", "changes")
BY_FUNCTIONAL = ("calculations", "frames", "hull", "properties", "known_phases")
#: Of these, what only a campaign with phases known beforehand has.
OPTIONAL = ("known_phases",)
#: Columns that together name a row, of each table.
KEYS = {
    "structures": ("structure_id",), "calculations": ("calculation_id",), "failures": ("calculation_id",),
    "frames": ("frame_id",), "hull": ("calculation_id",), "prototypes": ("prototype_id",),
    "selection": ("candidate_id",), "known_phases": ("phase_id",), "properties": ("calculation_id",),
    "elemental_references": ("functional", "correction_scheme", "element"),
    "rejections": ("frame_id",), "changes": ("table", "id"),
}  # fmt: skip


def table(name: str, functional: str | None = None) -> str:
    """Path of a table, relative to the release folder; of hulls by the stem of their files, PBE or PBE-MP2020."""
    if name in BY_FUNCTIONAL:
        assert functional is not None
        return f"data/{name}/{functional}.parquet"
    return f"data/{name}.parquet"


def extxyz(kind: str, functional: str) -> str:
    """Path of the extended XYZ of `kind` ('frames' or 'structures'), relative to the release folder."""
    return f"extxyz/{kind}-{functional}.extxyz"


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files(folder: Path) -> list[str]:
    """Names of all files of a release, relative to its folder and sorted.

    Neither the list of checksums is among them, nor what Python leaves behind when it imports a file of the release.
    """
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    names = (path.as_posix() for path in paths if "__pycache__" not in path.parts)
    return sorted(name for name in names if name != SUMS)


def listed(folder: Path, name: str) -> dict[str, str]:
    """Hash by path of a list of checksums. Raises `ValueError` with the first line that is none."""
    found = {}
    for line in (folder / name).read_text(encoding="utf-8").splitlines():
        digest, _, path = line.partition("  ")
        if not re.fullmatch(r"[0-9a-f]{64}", digest) or not path:
            raise ValueError(f"{name}: not a list of checksums: {line!r}")
        found[path] = digest
    return found


def tables(folder: Path) -> list[str]:
    """Names of all tables of a release, relative to its folder and sorted."""
    return [name for name in files(folder) if name.endswith(".parquet")]


def sums(folder: Path) -> str:
    """Text of the list of checksums of a folder, as `sha256sum` writes it."""
    return "".join(f"{sha256(folder / name)}  {name}\n" for name in files(folder))
