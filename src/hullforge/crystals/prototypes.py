"""Prototypes: crystals without elements, compiled once for everything that is done with their decorations.

Comes in: AFLOW's library as pymatgen carries it, the user's structures, and the filters of the configuration.
Goes out: the table `prototypes`, one `Prototype` a row, and the table `rejects` of what could not be one. The species of a prototype are numbered
as the letters of its protostructure label: species 0 is A, its Wyckoff letters are the first group of the
label, and so on; element i of a decoration sits on species i. In 'AB2_cF12_225_a_c' (fluorite) species 0 has
one site at a and species 1 two at c, so that fluorite is ('Ca', 'F') and Mg2Si is ('Si', 'Mg'). Never decorates,
never calculates.

An automorphism is an exchange of species that changes neither the label nor the shell graph. Every symmetry
operation of the undecorated crystal makes one; so does, twice in AFLOW's library (B20 and B_a), a shift of free
parameters that leaves the order of all shells alone and that a relaxation undoes.
"""

import difflib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hullforge.config import PrototypesSettings, PrototypeTable
from hullforge.crystals import shells, sources, symmetry
from hullforge.errors import ConfigError, PrototypeError
from hullforge.store import tables

if TYPE_CHECKING:
    from ase import Atoms

log = logging.getLogger(__name__)

#: More species than this have more orders (8! = 40 320) than is sensible to list.
MAX_SPECIES = 8
#: Decimals kept of cells and positions, angstrom: far below any tolerance, far above rounding noise.
DECIMALS = 9


@dataclass(frozen=True, eq=False)
class Prototype:
    """One row of the table `prototypes`; see there for the meaning of each field.

    Shapes: N sites, k species, C classes, U unique edges. Units: angstrom.
    """

    prototype_id: str
    protostructure: str
    name: str
    source: str
    space_group_it_number: int
    symprec: float
    nsites: int
    nspecies: int
    species_counts: NDArray[np.int64]  # (k,)
    site_species: NDArray[np.int64]  # (N,)
    cell: NDArray[np.float64]  # (3, 3)
    positions: NDArray[np.float64]  # (N, 3), Cartesian
    pbc: NDArray[np.bool_]  # (3,)
    site_class: NDArray[np.int64]  # (N,)
    class_species: NDArray[np.int64]  # (C,)
    class_multiplicity: NDArray[np.int64]  # (C,)
    edge_source: NDArray[np.int64]  # (U,)
    edge_target: NDArray[np.int64]  # (U,)
    edge_shell: NDArray[np.int64]  # (U,)
    edge_weight: NDArray[np.float64]  # (U,)
    automorphisms: tuple[tuple[int, ...], ...]  # sorted, identity first

    def row(self) -> dict[str, Any]:
        """Give the row of the table `prototypes`."""
        row = {field.name: getattr(self, field.name) for field in fields(self)}
        row["cell"] = self.cell.ravel()
        return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in row.items()}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Prototype":
        """Build a prototype from a row of the table `prototypes`."""
        arrays: dict[str, Any] = dict(row)
        for name in ("species_counts", "site_species", "site_class", "class_species", "class_multiplicity",
                     "edge_source", "edge_target", "edge_shell"):  # fmt: skip
            arrays[name] = np.array(row[name], dtype=np.int64)
        arrays["cell"] = np.array(row["cell"], dtype=float).reshape(3, 3)
        arrays["positions"] = np.array(row["positions"], dtype=float).reshape(-1, 3)
        arrays["pbc"] = np.array(row["pbc"], dtype=bool)
        arrays["edge_weight"] = np.array(row["edge_weight"], dtype=float)
        arrays["automorphisms"] = tuple(tuple(int(s) for s in p) for p in row["automorphisms"])
        return cls(**arrays)


def load(path: str | Path) -> list[Prototype]:
    """Read the table `prototypes`, sorted by id. Raises `TableError` for what is not that table."""
    return [Prototype.from_row(row) for row in tables.read_rows(path, "prototypes")]


def find(prototypes: Sequence[Prototype], wanted: str, key: str) -> list[Prototype]:
    """Give the prototypes that the user calls `wanted`: an id, a protostructure label or a name; sorted by id.

    Raises `ConfigError` naming the configuration's `key` when there is none.
    """
    fitting = [p for p in prototypes if wanted in (p.prototype_id, p.protostructure, p.name)]
    if not fitting:
        names = sorted({p.protostructure for p in prototypes} | {p.name for p in prototypes})
        close = difflib.get_close_matches(wanted, names, n=3)
        hint = f"; close to it: {', '.join(close)}" if close else ""
        raise ConfigError(
            f"key '{key}': none of the {len(prototypes)} prototypes has the protostructure label,"
            f" name or id '{wanted}'{hint}"
        )
    return sorted(fitting, key=lambda p: p.prototype_id)


def compile_structure(structure: Any, name: str, source: str, symprec: float = 0.01) -> Prototype:
    """Compile a crystal (`ase.Atoms` or a pymatgen `Structure`); each of its elements is a species.

    `symprec` is the tolerance of the symmetry search, angstrom. Raises `PrototypeError` when sites are shared
    by elements, when sites coincide, when there are more than `MAX_SPECIES` species, or without symmetry.
    """
    return _compile(symmetry.primitive(_as_atoms(structure), symprec), name, source, symprec)


def _as_atoms(structure: Any) -> "Atoms":
    from ase import Atoms

    if isinstance(structure, Atoms):
        return structure
    if not structure.is_ordered:
        raise PrototypeError(
            "a site is shared by several elements or partly empty; a prototype needs whole sites"
        )
    return Atoms(
        numbers=[site.specie.Z for site in structure],
        cell=structure.lattice.matrix,
        scaled_positions=structure.frac_coords,
        pbc=True,
    )


def _compile(atoms: "Atoms", name: str, source: str, symprec: float) -> Prototype:
    """Compile a symmetrised primitive cell."""
    numbers = np.unique(atoms.numbers)
    if len(numbers) > MAX_SPECIES:
        raise PrototypeError(f"{len(numbers)} species; at most {MAX_SPECIES} can be decorated")
    label, group, orders = symmetry.labelled_orders(atoms, symprec)
    graph = shells.shell_graph(atoms.cell.array, atoms.positions, atoms.pbc)
    choices = []
    for order in orders:
        site_species = _positions_in(order, atoms.numbers)
        choices.append((shells.partition(graph, site_species), order))
    # Where the label leaves the order of species open the graph decides. Orders that the graph can't tell
    # apart either are automorphisms: they must be, or ids would depend on the order of sites in the source.
    parts, chosen = min(choices, key=lambda choice: (choice[0].digest, choice[1]))
    equal = [order for part, order in choices if part.digest == parts.digest]
    site_species = _positions_in(chosen, atoms.numbers)
    sites = np.lexsort((parts.site_class, site_species))
    return Prototype(
        prototype_id=f"{label}-{parts.digest[:8]}",
        protostructure=label,
        name=name,
        source=source,
        space_group_it_number=group,
        symprec=symprec,
        nsites=len(atoms),
        nspecies=len(numbers),
        species_counts=np.bincount(site_species).astype(np.int64),
        site_species=site_species[sites],
        cell=_rounded(atoms.cell.array),
        positions=_rounded(atoms.positions[sites]),
        pbc=np.array(atoms.pbc, dtype=bool),
        site_class=parts.site_class[sites],
        class_species=parts.class_species,
        class_multiplicity=parts.class_multiplicity,
        edge_source=parts.edge_source,
        edge_target=parts.edge_target,
        edge_shell=parts.edge_shell,
        edge_weight=parts.edge_weight,
        automorphisms=tuple(sorted(tuple(order.index(number) for number in chosen) for order in equal)),
    )


def _positions_in(order: tuple[int, ...], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the position in `order` of each of `numbers` (N,)."""
    return np.array([order.index(int(number)) for number in numbers], dtype=np.int64)


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round, without negative zeros."""
    return np.asarray(np.round(values, DECIMALS) + 0.0)


def build(settings: PrototypesSettings, out: str | Path, rejects: str | Path) -> None:
    """Write the tables `prototypes` to `out` and `rejects` to `rejects`; same settings and files, same bytes.

    Raises `PrototypeError` for a folder that is absent or empty; listing every structure of it that can't be
    read or compiled, unless `prototypes.rejects` says to go on without them; for an `exclude` that matches
    nothing; and when no prototype is left.
    """
    prototypes, rejected = gather(settings)
    write(prototypes, rejected, out, rejects)


def write(
    prototypes: Iterable[Prototype], rejected: Iterable[sources.Reject], out: str | Path, rejects: str | Path
) -> None:
    """Write the tables `prototypes` and `rejects`."""
    tables.write(rejects, "rejects", [asdict(reject) for reject in rejected])
    tables.write(out, "prototypes", [prototype.row() for prototype in prototypes])


def collect(settings: PrototypesSettings) -> list[Prototype]:
    """Compile all prototypes that the settings ask for, each once, sorted by id; errors as in `build`."""
    return gather(settings)[0]


def gather(settings: PrototypesSettings) -> tuple[list[Prototype], list[sources.Reject]]:
    """Compile all prototypes that the settings ask for, and say what could not be; errors as in `build`."""
    wanted = settings.prototypes
    entries: list[sources.Entry] = []
    rejects: list[sources.Reject] = []
    if wanted.folder is not None:
        mine, rejects = sources.folder(wanted.folder)
        entries.extend(mine)
    if wanted.library == "aflow":
        entries.extend(sources.aflow())
    compiled: list[tuple[sources.Entry, Prototype]] = []
    skipped: list[sources.Reject] = []
    for entry in entries:
        try:
            prototype = compile_entry(entry, wanted)
        except PrototypeError as error:
            # A library of hundreds may have a member that does not fit; a file was put there on purpose.
            reject = sources.Reject(entry.source, entry.name, str(error))
            (skipped if entry.is_library else rejects).append(reject)
            continue
        if prototype is not None:
            compiled.append((entry, prototype))
    if rejects:
        lines = "\n".join(f"  {reject.source}: {reject.name}: {reject.reason}" for reject in rejects)
        found = f"{wanted.folder}: {len(rejects)} unusable structures"
        if wanted.rejects == "stop":
            raise PrototypeError(
                f"{found}; mend or remove them, or set prototypes.rejects to record to go on without them:\n{lines}"
            )
        log.warning("%s are left out (prototypes.rejects: record):\n%s", found, lines)
    if skipped:
        names = "; ".join(f"{reject.source}: {reject.name}: {reject.reason}" for reject in skipped)
        log.warning("%d library prototypes are left out: %s", len(skipped), names)
    _check_exclusions(wanted.exclude, entries, compiled)
    kept = [prototype for entry, prototype in compiled if not set(wanted.exclude) & keys(entry, prototype)]
    if not kept:
        groups = f" of space groups {', '.join(map(str, wanted.space_groups))}" if wanted.space_groups else ""
        raise PrototypeError(
            f"no prototype is left of {len(entries)}: at most {wanted.max_sites} sites and "
            f"{', '.join(map(str, wanted.nspecies))} species{groups} are asked for, {len(wanted.exclude)} are "
            f"excluded, {len(rejects)} are unusable"
        )
    return _distinct(kept), sorted([*rejects, *skipped])


def compile_entry(entry: sources.Entry, wanted: PrototypeTable) -> Prototype | None:
    """Compile an entry, or give nothing where filters rule it out; what is cheap to check comes first.

    Raises `PrototypeError` as `compile_structure` does.
    """
    atoms = _as_atoms(entry.structure)
    if len(np.unique(atoms.numbers)) not in wanted.nspecies:
        return None
    cell = symmetry.primitive(atoms, wanted.symprec)
    if len(cell) > wanted.max_sites:
        return None
    prototype = _compile(cell, entry.name, entry.source, wanted.symprec)
    if wanted.space_groups and prototype.space_group_it_number not in wanted.space_groups:
        return None
    return prototype


def keys(entry: sources.Entry, prototype: Prototype) -> set[str]:
    """Give all that `exclude` may call a prototype."""
    return {prototype.prototype_id, prototype.protostructure, entry.name, *entry.aliases}


def _check_exclusions(
    exclude: Iterable[str],
    entries: Sequence[sources.Entry],
    compiled: Sequence[tuple[sources.Entry, Prototype]],
) -> None:
    """Refuse an exclusion that names nothing, most likely a misspelling."""
    known = {key for entry, prototype in compiled for key in keys(entry, prototype)}
    # Those that other filters rule out have names, too: excluding one twice is not a mistake.
    known |= {key for entry in entries for key in (entry.name, *entry.aliases)}
    for name in exclude:
        if name not in known:
            close = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise PrototypeError(f"prototypes.exclude: no prototype is called '{name}'{hint}")


def _distinct(prototypes: Iterable[Prototype]) -> list[Prototype]:
    """Keep one prototype of each id, the first by name; sorted by id."""
    first: dict[str, Prototype] = {}
    for prototype in sorted(prototypes, key=lambda p: (p.name, p.source)):
        first.setdefault(prototype.prototype_id, prototype)
    return [first[key] for key in sorted(first)]
