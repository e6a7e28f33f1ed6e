"""VASP's outputs, read to the numbers that pymatgen and ASE give; what is cut, unconverged or foreign is told."""

import bz2
import gzip
import lzma
import warnings
from pathlib import Path

import ase.io
import ase.units
import numpy as np
import pytest

from hullforge.dft.engines import vasp_outcar, vasp_parse
from hullforge.dft.engines.vasp_parse import VaspOutputError, read_run

DATA = Path(__file__).parents[1] / "data" / "vasp"
WHOLE = sorted(p.name for p in DATA.iterdir() if p.is_dir() and p.name != "truncated")
BOTH = sorted(p.parent.name for p in DATA.glob("*/OUTCAR.xz"))


def text_of(name: str, file: str = "vasprun.xml") -> str:
    return lzma.decompress((DATA / name / f"{file}.xz").read_bytes()).decode("latin-1")


def folder_with(tmp_path: Path, text: str, file: str = "vasprun.xml") -> Path:
    (tmp_path / file).write_text(text, encoding="latin-1")
    return tmp_path


@pytest.fixture(scope="module")
def pymatgen_runs():
    from pymatgen.io.vasp.outputs import Vasprun

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: Vasprun(str(DATA / name / "vasprun.xml.xz"), parse_potcar_file=False) for name in WHOLE}


@pytest.mark.parametrize("name", WHOLE)
def test_every_ionic_step_is_pymatgens_to_the_last_digit(name, pymatgen_runs):
    run, wanted = read_run(DATA / name), pymatgen_runs[name]
    assert run.complete
    assert len(run.steps) == len(wanted.ionic_steps)
    for step, other in zip(run.steps, wanted.ionic_steps, strict=True):
        assert np.array_equal(step.cell, other["structure"].lattice.matrix)
        assert np.array_equal(step.positions, other["structure"].cart_coords)
        assert step.free_energy == other["e_fr_energy"]
        assert np.array_equal(step.forces, other["forces"])
        assert step.n_electronic_steps == len(other["electronic_steps"])
        voigt = np.array(other["stress"])[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        assert np.array_equal(step.stress, -0.1 * ase.units.GPa * voigt)
    assert run.steps[-1].energy == float(wanted.final_energy)


@pytest.mark.parametrize("name", WHOLE)
def test_what_holds_for_the_run_is_pymatgens(name, pymatgen_runs):
    run, wanted = read_run(DATA / name), pymatgen_runs[name]
    assert list(run.numbers) == [site.specie.Z for site in wanted.initial_structure]
    assert np.array_equal(run.start[1], wanted.initial_structure.cart_coords)
    assert list(run.titles) == wanted.potcar_symbols
    assert run.hubbards == wanted.hubbards
    assert run.version.lower() == wanted.vasp_version.strip()
    assert run.converged_electronic == wanted.converged_electronic
    assert run.converged_ionic == wanted.converged_ionic
    assert run.band_gap == float(wanted.eigenvalue_band_properties[0])
    assert run.efermi == wanted.efermi
    densities = wanted.tdos.get_interpolated_value(wanted.efermi)
    assert run.dos_at_fermi == pytest.approx(float(sum(densities.values())), rel=1e-12)
    assert run.kpoints.style == wanted.kpoints.style.name
    assert run.kpoints.n_irreducible == len(wanted.actual_kpoints)
    for mine, theirs in ((run.incar, wanted.incar), (run.parameters, wanted.parameters)):
        assert set(mine) == set(theirs)
        for tag, value in theirs.items():
            same = mine[tag].lower() == value.lower() if isinstance(value, str) else mine[tag] == value
            assert same, tag


@pytest.mark.parametrize("name", BOTH)
def test_the_outcar_alone_gives_what_ase_reads_and_what_the_vasprun_has(name, tmp_path):
    run, other = vasp_outcar.read(DATA / name / "OUTCAR.xz"), read_run(DATA / name)
    plain = folder_with(tmp_path, text_of(name, "OUTCAR"), "OUTCAR") / "OUTCAR"
    frames = ase.io.read(plain, index=":", format="vasp-out")
    assert len(run.steps) == len(frames) == len(other.steps)
    for step, atoms, precise in zip(run.steps, frames, other.steps, strict=True):
        assert np.array_equal(step.cell, atoms.cell.array)
        assert np.array_equal(step.positions, atoms.positions)
        assert np.array_equal(step.forces, atoms.calc.results["forces"])
        assert np.allclose(step.stress, atoms.calc.results["stress"], rtol=1e-14, atol=0)
        assert step.energy == atoms.calc.results["energy"]
        assert step.free_energy == atoms.calc.results["free_energy"]
        assert np.array_equal(step.magmoms, atoms.calc.results["magmoms"])
        # And the two files of one run tell the same, to the digits of the OUTCAR.
        assert step.energy == pytest.approx(precise.energy, abs=1.1e-6)
        assert np.allclose(step.positions, precise.positions, atol=6e-6)
        assert np.allclose(step.forces, precise.forces, atol=1e-6)
        assert np.allclose(step.stress, precise.stress, atol=0.02 * vasp_parse.KBAR)
        assert np.array_equal(step.magmoms, precise.magmoms)
        assert step.n_electronic_steps == precise.n_electronic_steps
        assert step.electronic_converged == precise.electronic_converged
    assert run.version == other.version
    assert run.titles == other.titles
    settled = vasp_parse.settled(run)
    assert (settled.functional, settled.run_type) == (other.functional, other.run_type)
    assert run.converged_ionic == other.converged_ionic


def test_an_outcar_beside_a_vasprun_adds_moments_times_and_memory():
    run = read_run(DATA / "Li-relaxation")
    assert run.source == "vasprun.xml.xz"
    assert [list(step.magmoms) for step in run.steps] == [[0.001], [0.0], [0.0]]
    assert run.total_magnetization == 0.0001766
    assert (run.wall_time_s, run.cpu_time_s) == (12.567, 10.592)
    assert run.max_memory_mib == 32448 / 1024


@pytest.mark.parametrize(
    ("name", "functional", "run_type"),
    [
        ("Li-relaxation", "PBE", "GGA"),
        ("LiH-r2scan", "r2SCAN", "metaGGA"),
        ("oxide-unconverged", "PBE", "GGA+U"),
        ("vdw", "PBE-D3-BJ", "GGA"),
        ("truncated", "HSE06", "hybrid"),
    ],
)
def test_the_functional_is_told_from_the_tags(name, functional, run_type):
    run = read_run(DATA / name)
    assert (run.functional, run.run_type) == (functional, run_type)


@pytest.mark.parametrize(
    ("incar", "parameters", "titles", "expected"),
    [
        ({}, {"GGA": "PS"}, ("PAW_PBE Si",), ("PBEsol", "GGA")),
        ({}, {"GGA": "--"}, ("PAW_PBE Si",), ("PBE", "GGA")),
        ({}, {}, ("PAW Si",), ("LDA", "LDA")),
        ({}, {}, ("PAW_PBE Si", "PAW O"), ("", "")),
        ({"METAGGA": "Scan"}, {"GGA": "PE"}, ("PAW_PBE Si",), ("SCAN", "metaGGA")),
        ({"METAGGA": "R2scan", "LUSE_VDW": True}, {}, ("PAW_PBE Si",), ("r2SCAN-rVV10", "metaGGA")),
        ({"METAGGA": "--"}, {"GGA": "PE"}, ("PAW_PBE Si",), ("PBE", "GGA")),
        ({}, {"GGA": "XX"}, ("PAW_PBE Si",), ("", "")),
        ({"LVDW": True}, {"GGA": "PE"}, ("PAW_PBE Si",), ("PBE-D2", "GGA")),
        ({}, {"GGA": "PE", "LHFCALC": True, "AEXX": 0.25, "HFSCREEN": 0.0}, ("PAW_PBE Si",), ("PBE0", "hybrid")),
    ],
)  # fmt: skip
def test_names_of_functionals(incar, parameters, titles, expected):
    assert vasp_parse.functional_of(incar, parameters, titles) == expected


def test_unconverged_electronic_steps_are_flagged_on_every_frame():
    run = read_run(DATA / "oxide-unconverged")
    assert [step.electronic_converged for step in run.steps] == [False] * 5
    assert not run.converged_electronic
    assert run.converged_ionic  # which alone would have passed for good


def test_vasps_own_word_on_a_missed_ediff_counts(tmp_path):
    folder_with(tmp_path, text_of("Li-relaxation"))
    outcar = text_of("Li-relaxation", "OUTCAR")
    said = "aborting loop because EDIFF is reached"
    assert outcar.count(said) == 3
    folder_with(
        tmp_path, outcar.replace(said, "aborting loop EDIFF was not reached (unconverged)", 2), "OUTCAR"
    )
    assert [step.electronic_converged for step in read_run(tmp_path).steps] == [False, False, True]


def test_a_relaxation_that_was_stopped_has_few_steps_but_did_not_converge(tmp_path):
    folder_with(tmp_path, text_of("Li-relaxation"))
    outcar = text_of("Li-relaxation", "OUTCAR").replace("reached required accuracy", "soft stop encountered")
    assert not read_run(folder_with(tmp_path, outcar, "OUTCAR")).converged_ionic


def test_forces_belong_to_the_geometry_of_their_own_step_not_to_the_next(tmp_path):
    text = text_of("Li-relaxation").replace(
        '<structure name="finalpos" >', '<structure name="finalpos" ><!-- moved on -->'
    )
    shifted = text[: text.rindex('name="positions"')] + text[text.rindex('name="positions"') :].replace(
        "<v>      -0.00000000 ", "<v>       0.25000000 "
    )
    assert shifted != text
    assert np.abs(read_run(folder_with(tmp_path, shifted)).steps[-1].positions).max() == 0.0


def test_every_frame_has_its_own_stress_with_the_sign_of_ase():
    run = read_run(DATA / "Li-relaxation")
    printed = [-9.90670, -6.72429, -1.15048]  # kbar, "in kB" in OUTCAR
    assert [step.stress[0] / (-0.1 * ase.units.GPa) for step in run.steps] == pytest.approx(printed, abs=1e-5)


def test_exponents_and_overflows_are_numbers_or_not_numbers(tmp_path):
    text = text_of("Li-relaxation")
    at = text.rindex('<varray name="forces" >')
    row = text[text.index("<v>", at) : text.index("</v>", at) + 4]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    small = folder_with(tmp_path / "a", text[:at] + text[at:].replace(row, "<v> 0.1E-02 -1.5e-3 2E1 </v>", 1))
    assert read_run(small).steps[-1].forces.tolist() == [[0.001, -0.0015, 20.0]]
    large = folder_with(tmp_path / "b", text[:at] + text[at:].replace(row, "<v> **** 0.0 0.0 </v>", 1))
    assert np.isnan(read_run(large).steps[-1].forces[0, 0])


def test_the_energy_at_zero_smearing_is_mended_where_vasp_prints_a_wrong_one():
    run = read_run(DATA / "vdw")
    assert abs(run.steps[-1].energy - run.steps[-1].free_energy) < 0.1
    assert "IVDW" in run.incar
    assert run.steps[-1].correction == pytest.approx(-0.8827647500000015)


def test_a_correction_that_no_tag_tells_can_be_seen():
    run = read_run(DATA / "hidden-correction")
    assert run.functional == "PBE"
    assert abs(run.steps[-1].correction) > 0.8
    assert all(abs(step.correction) < 1e-6 for step in read_run(DATA / "oxide-unconverged").steps)


def test_a_charged_cell_says_so():
    assert read_run(DATA / "Si-charged").charge == pytest.approx(-1.0)
    assert read_run(DATA / "Li-relaxation").charge == 0.0


def test_a_cut_file_tells_what_is_whole_and_that_it_is_cut(tmp_path):
    run = read_run(DATA / "truncated")
    assert not run.complete
    assert "truncated: it ends in line 932" in run.problem
    assert not run.converged_ionic
    text = text_of("Li-relaxation")
    whole = read_run(DATA / "Li-relaxation")
    ends = [text.index("</calculation>") + 20, text.rindex("</calculation>"), len(text) - 3]
    for wanted, end in zip((1, 2, 3), ends, strict=True):
        run = read_run(folder_with(tmp_path, text[:end]))
        assert not run.complete
        assert [s.free_energy for s in run.steps] == [s.free_energy for s in whole.steps[:wanted]]


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9, 0.999])
def test_a_cut_outcar_never_counts_as_whole(share, tmp_path):
    text = text_of("Li-relaxation", "OUTCAR")
    cut = text[: min(int(len(text) * share), text.index("General timing"))]
    folder_with(tmp_path, cut, "OUTCAR")
    try:
        run = read_run(tmp_path)
    except VaspOutputError as error:
        assert "truncated" in str(error) or "not an OUTCAR" in str(error)  # noqa: PT017 - either end is right
    else:
        assert not run.complete
        assert not run.converged_ionic
        assert len(run.steps) <= 3


def test_files_of_two_runs_are_not_joined(tmp_path):
    folder_with(tmp_path, text_of("Li-relaxation"))
    folder_with(tmp_path, text_of("LiH-r2scan", "OUTCAR"), "OUTCAR")
    with pytest.raises(VaspOutputError, match="not of the same run"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_compressed_or_not_and_with_a_suffix(suffix, pack, tmp_path):
    (tmp_path / f"vasprun.xml.relax1{suffix}").write_bytes(pack(text_of("LiH-r2scan").encode("latin-1")))
    run = read_run(tmp_path, ".relax1")
    assert run.complete
    assert run.steps[-1].energy == read_run(DATA / "LiH-r2scan").steps[-1].energy
    with pytest.raises(VaspOutputError, match=r"neither vasprun\.xml nor OUTCAR"):
        read_run(tmp_path)


def test_a_compressed_file_that_ends_early_is_cut(tmp_path):
    whole = gzip.compress(text_of("Li-relaxation").encode("latin-1"))
    (tmp_path / "vasprun.xml.gz").write_bytes(whole[: len(whole) * 9 // 10])
    with pytest.raises(VaspOutputError, match="truncated: the compressed file ends early"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no element found|truncated"),
        (b"hello", "not a vasprun.xml"),
        (b"<?xml version='1.0'?><html><body>not found</body></html>", "does not begin with <modeling>"),
        (b"<modeling><generator></generator></modeling>", "can't be read"),
    ],
)
def test_foreign_files_are_refused_by_name(content, words, tmp_path):
    (tmp_path / "vasprun.xml").write_bytes(content)
    with pytest.raises(VaspOutputError, match=words) as error:
        read_run(tmp_path)
    assert "vasprun.xml" in str(error.value)


def test_blocks_that_are_not_read_may_lie_across_the_pieces_of_a_file(monkeypatch, tmp_path):
    from hullforge.dft.engines import vasp_xml

    text = text_of("Li-relaxation")
    with_projections = text.replace(
        "</calculation>", "<projected><eigenvalues><r> 9 9 </r></eigenvalues></projected></calculation>"
    )
    path = folder_with(tmp_path, with_projections)
    wanted = read_run(DATA / "Li-relaxation").band_gap
    for size in (1, 7, 100, 1000, 1 << 22):
        monkeypatch.setattr(vasp_xml, "_CHUNK", size)
        assert read_run(path).band_gap == wanted
        assert "projected" not in vasp_xml._text(path / "vasprun.xml")[0].decode("latin-1")
