"""`python -m benchmarks NAME [--long]`: run one benchmark; `python -m benchmarks --list` names them all.

Goes out: a small table, and as the last line of the standard output one JSON object. The exit status is 0 when the
benchmark ran, whatever it found, 1 when something that it needs is absent, 2 for a name that is unknown.
"""

import argparse
import os
import sys

# Before numpy and torch are loaded: everything is measured per CPU second of one thread.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

from benchmarks import runner  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure hullforge.")
    parser.add_argument("name", nargs="?", help="the benchmark to run")
    parser.add_argument("--long", action="store_true", help="measure more, up to hours")
    parser.add_argument("--list", action="store_true", help="name all benchmarks, a line each")
    given = parser.parse_args(arguments)
    if given.list:
        width = max(map(len, runner.BENCHMARKS))
        for name, line in runner.BENCHMARKS.items():
            print(f"{name:<{width}}  {line}")
        return 0
    if given.name not in runner.BENCHMARKS:
        asked = "no benchmark is named" if given.name is None else f"no benchmark is called '{given.name}'"
        print(f"{asked}; there are {', '.join(runner.BENCHMARKS)}", file=sys.stderr)
        return 2
    return runner.run(given.name, long=given.long)


if __name__ == "__main__":
    sys.exit(main())
