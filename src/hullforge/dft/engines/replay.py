# ruff: noqa: ARG002 -- the interface offers more than a table needs
"""The engine `replay`: answers from a table of known results instead of computing. It computes NOTHING.

It lets a campaign's strategy be tried out on existing data, through the same stages, files and child processes as
a campaign that pays for its answers. Comes in: the table `replay` (`hullforge replay-table`), looked up once per
calculation by the runner; the answer goes to the child in `StepInput.physics`, so that the child needs neither
the table nor a package and starts in hundredths of a second. A candidate that the table lacks is a failure with the
reason `not_in_table`. The table's content, not its place, is the version of the engine.
"""

import json
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    from hullforge.dft.engines.own_files import OwnFiles
except ImportError:  # the child process, which is started without any package, and needs none
    OwnFiles = object  # type: ignore[misc, assignment]

if TYPE_CHECKING:
    # Not at run time: the child process is nothing but its start.
    from hullforge.config import Engine as EngineConfig
    from hullforge.config import Execution
    from hullforge.dft.protocol import Protocol, Step
    from hullforge.dft.step import Geometry

Answers = dict[str, dict[str, Any]]
COLUMNS = ("candidate_id", "functional", "numbers", "cell", "positions", "pbc", "energy_per_atom")


class ReplayEngine(OwnFiles):
    """The interface of `hullforge.dft.engines.base.Engine`."""

    name = "replay"
    warning = (
        "REPLAYED, NOT COMPUTED: these numbers come from a table of earlier results and show how a campaign would"
        " have chosen among them; energies are on the table's own scale"
    )

    def __init__(self) -> None:
        self._tables: dict[Path, Answers] = {}

    def check(
        self,
        elements: Sequence[str],
        protocol: "Protocol",
        functionals: Sequence[str],
        config: "EngineConfig",
        execution: "Execution | None" = None,
    ) -> None:
        """Raise `EngineError` or `TableError` for a table that is absent, of another functional or version."""
        from hullforge.errors import EngineError

        assert config.table is not None
        for functional in functionals:
            protocol.theory(functional, config)
        answers = self.answers(config.table)
        found = sorted({answer["functional"] for answer in answers.values()})
        if list(functionals) != found:
            raise EngineError(
                f"engine replay: {config.table} holds results of {', '.join(found) or 'nothing'}, but the key"
                f" functionals asks for {', '.join(functionals)}; a table is replayed with its own functional alone"
            )
        version = version_of(answers)
        if config.version != version:
            raise EngineError(
                f"engine replay: {config.table} is version {version}, but engine.version says '{config.version}';"
                f" results of two tables don't mix: set engine.version to {version}, or take the other table"
            )

    def run_type(self, functional: str, elements: Sequence[str], protocol: "Protocol") -> str:
        """Replayed, whatever the table's own theory is called."""
        return "replay"

    def hubbards(self, functional: str, elements: Sequence[str], protocol: "Protocol") -> dict[str, float]:
        """None that this engine knows of."""
        return {}

    def pseudopotentials(
        self, functional: str, elements: Sequence[str], protocol: "Protocol", config: "EngineConfig"
    ) -> list[str]:
        """None that this engine knows of."""
        return []

    def physics(
        self, functional: str, step: "Step", geometry: "Geometry", protocol: "Protocol"
    ) -> dict[str, Any]:
        """Give the functional's name."""
        return {"xc": functional}

    def numerics(
        self, functional: str, step: "Step", geometry: "Geometry", protocol: "Protocol"
    ) -> dict[str, Any]:
        """Nothing: there is nothing to converge."""
        return {}

    def known(self, candidate_id: str, config: "EngineConfig") -> dict[str, Any]:
        """Give the table's row of a candidate as `answer`, None where there is none."""
        assert config.table is not None
        answer = self.answers(config.table).get(candidate_id)
        return {"answer": answer, "table": config.version}

    def ladder(self, code: str) -> list[dict[str, Any]]:
        """Nothing: asking again gives the same answer."""
        return []

    def command(self, execution: "Execution | None" = None) -> list[str]:
        """Run this module without its package, on the standard library alone: that starts fastest."""
        return [sys.executable, "-I", "-S", __file__]

    def answers(self, path: Path) -> Answers:
        """Give the rows of a table by candidate, read once."""
        if path not in self._tables:
            from hullforge.store import tables

            rows = tables.read_rows(path, "replay", COLUMNS)
            self._tables[path] = {row.pop("candidate_id"): row for row in rows}
        return self._tables[path]


def version_of(answers: Answers) -> str:
    """Give the version of a table: a short hash of candidates, functionals, geometries and energies."""
    from hullforge.store import ids

    return ids.content_id("r1", answers)[:11]


def main() -> int:
    """Answer the step in the current folder; runs without numpy, pydantic or hullforge."""
    folder = Path.cwd()
    step = json.loads((folder / "step.json").read_text())
    answer = step["physics"]["answer"]
    result: dict[str, Any]
    if answer is None:
        message = f"the table of known results ({step['physics']['table']}) has no row for this candidate"
        result = {"status": "error", "code": "not_in_table", "message": message}
    else:
        geometry = {name: answer[name] for name in ("numbers", "cell", "positions", "pbc")}
        frame = {"geometry": geometry, "energy": answer["energy_per_atom"] * len(geometry["numbers"])}
        (folder / "frames.jsonl").write_text(json.dumps(frame) + "\n")
        result = {"status": "ok", "final": frame, "n_ionic_steps": 1}
    usage = resource.getrusage(resource.RUSAGE_SELF)
    result["cpu_time_s"] = round(usage.ru_utime + usage.ru_stime, 3)
    result["max_memory_mib"] = round(usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), 1)
    temporary = folder / f".result.json.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(result, indent=1))
    temporary.replace(folder / "result.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
