"""The report of a round: one HTML page that stands alone, and the same numbers as JSON.

Comes in: the folders of rounds 0 to r. Goes out: `report.html`, with its styles and figures inside and nothing
from outside, `metrics.json`, and the figures again as files in `figures/`. The same tables give the same numbers; only what is under `costs`, measured
times, differs between runs. This module puts together what `statistics`, `findings` and `figures` make.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hullforge.reports import data, figures, findings, hull_figures, statistics
from hullforge.store import atomic
from hullforge.store.vocabulary import Stratum

TEMPLATES = Path(__file__).parent / "templates"
#: At most this many rows of a table are printed; the tables themselves hold all.
MOST_ROWS = 40
MOST_VOLUMES = 20
#: At most this many pictures of a kind.
MOST_HULLS, MOST_TRIANGLES, MOST_PROTOTYPES = 45, 24, 15


def run(
    campaign_name: str,
    engine_warning: str,
    round_: int,
    rounds: list[Path],
    functionals: list[str],
    out: Path,
    replayed: Path | None = None,
    hulls: list[str] | None = None,
) -> None:
    """Write `report.html` and `metrics.json` of round `round_` into the folder `out`.

    `rounds` are the folders of rounds 0 to `round_`; `engine_warning` is printed as a banner unless empty;
    `replayed` is the table of known results that was replayed, if one was; `hulls` are the stems of the files of
    each functional's hull, by default the functionals themselves.
    Raises `TableError` when a table can't be read; missing and empty tables give a report that says so.
    """
    campaign = data.read(campaign_name, round_, rounds, functionals, replayed, hulls)
    metrics = measure(campaign)
    metrics["engine_warning"] = engine_warning
    atomic.write_json(out / "metrics.json", metrics)
    drawn = drawings(campaign, metrics)
    _write_figures(out / "figures", drawn)
    atomic.write_text(out / "report.html", render(campaign, metrics, drawn))


def _write_figures(folder: Path, drawn: Mapping[str, Sequence[str]]) -> None:
    """Write the figures as files, and nothing else into their folder: what an earlier report drew goes."""
    if folder.is_dir():
        shutil.rmtree(folder)
    for kind, svgs in drawn.items():
        for number, svg in enumerate(svgs, start=1):
            atomic.write_text(folder / f"{kind}-{number:02d}.svg", figures.standalone(svg))


def measure(campaign: data.Campaign) -> dict[str, Any]:
    """Give all numbers of the report as JSON-like values; those under `costs` are measured times."""
    found = findings.compounds(campaign)
    this_round = [row for row in campaign.rows if row.round == campaign.round]
    groups = statistics.strata(campaign, campaign.round)
    return {
        "campaign": campaign.name,
        "round": campaign.round,
        "functionals": list(campaign.functionals),
        "counts": {
            "prototypes": campaign.n_prototypes,
            "screened_survivors": campaign.n_screened,
            "selected": len(campaign.selections),
            "calculations": {
                f: sum(row["functional"] == f for row in campaign.calculations) for f in campaign.functionals
            },
            "failures": {
                f: sum(row["functional"] == f for row in campaign.failures) for f in campaign.functionals
            },
        },
        "summary": findings.words(campaign, found),
        "compounds": found,
        "elements": findings.elements(campaign),
        "larger_systems": findings.larger_systems(campaign),
        "corrections": findings.corrections(campaign),
        "unplaced": findings.unplaced(campaign),
        "hull_changes": findings.changes(campaign),
        "prototypes": findings.prototypes(campaign),
        "distances": statistics.rounds(campaign),
        "strata": groups,
        "discovery_acceleration": statistics.discovery_acceleration(groups),
        "replay": statistics.replay(campaign),
        "known_phases": len(campaign.known),
        "screener": statistics.screener_errors(this_round),
        "screener_by_stratum": {
            stratum.value: statistics.screener_errors([row for row in this_round if row.stratum == stratum])
            for stratum in statistics.CHOSEN_BY_SCREENER
        },
        "screener_validation": campaign.screener.get("validation"),
        "screener_test": campaign.screener.get("test"),
        "screener_target": campaign.screener.get("target"),
        "classification_control": statistics.classification(this_round),
        "failures": statistics.failures(campaign),
        "recovery": statistics.recovery(campaign),
        "prerelax": statistics.prerelaxation(campaign),
        "ionic_steps": statistics.ionic_steps(campaign),
        "volumes": statistics.volumes(campaign),
        "costs": statistics.costs(campaign),
    }


def drawings(campaign: data.Campaign, metrics: Mapping[str, Any]) -> dict[str, list[str]]:
    """Draw the figures; a figure without data is left out."""
    rows = [row for row in campaign.rows if row.after is not None]
    by_round = {
        f"round {r}": [row.after for row in rows if row.round == r and row.after is not None]
        for r in range(campaign.round + 1)
    }
    by_functional = {
        functional: [row["e_above_hull"] for row in hull if row["e_above_hull"] is not None]
        for functional, hull in campaign.hulls.items()
    }
    drawn: dict[str, list[str]] = {
        name: [] for name in ("histogram", "hits", "parity", "hulls", "triangles", "prototypes", "volumes")
    }
    if rows:
        drawn["histogram"] += [
            figures.distance_histogram(
                {k: v for k, v in by_round.items() if v},
                f"By round, against the {campaign.first} hull after round {campaign.round}",
            ),
            figures.whole_distribution(
                {k: v for k, v in by_functional.items() if v}, "All rounds, each functional's own hull"
            ),
        ]
    if any(group["computed"] for group in metrics["strata"]):
        drawn["hits"].append(figures.hit_rates(metrics["strata"], f"Hits of round {campaign.round}"))
    here = [row for row in rows if row.round == campaign.round]
    for quantity, title, pairs in (
        (
            "formation energy",
            "Formation energy",
            [(row.stratum, row.predicted_formation, row.formation, row.uncertainty) for row in here],
        ),
        (
            "distance to the hull",
            "Distance to the hull before the round",
            [(row.stratum, row.predicted_above, row.before, row.uncertainty) for row in here],
        ),
    ):
        known = [(s, p, c, u) for s, p, c, u in pairs if p is not None and c is not None]
        if known:
            drawn["parity"].append(figures.parity(known, quantity, title))
    for system in findings.binaries(campaign)[:MOST_HULLS]:
        drawn["hulls"].append(
            hull_figures.binary_hull(
                system["elements"], system["points"], campaign.round + 1, system["chemsys"].replace("-", "–")
            )
        )
    for system in findings.ternaries(campaign)[:MOST_TRIANGLES]:
        drawn["triangles"].append(
            hull_figures.ternary_hull(
                system["elements"], system["phases"], system["chemsys"].replace("-", "–")
            )
        )
    if metrics["prototypes"]:
        drawn["prototypes"].append(
            figures.prototype_bars(
                metrics["prototypes"][:MOST_PROTOTYPES],
                f"On the {campaign.first} hull after round {campaign.round}",
            )
        )
    for other in campaign.functionals[1:]:
        own = [row for row in metrics["volumes"] if _own_volume(row, other, campaign.functionals)]
        if own:
            drawn["volumes"].append(
                figures.volume_change(own, campaign.first, other, f"{other} against {campaign.first}")
            )
    return drawn


def _own_volume(row: Mapping[str, Any], functional: str, functionals: Sequence[str]) -> bool:
    """Tell whether a functional relaxed the cell, and did not take over that of the functional before it."""
    volume = row["volume_per_atom"]
    before = functionals[functionals.index(functional) - 1]
    return functional in volume and (before not in volume or abs(volume[functional] - volume[before]) > 1e-6)


def render(
    campaign: data.Campaign,
    metrics: Mapping[str, Any],
    drawn: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Give the page with the figures `drawn`, by default those of `drawings`."""
    drawn = drawings(campaign, metrics) if drawn is None else drawn
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "formula": _formula,
        "energy": _energy,
        "mev": _mev,
        "percent": _percent,
        "rate": _rate,
        "sentence": _sentence,
        "number": _number,
    }
    page = {name: [Markup(svg) for svg in svgs] for name, svgs in drawn.items()}  # noqa: S704 - our own SVG, text escaped by matplotlib
    return environment.get_template("report.html").render(
        m=metrics,
        figures=page,
        first=campaign.first,
        strata={stratum.value: stratum.description for stratum in Stratum},
        metastable=1000 * findings.METASTABLE,
        most_rows=MOST_ROWS,
        most_prototypes=MOST_PROTOTYPES,
        half=findings.holding_half(metrics["prototypes"]),
        histogram_end=figures.NEAR,
        n_binaries=len(findings.binaries(campaign)),
        n_ternaries=len(findings.ternaries(campaign)),
        most_volumes=MOST_VOLUMES,
        own_volume=lambda row, functional: _own_volume(row, functional, campaign.functionals),
        shared_volumes=[
            f
            for f in campaign.functionals[1:]
            if metrics["volumes"]
            and not any(_own_volume(row, f, campaign.functionals) for row in metrics["volumes"])
        ],
    )


def _formula(text: str) -> str:
    return figures.pretty(text)


def _sentence(text: str) -> str:
    """Typeset the formulas in a sentence of `findings.words`."""
    return re.sub(r"\b(?:[A-Z][a-z]?\d*){2,}\b", lambda match: figures.pretty(match.group()), text)


def _signed(text: str) -> str:
    return text.replace("-", "−")


def _energy(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else _signed(f"{value:.{digits}f}")


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else _signed(f"{value:.{digits}f}")


def _mev(value: float | None, digits: int = 0) -> str:
    """Write an energy in meV; the sign of what rounds to zero is left out."""
    return "–" if value is None else _signed(f"{round(1000 * value, digits) + 0.0:.{digits}f}")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _rate(value: Mapping[str, Any]) -> str:
    return "–" if value["rate"] is None else f"{value['hits']}/{value['n']}"
