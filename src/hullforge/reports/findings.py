"""What a campaign found, in words and tables: stable compounds, what lies close above, each system's picture.

Comes in: `hullforge.reports.data.Campaign`. Goes out: JSON-like rows for the report's tables, and the report's
first sentences. Energies in eV/atom, volumes in angstrom^3.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from hullforge.reports.data import Campaign, formula_parts

#: What lies at most this far above the hull is listed as metastable, eV/atom.
METASTABLE = 0.05


def compounds(campaign: Campaign) -> list[dict[str, Any]]:
    """Give a row per compound on or at most `METASTABLE` above the first functional's hull, lowest first.

    Elements are left out; `e_above_hull` and `formation_energy` are by functional, absent where not computed.
    """
    placed: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for functional in campaign.functionals:
        for row in campaign.hulls[functional]:
            placed[row["candidate_id"]][functional] = row
    gaps = {
        row["candidate_id"]: row["band_gap"] for row in campaign.calculations if row["band_gap"] is not None
    }
    strata = {row.candidate_id: row.stratum for row in campaign.rows}
    out = []
    for candidate, rows in placed.items():
        base = rows.get(campaign.first)
        if (
            base is None
            or base["nelements"] < 2
            or base["e_above_hull"] is None
            or base["e_above_hull"] > METASTABLE
        ):
            continue
        out.append(
            {
                "candidate_id": candidate,
                "formula": base["chemical_formula_reduced"],
                "chemsys": base["chemsys"],
                "prototype": campaign.prototype(base["prototype_id"]),
                "round": base["round"],
                "stratum": strata.get(candidate, ""),
                "is_on_hull": base["is_on_hull"],
                "volume_per_atom": base["volume"] / base["nsites"],
                "band_gap": gaps.get(candidate),
                "formation_energy": {
                    f: r["formation_energy_per_atom"]
                    for f, r in sorted(rows.items())
                    if r["formation_energy_per_atom"] is not None
                },
                "e_above_hull": {
                    f: r["e_above_hull"] for f, r in sorted(rows.items()) if r["e_above_hull"] is not None
                },
            }
        )
    return sorted(
        out,
        key=lambda row: (
            not row["is_on_hull"],
            row["e_above_hull"][campaign.first],
            row["chemsys"],
            row["formula"],
            row["candidate_id"],
        ),
    )


def elements(campaign: Campaign) -> list[dict[str, Any]]:
    """Give the lowest elemental structure of each element with the first functional, alphabetically."""
    lowest: dict[str, dict[str, Any]] = {}
    for row in campaign.hulls[campaign.first]:
        symbol = row["chemsys"]
        if row["nelements"] == 1 and (symbol not in lowest or _order(row) < _order(lowest[symbol])):
            lowest[symbol] = row
    return [
        {
            "element": symbol,
            "prototype": campaign.prototype(row["prototype_id"]),
            "energy_per_atom": row["energy_per_atom"],
            "volume_per_atom": row["volume"] / row["nsites"],
            "round": row["round"],
        }
        for symbol, row in sorted(lowest.items())
    ]


def _order(row: Mapping[str, Any]) -> tuple[float, str]:
    return row["energy_per_atom"], row["calculation_id"]


def binaries(campaign: Campaign) -> list[dict[str, Any]]:
    """Give the points of each binary system with at least one compound: (fraction, energy, round, on hull, formula).

    The fraction is that of the second element; elemental structures stand at 0 and 1. The round of phases known
    beforehand is -1.
    """
    rows = [row for row in campaign.hulls[campaign.first] if row["formation_energy_per_atom"] is not None]
    systems = sorted({row["chemsys"] for row in rows if row["nelements"] == 2})
    # Phases known beforehand have no round.
    rows += [{**row, "round": -1} for row in campaign.known if row["formation_energy_per_atom"] is not None]
    return [
        {
            "chemsys": system,
            "elements": tuple(system.split("-")),
            "points": sorted(
                (
                    _fraction(row["chemical_formula_reduced"], system.split("-")[1]),
                    row["formation_energy_per_atom"],
                    row["round"],
                    row["is_on_hull"],
                    row["chemical_formula_reduced"],
                )
                for row in rows
                if row["chemsys"] == system or (row["nelements"] == 1 and row["chemsys"] in system.split("-"))
            ),
        }
        for system in systems
    ]


def _fraction(formula: str, symbol: str) -> float:
    counts = dict(formula_parts(formula))
    return counts.get(symbol, 0) / sum(counts.values())


def larger_systems(campaign: Campaign) -> list[dict[str, Any]]:
    """Give, per system of three elements or more, how many were computed and the lowest structure."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in campaign.hulls[campaign.first]:
        if row["nelements"] > 2 and row["e_above_hull"] is not None:
            groups[row["chemsys"]].append(row)
    out = []
    for system, rows in groups.items():
        best = min(rows, key=lambda row: (row["e_above_hull"], row["calculation_id"]))
        out.append(
            {
                "chemsys": system,
                "n": len(rows),
                "stable": sorted({row["chemical_formula_reduced"] for row in rows if row["is_on_hull"]}),
                "formula": best["chemical_formula_reduced"],
                "prototype": campaign.prototype(best["prototype_id"]),
                "formation_energy": best["formation_energy_per_atom"],
                "e_above_hull": best["e_above_hull"],
                "round": best["round"],
            }
        )
    return sorted(out, key=lambda row: (row["e_above_hull"], row["chemsys"]))


def words(campaign: Campaign, found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Give the summary as sentences; formulas as in the tables, for the template to typeset."""
    n: dict[str, int] = defaultdict(int)
    for row in campaign.calculations:
        n[row["functional"]] += 1
    computed = ", ".join(f"{n[f]} with {f}" for f in campaign.functionals if n[f])
    rounds = "round 0" if campaign.round == 0 else f"rounds 0 to {campaign.round}"
    sentences = [
        f"In {rounds}, {_count(len(campaign.selections), 'structure')} of {', '.join(campaign.elements) or 'no elements'}"
        f" {'was' if len(campaign.selections) == 1 else 'were'} selected; "
        + (
            f"calculations that converged: {computed}."
            if computed
            else "none of their calculations converged."
        )
    ]
    if campaign.failures:
        kinds = len({row["reason"] for row in campaign.failures})
        sentences.append(
            f"{_count(len(campaign.failures), 'calculation')} failed, for {_count(kinds, 'kind')} of reason."
        )
    else:
        sentences.append("No calculation failed.")
    stable = [row["formula"] for row in found if row["is_on_hull"]]
    near = sum(not row["is_on_hull"] for row in found)
    if stable:
        sentences.append(
            f"On the {campaign.first} hull {'lies' if len(stable) == 1 else 'lie'} {', '.join(stable)}; {_count(near, 'more compound')} {'lies' if near == 1 else 'lie'} within {1000 * METASTABLE:.0f} meV/atom of it."
        )
    elif campaign.hulls[campaign.first]:
        sentences.append(
            f"No compound lies on the {campaign.first} hull; {_count(near, 'compound')} {'lies' if near == 1 else 'lie'} within {1000 * METASTABLE:.0f} meV/atom of it."
        )
    return sentences


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
