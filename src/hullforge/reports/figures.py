"""The figures of a report, each a function from plain values to an SVG that stands in a page.

Comes in: numbers. Goes out: SVG text that follows the page: `currentColor` for ink, the page's variables for
grid and background, so that light and dark both read well; text stays text. The same values give the same
bytes: no dates, fixed salt. Colours are Okabe and Ito's, told apart by the colour-blind, and every colour comes
with a marker of its own. One panel per figure, so that the page's grid can put them side by side or below each
other.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Okabe and Ito's palette without black and yellow, in the order in which it is used.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
MARKERS = ("o", "s", "^", "D", "v", "P")
#: Stand-ins that are replaced by what the page decides; no other colour may equal them.
INK, GRID, PAPER = "#010203", "#040506", "#070809"
#: Blue is the one colour that a dark page needs lighter.
_REPLACED = {INK: "currentColor", GRID: "var(--grid)", PAPER: "var(--card)", PALETTE[0].lower(): "var(--c0)"}
WIDTH, HEIGHT = 4.6, 3.3

STRATUM_STYLE = {
    "exploit": (PALETTE[0], "o"),
    "explore": (PALETTE[1], "s"),
    "control": (PALETTE[2], "^"),
    "element": (PALETTE[3], "D"),
    "include": (PALETTE[4], "v"),
    "coverage": (PALETTE[5], "P"),
}
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def pretty(formula: str) -> str:
    """Write a formula with subscripts: Mg2Si becomes Mg₂Si."""
    return formula.translate(SUBSCRIPTS)


class _Panel:
    """A figure with one pair of axes, and its SVG once the block that drew it has ended."""

    def __init__(self, axes: "Axes") -> None:
        self.axes = axes
        self.svg = ""


@contextmanager
def _panel(name: str, title: str, width: float = WIDTH, height: float = HEIGHT) -> Iterator[_Panel]:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 9.5,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "axes.linewidth": 0.7,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "axes.titlesize": 10.5,
        "axes.titlelocation": "left",
        "axes.unicode_minus": True,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        panel = _Panel(figure.add_subplot())
        yield panel
        buffer = io.StringIO()
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    panel.svg = _for_page(buffer.getvalue(), name, title)


def _for_page(svg: str, name: str, title: str) -> str:
    """Cut the SVG out of its file, and let the page decide about ink, grid, background, font and size."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for stand_in, colour in _REPLACED.items():
        svg = svg.replace(stand_in, colour)
    svg = re.sub(r'<g id="[A-Za-z_.]+[0-9]+">', "<g>", svg)
    prefix = re.sub(r"[^a-z0-9]+", "-", name.lower())
    svg = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1; font-family: inherit", svg)
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", svg)
    svg = re.sub(r"<svg\s+height=\"[^\"]*\"\s*", "<svg ", svg)
    svg = re.sub(r'(<svg[^>]*?)\s(?:width|height)="[\d.]+pt"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?)\s(?:width|height)="[\d.]+pt"', r"\1", svg)
    label = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return "\n".join(line.rstrip() for line in svg.splitlines() if line.strip())


def distance_histogram(distances: Mapping[str, Sequence[float]], title: str) -> str:
    """Draw how far from the hull each round's structures lie, eV/atom: one outline per round.

    `distances[label]` are e_above_hull values; the last bin holds everything beyond it.
    """
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    width, last = 0.025, 0.6
    edges = np.arange(0, last + width / 2, width)
    with _panel(f"histogram {title}", title) as panel:
        axes = panel.axes
        top = 0.0
        for index, (label, values) in enumerate(distances.items()):
            clipped = np.minimum(np.asarray(values, dtype=float), last - 1e-6)
            counts, _ = np.histogram(clipped, edges)
            top = max(top, counts.max(initial=0))
            colour = PALETTE[index % len(PALETTE)]
            axes.stairs(counts, edges, fill=True, color=colour, alpha=0.25)
            axes.stairs(counts, edges, color=colour, linewidth=1.6, label=f"{label} ({len(values)})")
        axes.set(
            xlabel="distance to the hull (eV/atom)",
            ylabel="structures",
            xlim=(0, last),
            ylim=(0, max(1, 1.08 * top)),
            title=title,
        )
        axes.set_xticks([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6], ["0", "0.1", "0.2", "0.3", "0.4", "0.5", "≥0.6"])
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="upper right")
    return panel.svg


def hit_rates(groups: Sequence[Mapping[str, Any]], title: str) -> str:
    """Draw the share of hits per stratum and threshold, with 95 % intervals.

    `groups`: as `hullforge.reports.statistics.strata` gives them; strata without computed rows are left out.
    """
    with _panel(f"hits {title}", title) as panel:
        axes = panel.axes
        shown = [group for group in groups if group["stratum"] != "all" and group["after"][0]["n"]]
        for index, group in enumerate(shown):
            colour, marker = STRATUM_STYLE[group["stratum"]]
            offset = (index - (len(shown) - 1) / 2) * 0.13
            rates = group["after"]
            at = [place + offset for place in range(len(rates))]
            share = [100 * r["rate"] for r in rates]
            low = [100 * (r["rate"] - r["low"]) for r in rates]
            high = [100 * (r["high"] - r["rate"]) for r in rates]
            axes.errorbar(
                at,
                share,
                yerr=[[max(0, x) for x in low], [max(0, x) for x in high]],
                fmt=marker,
                color=colour,
                markersize=5.5,
                elinewidth=1.2,
                capsize=0,
                label=f"{group['stratum']} ({rates[0]['n']})",
            )
        thresholds = [rate["threshold"] for rate in groups[0]["after"]] if groups else []
        axes.set(
            xlabel="at most this far above the hull (eV/atom)",
            ylabel="hits among computed (%)",
            ylim=(-3, 103),
            title=title,
        )
        axes.set_xticks(range(len(thresholds)), [f"{t:g}" for t in thresholds])
        axes.grid(visible=False, axis="x")
        if shown:
            axes.legend(loc="upper left", ncols=1 if len(shown) < 4 else 2)
    return panel.svg


def parity_limits(points: Sequence[tuple[str, float, float, float | None]]) -> tuple[float, float]:
    """Give the range of both axes of `parity`: predicted and computed values and a margin.

    Uncertainties don't count: that of an element never seen in training is larger than all energies.
    """
    values = [value for _, predicted, computed, _ in points for value in (predicted, computed)]
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.1
    return low - margin, high + margin


def parity(points: Sequence[tuple[str, float, float, float | None]], quantity: str, title: str) -> str:
    """Draw computed against predicted values (eV/atom), with the stated uncertainty, by stratum.

    `points`: (stratum, predicted, computed, uncertainty). The axes span the values; an error bar may leave them.
    """
    with _panel(f"parity {title}", title, height=WIDTH * 0.86) as panel:
        axes = panel.axes
        limits = parity_limits(points)
        axes.plot(limits, limits, color=INK, linewidth=0.9)
        for stratum in STRATUM_STYLE:
            colour, marker = STRATUM_STYLE[stratum]
            chosen = [(p, c, u or 0.0) for s, p, c, u in points if s == stratum]
            if chosen:
                p, c, u = zip(*chosen, strict=True)
                axes.errorbar(
                    c,
                    p,
                    yerr=u,
                    fmt=marker,
                    color=colour,
                    markersize=5,
                    markeredgecolor=PAPER,
                    markeredgewidth=0.5,
                    elinewidth=0.8,
                    alpha=0.9,
                    label=f"{stratum} ({len(chosen)})",
                )
        axes.set(
            xlabel=f"computed {quantity} (eV/atom)",
            ylabel=f"predicted {quantity} (eV/atom)",
            xlim=limits,
            ylim=limits,
            title=title,
            aspect="equal",
        )
        axes.legend(loc="upper left")
    return panel.svg


def binary_hull(
    system: tuple[str, str], points: Sequence[tuple[float, float, int, bool, str]], n_rounds: int, title: str
) -> str:
    """Draw the convex hull of a binary system: formation energy (eV/atom) over the fraction of the second element.

    `points`: (fraction, formation energy, round, on the hull, formula). Unstable structures far above are cut
    off at a third of the hull's depth or 0.15 eV/atom above zero; how many is written.
    """
    with _panel(f"hull {title}", title, width=3.5, height=2.7) as panel:
        axes = panel.axes
        stable = sorted((x, energy, formula) for x, energy, _, on_hull, formula in points if on_hull)
        depth = -min([energy for _, energy, _ in stable], default=0.0)
        ceiling = max(0.15, depth / 3)
        axes.axhline(0, color=INK, linewidth=0.6)
        if stable:
            axes.plot([x for x, _, _ in stable], [e for _, e, _ in stable], color=INK, linewidth=1.2)
        for number in range(-1, n_rounds):
            colour, marker = PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)]
            if number < 0:  # known beforehand
                colour, marker = INK, "."
            for on_hull in (False, True):
                chosen = [(x, e) for x, e, r, s, _ in points if r == number and s == on_hull and e <= ceiling]
                if chosen:
                    axes.plot(
                        *zip(*chosen, strict=True),
                        marker,
                        markersize=7 if on_hull else 4.5,
                        color=colour if on_hull else "none",
                        markeredgecolor=colour,
                        markeredgewidth=1.1,
                        zorder=3,
                        clip_on=False,
                    )
        for x, energy, formula in stable:
            if 0 < x < 1:
                side = "right" if x > 0.5 else "left" if x < 0.5 else "center"
                axes.annotate(
                    pretty(formula),
                    (x, energy),
                    (0, -8),
                    textcoords="offset points",
                    ha={"left": "right", "right": "left", "center": "center"}[side],
                    va="top",
                    fontsize=9,
                    fontweight="bold",
                )
        beyond = sum(energy > ceiling for _, energy, _, _, _ in points)
        if beyond:
            axes.annotate(
                f"{beyond} higher ↑", (1, 1), xycoords="axes fraction", ha="right", va="top", fontsize=8
            )
        axes.set(
            xlabel=f"fraction of {system[1]} in {system[0]}–{system[1]}",
            ylabel="formation energy (eV/atom)",
            xlim=(0, 1),
            ylim=(-1.28 * depth - 0.03, 1.05 * ceiling),
            title=title,
        )
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], [system[0], "0.25", "0.5", "0.75", system[1]])
    return panel.svg


def volume_change(rows: Sequence[Mapping[str, Any]], base: str, other: str, title: str) -> str:
    """Draw the change of volume from functional `base` to `other`, percent, over the volume per atom (angstrom^3).

    `rows`: as `hullforge.reports.statistics.volumes` gives them; those without `other` are left out.
    """
    with _panel(f"volumes {title}", title) as panel:
        axes = panel.axes
        both = [row["volume_per_atom"] for row in rows if other in row["volume_per_atom"]]
        axes.axhline(0, color=INK, linewidth=0.7)
        axes.plot(
            [v[base] for v in both],
            [100 * (v[other] / v[base] - 1) for v in both],
            "o",
            color=PALETTE[0],
            markersize=5,
            markeredgecolor=PAPER,
            markeredgewidth=0.5,
        )
        axes.set(
            xlabel=f"volume with {base} (Å³/atom)", ylabel=f"volume change {base} → {other} (%)", title=title
        )
    return panel.svg
