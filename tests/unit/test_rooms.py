"""The floors of the house: who may import whom."""

import ast

import pytest

from conftest import ROOT

SOURCE = ROOT / "src" / "hullforge"
GROUND = {"config", "errors", "sections", "store"}
ALLOWED = {
    "store": {"errors", "store"},
    "crystals": GROUND | {"crystals"},
    "thermo": GROUND | {"crystals", "thermo"},
    "screening": GROUND | {"crystals", "thermo", "screening"},
    "potentials": GROUND | {"crystals", "thermo", "potentials"},
    "dft": GROUND | {"crystals", "thermo", "dft"},
    "imports": GROUND | {"dft"} | {"crystals", "thermo", "imports"},
    "replay": GROUND | {"crystals", "thermo", "dft", "replay"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "hullforge":
                yield from (f"hullforge.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("room", ALLOWED)
def test_no_room_looks_up(room):
    for path in (SOURCE / room).rglob("*.py"):
        for name in imports(path):
            if name.startswith("hullforge."):
                assert name.split(".")[1] in ALLOWED[room] | {"__version__"}, f"{path.name} imports {name}"


def test_nothing_imports_snakemake():
    for path in SOURCE.rglob("*.py"):
        assert not [name for name in imports(path) if name.split(".")[0] == "snakemake"], path


def test_no_phase_diagram_but_our_own():
    """pymatgen's is what tests compare with; hulls are made in one place."""
    for path in SOURCE.rglob("*.py"):
        assert not [name for name in imports(path) if "phase_diagram" in name], path


def test_no_file_is_too_long():
    for path in SOURCE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 600, path
