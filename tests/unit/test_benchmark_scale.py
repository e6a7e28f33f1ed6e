"""Benchmarks of large campaigns, with small ones: they plan, join and look at what they say."""

import dataclasses

from benchmarks import collecting, made_campaign, planning, status_latency


def test_planning_counts_the_jobs_of_open_rounds_only(tmp_path):
    plans = planning.measure(tmp_path, (1,), 60, 2)
    jobs = plans["1 open"].jobs
    assert (jobs["dft"], jobs["prerelax"], jobs.get("screen", 0)) == (6, 2, 0)
    after = plans["1 sealed, 1 open"].jobs
    assert (after["dft"], after["prerelax"], after["screen"]) == (6, 2, 50)
    assert all(plan.cpu_s > 0 and plan.peak_gib > 0.05 for plan in plans.values())


def test_a_sealed_round_of_the_planning_benchmark_is_as_the_generator_makes_it(tmp_path):
    shape = made_campaign.Shape(60, 2, 2, 1)
    planning.sealed_round(tmp_path / "empty", shape)
    settings = made_campaign.campaign(tmp_path / "made", shape)
    made_campaign.seal_round(settings, made_campaign.write_round(settings, 0, shape))

    def names(folder):
        return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}

    assert names(tmp_path / "empty" / "made") == names(settings.folder)


def test_collecting_measures_both_ways_on_the_same_rows(tmp_path):
    ours, plain = collecting.made((60, 3), tmp_path)
    assert ours.frames == plain.frames > 300
    assert (ours.way, ours.structures) == ("hullforge collect", 60)
    told = collecting.outcome([ours, plain, dataclasses.replace(ours, frames=9999), plain])
    assert told.holds is None
    judged = dataclasses.replace(ours, structures=500_000, frames=9999)
    assert collecting.outcome([ours, plain, judged, plain]).holds
    assert not collecting.outcome([ours, plain, dataclasses.replace(judged, peak_gib=4.1), plain]).holds


def test_status_is_asked_about_all_calculations_that_were_laid_out(tmp_path):
    cpu, clock, counted = status_latency.look(status_latency.lay_out(tmp_path, 60, 3))
    assert cpu > 0
    assert clock > 0
    assert counted >= 2 * 60
