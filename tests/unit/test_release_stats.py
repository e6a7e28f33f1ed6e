"""hullforge stats: the same bytes each time, counts of the tables, and measures that know sets from each other."""

import re

import numpy as np
import pytest
import synthetic_campaign

from hullforge import cli
from hullforge.errors import ConfigError
from hullforge.release import build
from hullforge.reports import contents, diversity
from hullforge.store import atomic, tables
from hullforge.store.structures import NUMBERS, row_from_atoms


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stats")
    settings = synthetic_campaign.campaign(folder)
    build.run(settings, synthetic_campaign.make(settings), folder / "release")
    return folder / "release"


def test_the_same_release_gives_the_same_bytes_and_one_page(release, tmp_path, capsys):
    made = []
    for name in "ab":
        assert (
            cli.main(["stats", str(release), "--against", str(release), "--out", str(tmp_path / name)]) == 0
        )
        made.append({path.name: path.read_bytes() for path in sorted((tmp_path / name).iterdir())})
    assert made[0] == made[1]
    assert set(made[0]) == {"stats.html", "stats.json", "elements.png", "e_above_hull.png", "sizes.png"}
    page = made[0]["stats.html"].decode()
    assert not re.search(r'(src|href)="(?!#)', page.replace("xlink:href", "use"))
    assert "prefers-color-scheme: dark" in page
    assert str(release) not in page
    assert "PBE" in capsys.readouterr().out


def test_counts_are_those_of_the_tables(release):
    found = contents.measure(release)
    for functional, row in found["by_functional"].items():
        hull = tables.read_rows(release / f"data/hull/{functional}.parquet", "hull")
        frames = tables.read(release / f"data/frames/{functional}.parquet", "frames")
        assert row["frames"] == frames.num_rows
        assert row["on_hull"] == sum(each["is_on_hull"] for each in hull)
        assert row["placed"] == sum(each["e_above_hull"] is not None for each in hull)
    calculations = tables.read_rows(release / "data/calculations/PBE.parquet", "calculations")
    assert found["elements"]["Al"] == sum("Al" in row["elements"] for row in calculations)
    assert sum(row["n"] for row in found["failures"]) == 1
    assert atomic.read_json(release / "dataset.json")["elements"] == sorted(found["elements"])


def test_no_release_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no release"):
        contents.run(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("symbol", "period", "group"),
    [("H", 1, 1), ("He", 1, 18), ("Al", 3, 13), ("Fe", 4, 8), ("La", 6, 3), ("Lu", 6, 3), ("Hf", 6, 4), ("Rn", 6, 18), ("U", 7, 3)],
)  # fmt: skip
def test_places_in_the_periodic_table(symbol, period, group):
    assert diversity.place(NUMBERS[symbol]) == (period, group)


def test_features_ignore_the_choice_of_the_cell():
    row = row_from_atoms(synthetic_campaign.atoms_of(("Al", "Ni")))
    large = row_from_atoms(synthetic_campaign.atoms_of(("Al", "Ni")).repeat((2, 1, 1)))
    one, other = (diversity.features([each])[0] for each in (row, large))
    assert one.shape == (1, 38)
    assert np.allclose(one, other, atol=1e-9)


def test_log_det_grows_with_the_spread():
    values = np.random.default_rng(0).normal(size=(200, 4))
    small, large = diversity.log_det(values), diversity.log_det(2 * values)
    assert large - small == pytest.approx(4 * np.log(4), abs=0.01)
    assert diversity.log_det(values[:1]) is None


def test_overlap_knows_equal_apart_and_partial_sets():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(300, 3)), rng.normal(size=(300, 3))
    same = diversity.overlap(a, b)
    assert min(same["precision"], same["recall"], same["coverage"]) > 0.9
    assert 0.8 < same["density"] < 1.2
    assert diversity.overlap(a, b + 100) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}
    narrow = diversity.overlap(a, 0.1 * b)
    assert narrow["precision"] > 0.99
    assert narrow["recall"] < 0.5
    assert diversity.overlap(a[:5], b) is None
