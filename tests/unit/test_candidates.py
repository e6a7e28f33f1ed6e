"""A table of candidates: nothing else is chosen, in round 0 and later, and shards change nothing."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_screening_screen import ELEMENTS as SCREENED
from test_screening_screen import Campaign
from test_screening_select import BY_NAME, ELEMENTS, KNOWN, settings

from hullforge.config import Bootstrap, Include, Screening, ScreenSettings, SiteGroups
from hullforge.crystals import decorations
from hullforge.errors import ConfigError
from hullforge.screening import bootstrap, candidates, screen
from hullforge.store import ids, tables
from hullforge.store.vocabulary import Stratum

SPACES = decorations.spaces(KNOWN, ELEMENTS)


def listed(path, rows):
    names, species = zip(*rows, strict=True) if rows else ((), ())
    pq.write_table(
        pa.table(
            {
                "prototype_id": pa.array(names, pa.string()),
                "species": pa.array(species, pa.list_(pa.string())),
            }
        ),
        path,
    )
    return path


def some(spaces, step=3):
    """Every third decoration, in an arrangement that need not be the canonical one."""
    rows = []
    for space in spaces:
        for chosen in space.unrank(np.arange(0, space.count, step)).tolist():
            permutation = space.prototype.automorphisms[-1]
            rows.append((space.prototype.prototype_id, [space.elements[chosen[s]] for s in permutation]))
    return rows


def identity(name, species, spaces):
    space = next(s for s in spaces if s.prototype.prototype_id == name)
    return ids.candidate_id(name, decorations.canonical(space.prototype, species))


@pytest.mark.parametrize("strategy", ["coverage", "random"])
def test_the_bootstrap_chooses_from_the_list_alone(tmp_path, strategy):
    rows = some(SPACES)
    path = listed(tmp_path / "c.parquet", rows)
    wanted = {identity(name, species, SPACES) for name, species in rows}
    chosen = bootstrap.choose(
        settings(20, bootstrap=Bootstrap(strategy=strategy)), KNOWN, set(), path, references=set(ELEMENTS)
    )
    assert len(chosen) == 20
    assert {choice.candidate_id for choice in chosen} <= wanted
    everything = bootstrap.choose(
        settings(1000, bootstrap=Bootstrap(strategy=strategy)), KNOWN, set(), path, references=set(ELEMENTS)
    )
    assert {choice.candidate_id for choice in everything} == wanted


def test_a_random_bootstrap_is_a_plain_sample(tmp_path):
    rows = some(SPACES, step=1)
    path = listed(tmp_path / "c.parquet", rows)
    seen = []
    for seed in range(40):
        chosen = bootstrap.choose(
            settings(10, bootstrap=Bootstrap(strategy="random"), seed=seed), KNOWN, set(), path, set(ELEMENTS)
        )
        assert {choice.stratum for choice in chosen} == {Stratum.CONTROL}
        seen += [choice.candidate_id for choice in chosen]
    counts = np.unique(seen, return_counts=True)[1]
    expected = 400 / len(rows)
    assert counts.max() < expected + 6 * expected**0.5
    # Without a list the same seed samples the same: the list holds all.
    assert [c.candidate_id for c in chosen] == [
        c.candidate_id
        for c in bootstrap.choose(
            settings(10, bootstrap=Bootstrap(strategy="random"), seed=39), KNOWN, set(), None, set(ELEMENTS)
        )
    ]


def test_a_random_bootstrap_of_more_than_can_be_listed_draws_each_once(monkeypatch):
    monkeypatch.setattr(bootstrap, "LISTED", 1)
    chosen = bootstrap.choose(
        settings(40, bootstrap=Bootstrap(strategy="random")), KNOWN, set(), None, set(ELEMENTS)
    )
    assert len({choice.candidate_id for choice in chosen}) == 40


def test_elements_without_a_known_phase_come_first_in_a_random_bootstrap():
    chosen = bootstrap.choose(
        settings(12, bootstrap=Bootstrap(strategy="random")), KNOWN, set(), None, {"Li", "Mg"}
    )
    elemental = [choice.species[0] for choice in chosen if choice.stratum is Stratum.ELEMENT]
    assert sorted(elemental) == ["Al", "Si"]


def test_elements_that_the_list_leaves_out_are_named(tmp_path):
    rows = [(p.prototype_id, [s]) for p in KNOWN if p.nspecies == 1 for s in ("Li", "Mg", "Al")]
    with pytest.raises(ConfigError, match=r"no elemental structure for Si.*hull\.known_phases"):
        bootstrap.choose(settings(), KNOWN, set(), listed(tmp_path / "c.parquet", rows))


def test_an_inclusion_outside_the_list_is_refused(tmp_path):
    rows = [(BY_NAME["halite"].prototype_id, ["Li", "Si"])]
    include = Bootstrap(include=(Include(prototype="halite", elements=("Mg", "Si")),))
    with pytest.raises(ConfigError, match=r"bootstrap.include.0.*not among"):
        bootstrap.choose(
            settings(bootstrap=include), KNOWN, set(), listed(tmp_path / "c.parquet", rows), set(ELEMENTS)
        )


HALITE, FLUORITE = BY_NAME["halite"].prototype_id, BY_NAME["fluorite"].prototype_id


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "has no rows"),
        ([("AB_x-1", ["Li", "Si"]), (HALITE, ["Li", "Si"])], "1 rows of .*AB_x-1"),
        ([(HALITE, ["Li", "Fe"])], "Fe not in the pool"),
        ([(HALITE, ["Li", "Li"])], "Li-Li does not fit"),
        ([(HALITE, ["Li"])], "Li does not fit"),
        ([(FLUORITE, ["Li", "Si"])], "Li-Si is not allowed"),
    ],
)
def test_a_list_that_does_not_fit_says_why(tmp_path, rows, words):
    spaces = decorations.spaces(
        KNOWN, ELEMENTS, (SiteGroups(prototype="fluorite", elements={"A": ("Mg", "Al")}),)
    )
    with pytest.raises(ConfigError, match=f"key 'candidates'.*{words}"):
        candidates.load(listed(tmp_path / "c.parquet", rows), spaces)


def test_what_is_no_table_of_candidates_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        candidates.load(tmp_path / "absent.parquet", SPACES)
    (tmp_path / "c.parquet").write_text("not Parquet")
    with pytest.raises(ConfigError, match="not a whole Parquet file"):
        candidates.load(tmp_path / "c.parquet", SPACES)
    pq.write_table(pa.table({"prototype_id": ["x"]}), tmp_path / "c.parquet")
    with pytest.raises(ConfigError, match="lacks the column species"):
        candidates.load(tmp_path / "c.parquet", SPACES)
    pq.write_table(pa.table({"prototype_id": ["x"], "species": ["Li"]}), tmp_path / "c.parquet")
    with pytest.raises(ConfigError, match="a list of symbols"):
        candidates.load(tmp_path / "c.parquet", SPACES)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    return Campaign(tmp_path_factory.mktemp("screen"))


def screened(campaign, path, shard=0, shards=1):
    out = campaign.folder / f"listed-{shards}-{shard}.parquet"
    screen.run(
        ScreenSettings(
            elements=SCREENED,
            screening=Screening(e_above_hull_cutoff=99.0, control_share=0.1, shards=shards),
            seed=5,
        ),
        campaign.folder / "prototypes.parquet", campaign.folder / "screener", campaign.folder / "hull.parquet",
        shard, out, None, path,
    )  # fmt: skip
    return tables.read(out, "screen")


def test_a_listed_screening_scores_the_list_alone_and_shards_change_nothing(campaign, monkeypatch):
    monkeypatch.setattr(screen.Scorer, "block", 16)
    monkeypatch.setattr(screen, "SPAN", 32)
    spaces = decorations.spaces(campaign.known, SCREENED)
    rows = some(spaces)
    path = listed(campaign.folder / "c.parquet", rows)
    whole = screened(campaign, path)
    assert set(whole["candidate_id"].to_pylist()) == {
        identity(name, species, spaces) for name, species in rows
    }
    for row in whole.to_pylist():
        space = next(s for s in spaces if s.prototype.prototype_id == row["prototype_id"])
        chosen = np.array([[space.elements.index(symbol) for symbol in row["species"]]])
        assert space.rank(chosen)[0] == row["rank"]
    for shards in (2, 3, 7):
        parts = [screened(campaign, path, shard, shards) for shard in range(shards)]
        joined = pa.concat_tables(parts).sort_by([("prototype_id", "ascending"), ("rank", "ascending")])
        assert joined.equals(whole)


def test_a_list_of_everything_scores_as_no_list_does(campaign):
    path = listed(campaign.folder / "all.parquet", some(decorations.spaces(campaign.known, SCREENED), step=1))
    assert screened(campaign, path).equals(screened(campaign, None))
