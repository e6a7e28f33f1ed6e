"""A campaign of real DFT is killed and goes on: no finished calculation is computed twice."""

import time

import psutil
import pytest
from test_campaign import kill_tree

from hullforge.store import tables

pytestmark = [pytest.mark.campaign, pytest.mark.slow, pytest.mark.gpaw]


def test_no_finished_dft_calculation_is_computed_twice(make_campaign):
    campaign = make_campaign(
        "config/config.yaml",
        elements=["Li", "Al"],
        prototypes={"library": "aflow", "max_sites": 1, "nspecies": [1]},
        bootstrap={"elements_share": 1.0},
        prerelax={"backend": "none"},
        functionals=["PBE"],
        rounds=[{"budget": 6, "batches": 1}],
        training={"epochs": 5},
    )
    process = campaign.start()
    deadline = time.monotonic() + 900
    while len(list(campaign.results.glob("work/*/*/*/done.json"))) < 2:
        assert process.poll() is None, (campaign.folder / "snakemake.out").read_text()[-4000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kill_tree(process)
    assert not [p for p in psutil.process_iter(["cwd"]) if str(campaign.folder) in (p.info["cwd"] or "")]
    finished = {p.parent.name: p.read_bytes() for p in campaign.results.glob("work/*/*/*/done.json")}
    stamps = {p.parent.name: p.stat().st_mtime_ns for p in campaign.results.glob("work/*/*/*/done.json")}
    restarted = campaign.start()
    while restarted.poll() is None:
        for path in campaign.results.glob("work/*/*/*/done.json"):
            name = path.parent.name
            if name in finished:
                try:
                    assert path.stat().st_mtime_ns == stamps[name], f"{name} was computed again"
                except FileNotFoundError:  # swept after sealing
                    continue
        time.sleep(0.05)
    assert restarted.returncode == 0, (campaign.folder / "snakemake.out").read_text()[-4000:]
    done = tables.read_rows(campaign.results / "round-000" / "calculations.parquet", "calculations")
    assert set(finished) <= {row["calculation_id"] for row in done}
