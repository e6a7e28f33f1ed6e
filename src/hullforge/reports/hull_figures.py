"""Pictures of convex hulls: binary systems as energies over composition, ternary ones as triangles.

Comes in: compositions, formation energies and distances to the hull, as they stand in tables. Goes out: SVG for
the page as `hullforge.reports.figures` makes it, and with `convex_hull` a file. What is stable is never decided
here, only drawn; tie lines of a ternary system are the edges of the hull's facets over its stable phases.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hullforge.errors import ConfigError
from hullforge.reports.figures import INK, MARKERS, PALETTE, PAPER, panel, pretty
from hullforge.thermo.formulas import parse

#: Steps of the distance to the hull, eV/atom, each with its colour and marker; the last is for all beyond.
STEPS = ((0.025, "#0072B2", "o"), (0.05, "#009E73", "s"), (0.1, "#E69F00", "^"), (math.inf, "#D55E00", "v"))
_HEIGHT = math.sqrt(3) / 2


@dataclass(frozen=True)
class Phase:
    """A phase in a picture: atomic fractions in the order of the system's elements, energies in eV/atom."""

    formula: str
    fractions: tuple[float, ...]
    formation_energy: float
    e_above_hull: float
    is_on_hull: bool


def binary_hull(
    system: tuple[str, str],
    points: Sequence[tuple[float, float, int, bool, str]],
    n_rounds: int,
    title: str,
    file: Path | None = None,
) -> str:
    """Draw the convex hull of a binary system: formation energy (eV/atom) over the fraction of the second element.

    `points`: (fraction, formation energy, round, on the hull, formula). Unstable structures far above are cut
    off at a third of the hull's depth or 0.15 eV/atom above zero; how many is written.
    """
    with panel(f"hull {title}", title, width=3.5, height=2.7, file=file) as drawn:
        axes = drawn.axes
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
        compounds = [entry for entry in stable if 0 < entry[0] < 1]
        shifts = _below(
            [(x, energy) for x, energy, _ in compounds],
            [f for *_, f in compounds],
            1.38 * depth + 1.05 * ceiling + 0.03,
        )
        for (x, energy, formula), shift in zip(compounds, shifts, strict=True):
            if shift is not None:
                axes.annotate(
                    pretty(formula),
                    (x, energy),
                    shift,
                    textcoords="offset points",
                    ha="center",
                    va="center",
                    fontsize=9,
                    fontweight="bold",
                )
        _left_out(axes, shifts)
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
    return drawn.svg


def ternary_hull(system: Sequence[str], phases: Sequence[Phase], title: str, file: Path | None = None) -> str:
    """Draw the triangle of a ternary system: stable phases with their names and tie lines, the others by distance.

    Of the unstable phases of one composition the lowest is drawn.
    """
    stable = _lowest(phase for phase in phases if phase.is_on_hull)
    at_stable = {_place(phase) for phase in stable}
    unstable = [
        phase for phase in _lowest(p for p in phases if not p.is_on_hull) if _place(phase) not in at_stable
    ]
    # A page gives every triangle the same room; a file may take more where there is much to name.
    size = 1.8 if file is not None and len(stable) > 15 else 1.0
    with panel(f"triangle {title}", title, width=4.4 * size, height=3.75 * size, file=file) as drawn:
        axes = drawn.axes
        axes.set_axis_off()
        axes.fill(*zip(*_CORNERS, strict=True), facecolor="none", edgecolor=INK, linewidth=1.0)
        for a, b in tie_lines(stable):
            axes.plot(*zip(_place(a), _place(b), strict=True), color=INK, linewidth=0.9, alpha=0.75, zorder=2)
        low = 0.0
        for high, colour, marker in STEPS:
            chosen = [
                p for p in unstable if low < p.e_above_hull <= high or (low == 0 and p.e_above_hull <= 0)
            ]
            words = f"≤ {1000 * high:.0f} meV" if math.isfinite(high) else f"> {1000 * low:.0f} meV"
            if chosen:
                axes.plot(
                    *zip(*map(_place, chosen), strict=True), marker, markersize=5.5, color=colour,
                    markeredgecolor=PAPER, markeredgewidth=0.5, zorder=3, label=f"{words} ({len(chosen)})", clip_on=False,
                )  # fmt: skip
            low = high
        axes.plot(
            *zip(*map(_place, stable), strict=True), "o", markersize=6.5, color=INK, markeredgecolor=PAPER,
            markeredgewidth=0.7, zorder=4, label=f"stable ({len(stable)})", clip_on=False,
        )  # fmt: skip
        for corner, element, offset, side in zip(
            _CORNERS, system, ((-7, -5), (7, -5), (0, 7)), ("right", "left", "center"), strict=True
        ):
            axes.annotate(
                element, corner, offset, textcoords="offset points", ha=side, va="center", fontweight="bold",
                fontsize=10.5,
            )  # fmt: skip
        compounds = [phase for phase in stable if max(phase.fractions) < 1]
        shifts = _labels(compounds, [*stable, *unstable], size)
        for phase, shift in zip(compounds, shifts, strict=True):
            if shift is not None:
                axes.annotate(
                    pretty(phase.formula), _place(phase), shift, textcoords="offset points", ha="center",
                    va="center", fontsize=8.5, zorder=2.5,
                    bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.7, "pad": 0.6},
                )  # fmt: skip
        _left_out(axes, shifts)
        axes.set(xlim=(-0.12, 1.12), ylim=(-0.09, 0.95), aspect="equal")
        axes.annotate(
            title, (0, 1), xycoords="axes fraction", ha="left", va="top", fontsize=10.5, annotation_clip=False
        )
        axes.legend(loc="upper right", bbox_to_anchor=(1.03, 1.0), handletextpad=0.1, borderaxespad=0)
    return drawn.svg


_CORNERS = ((0.0, 0.0), (1.0, 0.0), (0.5, _HEIGHT))


def _place(phase: Phase) -> tuple[float, float]:
    """Give the place of a phase in the triangle: first element left, second right, third at the top."""
    _, right, top = phase.fractions
    return right + top / 2, top * _HEIGHT


def _lowest(phases: Iterable[Phase]) -> list[Phase]:
    """Keep the lowest phase of each composition, in a fixed order."""
    lowest: dict[tuple[float, ...], Phase] = {}
    for phase in sorted(phases, key=lambda p: (p.fractions, p.formation_energy, p.formula)):
        lowest.setdefault(tuple(round(x, 9) for x in phase.fractions), phase)
    return list(lowest.values())


def tie_lines(stable: Sequence[Phase]) -> list[tuple[Phase, Phase]]:
    """Give the pairs of stable phases of a ternary system that coexist: the edges of the lower hull's facets.

    The three elements must be among them. Where more than three phases lie in one plane, the facets are one of
    several equal ways to divide it.
    """
    from scipy.spatial import ConvexHull

    points = np.array([[*_place(phase), phase.formation_energy] for phase in stable])
    # A point high above makes the hull solid, whatever lies in one plane; its facets are not the lower ones.
    above = [*points[:, :2].mean(axis=0), max(1.0, 1.0 + points[:, 2].max())]
    hull = ConvexHull(np.vstack([points, above]), qhull_options="Qt Qc")
    pairs: set[tuple[int, int]] = set()
    for facet, equation in zip(hull.simplices.tolist(), hull.equations, strict=True):
        if equation[2] < -1e-9 and len(stable) not in facet:
            pairs |= {(min(pair), max(pair)) for pair in itertools.combinations(facet, 2)}
    return [(stable[a], stable[b]) for a, b in sorted(pairs)]


Box = tuple[float, float, float, float]
Shift = tuple[float, float]

#: Size of a label's letter and line, and of the triangle's side, in points: good enough to keep labels apart.
_LETTER, _LINE, _SIDE = 6.0, 11.0, 235.0
#: Width and height of the frame of a binary system, in points.
_FRAME = (195.0, 140.0)
_DIRECTIONS = tuple((math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)) for k in range(8))
#: A label that covers more than this of markers and other labels is left out, square points.
_COVERED = 6.0


def _labels(phases: Sequence[Phase], all_phases: Sequence[Phase], size: float = 1.0) -> list[Shift | None]:
    """Choose where each phase's label goes, in points from its marker, so that it covers no marker and no other label.

    Of equally free places the one that points away from the triangle's middle is taken. The deepest phases choose
    first; where no place is free, None.
    """
    side = _SIDE * size
    boxes = [_box(side * a, side * b, 8, 8) for a, b in map(_place, all_phases)]
    out: list[Shift | None] = [None] * len(phases)
    for index in sorted(range(len(phases)), key=lambda i: (phases[i].formation_energy, phases[i].formula)):
        phase = phases[index]
        a, b = _place(phase)
        width = _LETTER * len(phase.formula)
        away = (a - 0.5, b - _HEIGHT / 3)
        best: tuple[float, Shift, Box] | None = None
        for reach in (1.0, 1.6):
            for dx, dy in _DIRECTIONS:
                # The label's edge, not its middle, keeps its distance from the marker.
                shift = (dx * reach * (5 + width / 2), dy * reach * (6 + _LINE / 2))
                box = _box(side * a + shift[0], side * b + shift[1], width, _LINE)
                covered = sum(_overlap(box, other) for other in boxes)
                cost = covered + 20 * reach - 15 * (dx * away[0] + dy * away[1]) / (math.hypot(*away) + 0.05)
                if covered <= _COVERED and (best is None or cost < best[0] - 1e-9):
                    best = (cost, shift, box)
        if best is not None:
            out[index] = best[1]
            boxes.append(best[2])
    return out


def _below(points: Sequence[tuple[float, float]], texts: Sequence[str], span: float) -> list[Shift | None]:
    """Choose where the labels of a binary hull's phases go: below it, outwards, none over another; None: no room.

    `points`: (fraction, energy); `span` is the range of the energies that are drawn.
    """
    width, height = _FRAME
    places = [(width * x, height * energy / span) for x, energy in points]
    boxes = [_box(x, y, 8, 8) for x, y in places]
    out: list[Shift | None] = [None] * len(points)
    for index in sorted(range(len(points)), key=lambda i: (points[i][1], points[i][0])):
        half = (_LETTER + 0.8) * len(texts[index]) / 2
        outwards = math.copysign(1, points[index][0] - 0.5) if points[index][0] != 0.5 else 0
        for dx, dy in (
            (outwards * half, -13),
            (0, -13),
            (outwards * (half + 8), -6),
            (outwards * half, -24),
            (0, -24),
        ):
            box = _box(places[index][0] + dx, places[index][1] + dy, 2 * half, _LINE)
            if sum(_overlap(box, other) for other in boxes) <= _COVERED:
                out[index] = (dx, dy)
                boxes.append(box)
                break
    return out


def _left_out(axes: Any, shifts: Sequence[Shift | None]) -> None:
    """Write how many names found no room."""
    missing = sum(shift is None for shift in shifts)
    if missing:
        axes.annotate(
            f"{missing} of {len(shifts)} names left out", (0, 0), (4, 4), xycoords="axes fraction",
            textcoords="offset points", ha="left", va="bottom", fontsize=8, annotation_clip=False,
        )  # fmt: skip


def _box(x: float, y: float, width: float, height: float) -> Box:
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def convex_hull(path: Path, elements: Sequence[str], entries: pa.Table) -> None:
    """Draw the convex hull of a system of two or three elements to `path` (.png, .svg or .pdf).

    `entries` needs the columns `formula`, `formation_energy_per_atom`, `e_above_hull` (eV/atom) and `is_on_hull`; rows
    of other systems and rows without a distance are passed over. Raises `ConfigError` for another number of elements,
    another kind of file, and a system without an entry of each element.
    """
    if len(set(elements)) != len(elements) or len(elements) not in (2, 3):
        raise ConfigError(
            f"a hull of {'-'.join(elements) or 'no elements'} can't be drawn; name two or three elements"
        )
    phases = _phases(elements, entries)
    lacking = [
        element
        for index, element in enumerate(elements)
        if not any(phase.is_on_hull and phase.fractions[index] == 1 for phase in phases)
    ]
    if lacking:
        raise ConfigError(
            f"the hull of {'-'.join(elements)} can't be drawn: no entry of {', '.join(lacking)}"
        )
    title = "–".join(elements)
    if len(elements) == 2:
        points = [(p.fractions[1], p.formation_energy, 0, p.is_on_hull, p.formula) for p in phases]
        binary_hull((elements[0], elements[1]), points, 1, title, path)
    else:
        ternary_hull(elements, phases, title, path)


def _phases(elements: Sequence[str], entries: pa.Table) -> list[Phase]:
    """Give the placed entries whose elements are all among `elements`, formulas reduced."""
    formulas = parse(entries["formula"])
    inside = formulas.usable(np.array([symbol in elements for symbol in formulas.order]))
    counts = [
        {
            formulas.order[element]: int(count)
            for element, count in zip(formulas.elements[a:b], formulas.counts[a:b], strict=True)
        }
        if chosen
        else {}
        for chosen, a, b in zip(inside, formulas.start[:-1], formulas.start[1:], strict=True)
    ]
    names = ("formation_energy_per_atom", "e_above_hull", "is_on_hull")
    rows = np.flatnonzero(inside[formulas.code])
    columns = (entries[name].take(pa.array(rows)).to_pylist() for name in names)
    return [
        Phase(
            "".join(symbol + (str(n) if n > 1 else "") for symbol, n in content.items()),
            tuple(content.get(element, 0) / sum(content.values()) for element in elements),
            energy,
            above,
            stable,
        )
        for content, energy, above, stable in zip(
            (counts[code] for code in formulas.code[rows]), *columns, strict=True
        )
        if energy is not None and above is not None
    ]
