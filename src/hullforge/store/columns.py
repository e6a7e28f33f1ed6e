"""What a column of a table is: the Arrow types that tables are made of, and the field with its unit and meaning.

No table stands here; those are in `hullforge.store.schema`.
"""

from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from hullforge.store import definitions

STR = pa.string()
BOOL = pa.bool_()
I8, I16, I32, I64, U8, U16 = pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16()
F64 = pa.float64()
VEC3 = pa.list_(F64, 3)
CELL = pa.list_(F64, 9)
PBC = pa.list_(BOOL, 3)


def many(of: pa.DataType) -> pa.DataType:
    """Give the type of a list of any length."""
    return pa.list_(of)


def pairs(key: str, value: str, of: pa.DataType) -> pa.DataType:
    """Give the type of a list of pairs, keys being texts: Hugging Face's `datasets` has no type for Arrow's maps."""
    return many(pa.struct([(key, STR), (value, of)]))


HUBBARDS = pairs("element", "U", F64)
NULL_REASONS = pairs("property", "reason", STR)


@dataclass(frozen=True)
class Column:
    """One column: `unit` is empty for what has none; `null` says when the value is absent ('' = never).

    A column that is `added` by a later stage is filled with nulls where rows come without it. Lists of one `length` are
    lists of any length for Arrow wherever a row may be null: before version 26, pyarrow can't read nulls among lists of
    fixed size. Lists of pairs that are `keyed` are dicts in Python's rows.
    """

    name: str
    type: pa.DataType
    description: str
    unit: str = ""
    null: str = ""
    added: bool = False
    length: int = 0
    keyed: bool = False

    def field(self) -> pa.Field:
        """Give the Arrow field, with unit and description as metadata."""
        metadata = {"description": self.description, "unit": self.unit or _no_unit(self.type)}
        if self.null:
            metadata["null"] = self.null
        if self.length:
            metadata["length"] = str(self.length)
        return pa.field(self.name, self.type, nullable=bool(self.null), metadata=metadata)


def _no_unit(type_: pa.DataType) -> str:
    """Give OPTIMADE's word for what has no unit: numbers are dimensionless, for all else units are inapplicable."""
    while pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_):
        type_ = type_.value_type
    is_number = pa.types.is_integer(type_) or pa.types.is_floating(type_)
    return "dimensionless" if is_number else "inapplicable"


def P(column: str) -> Column:  # noqa: N802
    """Make the column of a property from its definition."""
    found = definitions.of(column)
    return Column(column, F64, f"{found.title}: see property_definitions.json", found.unit, found.null)


def C(name: str, type: pa.DataType, description: str, unit: str = "", null: str = "", **more: Any) -> Column:  # noqa: A002, N802
    """Make a column; one letter, because it stands before every line of the tables below."""
    return Column(name, type, description, unit, null, **more)


def optional(column: Column, null: str) -> Column:
    """Give the same column for a table in which it may be absent, because of `null`."""
    if not pa.types.is_fixed_size_list(column.type):
        return replace(column, null=null)
    return replace(column, null=null, type=many(column.type.value_type), length=column.type.list_size)
