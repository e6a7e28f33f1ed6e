"""The Parquet of a release, opened with what people open Parquet with: every reader finds the same numbers."""

import re

import numpy as np
import pandas as pd
import pytest
import synthetic_campaign

from conftest import ROOT
from hullforge.release import build, export, layout
from hullforge.release.export import Format, Wish
from hullforge.store import tables


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readers")
    settings = synthetic_campaign.campaign(folder)
    build.run(settings, synthetic_campaign.make(settings), folder / "release")
    return folder / "release"


@pytest.fixture(scope="module")
def wanted(release):
    return tables.read(release / "data/frames/PBE.parquet", "frames").to_pylist()


def with_pandas(path, _):
    return pd.read_parquet(path).replace({np.nan: None}).to_dict("records")


def with_polars(path, _):
    return pytest.importorskip("polars").read_parquet(path).to_dicts()


def with_duckdb(path, _):
    found = pytest.importorskip("duckdb").connect().execute("SELECT * FROM read_parquet(?)", [str(path)])
    names = [column[0] for column in found.description]
    return [dict(zip(names, values, strict=True)) for values in found.fetchall()]


def with_datasets(path, cache):
    datasets = pytest.importorskip("datasets")
    return datasets.load_dataset(
        "parquet", data_files=str(path), cache_dir=str(cache), split="train"
    ).to_list()


def plain(value):
    """A value as nested lists and Python's own numbers."""
    if isinstance(value, (np.ndarray, list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    return value


@pytest.mark.parametrize("reader", [with_pandas, with_polars, with_duckdb, with_datasets])
def test_every_reader_finds_every_number_of_every_table(release, tmp_path, reader, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    seen = set()
    for path in layout.tables(release):
        name = path.split("/")[1].removesuffix(".parquet")
        wanted = tables.read(release / path, name).to_pylist()
        if not wanted:  # no configuration of the card, since `datasets` loads no table without rows
            continue
        found = reader(release / path, tmp_path)
        assert len(found) == len(wanted), path
        for row, expected in zip(found, wanted, strict=True):
            assert {name: plain(value) for name, value in row.items()} == expected, path
        seen |= {(name, column) for row in wanted for column, value in row.items() if value is None}
    assert {("frames", "stress"), ("calculations", "kpoints"), ("properties", "band_gap")} <= seen


def test_readers_that_know_it_find_units_beside_the_columns(release):
    duckdb = pytest.importorskip("duckdb")
    import pyarrow.parquet as pq

    path = release / "data/frames/PBE.parquet"
    field = pq.read_schema(path).field("stress")
    assert field.metadata[b"unit"] == b"eV/angstrom^3"
    found = duckdb.connect().execute("SELECT key FROM parquet_kv_metadata(?)", [str(path)]).fetchall()
    assert (b"hullforge.table",) in found


def test_a_query_over_tables_needs_nothing_but_the_folder(release):
    duckdb = pytest.importorskip("duckdb")
    query = (
        "SELECT c.chemical_formula_reduced, h.e_above_hull FROM read_parquet(?) c JOIN read_parquet(?) h"
        " USING (calculation_id) WHERE h.is_on_hull ORDER BY ALL"
    )
    paths = [str(release / f"data/{name}/PBE.parquet") for name in ("calculations", "hull")]
    found = duckdb.connect().execute(query, paths).fetchall()
    hull = tables.read_rows(release / "data/hull/PBE.parquet", "hull")
    assert found == sorted(
        (r["chemical_formula_reduced"], r["e_above_hull"]) for r in hull if r["is_on_hull"]
    )


def test_mace_takes_every_number_of_the_exported_frames(release, wanted, tmp_path):
    """Its own code, as published, with its own default keys; the frames are equal to the last bit."""
    utils = pytest.importorskip("mace.data.utils")
    written = export.run(release, tmp_path, Wish(Format.MACE, functionals=("PBE",)))[0]
    keys = utils.KeySpecification.from_defaults()
    _, found = utils.load_from_xyz(str(written.path), keys, keep_isolated_atoms=True)
    assert len(found) == len(wanted)
    for frame, row in zip(found, wanted, strict=True):
        assert frame.atomic_numbers.tolist() == row["numbers"]
        assert frame.positions.tolist() == row["positions"]
        assert frame.cell.ravel().tolist() == row["cell"]
        assert list(frame.pbc) == row["pbc"]
        assert frame.properties["energy"] == row["energy"]
        assert plain(frame.properties["forces"]) == row["forces"]
        if row["stress"] is None:
            assert frame.properties["stress"] is None
        else:
            xx, yy, zz, yz, xz, xy = row["stress"]
            assert np.ravel(frame.properties["stress"]).tolist() == [xx, xy, xz, xy, yy, yz, xz, yz, zz]
        assert frame.properties["virials"] is None
        weights = {name: frame.property_weights[name] for name in ("energy", "forces", "stress")}
        assert weights == {
            "energy": 1,
            "forces": row["forces"] is not None,
            "stress": row["stress"] is not None,
        }


def test_nequip_takes_every_number_of_the_exported_frames(release, wanted, tmp_path):
    """Its own code, as published, with doubles as default type; to the last bit."""
    nequip = pytest.importorskip("nequip.data.ase")
    import ase.io
    import torch

    written = export.run(release, tmp_path, Wish(Format.NEQUIP, functionals=("PBE",)))[0]
    complete = [row for row in wanted if row["forces"] is not None and row["stress"] is not None]
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        found = [nequip.from_ase(atoms) for atoms in ase.io.read(written.path, index=":")]
    finally:
        torch.set_default_dtype(before)
    assert len(found) == len(complete)
    for frame, row in zip(found, complete, strict=True):
        assert frame["atomic_numbers"].flatten().tolist() == row["numbers"]
        assert frame["pos"].tolist() == row["positions"]
        assert frame["cell"].flatten().tolist() == row["cell"]
        assert frame["total_energy"].item() == row["energy"]
        assert frame["forces"].tolist() == row["forces"]
        xx, yy, zz, yz, xz, xy = row["stress"]
        assert frame["stress"].flatten().tolist() == [xx, xy, xz, xy, yy, yz, xz, yz, zz]


def test_matgl_takes_the_frames_as_the_documentation_says(release, wanted, tmp_path, monkeypatch):
    """The snippet itself is run."""
    pytest.importorskip("matgl")
    from ase.units import GPa
    from matgl.graph.data import collate_fn_pes

    export.run(release, tmp_path / "training", Wish(Format.NEQUIP, functionals=("PBE",)))
    (snippet,) = re.findall(
        r"```python\n(.*?MGLDataset.*?)```", (ROOT / "docs/release.md").read_text(), re.DOTALL
    )
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(snippet, "docs/release.md", "exec"), names)
    complete = [row for row in wanted if row["forces"] is not None]
    dataset = names["dataset"]
    graphs, _, _, energies, forces, stresses = collate_fn_pes([dataset[i] for i in range(len(complete))])
    assert graphs.num_graphs == len(complete)
    np.testing.assert_allclose(energies, [row["energy"] for row in complete], rtol=1e-6)
    np.testing.assert_allclose(
        forces, np.concatenate([row["forces"] for row in complete]), rtol=1e-5, atol=1e-9
    )
    order = [[0, 5, 4], [5, 1, 3], [4, 3, 2]]
    tensors = np.array([np.array(row["stress"])[order] for row in complete]) / GPa
    np.testing.assert_allclose(np.reshape(stresses, (-1, 3, 3)), tensors, rtol=1e-5, atol=1e-7)
