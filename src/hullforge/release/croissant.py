"""A release described for machines that look for data sets: croissant.json (Croissant 1.0, JSON-LD).

Comes in: the data set row and the folder, all other documents written. Goes out: every file with its size and
SHA-256, and a record set for each Parquet file with its key and its fields. No day of publication goes in. Shapes of
arrays are said with two terms of Croissant 1.1 (`isArray`, `arrayShape`). Columns of maps and structs, for which
Croissant has no type, are no fields: the description of the record set names them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from hullforge.release import layout
from hullforge.store.columns import Column
from hullforge.store.schema import TABLES

#: The context of the specification, section "JSON-LD context" of Croissant 1.0.
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "arrayShape": "cr:arrayShape",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_FORMATS = {
    ".parquet": "application/x-parquet",
    ".extxyz": "chemical/x-xyz",
    ".json": "application/json",
    ".md": "text/markdown",
    ".cff": "application/yaml",
}


def document(dataset: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Describe the release in `folder`, whose data set row is `dataset`; croissant.json itself isn't listed."""
    files = [name for name in layout.files(folder) if name != layout.CROISSANT]
    data: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": dataset["title"],
        "alternateName": dataset["name"],
        "description": dataset["description"] or dataset["title"],
        "version": dataset["version"],
        "license": f"https://spdx.org/licenses/{dataset['license']}.html",
        "isLiveDataset": False,
        "distribution": [_file(name, folder) for name in files],
        "recordSet": [_records(name) for name in files if name.endswith(".parquet")],
    }
    if dataset["authors"]:
        data["creator"] = [{"@type": "sc:Person", "name": name} for name in dataset["authors"]]
    if dataset["creators"]:
        data["creator"] = [
            {"@type": "sc:Person" if "," in creator["name"] else "sc:Organization", "name": creator["name"]}
            | ({"sameAs": f"https://orcid.org/{creator['orcid']}"} if "orcid" in creator else {})
            for creator in dataset["creators"]
        ]
    if dataset["doi"]:
        data["url"] = f"https://doi.org/{dataset['doi']}"
    return data


def _file(name: str, folder: Path) -> dict[str, Any]:
    path = folder / name
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": _FORMATS.get(path.suffix, "text/plain"),
        "sha256": layout.sha256(path),
    }


def _records(file: str) -> dict[str, Any]:
    """Describe the table in `file`: its record set has the name that the data card's configuration has."""
    parts = Path(file).with_suffix("").parts[1:]
    table, name = TABLES[parts[0]], "-".join(parts)
    untyped = [column.name for column in table.columns if _type(_unnest(column.type)[0]) is None]
    about = f" Without a type here, see dictionary.md: {', '.join(untyped)}." if untyped else ""
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": table.description + about,
        "key": [{"@id": f"{name}/{column}"} for column in layout.KEYS[table.name]],
        "field": [_field(name, column, file) for column in table.columns if column.name not in untyped],
    }


def _field(records: str, column: Column, file: str) -> dict[str, Any]:
    about = column.description + (f"; unit: {column.unit}" if column.unit else "")
    about += f"; null: {column.null}" if column.null else ""
    inner, shape = _unnest(column.type)
    if column.length:
        shape[0] = column.length
    field: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": f"{records}/{column.name}",
        "name": column.name,
        "description": about,
        "dataType": _type(inner),
        "source": {"fileObject": {"@id": file}, "extract": {"column": column.name}},
    }
    if shape:
        field |= {"isArray": True, "arrayShape": ",".join(map(str, shape))}
    return field


def _unnest(of: pa.DataType) -> tuple[pa.DataType, list[int]]:
    """Give the type inside lists and their lengths, outermost first; -1 for any length."""
    shape = []
    while pa.types.is_list(of) or pa.types.is_fixed_size_list(of):
        shape.append(of.list_size if pa.types.is_fixed_size_list(of) else -1)
        of = of.value_type
    return of, shape


def _type(of: pa.DataType) -> str | None:
    """Give Croissant's type; None for structs."""
    if pa.types.is_boolean(of):
        return "sc:Boolean"
    if pa.types.is_integer(of):
        return "sc:Integer"
    if pa.types.is_floating(of):
        return "sc:Float"
    return "sc:Text" if pa.types.is_string(of) else None
