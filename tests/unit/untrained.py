"""Untrained matgl potentials for Al and Cu, one per architecture: random weights, deterministic, made in a second."""

from pathlib import Path

ARCHITECTURES = ("TensorNet", "M3GNet", "CHGNet", "QET")
SMALL = {
    "TensorNet": {"units": 8, "nblocks": 1, "is_intensive": False, "cutoff": 5.0},
    "M3GNet": {"units": 8, "nblocks": 1, "dim_node_embedding": 8, "dim_edge_embedding": 8, "is_intensive": False},
    "CHGNet": {
        "dim_atom_embedding": 8, "dim_bond_embedding": 8, "dim_angle_embedding": 8, "atom_conv_hidden_dim": (8,),
        "bond_conv_hidden_dim": (8,), "angle_layer_hidden_dim": (),
    },
    "QET": {"units": 8, "nblocks": 1, "is_intensive": False, "cutoff": 5.0},
}  # fmt: skip


def save_all(folder: Path) -> dict[str, Path]:
    """Save one potential of each architecture below `folder`."""
    import torch
    from matgl import models
    from matgl.apps.pes import Potential

    folders = {}
    for name in ARCHITECTURES:
        torch.manual_seed(0)
        network = getattr(models, name)(element_types=("Al", "Cu"), **SMALL[name])
        # Untrained energies vary by a thousandth of an eV; forces and stresses must be large enough to be judged.
        potential = Potential(
            model=network,
            data_std=1000.0 if name == "M3GNet" else 100.0,
            element_refs=[-3.0, -4.0],
            calc_stresses=True,
            calc_charge=name == "QET",
        )
        folders[name] = folder / name.lower()
        potential.save(folders[name], metadata={"theory": "none: untrained"})
    return folders
