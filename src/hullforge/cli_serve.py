"""The command `hullforge serve`: a release as a web service.

Comes in: a release folder. Goes out: its sub-parser, bound to one function; modules are imported inside, as in
`hullforge.cli`.
"""

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add `serve` to the commands of `hullforge`."""
    sub = commands.add_parser(
        "serve",
        help="answer OPTIMADE queries about a release, read-only, on this machine",
        description="Answer OPTIMADE queries about a release, read-only, on this machine.",
        epilog="example:\n  hullforge serve results/laptop/release/2026.1 --port 5001",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument("folder", type=Path, help="folder of a release")
    sub.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 lets others in (default: %(default)s, this machine alone)",
    )
    sub.add_argument(
        "--port", type=int, default=5000, help="port to listen on; 0: any free one (default: %(default)s)"
    )
    sub.set_defaults(run=_serve)


def _serve(a: argparse.Namespace) -> None:
    from hullforge.release import serve

    serve.run(a.folder, a.host, a.port)
