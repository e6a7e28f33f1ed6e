"""The command `hullforge hull`: the convex hull of any files with energies.

Comes in: files. Goes out: its sub-parser, bound to one function; modules are imported inside, as in `hullforge.cli`.
"""

import argparse
from pathlib import Path
from typing import Any

_EPILOG = """examples:
  hullforge hull alexandria_000.json.bz2 --chemsys Li-Fe-O --plot Li-Fe-O.png
  hullforge hull entries.parquet results/mine/round-000/calculations.parquet --out hull.csv
  hullforge hull entries.parquet --query new.csv --column formula=composition --out distances.csv"""


def add(commands: Any) -> None:
    """Add `hull` to the commands of `hullforge`."""
    sub = commands.add_parser(
        "hull",
        help="place entries of any files on their convex hull, or measure others against it",
        description="Place entries of any files on their convex hull, or measure others against it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="table of hullforge, .csv or .parquet of formulas and energies, .extxyz, or .json of computed entries",
    )
    sub.add_argument(
        "--query",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="measure these rows against the hull, which they don't change",
    )
    sub.add_argument(
        "--chemsys", default="", metavar="A-B", help="list entries of this system and its subsystems"
    )
    sub.add_argument(
        "--rows", type=int, default=20, metavar="N", help="how many to list (default: %(default)s)"
    )
    sub.add_argument(
        "--energy",
        choices=("auto", "raw", "corrected", "formation"),
        default="auto",
        help="which energies: auto takes corrected ones where all rows have a correction",
    )
    sub.add_argument("--theory", default="", metavar="ID", help="place the entries of this theory alone")
    sub.add_argument(
        "--any-theory", action="store_true", help="place energies of several theories together all the same"
    )
    sub.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="MEANING=NAME",
        help="what a file calls id, formula, energy_per_atom (eV/atom), energy (eV per cell), nsites; may be repeated",
    )
    sub.add_argument("--out", type=Path, metavar="FILE", help="write all placed rows, .csv or .parquet")
    sub.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw the hull of --chemsys, two or three elements: .png, .svg, .pdf",
    )
    sub.set_defaults(run=_hull)


def _hull(a: argparse.Namespace) -> int:
    from hullforge.errors import ConfigError
    from hullforge.imports.columns import Columns
    from hullforge.imports.files import Scale
    from hullforge.reports import hull_files

    if a.plot and (a.query or not a.chemsys):
        raise ConfigError(
            "--plot draws the entries of one system: it needs --chemsys and can't be used with --query"
        )
    wish = hull_files.Wish(
        Scale(a.energy), a.any_theory, Columns.parsed(a.column), a.chemsys, a.rows, a.theory
    )
    answer = hull_files.answer(a.files, a.query, wish)
    print("\n".join(answer.lines))
    if a.out:
        hull_files.write(a.out, answer.placed)
        print(f"{a.out}: all {answer.placed.num_rows} rows")
    if a.plot:
        from hullforge.reports import hull_figures

        hull_figures.convex_hull(a.plot, a.chemsys.split("-"), answer.placed)
        print(f"{a.plot}: the hull of {a.chemsys}")
    return 0
