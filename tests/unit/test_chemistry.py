"""The chemistry filter: known compounds, and equality with smact on thousands of random formulas."""

import itertools
import time

import numpy as np
import pytest

from hullforge.config import Chemistry
from hullforge.crystals import chemistry
from hullforge.crystals.chemistry import Elements, Filter
from hullforge.errors import ConfigError
from hullforge.store.structures import NUMBERS, SYMBOLS


def passes(formula: dict[str, int], test: str = "pauling", elements: Elements | None = None, *, alloys=False):
    numbers = np.array([[NUMBERS[symbol] for symbol in formula]])
    judge = Filter(Chemistry(test=test, alloys=alloys), elements)
    return bool(judge.passes(numbers, list(formula.values()))[0])


@pytest.mark.parametrize(
    "formula",
    [
        {"Na": 1, "Cl": 1},
        {"Sr": 2, "Ti": 2, "O": 6},
        {"Mg": 2, "Si": 1},
        {"Cs": 1, "Pb": 1, "I": 3},
        {"Fe": 1},
    ],
)
def test_known_compounds_pass(formula):
    assert passes(formula)
    assert passes(dict(reversed(formula.items())))


@pytest.mark.parametrize("formula", [{"Na": 2, "Cl": 1}, {"Cu": 3, "Au": 1}, {"Na": 1, "Ne": 1}])
def test_formulas_that_cannot_be_neutral_do_not(formula):
    assert not passes(formula, "neutral")
    assert passes(formula, "none")


def test_a_cation_must_be_less_electronegative_than_every_anion():
    states = {"H": [-1, 1], "Na": [1], "O": [-2, 2], "Cl": [-1]}
    data = Elements.of(states, {"H": 2.2, "Na": 0.9, "O": 3.4, "Cl": 3.2}, ["Na"])
    assert passes({"Na": 1, "Cl": 1}, elements=data)
    assert passes({"O": 1, "Cl": 2}, "neutral", data)
    assert not passes({"O": 1, "Cl": 2}, "pauling", data)
    # Equal ones are no cation and anion either.
    twins = Elements.of(states, {"H": 2.2, "Na": 2.2}, [])
    assert not passes({"Na": 1, "H": 1}, "pauling", twins)
    assert passes({"Na": 1, "H": 1}, "neutral", twins)


def test_metals_may_be_let_through():
    assert not passes({"Ni": 1, "Al": 3})
    assert passes({"Ni": 1, "Al": 3}, alloys=True)
    assert not passes({"Ni": 1, "O": 7}, alloys=True)


def test_too_many_elements_are_refused():
    with pytest.raises(
        ConfigError, match=r"'screening.chemistry.test': pauling can't be applied to 7 elements"
    ):
        passes(dict.fromkeys(SYMBOLS[3:10], 1))


def test_the_filter_is_fast():
    numbers = np.array(list(itertools.product(range(3, 60), repeat=3)))
    judge = Filter(Chemistry(test="pauling"))
    judge.passes(numbers[:1], (1, 1, 3))
    start = time.process_time()
    judge.passes(numbers, (1, 1, 3))
    assert len(numbers) / (time.process_time() - start) > 4e5


def smact_data():
    """What smact holds of the elements: its ICSD 2024 states, Pauling electronegativities and metals."""
    smact = pytest.importorskip("smact")
    screening = pytest.importorskip("smact.screening")
    states = screening._get_icsd24_oxidation_dict(include_zero=False, consensus=3, commonality="low")
    known = {symbol: smact.Element(symbol) for symbol in SYMBOLS[1:104]}
    chi = {symbol: e.pauling_eneg for symbol, e in known.items() if e.pauling_eneg is not None}
    return screening.smact_validity, Elements.of(states, chi, smact.metals), sorted(known)


@pytest.mark.parametrize(("counts", "number"), [
    ((1, 1), 800), ((2, 3), 500), ((1, 1, 3), 800), ((4, 8, 2), 500), ((1, 2, 4), 500), ((1, 1, 2, 6), 200), ((1, 1, 1, 1, 3), 60),
])  # fmt: skip
def test_the_verdicts_are_those_of_smact(counts, number):
    """Same states given to both: same verdict on every formula, with and without its two options."""
    smact_validity, data, symbols = smact_data()
    rng = np.random.default_rng(sum(counts))
    rows = [rng.choice(symbols, len(counts), replace=False).tolist() for _ in range(number)]
    numbers = np.array([[NUMBERS[symbol] for symbol in row] for row in rows])
    for pauling, alloys in ((True, False), (False, False), (True, True)):
        judge = Filter(Chemistry(test="pauling" if pauling else "neutral", alloys=alloys), data)
        wanted = []
        for row in rows:
            formula = "".join(f"{symbol}{count}" for symbol, count in zip(row, counts, strict=True))
            wanted.append(smact_validity(formula, use_pauling_test=pauling, include_alloys=alloys))
        assert judge.passes(numbers, counts).tolist() == wanted
        assert 0 < sum(wanted) < number


def test_pymatgen_knows_states_of_almost_all_elements():
    data = chemistry.pymatgen_elements()
    without = {SYMBOLS[z] for z in range(1, 104) if not data.states[z]}
    assert without <= {"He", "Ne", "Ar", "Rn", "Fr", "Ra"}, without
    assert -2 in data.states[NUMBERS["O"]]
    assert not any(0 in states for states in data.states)
