"""The table that the engine `replay` answers from: known results, each under the name of its candidate.

Comes in: files of known results and a campaign's configuration, whose prototypes, elements and site groups say
what a candidate is. Goes out, into one folder: `replay.parquet`; `rejected.csv`, every row that is no candidate,
with the reason; and with `formation`, `known.csv`, the phases that formation energies are relative to. A
candidate that comes several times keeps its lowest energy, which is counted. Never computes anything.
"""

import csv
import io
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hullforge.config import Campaign, PrototypesSettings
from hullforge.crystals import decorations, prototypes
from hullforge.crystals.decorations import Decorations
from hullforge.crystals.prototypes import Prototype
from hullforge.errors import TableError
from hullforge.replay import sources
from hullforge.replay.mapping import Mapper
from hullforge.replay.sources import Columns, Known
from hullforge.store import atomic, ids, tables
from hullforge.store.structures import SYMBOLS, composition_columns
from hullforge.thermo.hull import ConvexHull
from hullforge.thermo.place import atomic_fractions

log = logging.getLogger(__name__)

Row = dict[str, Any]

#: Two competing mixtures of one composition that differ by more contradict each other, eV/atom.
SAME = 1e-6


@dataclass(frozen=True)
class Made:
    """What was made: rows of the table, rows that no candidate is, repeated candidates, known phases as CSV rows."""

    rows: list[Row]
    rejected: list[tuple[str, str, str]]
    repeated: int
    known: list[tuple[str, str, float]]


def run(campaign: Campaign, files: Sequence[Path], columns: Columns, out: Path, *, formation: bool) -> str:
    """Write the folder `out`, and say in a few lines what is in it and what the campaign has to name.

    `formation`: energies are formation energies, so that elements are known phases of energy 0. Raises
    `TableError` when nothing can be read or used, and what a campaign's own prototypes raise.
    """
    from hullforge.dft.engines import replay

    compiled = prototypes.collect(PrototypesSettings(prototypes=campaign.prototypes))
    spaces = decorations.spaces(compiled, campaign.elements, campaign.prototypes.site_groups)
    functional = campaign.functionals[0]
    known = (row for path in files for row in sources.read(path, columns, functional))
    made = make(known, spaces, functional, formation=formation)
    if not made.rows:
        raise TableError(
            f"none of the {len(made.rejected)} rows is a candidate; the first: {': '.join(made.rejected[0][::2])}"
            if made.rejected
            else f"{', '.join(map(str, files))}: no rows with {functional}"
        )
    path = out / "replay.parquet"
    tables.write(path, "replay", made.rows)
    atomic.write_text(out / "rejected.csv", _csv(("row", "formula", "reason"), made.rejected))
    if formation:
        header = ("id", "formula", "formation_energy_per_atom")
        atomic.write_text(out / "known.csv", _csv(header, made.known))
    answers = replay.ReplayEngine().answers(path)
    n_prototypes = len({row["prototype_id"] for row in made.rows})
    reasons = Counter(reason for *_, reason in made.rejected).most_common(5)
    lines = [
        f"{path}: {len(made.rows)} candidates of {n_prototypes} prototypes, {functional}",
        f"  {made.repeated} rows repeat a candidate; the lowest energy stays",
        f"{out / 'rejected.csv'}: {len(made.rejected)} rows are no candidates",
        *(f"  {n}: {reason}" for reason, n in reasons),
        *([f"{out / 'known.csv'}: {len(made.known)} known phases"] if formation else []),
        f"engine: {{name: replay, version: {replay.version_of(answers)}, table: {path}}}",
    ]
    return "\n".join(lines)


def make(known: Iterable[Known], spaces: Sequence[Decorations], functional: str, *, formation: bool) -> Made:
    """Name the candidate of each known result; of several results of one candidate the lowest energy stays."""
    mapper = Mapper(spaces)
    by_id = {space.prototype.prototype_id: space.prototype for space in spaces}
    best: dict[str, tuple[float, str, Row]] = {}
    rejected: list[tuple[str, str, str]] = []
    competing: dict[str, tuple[float, str]] = {}
    used = 0
    for result in known:
        row = _named(result, by_id) if result.candidate else _mapped(result, mapper)
        formula = composition_columns(result.numbers)["chemical_formula_reduced"]
        if isinstance(row, str):
            rejected.append((result.source, formula, row))
            continue
        used += 1
        if result.above is not None:
            _compare(competing, formula, result)
        entry = (result.energy, result.source, row | {"functional": functional, "e_above_known": None})
        if row["candidate_id"] not in best or entry[:2] < best[row["candidate_id"]][:2]:
            best[row["candidate_id"]] = entry
    rows = [best[name][2] for name in sorted(best)]
    phases = _phases(rows, competing) if formation else []
    if phases:
        _place(rows, phases)
    return Made(rows, rejected, used - len(rows), phases)


def _mapped(result: Known, mapper: Mapper) -> Row | str:
    """Name a result by its geometry, or say why it has no name."""
    if not all(result.pbc):
        return "it is not periodic along three axes"
    match = mapper.match(result.numbers, result.cell, result.positions)
    if isinstance(match, str):
        return match
    return _row(result, match.prototype, match.species, match.order.tolist(), match.rms)


def _named(result: Known, by_id: dict[str, Prototype]) -> Row | str:
    """Take the name that the source gives; atoms are expected in the order of the prototype's sites."""
    assert result.candidate is not None
    name, candidate = result.candidate
    prototype = by_id.get(name)
    if prototype is None:
        return "its prototype is not among the configuration's"
    firsts = np.unique(prototype.site_species, return_index=True)[1]
    if len(result.numbers) != prototype.nsites:
        return "it has another number of atoms than its prototype"
    species = tuple(SYMBOLS[result.numbers[int(first)]] for first in firsts)
    wanted = [species[number] for number in prototype.site_species.tolist()]
    if [SYMBOLS[number] for number in result.numbers] != wanted or (
        ids.candidate_id(name, species) != candidate
    ):
        return "its atoms are not those of its candidate, in the order of the prototype's sites"
    return _row(result, prototype, species, list(range(prototype.nsites)), None)


def _row(
    result: Known, prototype: Prototype, species: tuple[str, ...], order: list[int], rms: float | None
) -> Row:
    """Give the row of the table, but for what needs the other rows."""
    numbers = [result.numbers[atom] for atom in order]
    return {
        "candidate_id": ids.candidate_id(prototype.prototype_id, species),
        "prototype_id": prototype.prototype_id,
        "species": list(species),
        "numbers": numbers,
        "cell": [float(x) for x in np.ravel(result.cell)],
        "positions": [[float(x) for x in result.positions[atom]] for atom in order],
        "pbc": list(result.pbc),
        "volume": abs(float(np.linalg.det(result.cell))),
        **composition_columns(numbers),
        "energy_per_atom": result.energy,
        "site_distance": rms,
        "source": result.source,
    }


def _compare(competing: dict[str, tuple[float, str]], formula: str, result: Known) -> None:
    """Note the energy of the phases that compete at a composition: of several statements the lowest."""
    assert result.above is not None
    energy = result.energy - result.above
    if formula in competing and abs(energy - competing[formula][0]) > SAME:
        log.warning(
            "%s and %s disagree by %.3g eV/atom on what competes at %s; the lower energy is taken",
            competing[formula][1], result.source, abs(energy - competing[formula][0]), formula,
        )  # fmt: skip
    competing[formula] = min(competing.get(formula, (np.inf, "")), (energy, result.source))


def _phases(rows: Sequence[Row], competing: dict[str, tuple[float, str]]) -> list[tuple[str, str, float]]:
    """Give known phases (id, formula, formation energy): the elements at 0, and what competes at a composition."""
    elements = sorted({element for row in rows for element in row["elements"]})
    above = sum(energy > 0 for energy, _ in competing.values())
    if above:
        log.warning(
            "what competes at %d of %d compositions lies above the elements, where it can't be on a hull:"
            " is the energy relative to the elements?", above, len(competing),
        )  # fmt: skip
    return [
        *((element, element, 0.0) for element in elements),
        *((f"competing-{formula}", formula, competing[formula][0]) for formula in sorted(competing)),
    ]


def _place(rows: Sequence[Row], phases: Sequence[tuple[str, str, float]]) -> None:
    """Set the distance of each row to the hull of the known phases."""
    elements = sorted({formula for name, formula, _ in phases if name == formula})
    hull = ConvexHull.from_formation_energies(
        elements,
        atomic_fractions([formula for _, formula, _ in phases], elements),
        [energy for *_, energy in phases],
        [name for name, *_ in phases],
    )
    fractions = atomic_fractions([row["chemical_formula_reduced"] for row in rows], elements)
    distances = hull.query(fractions, [row["energy_per_atom"] for row in rows])
    for row, distance in zip(rows, distances.tolist(), strict=True):
        row["e_above_known"] = distance


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
