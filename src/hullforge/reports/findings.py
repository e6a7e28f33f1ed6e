"""What a campaign found, in words and tables: stable compounds, what lies close above, each system's picture.

Comes in: `hullforge.reports.data.Campaign`. Goes out: JSON-like rows for the report's tables, and the report's
first sentences. Energies in eV/atom, volumes in angstrom^3.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from hullforge.reports.data import Campaign, formula_parts
from hullforge.reports.hull_figures import Phase
from hullforge.store.vocabulary import HullChange, HullStatus

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
        if row["hull_status"] != HullStatus.OK:
            continue
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
    by_system = _placed_by_system(campaign)
    computed = {row["chemsys"] for row in campaign.hulls[campaign.first] if row["nelements"] == 2}
    return [
        {
            "chemsys": system,
            "elements": (first, second),
            "points": sorted(
                (
                    _fraction(row["chemical_formula_reduced"], second),
                    row["formation_energy_per_atom"],
                    row["round"],
                    row["is_on_hull"],
                    row["chemical_formula_reduced"],
                )
                for part in (system, first, second)
                for row in by_system.get(part, ())
            ),
        }
        for system in sorted(computed & by_system.keys())
        for first, second in [system.split("-")]
    ]


def ternaries(campaign: Campaign) -> list[dict[str, Any]]:
    """Give the phases of each ternary system with a computed compound at most `METASTABLE` above the hull.

    Systems with the most stable ternary compounds come first, of equal ones that with the lowest compound.
    """
    by_system = _placed_by_system(campaign)
    computed = {row["chemsys"] for row in campaign.hulls[campaign.first] if row["nelements"] == 3}
    found = []
    for system in computed & by_system.keys():
        own = by_system[system]
        lowest = min(row["e_above_hull"] for row in own)
        if lowest > METASTABLE:
            continue
        elements = system.split("-")
        parts = ["-".join(part) for size in (1, 2, 3) for part in combinations(elements, size)]
        phases = [
            Phase(
                row["chemical_formula_reduced"],
                tuple(_fraction(row["chemical_formula_reduced"], element) for element in elements),
                row["formation_energy_per_atom"],
                row["e_above_hull"],
                row["is_on_hull"],
            )
            for part in parts
            for row in by_system.get(part, ())
        ]
        stable = len({row["chemical_formula_reduced"] for row in own if row["is_on_hull"]})
        found.append((-stable, lowest, system, {"chemsys": system, "elements": elements, "phases": phases}))
    return [item for *_, item in sorted(found, key=lambda entry: entry[:3])]


def _placed_by_system(campaign: Campaign) -> dict[str, list[dict[str, Any]]]:
    """Group what the first functional's hull places, known phases among it, by chemical system."""
    out: dict[str, list[dict[str, Any]]] = defaultdict(list)
    # Phases known beforehand have no round.
    for row in [*campaign.hulls[campaign.first], *({**row, "round": -1} for row in campaign.known)]:
        if row["formation_energy_per_atom"] is not None:
            out[row["chemsys"]].append(row)
    return out


def _fraction(formula: str, symbol: str) -> float:
    counts = dict(formula_parts(formula))
    return counts.get(symbol, 0) / sum(counts.values())


def prototypes(campaign: Campaign) -> list[dict[str, Any]]:
    """Count the compounds on the first functional's hull by prototype, most common first; elements are left out.

    `share` is that of all compounds on the hull, `computed` how many compounds of the prototype were computed.
    """
    computed: dict[str, int] = defaultdict(int)
    stable: dict[str, list[str]] = defaultdict(list)
    for row in campaign.hulls[campaign.first]:
        if row["nelements"] > 1:
            computed[row["prototype_id"]] += 1
            if row["is_on_hull"]:
                stable[row["prototype_id"]].append(row["chemical_formula_reduced"])
    total = sum(len(formulas) for formulas in stable.values())
    rows = [
        {
            "prototype": campaign.prototype(prototype),
            "protostructure": prototype.rsplit("-", 1)[0],
            "stable": len(formulas),
            "share": len(formulas) / total,
            "computed": computed[prototype],
            "formulas": sorted(formulas),
        }
        for prototype, formulas in stable.items()
    ]
    return sorted(rows, key=lambda row: (-row["stable"], row["protostructure"], row["prototype"]))


def corrections(campaign: Campaign) -> dict[str, str]:
    """Give the correction scheme of each functional's hull, where it has one."""
    schemes = {f: rows[0]["correction_scheme"] for f, rows in campaign.hulls.items() if rows}
    return {functional: scheme for functional, scheme in schemes.items() if scheme != "none"}


def unplaced(campaign: Campaign) -> list[dict[str, Any]]:
    """Count the calculations that have no place relative to the hull, by functional and reason."""
    words = {status.value: status.description for status in HullStatus}
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for functional, rows in campaign.hulls.items():
        for row in rows:
            if row["hull_status"] != HullStatus.OK:
                reason = row["correction_note"] or words.get(row["hull_status"], row["hull_status"])
                groups[functional, reason].append(row["chemical_formula_reduced"])
    return [
        {"functional": functional, "reason": reason, "n": len(formulas), "formulas": sorted(set(formulas))}
        for (functional, reason), formulas in sorted(groups.items(), key=lambda g: (-len(g[1]), g[0]))
    ]


def holding_half(rows: Sequence[Mapping[str, Any]]) -> int:
    """Give how many of the most common prototypes hold at least half of the compounds on the hull."""
    half = sum(row["stable"] for row in rows) / 2
    running = 0.0
    for number, row in enumerate(rows, start=1):
        running += row["stable"]
        if running >= half:
            return number
    return 0


def changes(campaign: Campaign) -> dict[str, dict[str, Any]]:
    """Give what each round changed on the hull of each functional: counts per round, and this round's rows.

    In round 0 everything on the hull has entered it, which is no change to list: its rows are left out.
    """
    return {
        functional: {
            "rounds": [_changed(number, rows) for number in sorted({row["hull_version"] for row in rows})],
            "rows": [
                _change(campaign, names, row)
                for row in sorted(rows, key=_by_size_of_change)
                if row["hull_version"] == campaign.round > 0
            ],
        }
        for functional, rows in campaign.changes.items()
        if rows
        for names in [_formulas(campaign, functional)]
    }


def _changed(number: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    here = [row for row in rows if row["hull_version"] == number]
    entered = [row for row in here if row["change"] == HullChange.ENTERED]
    return {
        "round": number,
        "entered": len(entered),
        "left": len(here) - len(entered),
        "references": sum(row["is_reference"] for row in entered),
    }


def _by_size_of_change(row: Mapping[str, Any]) -> tuple[Any, ...]:
    size = row["e_above_hull_before"] if row["change"] == HullChange.ENTERED else row["e_above_hull"]
    return row["change"], -abs(size or 0.0), row["chemical_formula_reduced"], row["calculation_id"]


def _change(campaign: Campaign, names: Mapping[str, str], row: Mapping[str, Any]) -> dict[str, Any]:
    displacing = set(row["displaced_by"])
    return {
        "change": row["change"],
        "formula": row["chemical_formula_reduced"],
        "prototype": campaign.prototype(row["prototype_id"]) if row["prototype_id"] is not None else "known",
        "round": row["round"],
        "is_reference": row["is_reference"],
        "formation_energy": row["formation_energy_per_atom"],
        "before": row["e_above_hull_before"],
        "after": row["e_above_hull"],
        "decomposition": [
            {
                "formula": names.get(phase["calculation_id"], phase["calculation_id"]),
                "fraction": phase["fraction"],
                "new": phase["calculation_id"] in displacing,
            }
            for phase in row["decomposition"]
        ]
        if row["change"] == HullChange.LEFT
        else [],
    }


def _formulas(campaign: Campaign, functional: str) -> dict[str, str]:
    names = {row["calculation_id"]: row["chemical_formula_reduced"] for row in campaign.hulls[functional]}
    return names | {row["phase_id"]: row["chemical_formula_reduced"] for row in campaign.known}


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
