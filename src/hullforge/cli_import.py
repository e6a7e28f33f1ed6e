"""The command `hullforge import`: what others published, as tables of hullforge.

Comes in: a kind of source and where it is. Goes out: the sub-parsers of the kinds, each bound to one function.
Reads nothing itself; modules are imported inside the commands, as in `hullforge.cli`.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

Command = Callable[[argparse.Namespace], int | None]


def add(commands: Any) -> None:
    """Add `import` and its kinds of sources to the commands of `hullforge`."""
    parser = commands.add_parser(
        "import",
        help="read what others computed into a table",
        description="Read what others computed into a table.",
        epilog="hullforge import KIND --help says what a kind of source needs",
    )
    kinds = parser.add_subparsers(title="kinds of sources", metavar="KIND", required=True)
    sub = _kind(
        kinds,
        "alexandria",
        _alexandria,
        "read JSON files of ALEXANDRIA",
        "hullforge import alexandria alexandria_000.json.bz2 --functional PBE --out entries.parquet",
    )
    sub.add_argument("sources", nargs="+", metavar="FILE", help=".json, .json.gz or .json.bz2")
    _common(sub)
    sub = _kind(
        kinds,
        "pymatgen",
        _pymatgen,
        "read JSON files of pymatgen's computed entries",
        "hullforge import pymatgen entries.json.gz --functional PBE --correction-scheme MP2020 --out entries.parquet",
    )
    sub.add_argument("sources", nargs="+", metavar="FILE", help=".json, .json.gz or .json.bz2")
    _common(sub)
    sub = _kind(
        kinds,
        "mp",
        _mp,
        "read chemical systems of the Materials Project with your key, the variable MP_API_KEY",
        "hullforge import mp Li-Fe-O Na-Fe-O --out entries.parquet",
    )
    sub.add_argument(
        "sources", nargs="+", metavar="SYSTEM", help="chemical system; its subsystems are read too"
    )
    sub.add_argument(
        "--thermo-type",
        choices=("GGA_GGA+U", "R2SCAN"),
        default="GGA_GGA+U",
        help="set of entries (default: %(default)s)",
    )
    _common(sub)
    sub = _kind(
        kinds,
        "optimade",
        _optimade,
        "read structures of an OPTIMADE provider",
        """hullforge import optimade alexandria --filter 'elements HAS ALL "Li","O"' --out entries.parquet""",
    )
    sub.add_argument("sources", nargs="+", metavar="ADDRESS", help="base address, or alexandria, mp, oqmd")
    sub.add_argument("--filter", default="", help="OPTIMADE filter (default: everything)")
    sub.add_argument(
        "--preset",
        default="",
        choices=("alexandria", "mp", "oqmd", "hullforge"),
        help="whose names for energies hold",
    )
    _columns(sub)
    _common(sub)
    for name, run, what, example in (
        (
            "csv",
            _csv,
            "CSV files, perhaps compressed",
            "mine.csv --column energy_per_atom=e_pa --functional PBE",
        ),
        ("parquet", _parquet, "Parquet files", "lemat.parquet --column id=immutable_id"),
        ("extxyz", _extxyz, "extended XYZ files, perhaps compressed", "relaxed.extxyz --functional PBEsol"),
    ):
        sub = _kind(
            kinds, name, run, f"read {what}", f"hullforge import {name} {example} --out entries.parquet"
        )
        sub.add_argument("sources", nargs="+", metavar="FILE")
        _columns(sub)
        _common(sub)
    sub = _kind(
        kinds,
        "vasp",
        _vasp,
        "read folders in which VASP ran, at any depth, into tables of calculations, frames and failures",
        "hullforge import vasp runs/2023 runs/2024 --out imported",
    )
    sub.add_argument("sources", nargs="+", type=Path, metavar="DIR", help="folder with runs anywhere below")
    sub.add_argument(
        "--workers", type=int, default=0, help="processes, one thread each (default: one a core)"
    )
    sub.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the tables")


def _vasp(a: argparse.Namespace) -> int:
    """Harvest, print what became of the runs; 1 when there is no calculation among them."""
    import os

    from hullforge.imports import vasp

    summary = vasp.run(a.sources, a.out, workers=a.workers or len(os.sched_getaffinity(0)))
    print(f"{a.out}: " + "\n".join(summary.lines()))
    if summary.refused:
        print(f"{a.out / 'refusals.parquet'}: every run that was refused, and why")
    return 0 if summary.calculations else 1


def _alexandria(a: argparse.Namespace) -> int:
    from hullforge.imports.alexandria import Alexandria

    return _load(Alexandria(), a)


def _pymatgen(a: argparse.Namespace) -> int:
    from hullforge.imports.alexandria import Alexandria

    return _load(Alexandria(name=""), a)


def _csv(a: argparse.Namespace) -> int:
    from hullforge.imports.columns import Columns
    from hullforge.imports.tabular import Csv

    return _load(Csv(Columns.parsed(a.column)), a)


def _parquet(a: argparse.Namespace) -> int:
    from hullforge.imports.columns import Columns
    from hullforge.imports.tabular import Parquet

    return _load(Parquet(Columns.parsed(a.column)), a)


def _extxyz(a: argparse.Namespace) -> int:
    from hullforge.imports.columns import Columns
    from hullforge.imports.extxyz import ExtXyz

    return _load(ExtXyz(Columns.parsed(a.column)), a)


def _optimade(a: argparse.Namespace) -> int:
    from hullforge.imports.columns import Columns
    from hullforge.imports.optimade_provider import PRESETS, Optimade

    preset = a.preset or (a.sources[0] if a.sources[0] in PRESETS else "")
    return _load(Optimade(a.filter, preset, Columns.parsed(a.column)), a)


def _mp(a: argparse.Namespace) -> int:
    from hullforge.imports.materials_project import MaterialsProject, ThermoType

    return _load(MaterialsProject(ThermoType(a.thermo_type)), a)


def _load(importer: Any, a: argparse.Namespace) -> int:
    """Import, print what became of the rows; 1 when no row could be used."""
    from hullforge.errors import TableError
    from hullforge.imports import load

    if a.out.suffix.lower() != ".parquet":
        raise TableError(f"--out {a.out}: the table of entries is a .parquet file")
    said = load.Said(a.functional, a.correction_scheme, a.source, a.software)
    summary = load.run(importer, a.sources, said, a.out)
    print(f"{a.out}: " + "\n".join(summary.lines()))
    if summary.refused:
        print(f"{load.refusals_beside(a.out)}: what was refused")
    return 0 if summary.entries else 1


def _columns(sub: argparse.ArgumentParser) -> None:
    """Add the mapping of columns."""
    sub.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="MEANING=NAME",
        help="what the source calls id, formula, energy_per_atom (eV/atom), energy (eV per cell), nsites,"
        " energy_corrected, formation_energy_per_atom, e_above_hull, functional, ...; may be repeated",
    )


def _common(sub: argparse.ArgumentParser) -> None:
    """Add what every kind of source takes."""
    sub.add_argument(
        "--functional", default="", help="functional of the energies, where the source doesn't say"
    )
    sub.add_argument(
        "--correction-scheme",
        default="",
        metavar="NAME",
        help="what the energies are corrected by: MP2020, ...",
    )
    sub.add_argument(
        "--source",
        default="",
        metavar="NAME",
        help="what to call the source (default: its own name, of files the first one's)",
    )
    sub.add_argument("--software", default="", metavar="NAME", help="code that computed the energies")
    sub.add_argument("--out", type=Path, required=True, metavar="FILE.parquet", help="table of entries")


def _kind(kinds: Any, name: str, run: Command, help_: str, example: str) -> argparse.ArgumentParser:
    """Add one kind of source: one sentence of help, and an example."""
    sub: argparse.ArgumentParser = kinds.add_parser(
        name,
        help=help_,
        description=f"{help_[0].upper()}{help_[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.set_defaults(run=run)
    return sub
