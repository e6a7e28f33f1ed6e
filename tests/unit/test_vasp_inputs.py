"""VASP's input files, from a protocol's data: what is in them, and what is refused."""

import pytest

from hullforge import check, config
from hullforge.config import Execution
from hullforge.dft import protocol
from hullforge.dft.engines import base, vasp_check, vasp_inputs
from hullforge.dft.step import Geometry, StepInput
from hullforge.errors import ConfigError, EngineError
from hullforge.store import atomic

ALEXANDRIA = protocol.load("alexandria")
VASP = base.get("vasp")
CAMPAIGN = {"campaign": "c", "elements": ["Li", "F"], "rounds": [{"budget": 5}]}


def iron_oxide():
    """A cell with atoms in no order: VASP's files want them by element."""
    return Geometry(
        numbers=[8, 26, 8, 26, 8],
        cell=[5, 0, 0, 0, 5, 0, 0, 0, 6],
        positions=[[0, 0, 0], [2.5, 0, 0], [0, 2.5, 0], [2.5, 2.5, 3], [0, 0, 3]],
        pbc=[True] * 3,
    )


def step_input(functional="PBE", number=0, geometry=None, theory=ALEXANDRIA):
    geometry = geometry or iron_oxide()
    step = theory.steps(functional, "vasp")[number]
    return StepInput(
        calculation_id="c",
        engine="vasp",
        functional=functional,
        name=step.name,
        kind=step.kind,
        geometry=geometry,
        start_volume=1.0,
        physics=VASP.physics(functional, step, geometry, theory),
        numerics=VASP.numerics(functional, step, geometry, theory),
        fmax=step.fmax,
        smax=step.smax,
        max_ionic_steps=step.max_ionic_steps,
    )


@pytest.fixture(autouse=True)
def _no_library(monkeypatch):
    from pymatgen.core import SETTINGS

    monkeypatch.delitem(SETTINGS, "PMG_VASP_PSP_DIR", raising=False)
    monkeypatch.delenv("PMG_VASP_PSP_DIR", raising=False)


def test_the_files_of_a_relaxation_are_what_pymatgen_reads(tmp_path):
    from pymatgen.io.vasp.inputs import Incar, Kpoints, Poscar

    step = step_input()
    vasp_inputs.write_inputs(tmp_path, step, {"KPAR": 2, "NCORE": 4})
    incar = Incar.from_file(tmp_path / "INCAR")
    assert incar["EDIFFG"] == -0.005
    assert incar["LDAUU"] == [5.3, 0]
    assert incar["MAGMOM"] == [5, 5, 0.6, 0.6, 0.6]
    assert (incar["KPAR"], incar["NCORE"]) == (2, 4)
    kpoints = Kpoints.from_file(tmp_path / "KPOINTS")
    assert str(kpoints.style) == "Gamma"
    assert kpoints.kpts == [(6, 6, 5)]
    structure = Poscar.from_file(tmp_path / "POSCAR", check_for_potcar=False).structure
    order = vasp_inputs.site_order(step.geometry.numbers)
    for site, index in zip(structure, order, strict=True):
        assert step.geometry.numbers[index] == site.specie.Z
        assert site.coords == pytest.approx(step.geometry.positions[index])
    assert (tmp_path / "POTCAR.spec").read_text() == "Fe_pv\nO\n"
    assert not (tmp_path / "POTCAR").exists()


def test_a_meta_gga_starts_from_orbitals_of_its_own_first_run():
    step = step_input("SCAN")
    first, own = vasp_inputs.incar_tags(step, first=True), vasp_inputs.incar_tags(step)
    assert first["GGA"].upper() == "PS"
    assert first["LWAVE"]
    assert "METAGGA" not in first
    assert own["METAGGA"].upper() == "SCAN"
    assert own["ISTART"] == 1
    assert "GGA" not in own


def test_settings_of_the_step_survive_json():
    step = step_input("SCAN")
    assert StepInput.model_validate_json(step.model_dump_json()) == step


def test_another_release_of_an_input_set_is_refused(monkeypatch):
    monkeypatch.setattr(vasp_inputs, "set_digest", lambda _: "s1-other")
    with pytest.raises(
        EngineError, match=r"MPRelaxSet is s1-.*installed pymatgen has s1-other; energies of two"
    ):
        step_input()


def test_a_tag_that_the_protocol_sets_elsewhere_is_refused():
    data = ALEXANDRIA.model_dump()
    data["engines"]["vasp"]["functionals"]["PBE"]["incar"]["NSW"] = 10
    with pytest.raises(
        ConfigError, match=r"engines.vasp: key 'functionals.PBE.incar': NSW is set by max_ionic_steps"
    ):
        step_input(theory=protocol.Protocol.model_validate(data))


def sheet(height=20.0, tilt=0.0):
    """A square sheet of boron nitride's atoms, flat, with `height` between its images."""
    cell = [2.6, 0, 0, 0, 2.6, 0, tilt, 0, height]
    return Geometry(numbers=[5, 7], cell=cell, positions=[[0, 0, 1], [1.3, 1.3, 1]], pbc=[True, True, False])


def test_a_sheet_keeps_its_vacuum():
    step = step_input(geometry=sheet())
    assert step.physics["LATTICE_CONSTRAINTS"] == [True, True, False]
    assert step.physics["ISIF"] == 3
    assert step.physics["kpoints"] == [15, 15, 1]


def test_a_static_step_of_a_sheet_needs_no_constraint():
    assert "LATTICE_CONSTRAINTS" not in step_input("SCAN", geometry=sheet()).physics


def test_where_vasp_can_t_keep_an_axis_positions_alone_may_relax():
    data = ALEXANDRIA.model_dump()
    data["engines"]["vasp"]["functionals"]["PBE"]["low_dimensional"] = {"cell": "fixed"}
    step = step_input(geometry=sheet(), theory=protocol.Protocol.model_validate(data))
    assert step.physics["ISIF"] == 2
    assert "LATTICE_CONSTRAINTS" not in step.physics


@pytest.mark.parametrize(
    ("geometry", "match"),
    [
        (
            sheet(height=12.0),
            r"axis c is not periodic and has 12.00 angstrom of vacuum; the protocol asks for 15",
        ),
        (
            sheet(tilt=1.0),
            r"axis c is not periodic, but not along z and at right angles .*off by 1 angstrom",
        ),
    ],
)
def test_a_sheet_that_vasp_would_spoil_is_refused(geometry, match):
    with pytest.raises(EngineError, match=match):
        step_input(geometry=geometry)


def test_a_layer_may_swell_a_little():
    step_input(geometry=sheet(height=14.5))


def test_protocols_of_input_sets_are_for_crystals():
    with pytest.raises(EngineError, match="no axes without periodicity; it is for crystals"):
        step_input(geometry=sheet(), theory=protocol.load("mp2020"))


@pytest.mark.parametrize(
    ("cores", "n_kpoints", "expected"),
    [
        (1, 10, {"KPAR": 1, "NCORE": 1}),
        (16, 4, {"KPAR": 4, "NCORE": 2}),
        (16, 1, {"KPAR": 1, "NCORE": 4}),
        (24, 100, {"KPAR": 24, "NCORE": 1}),
        (7, 3, {"KPAR": 1, "NCORE": 1}),
    ],
)
def test_cores_are_split_over_k_points_first(cores, n_kpoints, expected):
    assert vasp_inputs.parallel_tags(cores, n_kpoints) == expected


class TestCheck:
    """What `hullforge check` says before the first job."""

    def missing(self, functionals=("PBE",), elements=("Fe", "O"), **execution):
        settings = Execution(**{"command": ("ls",), **execution})
        return vasp_check.missing(elements, ALEXANDRIA, functionals, settings)

    @pytest.fixture
    def library(self, tmp_path, monkeypatch):
        """A library of two POTCARs that are nothing but their headers."""
        folder = tmp_path / "POT_GGA_PAW_PBE"
        folder.mkdir()
        for label, title, zval in (("Fe_pv", "PAW_PBE Fe_pv 06Sep2000", 14), ("O", "PAW_PBE O 08Apr2002", 6)):
            header = (
                f"  {title}\n  {zval:.12f}\n parameters from PSCTR are:\n   VRHFIN =x: \n   LEXCH  = PE\n"
            )
            header += f"   TITEL  = {title}\n   POMASS =   1.000; ZVAL   =   {zval:.3f}    mass and valenz\nEnd of Dataset\n"
            (folder / f"POTCAR.{label}").write_text(header)
        monkeypatch.setenv("PMG_VASP_PSP_DIR", str(tmp_path))
        return folder

    @pytest.mark.usefixtures("library")
    def test_a_machine_with_all_of_it_is_fine(self):
        assert self.missing() == []

    def test_no_library_is_one_row_not_one_for_each_element(self):
        rows = self.missing(elements=("Fe", "O", "Mg"))
        assert [row.what for row in rows] == ["POTCAR library"]
        assert rows[0].found == "PMG_VASP_PSP_DIR is not set"

    def test_a_dry_run_needs_none(self):
        assert self.missing(potcars="spec") == []

    def test_each_missing_potcar_is_a_row_that_says_where_it_was_looked_for(self, library):
        (library / "POTCAR.O").unlink()
        rows = self.missing(elements=("Fe", "O", "Mg"))
        assert [(row.what, row.needed_for) for row in rows] == [
            ("POTCAR O (PBE)", "O in PBE"),
            ("POTCAR Mg_pv (PBE)", "Mg in PBE"),
        ]
        assert rows[0].found == "no POT_GGA_PAW_PBE/POTCAR.O(.gz)"

    def test_a_potcar_of_another_kind_is_named(self, library):
        path = library / "POTCAR.Fe_pv"
        path.write_text(path.read_text().replace("14.000", "8.000"))
        (row,) = self.missing()
        assert "with 8" in row.found
        assert "with 14 valence electrons" in row.remedy

    def test_a_broken_potcar_is_named(self, library):
        (library / "POTCAR.O").write_text("nothing\n")
        (row,) = self.missing()
        assert "POTCAR.O is no POTCAR" in row.found

    def test_a_program_that_is_not_there_is_named(self):
        rows = self.missing(command=("vasp_nowhere",), potcars="spec")
        assert [(row.what, row.needed_for) for row in rows] == [("program vasp_nowhere", "execution.command")]

    def test_a_meta_gga_with_potcars_that_can_t_is_refused(self):
        data = ALEXANDRIA.model_dump()
        data["engines"]["vasp"]["functionals"]["SCAN"]["potcars"] = {"family": "PBE"}
        theory = protocol.Protocol.model_validate(data)
        rows = vasp_check.missing(["Fe", "H"], theory, ["SCAN"], Execution(command=("ls",), potcars="spec"))
        assert [(row.what, row.found) for row in rows] == [
            ("POTCAR Fe_pv (PBE)", "it has no kinetic energy density, which a meta-GGA needs")
        ]

    def changed(self, **changes):
        data = ALEXANDRIA.model_dump()
        data["engines"]["vasp"]["functionals"]["PBE"] |= changes
        theory = protocol.Protocol.model_validate(data)
        return vasp_check.missing(["Fe"], theory, ["PBE"], Execution(command=("ls",), potcars="spec"))

    def test_a_misspelt_tag_which_vasp_would_pass_over_is_named(self):
        rows = self.changed(incar={"EDIF": 1e-7})
        assert [(row.what, row.remedy) for row in rows] == [("INCAR tag EDIF", "write EDIFF?")]

    def test_an_option_that_the_input_set_has_not_is_named_before_any_structure_meets_it(self):
        rows = self.changed(base_options={"xc_functional": "PBE"})
        assert [row.what for row in rows] == [f"input of PBE relax{n}" for n in (1, 2, 3)]
        assert "unexpected keyword argument 'xc_functional'" in rows[0].found

    def test_all_of_it_is_one_table_in_one_error(self):
        with pytest.raises(EngineError) as caught:
            VASP.check(["Fe", "Kr"], ALEXANDRIA, ["PBE"], None, Execution(command=("vasp_nowhere",)))
        lines = str(caught.value).splitlines()
        assert lines[0] == "engine vasp: this machine lacks what the campaign needs"
        assert lines[1].split("  ")[0] == "what"
        assert len(lines) == 4

    def test_doubtful_potcars_are_noted(self):
        notes = vasp_check.notes(["Fe", "Yb"], ALEXANDRIA, ["PBE", "SCAN"])
        assert len(notes) == 1
        assert notes[0].startswith("Yb in PBE: Yb_2 keeps")

    @pytest.mark.usefixtures("library")
    def test_potcars_are_recorded_by_title_and_hash_and_go_nowhere_else(self, tmp_path):
        text = VASP.pseudopotentials("PBE", ["O", "Fe"], ALEXANDRIA, None)
        assert text[0].startswith("PBE Fe_pv (PAW_PBEFe_pv06Sep2000, sha256 ")
        vasp_inputs.write_inputs(tmp_path / "run", step_input())
        record = atomic.read_json(tmp_path / "run" / "potcars.json")
        assert [(entry["label"], len(entry["sha256"])) for entry in record] == [("Fe_pv", 64), ("O", 64)]
        assert (tmp_path / "run" / "POTCAR").read_text().count("TITEL") == 2
        assert not (tmp_path / "run" / "POTCAR.spec").exists()

    def test_a_library_without_an_element_is_an_error_where_inputs_are_written(self, library, tmp_path):
        (library / "POTCAR.O").unlink()
        with pytest.raises(EngineError, match="no POTCAR O of the family PBE"):
            vasp_inputs.write_inputs(tmp_path / "run", step_input())


def test_the_stricter_relaxation_after_a_static_step_is_the_last_relaxation_with_a_fifth_of_its_limits():
    from hullforge.dft.calculation import _stricter

    steps = {step.name: step for step in ALEXANDRIA.steps("PBEsol", "vasp")}
    relax, again = _stricter(steps["static"], steps["relax_3"])
    geometry = iron_oxide()
    strict = VASP.physics("PBEsol", relax, geometry, ALEXANDRIA)
    usual = VASP.physics("PBEsol", steps["relax_3"], geometry, ALEXANDRIA)
    assert strict["EDIFFG"] == pytest.approx(-0.001)
    assert {key for key in strict if strict[key] != usual.get(key)} == {"EDIFFG"}
    repeated = VASP.physics("PBEsol", again, geometry, ALEXANDRIA)
    assert repeated == VASP.physics("PBEsol", steps["static"], geometry, ALEXANDRIA)


def test_a_mistake_in_the_section_is_found_before_anything_is_planned(tmp_path):
    text = (protocol.FOLDER / "alexandria.yaml").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("magmom: set", "magmom: sett", 1).replace("repeat: 3", "repeat: three"))
    campaign = config.load(CAMPAIGN | {"engine": {"name": "vasp", "version": "6"}, "protocol": str(path)})
    with pytest.raises(ConfigError) as caught:
        check.check_config(campaign)
    assert "engines.vasp: key 'functionals.PBE.magmom" in str(caught.value)
    assert "functionals.PBEsol.steps.relax.repeat" in str(caught.value)


def copper(grid, style="Gamma"):
    """Face-centred copper on a grid of k-points."""
    half = 1.8
    cell = [0, half, half, half, 0, half, half, half, 0]
    geometry = Geometry(numbers=[29], cell=cell, positions=[[0, 0, 0]], pbc=[True] * 3)
    step = step_input(geometry=geometry)
    return step.model_copy(update={"physics": step.physics | {"kpoints": grid, "kpoints_style": style}})


@pytest.mark.parametrize(
    ("grid", "expected"), [([1, 1, 1], 1), ([2, 2, 2], 3), ([4, 4, 4], 8), ([8, 8, 8], 29)]
)
def test_symmetry_leaves_the_textbook_s_numbers_of_k_points(grid, expected):
    assert vasp_inputs.irreducible_kpoints(copper(grid)) == expected


def test_the_grid_of_a_spacing_is_vasp_s():
    # 2 pi |b| = 2 pi sqrt(3) / 3.6 = 3.02 1/angstrom, over 0.8 is 3.8: four points, as in the grid of the test above.
    step = copper(None, "spacing")
    step.physics["KSPACING"] = 0.8
    assert vasp_inputs.irreducible_kpoints(step) == 8


def test_without_spin_there_are_no_moments():
    theory = ALEXANDRIA.model_copy(update={"spin": "none"})
    physics = step_input(theory=theory).physics
    assert physics["ISPIN"] == 1
    assert "MAGMOM" not in physics
