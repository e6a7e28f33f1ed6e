"""From sealed rounds to a release: the folder that is published.

Comes in: the campaign's configuration and the folders of its sealed rounds. Goes out: `release/<version>/` with
Parquet tables, extended XYZ, data card, data dictionary and checksums (`hullforge.release.layout`). The same rounds
give the same bytes: rows are sorted, and no clock, host name, path or cost goes in. The folder appears as a whole
or not at all, and one that is complete is never replaced by another of the same version.
"""

import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hullforge import config_release, documents
from hullforge.config import Campaign
from hullforge.crystals import curate
from hullforge.crystals.matching import space_group_number
from hullforge.errors import SealError, TableError
from hullforge.release import (
    card,
    changes,
    citation,
    croissant,
    diff,
    extxyz,
    layout,
    logical,
    properties,
    software,
)
from hullforge.store import atomic, streams, tables
from hullforge.store.structures import atoms_from_row
from hullforge.thermo import corrections, place

_log = logging.getLogger(__name__)

#: Rows that are Python objects at once.
_BATCH = 2048


def run(campaign: Campaign, rounds: Sequence[Path], out: Path) -> None:
    """Build the release of `rounds`, the folders of the sealed rounds in any order, in the folder `out`.

    The release before it, if `release.previous` is a version, is looked for beside `out`.

    A folder without checksums at `out` is a leftover and is replaced; a complete release with other content is
    not: `SealError` asks for a new version.
    """
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    for leftover in out.parent.glob(f".{out.name}.*.tmp"):
        shutil.rmtree(leftover)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    try:
        previous = campaign.release.previous_folder(out.parent)
        _remind(campaign, out.parent)
        _write(campaign, sorted(rounds), folder, previous)
        _open_to_others(folder)
        atomic.write_text(folder / layout.SUMS, layout.sums(folder))
        _publish(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remind(campaign: Campaign, releases: Path) -> None:
    """Say so where earlier versions lie beside the release and it names none: which one it follows is the user's word."""
    version = config_release.ordered(campaign.release.version)
    found = [p.parent.name for p in releases.glob(f"[0-9]*/{layout.SUMS}")]
    earlier = sorted((v for v in found if config_release.is_earlier(v, version)), key=config_release.ordered)
    if earlier and campaign.release.previous is None:
        _log.warning(
            "release.previous names no release, so that %s will not say what changed; the latest earlier version here"
            " is %s: snakemake release --config version=%s previous=%s",
            layout.CHANGES,
            earlier[-1],
            campaign.release.version,
            earlier[-1],
        )


def _write(campaign: Campaign, rounds: Sequence[Path], folder: Path, previous: Path | None) -> None:
    """Write everything but the checksums."""
    if not rounds:
        raise TableError("a release needs at least one sealed round")
    before = changes.identity(previous)
    last, functionals = rounds[-1], campaign.functionals
    hulls = corrections.hulls(functionals, campaign.hull.corrections)
    whole = {
        "prototypes": tables.read(tables.prototypes_of(last), "prototypes"),
        "selection": tables.concat([r / "selection.parquet" for r in rounds], "selection"),
        "failures": tables.concat([r / "failures.parquet" for r in rounds], "failures"),
        "elemental_references": tables.concat(
            [last / "hull" / f"{stem}-references.parquet" for stem in hulls], "elemental_references"
        ),
    }
    everything = tables.concat([r / "calculations.parquet" for r in rounds], "calculations")
    calculations = {f: everything.filter(pc.equal(everything["functional"], f)) for f in functionals}
    _check_ids(everything, functionals)
    sides = curate.Sides(campaign.release.curation)
    calculations = {functional: sides.add(table) for functional, table in calculations.items()}
    del everything
    whole["structures"] = sides.add(structures(calculations))
    for name, table in whole.items():
        tables.write(folder / layout.table(name), name, table)
    for stem in hulls:
        tables.write(
            folder / layout.table("hull", stem),
            "hull",
            tables.read(last / "hull" / f"{stem}.parquet", "hull"),
        )
    for functional in functionals:
        tables.write(
            folder / layout.table("calculations", functional), "calculations", calculations[functional]
        )
        deciding = corrections.deciding(functional, campaign.hull.corrections)
        hull = tables.read(last / "hull" / f"{deciding}.parquet", "hull")
        tables.write(
            folder / layout.table("properties", functional),
            "properties",
            properties.table(calculations[functional], hull),
        )
        if campaign.hull.known_phases is not None:
            known = tables.read(place.known_beside(last / "hull" / f"{deciding}.parquet"), "known_phases")
            tables.write(folder / layout.table("known_phases", functional), "known_phases", known)
        finals = with_distances(calculations[functional], hull)
        extxyz.write(folder / layout.extxyz("structures", functional), finals, extxyz.STRUCTURE_INFO)
    frames = _write_frames(campaign, rounds, folder, calculations)
    version = campaign.release.version
    found = changes.since(previous, folder, version, functionals) if previous else None
    whole["changes"] = tables.from_rows("changes", found.rows if found else [])
    tables.write(folder / layout.table("changes"), "changes", whole["changes"])
    dataset = card.dataset(campaign, len(rounds), calculations, whole, frames) | {"previous": before}
    atomic.write_json(folder / layout.CONFIG, card.published_config(campaign))
    atomic.write_json(folder / layout.DATASET, dataset)
    atomic.write_json(folder / layout.SOFTWARE, software.document(campaign, calculations))
    atomic.write_text(folder / layout.LOCK, software.lock())
    atomic.write_text(folder / layout.MATGL, card.template(layout.MATGL))
    differing = diff.keys(previous, folder) if previous else {}
    atomic.write_text(
        folder / layout.CHANGES, changes.text(found, differing, campaign.release.title, version)
    )
    atomic.write_text(folder / layout.PROPERTIES, properties.text())
    atomic.write_text(folder / layout.LOGICAL, logical.text(folder, layout.tables(folder)))
    atomic.write_text(folder / layout.DICTIONARY, documents.dictionary(_published(campaign)))
    atomic.write_text(folder / layout.LICENSE, card.licence(campaign))
    atomic.write_text(folder / layout.CITATION, citation.cff(campaign))
    atomic.write_json(folder / layout.DATACITE, citation.datacite(campaign))
    atomic.write_json(folder / layout.ZENODO, citation.zenodo(campaign))
    atomic.write_text(folder / layout.CARD, card.text(dataset))
    atomic.write_json(folder / layout.CROISSANT, croissant.document(dataset, folder))


def _write_frames(
    campaign: Campaign, rounds: Sequence[Path], folder: Path, calculations: dict[str, pa.Table]
) -> dict[str, dict[str, Counter[str]]]:
    """Write frames and rejections in pieces; gives for each functional how many there are, by side and by reason."""
    found: dict[str, dict[str, Counter[str]]] = {}
    with tables.writer(folder / layout.table("rejections"), "rejections") as reject:
        # In the order of the table of rejections, which is one file.
        for functional in sorted(campaign.functionals):
            own = calculations[functional]
            # A round from before the functional came to the campaign has no such file, and no such calculation.
            files = [(r, r / "frames" / f"{functional}.parquet") for r in rounds]
            computed = set(own["round"].to_pylist())
            paths = [path for r, path in files if path.is_file() or int(r.name[-3:]) in computed]
            pieces = streams.sorted_pieces(
                paths,
                "frames",
                "calculation_id",
                own["calculation_id"],
                folder,
                partial(curate.with_chemistry, own),
            )
            count = found[functional] = {"split": Counter(), "rejections": Counter()}
            out = folder / layout.table("frames", functional)
            with tables.writer(out, "frames") as keep:
                for kept, left_out in curate.frames(pieces, own, campaign.release.curation):
                    keep(kept)
                    reject(left_out)
                    count["split"].update(kept["split"].to_pylist())
                    count["rejections"].update(left_out["reason"].to_pylist())
            with pq.ParquetFile(out) as file:
                batches = (pa.Table.from_batches([batch]) for batch in file.iter_batches(_BATCH))
                extxyz.write(folder / layout.extxyz("frames", functional), batches, extxyz.FRAME_INFO)
    return {functional: found[functional] for functional in campaign.functionals}


def structures(calculations: dict[str, pa.Table]) -> pa.Table:
    """Make the table `structures`: each distinct final geometry once, of the first functional that has it."""
    columns = [
        c for c in tables.empty("structures").column_names if c not in ("space_group_it_number", "symprec")
    ]
    known: set[str] = set()
    found = [tables.empty("structures")]
    for table in calculations.values():
        ordered = table.select([*columns, "calculation_id"]).sort_by("calculation_id")
        for batch in ordered.to_batches(max_chunksize=_BATCH):
            rows = []
            for row in batch.to_pylist():
                if row["structure_id"] in known:
                    continue
                known.add(row["structure_id"])
                del row["calculation_id"]
                row["space_group_it_number"] = space_group_number(atoms_from_row(row), curate.SYMPREC)
                row["symprec"] = curate.SYMPREC
                rows.append(row)
            found.append(tables.from_rows("structures", rows))
    return tables.conform("structures", pa.concat_tables(found))


def with_distances(calculations: pa.Table, hull: pa.Table) -> pa.Table:
    """Add `formation_energy_per_atom` and `e_above_hull` to calculations (null where they aren't in the hull)."""
    row_of = {name: row for row, name in enumerate(hull["calculation_id"].to_pylist())}
    rows = pa.array([row_of.get(name) for name in calculations["calculation_id"].to_pylist()], pa.int64())
    for column in ("formation_energy_per_atom", "e_above_hull"):
        calculations = calculations.append_column(column, hull[column].take(rows))
    return calculations


def _check_ids(calculations: pa.Table, functionals: Sequence[str]) -> None:
    """Refuse rounds that repeat a calculation or hold a functional the campaign doesn't know."""
    names = calculations["calculation_id"].to_pylist()
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise TableError(f"calculation {name} is in more than one round, or twice in one")
        seen.add(name)
    strangers = sorted(set(calculations["functional"].to_pylist()) - set(functionals))
    if strangers:
        raise TableError(
            f"the rounds hold calculations with {', '.join(strangers)}, the configuration names only"
            f" {', '.join(functionals)}; add them to `functionals`, or release with the configuration of these rounds"
        )


def _published(campaign: Campaign) -> list[str]:
    """Names of the tables that the release of this campaign has."""
    left_out = () if campaign.hull.known_phases is not None else layout.OPTIONAL
    return [name for name in (*layout.WHOLE, *layout.BY_FUNCTIONAL) if name not in left_out]


def _open_to_others(folder: Path) -> None:
    """Give the folder the user's usual rights (temporary ones are private) and flush it to disk."""
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _publish(folder: Path, out: Path) -> None:
    """Rename the finished `folder` to `out`, unless `out` is a release already."""
    sums = out / layout.SUMS
    if sums.is_file():
        if sums.read_bytes() == (folder / layout.SUMS).read_bytes() and layout.sums(out) == sums.read_text():
            return
        raise SealError(
            f"{out.name}: this release exists and its content would change; give the new one its own number"
            f" (release.version), or delete {layout.SUMS} in the old one's folder to replace what was never published"
        )
    if out.exists():
        shutil.rmtree(out)
    folder.replace(out)
