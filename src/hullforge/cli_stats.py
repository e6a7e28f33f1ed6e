"""The command `hullforge stats`: what a release holds, at a glance.

Comes in: a release folder. Goes out: its sub-parser, bound to one function; modules are imported inside, as in
`hullforge.cli`.
"""

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add `stats` to the commands of `hullforge`."""
    sub = commands.add_parser(
        "stats",
        help="what a release holds: counts, elements, distances, diversity, as a page and pictures",
        description="Write a page and pictures of what a release holds.",
        epilog="example:\n  hullforge stats results/laptop/release/2026.1 --against 2025.2 --out stats",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument("folder", type=Path, help="folder of a release")
    sub.add_argument("--against", type=Path, metavar="DIR", help="another release to compare with")
    sub.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="stats.html, stats.json, *.png"
    )
    sub.set_defaults(run=_stats)


def _stats(a: argparse.Namespace) -> int:
    """Write the page and print a short table."""
    from hullforge.reports import contents

    print("\n".join(contents.run(a.folder, a.out, a.against)))
    return 0
