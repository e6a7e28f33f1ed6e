"""Documents made from the code, so that they can't drift from it: the config's JSON schema, the data dictionary."""

import json
from collections.abc import Collection

from hullforge.config import Campaign
from hullforge.store.schema import SCHEMA_VERSION, TABLES


def config_schema() -> str:
    """Give the JSON schema of a campaign's configuration, for editors and other tools."""
    return json.dumps(Campaign.model_json_schema(), indent=1, sort_keys=True) + "\n"


def dictionary(names: Collection[str] = tuple(TABLES)) -> str:
    """Give the data dictionary of all tables, or of those named, as Markdown."""
    lines = [
        "# Data dictionary",
        "",
        (
            f"Table schema version {SCHEMA_VERSION}. Units: eV, angstrom, eV/angstrom, eV/angstrom^3, Bohr magneton;"
            " stress is positive under tension (ASE's sign). Every file carries units and descriptions in its field"
            " metadata."
        ),
    ]
    for table in (table for name, table in TABLES.items() if name in names):
        lines += ["", f"## {table.name}", "", f"{table.description[0].upper()}{table.description[1:]}.", ""]
        lines += ["| column | type | unit | meaning | null when |", "|---|---|---|---|---|"]
        lines += [
            f"| `{column.name}` | `{column.type}`{f', {column.length} values' if column.length else ''} | {column.unit} | {column.description} | {column.null or 'never'} |"
            for column in table.columns
        ]
    return "\n".join(lines) + "\n"
