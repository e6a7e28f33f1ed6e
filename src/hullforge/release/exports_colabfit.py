"""A release in ColabFit's data standard: configurations, property objects, sets and the data set, as Parquet.

Comes in: pieces of frames or final structures, with the light columns of their calculations. Goes out: a folder with
`co/`, `do/`, `cs/`, `co_cs_map/`, `md/` and `ds.parquet` (`hullforge.release.colabfit_schema`). The pieces are read
twice: ids of parts first, since those of sets and of the data set are made of them, then the rows. In memory are a
piece, a few numbers per row and the light columns. Standard: Vita et al., J. Chem. Phys. 159, 154802 (2023).
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hullforge.release import colabfit_ids as hashes
from hullforge.release import colabfit_schema as schema
from hullforge.release import layout
from hullforge.store import atomic, definitions, ids, tables
from hullforge.store.atomic import atomic_path
from hullforge.store.structures import SYMBOLS

Pieces = Callable[[str], Iterator[pa.Table]]
#: Columns of `calculations` that are kept for all of a functional at once; no geometry.
_LIGHT = (
    "calculation_id", "structure_id", "energy", "free_energy", "band_gap", "prototype_id", "round", "source", "functional",
    "theory_id", "run_type", "hubbards", "software", "software_version", "pseudopotentials", "input_hash", "encut",
    "kpoints", "steps", "corrections", "protocol_drift",
)  # fmt: skip
_INPUTS = (
    "theory_id", "functional", "run_type", "software", "software_version", "pseudopotentials", "hubbards", "encut",
    "kpoints", "input_hash", "steps", "corrections", "protocol_drift",
)  # fmt: skip
_KINDS = ("functional", "round", "prototype_id", "source")
_COUNTED = (
    "energy",
    "atomic_forces",
    "cauchy_stress",
    "formation_energy",
    "energy_above_hull",
    "electronic_band_gap",
)
_ORDER = (0, 5, 4, 5, 1, 3, 4, 3, 2)


@dataclass
class _Part:
    """One row: the hashes of its configuration and property object, and what sets are made by."""

    configuration: str
    property_object: str
    composition: int
    pbc: tuple[bool, ...]
    groups: tuple[int, ...]
    energy: float
    has: int


@dataclass
class _Found:
    """What the first reading found, over all functionals."""

    parts: list[_Part] = field(default_factory=list)
    compositions: dict[bytes, int] = field(default_factory=dict)
    groups: dict[tuple[str, Any], int] = field(default_factory=dict)
    methods: set[str] = field(default_factory=set)
    software: set[str] = field(default_factory=set)

    def intern(self, text: str) -> str:
        """Keep one copy of a text."""
        return self._texts.setdefault(text, text)

    _texts: dict[str, str] = field(default_factory=dict)


def write(
    folder: Path, out: Path, functionals: Sequence[str], pieces: Pieces, energy: str
) -> list[tuple[Path, int]]:
    """Write the data set of a release in `folder` to the folder `out`; gives its files with their numbers of rows.

    `pieces(functional)` gives the rows, from the start at each call; `energy` names the column that was put into
    `energy`. `ds.parquet` is written last: a folder without it is not whole.
    """
    (out / "ds.parquet").unlink(missing_ok=True)
    release = atomic.read_json(folder / layout.DATASET)
    config = atomic.read_json(folder / layout.CONFIG)
    light = {name: _light(folder, name) for name in functionals}
    found = _Found()
    for name in functionals:
        for table in _rows(pieces(name), light[name], energy):
            _index(table, found)
    sets = _sets(found)
    identity = {
        "title": release["title"], "version": release["version"], "energy": energy,
        "property_objects": sorted({part.property_object for part in found.parts}),
        "sets": sorted(each["hash"] for each in sets),
    }  # fmt: skip
    dataset_hash = hashes.digest("DS", identity)
    dataset_id = hashes.object_id("DS", dataset_hash)
    name = f"{release['name']}-{release['version']}"
    written = []
    seen: set[str] = set()
    counts = Counter((part.configuration, part.property_object) for part in found.parts)
    for functional in functionals:
        with (
            _writer(out / f"co/{functional}.parquet", schema.CONFIGURATIONS) as rows,
            _writer(out / f"do/{functional}.parquet", schema.DATA_OBJECTS) as objects,
        ):
            n = 0
            for table in _rows(pieces(functional), light[functional], energy):
                made = [_row(row, dataset_id, counts, seen) for row in table.to_pylist()]
                kept = [pair for pair in made if pair is not None]
                n += len(kept)
                rows([pair[0] for pair in kept])
                objects([pair[1] for pair in kept])
        written += [(out / f"co/{functional}.parquet", n), (out / f"do/{functional}.parquet", n)]
    with _writer(out / "cs/cs.parquet", schema.SETS) as add:
        add(
            [
                {**each["row"], "dataset_id": dataset_id, "extended_id": f"{each['row']['name']}__{name}"}
                for each in sets
            ]
        )
    with _writer(out / "co_cs_map/co_cs_map.parquet", schema.SETS_MAP) as add:
        for each in sets:
            add(
                [
                    {"configuration_id": f"CO_{c}", "configuration_set_id": each["row"]["id"]}
                    for c in each["members"]
                ]
            )
    n_metadata = _write_metadata(out / "md/md.parquet", release, config, light)
    columns = tuple(d.column for d in definitions.DEFINITIONS if d.colabfit)
    document = definitions.document({}, {}, columns)
    document["energy"] = definitions.of(energy).kim()
    atomic.write_json(out / "property_definitions.json", document)
    with _writer(out / "ds.parquet", schema.DATASET) as add:
        add([_dataset(release, found, dataset_id, dataset_hash, name)])
    return [
        *written, (out / "cs/cs.parquet", len(sets)),
        (out / "co_cs_map/co_cs_map.parquet", sum(len(each["members"]) for each in sets)),
        (out / "md/md.parquet", n_metadata), (out / "ds.parquet", 1),
    ]  # fmt: skip


@contextmanager
def _writer(path: Path, columns: pa.Schema) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """Give a function that appends rows; absent columns are null. The file appears when the block ends well."""
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, columns, compression="zstd", compression_level=3) as file,
    ):

        def append(rows: list[dict[str, Any]]) -> None:
            if rows:
                file.write_table(pa.Table.from_pylist(rows, schema=columns))

        yield append


def _light(folder: Path, functional: str) -> pa.Table:
    """Read the light columns of a functional's calculations, with what the deciding hull says of them."""
    table = tables.read(
        folder / layout.table("calculations", functional), "calculations", _LIGHT
    ).combine_chunks()
    placed = tables.read(
        folder / layout.table("properties", functional), "properties",
        ["calculation_id", "formation_energy_per_atom", "e_above_hull", "correction_scheme"],
    ).combine_chunks()  # fmt: skip
    rows = pc.index_in(table["calculation_id"], placed["calculation_id"].combine_chunks())
    for name in placed.column_names[1:]:
        table = table.append_column(name, placed[name].take(rows))
    return table


def _rows(pieces: Iterator[pa.Table], light: pa.Table, energy: str) -> Iterator[pa.Table]:
    """Give small tables of rows to convert: geometry, results, and as `calculation` the light row of each.

    `last` marks the last row of each calculation: the one that its distance to the hull and its gap may belong to.
    """
    known = light["calculation_id"].combine_chunks()
    taken = light.select([name for name in light.column_names if name != "calculation_id"])
    before: pa.Table | None = None
    for piece in pieces:
        if before is not None:
            yield from _joined(before, taken, known, piece["calculation_id"][0].as_py(), energy)
        before = piece
    if before is not None:
        yield from _joined(before, taken, known, None, energy)


def _joined(
    piece: pa.Table, light: pa.Table, known: pa.Array, following: str | None, energy: str
) -> Iterator[pa.Table]:
    names = piece["calculation_id"].to_pylist()
    last = [a != b for a, b in zip(names, [*names[1:], following], strict=True)]
    columns = ["calculation_id", "numbers", "cell", "positions", "pbc", "energy", "forces", "stress"]
    columns += [name for name in ("frame_id", "protocol_step", "split") if name in piece.column_names]
    table = piece.select(columns).append_column("last", pa.array(last))
    rows = pc.index_in(table["calculation_id"], known)
    for start in range(0, table.num_rows, 2048):
        part = table.slice(start, 2048)
        found = light.take(rows.slice(start, 2048)).to_pylist()
        for row, calculation in enumerate(found):
            calculation["wanted_energy"] = calculation[energy]
            found[row] = calculation
        yield part.append_column("calculation", pa.array(found))


def _method(calculation: dict[str, Any]) -> str:
    """Name the method as ColabFit does: DFT-PBE, DFT-PBE+U; other run types by themselves."""
    if calculation["run_type"] in ("classical", "replay"):
        return str(calculation["run_type"])
    return f"DFT-{calculation['functional']}" + ("+U" if calculation["hubbards"] else "")


def _metadata(calculation: dict[str, Any]) -> dict[str, Any]:
    """Give the inputs of a calculation, by which it can be made again with its theory's own metadata."""
    found = {name: calculation[name] for name in _INPUTS}
    found["hubbards"] = tables.as_dict(found["hubbards"] or [])
    return found


def _values(row: dict[str, Any]) -> dict[str, Any]:
    """Give the values of a row by ColabFit's names; those of the final structure only where it is this one."""
    calculation = row["calculation"]
    values: dict[str, Any] = {"energy": row["energy"]}
    if row["forces"] is not None:
        values["atomic_forces"] = row["forces"]
    if row["stress"] is not None:
        stress = row["stress"]
        values["cauchy_stress"] = [[stress[i] for i in _ORDER[k : k + 3]] for k in (0, 3, 6)]
    final = row["last"] and row["energy"] == calculation["wanted_energy"]
    if final and _configuration(row) == calculation["structure_id"]:
        for name, column in (
            ("formation_energy", "formation_energy_per_atom"),
            ("energy_above_hull", "e_above_hull"),
            ("electronic_band_gap", "band_gap"),
        ):
            if calculation[column] is not None:
                values[name] = calculation[column]
    return values


def _configuration(row: dict[str, Any]) -> str:
    return ids.structure_id(row["numbers"], row["cell"], row["positions"], row["pbc"])


_PROPERTIES = {d.colabfit: d for d in definitions.DEFINITIONS if d.colabfit}


def _objects(row: dict[str, Any], values: dict[str, Any]) -> tuple[str, str, dict[str, str], str]:
    """Give the hashes of a row: configuration, property object, property instances and metadata."""
    configuration = _configuration(row)
    instances = {
        name: hashes.digest(
            "PI", {"property": _PROPERTIES[name].id, "unit": _PROPERTIES[name].unit, "value": value}
        )
        for name, value in values.items()
    }
    metadata = hashes.digest("MD", _metadata(row["calculation"]))
    made = hashes.digest(
        "PO",
        {
            "configuration": configuration,
            "method": _method(row["calculation"]),
            "metadata": metadata,
            "instances": instances,
        },
    )
    return configuration, made, instances, metadata


def _index(table: pa.Table, found: _Found) -> None:
    """Take up the parts of a table of rows."""
    for row in table.to_pylist():
        values = _values(row)
        configuration, made, _, _ = _objects(row, values)
        calculation = row["calculation"]
        numbers = bytes(sorted(row["numbers"]))
        composition = found.compositions.setdefault(numbers, len(found.compositions))
        groups = tuple(
            found.groups.setdefault((kind, calculation[kind]), len(found.groups))
            for kind in _KINDS
            if calculation[kind] is not None
        )
        has = sum(1 << place for place, name in enumerate(_COUNTED) if name in values)
        found.parts.append(
            _Part(found.intern(configuration), found.intern(made), composition, tuple(row["pbc"]), groups, row["energy"], has)
        )  # fmt: skip
        found.methods.add(_method(calculation))
        found.software.add(f"{calculation['software']} {calculation['software_version']}")


def _row(
    row: dict[str, Any], dataset: str, counts: Counter[tuple[str, str]], seen: set[str]
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Give the rows of configuration and data object, or nothing for a property object that was written already."""
    values = _values(row)
    configuration, made, instances, metadata = _objects(row, values)
    if made in seen:
        return None
    seen.add(made)
    calculation, numbers = row["calculation"], row["numbers"]
    symbols = Counter(SYMBOLS[number] for number in numbers)
    norms = np.linalg.norm(row["forces"], axis=1) if row["forces"] else None
    labels = [f"round:{calculation['round']}", f"functional:{calculation['functional']}"]
    labels += [f"{name}:{row[name]}" for name in ("protocol_step", "split") if row.get(name) is not None]
    whole = {
        "property_id": f"PO_{made}", "property_hash": made, "dataset_id": dataset,
        "multiplicity": counts[configuration, made],
        "software": f"{calculation['software']} {calculation['software_version']}", "method": _method(calculation),
        **values,
        "cauchy_stress_volume_normalized": False if "cauchy_stress" in values else None,
        "electronic_band_gap_type": "indirect" if "electronic_band_gap" in values else None,
        "max_force_norm": float(norms.max()) if norms is not None else None,
        "mean_force_norm": float(norms.mean()) if norms is not None else None,
        "configuration_id": f"CO_{configuration}", "configuration_hash": configuration,
        "structure_hash": hashes.arrangement(numbers, row["cell"], row["positions"], row["pbc"]),
        "cell": [row["cell"][k : k + 3] for k in (0, 3, 6)], "positions": row["positions"], "pbc": row["pbc"],
        **_composition(symbols),
        "atomic_numbers": numbers, "nperiodic_dimensions": sum(row["pbc"]),
        "dimension_types": [int(axis) for axis in row["pbc"]],
        "names": [row.get("frame_id") or row["calculation_id"]], "labels": labels,
        "metadata": ids.canonical_json({"id": f"MD_{metadata}", **_metadata(calculation)}),
        "has_forces": "atomic_forces" in values, "has_stress": "cauchy_stress" in values,
    }  # fmt: skip
    data_object = {
        "data_object_id": f"DO_{hashes.digest('DO', [configuration, metadata, made])}",
        "property_id": f"PO_{made}",
        "configuration_id": f"CO_{configuration}",
        "metadata_id": f"MD_{metadata}",
        "property_instances": [
            {"property": name, "property_instance_id": f"PI_{value}"}
            for name, value in sorted(instances.items())
        ],
    }
    return whole, data_object


def _composition(symbols: Counter[str]) -> dict[str, Any]:
    """Give formulas, elements and ratios of a count of atoms, as OPTIMADE and ColabFit write them."""
    elements, n = sorted(symbols), symbols.total()
    divisor = reduce(math.gcd, symbols.values())

    def text(pairs: list[tuple[str, int]]) -> str:
        return "".join(f"{name}{'' if count == 1 else count}" for name, count in pairs)

    hill = [e for e in ("C", "H") if "C" in symbols and e in symbols]
    hill += [e for e in elements if e not in hill]
    proportions = sorted((symbols[e] // divisor for e in elements), reverse=True)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return {
        "chemical_formula_hill": text([(e, symbols[e]) for e in hill]),
        "chemical_formula_reduced": text([(e, symbols[e] // divisor) for e in elements]),
        "chemical_formula_anonymous": text(list(zip(letters, proportions, strict=False))),
        "elements": elements, "elements_ratios": [symbols[e] / n for e in elements], "nsites": n,
        "nelements": len(elements),
    }  # fmt: skip


def _aggregate(found: _Found, parts: Sequence[_Part]) -> dict[str, Any]:
    """Sum up distinct configurations, one part each."""
    numbers: Counter[int] = Counter()
    contents = list(found.compositions)
    for composition, n in Counter(part.composition for part in parts).items():
        for number, count in Counter(contents[composition]).items():
            numbers[number] += n * count
    total = numbers.total()
    ratios = {SYMBOLS[number]: count / total for number, count in numbers.items()}
    pbcs = sorted({part.pbc for part in parts})
    return {
        "nconfigurations": len(parts), "nsites": total, "nelements": len(ratios), "elements": sorted(ratios),
        "total_elements_ratios": [ratios[symbol] for symbol in sorted(ratios)],
        "nperiodic_dimensions": sorted({sum(pbc) for pbc in pbcs}),
        "dimension_types": [[int(axis) for axis in pbc] for pbc in pbcs],
    }  # fmt: skip


def _sets(found: _Found) -> list[dict[str, Any]]:
    """Make the configuration sets: by functional, round, prototype and source."""
    members: dict[int, dict[str, _Part]] = {}
    for part in found.parts:
        for group in part.groups:
            members.setdefault(group, {})[part.configuration] = part
    out = []
    for (kind, value), group in sorted(found.groups.items(), key=lambda item: (item[0][0], str(item[0][1]))):
        own = members[group]
        named = kind.removesuffix("_id")
        hash_ = hashes.digest("CS", {"kind": named, "value": str(value), "configurations": sorted(own)})
        row = {
            "id": f"CS_{hash_}", "hash": hash_, "name": f"{named}:{value}", "ordered": False,
            "description": f"configurations of {named} {value}", **_aggregate(found, list(own.values())),
        }  # fmt: skip
        out.append({"hash": hash_, "row": row, "members": sorted(own)})
    return out


def _dataset(release: dict[str, Any], found: _Found, id_: str, hash_: str, name: str) -> dict[str, Any]:
    """Make the data set's row from the parts."""
    objects = {part.property_object: part for part in found.parts}
    energies = sorted(part.energy for part in objects.values())
    n = len(energies)
    mean = math.fsum(energies) / n if n else None
    variance = math.fsum((e - mean) ** 2 for e in energies) / n if mean is not None else None
    counts = {
        f"{column}_count": sum(part.has >> place & 1 for part in objects.values())
        for place, column in enumerate(_COUNTED)
    }
    return {
        "id": id_, "hash": hash_, "name": name, "nproperty_objects": n,
        **_aggregate(found, list({part.configuration: part for part in found.parts}.values())),
        "energy_mean": mean, "energy_variance": variance, "atomization_energy_count": 0, "adsorption_energy_count": 0,
        **counts, "authors": release["authors"], "description": release["description"] or release["title"],
        "extended_id": f"{name}__{id_}", "license": release["license"], "equilibrium": False,
        "methods": sorted(found.methods), "software": sorted(found.software),
        "doi": release["doi"], "publication_year": release["version"].partition(".")[0],
        "links": json.dumps({"source-data": f"https://doi.org/{release['doi']}"}) if release["doi"] else None,
    }  # fmt: skip


def _write_metadata(
    path: Path, release: dict[str, Any], config: dict[str, Any], light: dict[str, pa.Table]
) -> int:
    """Write what is needed to make the data again: configuration, theories in full, inputs of each calculation."""
    fixed = [("data set", {"configuration": config, "software": release["software"]})]
    fixed += [(f"theory {name}", theory) for name, theory in sorted(release["theories"].items())]
    with _writer(path, schema.METADATA) as add:
        rows = [
            {
                "hash": (found := hashes.digest("MD", {"text": ids.canonical_json(content)})),
                "id": f"MD_{found}", "describes": what, "metadata": json.dumps(content, sort_keys=True),
            }
            for what, content in fixed
        ]  # fmt: skip
        add(rows)
        n, seen = len(rows), set[str]()
        for table in light.values():
            for batch in table.to_batches(max_chunksize=2048):
                new = []
                for row in batch.to_pylist():
                    content = _metadata(row)
                    found = hashes.digest("MD", content)
                    if found not in seen:
                        seen.add(found)
                        text = ids.canonical_json(content)
                        new.append(
                            {"id": f"MD_{found}", "hash": found, "describes": "inputs", "metadata": text}
                        )
                add(new)
                n += len(new)
    return n
