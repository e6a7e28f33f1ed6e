"""The whole AFLOW library: counts, classes, labels and automorphisms against published and independent ones."""

import numpy as np
import pytest

from hullforge.config import Prototypes, PrototypesSettings
from hullforge.crystals import decorations, prototypes
from hullforge.crystals.decorations import Decorations
from hullforge.store.structures import SYMBOLS


@pytest.fixture(scope="module")
def library():
    """All prototypes of the library with at most 32 sites, the set that published counts refer to."""
    return prototypes.collect(
        PrototypesSettings(prototypes=Prototypes(max_sites=32, nspecies=(1, 2, 3, 4, 5)))
    )


@pytest.mark.slow
def test_counts_of_the_library_are_the_published_ones(library):
    raw, distinct, ordered_twice = {}, {}, {}
    for prototype in library:
        k = prototype.nspecies
        raw[k] = raw.get(k, 0) + Decorations(prototype, SYMBOLS[1:84]).count * len(prototype.automorphisms)
        distinct[k] = distinct.get(k, 0) + Decorations(prototype, SYMBOLS[1:84]).count
        ordered_twice[k] = ordered_twice.get(k, 0) + (len(prototype.automorphisms) == 2)
    assert len(library) == 271
    assert raw == {1: 4067, 2: 1_157_020, 3: 24_256_584, 4: 308_720_160, 5: 3_484_127_520}
    assert distinct == {1: 4067, 2: 1_095_766, 3: 23_154_012, 4: 308_720_160, 5: 3_484_127_520}
    assert ordered_twice == {1: 0, 2: 18, 3: 4, 4: 0, 5: 0}


@pytest.mark.slow
def test_classes_of_the_library_are_the_published_ones(library):
    classes = [sum(len(p.class_species) for p in library if p.nspecies == k) for k in (1, 2, 3, 4, 5)]
    assert classes == [93, 483, 180, 36, 5]
    assert len({p.prototype_id for p in library}) == 271
    assert len({p.protostructure for p in library}) == 253
    # A decoration may be asked for by the name of its prototype.
    assert len({p.name for p in library}) == 271
    for prototype in library:
        assert np.bincount(prototype.edge_source, prototype.edge_weight) == pytest.approx(24)
        assert prototype.class_multiplicity.sum() == prototype.nsites


@pytest.mark.slow
def test_automorphisms_agree_with_symmetry_operations_of_the_undecorated_crystal(library):
    """An independent way: operations by spglib, with all species equal, instead of equal graphs."""
    differing = {p.name: p.automorphisms for p in library if _by_operations(p, 1e-3) != set(p.automorphisms)}
    # Exchanging the species of these two is no symmetry of the given coordinates, but of the order of their
    # shells: the decorations differ by a shift of free parameters that a relaxation undoes.
    assert differing == {"B20": ((0, 1), (1, 0)), "B_a": ((0, 1), (1, 0))}


def _by_operations(prototype, symprec):
    import spglib

    scaled = prototype.positions @ np.linalg.inv(prototype.cell)
    found = spglib.get_symmetry((prototype.cell, scaled, np.ones(prototype.nsites)), symprec=symprec)
    permutations = set()
    for rotation, translation in zip(found["rotations"], found["translations"], strict=True):
        difference = (scaled @ rotation.T + translation)[:, None] - scaled[None]
        difference -= np.round(difference)
        image = np.linalg.norm(difference @ prototype.cell, axis=-1).argmin(axis=1)
        onto = set(zip(prototype.site_species.tolist(), prototype.site_species[image].tolist(), strict=True))
        if len(onto) == prototype.nspecies:
            permutations.add(tuple(b for _, b in sorted(onto)))
    return permutations


@pytest.mark.slow
def test_labels_are_those_of_pymatgen(library):
    from pymatgen.analysis.prototypes import get_protostructure_label, get_prototype_from_protostructure
    from pymatgen.io.ase import AseAtomsAdaptor

    pool = ("Zr", "Al", "O", "Cs", "Fe")
    for prototype in library[::6]:
        structure = AseAtomsAdaptor.get_structure(decorations.decorate(prototype, pool[: prototype.nspecies]))
        label = get_protostructure_label(structure, "spglib", raise_errors=True, init_symprec=0.01)
        assert get_prototype_from_protostructure(label) == prototype.protostructure
