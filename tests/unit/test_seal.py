"""A sealed round can't change unnoticed, and a campaign's folder stays its own."""

import json

import pytest

from hullforge.errors import ConfigError, SealError
from hullforge.store import journal, seal
from hullforge.store.schema import SCHEMA_VERSION


@pytest.fixture
def campaign(tmp_path):
    """A campaign with two rounds of two files each, both sealed."""
    folder = tmp_path / "demo"
    seal.claim(folder, "demo", 2)
    for number in range(2):
        files = [folder / f"round-{number:03d}" / name for name in ("b.parquet", "sub/a.json")]
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{number} {file.name}")
        seal.seal(folder / f"round-{number:03d}", files, folder)
    return folder


def test_a_seal_lists_sorted_relative_paths_and_checksums(campaign):
    record = json.loads((campaign / "round-001" / "sealed.json").read_text())
    assert record["schema_version"] == SCHEMA_VERSION
    assert record["round"] == 1
    assert list(record["files"]) == ["round-001/b.parquet", "round-001/sub/a.json"]
    assert all(len(digest) == 64 for digest in record["files"].values())


def test_untouched_rounds_are_sealed_and_without_problems(campaign):
    assert seal.sealed_rounds(campaign) == [0, 1]
    assert seal.check(campaign) == []


def test_sealing_the_same_again_changes_no_byte(campaign):
    target = campaign / "round-000" / "sealed.json"
    before = target.read_bytes()
    files = [campaign / "round-000" / "sub" / "a.json", campaign / "round-000" / "b.parquet"]
    seal.seal(campaign / "round-000", files, campaign)
    assert target.read_bytes() == before


def test_sealing_other_contents_over_a_seal_is_refused(campaign):
    file = campaign / "round-000" / "b.parquet"
    file.write_text("other")
    with pytest.raises(SealError, match=r"round-000/b\.parquet"):
        seal.seal(campaign / "round-000", [file], campaign)


def test_a_changed_file_is_named(campaign):
    (campaign / "round-000" / "b.parquet").write_text("0 B.parquet")
    assert seal.check(campaign) == ["round-000/b.parquet: changed since round 0 was sealed"]


def test_a_missing_file_is_named_and_opens_the_round(campaign):
    (campaign / "round-001" / "b.parquet").unlink()
    assert seal.check(campaign) == ["round-001/b.parquet: missing, though round 1 is sealed"]
    assert seal.sealed_rounds(campaign) == [0]


def test_a_broken_seal_is_no_seal(campaign):
    target = campaign / "round-001" / "sealed.json"
    target.write_bytes(target.read_bytes()[:-5])
    assert seal.sealed_rounds(campaign) == [0]
    assert "not a whole seal" in seal.check(campaign)[0]


def test_a_seal_moved_to_another_round_is_noticed(campaign):
    (campaign / "round-001" / "sealed.json").write_bytes(
        (campaign / "round-000" / "sealed.json").read_bytes()
    )
    assert "is the seal of round 0" in seal.check(campaign)[0]


def test_nothing_is_sealed_in_a_folder_that_is_not_there(tmp_path):
    assert seal.sealed_rounds(tmp_path / "nowhere") == []
    assert seal.check(tmp_path / "nowhere") == []


def test_a_round_with_a_file_missing_is_not_sealed(campaign, tmp_path):
    with pytest.raises(SealError, match="missing"):
        seal.seal(campaign / "round-001", [campaign / "nothing"], campaign)
    outside = tmp_path / "outside"
    outside.touch()
    with pytest.raises(SealError, match="outside"):
        seal.seal(campaign / "round-001", [outside], campaign)
    with pytest.raises(SealError, match="not a folder of a round"):
        seal.seal(campaign, [campaign / "campaign.json"], campaign)


def test_a_new_or_empty_folder_is_claimed(tmp_path):
    seal.check_folder(tmp_path / "new", "demo", 1)
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty" / "logs").mkdir(parents=True)
    seal.claim(tmp_path / "empty", "demo", 1)
    seal.claim(tmp_path / "empty", "demo", 1)
    assert json.loads((tmp_path / "empty" / "campaign.json").read_text())["campaign"] == "demo"


def test_a_folder_of_another_campaign_is_refused(campaign):
    with pytest.raises(ConfigError, match="belongs to the campaign 'demo', not to 'other'"):
        seal.check_folder(campaign, "other", 2)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(ConfigError, match=r"holiday\.jpg"):
        seal.claim(tmp_path, "demo", 1)
    with pytest.raises(ConfigError, match="is a file"):
        seal.claim(tmp_path / "holiday.jpg", "demo", 1)
    assert not (tmp_path / "campaign.json").exists()


def test_a_folder_of_a_newer_hullforge_is_refused(campaign):
    (campaign / "campaign.json").write_text(
        json.dumps({"campaign": "demo", "schema_version": SCHEMA_VERSION + 1})
    )
    with pytest.raises(SealError, match="newer"):
        seal.check_folder(campaign, "demo", 2)


def test_a_broken_mark_is_refused(campaign):
    (campaign / "campaign.json").write_text("{")
    with pytest.raises(ConfigError, match="not a whole file"):
        seal.check_folder(campaign, "demo", 2)


def test_rounds_can_be_added_but_not_taken_away(campaign):
    seal.check_folder(campaign, "demo", 3)
    with pytest.raises(SealError, match="round 1 is sealed"):
        seal.check_folder(campaign, "demo", 1)


def test_sweeping_takes_the_work_of_one_round_only(tmp_path):
    for name in ("k1-aa1", "k1-bb2"):
        journal.folder_of(tmp_path, "t1-x", name).mkdir(parents=True)
    assert seal.sweep(tmp_path, [("t1-x", "k1-aa1")]) == 1
    assert [path.name for path in tmp_path.glob("*/*/*")] == ["k1-bb2"]


def test_missing_files_of_a_seal_are_named(tmp_path):
    campaign = tmp_path / "results"
    folder = campaign / "round-000"
    folder.mkdir(parents=True)
    for name in ("a.parquet", "b.parquet"):
        (folder / name).write_text(name)
    seal.seal(folder, sorted(folder.iterdir()), campaign)
    assert seal.missing(campaign) == []
    assert seal.sealed_rounds(campaign) == [0]
    (folder / "b.parquet").unlink()
    assert seal.missing(campaign) == [folder / "b.parquet"]
    assert seal.sealed_rounds(campaign) == []


@pytest.mark.parametrize("name", ["x.parquet", "x.json", "x.pt"])
def test_a_round_with_a_file_that_was_cut_is_not_sealed(tmp_path, name):
    from hullforge.dft import close

    here = tmp_path / "round-000"
    here.mkdir()
    (here / name).write_bytes(b'PAR1{"half": ')
    with pytest.raises(SealError, match=rf"{name}: cut short"):
        close.run(here, tmp_path, tmp_path / "work")
    assert not (here / "sealed.json").exists()
