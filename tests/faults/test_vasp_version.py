"""Results carry the version of the VASP that made them, or there are none. The stand-in calls itself 6.4.2."""

import pytest
from vasp_batch import run, settings, start_rows

from hullforge.errors import EngineError


def labelled(version):
    entry = settings(steps=1)
    return entry.model_copy(update={"engine": entry.engine.model_copy(update={"version": version})})


def test_another_vasp_than_the_campaign_s_ends_the_batch_and_leaves_no_result(tmp_path):
    with pytest.raises(EngineError, match=r"VASP 6.4.2 has run, but engine.version says '6.4.3'"):
        run(tmp_path, labelled("6.4.3"), start_rows(1), workers=1)
    assert not list(tmp_path.rglob("done.json"))
    assert not (tmp_path / "out" / "calculations.parquet").exists()


def test_a_version_may_be_named_without_its_last_number(tmp_path):
    out = run(tmp_path, labelled("6.4"), start_rows(1), workers=1)
    assert [row["software_version"] for row in out["calculations"]] == ["6.4"]
