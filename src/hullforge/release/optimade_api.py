"""The OPTIMADE API of a release: collections over DuckDB behind the consortium's own server.

Comes in: a release folder and an empty scratch folder for the server's own configuration and page. Goes out: the
application that `hullforge serve` runs. Uses no network, at start or later, changes nothing in the release, and
refuses everything but reading. Needs the extra `serve`.
"""

import json
import logging
import os
from collections.abc import Iterable, Mapping
from datetime import UTC
from pathlib import Path
from typing import Any

import duckdb
import jinja2
from optimade.exceptions import BadRequest
from optimade.models import LinksResource, ReferenceResource, StructureResource
from optimade.server.entry_collections.entry_collections import EntryCollection

from hullforge import __version__
from hullforge.config_release import Creator
from hullforge.errors import TableError
from hullforge.release import layout, optimade_entries
from hullforge.release.optimade_filter import Condition, Kind, Parser, Transformer, condition

_SHARED = {"id": Kind.TEXT, "type": Kind.TEXT, "immutable_id": Kind.TEXT, "last_modified": Kind.TIME}
_LINKS = _SHARED | {"name": Kind.TEXT, "link_type": Kind.TEXT}
_REFERENCES = _SHARED | {
    **dict.fromkeys(("title", "note", "bib_type", "doi", "url", "year"), Kind.TEXT),
    "authors": Kind.OPAQUE,
}


class Collection(EntryCollection):
    """Entries of one kind, in one table of a DuckDB database."""

    def __init__(self, con: duckdb.DuckDBPyConnection, kinds: Mapping[str, Kind], *args: Any) -> None:
        resource, mapper, config = args
        super().__init__(resource, mapper, Transformer(mapper=mapper), config)
        self.parser = Parser()
        self.con, self.kinds, self.table = con, kinds, mapper.ENDPOINT
        self._size = self._count(("TRUE", []))

    def __len__(self) -> int:
        return self._size

    def insert(self, data: list[Any]) -> None:
        """Refuse: a release is read-only."""
        raise NotImplementedError("a release is read-only")

    def count(self, **kwargs: Any) -> int:
        """Give the number of entries that match `filter`, a transformed filter."""
        return self._count(condition(kwargs.get("filter", {}), self.kinds))

    def _count(self, where: Condition) -> int:
        text, values = where
        query = f'SELECT count(*) FROM "{self.table}" WHERE {text}'  # noqa: S608 - values are parameters
        row = self.con.cursor().execute(query, values).fetchone()
        assert row is not None
        return int(row[0])

    def _run_db_query(
        self,
        criteria: dict[str, Any],
        single_entry: bool = False,  # noqa: FBT001, FBT002 - upstream's signature
    ) -> tuple[list[dict[str, Any]], int | None, bool]:
        """Give the entries of one page in a fixed order, how many match, and whether there are more."""
        if "page_above" in criteria:
            raise NotImplementedError("page_above is not supported; use page_offset or page_number")
        text, values = condition(criteria.get("filter", {}), self.kinds)
        skip = max(criteria.get("skip", 0), 0)
        cursor = self.con.cursor().execute(
            f'SELECT * FROM "{self.table}" WHERE {text} ORDER BY {self._order(criteria.get("sort", ()))}'  # noqa: S608
            " LIMIT ? OFFSET ?",
            [*values, criteria["limit"], skip],
        )
        names = [column[0] for column in cursor.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        for row in rows:
            row["last_modified"] = row["last_modified"].replace(tzinfo=UTC)
        if self.table == "structures":
            rows = [optimade_entries.document(row) for row in rows]
        elif self.table == "references":
            for row in rows:
                row["authors"] = [
                    {key: name for key, name in who.items() if name is not None} for who in row["authors"]
                ]
        if single_entry:
            return rows, len(rows), False
        total = self._count((text, values))
        return rows, total, skip + len(rows) < total

    def _order(self, sort: Iterable[tuple[str, int]]) -> str:
        """Give the columns to sort by, known ones only; the id last, so that pages never overlap."""
        keys = []
        for name, direction in sort:
            if self.kinds.get(name, Kind.OPAQUE) is Kind.OPAQUE:
                raise BadRequest(detail=f"entries can't be sorted by {name}")
            keys.append(f'"{name}" {"ASC" if direction > 0 else "DESC"} NULLS LAST')
        return ", ".join([*keys, '"id" ASC'])


def app(folder: Path, scratch: Path) -> Any:
    """Give the application for the release `folder`; `scratch` is an empty folder that outlives it.

    Raises `TableError` or `SealError` for what is not a whole release.
    """
    dataset, config = (_json(folder / name) for name in (layout.DATASET, layout.CONFIG))
    # Variables and files of the user's other servers must not configure this one; what the server reads when it is
    # imported, it reads from here. Its licence check asks the network, so the licence is set past the check, below.
    for name in [name for name in os.environ if name.upper().startswith("OPTIMADE_")]:
        del os.environ[name]
    own = {"log_dir": str(scratch), "log_level": "error", "insert_test_data": False}
    (scratch / "config.json").write_text(json.dumps(own))
    os.environ["OPTIMADE_CONFIG_FILE"] = str(scratch / "config.json")
    logging.getLogger("optimade").propagate = False
    from optimade.server.config import ServerConfig
    from optimade.server.create_app import create_app
    from optimade.server.mappers import LinksMapper, ReferenceMapper, StructureMapper
    from optimade.server.mappers.entries import BaseResourceMapper

    try:
        functionals = list(config["functionals"])
        schemes = config.get("hull", {}).get("corrections", ["none"])
        con = optimade_entries.database(folder, functionals, schemes)
        (scratch / "landing.html").write_text(_page(dataset, con))
        settings = ServerConfig(
            provider={
                "prefix": optimade_entries.PREFIX,
                "name": f"{dataset['title']}, version {dataset['version']}",
                "description": dataset["description"] or dataset["title"],
                "homepage": None,
            },
            implementation={
                "name": "hullforge",
                "version": __version__,
                "maintainer": None,
                "source_url": None,
                "issue_tracker": None,
                "homepage": None,
            },
            provider_fields={"structures": optimade_entries.provider_fields()},
            custom_landing_page=str(scratch / "landing.html"),
            insert_test_data=False,
        ).model_copy(update={"license": f"https://spdx.org/licenses/{dataset['license']}"})
        _add_reference(con, dataset)
    except (KeyError, TypeError, AttributeError) as error:
        raise TableError(f"{folder}: {layout.DATASET} or {layout.CONFIG} lacks {error}") from error
    application = create_app(settings)

    class Structures(StructureMapper):
        LENGTH_ALIASES = ()  # lengths are asked of the lists themselves

    application.state.entry_collections = {
        "links": Collection(con, _LINKS, LinksResource, LinksMapper(settings), settings),
        "references": Collection(con, _REFERENCES, ReferenceResource, ReferenceMapper(settings), settings),
        "structures": Collection(
            con, optimade_entries.kinds(), StructureResource, Structures(settings), settings
        ),
    }
    application.state.base_resource_mapper = BaseResourceMapper(settings)
    return application


def _add_reference(con: duckdb.DuckDBPyConnection, dataset: Mapping[str, Any]) -> None:
    """Make the tables of references, with the release itself as the only one, and of links, without any."""
    con.execute(
        'CREATE TABLE "links" (id VARCHAR, type VARCHAR, immutable_id VARCHAR, last_modified TIMESTAMP,'
        " name VARCHAR, link_type VARCHAR)"
    )
    con.execute(
        'CREATE TABLE "references" (id VARCHAR, type VARCHAR, immutable_id VARCHAR, last_modified TIMESTAMP,'
        " title VARCHAR, note VARCHAR, bib_type VARCHAR, doi VARCHAR, url VARCHAR, year VARCHAR,"
        " authors STRUCT(name VARCHAR, firstname VARCHAR, lastname VARCHAR)[])"
    )
    con.execute(
        """INSERT INTO "references" SELECT ?, 'references', NULL, (SELECT max(last_modified) FROM structures),
        ?, ?, 'misc', ?, ?, ?, ?""",
        [
            f"{dataset['name']}-{dataset['version']}",
            dataset["title"],
            f"version {dataset['version']}, {dataset['license']}",
            dataset.get("doi"),
            f"https://doi.org/{dataset['doi']}" if dataset.get("doi") else None,
            dataset["version"].partition(".")[0],
            _persons(dataset),
        ],
    )


def _persons(dataset: Mapping[str, Any]) -> list[dict[str, str | None]]:
    """Give those whose release it is: its creators, else its authors, else its name."""
    creators = [Creator(**creator) for creator in dataset.get("creators", ())]
    return [
        {"name": creator.display, "firstname": creator.given, "lastname": creator.given and creator.family}
        for creator in creators
    ] or [
        {"name": name, "firstname": None, "lastname": None}
        for name in dataset["authors"] or [dataset["name"]]
    ]


def _page(dataset: Mapping[str, Any], con: duckdb.DuckDBPyConnection) -> str:
    """Give the landing page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
    )
    counts = con.execute("SELECT functional, count(*) FROM structures GROUP BY 1 ORDER BY 1").fetchall()
    on_hull = con.execute("SELECT count(*) FROM structures WHERE is_on_hull").fetchone()
    return environment.get_template("landing.html.j2").render(
        d=dataset,
        counts=counts,
        on_hull=on_hull[0] if on_hull else 0,
        fields=optimade_entries.provider_fields(),
        prefix=optimade_entries.PREFIX,
    )


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON object of the release."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise TableError(f"{path}: not readable as JSON ({error}); is this a release folder?") from error
    if not isinstance(found, dict):
        raise TableError(f"{path}: not a JSON object")
    return found
