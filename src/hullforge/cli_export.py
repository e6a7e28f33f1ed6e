"""The command `hullforge export`: a release in the formats of other programs.

Comes in: a release folder. Goes out: its sub-parser, bound to one function; modules are imported inside, as in
`hullforge.cli`.
"""

import argparse
from pathlib import Path
from typing import Any

_EPILOG = """formats:
  extxyz   extended XYZ, ASE's names and sign            mace    the same with MACE's names, REF_energy ...
  nequip   the same for NequIP: only complete frames     deepmd  folders deepmd/npy, with virials
  npz      NumPy arrays                                  ase-db  SQLite database of ASE
  lmdb     .aselmdb of FAIR Chemistry (package lmdb)     json    computed entries, as ALEXANDRIA's (structures only)
  colabfit ColabFit's data standard, Parquet: configurations, property objects, sets, data set, metadata

examples:
  hullforge export results/laptop/release/2026.1 --format mace --split train --out training
  hullforge export 2026.1 --format json --rows structures --functional PBE --out entries"""


def add(commands: Any) -> None:
    """Add `export` to the commands of `hullforge`."""
    sub = commands.add_parser(
        "export",
        help="write a release in the formats of other programs",
        description="Write a release in the formats of other programs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument("folder", type=Path, help="folder of a release")
    sub.add_argument(
        "--format",
        required=True,
        choices=("extxyz", "mace", "nequip", "deepmd", "npz", "ase-db", "lmdb", "json", "colabfit"),
        help="see below",
    )
    sub.add_argument(
        "--rows",
        choices=("frames", "structures"),
        help="every ionic step, or the final structures with distances to the hull (default: frames; json: structures)",
    )
    sub.add_argument(
        "--functional", action="append", default=[], metavar="NAME", help="only this one; may be repeated"
    )
    sub.add_argument("--split", default="", metavar="SIDE", help="only train, validation or test")
    sub.add_argument(
        "--energy",
        choices=("energy", "free_energy"),
        default="energy",
        help="extrapolated to zero smearing, or the one that forces belong to (default: %(default)s)",
    )
    sub.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="one file per functional")
    sub.set_defaults(run=_export)


def _export(a: argparse.Namespace) -> int:
    """Export, and say what was written and left out; 1 when there was nothing."""
    from hullforge.release import export
    from hullforge.release.export import Energy, Format, Kind, Wish

    rows = a.rows or ("structures" if a.format == "json" else "frames")
    wish = Wish(Format(a.format), Kind(rows), tuple(a.functional), a.split, Energy(a.energy))
    written = export.run(a.folder, a.out, wish)
    print("\n".join(part.line() for part in written))
    return 0 if any(part.rows for part in written) else 1
