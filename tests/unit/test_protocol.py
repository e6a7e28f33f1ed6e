"""Protocols as files, the theories they define, and what GPAW makes of them, without running it."""

from importlib import metadata

import numpy as np
import pytest

from hullforge.config import Engine
from hullforge.dft import protocol
from hullforge.dft.engines import base, gpaw
from hullforge.dft.step import Geometry, StepInput
from hullforge.errors import ConfigError, EngineError, ProtocolError

NAMES = ["alexandria", "emt", "laptop", "laptop-oxides"]
GPAW = Engine(name="gpaw", version="26.7.0", datasets="1.2.1")
ENGINE = gpaw.GpawEngine()


def crystal(*numbers):
    count = len(numbers)
    positions = [[2.0 * i, 0, 0] for i in range(count)]
    return Geometry(
        numbers=list(numbers), cell=[2.0 * count, 0, 0, 0, 4, 0, 0, 0, 4], positions=positions, pbc=[True] * 3
    )


@pytest.fixture
def installed(monkeypatch):
    """Pretend that some versions are installed, or that nothing is."""

    def pretend(**versions):
        def version(package):
            if package.replace("-", "_") not in versions:
                raise metadata.PackageNotFoundError(package)
            return versions[package.replace("-", "_")]

        monkeypatch.setattr(gpaw.metadata, "version", version)

    return pretend


@pytest.fixture
def everything(installed, monkeypatch):
    """Pretend that GPAW is installed with data sets of a few elements."""
    installed(gpaw="26.7.0", gpaw_data="1.2.1")
    names = {f"{x}.PBE" for x in ("Li", "Mg", "Al", "Si", "O", "Ni", "Fe")} | {"Mg.2.PBE"}
    monkeypatch.setattr(gpaw, "dataset_names", lambda: names)


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_protocol_has_the_shape_of_the_full_one(name):
    loaded = protocol.load(name)
    assert loaded.name == name
    assert list(loaded.functionals) == ["PBE", "PBEsol", "SCAN"]
    shape = {key: [step.kind for step in f.steps] for key, f in loaded.functionals.items()}
    assert shape == {"PBE": ["relax"] * 3, "PBEsol": ["relax", "static"], "SCAN": ["static"]}
    # SCAN is computed on the grid of the PBEsol static step, and its noisy forces are never asked for.
    scan, pbesol = loaded.functional("SCAN").steps[-1], loaded.functional("PBEsol").steps[-1]
    assert scan.kpoint_density == pbesol.kpoint_density
    assert not scan.forces


def test_the_list_above_is_complete():
    # A replay has no steps to share: it answers in one. The protocols of other projects have those projects' steps.
    others = ["matpes", "mp2020", "replay"]
    assert sorted(path.stem for path in protocol.FOLDER.glob("*.yaml")) == sorted([*NAMES, *others])


def test_a_rule_depends_on_one_engine_and_one_functional_alone():
    alexandria = protocol.load("alexandria")
    assert list(alexandria.only("PBE", "gpaw")["engines"]) == ["gpaw"]
    vasp = alexandria.only("SCAN", "vasp")["engines"]["vasp"]
    assert list(vasp["functionals"]) == ["SCAN"]
    with pytest.raises(
        ProtocolError, match=r"engines.vasp has no settings for the functional 'RPBE'; it has PBE, P"
    ):
        alexandria.settings("vasp", "RPBE")


def test_an_engine_may_have_limits_of_its_own():
    alexandria = protocol.load("alexandria")
    theirs = {step.name: (step.fmax, step.max_ionic_steps) for step in alexandria.steps("PBE", "vasp")}
    assert theirs == {f"relax{n}": (0.005, 250) for n in (1, 2, 3)}
    assert alexandria.steps("PBE", "gpaw")[0].fmax == 0.02


def test_limits_of_a_step_that_is_not_there_are_refused():
    data = protocol.load("alexandria").model_dump()
    data["engines"]["vasp"]["functionals"]["SCAN"]["steps"]["relax"] = {"limits": {"fmax": 0.1}}
    with pytest.raises(
        ProtocolError, match=r"engines.vasp.functionals.SCAN.steps names relax; .* are static"
    ):
        protocol.Protocol.model_validate(data).steps("SCAN", "vasp")


def test_a_replay_is_one_answer_whose_forces_nobody_knows():
    functionals = protocol.load("replay").functionals.values()
    assert {(step.kind, step.forces) for f in functionals for step in f.steps} == {("static", False)}
    assert {len(f.steps) for f in functionals} == {1}


def test_the_published_protocol_has_the_published_numbers():
    full = protocol.load("alexandria")
    assert [s.kpoint_density for f in full.functionals.values() for s in f.steps] == [1000] * 3 + [
        2000,
        8000,
        8000,
    ]
    assert full.functional("PBE").steps[-1].fmax == 0.005
    assert full.functional("PBE").hubbard_u.values["Fe"] == 5.3
    assert full.functional("PBEsol").hubbard_u is None
    assert full.spin == "ferromagnetic"


def test_theories_of_functionals_and_protocols_differ():
    ids = [
        protocol.load(name).theory_id(functional, GPAW)
        for name in ("alexandria", "laptop", "laptop-oxides")
        for functional in ("PBE", "PBEsol", "SCAN")
    ]
    assert len(set(ids)) == 9


def test_words_and_patience_are_no_physics():
    loaded = protocol.load("laptop")
    pbe = loaded.functional("PBE")
    steps = tuple(step.model_copy(update={"description": "x", "max_ionic_steps": 7}) for step in pbe.steps)
    edited = loaded.model_copy(
        update={
            "description": "x",
            "functionals": {**loaded.functionals, "PBE": pbe.model_copy(update={"steps": steps})},
        }
    )
    assert edited.theory_id("PBE", GPAW) == loaded.theory_id("PBE", GPAW)


@pytest.mark.parametrize(
    "change", [{"smearing_ev": 0.2}, {"spin": "ferromagnetic"}, {"engines": {"gpaw": {"ecut": 301}}}]
)
def test_what_changes_energies_changes_the_theory(change):
    loaded = protocol.load("laptop")
    assert loaded.model_copy(update=change).theory_id("PBE", GPAW) != loaded.theory_id("PBE", GPAW)


def test_another_version_is_another_theory():
    loaded = protocol.load("laptop")
    other = GPAW.model_copy(update={"version": "26.8.0"})
    assert loaded.theory_id("PBE", other) != loaded.theory_id("PBE", GPAW)


def test_a_protocol_that_is_nowhere_is_named_with_those_that_are():
    with pytest.raises(ProtocolError, match="laptop-oxides"):
        protocol.load("alexandrai")


def test_a_wrong_key_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text((protocol.FOLDER / "laptop.yaml").read_text().replace("smearing_ev", "smearing"))
    with pytest.raises(ConfigError, match="smearing_ev"):
        protocol.load(str(path))


def test_an_engine_without_settings_is_an_error():
    with pytest.raises(ProtocolError, match="no settings for the engine 'gpaw'"):
        protocol.load("emt").theory("PBE", GPAW)


@pytest.mark.parametrize(
    ("name", "elements"),
    [
        ("laptop", ["Li", "Mg", "Al", "Si"]),
        ("laptop-oxides", ["Mg", "Al", "O"]),
        ("alexandria", ["Ni", "Fe", "O"]),
    ],
)
def test_good_input_passes(name, elements, everything):
    ENGINE.check(elements, protocol.load(name), ["PBE", "PBEsol", "SCAN"], GPAW)


def test_a_missing_engine_is_one_clear_sentence(installed):
    installed()
    with pytest.raises(EngineError, match=r"gpaw is not installed.*pip install 'hullforge\[gpaw\]'.*emt"):
        ENGINE.check(["Al"], protocol.load("laptop"), ["PBE"], GPAW)


def test_missing_data_sets_are_a_missing_package(installed):
    installed(gpaw="26.7.0")
    with pytest.raises(EngineError, match="gpaw-data is not installed"):
        ENGINE.check(["Al"], protocol.load("laptop"), ["PBE"], GPAW)


@pytest.mark.parametrize("versions", [("26.8.0", "1.2.1"), ("26.7.0", "1.3.0")])
def test_another_version_is_an_error_that_says_both(versions, installed):
    installed(gpaw=versions[0], gpaw_data=versions[1])
    with pytest.raises(EngineError, match=r"(26.8.0|1.3.0) is installed.*(26.7.0|1.2.1)"):
        ENGINE.check(["Al"], protocol.load("laptop"), ["PBE"], GPAW)


def test_an_element_without_a_data_set_is_named(everything):
    with pytest.raises(EngineError, match=r"no PAW data set Tc\.PBE"):
        ENGINE.check(["Al", "Tc"], protocol.load("alexandria"), ["PBE"], GPAW)


def test_an_unknown_functional_is_named_with_the_known_ones(everything):
    with pytest.raises(EngineError, match=r"HSE06.*PBE, PBEsol, SCAN, r2SCAN"):
        ENGINE.check(["Al"], protocol.load("alexandria"), ["PBE", "HSE06"], GPAW)


def test_a_cutoff_that_gives_wrong_volumes_is_refused(everything):
    with pytest.raises(EngineError, match=r"eV relaxes compounds of O .*Pulay"):
        ENGINE.check(["Li", "O"], protocol.load("laptop"), ["PBE"], GPAW)


def test_a_wrong_setting_of_the_engine_is_named(everything):
    wrong = protocol.load("laptop").model_copy(update={"engines": {"gpaw": {"ecutt": 300}}})
    with pytest.raises(ConfigError, match="ecutt"):
        ENGINE.check(["Al"], wrong, ["PBE"], GPAW)


def test_hubbard_u_needs_an_anion():
    full = protocol.load("alexandria")
    assert ENGINE.hubbards("PBE", ["Ni", "O"], full) == {"Ni": 6.2}
    assert ENGINE.hubbards("PBE", ["Ni", "Al"], full) == {}
    assert ENGINE.hubbards("PBEsol", ["Ni", "O"], full) == {}
    assert ENGINE.run_type("PBE", ["Ni", "O"], full) == "GGA+U"
    assert ENGINE.run_type("PBEsol", ["Ni", "O"], full) == "GGA"
    assert ENGINE.run_type("SCAN", ["Ni", "O"], full) == "metaGGA"


def test_physics_says_all_that_fixes_the_energy():
    full = protocol.load("alexandria")
    physics = ENGINE.physics("PBE", full.functional("PBE").steps[0], crystal(28, 8), full)
    assert physics["xc"] == "PBE"
    assert physics["ecut"] == 800
    assert physics["kpts"] == [8, 8, 8]
    assert physics["setups"] == {"Ni": ":d,6.2"}
    assert physics["spinpol"]
    assert physics["initial_magmom"] == 1.0


def test_variants_of_data_sets_are_used_and_named():
    loaded = protocol.load("laptop")
    physics = ENGINE.physics("PBE", loaded.functional("PBE").steps[0], crystal(12, 14), loaded)
    assert physics["setups"] == {"Mg": "2"}
    names = ENGINE.pseudopotentials("SCAN", ["Si", "Mg"], loaded, GPAW)
    assert names == ["Mg.2.PBE gpaw-data 1.2.1", "Si.PBE gpaw-data 1.2.1"]


def test_ladders_touch_numerics_only():
    full = protocol.load("alexandria")
    step = full.functional("PBE").steps[0]
    numerics = ENGINE.numerics("PBE", step, crystal(13), full)
    physics = ENGINE.physics("PBE", step, crystal(13), full)
    assert len(ENGINE.ladder("scf_not_converged")) >= 3
    assert ENGINE.ladder("missing_dataset") == []
    for code in ("scf_not_converged", "out_of_memory", "atoms_too_close", "volume_out_of_bounds"):
        for rung in ENGINE.ladder(code):
            assert rung
            assert rung.keys() <= numerics.keys()
            assert not rung.keys() & physics.keys()


def test_settings_survive_the_file_of_a_step():
    full = protocol.load("alexandria")
    step = full.functional("PBE").steps[0]
    geometry = crystal(28, 8)
    inputs = StepInput(
        calculation_id="x",
        engine="gpaw",
        functional="PBE",
        name=step.name,
        kind=step.kind,
        geometry=geometry,
        start_volume=64.0,
        physics=ENGINE.physics("PBE", step, geometry, full),
        numerics=ENGINE.numerics("PBE", step, geometry, full),
        fmax=step.fmax,
        smax=step.smax,
        max_ionic_steps=step.max_ionic_steps,
    )
    assert StepInput.model_validate_json(inputs.model_dump_json()) == inputs


def test_engines_are_found_by_name():
    for name in ("gpaw", "vasp", "emt", "replay"):
        assert base.get(name).name == name
    with pytest.raises(EngineError, match=r"'abinit' is unknown; known are gpaw, vasp"):
        base.get("abinit")


class ToyCalculator:
    """Energy of a cube of side L in a basis: L^2 + exp(-E/E0), the stress that of a fixed number of waves."""

    SCALE = 200.0

    def __init__(self, ecut):
        self.ecut = ecut

    def energy(self, atoms, ecut):
        return atoms.get_volume() ** (2 / 3) + 5 * np.exp(-ecut / self.SCALE)

    def get_property(self, name, atoms):
        volume = atoms.get_volume()
        basis = -5 / self.SCALE * np.exp(-self.ecut / self.SCALE)
        at_fixed_number = 2 / 3 * volume ** (-1 / 3) - 2 / 3 * self.ecut / volume * basis
        values = {"energy": self.energy(atoms, self.ecut), "forces": np.zeros((1, 3))}
        values["free_energy"] = values["energy"]
        values["stress"] = np.array([at_fixed_number] * 3 + [0.1, 0.0, 0.0])
        return values[name]


def test_the_pulay_correction_gives_the_derivative_at_fixed_cutoff():
    from ase import Atoms

    from hullforge.dft.engines.gpaw_pulay import PulayCorrected

    toy = ToyCalculator(400)
    atoms = Atoms("Al", cell=[4.0, 4.0, 4.0], pbc=True)
    atoms.calc = PulayCorrected(toy, toy.energy, 400, 0.02)
    expected = 2 / 3 * atoms.get_volume() ** (-1 / 3)
    assert atoms.get_stress()[:3] == pytest.approx([expected] * 3, rel=1e-3)
    assert atoms.get_stress()[3] == 0.1
    assert toy.get_property("stress", atoms)[0] > 1.02 * expected
    assert atoms.get_potential_energy() == toy.energy(atoms, 400)
