"""Whether a release is the same wherever it is made: `SHA256SUMS` of two releases, logical hashes under two pyarrows.

Comes in: a made-up campaign of two rounds and two functionals (that of the tests, with more elements). It is released
twice in different folders; for the second one all input rows are shuffled, other numbers of them lie in each round's
files, and the files have other compression and row groups. Then other versions of pyarrow, installed for the purpose
into a temporary folder, read, hash and write the tables. Goes out: whether both `SHA256SUMS` are the same bytes, how many
tables each version reads, for how many the logical hashes are equal, and for how many a plain SHA-256 would be. Before
that, hashes must change with the last bit of one number. Bound: the sums are the same, every version reads every table,
and its logical hash is the same, as it is of what the version writes.
"""

import importlib.util
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import runner
from hullforge import config
from hullforge.release import build, layout, logical
from hullforge.release.verify import verify
from hullforge.store.structures import NUMBERS

REPOSITORY = Path(__file__).parents[1]
VERSIONS = ("24.0.0", "26.0.0")
#: Run with the other pyarrow: hash the tables of a release, write them into another folder, say which version it was.
SCRIPT = """
import json, sys
from pathlib import Path
import pyarrow
from hullforge.errors import TableError
from hullforge.release import layout, logical
from hullforge.store import tables
folder, out = (Path(given) for given in sys.argv[1:])
hashes, unreadable = {}, []
for path in layout.tables(folder):
    name = path.split("/")[1].removesuffix(".parquet")
    try:
        hashes[path] = logical.of_file(folder / path)
    except TableError:
        unreadable.append(path)
        continue
    tables.write(out / path, name, tables.read(folder / path, name))
print(json.dumps({"version": pyarrow.__version__, "hashes": hashes, "unreadable": unreadable}))
"""


def _synthetic() -> ModuleType:
    """Import the tests' made-up campaign."""
    spec = importlib.util.spec_from_file_location(
        "made_up_campaign", REPOSITORY / "tests" / "unit" / "synthetic_campaign.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def campaign(folder: Path, n_elements: int) -> tuple[config.Campaign, list[Path]]:
    """Write the tables of a campaign over the first elements: all unaries and all ordered pairs."""
    synthetic: Any = _synthetic()
    elements = [name for name, number in NUMBERS.items() if 1 <= number <= n_elements]
    rng = random.Random(0)
    candidates = [("p1-fcc", (e,), 0, -rng.uniform(1, 3), -rng.uniform(2, 6)) for e in elements]
    for number, pair in enumerate(itertools.permutations(elements, 2)):
        energy = None if number % 17 == 3 else -rng.uniform(2, 8)
        other = None if energy is None or number % 3 else 2 * energy
        candidates.append(("p1-cscl", pair, number % 2, energy, other))
    synthetic.CANDIDATES = tuple(candidates)
    folder.mkdir(parents=True)
    settings = synthetic.campaign(folder, elements=elements)
    return settings, synthetic.make(settings)


def disturb(folder: Path, rounds: list[Path], seed: int = 1) -> int:
    """Shuffle the rows of all tables, move rows between the rounds' files, write other files; gives the rows moved."""
    rng = np.random.default_rng(seed)
    moved = 0
    for path in sorted(rounds[0].rglob("*.parquet")):
        parts = [round_ / path.relative_to(rounds[0]) for round_ in rounds]
        if "hull" in path.parts:
            for part in parts:
                _write_shuffled(part, pq.read_table(part), rng)
            continue
        given = [pq.read_table(part) for part in parts]
        every = pa.concat_tables(given)
        every = every.take(rng.permutation(every.num_rows))
        first = every.num_rows // 7
        moved += abs(given[0].num_rows - first)
        _write_shuffled(parts[0], every.slice(0, first), rng)
        _write_shuffled(parts[1], every.slice(first), rng)
    prototypes = folder / "prototypes.parquet"
    _write_shuffled(prototypes, pq.read_table(prototypes), rng)
    return moved


def _write_shuffled(path: Path, table: pa.Table, rng: np.random.Generator) -> None:
    table = table.take(rng.permutation(table.num_rows))
    pq.write_table(table, path, compression="snappy", row_group_size=int(rng.integers(50, 500)))


def under(packages: Path, folder: Path, out: Path) -> tuple[str, dict[str, str], list[str]]:
    """Hash and write the tables with the pyarrow in `packages`; gives its version, hashes, and what it can't read."""
    paths = [str(packages), str(REPOSITORY / "src")]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(out)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    return found["version"], found["hashes"], found["unreadable"]


def install(folder: Path) -> list[Path]:
    """Install other versions of pyarrow than this one below `folder`. Raises `UnavailableError` where pip can't."""
    made = []
    for version in (version for version in VERSIONS if version != pa.__version__):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run(
            [*command, "--target", str(folder / version), f"pyarrow=={version}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise runner.UnavailableError(
                f"this benchmark installs pyarrow {version} from PyPI, which failed: {done.stderr[-500:]}"
            )
        made.append(folder / version)
    return made


def check_sensitivity(path: Path, scratch: Path) -> None:
    """Make sure that the last bit of one energy counts. Raises `AssertionError`."""
    table = pq.read_table(path)
    energies = table["energy"].to_numpy().copy()
    energies[len(energies) // 2] = np.nextafter(energies[len(energies) // 2], 0)
    changed = table.set_column(
        table.column_names.index("energy"), table.schema.field("energy"), pa.array(energies)
    )
    pq.write_table(changed, scratch)
    assert logical.of_file(scratch) != logical.of_file(path), "the hash doesn't see the last bit of an energy"


def run(*, long: bool, n_elements: int | None = None, packages: list[Path] | None = None) -> runner.Outcome:
    """Release a campaign over 30 elements (80 if `long`) twice; `packages`: folders of other pyarrows, else from PyPI."""
    n_elements = n_elements or (80 if long else 30)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        packages = install(scratch / "packages") if packages is None else packages
        settings, rounds = campaign(scratch / "here", n_elements)
        one, other = scratch / "release-one", scratch / "elsewhere" / "deeper" / "release"
        build.run(settings, rounds, one)
        problems = verify(one)
        assert not problems, problems[0]
        there = shutil.copytree(settings.folder, scratch / "there" / settings.folder.name)
        moved_rounds = [there / path.name for path in rounds]
        moved = disturb(there, moved_rounds)
        build.run(settings.model_copy(update={"output": str(there.parent)}), moved_rounds[::-1], other)
        same_sums = (one / layout.SUMS).read_bytes() == (other / layout.SUMS).read_bytes()

        paths = layout.tables(one)
        frames = one / layout.table("frames", "PBE")
        check_sensitivity(frames, scratch / "changed.parquet")
        listed = layout.listed(one, layout.LOGICAL)
        rows: list[list[Any]] = []
        for number, package in enumerate(packages):
            out = scratch / f"rewritten-{number}"
            version, hashes, unreadable = under(package, one, out)
            written = [path for path in paths if path not in unreadable]
            rows.append(
                [
                    version,
                    len(written),
                    sum(hashes[path] == listed[path] for path in written),
                    sum(logical.of_file(out / path) == listed[path] for path in written),
                    sum(layout.sha256(out / path) == layout.sha256(one / path) for path in written),
                ]
            )
        start = time.process_time()
        logical.of_file(frames)
        seconds = time.process_time() - start
        nrows = sum(pq.read_metadata(one / path).num_rows for path in paths)
        nframes = pq.read_metadata(frames).num_rows
    print(
        f"{len(paths)} tables, {nrows} rows, {n_elements} elements; {moved} input rows in another round's file"
    )
    print(
        f"SHA256SUMS of both releases (pyarrow {pa.__version__}): {'identical' if same_sums else 'DIFFERENT'}"
    )
    head = [
        "pyarrow",
        "tables it reads",
        "logical hashes equal",
        "of those it wrote",
        "SHA-256 of those equal",
    ]
    print(runner.table(head, rows))
    figures: dict[str, float | None] = {
        "sha256sums_identical": float(same_sums),
        "tables": len(paths),
        "rows": nrows,
        "other_pyarrows": len({row[0] for row in rows} - {pa.__version__}),
        "tables_read": min(row[1] for row in rows),
        "logical_hashes_equal": min(row[2] for row in rows),
        "frames_hashed_per_cpu_second": nframes / max(seconds, 1e-9),
    }
    alike = all(row[1] == row[2] == row[3] == len(paths) for row in rows)
    judged = figures["other_pyarrows"] == len(rows)
    return runner.Outcome(figures, same_sums and alike if judged else None)
