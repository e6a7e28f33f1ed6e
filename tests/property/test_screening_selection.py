"""Laws of the selection, for any budget, shares and predictions."""

from collections import Counter

import numpy as np
import pyarrow as pa
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from hullforge.config import Bootstrap, Selection, SelectSettings, Strata
from hullforge.crystals.decorations import Decorations
from hullforge.crystals.prototypes import compile_structure
from hullforge.screening import bootstrap, choices, select
from hullforge.screening.graphs import ragged_arange
from hullforge.store import ids, tables
from hullforge.store.structures import NUMBERS

KNOWN = sorted(
    (
        compile_structure(atoms, str(at), "test")
        for at, atoms in enumerate(
            [bulk("Cu"), bulk("W"), bulk("NaCl", "rocksalt", a=5.6), bulk("CaF2", "fluorite", a=5.4)]
        )
    ),
    key=lambda p: p.prototype_id,
)
POOL = ("Li", "O", "Mg", "Al", "Si", "Ti", "Fe")

elements = st.lists(st.sampled_from(POOL), min_size=1, max_size=7, unique=True)
shares = st.tuples(*[st.integers(0, 10)] * 3).filter(any).map(lambda s: [x / sum(s) for x in s])


def strata(split: list[float]) -> Strata:
    return Strata(exploit=split[0], explore=split[1], control=1 - split[0] - split[1] if split[2] else 0)


def make(budget: int, pool: list[str], **parts) -> SelectSettings:
    defaults = {"bootstrap": Bootstrap(), "selection": Selection(), "seed": 0, "round": 0, "batches": 1}
    return SelectSettings(budget=budget, elements=tuple(pool), **(defaults | parts))


@settings(max_examples=60, deadline=None)
@given(elements, st.integers(0, 60), st.floats(0, 1), st.integers(0, 3))
def test_the_bootstrap_covers_every_element_and_meets_its_budget(pool, extra, share, seed):
    size = sum(Decorations(p, pool).count for p in KNOWN)
    wanted = make(len(pool) + extra, pool, bootstrap=Bootstrap(elements_share=share), seed=seed)
    found = bootstrap.choose(wanted, KNOWN, set())
    names = [choice.candidate_id for choice in found]
    assert len(names) == len(set(names)) == min(wanted.budget, size)
    assert {choice.species[0] for choice in found if choice.prototype.nspecies == 1} == set(pool)
    assert found == bootstrap.choose(
        make(wanted.budget, pool[::-1], bootstrap=wanted.bootstrap, seed=seed), KNOWN, set()
    )


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 500))
def test_strata_add_up_to_the_budget(a, b, budget):
    low, high = sorted((a, b))
    split = Strata(exploit=low, explore=high - low, control=1 - high)
    numbers = select.shares(split, budget)
    assert sum(numbers.values()) == budget
    for name, number in numbers.items():
        assert abs(number - getattr(split, name.value) * budget) < 1


def screen_table(pool: list[str], seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    pool = sorted(pool, key=NUMBERS.__getitem__)
    rows = []
    for prototype in KNOWN:
        ranks = np.arange(Decorations(prototype, pool).count)
        for rank, chosen in zip(ranks.tolist(), Decorations(prototype, pool).unrank(ranks), strict=True):
            species = [pool[at] for at in chosen]
            # Few distinct values: ties are the rule.
            rows.append(
                dict(zip(choices.PREDICTED, (0.0, round(rng.normal(0.1, 0.2), 1), round(rng.random(), 1), 10.0, round(rng.random(), 1)), strict=True))
                | {"prototype_id": prototype.prototype_id, "rank": rank, "species": species, "is_control": rng.random() < 0.3,
                   "candidate_id": ids.candidate_id(prototype.prototype_id, species)}
            )  # fmt: skip
    return tables.from_rows("screen", rows)


@settings(max_examples=60, deadline=None)
@given(
    elements, st.integers(1, 60), shares, st.integers(1, 4), st.integers(1, 20), st.integers(0, 5), st.data()
)
def test_a_screened_round_keeps_its_rules(pool, budget, split, per_composition, per_prototype, seed, data):
    table = screen_table(pool, seed)
    names = table["candidate_id"].to_pylist()
    taken = data.draw(st.sets(st.sampled_from(names), max_size=10))
    limits = {"max_per_composition": per_composition, "max_per_prototype": per_prototype}
    wanted = make(budget, pool, round=1, selection=Selection(strata=strata(split), **limits))
    found = select.screened(wanted, KNOWN, table, taken)
    chosen = [choice.candidate_id for choice in found]
    assert len(chosen) == len(set(chosen)) <= budget
    assert not taken & set(chosen)
    bound = [choice for choice in found if choice.stratum.value != "control"]
    assert all(n <= per_composition for n in Counter(choice.formula for choice in bound).values())
    assert all(
        n <= per_prototype for n in Counter(choice.prototype.protostructure for choice in bound).values()
    )
    order = np.random.default_rng(seed).permutation(len(names))
    again = select.screened(wanted, KNOWN, table.take(pa.array(order)), taken)
    assert {(c.candidate_id, c.stratum) for c in again} == {(c.candidate_id, c.stratum) for c in found}


@settings(max_examples=60, deadline=None)
@given(elements, st.integers(1, 60), shares, st.integers(0, 5))
def test_without_limits_the_budget_is_met_exactly(pool, budget, split, seed):
    table = screen_table(pool, seed)
    free = Selection(strata=strata(split), max_per_composition=10**6, max_per_prototype=10**6)
    found = select.screened(make(budget, pool, round=1, selection=free), KNOWN, table, set())
    assert len(found) == min(budget, table.num_rows)
    controls = int(table["is_control"].to_numpy(zero_copy_only=False).sum())
    drawn = Counter(choice.stratum.value for choice in found)
    wanted = {stratum.value: number for stratum, number in select.shares(free.strata, budget).items()}
    if len(found) == budget and controls >= wanted["control"]:
        assert all(drawn[name] == number for name, number in wanted.items())


tenths = st.integers(-3, 6).map(lambda x: x / 10)
predictions = st.lists(st.tuples(st.none() | tenths, st.integers(0, 3), st.integers(0, 3)), max_size=30)


@given(predictions, st.randoms(use_true_random=False))
def test_exploration_takes_spread_and_latent_distance_in_turns(rows, random):
    e = np.array([np.nan if value is None else value for value, _, _ in rows])
    std, latent = np.array([s / 10 for _, s, _ in rows]), np.array([float(x) for _, _, x in rows])
    order = select.explore_order(e, std, latent, np.arange(len(rows))).tolist()

    placed = [row for row in range(len(rows)) if np.isfinite(e[row])]
    near = [row for row in placed if e[row] - std[row] <= select.EXPLORE_WINDOW]
    wanted: list[int] = []
    for group in (near, [row for row in placed if row not in near]):
        by_spread = sorted(group, key=lambda row: (-std[row], row))
        by_distance = sorted(group, key=lambda row: (-latent[row], row))
        turns = [row for pair in zip(by_spread, by_distance, strict=True) for row in pair]
        wanted += dict.fromkeys(turns)
    assert order == wanted

    shuffled = list(range(len(rows)))
    random.shuffle(shuffled)
    at = np.array(shuffled, dtype=int)
    again = select.explore_order(e[at], std[at], latent[at], at)
    assert at[again].tolist() == order


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(KNOWN), max_size=40), st.integers(1, 7))
def test_batches_are_balanced(prototypes, number):
    made = [bootstrap.make(Decorations(p, POOL), np.arange(p.nspecies), "coverage") for p in prototypes]
    assigned = choices.batches(made, number)
    load = [
        sum(choices.cost(c.prototype) for c, at in zip(made, assigned, strict=True) if at == b)
        for b in range(number)
    ]
    assert max(load) - min(load) <= max((choices.cost(c.prototype) for c in made), default=0)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 6)), max_size=20))
def test_ragged_ranges_are_concatenated(pairs):
    starts = np.array([a for a, _ in pairs], dtype=np.int64)
    lengths = np.array([b for _, b in pairs], dtype=np.int64)
    assert ragged_arange(starts, lengths).tolist() == [x for a, b in pairs for x in range(a, a + b)]
