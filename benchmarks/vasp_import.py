"""How fast folders in which VASP ran are imported, against reading them alone and against pymatgen's Vasprun.

Comes in: real outputs of VASP from the tests' data. Goes out: runs per CPU second of one core. A folder of 1 000 runs is
made of them, plain and compressed, each with a cell of its own: good ones, with their OUTCAR where there is one,
unconverged ones, ones that are cut short, and foreign files. Before anything is timed, the import must give each good
run the energy and volume that pymatgen reads, and name each bad one with its reason. The bounds: importing takes at
most 1.3 times the time of reading all runs with our own parser, and no more than pymatgen's Vasprun on the good ones.
"""

import gzip
import lzma
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import runner
from hullforge.dft.engines import vasp_parse
from hullforge.imports import vasp
from hullforge.store import tables

DATA = Path(__file__).parents[1] / "tests" / "data" / "vasp"
RUNS = 1_000
#: Times the time of reading alone.
BOUND = 1.3
#: Of 25 runs, so many are of a kind.
SHARES = {"good": 16, "unconverged": 3, "truncated": 3, "foreign": 3}
GOOD = ("Li-relaxation", "oxide", "Si-relaxation", "LiH-r2scan")
FOREIGN = (
    b"<?xml version='1.0'?><html><body>404</body></html>",
    b"",
    b"\x89PNG\r\n\x1a\n\x00\x00\x00",
    b'{"not": "VASP"}',
    b"Program PWSCF v.7.2 starts\nJOB DONE.\n",
)


@dataclass
class Made:
    """The folder: names of good runs with their file, and the reason that each bad one must get."""

    good: dict[str, Path] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)


def make(root: Path, n_runs: int = RUNS) -> Made:
    """Write the runs below `root`."""
    made = Made()
    texts = {
        name: _text(name) for name in ("Li-relaxation", "LiH-r2scan", "Si-relaxation", "oxide-unconverged")
    }
    # As if the user had allowed more electronic steps than the hundred that each ionic step took.
    texts["oxide"] = _tag(texts["oxide-unconverged"], "NELM", "200")
    kinds = [kind for kind, share in SHARES.items() for _ in range(share)]
    for number in range(n_runs):
        kind, which = kinds[number % len(kinds)], number // len(kinds) + number
        folder = root / f"block-{number // 100:02d}" / f"launcher-{number:04d}"
        folder.mkdir(parents=True)
        name = f"{root.name}/{folder.relative_to(root).as_posix()}"
        if kind == "foreign":
            content, compressed = FOREIGN[which % len(FOREIGN)], False
            made.bad[name] = "truncated" if not content else "foreign"
        else:
            text, reason = _run(kind, which, texts)
            content, compressed = _scaled(text, 1 + 1e-5 * number).encode("latin-1"), number % 2 == 0
            if kind == "truncated":
                content = content[: len(content) * 6 // 10]
            if reason:
                made.bad[name] = reason
        path = folder / ("vasprun.xml.gz" if compressed else "vasprun.xml")
        path.write_bytes(gzip.compress(content, 6) if compressed else content)
        if kind == "good":
            made.good[name] = path
            outcar = DATA / GOOD[which % len(GOOD)] / "OUTCAR.xz"
            if outcar.is_file():
                (folder / "OUTCAR").write_bytes(lzma.decompress(outcar.read_bytes()))
    return made


def _run(kind: str, which: int, texts: Mapping[str, str]) -> tuple[str, str]:
    """Give a run's text, and the reason that it must get."""
    if kind == "unconverged":
        if which % 2:
            return texts["oxide-unconverged"], "scf_not_converged"
        return _tag(texts["Li-relaxation"], "NSW", "3"), "ionic_not_converged"
    return texts[GOOD[which % len(GOOD)]], "truncated" if kind == "truncated" else ""


def _text(name: str) -> str:
    return lzma.decompress((DATA / name / "vasprun.xml.xz").read_bytes()).decode("latin-1")


def _tag(text: str, tag: str, value: str) -> str:
    return re.sub(rf'(<i[^>]* name="{tag}"[^>]*>)[^<]*(</i>)', rf"\g<1>{value}\g<2>", text)


def _scaled(text: str, factor: float) -> str:
    """Give a run whose cells are all larger by `factor`, so that it is a calculation of its own."""

    def block(match: re.Match[str]) -> str:
        return re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]) * factor:.8f}", match[0])

    return re.sub(r'<varray name="basis" >.*?</varray>', block, text, flags=re.DOTALL)


def check(made: Made, root: Path, out: Path) -> None:
    """Import, and compare with pymatgen and with what was made. Raises `AssertionError`."""
    vasp.run([root], out, progress=False)
    rows = {row["source"]: row for row in tables.read_rows(out / "calculations.parquet", "calculations")}
    assert set(rows) == set(made.good), "other runs became calculations than are good"
    for name, path in made.good.items():
        wanted = _pymatgen(path)
        assert rows[name]["energy"] == float(wanted.final_energy), f"{name}: another energy than pymatgen's"
        volume = wanted.ionic_steps[-1]["structure"].volume
        assert abs(rows[name]["volume"] - volume) < 1e-9 * volume, f"{name}: another volume than pymatgen's"
    failed = {row["source"]: row["reason"] for row in tables.read_rows(out / "failures.parquet", "failures")}
    refused = {row["file"]: row["reason"] for row in tables.read_rows(out / "refusals.parquet", "refusals")}
    assert failed | refused == made.bad, "a bad run is not named, or has another reason"
    assert not set(failed) & set(refused), "a run is named twice"


def _pymatgen(path: Path, **options: bool) -> Any:
    from pymatgen.io.vasp.outputs import Vasprun

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Vasprun(str(path), parse_potcar_file=False, **options)


def run(*, long: bool, n_runs: int = RUNS) -> runner.Outcome:
    """Make the folder, check, then let all sides take turns; five rounds if `long`."""
    with tempfile.TemporaryDirectory() as scratch:
        root, out = Path(scratch) / "runs", Path(scratch) / "out"
        made = make(root, n_runs)
        check(made, root, out)
        folders = sorted(path.parent for path in root.rglob("vasprun.xml*"))
        only_good = Path(scratch) / "good"
        for name, path in made.good.items():
            shutil.copytree(path.parent, only_good / name)

        def read_all() -> int:
            for folder in folders:
                try:
                    vasp_parse.read_run(folder)
                except vasp_parse.VaspOutputError:
                    continue
            return len(folders)

        def import_all(where: Path, n: int) -> int:
            vasp.run([where], out, progress=False)
            return n

        def pymatgen(**options: bool) -> int:
            for path in made.good.values():
                _pymatgen(path, **options)
            return len(made.good)

        n_good = len(made.good)
        works: Mapping[str, Callable[[], int]] = {
            "import, all runs": lambda: import_all(root, len(folders)),
            "our parser alone, all runs": read_all,
            "import, good runs": lambda: import_all(only_good, n_good),
            "pymatgen's Vasprun, good runs": pymatgen,
            "the same without eigenvalues and DOS": lambda: pymatgen(parse_dos=False, parse_eigen=False),
        }
        # All threads count: Arrow has some of its own.
        sides = {
            name: lambda work=work: runner.rate(work, time.process_time)  # type: ignore[misc]
            for name, work in works.items()
        }
        rates = runner.interleaved(sides, 5 if long else 1)
    names = list(works)
    over = rates.ratio(names[1], names[0])
    ours_against = rates.ratio(names[2], names[3])
    # Time of all the runs, bad ones included, against pymatgen's time for the good ones alone.
    total = rates.ratio(names[0], names[3]) * n_good / len(folders)
    print(
        f"{len(folders)} runs: {n_good} good, {len(made.bad)} unconverged, cut short or foreign; every one named rightly"
    )
    print(runner.table(["", "runs a CPU second"], [[name, rates.median(name)] for name in names]))
    print(f"import over our parser alone: {over:.2f} times its time; the bound is {BOUND}")
    print(f"all runs against pymatgen on the good ones: {1 / total:.2f} times its time; the bound is 1")
    return runner.Outcome(
        {
            "runs": len(folders),
            "import_runs_per_cpu_s": rates.median(names[0]),
            "parser_runs_per_cpu_s": rates.median(names[1]),
            "import_good_runs_per_cpu_s": rates.median(names[2]),
            "pymatgen_good_runs_per_cpu_s": rates.median(names[3]),
            "pymatgen_lean_good_runs_per_cpu_s": rates.median(names[4]),
            "import_over_parser": over,
        },
        holds=over <= BOUND and total >= 1,
        ratio=ours_against,
        peer="pymatgen's Vasprun alone, same good runs",
    )
