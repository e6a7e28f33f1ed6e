"""The command `hullforge diff`: what changed between two releases.

Comes in: two release folders. Goes out: its sub-parser, bound to one function; modules are imported inside, as in
`hullforge.cli`.
"""

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add `diff` to the commands of `hullforge`."""
    sub = commands.add_parser(
        "diff",
        help="say what changed between two releases",
        description="Say what changed between two releases: rows, hull distances, configuration. Exit code 0: no"
        " difference; 1: they differ; 2: one can't be read.",
        epilog="example: hullforge diff release/2026.1 release/2026.2 --json changes.json",
    )
    sub.add_argument("before", type=Path, help="folder of the older release")
    sub.add_argument("after", type=Path, help="folder of the newer release")
    sub.add_argument("--json", type=Path, metavar="FILE", help="also write everything, each row by its id")
    sub.set_defaults(run=_diff)


def _diff(a: argparse.Namespace) -> int:
    """Compare, print, and write the file where one is asked for; 1 when there is a difference."""
    from hullforge.release import diff
    from hullforge.store import atomic

    found = diff.diff(a.before, a.after)
    if a.json is not None:
        atomic.write_json(a.json, found.to_json())
    print(found.text())
    return 1 if found else 0
