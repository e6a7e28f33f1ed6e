"""What each published property is: one definition, from which column metadata and the definitions' file are made.

Comes in: nothing. Goes out: `DEFINITIONS`, the metadata of a column, and `document`, the JSON of all definitions in
the form of KIM property definitions (https://openkim.org/doc/schema/properties-framework/) with the columns, units
and reasons of absence beside them. No values, no computation.
"""

from dataclasses import dataclass, field
from typing import Any

#: Who names the definitions, and since when; `.invalid` is nobody's domain (RFC 2606).
_AUTHORITY = "hullforge@noreply.invalid,2026-11-01"
#: Reasons of absence that all columns share; those of a table's own rows are in its column `null_reasons`.
_STATIC = "no static step was made, or the imported files don't tell"
_UNPLACED = "the row is not placed: see hull_status"


@dataclass(frozen=True)
class Definition:
    """One property: `column` is its name in our tables, `colabfit` in ColabFit's; `extent` its shape, ':' per atom."""

    name: str
    column: str
    title: str
    description: str
    unit: str
    null: str = ""
    extent: tuple[str | int, ...] = ()
    colabfit: str = ""
    #: The key of the value; ColabFit's where it defines the property, so that its readers find it.
    key: str = "value"
    more: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The property's id, a tag URI as KIM asks for."""
        return f"tag:{_AUTHORITY}:property/{self.name}"

    def kim(self) -> dict[str, Any]:
        """Give the definition as KIM writes it."""
        keys = {self.key: ("float", self.unit, self.extent, True, self.title)}
        keys |= {name: ("bool", "", (), False, text) for name, text in self.more.items()}
        return {
            "property-id": self.id,
            "property-title": self.title,
            "property-description": self.description,
            **{
                name: {
                    "type": type_,
                    "has-unit": bool(unit),
                    "extent": list(extent),
                    "required": required,
                    "description": text,
                }
                for name, (type_, unit, extent, required, text) in keys.items()
            },
        }


_PER_ATOM = {"per-atom": "whether the value is divided by the number of atoms; here it is"}
DEFINITIONS: tuple[Definition, ...] = (
    Definition(
        "energy", "energy", "total energy of the cell",
        "Total energy of the cell as the engine computes it, extrapolated to zero smearing, without any correction. Its"
        " zero is that of the engine's data sets: energies of two theories (theory_id) do not compare.",
        "eV", colabfit="energy", key="energy",
        more={"per-atom": "whether the value is divided by the number of atoms; here it is not"},
    ),
    Definition(
        "free-energy", "free_energy", "electronic free energy of the cell",
        "Electronic free energy of the cell: the energy that atomic forces and stress are derivatives of.",
        "eV", "the engine does not say", key="energy",
        more={"per-atom": "whether the value is divided by the number of atoms; here it is not"},
    ),
    Definition(
        "energy-per-atom", "energy_per_atom", "total energy per atom",
        "Total energy of the cell, extrapolated to zero smearing, without any correction, over the number of atoms.",
        "eV/atom", key="energy", more=_PER_ATOM,
    ),
    Definition(
        "formation-energy", "formation_energy_per_atom", "formation energy per atom from the elements",
        "Energy per atom, with the correction of its hull's scheme, minus the energies per atom of the elemental"
        " references of the same theory, weighted with the atomic fractions. The references are in"
        " elemental_references.",
        "eV/atom", _UNPLACED, colabfit="formation_energy", key="energy", more=_PER_ATOM,
    ),
    Definition(
        "energy-above-hull", "e_above_hull", "distance to the convex hull",
        "Formation energy per atom minus the lowest energy per atom of any mixture of the entries of the same hull at"
        " the same composition; 0 on the hull. It depends on which entries there are.",
        "eV/atom", _UNPLACED, colabfit="energy_above_hull", key="energy", more=_PER_ATOM,
    ),
    Definition(
        "volume-per-atom", "volume_per_atom", "volume per atom",
        "Volume of the relaxed cell over the number of its atoms.",
        "angstrom^3/atom", "the crystal is not periodic along all axes", key="volume", more=_PER_ATOM,
    ),
    Definition(
        "magnetization-per-volume", "magnetization_per_volume", "magnetisation per volume",
        "Absolute value of the magnetic moment of the cell over the volume of the cell, from a static step. Which spin"
        " is called up is arbitrary in a collinear calculation, so that the sign has no meaning; opposed moments cancel.",
        "Bohr magneton/angstrom^3", f"{_STATIC}; or the crystal is not periodic along all axes",
        key="magnetization",
    ),
    Definition(
        "band-gap", "band_gap", "indirect band gap",
        "Lowest unoccupied minus highest occupied level over all k-points of the grid and both spins, from a static"
        " step; 0 for a metal. Levels between the points of the grid are not seen, and semilocal functionals give gaps"
        " that are too small.",
        "eV", _STATIC, colabfit="electronic_band_gap", key="energy",
    ),
    Definition(
        "dos-at-fermi", "dos_at_fermi", "density of states at the Fermi level",
        "Density of electronic states of the cell at the Fermi level, both spins together, from a static step.",
        "states/eV", _STATIC, key="dos",
    ),
    Definition(
        "atomic-forces", "forces", "forces on the atoms",
        "Negative derivatives of the free energy with respect to the Cartesian positions of the atoms.",
        "eV/angstrom", "the step gives none", (":", 3), colabfit="atomic_forces", key="forces",
    ),
    Definition(
        "cauchy-stress", "stress", "Cauchy stress",
        "Derivative of the free energy with respect to strain over the volume of the cell: positive under tension. In"
        " our tables xx, yy, zz, yz, xz, xy; in ColabFit's form the whole tensor.",
        "eV/angstrom^3", "the step gives none", (3, 3), colabfit="cauchy_stress", key="stress",
        more={"volume-normalized": "whether the stress is multiplied by the volume; here it is not"},
    ),
)  # fmt: skip
_BY_COLUMN = {definition.column: definition for definition in DEFINITIONS}
#: The seven that ALEXANDRIA reports of each crystal (Schmidt et al., section 2), as columns of `properties`.
SEVEN = (
    "energy", "formation_energy_per_atom", "e_above_hull", "volume_per_atom", "magnetization_per_volume", "band_gap",
    "dos_at_fermi",
)  # fmt: skip

#: Tables whose columns hold these properties; elsewhere the same names mean a potential's energies, or others'.
TABLES = ("calculations", "frames", "hull", "properties")


#: Columns of geometry and composition by the names that OPTIMADE's structures and ColabFit's configurations have for
#: them. Cells are flat here; `pbc` is true where a dimension type is 1.
STANDARD = {
    "numbers": {"colabfit": "atomic_numbers"},
    "cell": {"optimade": "lattice_vectors", "colabfit": "cell"},
    "positions": {"optimade": "cartesian_site_positions", "colabfit": "positions"},
    "pbc": {"optimade": "dimension_types", "colabfit": "pbc"},
    "space_group_it_number": {"optimade": "space_group_it_number"},
    **{
        name: {"optimade": name, "colabfit": name}
        for name in ("nsites", "elements", "nelements", "chemical_formula_reduced")
    },
}
#: Published tables whose rows are structures made of elements; a prototype has none, a selection no geometry.
OF_STRUCTURES = (
    "structures", "calculations", "frames", "failures", "hull", "properties", "known_phases", "rejections",
)  # fmt: skip


def of(column: str) -> Definition:
    """Give the definition of a column's property; raises `KeyError` for a column that holds none."""
    return _BY_COLUMN[column]


def metadata(table: str, column: str) -> dict[str, str]:
    """Give what a column's field metadata says of its meaning elsewhere.

    That is the id of its property (`property`), and its name in ColabFit's standard and in OPTIMADE, where it has one.
    """
    if column in STANDARD and table in OF_STRUCTURES:
        return STANDARD[column]
    found = _BY_COLUMN.get(column)
    if found is None or table not in TABLES:
        return {}
    return {"property": found.id} | ({"colabfit": found.colabfit} if found.colabfit else {})


def document(
    tables: dict[str, list[str]], null_reasons: dict[str, str], only: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Give the definitions' file: KIM's definitions, and where each property stands.

    `tables`: names of the columns of each table; `null_reasons`: codes and sentences; `only`: of these columns.
    """
    chosen = [d for d in DEFINITIONS if not only or d.column in only]
    return {
        "definitions": [definition.kim() for definition in chosen],
        "properties": {
            definition.name: {
                "property-id": definition.id,
                "unit": definition.unit,
                "columns": [
                    f"{t}.{definition.column}" for t, names in tables.items() if definition.column in names
                ],
                "null": definition.null or "never",
            }
            for definition in chosen
        },
        "null_reasons": null_reasons,
    }
