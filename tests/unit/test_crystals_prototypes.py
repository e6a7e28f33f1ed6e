"""Compilation of prototypes: labels, species order, shell graphs, automorphisms, and what is refused."""

import itertools
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ase import Atoms
from ase.build import bulk, graphene, make_supercell, mx2
from ase.io import write
from ase.spacegroup import crystal
from pydantic import ValidationError

from hullforge.config import Prototypes, PrototypesSettings
from hullforge.crystals import decorations, geometry, matching, prototypes, shells
from hullforge.crystals.decorations import Decorations
from hullforge.errors import PrototypeError
from hullforge.store import tables
from hullforge.store.structures import SYMBOLS

QUATERNARY_HEUSLER = crystal(
    ["Li", "Mg", "Pd", "Sn"], [(0, 0, 0), (0.5, 0.5, 0.5), (0.25,) * 3, (0.75,) * 3], spacegroup=216, cellpar=[6.5] * 3 + [90] * 3
)  # fmt: skip
FLUORITE = bulk("CaF2", "fluorite", a=5.46)
MOS2 = mx2("MoS2", vacuum=7.5)
MOS2.pbc = (True, True, False)


def compiled(atoms, name="test", symprec=0.01):
    return prototypes.compile_structure(atoms, name, "test", symprec)


def settings(**keys):
    return PrototypesSettings(prototypes=Prototypes(**{"library": "none", **keys}))


def test_species_follow_the_letters_of_the_label():
    fluorite = compiled(FLUORITE)
    assert fluorite.protostructure == "AB2_cF12_225_a_c"
    assert fluorite.species_counts.tolist() == [1, 2]
    # Species 0 is at a, the cube's corners: cations in fluorite, anions in antifluorite.
    atoms = decorations.decorate(fluorite, ("Si", "Mg"))
    assert atoms.get_chemical_formula("reduce") in {"Mg2Si", "SiMg2"}
    assert fluorite.automorphisms == ((0, 1),)
    assert compiled(bulk("BaF2", "fluorite", a=6.2)).prototype_id == fluorite.prototype_id


def test_species_order_does_not_follow_the_alphabet():
    anti = Atoms("SiMg2", cell=FLUORITE.cell, positions=FLUORITE.positions, pbc=True)
    first, second = compiled(anti), compiled(FLUORITE)
    assert first.prototype_id == second.prototype_id
    assert np.array_equal(first.site_species, second.site_species)


def test_the_species_with_fewer_sites_comes_first_whatever_its_letters():
    sites = [(1 / 3, 2 / 3, 0.246), (0, 0, 0), (1 / 3, 2 / 3, 0.647)]
    lanthana = crystal(["La", "O", "O"], sites, spacegroup=164, cellpar=[3.94, 3.94, 6.13, 90, 90, 120])
    prototype = compiled(lanthana)
    assert prototype.protostructure == "A2B3_hP5_164_d_ad"
    assert prototype.species_counts.tolist() == [2, 3]


def test_the_graph_orders_species_where_the_label_does_not():
    def boride(first, second):
        sites = [(0.18, 0.25, 0.125), (0.036, 0.25, 0.61)]
        return crystal([first, second], sites, spacegroup=62, cellpar=[5.51, 2.95, 4.06, 90, 90, 90])

    prototype, renamed = compiled(boride("Fe", "B")), compiled(boride("B", "Fe"))
    assert prototype.protostructure == "AB_oP8_62_c_c"
    assert prototype.automorphisms == ((0, 1),)
    assert prototype.prototype_id == renamed.prototype_id
    assert prototype.edge_weight.tolist() == renamed.edge_weight.tolist()
    assert prototype.class_species.tolist() == renamed.class_species.tolist()


@pytest.mark.parametrize(
    ("structure", "label"),
    [("rocksalt", "AB_cF8_225_a_b"), ("cesiumchloride", "AB_cP2_221_a_b"), ("zincblende", "AB_cF8_216_a_c")],
)
def test_exchanging_the_species_of_simple_binaries_gives_the_same_crystal(structure, label):
    prototype = compiled(bulk("NaCl", structure, a=5.0))
    assert prototype.protostructure == label
    assert prototype.automorphisms == ((0, 1), (1, 0))
    assert Decorations(prototype, SYMBOLS[1:84]).count == 83 * 82 // 2


def test_quaternary_heusler_has_three_distinct_of_24_decorations():
    prototype = compiled(QUATERNARY_HEUSLER)
    assert len(prototype.automorphisms) == 8
    assert Decorations(prototype, SYMBOLS[1:5]).count == 3
    # The diagonal planes pair {Li, Mg} and {Pd, Sn}: which element is whose partner is all that distinguishes.
    partners = {
        frozenset(map(frozenset, _partners(prototype, decorations.canonical(prototype, order))))
        for order in itertools.permutations(("Li", "Mg", "Pd", "Sn"))
    }
    assert len(partners) == 3


def _partners(prototype, elements):
    """Elements half a cell diagonal apart, from coordinates alone."""
    atoms = decorations.decorate(prototype, elements, 15.0)
    scaled = atoms.get_scaled_positions()
    for i, j in itertools.combinations(range(4), 2):
        difference = (scaled[j] - scaled[i]) % 1
        if np.allclose(np.abs(difference - 0.5), 0, atol=1e-6):
            yield atoms.symbols[i], atoms.symbols[j]


@pytest.mark.parametrize("atoms", [FLUORITE, QUATERNARY_HEUSLER, bulk("ZnS", "wurtzite", a=3.8, c=6.3), MOS2])
def test_weights_sum_to_24_for_every_class_and_multiplicities_to_the_sites(atoms):
    prototype = compiled(atoms)
    assert np.bincount(prototype.edge_source, prototype.edge_weight) == pytest.approx(24)
    assert prototype.class_multiplicity.sum() == prototype.nsites
    assert np.array_equal(np.bincount(prototype.site_class), prototype.class_multiplicity)
    assert np.array_equal(prototype.class_species[prototype.site_class], prototype.site_species)


def test_edges_are_balanced_in_both_directions_where_no_shell_is_cut():
    prototype = compiled(FLUORITE)
    whole = {
        (s, t): w
        for s, t, shell, w in zip(
            prototype.edge_source,
            prototype.edge_target,
            prototype.edge_shell,
            prototype.edge_weight,
            strict=True,
        )
        if shell == 0
    }
    # A cation has 8 anions nearby, an anion 4 cations; there are two anions for each cation.
    assert whole == {(0, 1): 8, (1, 0): 4}


def test_the_cut_shell_is_weighted_in_part():
    # fcc: 12 + 6 + 24; of the third shell 6 of 24 count.
    prototype = compiled(bulk("Cu"))
    assert prototype.edge_weight.tolist() == [12, 6, 6]


def test_layers_have_no_neighbours_across_the_vacuum():
    prototype = compiled(MOS2)
    assert prototype.pbc.sum() == 2
    near = MOS2.copy()
    near.cell[2] = near.cell[2] * 0.6
    near.positions[:, 2] -= near.positions[:, 2].mean() - near.cell[2, 2] / 2
    assert compiled(near).prototype_id == prototype.prototype_id
    split = MOS2.copy()
    split.positions[:, 2] -= MOS2.positions[0, 2]
    split.wrap(pbc=True)
    assert compiled(split).prototype_id == prototype.prototype_id
    periodic = near.copy()
    periodic.pbc = True
    assert compiled(periodic).pbc.all()


@pytest.mark.parametrize("kind", ["2H", "1T"])
@pytest.mark.parametrize("height", [0.0, 0.13, 0.5, 0.9])
@pytest.mark.parametrize("tilt", [0.0, 0.7])
def test_layers_stay_whole_at_any_height_and_tilt_of_the_vacuum(kind, height, tilt):
    layer = mx2("MoS2", kind=kind, vacuum=7.5)
    layer.pbc = (True, True, False)
    prototype = compiled(layer)
    moved = layer.copy()
    moved.positions[:, 2] += height * layer.cell[2, 2]
    moved.cell[2] += tilt * moved.cell[0]
    moved.wrap(pbc=True)
    other = compiled(moved)
    assert other.prototype_id == prototype.prototype_id
    for found in (prototype, other):
        (across,) = np.flatnonzero(~found.pbc)
        assert np.ptp(found.positions[:, across]) == pytest.approx(np.ptp(layer.positions[:, 2]))


def test_graphene_is_a_prototype_of_one_class():
    sheet = graphene(vacuum=8)
    sheet.pbc = (True, True, False)
    prototype = compiled(sheet)
    assert prototype.class_multiplicity.tolist() == [2]
    assert prototype.edge_weight.tolist()[0] == 3


def test_chains_are_prototypes_wherever_their_axis_lies():
    chain = Atoms(
        "SnSe", cell=[12.0, 13.0, 5.0], positions=[[6, 6, 0], [7, 6, 2.5]], pbc=(False, False, True)
    )
    turned = Atoms(
        "SnSe", cell=[5.0, 30.0, 20.0], positions=[[0, 29.5, 6], [2.5, 0.5, 6]], pbc=(True, False, False)
    )
    first, second = compiled(chain), compiled(turned)
    assert first.prototype_id == second.prototype_id
    assert first.pbc.sum() == second.pbc.sum() == 1
    assert first.edge_weight.tolist() == second.edge_weight.tolist()
    assert first.automorphisms == second.automorphisms == ((0, 1), (1, 0))


def test_a_dimer_in_a_box_is_a_prototype():
    prototype = compiled(Atoms("CO", cell=[9, 8, 7], positions=[[4, 4, 3], [4, 4, 4.1]]))
    assert (prototype.nsites, prototype.nspecies, prototype.pbc.any()) == (2, 2, False)
    assert prototype.edge_weight.tolist() == [1, 1]
    assert prototype.automorphisms == ((0, 1), (1, 0))
    atoms = decorations.decorate(prototype, ("Li", "F"))
    assert geometry.shortest_distance_ratio(
        atoms.numbers, atoms.cell.array, atoms.positions, atoms.pbc
    ) == pytest.approx(1)
    assert (atoms.cell.lengths() >= decorations.VACUUM).all()
    with pytest.raises(PrototypeError, match="has no neighbours"):
        compiled(Atoms("C", cell=[9, 9, 9]))


def test_two_layers_in_one_cell_are_refused():
    both = MOS2.repeat((1, 1, 2))
    both.pbc = (True, True, False)
    with pytest.raises(PrototypeError, match="a single layer"):
        compiled(both)


def test_few_neighbours_are_all_taken():
    graph = shells.shell_graph(
        np.eye(3) * 9, np.array([[0, 0, 0], [0, 0, 1.0], [0, 0, 2.0]]), np.zeros(3, dtype=bool)
    )
    assert np.bincount(graph.source, graph.weight).tolist() == [2, 2, 2]


def test_a_dimer_in_a_box_without_periodicity_has_one_neighbour_each():
    positions = np.array([[0.2, 0.1, 8.9], [0.2, 0.1, 10.0]])
    graph = shells.shell_graph(np.eye(3) * 9, positions, np.zeros(3, dtype=bool))
    for species, classes in (([0, 0], [[1], [2]]), ([0, 1], [[1, 1], [1, 1]])):
        parts = shells.partition(graph, np.array(species))
        assert [parts.edge_weight.tolist(), parts.class_multiplicity.tolist()] == classes
        assert parts.edge_shell.tolist() == [0] * len(parts.edge_weight)


def test_positions_are_not_wrapped_along_axes_without_periodicity():
    positions = np.array([[0, 0, 0.1], [0, 0, 9.5], [0, 0, 12.0]])
    graph = shells.shell_graph(np.eye(3) * 9, positions, np.zeros(3, dtype=bool))
    nearest = graph.target[(graph.source == 1) & (graph.shell == 0)]
    assert nearest.tolist() == [2]


def test_the_table_gives_back_what_was_written(tmp_path):
    write(tmp_path / "MgO.extxyz", bulk("MgO", "rocksalt", a=4.2))
    write(tmp_path / "CaF2.cif", FLUORITE)
    write(tmp_path / "POSCAR-heusler", QUATERNARY_HEUSLER, format="vasp", sort=True)
    write(tmp_path / "layer.extxyz", MOS2)
    (tmp_path / "README.md").write_text("where these come from")
    out, again = tmp_path.parent / "first.parquet", tmp_path.parent / "second.parquet"
    wanted = settings(folder=tmp_path, nspecies=(1, 2, 3, 4))
    rejects = tmp_path.parent / "rejects.parquet"
    prototypes.build(wanted, out, rejects)
    prototypes.build(wanted, again, rejects)
    assert out.read_bytes() == again.read_bytes()
    assert tables.read_rows(rejects, "rejects") == []
    read = prototypes.load(out)
    assert [p.prototype_id for p in read] == sorted(p.prototype_id for p in read)
    assert {p.source for p in read} == {"MgO.extxyz", "CaF2.cif", "POSCAR-heusler", "layer.extxyz"}
    for written, back in zip(prototypes.collect(wanted), read, strict=True):
        assert written.row() == back.row()


def test_equal_prototypes_are_kept_once_the_first_by_name(tmp_path):
    write(tmp_path / "b-periclase.extxyz", bulk("MgO", "rocksalt", a=4.2))
    write(tmp_path / "a-halite.extxyz", bulk("NaCl", "rocksalt", a=5.6))
    (kept,) = prototypes.collect(settings(folder=tmp_path))
    assert kept.name == "a-halite"


def test_all_broken_files_are_named_at_once_with_their_cause(tmp_path):
    write(tmp_path / "good.cif", FLUORITE)
    (tmp_path / "broken.cif").write_text("data_x\n_cell_length_a oops\n")
    (tmp_path / "notes.docx").write_text("?")
    overlapping = Atoms("NaCl", cell=np.eye(3) * 4, positions=[[0, 0, 0], [0, 0, 0.05]], pbc=True)
    write(tmp_path / "overlapping.extxyz", overlapping)
    write(tmp_path / "molecule.xyz", Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.1]]))
    (tmp_path / "disordered.cif").write_text(_DISORDERED)
    with pytest.raises(PrototypeError) as caught:
        prototypes.collect(settings(folder=tmp_path, nspecies=(1, 2, 3)))
    message = str(caught.value)
    for name in ("broken.cif", "notes.docx", "overlapping.extxyz", "molecule.xyz", "disordered.cif"):
        assert name in message
    assert "good.cif" not in message
    assert "coincide" in message
    assert "molecule.xyz: molecule: the cell has no volume" in message
    assert "shared by several elements" in message
    assert "set prototypes.rejects to record to go on without them" in message


def test_broken_files_are_recorded_where_that_is_asked_for(tmp_path, caplog):
    folder = tmp_path / "mine"
    folder.mkdir()
    write(folder / "good.cif", FLUORITE)
    (folder / "broken.cif").write_text("data_x\n_cell_length_a oops\n")
    molecule = Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.1]])
    write(folder / "two.extxyz", [bulk("MgO", "rocksalt", a=4.2), molecule])
    out, rejects = tmp_path / "prototypes.parquet", tmp_path / "rejects.parquet"
    prototypes.build(settings(folder=folder, rejects="record"), out, rejects)
    assert {p.name for p in prototypes.load(out)} == {"good", "two-1"}
    rows = tables.read_rows(rejects, "rejects")
    assert [(row["source"], row["name"]) for row in rows] == [
        ("broken.cif", "broken"),
        ("two.extxyz", "two-2"),
    ]
    assert "the cell has no volume" in rows[1]["reason"]
    assert "2 unusable structures are left out" in caplog.text
    assert "broken.cif" in caplog.text


def test_the_folder_may_be_one_file_and_the_file_a_table(tmp_path):
    write(tmp_path / "CaF2.cif", FLUORITE)
    write(tmp_path / "MgO.extxyz", bulk("MgO", "rocksalt", a=4.2))
    write(tmp_path / "layer.extxyz", MOS2)
    (alone,) = prototypes.collect(settings(folder=tmp_path / "CaF2.cif"))
    assert alone.name == "CaF2"
    known = prototypes.collect(settings(folder=tmp_path))
    prototypes.build(settings(folder=tmp_path), tmp_path / "known.parquet", tmp_path / "rejects.parquet")
    again = prototypes.collect(settings(folder=tmp_path / "known.parquet"))
    assert [(p.prototype_id, p.name) for p in again] == [(p.prototype_id, p.name) for p in known]
    assert {p.source for p in again} == {"known.parquet"}
    assert [p.pbc.tolist() for p in again] == [p.pbc.tolist() for p in known]


def test_tables_of_structures_are_prototypes_named_by_their_ids(tmp_path):
    atoms = [FLUORITE, bulk("MgO", "rocksalt", a=4.2)]
    columns = {
        "numbers": [a.numbers.tolist() for a in atoms],
        "cell": [a.cell.array.ravel().tolist() for a in atoms],
        "positions": [a.positions.tolist() for a in atoms],
        "pbc": [[True] * 3] * 2,
    }
    path = tmp_path / "mine.parquet"
    pq.write_table(pa.table(columns | {"structure_id": ["one", "two"]}), path)
    assert {p.name for p in prototypes.collect(settings(folder=path))} == {"one", "two"}
    pq.write_table(pa.table(columns), path)
    assert {p.name for p in prototypes.collect(settings(folder=path))} == {"mine-1", "mine-2"}
    del columns["numbers"], columns["pbc"]
    pq.write_table(pa.table(columns), path)
    with pytest.raises(
        PrototypeError, match=r"mine.parquet: mine: the table lacks the columns site_species, pbc"
    ):
        prototypes.collect(settings(folder=path))


def test_space_groups_are_a_filter(tmp_path):
    write(tmp_path / "CaF2.cif", FLUORITE)
    write(tmp_path / "layer.extxyz", MOS2)
    (kept,) = prototypes.collect(settings(folder=tmp_path, space_groups=(1, 225)))
    assert kept.name == "CaF2"
    with pytest.raises(
        PrototypeError, match=r"no prototype is left of 2: .* of space groups 230 are asked for"
    ):
        prototypes.collect(settings(folder=tmp_path, space_groups=(230,)))
    for wrong in (0, 231):
        with pytest.raises(ValidationError, match="space_groups"):
            settings(folder=tmp_path, space_groups=(wrong,))


_DISORDERED = """data_alloy
_cell_length_a 3.6
_cell_length_b 3.6
_cell_length_c 3.6
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Cu1 Cu 0 0 0 0.5
Au1 Au 0 0 0 0.5
"""


def test_a_folder_that_is_absent_or_empty_is_an_error(tmp_path):
    with pytest.raises(PrototypeError, match="is neither a folder nor a file"):
        prototypes.collect(settings(folder=tmp_path / "nowhere"))
    with pytest.raises(PrototypeError, match="holds no structure"):
        prototypes.collect(settings(folder=tmp_path))


def test_filters_that_leave_nothing_are_an_error(tmp_path):
    write(tmp_path / "CaF2.cif", FLUORITE)
    with pytest.raises(PrototypeError, match="no prototype is left of 1"):
        prototypes.collect(settings(folder=tmp_path, max_sites=2))
    with pytest.raises(PrototypeError, match="no prototype is left"):
        prototypes.collect(settings(folder=tmp_path, nspecies=(4,)))


def test_prototypes_are_excluded_by_label_name_or_id(tmp_path):
    write(tmp_path / "CaF2.cif", FLUORITE)
    write(tmp_path / "MgO.extxyz", bulk("MgO", "rocksalt", a=4.2))
    for name in ("AB2_cF12_225_a_c", "CaF2", compiled(FLUORITE).prototype_id):
        (left,) = prototypes.collect(settings(folder=tmp_path, exclude=(name,)))
        assert left.name == "MgO"
    with pytest.raises(
        PrototypeError, match="no prototype is called 'AB2_cF12_225_a_b'; did you mean 'AB2_cF12_225_a_c'"
    ):
        prototypes.collect(settings(folder=tmp_path, exclude=("AB2_cF12_225_a_b",)))


def test_labels_of_decorated_structures_are_those_of_their_prototypes():
    atoms = decorations.decorate(compiled(FLUORITE), ("Si", "Mg"))
    assert matching.protostructure_label(atoms) == "AB2_cF12_225_a_c"
    assert matching.space_group_number(atoms) == 225
    atoms.rattle(0.2, seed=1)
    assert matching.space_group_number(atoms) == 1
    assert matching.protostructure_label(atoms) != "AB2_cF12_225_a_c"


def test_no_label_where_symmetry_fails():
    overlapping = Atoms("Na2", cell=np.eye(3) * 4, positions=[[0, 0, 0], [0, 0, 1e-5]], pbc=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert matching.protostructure_label(overlapping) is None
        assert matching.space_group_number(overlapping) is None
    for broken in (
        Atoms("Na", positions=[[np.nan, 0, 0]], cell=np.eye(3)),
        Atoms("Na"),
        Atoms(cell=np.eye(3)),
    ):
        assert matching.protostructure_label(broken) is None
        assert matching.space_group_number(broken) is None


def test_a_supercell_compiles_to_its_primitive_cell():
    doubled = make_supercell(FLUORITE, [[2, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert compiled(doubled).prototype_id == compiled(FLUORITE).prototype_id


def test_a_library_prototype_that_does_not_compile_is_skipped_and_counted(monkeypatch, caplog):
    from hullforge.crystals import sources

    bad = Atoms("NaCl", cell=np.eye(3) * 4, positions=[[0, 0, 0], [0, 0, 0.05]], pbc=True)
    entries = [
        sources.Entry("bad", "aflow", bad, is_library=True),
        sources.Entry("good", "aflow", FLUORITE, is_library=True),
    ]
    monkeypatch.setattr(sources, "aflow", lambda: entries)
    (kept,) = prototypes.collect(settings(library="aflow"))
    assert kept.name == "good"
    assert "1 library prototypes are left out: aflow: bad" in caplog.text
