"""What a finished campaign found, as text: structures, failures, stable compounds, hit rates, and where things are.

Comes in: the campaign's folder and configuration. Goes out: the text. Only looks, at any moment; a table that is broken
is reported, not raised.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hullforge.config import Campaign
from hullforge.errors import TableError
from hullforge.store import tables
from hullforge.thermo import corrections

#: Compounds that the summary prints at most, per chemical system.
MOST_COMPOUNDS = 8


def summary(campaign_folder: Path, campaign: Campaign) -> str:
    """Give what a campaign found, as text: structures, failures, stable compounds, hit rates, and where things are.

    Works at any moment; takes the last round that has a hull and the last that has a report.
    """
    rounds = [campaign_folder / f"round-{number:03d}" for number in range(len(campaign.rounds))]
    broken: list[str] = []
    lines = [
        f"campaign {campaign.campaign}: {'-'.join(campaign.elements)}, {len(rounds)} rounds, engine {campaign.engine.name} {campaign.engine.version}"
    ]
    if campaign.engine.name == "emt":
        lines.append(
            "  NOT DFT: energies are those of a classical potential; nothing below is a physical result"
        )
    calculations = [
        row
        for folder in rounds
        for row in _rows(folder / "calculations.parquet", "calculations", ["functional"], broken)
    ]
    failures = [
        row
        for folder in rounds
        for row in _rows(folder / "failures.parquet", "failures", ["functional", "reason"], broken)
    ]
    computed, failed = (
        Counter(row["functional"] for row in calculations),
        Counter(row["functional"] for row in failures),
    )
    lines.append("structures computed: " + ", ".join(f"{f} {computed[f]}" for f in campaign.functionals))
    reasons = Counter(row["reason"] for row in failures)
    lines.append(
        "failures: "
        + (
            ", ".join(f"{f} {failed[f]}" for f in campaign.functionals if failed[f])
            + " ("
            + ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()))
            + ")"
            if failures
            else "none"
        )
    )
    lines += _stable(campaign, rounds, broken)
    reports = [folder / "report" for folder in rounds if (folder / "report" / "report.html").is_file()]
    if reports:
        lines += _hit_rates(reports[-1] / "metrics.json")
        lines.append(f"report:  {(reports[-1] / 'report.html').as_posix()}")
    release = campaign_folder / "release" / campaign.release.version
    lines.append(f"release: {release.as_posix() if (release / 'SHA256SUMS').is_file() else 'not yet'}")
    lines += [f"broken: {problem}" for problem in broken]
    return "\n".join(lines)


def _rows(path: Path, name: str, columns: Sequence[str], broken: list[str]) -> list[dict[str, Any]]:
    """Read rows that may not exist yet; notes a table that can't be read."""
    if not path.is_file():
        return []
    try:
        return tables.read_rows(path, name, columns)
    except TableError as error:
        broken.append(str(error))
        return []


def hulls(campaign: Campaign) -> list[str]:
    """Give the stems of the files of the campaign's hulls, that which decides first."""
    return list(corrections.hulls(campaign.functionals, campaign.hull.corrections))


def _stable(campaign: Campaign, rounds: Sequence[Path], broken: list[str]) -> list[str]:
    """List the stable compounds of each chemical system, lowest formation energy first."""
    first = campaign.functionals[0]
    deciding = next(iter(hulls(campaign)))
    made = [path for path in (r / "hull" / f"{deciding}.parquet" for r in rounds) if path.is_file()]
    if not made:
        return [f"stable compounds ({first}): no hull yet"]
    columns = [
        "prototype_id",
        "chemsys",
        "nelements",
        "chemical_formula_reduced",
        "formation_energy_per_atom",
        "is_on_hull",
    ]
    rows = [
        row for row in _rows(made[-1], "hull", columns, broken) if row["is_on_hull"] and row["nelements"] > 1
    ]
    names = {
        row["prototype_id"]: row["name"]
        for row in _rows(
            tables.prototypes_of(made[-1].parent.parent), "prototypes", ["prototype_id", "name"], broken
        )
    }
    if not rows:
        return [f"stable compounds ({first}): none"]
    lines = [f"stable compounds ({first}, formation energy in eV/atom):"]
    width = max(len(row["chemsys"]) for row in rows)
    for system in sorted({row["chemsys"] for row in rows}, key=lambda s: (s.count("-"), s)):
        here = sorted(
            (row for row in rows if row["chemsys"] == system),
            key=lambda row: (row["formation_energy_per_atom"], row["chemical_formula_reduced"]),
        )
        texts = [
            f"{row['chemical_formula_reduced']} {row['formation_energy_per_atom']:.3f} ({names.get(row['prototype_id']) or row['prototype_id']})"
            for row in here[:MOST_COMPOUNDS]
        ]
        more = f" and {len(here) - MOST_COMPOUNDS} more" if len(here) > MOST_COMPOUNDS else ""
        lines.append(f"  {system:<{width}}  {', '.join(texts)}{more}")
    return lines


def _hit_rates(metrics: Path) -> list[str]:
    """Give one line on the exploit and control strata of a report's numbers; none in a round without them."""
    try:
        data = json.loads(metrics.read_text())
        rates = {group["stratum"]: group["after"][-1] for group in data["strata"]}
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return []
    texts = [
        f"{name} {rate['hits']}/{rate['n']}"
        for name in ("exploit", "explore", "control")
        if (rate := rates.get(name)) and rate["n"]
    ]
    return (
        [
            f"hits of round {data['round']} within {rates['all']['threshold']:g} eV/atom of the hull: {', '.join(texts)}"
        ]
        if texts
        else []
    )
