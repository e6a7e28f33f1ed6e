"""Data sets of matgl (4 or newer) from the files of this release: `frames` for potentials, `distances` for properties.

Comes in: the extended XYZ beside this file. Goes out: matgl's `MGLDataset`, in memory; nothing is written into the
folder of the release. Needs matgl and ASE, and nothing of the program that made the release.
"""

import tempfile
from pathlib import Path

import ase.io
from ase.units import GPa
from matgl.ext.pymatgen import Structure2Graph, get_element_list
from matgl.graph.data import MGLDataset
from pymatgen.io.ase import AseAtomsAdaptor

FOLDER = Path(__file__).parent / "extxyz"


def frames(functional, split="train", cutoff=5.0):
    """Give ionic steps of one side of the split (None: of all), with labels for a potential.

    Labels: `energies` (eV), `forces` (eV/angstrom), `stresses` (GPa, positive under tension, 3x3). Frames without forces
    or stress are left out. `cutoff`: of the graphs, angstrom.
    """
    found = [
        atoms
        for atoms in ase.io.read(FOLDER / f"frames-{functional}.extxyz", index=":")
        if split in (None, atoms.info["split"]) and {"forces", "stress"} <= set(atoms.calc.results)
    ]
    labels = {
        "energies": [atoms.get_potential_energy() for atoms in found],
        "forces": [atoms.get_forces().tolist() for atoms in found],
        "stresses": [(atoms.get_stress(voigt=False) / GPa).tolist() for atoms in found],
    }
    return _dataset(found, labels, cutoff)


def distances(functional, cutoff=5.0):
    """Give final structures with the label `e_above_hull` (eV/atom); those in no hull are left out."""
    found = [
        atoms
        for atoms in ase.io.read(FOLDER / f"structures-{functional}.extxyz", index=":")
        if "e_above_hull" in atoms.info
    ]
    return _dataset(found, {"e_above_hull": [atoms.info["e_above_hull"] for atoms in found]}, cutoff)


def _dataset(found, labels, cutoff):
    structures = [AseAtomsAdaptor.get_structure(atoms) for atoms in found]
    converter = Structure2Graph(element_types=get_element_list(structures), cutoff=cutoff)
    # matgl writes its settings in any case, and they don't belong to the release.
    elsewhere = tempfile.mkdtemp()
    return MGLDataset(
        structures=structures, labels=labels, converter=converter, save_cache=False, root=elsewhere
    )
