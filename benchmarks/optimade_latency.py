"""How long `hullforge serve` takes to answer, against the same server over its default collection in memory.

Comes in: made-up calculations of 1 to 4 of 83 elements, written with the project's own tables as a release. Goes out:
seconds a request takes, from the request to the whole answer, through the application that the command runs, routing
and JSON included, the socket not. Requests are what users ask: elements, formulas, sizes, distances to the hull, all
these together, sorted, and far pages. The peer is upstream's server over mongomock, its default, with the first rows
of the same release: its time grows with the rows, so that fewer rows favour it. Before anything is timed, both answer
every request over 2 000 rows, page by page: they must give the same ids, and sorted the same order of what is sorted by. Bound: the median of our requests, each the median of its repeats, below one second by the clock.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import runner
from hullforge.release import layout
from hullforge.store import atomic, tables
from hullforge.store.structures import NUMBERS, composition_columns

BOUND = 1.0  # seconds
_HULL = "_hullforge_e_above_hull"
_LIGHT = '"Li","Na","K","Mg","Al","Si","O","S","F","Cl"'
REQUESTS: tuple[dict[str, Any], ...] = (
    {"filter": 'elements HAS "O"'},
    {"filter": 'elements HAS ALL "Li","O"'},
    {"filter": 'elements HAS ALL "Li","O" AND nelements=3'},
    {"filter": 'elements HAS ANY "Fe","Co","Ni"'},
    {"filter": f"elements HAS ONLY {_LIGHT}"},
    {"filter": f"elements HAS ONLY {_LIGHT} AND {_HULL}<0.05"},
    {"filter": 'NOT elements HAS "O"'},
    {"filter": 'NOT elements HAS ANY "Pb","Hg","Cd" AND nelements<=3'},
    {"filter": "nelements=2"},
    {"filter": "nelements>=2 AND nelements<=3"},
    {"filter": "elements LENGTH 4"},
    {"filter": 'chemical_formula_reduced="LiO"'},
    {"filter": 'chemical_formula_anonymous="A2B"'},
    {"filter": 'chemical_formula_reduced CONTAINS "Mg2"'},
    {"filter": "nsites>=4 AND nsites<=8"},
    {"filter": f"{_HULL}<0.05"},
    {"filter": f'{_HULL}<0.05 AND elements HAS "Si" AND nsites<10'},
    {"filter": "_hullforge_is_on_hull=TRUE"},
    {"filter": f"{_HULL}<0.1", "sort": _HULL},
    {"filter": "nelements=3", "sort": "-nsites", "page_limit": 100},
    {"filter": "nelements>1", "page_offset": 1000, "page_limit": 100},
    {"filter": 'elements HAS "O" OR elements HAS "S"', "sort": _HULL, "page_offset": 200},
)
#: Asks for TRUE or FALSE, which upstream's parser does not tell apart: its answer is an error.
_OURS_ALONE = frozenset({"_hullforge_is_on_hull=TRUE"})


def release(folder: Path, n: int) -> None:
    """Write a release of `n` made-up calculations; the first ones are the same for any `n`."""
    rng = np.random.default_rng(0)
    known = np.array([number for number in NUMBERS.values() if 1 <= number <= 83], np.uint8)
    calculations, hull, structures = [], [], []
    for i in range(n):
        kinds = rng.choice(known, rng.integers(1, 5), replace=False)
        counts = rng.integers(1, 5, len(kinds))
        numbers = np.sort(np.repeat(kinds, counts))
        size, distance, edge = len(numbers), float(rng.exponential(0.15)), float(np.cbrt(20.0 * len(numbers)))
        structure_id, energy = f"s1-{i:016x}", float(rng.normal(-5 * size, 1))
        own = {"structure_id": structure_id, **composition_columns(numbers), "numbers": numbers.tolist()}
        geometry = {
            "cell": [edge, 0.0, 0.0, 0.0, edge, 0.0, 0.0, 0.0, edge],
            "positions": (rng.random((size, 3)) * edge).tolist(),
            "pbc": [True] * 3,
            "volume": edge**3,
        }
        shared = {"calculation_id": f"k1-{i:016x}", "functional": "PBE", "theory_id": "t1-0000000000000000"}
        calculations.append(
            own | geometry | shared | {"energy": energy, "energy_per_atom": energy / size, "round": 0}
        )
        hull.append(
            own | shared | {"formation_energy_per_atom": distance - 0.5, "e_above_hull": distance * (i % 10 > 0),
                            "is_on_hull": i % 10 == 0, "energy_per_atom": energy / size}
        )  # fmt: skip
        structures.append(own | geometry | {"space_group_it_number": 1, "symprec": 0.01})
    for name, stem, rows in (
        ("calculations", "PBE", calculations),
        ("hull", "PBE", hull),
        ("structures", None, structures),
    ):
        tables.write(folder / layout.table(name, stem), name, _filled(name, rows))
    dataset = {"name": "made-up", "title": "Made up", "version": "1", "description": "", "license": "CC0-1.0",
               "authors": [], "warning": ""}  # fmt: skip
    atomic.write_json(folder / layout.DATASET, dataset)
    atomic.write_json(folder / layout.CONFIG, {"functionals": ["PBE"], "hull": {"corrections": ["none"]}})
    atomic.write_text(folder / layout.SUMS, layout.sums(folder))


def _filled(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    """Make a table of rows that lack columns: null there, or empty or zero where a table may not have nulls."""
    schema = tables.empty(name).schema

    def stand_in(field: pa.Field) -> Any:
        if field.nullable:
            return None
        if pa.types.is_nested(field.type):
            return []
        return "" if pa.types.is_string(field.type) else False if pa.types.is_boolean(field.type) else 0

    columns = [
        pa.array([row.get(field.name, other) for row in rows], field.type)
        for field, other in ((field, stand_in(field)) for field in schema)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def client(folder: Path, scratch: Path) -> Any:
    """Give a client of the application that `hullforge serve` runs on `folder`."""
    from starlette.testclient import TestClient

    from hullforge.release import optimade_api

    scratch.mkdir()
    return TestClient(optimade_api.app(folder, scratch))


def peer(folder: Path, scratch: Path) -> Any:
    """Give a client of the same application with upstream's default collection of the same structures."""
    from optimade.models import StructureResource
    from optimade.server.entry_collections.mongo import MongoCollection
    from optimade.server.mappers import StructureMapper

    from hullforge.release import optimade_entries

    made = client(folder, scratch)
    ours = made.app.state.entry_collections["structures"]
    settings = ours.resource_mapper.config
    theirs = MongoCollection("structures", StructureResource, StructureMapper(settings), settings)
    cursor = ours.con.cursor().execute("SELECT * FROM structures")
    names = [column[0] for column in cursor.description]
    rows = [
        optimade_entries.document(dict(zip(names, row, strict=True))) | {"nsites": row[names.index("nsites")]}
        for row in cursor.fetchall()
    ]
    # One database in memory serves the whole process; an earlier peer's rows go.
    theirs.collection.delete_many({})
    theirs.insert(rows)
    made.app.state.entry_collections = made.app.state.entry_collections | {"structures": theirs}
    return made


def entries(client_: Any, request: dict[str, Any]) -> tuple[list[str], list[Any]]:
    """Ask for all pages; gives the ids of all entries in order, and the values that they are sorted by."""
    whole = {key: value for key, value in request.items() if not key.startswith("page_")} | {
        "page_limit": 500
    }
    key = request.get("sort", "id").removeprefix("-")
    ids: list[str] = []
    values: list[Any] = []
    while True:
        answer = client_.get("/v1/structures", params=whole | {"page_offset": len(ids)})
        assert answer.status_code == 200, f"{request}: {answer.text[-400:]}"
        content = answer.json()
        ids += [entry["id"] for entry in content["data"]]
        values += [entry["id"] if key == "id" else entry["attributes"][key] for entry in content["data"]]
        if not content["data"] or not content["meta"]["more_data_available"]:
            return ids, values if "sort" in request else []


def check_alike(ours: Any, theirs: Any, request: dict[str, Any]) -> int:
    """Ask both for all entries of a request; gives how many there are. Raises `AssertionError` where they differ."""
    (found, order), (wanted, their_order) = entries(ours, request), entries(theirs, request)
    differ = sorted(set(found) ^ set(wanted))
    assert not differ, (
        f"{request}: {len(found)} entries, the peer finds {len(wanted)}; {differ[0]} is one's alone"
    )
    assert len(found) == len(set(found)) == len(wanted), f"{request}: an entry comes twice"
    assert order == their_order, f"{request}: sorted otherwise than by the peer"
    return len(found)


def answered(client_: Any, request: dict[str, Any]) -> tuple[set[str], int]:
    """Ask once; gives the ids of the page and how many entries match. Raises `AssertionError` for an error."""
    answer = client_.get("/v1/structures", params=request)
    assert answer.status_code == 200, f"{request}: {answer.text[-400:]}"
    content = answer.json()
    return {entry["id"] for entry in content["data"]}, content["meta"]["data_returned"]


def _seconds(client_: Any, request: dict[str, Any], repeats: int) -> float:
    """Give the median time of a request by the clock."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        answered(client_, request)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def run(*, long: bool, n: int | None = None, n_peer: int | None = None) -> runner.Outcome:
    """Serve 200 000 structures, the peer 2 000 of them (20 000 if `long`)."""
    n, n_peer = n or 200_000, n_peer or (20_000 if long else 2_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        release(folder / "all", n)
        release(folder / "few", n_peer)
        # Few enough for the peer's pages, each of which takes it another reading of all rows.
        release(folder / "checked", min(n_peer, 2_000))
        small, same = client(folder / "checked", folder / "a"), peer(folder / "checked", folder / "b")
        compared = sum(
            check_alike(small, same, request) for request in REQUESTS if request["filter"] not in _OURS_ALONE
        )
        ours, theirs = client(folder / "all", folder / "c"), peer(folder / "few", folder / "d")
        rows: list[list[Any]] = []
        for request in REQUESTS:
            alone = request["filter"] in _OURS_ALONE
            _, matches = answered(ours, request)
            text = " ".join(str(value) for value in request.values())
            peers = None if alone else _seconds(theirs, request, 3)
            rows.append([text[:100], matches, _seconds(ours, request, 5), peers])
    print(f"{n} structures, the peer's {n_peer}; seconds by the clock, medians of 5 and 3 repeats")
    print(runner.table(["request", "matches", "ours, s", "mongomock, s"], rows))
    ours_all = [row[2] for row in rows]
    median = statistics.median(ours_all)
    both = [(row[2], row[3]) for row in rows if row[3] is not None]
    figures = {
        "median_seconds": median,
        "slowest_seconds": max(ours_all),
        "structures": float(n),
        "peer_median_seconds": statistics.median(b for _, b in both),
        "peer_structures": float(n_peer),
        "ids_compared": float(compared),
    }
    ratio = statistics.median(b / a for a, b in both)
    return runner.Outcome(figures, median < BOUND, ratio, f"optimade over mongomock, {n_peer} structures")
