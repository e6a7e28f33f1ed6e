"""The command `hullforge import`: what others published, as tables of hullforge.

Comes in: a kind of source and where it is. Goes out: the sub-parsers of the kinds, each bound to one function.
Reads nothing itself; modules are imported inside the commands, as in `hullforge.cli`.
"""

import argparse
from collections.abc import Callable
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
    parser.add_subparsers(title="kinds of sources", metavar="KIND", required=True)


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
