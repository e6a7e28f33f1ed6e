"""Where a campaign stands, from its files alone: what is done, what has been started, what failed.

Comes in: the campaign's folder and configuration. Goes out: a dictionary and its text, and the summary that a
finished campaign prints. Only looks, at any moment, beside running jobs: it locks nothing, writes nothing, and
loads neither torch nor pymatgen. A table that is broken is reported as failed, not raised.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hullforge.config import Campaign
from hullforge.dft import protocol as protocols
from hullforge.errors import TableError
from hullforge.store import journal, seal, tables
from hullforge.store.vocabulary import FailureReason
from hullforge.thermo import corrections

#: Compounds that the summary prints at most, per chemical system.
MOST_COMPOUNDS = 8


def status(campaign_folder: Path, campaign: Campaign) -> dict[str, Any]:
    """Give what is done of what the configuration plans.

    `rounds[r]["stages"]` counts files done of planned; `rounds[r]["functionals"]` counts structures: `planned`
    (None while not known), `converged`, `failed`, `started` (no result yet: running, or interrupted), of batches
    in tables and of those at work; `failures` counts reasons. Raises `ProtocolError` for a broken protocol.
    """
    protocol = protocols.load(campaign.protocol)
    theories = {f: protocol.theory_id(f, campaign.engine) for f in campaign.functionals}
    sealed = seal.sealed_rounds(campaign_folder)
    seen: dict[str, set[str]] = {f: set() for f in campaign.functionals}
    rounds = [
        _round(campaign_folder, campaign, theories, number, seen, sealed=number in sealed)
        for number in range(len(campaign.rounds))
    ]
    for functional, theory in theories.items():
        _add_work(rounds, functional, campaign_folder / "work" / theory, seen[functional])
    release = campaign_folder / "release" / campaign.release.version
    return {
        "campaign": campaign.campaign,
        "folder": campaign_folder.as_posix(),
        "prototypes": (campaign_folder / "prototypes.parquet").is_file(),
        "rounds": rounds,
        "release": release.as_posix() if (release / "SHA256SUMS").is_file() else None,
    }


def _round(
    folder: Path,
    campaign: Campaign,
    theories: dict[str, str],
    number: int,
    seen: dict[str, set[str]],
    *,
    sealed: bool,
) -> dict[str, Any]:
    """Count a round's files and the rows of its finished batches; collects their calculation ids in `seen`."""
    here = folder / f"round-{number:03d}"
    batches = campaign.rounds[number].batches
    broken: list[str] = []
    stages = []
    if number:
        stages.append(
            _stage(
                "screen", [here / "screen" / f"shard-{s}.parquet" for s in range(campaign.screening.shards)]
            )
        )
    stages.append(_stage("select", [here / "selection.parquet"]))
    stages.append(_stage("prerelax", [here / "prerelax" / f"batch-{b}.parquet" for b in range(batches)]))
    functionals = []
    for place, functional in enumerate(campaign.functionals):
        folders = [
            here / "dft" / f"{functional}-{theories[functional]}" / f"batch-{b}" for b in range(batches)
        ]
        stages.append(_stage(f"dft {functional}", [batch / "calculations.parquet" for batch in folders]))
        converged = [
            row
            for batch in folders
            for row in _rows(batch / "calculations.parquet", "calculations", ["calculation_id"], broken)
        ]
        failed = [
            row
            for batch in folders
            for row in _rows(batch / "failures.parquet", "failures", ["calculation_id", "reason"], broken)
        ]
        seen[functional] |= {row["calculation_id"] for row in converged + failed}
        plan = here / ("promotion.parquet" if place else "selection.parquet")
        planned = (
            len(_rows(plan, "promotion" if place else "selection", ["candidate_id"], broken))
            if plan.is_file()
            else None
        )
        functionals.append(
            {
                "functional": functional,
                "planned": planned,
                "converged": len(converged),
                "failed": len(failed),
                "started": 0,
                "failures": dict(sorted(Counter(row["reason"] for row in failed).items())),
                "open": not all((batch / "calculations.parquet").is_file() for batch in folders),
            }
        )
    stages += [
        _stage(
            "collect", [here / name for name in ("calculations.parquet", "failures.parquet", "costs.parquet")]
        ),
        _stage("hull", [here / "hull" / f"{stem}.parquet" for stem in _hulls(campaign)]),
        _stage("train", [here / "screener" / "model.pt"]),
        _stage("report", [here / "report" / "report.html"]),
    ]
    report = here / "report" / "report.html"
    return {
        "round": number,
        "budget": campaign.rounds[number].budget,
        "stages": stages,
        "functionals": functionals,
        "sealed": sealed,
        "report": report.as_posix() if report.is_file() else None,
        "broken": broken,
    }


def _stage(name: str, files: Sequence[Path]) -> dict[str, Any]:
    return {"stage": name, "done": sum(file.is_file() for file in files), "planned": len(files)}


def _rows(path: Path, name: str, columns: Sequence[str], broken: list[str]) -> list[dict[str, Any]]:
    """Read rows that may not exist yet; notes a table that can't be read."""
    if not path.is_file():
        return []
    try:
        return tables.read_rows(path, name, columns)
    except TableError as error:
        broken.append(str(error))
        return []


def _add_work(rounds: Sequence[dict[str, Any]], functional: str, work: Path, seen: set[str]) -> None:
    """Count what lies under `work` and in no table yet, for the first round that still has open batches."""
    entries = [next(f for f in r["functionals"] if f["functional"] == functional) for r in rounds]
    entry = next((e for e in entries if e["open"]), None)
    if entry is None:
        return
    reasons = Counter(entry["failures"])
    for calculation in _calculations_at_work(work):
        if calculation.name in seen:
            continue
        reason = _reason(calculation / journal.DONE_FILE)
        if reason is None:
            entry["started"] += 1
        elif reason:
            entry["failed"] += 1
            reasons[reason] += 1
        else:
            entry["converged"] += 1
    entry["failures"] = dict(sorted(reasons.items()))


def _calculations_at_work(work: Path) -> Iterator[Path]:
    if work.is_dir():
        for shelf in sorted(work.iterdir()):
            if shelf.is_dir():
                yield from (folder for folder in sorted(shelf.iterdir()) if folder.is_dir())


def _reason(done: Path) -> str | None:
    """Give the reason of a failure, '' for a converged calculation, None for one without a result."""
    try:
        return str(json.loads(done.read_text())["record"].get("reason", ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def render(state: dict[str, Any]) -> str:
    """Give the state as text for a terminal."""
    lines = [f"campaign {state['campaign']} in {state['folder']}"]
    if not state["prototypes"]:
        lines.append("  prototypes: not yet")
    for round_ in state["rounds"]:
        stages = round_["stages"]
        if not any(stage["done"] for stage in stages):
            lines.append(f"round {round_['round']}: not started (budget {round_['budget']})")
            continue
        lines.append(
            f"round {round_['round']}: {'sealed' if round_['sealed'] else 'open'} (budget {round_['budget']})"
        )
        unfinished = [stage for stage in stages if stage["done"] < stage["planned"]]
        done = [stage["stage"] for stage in stages if stage["done"] == stage["planned"]]
        lines.append(f"  done: {', '.join(done) or 'nothing'}")
        if unfinished:
            lines.append(
                "  to do: "
                + ", ".join(f"{stage['stage']} {stage['done']}/{stage['planned']}" for stage in unfinished)
            )
        for entry in round_["functionals"]:
            if entry["planned"] is None and not entry["converged"] + entry["failed"] + entry["started"]:
                continue
            planned = "?" if entry["planned"] is None else entry["planned"]
            text = f"  {entry['functional']}: {entry['converged']} converged, {entry['failed']} failed"
            if entry["started"]:
                text += f", {entry['started']} started"
            lines.append(f"{text}, of {planned}")
            known = {reason.value: reason.description for reason in FailureReason}
            lines += [
                f"    {n} {reason}: {known.get(reason, 'unknown reason')}"
                for reason, n in entry["failures"].items()
            ]
        lines += [f"  broken: {problem}" for problem in round_["broken"]]
    lines.append(f"release: {state['release'] or 'not yet'}")
    return "\n".join(lines)


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


def _hulls(campaign: Campaign) -> list[str]:
    """Give the stems of the files of the campaign's hulls, that which decides first."""
    return list(corrections.hulls(campaign.functionals, campaign.hull.corrections))


def _stable(campaign: Campaign, rounds: Sequence[Path], broken: list[str]) -> list[str]:
    """List the stable compounds of each chemical system, lowest formation energy first."""
    first = campaign.functionals[0]
    deciding = next(iter(_hulls(campaign)))
    hulls = [path for path in (r / "hull" / f"{deciding}.parquet" for r in rounds) if path.is_file()]
    if not hulls:
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
        row for row in _rows(hulls[-1], "hull", columns, broken) if row["is_on_hull"] and row["nelements"] > 1
    ]
    names = {
        row["prototype_id"]: row["name"]
        for row in _rows(
            tables.prototypes_of(hulls[-1].parent.parent), "prototypes", ["prototype_id", "name"], broken
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
