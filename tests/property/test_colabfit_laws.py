"""Hashes of ColabFit's objects: the same for what does not matter, different where the original's collide."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullforge.release.colabfit_ids import arrangement, canonical, digest

FEW = settings(max_examples=60, deadline=None)
grid = st.integers(-(10**6), 10**6).map(lambda n: n / 10**4)
names = st.text("abc", min_size=1, max_size=3)
values = st.one_of(
    st.none(), st.booleans(), st.text(max_size=4), grid, st.lists(grid, min_size=1, max_size=4)
)


def sha(value):
    return digest("PO", value)


@FEW
@given(st.dictionaries(names, values, max_size=4), st.randoms())
def test_order_of_keys_does_not_matter(mapping, random):
    keys = list(mapping)
    random.shuffle(keys)
    assert sha({key: mapping[key] for key in keys}) == sha(mapping)


@FEW
@given(st.lists(grid, min_size=1, max_size=9), st.floats(-1e-13, 1e-13))
def test_noise_and_kind_of_number_do_not_matter(numbers, noise):
    exact = sha({"cell": numbers})
    assert sha({"cell": np.array(numbers) + noise}) == exact
    assert sha({"cell": [n + noise for n in numbers]}) == exact
    whole = [round(n) for n in numbers]
    assert sha({"cell": whole}) == sha({"cell": [float(n) for n in whole]}) == sha({"cell": np.array(whole)})


@FEW
@given(st.dictionaries(names, values, max_size=4), st.dictionaries(names, values, max_size=4))
def test_equal_bytes_mean_equal_content(a, b):
    def plain(m):
        return {
            k: v if v is None or isinstance(v, str | bool) else (np.shape(v), (np.round(v, 8) + 0.0).tolist())
            for k, v in m.items()
        }

    assert (canonical(a) == canonical(b)) == (
        repr(sorted(plain(a).items())) == repr(sorted(plain(b).items()))
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": None, "b": 1}, {"a": 1, "b": None}),
        ({"a": None}, {}),
        ({"a": "xy", "b": "z"}, {"a": "x", "b": "yz"}),
        ({"f": [[1, 2, 3]]}, {"f": [1, 2, 3]}),
        ({"f": [1.0]}, {"g": [1.0]}),
        ({"f": []}, {"f": None}),
        ({"f": True}, {"f": 1}),
        ({"f": "1"}, {"f": 1}),
    ],
)
def test_what_the_original_confuses_differs(one, other):
    assert sha(one) != sha(other)


def test_negative_zero_is_zero_and_nan_is_refused():
    assert sha({"a": -0.0}) == sha({"a": 0.0}) == sha({"a": 0})
    with pytest.raises(ValueError, match="NaN"):
        sha({"a": [float("nan")]})


@FEW
@given(
    st.lists(st.tuples(st.integers(1, 90), *[st.integers(0, 999)] * 3), min_size=1, max_size=6, unique_by=lambda s: s[1:]),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_arrangement_ignores_order_lattice_vectors_and_noise(sites, random):
    cell = np.array([[4.0, 0.3, 0], [0, 5.5, 0.1], [0.2, 0, 6.1]])
    numbers = [s[0] for s in sites]
    fractions = np.array([s[1:] for s in sites]) / 1000
    exact = arrangement(numbers, cell, fractions @ cell, [True] * 3)
    order = list(range(len(sites)))
    random.shuffle(order)
    moved = fractions + np.array([[random.randint(-2, 2) for _ in range(3)] for _ in sites])
    noise = np.array([[random.uniform(-1e-14, 1e-14) for _ in range(3)] for _ in sites])
    again = arrangement([numbers[i] for i in order], cell, ((moved @ cell) + noise)[order], [True] * 3)
    assert again == exact
    other = [numbers[0] + 1, *numbers[1:]]
    assert arrangement(other, cell, fractions @ cell, [True] * 3) != exact
    assert arrangement(numbers, cell * 1.0001, fractions @ cell, [True] * 3) != exact
    assert arrangement(numbers, cell, fractions @ cell, [True, True, False]) != exact
