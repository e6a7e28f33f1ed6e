"""Formulas as numbers, a whole column at a time.

Comes in: a column of formulas with whole numbers of atoms, reduced or not, brackets allowed. Goes out: each distinct
formula's elements and reduced counts, or what is wrong with it; and from these the distinct compositions by number
of elements. Li2O, OLi2 and Li4O2 are one composition, exactly: counts are compared, never fractions. Knows no units.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hullforge.store.structures import SYMBOLS
from hullforge.thermo.compositions import PACKED, Compositions, lowest_of, pack
from hullforge.thermo.simplex import Floats, Ints

#: The elements, alphabetical; the place in this list is an element's number where nothing else is said.
ELEMENTS = tuple(sorted(SYMBOLS[1:]))
#: What may be wrong with a formula; the place in this list is `Formulas.problem`.
PROBLEMS = (
    "",
    "is not a formula such as Ca2Nb2O7",
    "names something that is no element",
    "holds none of an element that it names",
    "counts more than 999 999 999 atoms of an element",
    "has a number of atoms that is not whole",
    "is empty",
)
_DIGITS = 9
_UPPER, _LOWER, _DIGIT = 1, 2, 3
_KINDS = np.zeros(256, dtype=np.uint8)
_KINDS[65:91], _KINDS[97:123], _KINDS[48:58] = _UPPER, _LOWER, _DIGIT


@dataclass(frozen=True)
class Formulas:
    """A column of n formulas, of which F are distinct.

    `order` the elements' symbols, which `elements` are numbers in; `code` (n,) which distinct formula each row has;
    of the distinct ones `text`, `problem` (F,) (0 where there is none, else a place in `PROBLEMS`), `start` (F + 1,),
    and between start and the next start `elements`, ascending, and `counts` of the reduced formula; `atoms` (F,)
    atoms of the formula as it was given. Formulas with a problem have no elements.
    """

    order: tuple[str, ...]
    code: Ints
    text: pa.StringArray
    problem: Ints
    start: Ints
    elements: Ints
    counts: Ints
    atoms: Ints

    @property
    def sizes(self) -> Ints:
        """Number of elements (F,) of each distinct formula."""
        return np.diff(self.start)

    def take(self, rows: Ints) -> "Formulas":
        """Give the formulas of some rows (n,); elements that none of them names leave `order`."""
        used = np.zeros(len(self.text), dtype=bool)
        used[self.code[rows]] = True
        elements = self.elements[np.repeat(used, self.sizes)]
        named = np.zeros(len(self.order), dtype=bool)
        named[elements] = True
        return Formulas(
            order=tuple(self.order[i] for i in np.flatnonzero(named)),
            code=(np.cumsum(used) - 1)[self.code[rows]],
            text=self.text.filter(pa.array(used)),
            problem=self.problem[used],
            start=np.concatenate([[0], np.cumsum(self.sizes[used])]),
            elements=(np.cumsum(named) - 1)[elements],
            counts=self.counts[np.repeat(used, self.sizes)],
            atoms=self.atoms[used],
        )

    @property
    def shares(self) -> Floats:
        """The atomic fractions that belong to `counts`."""
        some = self.sizes > 0
        if not some.any():
            return np.zeros(0)
        total = np.add.reduceat(self.counts, self.start[:-1][some])
        return np.asarray(self.counts / np.repeat(total, self.sizes[some]))

    def sums(self, values: Floats) -> Floats:
        """Give the mean over atoms (F,) of `values`, one per element of `order`; NaN for a formula with a problem."""
        out = np.full(len(self.text), np.nan)
        some = self.sizes > 0
        if some.any():
            begin = self.start[:-1][some]
            total = np.add.reduceat(self.counts, begin)
            out[some] = np.add.reduceat(self.counts * values[self.elements], begin) / total
        return out

    def usable(self, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Tell which distinct formulas (F,) have only elements of which `allowed`, one per element of `order`, is true."""
        out = self.sizes > 0
        out[np.repeat(np.arange(len(out)), self.sizes)[~allowed[self.elements]]] = False
        return out

    def by_size(
        self, allowed: NDArray[np.bool_], energies: Floats | None, rows: NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[int, Compositions]]:
        """Give the distinct compositions of the allowed elements by number of elements k, ascending.

        `energies` (n,) of the rows in eV/atom: of equally composed rows the lowest counts, of equally low ones the
        first. `rows` (n,) leaves out those where it is false.
        """
        usable = self.usable(allowed)
        sizes = np.where(usable, self.sizes, 0)
        size_of_row = sizes[self.code]
        if rows is not None:
            size_of_row[~rows] = 0
            present = np.zeros(len(sizes), dtype=bool)
            present[self.code[rows]] = True
            sizes[~present] = 0
        for k in np.unique(sizes[sizes > 0]).tolist():
            which = np.flatnonzero(sizes == k)
            at = self.start[which][:, None] + np.arange(k)
            elements, counts = self.elements[at], self.counts[at]
            order = np.lexsort([*_packed(counts)[::-1], *_systems(elements)[::-1]])
            elements, counts = elements[order], counts[order]
            new_system = np.ones(len(which), dtype=bool)
            new_system[1:] = (elements[1:] != elements[:-1]).any(axis=1)
            new = new_system.copy()
            new[1:] |= (counts[1:] != counts[:-1]).any(axis=1)
            composition = np.zeros(len(sizes), dtype=np.int64)
            composition[which[order]] = np.cumsum(new) - 1
            inside = np.flatnonzero(size_of_row == k)
            inverse = composition[self.code[inside]]
            counts = counts[new]
            yield (
                k,
                Compositions(
                    rows=inside,
                    inverse=inverse,
                    lowest=inside[
                        lowest_of(inverse, None if energies is None else energies[inside], len(counts))
                    ],
                    systems=elements[new_system],
                    system_of=(np.cumsum(new_system) - 1)[new],
                    fractions=counts / counts.sum(axis=1, keepdims=True),
                ),
            )


def parse(formulas: pa.Array | pa.ChunkedArray | Sequence[str], order: Sequence[str] = ()) -> Formulas:
    """Read a column of formulas, each distinct one once.

    Elements are numbered as in `order`, those that it lacks after it, alphabetical. A null is an empty formula.
    Nothing is raised: what is wrong is in `Formulas.problem`.
    """
    if not isinstance(formulas, pa.Array | pa.ChunkedArray):
        formulas = pa.array(formulas, pa.string())
    if isinstance(formulas, pa.ChunkedArray):
        formulas = formulas.unify_dictionaries().combine_chunks()
    if isinstance(formulas, pa.ChunkedArray):  # of no chunks, or of too many bytes for one
        formulas = pa.concat_arrays(formulas.chunks) if formulas.num_chunks else pa.array([], pa.string())
    encoded = formulas if pa.types.is_dictionary(formulas.type) else formulas.dictionary_encode()
    text = encoded.dictionary.cast(pa.string())
    code = encoded.indices
    if code.null_count:
        code = pc.fill_null(code.cast(pa.int32()), len(text))
        text = pa.concat_arrays([text, pa.array([""], pa.string())])
    symbols = (*order, *(symbol for symbol in ELEMENTS if symbol not in set(order)))
    problem, start, elements, counts, atoms = _read(_plain(text), symbols)
    return Formulas(
        symbols, code.to_numpy(zero_copy_only=False).astype(np.int64), text, problem, start, elements, counts, atoms
    )  # fmt: skip


def _plain(text: pa.StringArray) -> pa.StringArray:
    """Take out blanks, and write formulas with brackets without them."""
    if not pc.any(pc.match_substring_regex(text, r"[\s()\[\]{}]")).as_py():
        return text
    text = pc.replace_substring_regex(text, r"\s+", "")
    bracketed = np.flatnonzero(pc.match_substring_regex(text, r"[()\[\]{}]").to_numpy(zero_copy_only=False))
    replaced = [_without_brackets(formula) for formula in text.take(pa.array(bracketed)).to_pylist()]
    mask = np.zeros(len(text), dtype=bool)
    mask[bracketed] = True
    return pc.replace_with_mask(text, pa.array(mask), pa.array(replaced, pa.string()))


_GROUP = re.compile(r"[(\[{]([A-Za-z0-9]+)[)\]}](\d*)")
_PART = re.compile(r"([A-Z][a-z]?)(\d*)")


def _without_brackets(formula: str) -> str:
    """Multiply brackets out, innermost first; one that can't be read stays, and so is found to be wrong."""

    def multiplied(group: re.Match[str]) -> str:
        if "".join(symbol + count for symbol, count in _PART.findall(group[1])) != group[1]:
            return "?"
        return "".join(f"{s}{int(n or 1) * int(group[2] or 1)}" for s, n in _PART.findall(group[1]))

    while _GROUP.search(formula):
        formula = _GROUP.sub(multiplied, formula)
    return formula


def _read(text: pa.StringArray, symbols: Sequence[str]) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """Read distinct formulas byte by byte, all at once; gives problem, start, elements, counts and atoms."""
    offsets = np.frombuffer(text.buffers()[1], dtype=np.int32)[text.offset : text.offset + len(text) + 1]
    if len(offsets) == 0:
        offsets = np.zeros(1, dtype=np.int32)
    content = text.buffers()[2]
    data = np.frombuffer(content or b"", dtype=np.uint8)[offsets[0] : offsets[-1]]
    begin, lengths = (offsets[:-1] - offsets[0]).astype(np.int64), np.diff(offsets)
    formula_of = np.repeat(np.arange(len(text), dtype=np.int32), lengths)

    kind = _KINDS[data]
    before = np.zeros_like(kind)
    before[1:] = kind[:-1]
    before[begin[lengths > 0]] = 0
    bad = (kind == 0) | ((kind == _LOWER) & (before != _UPPER)) | ((kind == _DIGIT) & (before == 0))
    problem = np.zeros(len(text), dtype=np.int64)
    problem[formula_of[bad]] = 1
    problem[formula_of[data == ord(".")]] = 5
    problem[lengths == 0] = 6

    first = np.flatnonzero(kind == _UPPER)
    formula = formula_of[first]
    padded = np.append(kind, np.zeros(_DIGITS + 2, dtype=np.uint8))
    bytes_ = np.append(data, np.zeros(_DIGITS + 2, dtype=np.uint8))
    long = padded[first + 1] == _LOWER
    numbers = np.full((256, 256), -1, dtype=np.int64)
    for number, symbol in enumerate(symbols):
        numbers[ord(symbol[0]), ord(symbol[1]) if len(symbol) > 1 else 0] = number
    element = numbers[data[first], np.where(long, bytes_[first + 1], 0)]
    at = first + 1 + long
    count = np.zeros(len(first), dtype=np.int64)
    counting = padded[at] == _DIGIT
    count[~counting] = 1
    for _ in range(_DIGITS):
        if not counting.any():
            break
        count[counting] = count[counting] * 10 + (bytes_[at[counting]] - ord("0"))
        at[counting] += 1
        counting = counting & (padded[at] == _DIGIT)
    for wrong, what in ((counting, 4), (count == 0, 3), (element < 0, 2)):
        found = formula[wrong]
        problem[found[problem[found] == 0]] = what

    good = problem[formula] == 0
    formula, element, count = formula[good].astype(np.int64), element[good], count[good]
    key = formula * 256 + element
    if (np.diff(key) <= 0).any():
        order = np.argsort(key, kind="stable")
        key, count = key[order], count[order]
        new = np.ones(len(key), dtype=bool)
        new[1:] = key[1:] != key[:-1]
        if len(key):
            key, count = key[new], np.add.reduceat(count, np.flatnonzero(new))
    formula, element = key // 256, key % 256
    start = np.searchsorted(formula, np.arange(len(text) + 1))
    atoms = np.zeros(len(text), dtype=np.int64)
    some = np.diff(start) > 0
    if some.any():
        at = start[:-1][some]
        atoms[some] = np.add.reduceat(count, at)
        count = count // np.repeat(np.gcd.reduceat(count, at), np.diff(start)[some])
    return problem, start, element, count, atoms


def _systems(elements: Ints) -> list[NDArray[np.uint64]]:
    if elements.shape[1] <= PACKED:
        return [pack(elements)]
    return list(elements.T)


def _packed(counts: Ints) -> list[NDArray[np.uint64]]:
    """Pack columns of counts in as few sort keys as hold them; the keys sort like the columns."""
    bits = max(1, int(counts.max(initial=1)).bit_length())
    keys = []
    for first in range(0, counts.shape[1], 64 // bits):
        key = np.zeros(len(counts), dtype=np.uint64)
        for column in counts[:, first : first + 64 // bits].T:
            key = (key << np.uint64(bits)) | column.astype(np.uint64)
        keys.append(key)
    return keys
