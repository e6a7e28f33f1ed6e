"""What a reader of a release wants to see first: `hullforge stats`.

Comes in: a release folder, perhaps another to compare with. Goes out: `stats.html`, which stands alone, the figures as
PNG, `stats.json`, and lines for a terminal. Reads the columns that it needs; structures for the diversity are those
with the smallest ids, `SAMPLE` at most, since an id is a hash. The same releases give the same bytes.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hullforge.errors import ConfigError
from hullforge.release import layout
from hullforge.reports import diversity
from hullforge.reports.figures import GRID, INK, PALETTE, panel
from hullforge.store import atomic, tables
from hullforge.store.structures import SYMBOLS

SAMPLE = 1000
_TEMPLATES = Path(__file__).parent / "templates"


def run(folder: Path, out: Path, against: Path | None = None) -> list[str]:
    """Write the page, its numbers and its figures to the folder `out`; gives the lines to print."""
    stats = measure(folder)
    own = sample(folder)
    structures, every = diversity.features(own)
    stats["diversity"] = {
        "features": diversity.FEATURES, "ridge": diversity.RIDGE, "structures": len(structures), "atoms": len(every),
        "log_det_per_structure": diversity.log_det(structures), "log_det_per_atom": diversity.log_det(every),
    }  # fmt: skip
    stats["against"] = None
    if against is not None:
        other, _ = diversity.features(sample(against))
        data = _dataset(against)
        stats["against"] = {
            "title": data["title"], "version": data["version"], "structures": len(other), "k": 5,
            "overlap": diversity.overlap(other, structures),
        }  # fmt: skip
    drawn = _draw(folder, stats, out)
    atomic.write_json(out / "stats.json", stats)
    atomic.write_text(out / "stats.html", _page(stats, drawn))
    return lines(stats)


def _dataset(folder: Path) -> dict[str, Any]:
    path = folder / layout.DATASET
    if not path.is_file():
        raise ConfigError(f"{folder}: no release, it has no {layout.DATASET}")
    found: dict[str, Any] = atomic.read_json(path)
    return found


def measure(folder: Path) -> dict[str, Any]:
    """Count what a release holds."""
    data = _dataset(folder)
    elements: Counter[str] = Counter()
    by_functional = {}
    for functional in data["functionals"]:
        table = tables.read(
            folder / layout.table("calculations", functional), "calculations", ["elements", "nsites", "nelements", "chemsys"]
        )  # fmt: skip
        if functional == data["functionals"][0]:
            flat = pc.value_counts(pc.list_flatten(table["elements"]))
            elements.update({each["values"]: each["counts"] for each in flat.to_pylist()})
        placed = _distances(folder, functional)
        frames = folder / layout.table("frames", functional)
        tables.read(frames, "frames", [])
        sites = table["nsites"].to_numpy()
        by_functional[functional] = {
            "calculations": table.num_rows,
            "frames": pq.read_metadata(frames).num_rows,
            "chemical_systems": pc.count_distinct(table["chemsys"]).as_py(),
            "placed": len(placed),
            "on_hull": int((placed <= 1e-8).sum()),
            "within_50_mev": int((placed <= 0.05 + 1e-8).sum()),
            "median_e_above_hull": float(np.median(placed)) if len(placed) else None,
            "median_nsites": float(np.median(sites)) if len(sites) else None,
            "nsites": dict(sorted(Counter(sites.tolist()).items())),
            "nelements": dict(sorted(Counter(table["nelements"].to_pylist()).items())),
        }
    failures = tables.read(folder / layout.table("failures"), "failures", ["functional", "reason"])
    counted = Counter(zip(failures["functional"].to_pylist(), failures["reason"].to_pylist(), strict=True))
    return {
        "title": data["title"], "version": data["version"], "warning": data["warning"], "license": data["license"],
        "first": data["functionals"][0], "by_functional": by_functional,
        "elements": {symbol: elements[symbol] for symbol in sorted(elements)},
        "failures": [{"functional": f, "reason": r, "n": n} for (f, r), n in sorted(counted.items())],
    }  # fmt: skip


def _distances(folder: Path, functional: str) -> Any:
    table = tables.read(folder / layout.table("properties", functional), "properties", ["e_above_hull"])
    return table["e_above_hull"].drop_null().to_numpy()


def sample(folder: Path) -> list[dict[str, Any]]:
    """Give the structures of a release with the smallest ids, `SAMPLE` at most, in the order of their ids."""
    path = folder / layout.table("structures")
    ids = tables.read(path, "structures", ["structure_id"])["structure_id"]
    chosen = ids.take(pc.sort_indices(ids)[:SAMPLE]).combine_chunks()
    columns = ["structure_id", "numbers", "cell", "positions", "pbc"]
    found: list[dict[str, Any]] = []
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            piece = file.read_row_group(number, columns=columns)
            found += piece.filter(pc.is_in(piece["structure_id"], chosen)).to_pylist()
    return sorted(found, key=lambda row: str(row["structure_id"]))


def lines(stats: dict[str, Any]) -> list[str]:
    """Give a short table for a terminal."""
    header = ("functional", "calculations", "frames", "systems", "on hull", "<= 50 meV", "failures")
    failed: Counter[str] = Counter()
    for row in stats["failures"]:
        failed[row["functional"]] += row["n"]
    rows = [
        (
            f,
            s["calculations"],
            s["frames"],
            s["chemical_systems"],
            s["on_hull"],
            s["within_50_mev"],
            failed[f],
        )
        for f, s in stats["by_functional"].items()
    ]
    widths = [max(len(str(row[i])) for row in (header, *rows)) for i in range(len(header))]
    out = [f"{stats['title']}, version {stats['version']}: {len(stats['elements'])} elements"]
    out += ["  ".join(str(v).rjust(w) if i else str(v).ljust(w) for i, (v, w) in enumerate(zip(row, widths, strict=True)))
            for row in (header, *rows)]  # fmt: skip
    d = stats["diversity"]
    if d["log_det_per_structure"] is not None:
        out.append(
            f"diversity of {d['structures']} structures: log det {d['log_det_per_structure']:.2f}"
            f" ({d['features']}, ridge {d['ridge']:g})"
        )
    if stats["against"]:
        found, title = (
            stats["against"]["overlap"],
            f"{stats['against']['title']} {stats['against']['version']}",
        )
        values = (
            "too few structures" if found is None else ", ".join(f"{k} {v:.3f}" for k, v in found.items())
        )
        out.append(f"against {title}: {values}")
    return out


def _draw(folder: Path, stats: dict[str, Any], out: Path) -> list[str]:
    first = stats["first"]
    drawn = [
        _periodic_table(stats["elements"], f"Calculations with {first}, by element", out / "elements.png")
    ]
    distances = {f: _distances(folder, f) for f in stats["by_functional"]}
    if any(len(values) for values in distances.values()):
        drawn.append(_histogram(distances, out / "e_above_hull.png"))
    drawn.append(_bars(stats["by_functional"][first]["nsites"], first, out / "sizes.png"))
    return drawn


def _periodic_table(counts: dict[str, int], title: str, file: Path) -> str:
    import matplotlib as mpl

    colours = mpl.colormaps["viridis"]
    most = max(counts.values(), default=1)
    with panel("elements", title, width=8.4, height=4.6, file=file) as drawn:
        axes = drawn.axes
        for number in range(1, 104):
            symbol = SYMBOLS[number]
            period, group = diversity.place(number)
            x, y = (
                (number - 57 + 3, 8.4)
                if 57 <= number <= 71
                else (number - 89 + 3, 9.4)
                if number >= 89
                else (group, period)
            )
            count = counts.get(symbol, 0)
            share = np.log1p(count) / np.log1p(most)
            face = mpl.colors.to_hex(colours(0.12 + 0.83 * share)) if count else "none"
            ink = INK if not count else "#ffffff" if share < 0.62 else "#101010"
            axes.add_patch(
                mpl.patches.Rectangle((x - 0.47, y - 0.47), 0.94, 0.94, facecolor=face, edgecolor=GRID)
            )
            axes.text(x, y - 0.08, symbol, ha="center", va="center", fontsize=9, color=ink)
            if count:
                axes.text(
                    x,
                    y + 0.3,
                    f"{count:.3g}" if count < 1000 else f"{count / 1000:.3g}k",
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    color=ink,
                )
        axes.set(xlim=(0.4, 18.6), ylim=(10, 0.4), title=title, aspect="equal")
        axes.set_axis_off()
    return drawn.svg


def _histogram(distances: dict[str, Any], file: Path) -> str:
    edges = np.linspace(0, 0.5, 51)
    with panel("distances", "Distance to the hull", width=5.6, file=file) as drawn:
        for index, (label, values) in enumerate(distances.items()):
            counts, _ = np.histogram(values[values <= 0.5] + 1e-9, edges)
            colour = PALETTE[index % len(PALETTE)]
            beyond = int((values > 0.5).sum())
            drawn.axes.stairs(
                counts, edges, color=colour, linewidth=1.5, label=f"{label} ({len(values)}, {beyond} beyond)"
            )
        drawn.axes.set(
            xlabel="distance to the hull (eV/atom)",
            ylabel="calculations per 10 meV",
            xlim=(0, 0.5),
            ylim=(0, None),
            title="Distance to the hull",
        )
        drawn.axes.legend(loc="upper right")
    return drawn.svg


def _bars(sizes: dict[int, int], functional: str, file: Path) -> str:
    from matplotlib.ticker import MaxNLocator

    title = f"Atoms in the cell, {functional}"
    with panel("sizes", title, width=5.6, file=file) as drawn:
        drawn.axes.bar(list(sizes), list(sizes.values()), color=PALETTE[0], width=0.8)
        drawn.axes.set(xlabel="atoms in the cell", ylabel="calculations", title=title)
        for axis in (drawn.axes.xaxis, drawn.axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
    return drawn.svg


def _page(stats: dict[str, Any], drawn: Sequence[str]) -> str:
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    pictures = [Markup(svg) for svg in drawn]  # noqa: S704 - our own SVG, text escaped by matplotlib
    return environment.get_template("stats.html").render(s=stats, table=pictures[0], figures=pictures[1:])
