"""A full disk, a folder that can't be written, files that were cut short, a lock left behind: one clear message, nothing
lost, and the same command completes the campaign with the same bytes."""

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from emt_batch import launch, run, settings, start_rows, tables_of, write_starts

from hullforge.store import journal

SMALL = {
    "functionals": ["PBE"],
    "rounds": [{"budget": 4, "batches": 2}],
    "prerelax": {"backend": "none"},
    "training": {"epochs": 1},
}
#: A disk that may be filled for a test is at most so large, bytes.
LARGEST = 2**31


@contextmanager
def small_disk(tmp_path):
    """Give a folder on a disk of its own of 64 MiB, or on /dev/shm where that is small and nothing can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode == 0:
        try:
            yield place
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True)
        return
    shared = Path("/dev/shm")
    if not shared.is_dir() or shutil.disk_usage(shared).total > LARGEST:
        pytest.skip(
            "no small disk to fill: mounting a tmpfs is not allowed here, and /dev/shm is absent or large"
        )
    place = shared / f"hullforge-{os.getpid()}"
    place.mkdir()
    try:
        yield place
    finally:
        shutil.rmtree(place)


def fill(folder, leave):
    """Fill the disk but for `leave` bytes; gives the file to delete."""
    ballast = folder / "ballast"
    with ballast.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, max(1, shutil.disk_usage(folder).free - leave))
    return ballast


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Settings, starts and tables of a batch that nothing befell."""
    entry, rows, folder = settings(), start_rows(4), tmp_path_factory.mktemp("undisturbed")
    run(folder, entry, rows)
    return entry, rows, tables_of(folder / "out")


# --------------------------------------------------------------------------------------------- full disk


@pytest.mark.slow
@pytest.mark.parametrize("leave", [0, 30_000, 90_000, 200_000])
def test_a_full_disk_ends_a_batch_and_no_calculation_is_blamed(tmp_path, undisturbed, leave):
    entry, rows, expected = undisturbed
    with small_disk(tmp_path) as disk:
        write_starts(disk / "starts.parquet", rows)
        (disk / "out.log").write_bytes(b"\0" * 65536)  # room for words
        ballast = fill(disk, leave)
        first = launch(disk, entry, "out")
        assert first.wait() != 0, "there was room enough"
        assert not (disk / "out" / "calculations.parquet").exists()
        for path in (disk / "work").rglob(journal.DONE_FILE):
            assert '"reason":""' in path.read_text().replace(" ", ""), "a structure is blamed for a full disk"
        ballast.unlink()
        assert launch(disk, entry, "again").wait() == 0
        assert tables_of(disk / "again") == expected


@pytest.mark.slow
@pytest.mark.campaign
def test_a_campaign_on_a_full_disk_says_so_and_goes_on_when_there_is_room(make_campaign, tmp_path):
    expected = make_campaign(**SMALL).complete().release()
    with small_disk(tmp_path) as disk:
        campaign = make_campaign(**SMALL, output=str(disk / "results"))
        results = disk / "results" / "emt"
        for leave in (8_192, 150_000, 700_000):
            ballast = fill(disk, leave)
            done = campaign.run()
            assert done.returncode != 0, f"{leave} bytes were enough"
            assert "No space left" in done.stdout, done.stdout[-3000:]
            ballast.unlink()
        done = campaign.run()
        assert done.returncode == 0, done.stdout[-3000:]
        from conftest import digests

        # The configuration is published without places, so both releases are the same.
        assert digests(results / "release") == expected


# --------------------------------------------------------------------------------------------- read-only


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_named(tmp_path, undisturbed):
    entry, rows, expected = undisturbed
    folder = tmp_path / "place"
    folder.mkdir()
    write_starts(folder / "starts.parquet", rows)
    (folder / "work").mkdir()
    bind = subprocess.run(["mount", "--bind", str(folder / "work"), str(folder / "work")], check=False)
    if bind.returncode == 0:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder / "work")], check=True)
    elif os.getuid() == 0:
        pytest.skip("a read-only folder needs a mount for root, which is not allowed here")
    else:
        (folder / "work").chmod(0o555)
    try:
        first = launch(folder, entry, "out")
        assert first.wait() != 0
        text = (folder / "out.log").read_text()
        assert "Read-only file system" in text or "Permission denied" in text
        assert str(folder / "work") in text
    finally:
        if bind.returncode == 0:
            subprocess.run(["umount", str(folder / "work")], check=True)
        else:
            (folder / "work").chmod(0o755)
    assert launch(folder, entry, "again").wait() == 0
    assert tables_of(folder / "again") == expected


def test_the_command_says_what_is_wrong_with_the_machine_in_one_line(tmp_path, capsys, monkeypatch):
    import errno

    from hullforge import cli
    from hullforge.dft import close

    for number, words in ((errno.ENOSPC, "make room"), (errno.EROFS, "make the folder writable")):

        def fail(*_, number=number):
            raise OSError(number, os.strerror(number), "/some/where")

        monkeypatch.setattr(close, "run", fail)
        assert cli.main(["seal", "--round", "x", "--campaign", "y", "--work", "z"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("hullforge: /some/where: ")
        assert words in said
        assert "Traceback" not in said

    def defect(*_):
        raise OSError(errno.EISDIR, "a defect")

    monkeypatch.setattr(close, "run", defect)
    with pytest.raises(OSError, match="a defect"):
        cli.main(["seal", "--round", "x", "--campaign", "y", "--work", "z"])


# --------------------------------------------------------------------------------------------- truncated, stale


KINDS = (
    "prototypes.parquet", "rejects.parquet", "round-000/selection.parquet", "round-000/prerelax/batch-0.parquet",
    "round-000/dft/*/batch-0/calculations.parquet", "round-000/dft/*/batch-1/frames.parquet",
    "round-000/dft/*/batch-1/failures.parquet", "round-000/dft/*/batch-0/costs.parquet", "round-000/calculations.parquet",
    "round-000/frames/PBE.parquet", "round-000/hull/PBE.parquet", "round-000/hull/PBE-references.parquet",
    "round-000/screener/model.pt",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.campaign
def test_truncated_files_are_named_and_made_again(make_campaign):
    """Before the round is sealed each file, cut to its half, either stops the run with its name or is made again."""
    campaign = make_campaign(**SMALL).complete()
    expected = campaign.release()
    # Back to where only the seal and the release are missing.
    shutil.rmtree(campaign.results / "release")
    (campaign.results / "round-000" / "sealed.json").unlink()
    planted = []
    for pattern in KINDS:
        [path] = campaign.results.glob(pattern)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        planted.append(path)
    for _ in range(len(planted) + 2):
        done = campaign.run()
        if done.returncode == 0:
            break
        said = [
            line for line in done.stdout.splitlines() if line.startswith("hullforge:") and "delete it" in line
        ]
        names = {path: path.relative_to(campaign.folder).as_posix() for path in planted}
        named = [path for path, name in names.items() if any(name in line for line in said)]
        assert named, done.stdout[-3000:]
        assert "Traceback" not in done.stdout
        for path in named:
            path.unlink(missing_ok=True)
    else:
        pytest.fail(done.stdout[-3000:])
    assert campaign.release() == expected


@pytest.mark.slow
@pytest.mark.campaign
def test_a_sealed_file_that_was_cut_is_found_and_a_stale_lock_is_nobodys(make_campaign, capsys):
    from hullforge.cli import main

    campaign = make_campaign(**SMALL).complete()
    path = campaign.results / "round-000" / "calculations.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert main(["verify", str(campaign.results)]) == 1
    assert "round-000/calculations.parquet: changed since round 0 was sealed" in capsys.readouterr().out
    path.write_bytes(whole)
    # Lock files of a run that is dead, as Snakemake leaves them.
    locks = campaign.folder / ".snakemake" / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    (locks / "0.output.lock").write_text("results/emt/round-000/selection.parquet\n")
    done = campaign.run()
    assert done.returncode == 0, done.stdout
    assert "Nothing to be done" in done.stdout


# --------------------------------------------------------------------------------------------- hanging engines


@pytest.mark.slow
def test_a_batch_whose_engines_all_hang_ends_at_its_limit_with_reasons(tmp_path):
    # A seed with which both hang for ever; the wall limit of a step is what ends them.
    entry = settings(share=1.0, kinds=("hang",), seed=5, steps=1)
    found = run(tmp_path, entry, start_rows(4), step_time_s=2.0, silence_s=60.0)
    assert len(found["calculations"]) + len(found["failures"]) == 4
    assert found["failures"], "the seed makes some hang for ever"
    assert {row["reason"] for row in found["failures"]} == {"walltime"}
    assert all("more than 2 s in one attempt" in row["message"] for row in found["failures"])
