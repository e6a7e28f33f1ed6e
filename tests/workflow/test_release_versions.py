"""The rule `release` makes another version of a campaign that is done, and says what changed since the one before."""

import sys
from pathlib import Path

import ase
import pytest

from hullforge.release import build
from hullforge.release.verify import verify
from hullforge.store import seal, tables

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
import synthetic_campaign


@pytest.mark.slow
def test_the_version_before_is_named_on_the_command_line(make_campaign):
    place = make_campaign()
    (place.folder / "results").mkdir()
    settings = synthetic_campaign.campaign(
        place.folder / "results",
        engine={"name": "emt", "version": ase.__version__},
        rounds=[{"budget": 5}, {"budget": 4}],
    )
    seal.claim(settings.folder, "invented", 2)
    rounds = synthetic_campaign.make(settings)
    for round_ in rounds:
        seal.seal(round_, sorted(round_.rglob("*.parquet")), settings.folder)
    first = settings.folder / "release" / "2026.1"
    build.run(settings, rounds[:1], first)
    place.config = settings.model_dump(mode="json", exclude={"output"}) | {"output": "results"}
    place.edit()

    done = place.run("release", "--config", "version=2026.10", "previous=2026.3")
    assert done.returncode != 0
    assert "release.previous" in done.stdout

    done = place.run("release", "--config", "version=2026.10", "previous=2026.1")
    assert done.returncode == 0, done.stdout[-4000:]
    second = settings.folder / "release" / "2026.10"
    assert verify(second, first) == []
    rows = tables.read_rows(second / "data" / "changes.parquet", "changes")
    assert sum(row["table"] == "calculations" for row in rows) == 4
    assert "Since version 2026.1." in (second / "CHANGES.md").read_text()
    assert verify(settings.folder) == []
