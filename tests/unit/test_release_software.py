"""A release says what it was made with: code, packages, engine and data sets."""

import importlib.metadata
import json
import re

import pytest
import synthetic_campaign

from conftest import ROOT
from hullforge.dft.engines import gpaw
from hullforge.release import build, layout, software
from hullforge.release.verify import verify


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    settings = synthetic_campaign.campaign(tmp_path_factory.mktemp("software"))
    out = settings.folder / "release" / "2026.1"
    build.run(settings, synthetic_campaign.make(settings, pseudopotentials=["PAW Al sha256 01"]), out)
    assert verify(out) == []
    return out


def pins(text):
    return dict(line.split("==") for line in text.splitlines() if not line.startswith("#"))


def test_the_lock_has_what_is_installed_here_and_hullforge_needs(release):
    locked = pins((release / layout.LOCK).read_text())
    assert {"ase", "numpy", "pyarrow", "pymatgen", "spglib"} <= set(locked)
    assert "attrs" in locked, "a package that only others need"
    assert not {"hullforge", "pytest", "ruff", "mypy"} & set(locked)
    for name, version in locked.items():
        assert importlib.metadata.version(name) == version


def test_every_package_of_the_lock_is_one_of_the_repository_lock(release):
    theirs = {
        re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower()
        for line in (ROOT / "requirements.lock").read_text().splitlines()
    }
    optional = {"gpaw", "gpaw-data"}  # what the engine brings with it may be installed beside
    locked = set(pins((release / layout.LOCK).read_text()))
    assert "numpy" in locked & theirs
    assert len(locked - theirs - optional) < 0.1 * len(locked)


def test_code_packages_and_data_sets_have_versions_and_hashes(release):
    data = json.loads((release / layout.SOFTWARE).read_text())
    assert re.fullmatch("[0-9a-f]{64}", data["hullforge"]["source_sha256"])
    assert data["hullforge"]["commit"] is None or re.fullmatch("[0-9a-f]{40}", data["hullforge"]["commit"])
    assert data["packages"]["pyarrow"] == importlib.metadata.version("pyarrow")
    theory = next(t for t in data["theories"].values() if t["functional"] == "PBE")
    assert theory["pseudopotentials"] == ["PAW Al sha256 01"]
    assert theory["software"] == ["emt 1"]


def test_no_path_is_in_them(release):
    for name in (layout.SOFTWARE, layout.LOCK):
        text = (release / name).read_text()
        assert str(ROOT) not in text
        assert "file:" not in text
        assert "@" not in text


def test_a_code_that_is_not_installed_lists_all_packages(monkeypatch):
    monkeypatch.setattr(software, "_NAME", "no-such-hullforge")
    found = dict(software._installed.__wrapped__())
    assert {"numpy", "pytest"} <= set(found)
    assert software._direct() == {}


@pytest.mark.parametrize(
    ("file", "before", "after", "words"),
    [
        (layout.LOCK, "\nnumpy==", "\nnumpy>=", "pins no package"),
        (layout.LOCK, "\nnumpy==2", "\nnumpy==1", "numpy"),
        (layout.SOFTWARE, "sha256 01", "sha256 02", "theory"),
        (layout.SOFTWARE, '"theories"', '"ideas"', "does not say"),
    ],
)
def test_verify_reads_them(release, file, before, after, words):
    path = release / file
    text = path.read_text()
    assert before in text
    try:
        path.write_text(text.replace(before, after, 1))
        found = [p for p in verify(release) if "checksum" not in p]
    finally:
        path.write_text(text)
    assert any(words in problem for problem in found), found


def test_gpaw_data_sets_are_hashed_decompressed(tmp_path, monkeypatch):
    import gzip
    import hashlib

    (tmp_path / "Xx.PBE").write_bytes(b"plain")
    (tmp_path / "Yy.PBE.gz").write_bytes(gzip.compress(b"packed"))
    monkeypatch.setenv("GPAW_SETUP_PATH", str(tmp_path))
    found = gpaw.dataset_hashes(["Yy.PBE", "Xx.PBE", "Zz.PBE"])
    assert found == {
        "Xx.PBE": hashlib.sha256(b"plain").hexdigest(),
        "Yy.PBE": hashlib.sha256(b"packed").hexdigest(),
        "Zz.PBE": None,
    }
