"""The numbers of a report: counts, rates and errors, from rows to plain values, without files and figures.

Comes in: `hullforge.reports.data.Campaign`. Goes out: JSON-like values, the same for the same tables; what
differs from run to run (times) is made by `costs` alone and kept apart. Energies in eV/atom. A quantity that
can't be had (no control stratum, one data point) is None, never zero.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from hullforge.reports.data import Campaign, Row
from hullforge.screening import metrics
from hullforge.store.vocabulary import FailureReason, PrerelaxStatus, Stratum

#: A calculation is a hit when its distance to the hull is at most this, eV/atom.
THRESHOLDS = metrics.HIT_THRESHOLDS
#: Distances up to this count as on the hull: `is_on_hull` of the table `hull`.
ON_HULL = 1e-8
CHOSEN_BY_SCREENER = (Stratum.EXPLOIT, Stratum.EXPLORE, Stratum.CONTROL)


def rate(hits: int, n: int) -> dict[str, Any]:
    """Give hits of n as a share with its 95 % Wilson interval (J. Am. Stat. Assoc. 22, 209 (1927))."""
    if n == 0:
        return {"hits": hits, "n": n, "rate": None, "low": None, "high": None}
    z, p = 1.959963984540054, hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return {"hits": hits, "n": n, "rate": p, "low": max(0.0, centre - half), "high": min(1.0, centre + half)}


def hit_rates(rows: Iterable[Row], distance: Callable[[Row], float | None]) -> list[dict[str, Any]]:
    """Give hits among the rows that have a distance, one rate per threshold."""
    return _rates([value for row in rows if (value := distance(row)) is not None])


def _rates(distances: Sequence[float]) -> list[dict[str, Any]]:
    """Give the share of distances within each threshold."""
    return [
        {"threshold": t, **rate(sum(value <= t + ON_HULL for value in distances), len(distances))}
        for t in THRESHOLDS
    ]


def rounds(campaign: Campaign) -> list[dict[str, Any]]:
    """Give how far each round's structures lie from the report's hull: hit rates, and the median in eV/atom."""
    out = []
    for number in range(campaign.round + 1):
        distances = [row.after for row in campaign.rows if row.round == number and row.after is not None]
        if distances:
            out.append({"round": number, "rates": _rates(distances), "median": float(np.median(distances))})
    return out


def strata(campaign: Campaign, round_: int) -> list[dict[str, Any]]:
    """Give selected, computed, failed and hit rates of each stratum of a round, and of the round as a whole.

    `before`: against the hull of the round before (how many were news), `after`: against the report's hull. A
    failed calculation is in neither; it is counted beside.
    """
    rows = [row for row in campaign.rows if row.round == round_]
    groups = [(stratum.value, [row for row in rows if row.stratum == stratum]) for stratum in Stratum]
    out = [_stratum(name, group) for name, group in groups if group]
    return [*out, _stratum("all", rows)] if rows else []


def _stratum(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "stratum": name,
        "selected": len(rows),
        "computed": sum(row.computed for row in rows),
        "failed": sum(row.failed for row in rows),
        "before": hit_rates(rows, lambda row: row.before),
        "after": hit_rates(rows, lambda row: row.after),
    }


def replay(campaign: Campaign) -> dict[str, Any] | None:
    """Compare each round's strata with random choice, where a table of known results is replayed; else None.

    Hits are counted by the table's own answers, against the hull of the phases known beforehand, so that rounds,
    strata and the whole table are asked the same question. `prevalence` is the share of hits in the whole table,
    `left` of a round that among the candidates which no earlier round chose: what a random choice would find. A
    strategy that finds most hits early leaves few, so that later rounds are to be held against what was left.
    """
    if not campaign.answers:
        return None

    def distance(row: Row) -> float | None:
        return campaign.answers.get(row.candidate_id)

    rounds = []
    left = dict(campaign.answers)
    for number in range(campaign.round + 1):
        rows = [row for row in campaign.rows if row.round == number]
        groups = [(stratum.value, [row for row in rows if row.stratum == stratum]) for stratum in Stratum]
        rounds.append(
            {
                "round": number,
                "strata": [
                    {"stratum": name, "hits": hit_rates(group, distance)}
                    for name, group in [*groups, ("all", rows)]
                    if group
                ],
                "left": _rates(list(left.values())),
            }
        )
        for row in rows:
            left.pop(row.candidate_id, None)
    return {"rounds": rounds, "prevalence": _rates(list(campaign.answers.values()))}


def discovery_acceleration(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give the exploit stratum's hit rate over the control's, per threshold, against the hull after the round.

    The control is drawn at random, so its rate estimates the prevalence, and the ratio is the discovery
    acceleration factor of Matbench Discovery. None where the control is empty or without a hit; then `at_least`
    is what the upper end of the control's 95 % interval allows.
    """
    by_name = {group["stratum"]: group["after"] for group in groups}
    if "exploit" not in by_name or "control" not in by_name:
        return []
    out = []
    for exploit, control in zip(by_name["exploit"], by_name["control"], strict=True):
        known = exploit["rate"] is not None and control["rate"] is not None
        out.append(
            {
                "threshold": exploit["threshold"],
                "daf": exploit["rate"] / control["rate"] if known and control["rate"] else None,
                "at_least": exploit["rate"] / control["high"] if known and exploit["rate"] else None,
            }
        )
    return out


def screener_errors(rows: Iterable[Row]) -> dict[str, Any]:
    """Compare predictions with what was computed: formation energy, and distance to the hull before the round."""
    rows = [row for row in rows if row.computed]
    return {
        "formation_energy": errors(
            [(row.predicted_formation, row.formation, row.uncertainty) for row in rows]
        ),
        "e_above_hull": errors([(row.predicted_above, row.before, row.uncertainty) for row in rows]),
    }


def errors(triples: Iterable[tuple[float | None, float | None, float | None]]) -> dict[str, Any] | None:
    """Give errors and calibration of (predicted, computed, uncertainty), as in `hullforge.screening.metrics`.

    `coverage` is the share of errors within one and two stated standard deviations; None without pairs.
    """
    array = np.array(
        [[math.nan if value is None else value for value in triple] for triple in triples]
    ).reshape(-1, 3)
    found = metrics.errors(array[:, 1], array[:, 0])
    return (
        {**found, "coverage": metrics.coverage(array[:, 1], array[:, 0], array[:, 2])} if found["n"] else None
    )


def classification(rows: Iterable[Row], threshold: float = 0.0) -> dict[str, Any] | None:
    """Judge 'at most `threshold` above the hull before' on the control stratum, as a search for stable crystals.

    Only the control is free of the screener's own choice; None where it has no computed row.
    """
    pairs = [
        (row.before, math.nan if row.predicted_above is None else row.predicted_above)
        for row in rows
        if row.stratum == Stratum.CONTROL and row.before is not None
    ]
    return (
        metrics.discovery([c for c, _ in pairs], [p for _, p in pairs], threshold + ON_HULL)
        if pairs
        else None
    )


def failures(campaign: Campaign) -> list[dict[str, Any]]:
    """Count failures by functional and reason, most frequent first, each with its sentence and one example."""
    groups = defaultdict(list)
    for row in campaign.failures:
        groups[row["functional"], row["reason"]].append(row)
    known = {reason.value: reason.description for reason in FailureReason}
    out = [
        {
            "functional": functional,
            "reason": reason,
            "n": len(rows),
            "description": known.get(reason, ""),
            "formulas": sorted({row["chemical_formula_reduced"] for row in rows}),
            "message": rows[0]["message"],
        }
        for (functional, reason), rows in groups.items()
    ]
    order = {functional: index for index, functional in enumerate(campaign.functionals)}
    return sorted(out, key=lambda item: (order.get(item["functional"], 99), -item["n"], item["reason"]))


def recovery(campaign: Campaign) -> dict[str, Any]:
    """Count what custodian met and did in calculations that converged in the end, and rows that drifted."""
    rows = campaign.calculations
    return {
        "retried": sum(row["n_attempts"] > 0 and bool(row["errors"]) for row in rows),
        "errors": _counts(_without_step(error) for row in rows for error in row["errors"]),
        "corrections": _counts(_without_step(text) for row in rows for text in row["corrections"]),
        "drifted": sum(bool(row["protocol_drift"]) for row in rows),
        "drift": _counts(_without_step(text) for row in rows for text in row["protocol_drift"]),
    }


def _without_step(text: str) -> str:
    return text.partition(":")[2] or text


def _counts(items: Iterable[str]) -> list[dict[str, Any]]:
    counter = Counter(items)
    return [
        {"what": what, "n": n} for what, n in sorted(counter.items(), key=lambda pair: (-pair[1], pair[0]))
    ]


def prerelaxation(campaign: Campaign) -> dict[str, Any]:
    """Count how pre-relaxations ended, with the DFT ionic steps of the first functional that followed."""
    steps = {
        row["candidate_id"]: row["n_ionic_steps"]
        for row in campaign.calculations
        if row["functional"] == campaign.first
    }
    out = []
    for status in PrerelaxStatus:
        rows = [row for row in campaign.prerelax if row["status"] == status]
        if rows:
            followed = [steps[row["candidate_id"]] for row in rows if row["candidate_id"] in steps]
            out.append(
                {
                    "status": status.value,
                    "description": status.description,
                    "n": len(rows),
                    "mean_steps": float(np.mean([row["n_steps"] for row in rows])),
                    "median_dft_steps": float(np.median(followed)) if followed else None,
                }
            )
    return {"statuses": out, "backends": sorted({row["backend"] for row in campaign.prerelax})}


def ionic_steps(campaign: Campaign) -> list[dict[str, Any]]:
    """Give quantiles of the ionic steps per calculation, by functional."""
    out = []
    for functional in campaign.functionals:
        steps = [row["n_ionic_steps"] for row in campaign.calculations if row["functional"] == functional]
        if steps:
            q = np.quantile(steps, [0.5, 0.9])
            out.append(
                {
                    "functional": functional,
                    "n": len(steps),
                    "mean": float(np.mean(steps)),
                    "median": float(q[0]),
                    "p90": float(q[1]),
                    "max": int(max(steps)),
                }
            )
    return out


def volumes(campaign: Campaign) -> list[dict[str, Any]]:
    """Give the volume per atom (angstrom^3) of every candidate that has more than one functional."""
    by_candidate: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in campaign.calculations:
        by_candidate[row["candidate_id"]][row["functional"]] = row
    distance = {row["candidate_id"]: row["e_above_hull"] for row in campaign.hulls[campaign.first]}
    out = []
    for candidate, rows in by_candidate.items():
        if len(rows) > 1 and campaign.first in rows:
            base = rows[campaign.first]
            out.append(
                {
                    "candidate_id": candidate,
                    "formula": base["chemical_formula_reduced"],
                    "prototype": campaign.prototype(base["prototype_id"]),
                    "e_above_hull": distance.get(candidate),
                    "volume_per_atom": {f: row["volume"] / row["nsites"] for f, row in sorted(rows.items())},
                }
            )
    return sorted(
        out, key=lambda row: (_last_if_none(row["e_above_hull"]), row["formula"], row["candidate_id"])
    )


def _last_if_none(value: float | None) -> float:
    return math.inf if value is None else value


def costs(campaign: Campaign) -> dict[str, Any]:
    """Sum what calculations cost: core-hours by round and functional, and per hit of the report's round.

    A calculation runs on one core; its CPU time over all attempts, failed ones included, is what it cost.
    """
    by_group: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for row in campaign.costs:
        by_group[row["round"], row["functional"]].append(row)
    groups = [
        {
            "round": round_,
            "functional": functional,
            "n": len(by_group[round_, functional]),
            "core_hours": sum(row["cpu_time_s"] for row in by_group[round_, functional]) / 3600,
            "median_wall_s": float(np.median([row["walltime_s"] for row in by_group[round_, functional]])),
            "max_wall_s": max(row["walltime_s"] for row in by_group[round_, functional]),
            "max_memory_mib": max(row["max_memory_mib"] for row in by_group[round_, functional]),
        }
        for round_ in range(campaign.round + 1)
        for functional in campaign.functionals
        if (round_, functional) in by_group
    ]
    spent = sum(
        g["core_hours"] for g in groups if g["round"] == campaign.round and g["functional"] == campaign.first
    )
    hits = hit_rates([row for row in campaign.rows if row.round == campaign.round], lambda row: row.after)
    return {
        "groups": groups,
        "total_core_hours": sum(g["core_hours"] for g in groups),
        "per_hit": [
            {
                "threshold": h["threshold"],
                "hits": h["hits"],
                "core_hours": spent / h["hits"] if h["hits"] else None,
            }
            for h in hits
        ],
    }
