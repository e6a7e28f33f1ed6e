"""Versions of a release: what came and went is listed, and no id ever stands for something else."""

import json
import shutil

import pytest
import synthetic_campaign

from hullforge import check, cli
from hullforge.errors import ConfigError, TableError
from hullforge.release import build, layout, verify_changes
from hullforge.release.verify import verify
from hullforge.store import ids, tables


def settings_of(folder, version, previous=None):
    release = {"version": version, "previous": previous, "title": "Invented numbers"}
    return synthetic_campaign.campaign(folder, release=release)


def made(folder, version, rounds, previous=None):
    """Release `rounds` as `version` and give its folder, which verifies against the one before."""
    settings = settings_of(folder, version, previous)
    out = settings.folder / "release" / version
    build.run(settings, rounds, out)
    assert verify(out, previous and out.parent / previous) == []
    return out


def listed(release):
    return tables.read_rows(release / layout.table("changes"), "changes")


def of(rows, table, change):
    return {row["id"]: row for row in rows if (row["table"], row["change"]) == (table, change)}


def pbe_ids(round_):
    return [
        r["calculation_id"]
        for r in tables.read_rows(round_ / "calculations.parquet", "calculations")
        if r["functional"] == "PBE"
    ]


@pytest.fixture
def rounds(tmp_path):
    return synthetic_campaign.make(settings_of(tmp_path, "2026.1"))


def edited(rounds, change):
    """Change every calculation of the rounds, and place them on their hulls again."""
    from hullforge.thermo import place

    for number, round_ in enumerate(rounds):
        path = round_ / "calculations.parquet"
        rows = tables.read_rows(path, "calculations")
        for row in rows:
            change(row)
        tables.write(path, "calculations", rows)
        for functional in ("PBE", "SCAN"):
            hull, references = (round_ / "hull" / f"{functional}{e}.parquet" for e in ("", "-references"))
            before = [r / "calculations.parquet" for r in rounds[: number + 1]]
            place.run(functional, number, before, hull, references)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The first round alone as 2026.1, and both as 2026.2."""
    folder = tmp_path_factory.mktemp("pair")
    rounds = synthetic_campaign.make(settings_of(folder, "2026.1"))
    return made(folder, "2026.1", rounds[:1]), made(folder, "2026.2", rounds, "2026.1")


def test_the_first_release_lists_nothing(tmp_path, rounds):
    first = made(tmp_path, "2026.1", rounds)
    assert listed(first) == []
    assert "first release" in (first / layout.CHANGES).read_text()
    assert json.loads((first / layout.DATASET).read_text())["previous"] is None


def test_what_a_round_adds_is_listed(tmp_path, rounds):
    made(tmp_path, "2026.9", rounds[:1])
    second = made(tmp_path, "2026.10", rounds, "2026.9")
    rows = listed(second)
    assert {row["change"] for row in rows} == {"added"}
    assert {row["version"] for row in rows} == {"2026.10"}
    assert set(pbe_ids(rounds[1])) < set(of(rows, "calculations", "added"))
    assert len(of(rows, "frames", "added")) == 2 * len(of(rows, "calculations", "added"))
    text = (second / layout.CHANGES).read_text()
    assert "Since version 2026.9" in text
    assert "| calculations | 4 | 0 | 0 | 0 |" in text


def test_the_same_inputs_give_the_same_bytes_whether_named_by_version_or_by_path(tmp_path, rounds):
    first = made(tmp_path, "2026.1", rounds[:1])
    second = made(tmp_path, "2026.2", rounds, "2026.1")
    shutil.copytree(first, tmp_path / "elsewhere" / "2026.1")
    settings = settings_of(tmp_path, "2026.2", str(tmp_path / "elsewhere" / "2026.1"))
    build.run(settings, rounds[::-1], tmp_path / "again")
    assert (tmp_path / "again" / layout.SUMS).read_text() == (second / layout.SUMS).read_text()


def test_an_id_that_comes_with_other_content_is_an_error_that_names_it(tmp_path, rounds):
    made(tmp_path, "2026.1", rounds)
    victim = pbe_ids(rounds[1])[0]

    def other_energy(row):
        if row["calculation_id"] == victim:
            row["energy"] += 1e-12

    edited(rounds, other_energy)
    settings = settings_of(tmp_path, "2026.2", "2026.1")
    out = settings.folder / "release" / "2026.2"
    with pytest.raises(TableError, match=rf"calculation_id {victim} .* other content: energy\."):
        build.run(settings, rounds, out)
    assert not out.exists()


def test_what_settings_decide_may_change(tmp_path, rounds):
    made(tmp_path, "2026.1", rounds)
    release = {"version": "2026.2", "previous": "2026.1", "title": "T", "curation": {"split": {"test": 0.9}}}
    settings = synthetic_campaign.campaign(tmp_path, release=release)
    out = settings.folder / "release" / "2026.2"
    build.run(settings, rounds, out)
    assert verify(out, out.parent / "2026.1") == []
    changed = of(listed(out), "calculations", "changed")
    assert changed
    assert all(row["columns"] == ["split"] for row in changed.values())


def test_an_id_left_out_is_carried_on_and_known_when_it_comes_back(tmp_path, rounds):
    made(tmp_path, "2026.1", rounds)
    gone = set(pbe_ids(rounds[1]))
    second = made(tmp_path, "2026.2", rounds[:1], "2026.1")
    withdrawn = of(listed(second), "calculations", "withdrawn")
    assert gone < set(withdrawn)
    frames = of(listed(second), "frames", "withdrawn")
    assert {row["reason"] for row in frames.values()} == {"calculation_left_out"}
    third = made(tmp_path, "2026.3", rounds[:1], "2026.2")
    assert of(listed(third), "calculations", "withdrawn") == withdrawn
    fourth = made(tmp_path, "2026.4", rounds, "2026.3")
    assert gone < set(of(listed(fourth), "calculations", "added"))
    assert not of(listed(fourth), "calculations", "withdrawn")

    def other_forces(row):
        if row["calculation_id"] in gone:
            row["free_energy"] -= 0.5

    edited(rounds, other_forces)
    settings = settings_of(tmp_path, "2026.5", "2026.3")
    with pytest.raises(
        TableError, match=r"that version 2026\.2 left out comes with other content: free_energy"
    ):
        build.run(settings, rounds, settings.folder / "release" / "2026.5")


def test_a_calculation_of_the_same_candidate_and_theory_supersedes(tmp_path, rounds, monkeypatch):
    made(tmp_path, "2026.1", rounds)
    old = set(pbe_ids(rounds[1]))
    original = synthetic_campaign.calculation_row

    def from_another_start(candidate, functional, theory_id):
        row = original(candidate, functional, theory_id)
        if functional == "PBE" and candidate[2] == 1:
            start = ids.content_id("s1", ["other", row["candidate_id"]])
            name = ids.calculation_id(theory_id, row["candidate_id"], start)
            row |= {"parent_structure_id": start, "calculation_id": name}
        return row

    monkeypatch.setattr(synthetic_campaign, "calculation_row", from_another_start)
    rounds = synthetic_campaign.make(settings_of(tmp_path, "2026.2", "2026.1"))
    second = made(tmp_path, "2026.2", rounds, "2026.1")
    superseded = of(listed(second), "calculations", "superseded")
    assert set(superseded) == old
    assert {row["superseded_by"] for row in superseded.values()} == set(pbe_ids(rounds[1]))
    assert (
        f"now `{next(iter(superseded.values()))['superseded_by']}`" in (second / layout.CHANGES).read_text()
    )


def test_a_functional_left_out_is_the_reason(tmp_path, rounds):
    made(tmp_path, "2026.1", rounds)
    for round_ in rounds:
        path = round_ / "calculations.parquet"
        rows = [r for r in tables.read_rows(path, "calculations") if r["functional"] == "PBE"]
        tables.write(path, "calculations", rows)
    release = {"version": "2026.2", "previous": "2026.1"}
    settings = synthetic_campaign.campaign(tmp_path, functionals=["PBE"], release=release)
    out = settings.folder / "release" / "2026.2"
    build.run(settings, rounds, out)
    assert verify(out, out.parent / "2026.1") == []
    reasons = {row["reason"] for row in of(listed(out), "calculations", "withdrawn").values()}
    assert reasons == {"functional_left_out"}


def rewrite(release, change):
    rows = listed(release)
    change(rows)
    tables.write(release / layout.table("changes"), "changes", rows)


@pytest.mark.parametrize(
    ("change", "alone"),
    [
        (lambda rows: rows.pop(), False),
        (lambda rows: rows[0].update(reason="because"), False),
        (lambda rows: rows[0].update(change="withdrawn"), True),
        (lambda rows: rows[0].update(version="2025.1"), True),
        (lambda rows: rows.append(dict(rows[0])), True),
        (lambda rows: rows[0].update(id="k1-00"), True),
    ],
)
def test_verify_finds_a_list_that_is_not_true(pair, tmp_path, change, alone):
    first, second = pair[0], shutil.copytree(pair[1], tmp_path / "2026.2")
    rewrite(second, change)
    assert bool(list(verify_changes.problems(second, None))) == alone
    assert [p for p in verify_changes.problems(second, first) if p.startswith("data/changes.parquet: ")]


def test_verify_wants_the_release_that_is_named(pair, tmp_path, capsys):
    first, second = (shutil.copytree(release, tmp_path / release.name) for release in pair)
    assert cli.main(["verify", str(second), "--previous", str(first)]) == 0
    (first / layout.SUMS).write_text((first / layout.SUMS).read_text().replace("a", "b", 1))
    assert cli.main(["verify", str(second), "--previous", str(first)]) == 1
    assert "the previous release is" in capsys.readouterr().out


def test_a_damaged_previous_release_is_refused(tmp_path, rounds):
    first = made(tmp_path, "2026.1", rounds[:1])
    with (first / "data/frames/PBE.parquet").open("ab") as file:
        file.write(b"x")
    settings = settings_of(tmp_path, "2026.2", "2026.1")
    with pytest.raises(TableError, match=r"data/frames/PBE.parquet .*SHA256SUMS"):
        build.run(settings, rounds, settings.folder / "release" / "2026.2")


def test_a_release_that_forgets_its_predecessor_is_reminded_of_it(tmp_path, rounds, caplog):
    made(tmp_path, "2026.9", rounds[:1])
    made(tmp_path, "2026.10", rounds)
    assert "--config version=2026.10 previous=2026.9" in caplog.text


@pytest.mark.parametrize("previous", ["2026.2", "2026.10"])
def test_the_previous_version_is_an_earlier_one(tmp_path, previous):
    with pytest.raises(ConfigError, match="does not come before"):
        settings_of(tmp_path, "2026.2", previous)


def test_a_previous_release_that_is_not_there_is_an_error_before_any_job(tmp_path):
    with pytest.raises(ConfigError, match=r"release\.previous.*2026\.1"):
        check.check_config(settings_of(tmp_path, "2026.2", "2026.1"))
