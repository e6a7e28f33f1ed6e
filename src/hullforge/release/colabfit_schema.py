"""Columns of ColabFit's tables, as its readers know them (colabfit-tools, `vast/schema.py`), and of our own beside.

Comes in: nothing. Goes out: Arrow schemas, with units and our property definitions in the field metadata. ColabFit's
current tables have one row for a configuration with its property object; data objects, property instances and
metadata, which the standard names too (Vita et al., J. Chem. Phys. 159, 154802 (2023), section II), are tables beside.
Columns with times are there for their readers and always null: a data set knows no clock.
"""

import pyarrow as pa

from hullforge.store import definitions

_STR, _F64, _I32, _I64, _BOOL = pa.string(), pa.float64(), pa.int32(), pa.int64(), pa.bool_()
_TIME = pa.timestamp("us")
_VECTORS = pa.list_(pa.list_(_F64))
_STRINGS, _INTS = pa.list_(_STR), pa.list_(_I32)


def _schema(fields: dict[str, pa.DataType]) -> pa.Schema:
    columns = {d.colabfit: d for d in definitions.DEFINITIONS if d.colabfit}
    out = []
    for name, type_ in fields.items():
        found = columns.get(name)
        metadata = (
            {"unit": found.unit, "property": found.id, "description": found.title}
            if found
            else UNITS.get(name)
        )
        out.append(pa.field(name, type_, metadata=metadata))
    return pa.schema(out)


#: Units of columns that are no properties of their own.
UNITS = {
    "cell": {"unit": "angstrom"},
    "positions": {"unit": "angstrom"},
    "max_force_norm": {"unit": "eV/angstrom"},
    "mean_force_norm": {"unit": "eV/angstrom"},
    "energy_mean": {"unit": "eV"},
    "energy_variance": {"unit": "eV^2"},
}
_GEOMETRY: dict[str, pa.DataType] = {
    "structure_hash": _STR, "cell": _VECTORS, "positions": _VECTORS, "pbc": pa.list_(_BOOL),
    "chemical_formula_hill": _STR, "chemical_formula_reduced": _STR, "chemical_formula_anonymous": _STR,
    "elements": _STRINGS, "elements_ratios": pa.list_(_F64), "atomic_numbers": _INTS, "nsites": _I32,
    "nelements": _I32, "nperiodic_dimensions": _I32, "dimension_types": _INTS, "names": _STRINGS, "labels": _STRINGS,
}  # fmt: skip
#: A configuration with its property object.
CONFIGURATIONS = _schema({
    "property_id": _STR, "property_hash": _STR, "last_modified": _TIME, "dataset_id": _STR, "multiplicity": _I32,
    "software": _STR, "method": _STR, "energy": _F64, "atomic_forces": _VECTORS, "cauchy_stress": _VECTORS,
    "cauchy_stress_volume_normalized": _BOOL, "electronic_band_gap": _F64, "electronic_band_gap_type": _STR,
    "formation_energy": _F64, "adsorption_energy": _F64, "atomization_energy": _F64, "max_force_norm": _F64,
    "mean_force_norm": _F64, "energy_above_hull": _F64, "configuration_id": _STR, "configuration_hash": _STR,
    **_GEOMETRY, "metadata": _STR, "has_forces": _BOOL, "has_stress": _BOOL, "element_filter": _STR,
})  # fmt: skip
#: What the standard calls a data object: which property instances, of which configuration, computed how.
DATA_OBJECTS = _schema({
    "data_object_id": _STR, "property_id": _STR, "configuration_id": _STR, "metadata_id": _STR,
    "property_instances": pa.list_(pa.struct([("property", _STR), ("property_instance_id", _STR)])),
})  # fmt: skip
METADATA = _schema({"id": _STR, "hash": _STR, "describes": _STR, "metadata": _STR})
_AGGREGATED: dict[str, pa.DataType] = {
    "nsites": _I64, "nelements": _I32, "elements": _STRINGS, "total_elements_ratios": pa.list_(_F64),
    "nperiodic_dimensions": _INTS, "dimension_types": pa.list_(_INTS),
}  # fmt: skip
SETS = _schema({
    "id": _STR, "hash": _STR, "last_modified": _TIME, "nconfigurations": _I32, **_AGGREGATED, "description": _STR,
    "name": _STR, "dataset_id": _STR, "ordered": _BOOL, "extended_id": _STR,
})  # fmt: skip
SETS_MAP = _schema({"configuration_id": _STR, "configuration_set_id": _STR})
DATASET = _schema({
    "id": _STR, "hash": _STR, "name": _STR, "last_modified": _TIME, "nconfigurations": _I32,
    "nproperty_objects": _I64, **_AGGREGATED, "energy_count": _I64, "energy_mean": _F64, "energy_variance": _F64,
    "atomization_energy_count": _I64, "adsorption_energy_count": _I64, "energy_above_hull_count": _I64,
    "formation_energy_count": _I64, "atomic_forces_count": _I64, "electronic_band_gap_count": _I64,
    "cauchy_stress_count": _I64, "authors": _STRINGS, "description": _STR, "extended_id": _STR, "license": _STR,
    "links": _STR, "publication_year": _STR, "doi": _STR, "equilibrium": _BOOL, "methods": _STRINGS,
    "software": _STRINGS, "date_added_to_colabfit": _TIME, "date_requested": _TIME,
})  # fmt: skip
