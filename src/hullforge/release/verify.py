"""Whether a release or a campaign is what it says: `hullforge verify`.

Comes in: a folder. Goes out: a list of problems, empty when all is well, each naming the file and the first bad row.
A release is checked from the outside in: checksums, schemas, ids, references between tables, values that follow
from other values (hull distances from the published energies among them), extended XYZ against Parquet. A campaign
is checked by the checksums of its sealed rounds, and with it its releases. Changes nothing.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hullforge.config import Curation
from hullforge.crystals import curate
from hullforge.errors import HullforgeError
from hullforge.release import (
    card,
    extxyz,
    layout,
    logical,
    properties,
    software,
    verify_changes,
    verify_extxyz,
    verify_rows,
)
from hullforge.release.build import with_distances
from hullforge.release.verify_rows import TOLERANCE
from hullforge.store import tables
from hullforge.store.schema import TABLES
from hullforge.store.vocabulary import RejectionReason
from hullforge.thermo import corrections, place
from hullforge.thermo.known import Phase

#: Columns whose values are unique within each file.
_UNIQUE = {
    "structures": "structure_id", "calculations": "calculation_id", "failures": "calculation_id",
    "frames": "frame_id", "hull": "calculation_id", "prototypes": "prototype_id", "selection": "candidate_id",
    "known_phases": "phase_id", "properties": "calculation_id", "rejections": "frame_id",
}  # fmt: skip
_LISTED = 5

Row = Mapping[str, Any]


def verify(folder: Path, previous: Path | None = None) -> list[str]:
    """Give the problems of a release folder or of a campaign folder, empty when there are none.

    `previous`: the release before that of `folder`, against which what changed is checked, too. The releases of a
    campaign's folder are checked against one another.
    """
    folder = Path(folder)
    if (folder / "campaign.json").is_file():
        if previous is not None:
            return [f"{folder}: a campaign, whose releases name the ones before themselves; give one release"]
        return _campaign(folder)
    if not any((folder / name).exists() for name in (layout.SUMS, layout.DATASET, "data")):
        return [f"{folder}: neither a release (no {layout.SUMS}) nor a campaign (no campaign.json)"]
    changed = verify_changes.problems(folder, previous)
    return [*_checksums(folder), *_Content(folder).problems(), *changed, *_logical(folder)]


def _campaign(folder: Path) -> list[str]:
    from hullforge.store import seal

    problems = list(seal.check(folder))
    for release in sorted(path for path in folder.glob("release/*") if path.is_dir() and path.name[0] != "."):
        found = verify(release, verify_changes.beside(release))
        problems += [f"release/{release.name}: {problem}" for problem in found]
    return problems


def _checksums(folder: Path) -> list[str]:
    """Compare the files of a folder with its list of checksums."""
    path = folder / layout.SUMS
    if not path.is_file():
        return [f"{layout.SUMS}: missing; the release is incomplete"]
    try:
        listed = layout.listed(folder, layout.SUMS)
    except ValueError as error:
        return [str(error)]
    present = set(layout.files(folder))
    problems = [f"{name}: missing, though {layout.SUMS} lists it" for name in sorted(set(listed) - present)]
    problems += [f"{name}: not listed in {layout.SUMS}" for name in sorted(present - set(listed))]
    problems += [
        f"{name}: its checksum is not the one in {layout.SUMS}"
        for name in sorted(present & set(listed))
        if layout.sha256(folder / name) != listed[name]
    ]
    return problems


def _logical(folder: Path) -> list[str]:
    """Compare the tables' decoded content with the list of logical hashes; unreadable tables are told elsewhere."""
    try:
        listed = layout.listed(folder, layout.LOGICAL)
    except OSError:
        return [f"{layout.LOGICAL}: missing; make the release again with this hullforge"]
    except ValueError as error:
        return [str(error)]
    present = layout.tables(folder)
    problems = [f"{layout.LOGICAL}: {name} is not listed" for name in present if name not in listed]
    problems += [
        f"{layout.LOGICAL}: lists {name}, which is missing" for name in sorted(set(listed) - set(present))
    ]
    for name in present:
        try:
            same = name not in listed or logical.of_file(folder / name) == listed[name]
        except HullforgeError as error:
            problems.append(str(error).replace(f"{folder}/", ""))
            continue
        if not same:
            problems.append(f"{name}: its rows are not those of {layout.LOGICAL}: another logical hash")
    return problems


class _Content:
    """The tables of one release, and what is wrong with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: list[str] = []
        self.tables: dict[str, pa.Table] = {}
        self.functionals: list[str] = []
        self.has_known = False
        self.hulls: dict[str, tuple[str, corrections.Scheme]] = {}
        self.deciding: set[str] = set()
        self.rules = Curation()

    def problems(self) -> list[str]:
        """Give everything that is wrong, in the order of the checks."""
        try:
            config = json.loads((self.folder / layout.CONFIG).read_text())
            self.functionals = list(config["functionals"])
            self.has_known = bool(config.get("hull", {}).get("known_phases"))
            schemes = config.get("hull", {}).get("corrections", ["none"])
            self.hulls = corrections.hulls(self.functionals, schemes)
            self.rules = Curation.model_validate(config.get("release", {}).get("curation", {}))
            self.deciding = {corrections.deciding(f, schemes) for f in self.functionals}
        except (OSError, ValueError, KeyError, TypeError) as error:
            return [f"{layout.CONFIG}: does not name the functionals ({error}); the tables were not checked"]
        for name in TABLES:
            if name in layout.WHOLE:
                self._read(name, layout.table(name))
            elif name in layout.BY_FUNCTIONAL:
                for functional in self.hulls if name == "hull" else self.functionals:
                    path = layout.table(name, functional)
                    if name not in layout.OPTIONAL or self.has_known or (self.folder / path).exists():
                        self._read(name, path)
        self._references()
        self._selection()
        self._split()
        self._counts()
        for functional in self.functionals:
            self._calculations(functional)
            self._frames(functional)
            for kind in ("frames", "structures"):
                self._extxyz(kind, functional)
        for stem, (functional, scheme) in self.hulls.items():
            self._hull(stem, functional, scheme)
        self._properties()
        self._structures()
        paths = {f: layout.table("calculations", f) for f in self.functionals}
        present = {f: self.tables[path] for f, path in paths.items() if path in self.tables}
        self.found += software.problems(self.folder, present)
        return self.found

    def _report(self, path: str, problems: Iterable[str]) -> None:
        """Add problems of one file and one kind: the first few in words, the rest as a number."""
        every = list(problems)
        self.found += [f"{path}: {problem}" for problem in every[:_LISTED]]
        if len(every) > _LISTED:
            self.found.append(f"{path}: and {len(every) - _LISTED} more like the one before")

    def _read(self, name: str, path: str) -> None:
        """Read one table, check its schema, the uniqueness of its ids and the order of its rows."""
        try:
            table = tables.read(self.folder / path, name)
        except HullforgeError as error:
            self.found.append(str(error).replace(f"{self.folder}/", ""))
            return
        wanted = TABLES[name].arrow()
        if not table.schema.equals(wanted, check_metadata=False):
            self.found.append(f"{path}: its columns are not those of the table '{name}'")
            return
        for field in wanted:
            given = (table.schema.field(field.name).metadata or {}).get(b"unit")
            if given != field.metadata.get(b"unit"):
                self.found.append(
                    f"{path}: column {field.name} has unit {given!r}, not {field.metadata.get(b'unit')!r}"
                )
        self._report(path, tables.wrong_lengths(name, table))
        self.tables[path] = table
        if name in _UNIQUE:
            column = _UNIQUE[name]
            seen: dict[str, int] = {}
            self._report(
                path,
                (
                    f"row {n}: {column} {value} is in more than one row, first in row {seen[value]}"
                    for n, value in enumerate(table[column].to_pylist())
                    if seen.setdefault(value, n) != n
                ),
            )
        order = table.select(list(TABLES[name].sort_by))
        ordered = order.sort_by([(c, "ascending") for c in order.column_names])
        if order.num_rows > 1 and not order.equals(ordered):
            pairs = zip(order.to_pylist(), ordered.to_pylist(), strict=True)
            number, (row, first) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
            self.found.append(
                f"{path}: its rows are not sorted by {', '.join(order.column_names)}: row {number} is"
                f" {_brief(row)}, it should be {_brief(first)}"
            )

    def _column(self, name: str, column: str, functional: str | None = None) -> list[Any]:
        """Values of one column of a table, of all functionals unless one is named."""
        functionals: list[str | None] = [None]
        if name in layout.BY_FUNCTIONAL:
            functionals = [functional] if functional else [*self.functionals]
        found = [self.tables.get(layout.table(name, f)) for f in functionals]
        return [value for table in found if table is not None for value in table[column].to_pylist()]

    def _references(self) -> None:
        """Check that every id that a table mentions is in the table that it belongs to."""
        structures, prototypes = (
            set(self._column("structures", "structure_id")),
            set(self._column("prototypes", "prototype_id")),
        )
        self._known(layout.table("selection"), "prototype_id", prototypes, "prototypes")
        self._known(layout.table("failures"), "prototype_id", prototypes, "prototypes")
        for functional in self.functionals:
            calculations = set(self._column("calculations", "calculation_id", functional))
            path = layout.table("calculations", functional)
            self._known(path, "structure_id", structures, "structures")
            self._known(path, "prototype_id", prototypes, "prototypes")
            own = [layout.table("hull", stem) for stem, (f, _) in self.hulls.items() if f == functional]
            for path in (layout.table("frames", functional), *own):
                self._known(path, "calculation_id", calculations, "calculations")
            for path in (*(layout.table(n, functional) for n in layout.BY_FUNCTIONAL if n != "hull"), *own):
                self._known(path, "functional", {functional}, "this file's name")
        self._known(
            layout.table("elemental_references"),
            "calculation_id",
            {*self._column("calculations", "calculation_id"), *self._column("known_phases", "phase_id")},
            "calculations",
        )

    def _known(self, path: str, column: str, known: set[Any], where: str) -> None:
        if path in self.tables:
            rows = enumerate(self.tables[path][column].to_pylist())
            self._report(
                path,
                (
                    f"row {n}: {column} {value} is not among the {where}"
                    for n, value in rows
                    if value not in known
                ),
            )

    def _selection(self) -> None:
        """Check that the first functional has a result or a failure of every selected candidate."""
        first = self.functionals[0]
        failed = self.tables.get(layout.table("failures"))
        done = set(self._column("calculations", "candidate_id", first))
        if failed is not None:
            done |= set(failed.filter(pc.equal(failed["functional"], first))["candidate_id"].to_pylist())
            both = set(self._column("failures", "calculation_id")) & set(
                self._column("calculations", "calculation_id")
            )
            self._report(
                layout.table("failures"), (f"calculation_id {c} is a result, too" for c in sorted(both))
            )
        lost = sorted(set(self._column("selection", "candidate_id")) - done)
        self._report(
            layout.table("selection"),
            (f"candidate {c} has neither a {first} calculation nor a failure" for c in lost),
        )

    def _split(self) -> None:
        """Check that all of a structure group is on one side, that the hash puts it there, and that no frame is left out twice."""
        sides = curate.Sides(self.rules)
        every = [layout.table(n, f) for n in ("calculations", "frames") for f in self.functionals]
        for path in (layout.table("structures"), *every):
            if path not in self.tables:
                continue
            table = self.tables[path]
            key = _UNIQUE[path.split("/")[1].removesuffix(".parquet")]
            made = sides.add(table.select([key, "numbers"]))
            for column in ("structure_group", "split"):
                bad = np.flatnonzero(
                    ~pc.fill_null(pc.equal(table[column], made[column]), fill_value=False).to_numpy(
                        zero_copy_only=False
                    )
                )
                self._report(
                    path,
                    (
                        f"row {row}: {key} {table[key][row]}: {column} is {table[column][row]},"
                        f" its composition gives {made[column][row]}"
                        for row in bad.tolist()
                    ),
                )
        path = layout.table("rejections")
        left_out = set(self._column("rejections", "frame_id"))
        both = sorted(left_out & set(self._column("frames", "frame_id")))
        self._report(path, (f"frame_id {name} is among the frames, too" for name in both))
        self._known(path, "functional", set(self.functionals), "functionals")
        known = set(self._column("calculations", "calculation_id"))
        self._known(path, "calculation_id", known, "calculations")
        self._known(path, "reason", {reason.value for reason in RejectionReason}, "reasons")

    def _counts(self) -> None:
        """Compare the numbers in the data set row with the tables."""
        try:
            data = json.loads((self.folder / layout.DATASET).read_text())
            counts = {layout.table(name): n for name, n in data["counts"].items()}
            for functional, entry in data["by_functional"].items():
                counts |= {layout.table(name, functional): entry[name] for name in ("calculations", "frames")}
            self._report(layout.DATASET, self._statistics(data))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self.found.append(f"{layout.DATASET}: not a data set row ({error!r})")
            return
        self._report(
            layout.DATASET,
            (
                f"counts {n} rows of {path}, which has {self.tables[path].num_rows}"
                for path, n in counts.items()
                if path in self.tables and self.tables[path].num_rows != n
            ),
        )

    def _statistics(self, data: Mapping[str, Any]) -> Iterator[str]:
        """Compute what the data set row says of all calculations together again."""
        made: dict[str, Any] = {"functionals": self.functionals}
        present = {f: self.tables.get(layout.table("calculations", f)) for f in self.functionals}
        given = {"functionals": data["functionals"]}
        if all(table is not None for table in present.values()):
            made["elements"] = sorted({e for row in self._column("calculations", "elements") for e in row})
            given["elements"] = data["elements"]
        for functional, table in present.items():
            of = card.statistics(table) if table is not None else {}
            made |= {f"{functional}: {key}": value for key, value in of.items() if key != "calculations"}
            given |= {f"{functional}: {key}": data["by_functional"][functional][key] for key in of}
        for key, value in made.items():
            close = isinstance(value, float) and isinstance(given[key], float)
            if given[key] != value and not (close and abs(given[key] - value) <= TOLERANCE):
                yield f"{key} is {given[key]}, the tables give {value}"

    def _each(self, path: str, check: Callable[[Row], Iterator[str]], key: str) -> None:
        """Run `check` on every row of a file."""
        if path in self.tables:
            batches = self.tables[path].to_batches(max_chunksize=4096)
            rows = (row for batch in batches for row in batch.to_pylist())
            self._report(path, (f"{key} {row[key]}: {problem}" for row in rows for problem in check(row)))

    def _calculations(self, functional: str) -> None:
        self._each(
            layout.table("calculations", functional), verify_rows.calculation_problems, "calculation_id"
        )

    def _frames(self, functional: str) -> None:
        self._each(layout.table("frames", functional), verify_rows.frame_problems, "frame_id")

    def _structures(self) -> None:
        self._each(layout.table("structures"), verify_rows.geometry_problems, "structure_id")

    def _properties(self) -> None:
        """Compute the properties again from calculations and hulls, and compare."""
        for stem, (functional, _) in self.hulls.items():
            path, *others = (
                layout.table(*of)
                for of in (("properties", functional), ("calculations", functional), ("hull", stem))
            )
            if stem in self.deciding and {path, *others} <= set(self.tables):
                found = properties.problems(self.tables[path], *(self.tables[other] for other in others))
                self._report(path, found)
        try:
            known = properties.units((self.folder / layout.PROPERTIES).read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self.found.append(f"{layout.PROPERTIES}: not a file of definitions ({error!r})")
            return
        for path, table in self.tables.items():
            self._report(path, properties.undefined(table.schema, known))

    def _hull(self, stem: str, functional: str, scheme: corrections.Scheme) -> None:
        """Compute a hull again from the published energies, corrections included, and compare."""
        path, source = layout.table("hull", stem), layout.table("calculations", functional)
        references_path = layout.table("elemental_references")
        if not {path, source, references_path} <= set(self.tables):
            return
        published = {row["calculation_id"]: row for row in self.tables[path].to_pylist()}
        known_path = layout.table("known_phases", functional)
        has_known = known_path in self.tables and stem in self.deciding
        known = self.tables[known_path].to_pylist() if has_known else []
        known.sort(key=lambda row: row["phase_id"])
        calculations = self.tables[source]
        undrifted = calculations.filter(pc.equal(pc.list_value_length(calculations["protocol_drift"]), 0))
        versions = {row["hull_version"] for row in published.values()} or {0}
        if len(versions) > 1:
            self.found.append(f"{path}: rows of hull versions {sorted(versions)}; a hull has one")
            return
        try:
            placed = place.placed(
                undrifted.select(place.columns_of(scheme)).replace_schema_metadata(),
                versions.pop(),
                [
                    Phase(
                        row["phase_id"],
                        tuple(row["elements"]),
                        row["chemical_formula_reduced"],
                        row["energy_per_atom"],
                    )
                    for row in known
                ],
                functional,
                scheme,
            )
        except HullforgeError as error:
            self.found.append(f"{path}: can't be recomputed: {error}")
            return
        recomputed = {row["calculation_id"]: row for row in placed.hull.to_pylist()}
        self._report(path, (f"calculation {c} is missing" for c in sorted(set(recomputed) - set(published))))
        strangers = sorted(set(published) - set(recomputed))
        self._report(path, (f"calculation {c} does not belong into the hull" for c in strangers))
        common = [c for c in published if c in recomputed]
        self._report(
            path, (p for c in common for p in verify_rows.hull_problems(published[c], recomputed[c]))
        )
        formation = {c: row["formation_energy_per_atom"] for c, row in published.items()}
        formation |= {row["phase_id"]: row["formation_energy_per_atom"] for row in known}
        self._each(path, lambda row: verify_rows.proof_problems(row, formation), "calculation_id")
        recomputed_known = sorted(placed.known.to_pylist(), key=lambda row: row["phase_id"])
        self._report(
            known_path,
            (
                p
                for a, b in zip(known, recomputed_known, strict=True)
                for p in verify_rows.hull_problems(a, b, "phase_id")
            ),
        )
        given = [
            row
            for row in self.tables[references_path].to_pylist()
            if row["functional"] == functional and row["correction_scheme"] == scheme
        ]
        lowest = placed.references.to_pylist()
        number = next((i for i, (a, b) in enumerate(zip_longest(given, lowest)) if a != b), None)
        if number is not None:
            a, b = (_brief(rows[number]) if number < len(rows) else "nothing" for rows in (given, lowest))
            self.found.append(
                f"{references_path}: not the lowest elemental calculations with {functional}: its row {number} of this"
                f" functional is {a}, it should be {b}"
            )

    def _extxyz(self, kind: str, functional: str) -> None:
        """Compare an extended XYZ, number by number and in order, with the table it was made from."""
        name = layout.extxyz(kind, functional)
        path = layout.table({"frames": "frames", "structures": "calculations"}[kind], functional)
        if path not in self.tables:
            return
        if not (self.folder / name).is_file():
            self.found.append(f"{name}: missing")
            return
        table, key = self.tables[path], "frame_id"
        info: tuple[str, ...] = extxyz.FRAME_INFO
        if kind == "structures":
            stem = next(
                stem for stem in self.hulls if stem in self.deciding and self.hulls[stem][0] == functional
            )
            hull = self.tables.get(layout.table("hull", stem))
            if hull is None:
                return
            table, key, info = with_distances(table, hull), "calculation_id", extxyz.STRUCTURE_INFO
        self._report(name, verify_extxyz.problems(self.folder / name, table, path, key, info))


def _brief(row: Row) -> str:
    return ", ".join(f"{key} {value}" for key, value in row.items())
