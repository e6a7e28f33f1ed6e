"""Harvest: relaxed structures near the hull with a new label become prototypes, and nothing else does."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from hullforge.config import Harvest, HarvestSettings, Prototypes, PrototypeTable
from hullforge.crystals import harvest, prototypes
from hullforge.errors import TableError
from hullforge.store import tables
from hullforge.store.schema import TABLES
from hullforge.store.structures import row_from_atoms

HALITE = bulk("NaCl", "rocksalt", a=5.64)
CSCL = bulk("CsCl", "cesiumchloride", a=4.1)
LONG = Atoms("CsCl", cell=np.diag([4.0, 4.0, 4.6]), scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5)], pbc=True)
OVERLAPPING = Atoms("NaCl", cell=np.eye(3) * 4, positions=[[0, 0, 0], [0, 0, 0.05]], pbc=True)


def blank(name):
    def value(column):
        kind = str(column.type)
        if column.null:
            return None
        if kind.startswith("fixed_size_list"):
            return [0] * column.type.list_size
        return [] if kind.startswith(("list", "map")) else {"string": "", "bool": False}.get(kind, 0)

    return {column.name: value(column) for column in TABLES[name].columns}


class Round:
    """Structures with ids, distances to the hull and a table of prototypes that knows rock salt."""

    def __init__(self, folder, structures):
        self.folder = folder
        known = prototypes.compile_structure(HALITE, "Halite", "aflow")
        tables.write(folder / "prototypes.parquet", "prototypes", [known.row()])
        calculations, hull = [], []
        for name, atoms, distance in structures:
            row = (
                blank("calculations")
                | row_from_atoms(atoms)
                | {"calculation_id": name, "round": 3, "functional": "PBE"}
            )
            calculations.append({key: row[key] for key in blank("calculations")})
            placed = {"calculation_id": name, "e_above_hull": distance, "functional": "PBE"}
            hull.append(blank("hull") | placed)
        tables.write(folder / "calculations.parquet", "calculations", calculations)
        tables.write(folder / "hull.parquet", "hull", hull)

    def run(self, out="out", **table):
        settings = HarvestSettings(prototypes=PrototypeTable(**table), harvest=Harvest(enabled=True))
        paths = {name: self.folder / f"{name}.parquet" for name in ("calculations", "hull", "prototypes")}
        out, rejects = self.folder / f"{out}.parquet", self.folder / f"{out}-rejects.parquet"
        harvest.run(settings, paths["prototypes"], [paths["calculations"]], paths["hull"], out, rejects)
        return prototypes.load(out), tables.read_rows(rejects, "rejects")


def test_new_labels_near_the_hull_become_prototypes(tmp_path, caplog):
    squeezed = HALITE.copy()
    squeezed.set_cell(squeezed.cell * 0.9, scale_atoms=True)
    campaign = Round(tmp_path, [
        ("k1-c", CSCL, 0.0), ("k1-b", CSCL, 0.09), ("k1-d", LONG, 0.2), ("k1-e", LONG, None),
        ("k1-f", squeezed, 0.0), ("k1-g", OVERLAPPING, 0.05),
    ])  # fmt: skip
    found, rejects = campaign.run()
    before = {p.prototype_id: p.row() for p in prototypes.load(tmp_path / "prototypes.parquet")}
    assert {p.prototype_id: p.row() for p in found if p.name == "Halite"} == before
    [new] = [p for p in found if p.name != "Halite"]
    assert new.protostructure == prototypes.compile_structure(CSCL, "", "").protostructure
    assert new.prototype_id == prototypes.compile_structure(CSCL, "", "").prototype_id
    # Of equal ones the smallest calculation id, and the source says where it comes from.
    assert (new.name, new.source) == ("ClCs (k1-b)", "round 3, k1-b")
    [reject] = rejects
    assert reject["name"] == "ClNa (k1-g)"
    assert "coincide" in reject["reason"]
    assert "1 structures near the hull can't be prototypes" in caplog.text


def test_small_distortions_of_known_prototypes_are_not_new(tmp_path):
    rattled = HALITE.copy()
    rattled.positions[1] += [0.02, 0.01, 0.0]
    found, _ = Round(tmp_path, [("k1-a", rattled, 0.0)]).run()
    assert [p.name for p in found] == ["Halite"]


@pytest.mark.parametrize(
    "filters",
    [{"nspecies": (1, 3)}, {"max_sites": 1}, {"space_groups": (225,)}, {"exclude": ("AB_cP2_221_a_b",)}],
)
def test_the_filters_of_the_table_hold_for_the_harvest(tmp_path, filters):
    found, rejects = Round(tmp_path, [("k1-a", CSCL, 0.0)]).run(**filters)
    assert [p.name for p in found] == ["Halite"]
    assert not rejects


def test_the_same_tables_give_the_same_bytes(tmp_path):
    campaign = Round(tmp_path, [("k1-c", CSCL, 0.0), ("k1-d", LONG, 0.0), ("k1-g", OVERLAPPING, 0.0)])
    campaign.run("one")
    campaign.run("two")
    for ending in (".parquet", "-rejects.parquet"):
        assert (tmp_path / f"one{ending}").read_bytes() == (tmp_path / f"two{ending}").read_bytes()


def test_without_anything_near_the_table_stays_as_it_was(tmp_path):
    Round(tmp_path, [("k1-c", CSCL, 0.3)]).run()
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "prototypes.parquet").read_bytes()


def test_absent_tables_are_named(tmp_path):
    campaign = Round(tmp_path, [("k1-c", CSCL, 0.0)])
    (tmp_path / "hull.parquet").unlink()
    with pytest.raises(TableError, match=r"hull.parquet: no such file"):
        campaign.run()


def test_the_table_of_a_round_is_the_latest_that_was_made(tmp_path):
    for name in ("prototypes.parquet", "round-002/prototypes.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [tables.prototypes_of(tmp_path / f"round-{number:03d}") for number in range(4)]
    assert [path.parent.name for path in found] == [tmp_path.name] * 2 + ["round-002"] * 2


def test_a_harvest_is_off_unless_asked_for():
    assert not Prototypes().harvest.enabled
