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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hullforge.errors import ConfigError
from hullforge.store.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Okabe and Ito's palette without black and yellow, in the order in which it is used.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", "--", ":")
#: What the page decides about: replaced in its figures, as they are in files. No other colour may equal them.
INK, GRID, PAPER = "#1b2430", "#e3e7ec", "#fefefe"
#: Blue is the one colour that a dark page needs lighter.
_REPLACED = {INK: "currentColor", GRID: "var(--grid)", PAPER: "var(--card)", PALETTE[0].lower(): "var(--c0)"}
WIDTH, HEIGHT = 4.6, 3.3
#: Kinds of files that figures are written to, and the metadata that must be left out for the same bytes.
_FILES: dict[str, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}

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


class Panel:
    """A figure with one pair of axes, and its SVG once the block that drew it has ended."""

    def __init__(self, axes: "Axes") -> None:
        self.axes = axes
        self.svg = ""


@contextmanager
def panel(
    name: str, title: str, width: float = WIDTH, height: float = HEIGHT, file: Path | None = None
) -> Iterator[Panel]:
    """Give a panel to draw in; afterwards it holds the figure for the page, and `file` the same figure.

    `name` is the figure's own in the page; `file` ends in .svg, .png or .pdf, or `ConfigError` is raised.
    """
    kind = file.suffix.removeprefix(".").lower() if file is not None else ""
    if file is not None and kind not in _FILES:
        raise ConfigError(f"{file}: figures are written as .{', .'.join(_FILES)}")
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
        made = Panel(figure.add_subplot())
        yield made
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata=_FILES["svg"])
        if file is not None:
            with atomic_path(file) as temporary:
                figure.savefig(temporary, format=kind, dpi=200, facecolor="white", metadata=_FILES[kind])
    made.svg = _for_page(buffer.getvalue(), name, title)


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


def standalone(svg: str) -> str:
    """Make a file of its own of a figure for the page: on white, with its own size, font and colours."""
    for stand_in, colour in _REPLACED.items():
        svg = svg.replace(colour, stand_in)
    svg = svg.replace("font-family: inherit", "font-family: 'DejaVu Sans', sans-serif")
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0]
    svg = svg.replace(
        "<svg ", f'<svg width="{width}pt" height="{height}pt" style="background: white; color: {INK}" ', 1
    )
    return '<?xml version="1.0" encoding="utf-8"?>\n' + svg + "\n"


#: Distances beyond this are left out of the histogram of rounds, as in ALEXANDRIA's, eV/atom.
NEAR = 0.3
#: Width of its bins, the same for all rounds, eV/atom.
BIN = 0.01


def distance_histogram(distances: Mapping[str, Sequence[float]], title: str) -> str:
    """Draw how the distances to the hull of each round's structures are distributed below `NEAR`.

    `distances[label]` are e_above_hull values in eV/atom. All rounds share bins of `BIN`; a bin's height is the
    share of all structures of its round, those beyond `NEAR` counted, so that rounds of different size compare.
    """
    import numpy as np

    edges = np.linspace(0, NEAR, round(NEAR / BIN) + 1)
    with panel(f"histogram {title}", title) as drawn:
        axes = drawn.axes
        top = 0.0
        for index, (label, given) in enumerate(distances.items()):
            values = np.asarray(given, dtype=float)
            # What lies on an edge by its decimal digits belongs to the bin that begins there.
            counts, _ = np.histogram(values[values <= NEAR] + 1e-9, edges)
            share = 100 * counts / max(1, len(values))
            top = max(top, share.max(initial=0))
            colour = PALETTE[index % len(PALETTE)]
            beyond = int((values > NEAR).sum())
            axes.stairs(share, edges, fill=True, color=colour, alpha=0.2)
            axes.stairs(
                share,
                edges,
                color=colour,
                linewidth=1.5,
                linestyle=LINES[index // len(PALETTE) % len(LINES)],
                label=f"{label} ({len(values)}, {beyond} beyond)",
            )
        axes.set(
            xlabel="distance to the hull (eV/atom)",
            ylabel=f"structures of the round (% per {1000 * BIN:.0f} meV)",
            xlim=(0, NEAR),
            ylim=(0, max(1.0, 1.08 * top)),
            title=title,
        )
        axes.legend(loc="upper right")
    return drawn.svg


def whole_distribution(distances: Mapping[str, Sequence[float]], title: str) -> str:
    """Draw the distribution of all distances to the hull with each functional, each with the area 1.

    `distances[label]` are e_above_hull values in eV/atom; beyond 4 eV/atom they are left out, as in ALEXANDRIA's.
    """
    import numpy as np

    largest = max((value for values in distances.values() for value in values if value <= 4), default=0)
    last = next(end for end in (0.5, 1.0, 2.0, 4.0) if largest <= end)
    edges = np.linspace(0, last, 51)
    with panel(f"distribution {title}", title) as drawn:
        axes = drawn.axes
        for index, (label, given) in enumerate(distances.items()):
            values = np.asarray(given, dtype=float)
            counts, _ = np.histogram(values[values <= last], edges)
            density = counts / max(1, counts.sum()) / (edges[1] - edges[0])
            colour = PALETTE[index % len(PALETTE)]
            axes.stairs(density, edges, fill=True, color=colour, alpha=0.2)
            axes.stairs(density, edges, color=colour, linewidth=1.5, label=f"{label} ({len(values)})")
        axes.set(
            xlabel="distance to the hull (eV/atom)",
            ylabel="density (area 1)",
            xlim=(0, last),
            ylim=(0, None),
            title=title,
        )
        axes.legend(loc="upper right")
    return drawn.svg


def prototype_bars(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """Draw how many compounds on the hull each of the most common prototypes has.

    `rows`: as `hullforge.reports.findings.prototypes` gives them, most common first.
    """
    from matplotlib.ticker import MaxNLocator

    height = 0.75 + 0.24 * max(3, len(rows))
    with panel(f"prototypes {title}", title, width=1.3 * WIDTH, height=height) as drawn:
        axes = drawn.axes
        places = range(len(rows))
        axes.barh(places, [row["stable"] for row in rows], height=0.68, color=PALETTE[0])
        for place, row in zip(places, rows, strict=True):
            text = f"{row['stable']}" + (f" · {100 * row['share']:.3g} %" if row["share"] is not None else "")
            axes.annotate(
                text, (row["stable"], place), (4, 0), textcoords="offset points", va="center", fontsize=8.5
            )
        most = max((row["stable"] for row in rows), default=1)
        axes.set(xlabel="compounds on the hull", xlim=(0, 1.18 * most), title=title)
        axes.set_yticks(list(places), _short([row["prototype"] for row in rows], rows))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return drawn.svg


def _short(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name prototypes on an axis: by common name, with the label where a name repeats."""
    texts = [
        f"{name} ({row['protostructure']})" if names.count(name) > 1 else name
        for name, row in zip(names, rows, strict=True)
    ]
    return [text if len(text) <= 40 else text[:39] + "…" for text in texts]


def hit_rates(groups: Sequence[Mapping[str, Any]], title: str) -> str:
    """Draw the share of hits per stratum and threshold, with 95 % intervals.

    `groups`: as `hullforge.reports.statistics.strata` gives them; strata without computed rows are left out.
    """
    with panel(f"hits {title}", title) as drawn:
        axes = drawn.axes
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
    return drawn.svg


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
    with panel(f"parity {title}", title, height=WIDTH * 0.86) as drawn:
        axes = drawn.axes
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
    return drawn.svg


def volume_change(rows: Sequence[Mapping[str, Any]], base: str, other: str, title: str) -> str:
    """Draw the change of volume from functional `base` to `other`, percent, over the volume per atom (angstrom^3).

    `rows`: as `hullforge.reports.statistics.volumes` gives them; those without `other` are left out.
    """
    with panel(f"volumes {title}", title) as drawn:
        axes = drawn.axes
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
    return drawn.svg
