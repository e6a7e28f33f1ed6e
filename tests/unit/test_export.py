"""Exports: other programs find the numbers of the tables, under their own names, with their own signs."""

import json
import zlib

import ase.io
import numpy as np
import pytest
import synthetic_campaign
from ase.db import connect
from ase.db.row import AtomsRow
from ase.io.jsonio import decode

from hullforge import cli
from hullforge.imports.alexandria import Alexandria
from hullforge.imports.base import Found
from hullforge.release import build, export, exports_ase
from hullforge.release.export import Energy, Format, Kind, Wish
from hullforge.store import tables


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    settings = synthetic_campaign.campaign(folder)
    build.run(settings, synthetic_campaign.make(settings), folder / "release")
    return folder / "release"


def rows(release, functional="PBE", name="frames"):
    return tables.read_rows(release / "data" / name / f"{functional}.parquet", name)


def export_one(release, out, format_, **wish):
    (written,) = export.run(release, out, Wish(Format(format_), functionals=("PBE",), **wish))
    return written


@pytest.mark.parametrize("format_", [f for f in Format if f is not Format.LMDB])
def test_the_same_wish_gives_the_same_bytes(release, tmp_path, format_):
    kind = Kind.STRUCTURES if format_ is Format.JSON else Kind.FRAMES
    contents = []
    for name in "ab":
        export.run(release, tmp_path / name, Wish(format_, kind))
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files})
    assert contents[0]
    assert contents[0] == contents[1]


def mace_properties(atoms):
    """What MACE takes from a frame with its default keys: energy, stress, virials of `info`, forces of `arrays`.

    Its rule: a property that isn't there has weight 0; `energy`, `forces` and `stress` of a calculator don't count.
    """
    keys = {
        "energy": "REF_energy",
        "stress": "REF_stress",
        "virials": "REF_virials",
        "charges": "REF_charges",
    }
    found = {name: atoms.info.get(key) for name, key in keys.items()}
    return found | {"forces": atoms.arrays.get("REF_forces")}


def test_mace_finds_its_keys_and_never_virials_beside_stress(release, tmp_path):
    written = export_one(release, tmp_path, "mace")
    frames = ase.io.read(written.path, index=":")
    for atoms, row in zip(frames, rows(release), strict=True):
        found = mace_properties(atoms)
        assert found["energy"] == row["energy"]
        assert found["virials"] is None
        assert (found["forces"] is None) == (row["forces"] is None)
        if row["forces"] is not None:
            assert found["forces"].tolist() == row["forces"]
            xx, yy, zz, yz, xz, xy = row["stress"]
            assert np.ravel(found["stress"]).tolist() == [xx, xy, xz, xy, yy, yz, xz, yz, zz]
        assert atoms.calc is None


def test_nequip_gets_complete_frames_alone_and_is_told_how_many_were_left_out(release, tmp_path):
    written = export_one(release, tmp_path, "nequip")
    frames = ase.io.read(written.path, index=":")
    complete = [row for row in rows(release) if row["forces"] is not None and row["stress"] is not None]
    assert 0 < len(complete) < len(rows(release))
    assert written.left_out == {"no forces": len(rows(release)) - len(complete)}
    assert written.rows == len(complete)
    for atoms, row in zip(frames, complete, strict=True):
        assert set(atoms.calc.results) == {"energy", "forces", "stress"}
        assert atoms.get_stress().tolist() == row["stress"]


def test_deepmd_has_eV_angstrom_and_a_virial_that_is_minus_stress_times_volume(release, tmp_path):
    folder = export_one(release, tmp_path, "deepmd").path
    wanted = sorted((row["energy"], row) for row in rows(release) if row["forces"] is not None)
    found = []
    for system in sorted(folder.iterdir()):
        elements = (system / "type_map.raw").read_text().split()
        types = [int(line) for line in (system / "type.raw").read_text().split()]
        box, energy, coord, force, virial = (
            np.load(system / "set.000" / f"{name}.npy")
            for name in ("box", "energy", "coord", "force", "virial")
        )
        assert coord.shape == force.shape == (len(energy), 3 * len(types))
        found += [
            (energy[i], [elements[t] for t in types], box[i], coord[i], force[i], virial[i])
            for i in range(len(energy))
        ]
    for (_, row), (energy, symbols, box, coord, force, virial) in zip(
        wanted, sorted(found, key=lambda item: item[0]), strict=True
    ):
        assert energy == row["energy"]
        assert box.tolist() == row["cell"]
        order = np.argsort(row["numbers"], kind="stable")
        assert [ase.data.atomic_numbers[s] for s in symbols] == sorted(row["numbers"])
        assert coord.reshape(-1, 3).tolist() == np.array(row["positions"])[order].tolist()
        assert force.reshape(-1, 3).tolist() == np.array(row["forces"])[order].tolist()
        xx, yy, zz, yz, xz, xy = -np.linalg.det(np.reshape(box, (3, 3))) * np.array(row["stress"])
        np.testing.assert_allclose(
            virial.reshape(3, 3), [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]], rtol=1e-14
        )


def test_dpdata_reads_what_it_would_have_made_of_ase_itself(release, tmp_path):
    dpdata = pytest.importorskip("dpdata")
    folder = export_one(release, tmp_path, "deepmd").path
    complete = {row["energy"]: row for row in rows(release) if row["forces"] is not None}
    xyz = {a.calc.results["energy"]: a for a in ase.io.read(release / "extxyz/frames-PBE.extxyz", index=":")}
    seen = 0
    for system in folder.iterdir():
        ours = dpdata.LabeledSystem(str(system), fmt="deepmd/npy")
        for i, energy in enumerate(ours["energies"]):
            peer = dpdata.LabeledSystem(xyz[energy], fmt="ase/structure")
            assert energy in complete
            for name in ("cells", "coords", "forces", "virials"):
                np.testing.assert_allclose(ours[name][i], peer[name][0], rtol=1e-12, atol=1e-14, err_msg=name)
            seen += 1
    assert seen == len(complete)


def test_deepmd_tells_apart_what_has_no_virial_and_what_is_no_crystal(tmp_path):
    from hullforge.release import exports_numpy

    row = synthetic_campaign.calculation_row(synthetic_campaign.CANDIDATES[3], "PBE", "t1-00000000")
    frame = synthetic_campaign.frame_rows(row)[1]
    changes = [{}, {"stress": None}, {"pbc": [False] * 3, "stress": None}, {"pbc": [True, True, False]}]
    table = tables.from_rows("frames", [frame | {"frame_id": str(i)} | c for i, c in enumerate(changes)])
    assert exports_numpy.deepmd(tmp_path / "d", iter([table])) == {"periodic along some axes only": 1}
    systems = sorted(path.name for path in (tmp_path / "d").iterdir())
    assert systems == ["Al1Cu1", "Al1Cu1-no-virial", "Al1Cu1-no-virial-molecule"]
    assert (tmp_path / "d/Al1Cu1/set.000/virial.npy").exists()
    assert not (tmp_path / "d/Al1Cu1-no-virial/set.000/virial.npy").exists()
    assert (tmp_path / "d/Al1Cu1-no-virial-molecule/nopbc").exists()
    assert not (tmp_path / "d/Al1Cu1/nopbc").exists()


def test_npz_holds_every_row_and_says_nan_where_there_is_nothing(release, tmp_path):
    written = export_one(release, tmp_path, "npz")
    with np.load(written.path) as data:
        wanted = rows(release)
        assert data["id"].tolist() == [row["frame_id"] for row in wanted]
        for i, row in enumerate(wanted):
            atoms = slice(data["offset"][i], data["offset"][i + 1])
            assert data["numbers"][atoms].tolist() == row["numbers"]
            assert data["positions"][atoms].tolist() == row["positions"]
            assert data["cell"][i].ravel().tolist() == row["cell"]
            assert data["pbc"][i].tolist() == row["pbc"]
            assert data["energy"][i] == row["energy"]
            if row["forces"] is None:
                assert np.isnan(data["forces"][atoms]).all()
                assert np.isnan(data["stress"][i]).all()
            else:
                assert data["forces"][atoms].tolist() == row["forces"]
                assert data["stress"][i].tolist() == row["stress"]


def check_rows(entries, wanted):
    for row, entry in zip(wanted, entries, strict=True):
        atoms = entry.toatoms()
        assert entry.frame_id == row["frame_id"]
        assert entry.step == row["step"]
        assert entry.get("user") is None
        assert atoms.numbers.tolist() == row["numbers"]
        assert atoms.positions.tolist() == row["positions"]
        assert atoms.cell.array.ravel().tolist() == row["cell"]
        assert atoms.calc.results["energy"] == row["energy"]
        for name in ("forces", "stress", "magmoms"):
            assert (name in atoms.calc.results) == (row[name] is not None)
            if row[name] is not None:
                assert atoms.calc.results[name].tolist() == row[name]


def test_ase_db_holds_every_number_and_no_user(release, tmp_path, monkeypatch):
    monkeypatch.setenv("USER", "somebody")
    written = export_one(release, tmp_path, "ase-db")
    with connect(written.path) as database:
        check_rows(database.select(), rows(release))
    assert b"somebody" not in written.path.read_bytes()


def test_texts_that_ase_db_refuses_stand_in_its_data(tmp_path):
    row = synthetic_campaign.calculation_row(synthetic_campaign.CANDIDATES[0], "PBE", "t1-00000000")
    table = tables.from_rows("calculations", [row | {"candidate_id": "0012"}])
    exports_ase.database(tmp_path / "a.db", iter([table]))
    with connect(tmp_path / "a.db") as database:
        (entry,) = database.select()
        assert entry.data == {"candidate_id": "0012"}
        assert entry.calculation_id == row["calculation_id"]


def test_lmdb_holds_rows_of_ase_under_the_keys_of_its_readers(release, tmp_path):
    """The layout of `.aselmdb`: rows 1, 2, ... and `nextid`, each ASE's JSON under zlib."""
    lmdb = pytest.importorskip("lmdb")
    written = export_one(release, tmp_path, "lmdb")
    again = export_one(release, tmp_path / "again", "lmdb")
    assert written.path.read_bytes() == again.path.read_bytes()
    with (
        lmdb.open(str(written.path), subdir=False, readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        raw = {key.decode(): decode(zlib.decompress(value).decode()) for key, value in transaction.cursor()}
    number = raw.pop("nextid") - 1
    assert number == len(rows(release))
    assert set(raw) == {str(i + 1) for i in range(number)}
    entries = [AtomsRow(raw[str(i + 1)] | {"id": i + 1}) for i in range(number)]
    check_rows(entries, rows(release))


def test_lmdb_is_read_by_the_package_that_defines_it(release, tmp_path):
    pytest.importorskip("lmdb")
    aselmdb = pytest.importorskip("ase_db_backends.aselmdb")
    database = aselmdb.LMDBDatabase(export_one(release, tmp_path, "lmdb").path, readonly=True)
    check_rows(database.select(), rows(release))


def test_lmdb_without_its_package_says_what_to_install(release, tmp_path, monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "lmdb", None)
    assert cli.main(["export", str(release), "--format", "lmdb", "--out", str(tmp_path / "o")]) == 2
    assert "pip install lmdb" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_json_comes_back_through_our_importer_and_through_pymatgen(release, tmp_path):
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    written = export_one(release, tmp_path, "json", kind=Kind.STRUCTURES)
    wanted = {row["calculation_id"]: row for row in rows(release, name="calculations")}
    hull = {row["calculation_id"]: row for row in rows(release, name="hull")}
    found = list(Alexandria().read(str(written.path)))
    assert {item.id for item in found} == set(wanted)
    for item in found:
        row = wanted[item.id]
        assert isinstance(item, Found)
        assert item.energy == row["energy"] / row["nsites"]
        assert item.structure.positions == row["positions"]
        assert item.structure.cell == row["cell"]
        assert item.structure.numbers == row["numbers"]
        assert item.formation_energy == hull[item.id]["formation_energy_per_atom"]
        assert item.e_above_hull == hull[item.id]["e_above_hull"]
    for given in json.loads(written.path.read_text())["entries"]:
        entry = ComputedStructureEntry.from_dict(given)
        row = wanted[entry.entry_id]
        assert entry.energy == row["energy"]
        assert entry.composition.reduced_composition.get_el_amt_dict()
        np.testing.assert_allclose(entry.structure.cart_coords, row["positions"], atol=1e-12)
        assert entry.structure.site_properties["forces"] == row["forces"]
        assert entry.structure.lattice.matrix.ravel().tolist() == row["cell"]
        assert given["data"]["spg"] > 0


def test_a_corrected_entry_has_its_adjustment_and_both_energies():
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    from hullforge.release import exports_json

    row = synthetic_campaign.calculation_row(synthetic_campaign.CANDIDATES[3], "PBE", "t1-00000000")
    row |= {
        "correction_scheme": "MP2020",
        "energy_correction_per_atom": -0.25,
        "hubbards": [{"element": "Cu", "U": 3.0}],
    }
    row |= {"formation_energy_per_atom": -0.1, "e_above_hull": 0.0}
    given = exports_json.entry(row, 221)
    entry = ComputedStructureEntry.from_dict(given)
    assert entry.uncorrected_energy == row["energy"]
    assert entry.energy == row["energy"] - 0.5 == given["data"]["energy_corrected"]
    assert given["parameters"]["hubbards"] == {"Cu": 3.0}


def test_free_energies_take_the_place_of_energies_where_asked(release, tmp_path):
    written = export_one(release, tmp_path, "mace", energy=Energy.FREE)
    wanted = [row for row in rows(release) if row["free_energy"] is not None]
    read = ase.io.read(written.path, index=":")
    assert [atoms.info["REF_energy"] for atoms in read] == [row["free_energy"] for row in wanted]
    assert written.left_out == {"no free_energy": len(rows(release)) - len(wanted)}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--format", "mace", "--functional", "PBEsol"], "PBE, SCAN"),
        (["--format", "json", "--rows", "frames"], "--rows structures"),
        (["--format", "mace", "--split", "half"], "train, validation, test"),
    ],
)
def test_a_wish_that_cannot_be_met_is_one_clear_error(release, tmp_path, capsys, arguments, word):
    assert cli.main(["export", str(release), *arguments, "--out", str(tmp_path / "o")]) == 2
    assert word in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_the_command_says_what_it_wrote(release, tmp_path, capsys):
    assert cli.main(["export", str(release), "--format", "nequip", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert "left out: no forces" in said[0]
