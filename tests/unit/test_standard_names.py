"""What columns are called elsewhere, checked against what those others publish."""

import pyarrow as pa
import pytest

from hullforge.release import colabfit_schema, layout, properties
from hullforge.store import definitions
from hullforge.store.schema import TABLES

PUBLISHED = (*layout.WHOLE, *layout.BY_FUNCTIONAL)
#: Names that OPTIMADE has for something else: there, `species` describes each kind of site, with masses and attached atoms.
OTHER_MEANING = {("selection", "species")}


def metadata(table, column):
    field = TABLES[table].arrow().field(column.name)
    return {key.decode(): value.decode() for key, value in field.metadata.items()}


def columns():
    return [(name, column) for name in PUBLISHED for column in TABLES[name].columns]


def leaf(type_):
    while pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_):
        type_ = type_.value_type
    return type_


def test_every_published_column_has_a_unit_and_a_description():
    for table, column in columns():
        found = metadata(table, column)
        assert len(found["description"]) > 3, (table, column.name)
        assert found["unit"], (table, column.name)
        is_number = pa.types.is_floating(leaf(column.type)) or pa.types.is_integer(leaf(column.type))
        assert (found["unit"] == "inapplicable") <= (not is_number), (table, column.name)
        # Whatever carries electron volts, lengths or moments says so in its unit.
        if pa.types.is_floating(leaf(column.type)) and column.name not in ("edge_weight", "latent_distance"):
            assert found["unit"] != "dimensionless", (table, column.name)


def test_names_in_optimade_are_those_of_its_own_schema_with_its_units():
    structures = pytest.importorskip("optimade.models.structures")
    schema = structures.StructureResourceAttributes.model_json_schema()["properties"]
    units = {"\u00c5": "angstrom"}
    seen = set()
    for table, column in columns():
        found = metadata(table, column)
        name = found.get("optimade")
        if name is None:
            hidden = column.name in schema and table in definitions.OF_STRUCTURES
            assert not hidden or (table, column.name) in OTHER_MEANING, (table, column.name)
            continue
        seen.add(name)
        theirs = schema[name]  # raises where OPTIMADE has no such property
        unit = theirs.get("x-optimade-unit")
        if unit is None:
            assert found["unit"] in ("dimensionless", "inapplicable"), (table, column.name)
        else:
            assert units[unit] == found["unit"], (table, column.name)
    assert {"lattice_vectors", "cartesian_site_positions", "dimension_types", "elements"} <= seen


def test_names_in_colabfit_are_columns_of_its_configurations():
    known = set(colabfit_schema.CONFIGURATIONS.names)
    names = {metadata(table, column).get("colabfit") for table, column in columns()} - {None}
    assert names <= known
    assert {"atomic_numbers", "atomic_forces", "cauchy_stress", "energy_above_hull", "elements"} <= names


def test_properties_are_defined_in_the_file_that_is_published_with_their_units():
    known = properties.units(properties.text())
    found = {}
    for table, column in columns():
        if name := metadata(table, column).get("property"):
            found[name] = metadata(table, column)["unit"]
            assert known[name] == found[name], (table, column.name)
    assert set(found) == set(known)
