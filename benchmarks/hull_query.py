"""How many new compositions a second are placed against a hull of a million entries.

Comes in: a hull of 1e6 entries over 83 elements (`hull_entries`) and compositions that it has no entry of, each once.
Goes out: compositions per CPU second of one core, from formulas (`build.query`, texts to distances; this is judged)
and from atomic fractions (`ConvexHull.query`, rows of 83 numbers). Both answers are compared. The bound: 100 000 a second.
"""

import time

import numpy as np
import pyarrow as pa

from benchmarks import hull_entries, runner
from hullforge.thermo.build import build, query
from hullforge.thermo.formulas import parse

ENTRIES, QUERIES, LONG_QUERIES = 1_000_000, 1_000_000, 4_000_000
ELEMENTS = 83
BOUND = 100_000.0
#: Rows of a block of fractions; a million rows of 83 doubles would measure the memory.
BLOCK = 50_000


def new_compositions(table: pa.Table, candidates: pa.Table) -> pa.Table:
    """Give the rows of `candidates` whose composition neither `table` nor an earlier candidate has."""
    formulas = parse(pa.concat_tables([table.select(["formula"]), candidates.select(["formula"])])["formula"])
    keep = np.zeros(len(table) + len(candidates), dtype=bool)
    for _, level in formulas.by_size(np.ones(len(formulas.order), dtype=bool), None):
        first = np.full(len(level.system_of), len(keep))
        np.minimum.at(first, level.inverse, level.rows)
        keep[first[first >= len(table)]] = True
    return candidates.filter(pa.array(keep[len(table) :]))


def run(*, long: bool, entries: int = ENTRIES, queries: int | None = None) -> runner.Outcome:
    """Build the hull, then time queries, three rounds of each way in turn."""
    symbols = hull_entries.elements(ELEMENTS)
    table = hull_entries.entries(entries, symbols)
    built = build(table)
    queries = queries or (LONG_QUERIES if long else QUERIES)
    new = new_compositions(table, hull_entries.entries(queries, symbols, seed=1))
    texts, energies = new["formula"].combine_chunks(), new["energy_per_atom"].to_numpy()
    answers = {}

    def from_formulas() -> int:
        answers["formulas"] = query(built, texts, energies)
        return len(texts)

    scale = built.references["energy_per_atom"].to_numpy()
    parsed = parse(texts, built.hull.elements)
    formula_of = np.repeat(np.arange(len(parsed.text)), parsed.sizes)

    def fractions(first: int) -> np.ndarray:
        out = np.zeros((min(BLOCK, len(texts) - first), len(symbols)))
        begin, end = np.searchsorted(formula_of, [first, first + len(out)])
        out[formula_of[begin:end] - first, parsed.elements[begin:end]] = parsed.shares[begin:end]
        return out

    def from_fractions() -> float:
        answers["fractions"], seconds = np.empty(len(texts)), 0.0
        for first in range(0, len(texts), BLOCK):
            x = fractions(first)
            formation = energies[first : first + BLOCK] - x @ scale
            start = time.thread_time()
            answers["fractions"][first : first + BLOCK] = built.hull.query(x, formation)
            seconds += time.thread_time() - start
        return len(texts) / seconds

    assert (parsed.code == np.arange(len(texts))).all(), "formulas of different compositions are different"
    sides = {"formulas": lambda: runner.rate(from_formulas), "fractions": from_fractions}
    rates = runner.interleaved(sides, rounds=3)
    difference = float(np.abs(answers["formulas"] - answers["fractions"]).max())
    assert difference < 1e-9, f"the answers differ by {difference} eV/atom"
    below = float((answers["formulas"] < 0).mean())
    print(
        f"hull of {len(table)} entries over {len(symbols)} elements, {len(built.hull.vertices)} vertices; {len(texts)}"
        f" compositions that it lacks, {below:.1%} of them below it; both ways agree to {difference:.0e} eV/atom"
    )
    print(runner.table(["from", "compositions per CPU s"], [[side, rates.median(side)] for side in sides]))
    return runner.Outcome(
        {
            "formulas_per_cpu_second": rates.median("formulas"),
            "fractions_per_cpu_second": rates.median("fractions"),
            "queries": float(len(texts)),
        },
        rates.median("formulas") >= BOUND,
    )
