"""What all tests share: campaigns run through Snakemake in folders of their own."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


#: Files that take longest, in the order in which they should start when several processes share the tests.
LONGEST_FIRST = (
    "test_kills.py",
    "test_laptop.py",
    "test_campaign.py",
    "test_vasp_campaign.py",
    "test_slurm_campaign.py",
    "test_gpaw.py",
    "test_resume_gpaw.py",
    "test_replay_campaign.py",
    "test_bad_input.py",
)


def pytest_collection_modifyitems(items):
    """Start the longest files first, so that no process waits at the end for one of them."""
    rank = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


class Campaign:
    """A copy of the workflow in its own folder, so that tests may edit rules and kill what they start."""

    def __init__(self, folder: Path, config: Path | str, **edits):
        import yaml

        self.folder = folder
        for name in ("Snakefile", "rules", "envs", "profiles"):
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
        self.config = yaml.safe_load((ROOT / config).read_text())
        self.edit(**edits)

    def edit(self, **edits) -> None:
        """Change keys of the configuration; a double underscore goes one level down."""
        import yaml

        for key, value in edits.items():
            section = self.config
            *path, last = key.split("__")
            for part in path:
                section = section.setdefault(part, {})
            section[last] = value
        (self.folder / "config").mkdir(exist_ok=True)
        (self.folder / "config" / "config.yaml").write_text(yaml.safe_dump(self.config))

    @property
    def results(self) -> Path:
        return self.folder / "results" / self.config["campaign"]

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

    def run(self, *arguments: str, timeout: float = 3600) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )

    def start(self) -> subprocess.Popen[bytes]:
        """Start Snakemake without waiting, in a session of its own."""
        with (self.folder / "snakemake.out").open("ab") as out:
            return subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env=self.environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def complete(self) -> "Campaign":
        """Run to the end; fails with Snakemake's words where it does not get there."""
        done = self.run()
        assert done.returncode == 0, done.stdout[-6000:]
        assert (self.results / "release").is_dir(), done.stdout[-6000:]
        return self

    def release(self) -> dict[str, str]:
        """SHA-256 of every file of the releases, by relative path."""
        return digests(self.results / "release")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder`, by relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def make_campaign(tmp_path):
    """Give a function that makes a campaign from a configuration of the repository, with edits."""
    made = []

    def make(config="config/test/emt.yaml", **edits) -> Campaign:
        folder = tmp_path / f"campaign-{len(made)}"
        folder.mkdir()
        made.append(folder)
        return Campaign(folder, config, **edits)

    return make


@pytest.fixture(scope="session")
def emt_campaign(tmp_path_factory) -> Campaign:
    """The undisturbed test campaign, run once; not to be changed."""
    return Campaign(tmp_path_factory.mktemp("emt"), "config/test/emt.yaml").complete()
