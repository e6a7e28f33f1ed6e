"""VASP's inputs of fourteen compounds, tag by tag: against the paper's rules written out here, and against the input sets.

Nothing is compared loosely: an INCAR has exactly the tags that the table below gives it, and a tag that differs from the
input set of pymatgen must be in `vasp_choices`, with the values that it really has.
"""

import warnings
from pathlib import Path

import pytest
from vasp_panel import CRYSTAL, PANEL

from hullforge.dft import protocol
from hullforge.dft.engines import base, vasp_choices, vasp_inputs
from hullforge.dft.step import StepInput

VASP = base.get("vasp")
PROTOCOLS = {name: protocol.load(name) for name in ("alexandria", "mp2020", "matpes")}

COMMON = {
    "ENCUT": 520,
    "ISPIN": 2,
    "LREAL": False,
    "LORBIT": 11,
    "LWAVE": False,
    "LCHARG": False,
    "ALGO": "All",
}
RELAX = {"EDIFF": 1e-7, "EDIFFG": -0.005, "NSW": 250, "IBRION": 2, "ISIF": 3, "NELM": 100}
DENSE = {
    "EDIFF": 5e-7,
    "NSW": 0,
    "IBRION": -1,
    "ISIF": 2,
    "NELM": 200,
    "ENAUG": 659.424,
    "EMIN": -15,
    "EMAX": 15,
}
PBE = {"PREC": "Accurate", "ISMEAR": -5, "SIGMA": 0.05, "LASPH": True}
DRIVER = {"PREC": "High", "ISMEAR": 1, "SIGMA": 0.2, "SYMPREC": 1e-4}
#: ALEXANDRIA's rules: the tags of every step that hang on no structure, and which of a compound's grids it takes.
RULES = {
    ("PBE", "relax1"): (COMMON | RELAX | PBE, 0),
    ("PBE", "relax2"): (COMMON | RELAX | PBE, 0),
    ("PBE", "relax3"): (COMMON | RELAX | PBE, 0),
    ("PBEsol", "relax"): (COMMON | RELAX | DRIVER | {"GGA": "PS"}, 1),
    ("PBEsol", "relax_2"): (COMMON | RELAX | DRIVER | {"GGA": "PS"}, 1),
    ("PBEsol", "relax_3"): (COMMON | RELAX | DRIVER | {"GGA": "PS"}, 1),
    ("PBEsol", "static"): (COMMON | DENSE | DRIVER | {"GGA": "PS"}, 2),
    ("SCAN", "static"): (COMMON | DENSE | DRIVER | {"METAGGA": "SCAN", "LASPH": True, "LMAXTAU": 6}, 2),
}


def tags_of(name, functional, step, geometry):
    """INCAR tags and everything else of a step's settings."""
    theory = PROTOCOLS[name]
    entry = VASP.physics(functional, step, geometry, theory) | VASP.numerics(
        functional, step, geometry, theory
    )
    tags = {key: value for key, value in entry.items() if key.isupper()}
    return tags, {key: value for key, value in entry.items() if not key.isupper()}


def same(one, other):
    """Whether two values of a tag are the same to VASP: 15 and 15.0, PS and Ps."""
    if isinstance(one, str) and isinstance(other, str):
        return one.upper() == other.upper()
    return one == other


def expected(compound, functional, name):
    """Tags that the paper and its driver give a compound."""
    tags, grid = RULES[functional, name]
    tags = dict(tags)
    atoms = len(compound.atoms)
    if functional == "PBE":
        tags["MAGMOM"] = compound.magmom or [0.6] * atoms
        if compound.u:
            tags |= {"LDAU": True, "LDAUTYPE": 2, "LDAUPRINT": 1, **compound.u}
        if min(compound.grids[0]) * max(compound.grids[0]) < 4:
            tags["ISMEAR"] = 0
    else:
        tags["MAGMOM"] = [1] * atoms
    if compound.lmaxmix:
        tags["LMAXMIX"] = compound.lmaxmix
    if compound.nbands:
        # Yb_3 has one electron more than Yb_2.
        newer = functional != "PBE" and compound.potcars_54 == ["Yb_3", "O"]
        tags["NBANDS"] = 14 if newer else compound.nbands
    if compound.pbc != CRYSTAL and "EDIFFG" in tags:
        tags["LATTICE_CONSTRAINTS"] = list(compound.pbc)
    return tags, list(compound.grids[grid])


@pytest.mark.parametrize("name", PANEL)
def test_every_tag_of_every_step_is_what_the_paper_s_rules_ask_for(name):
    compound = PANEL[name]
    geometry = compound.geometry()
    seen = []
    for functional in ("PBE", "PBEsol", "SCAN"):
        for step in PROTOCOLS["alexandria"].steps(functional, "vasp"):
            seen.append((functional, step.name))
            tags, rest = tags_of("alexandria", functional, step, geometry)
            wanted, grid = expected(compound, functional, step.name)
            assert sorted(tags) == sorted(wanted), (functional, step.name)
            wrong = {tag: (tags[tag], wanted[tag]) for tag in tags if not same(tags[tag], wanted[tag])}
            assert not wrong, (functional, step.name)
            assert rest["kpoints"] == grid
            assert rest["kpoints_style"] == "Gamma"
            newer = functional != "PBE"
            assert rest["potcar_family"] == ("PBE_54" if newer else "PBE")
            assert rest["potcars"] == ((compound.potcars_54 if newer else None) or compound.potcars)
    assert seen == list(RULES)


def base_of(name, functional, step, geometry):
    """The input set that a step is compared with, as pymatgen makes it."""
    from pymatgen.io.vasp import sets

    structure = vasp_inputs.structure_of(geometry)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "matpes":
            made = sets.MatPESStaticSet(structure, sort_structure=False, xc_functional=functional.upper())
        elif name == "mp2020" and step.kind == "static":
            made = sets.MPStaticSet(structure, sort_structure=False)
        else:
            made = sets.MPRelaxSet(structure, sort_structure=False)
        return dict(made.incar), made.kpoints, made.potcar_symbols, made.user_potcar_functional


CASES = [(name, f) for name, theory in PROTOCOLS.items() for f in theory.functionals]


def differences():
    """Every difference from the input sets in the panel: protocol, place, tag, our value, its value."""
    for name, functional in CASES:
        for step in PROTOCOLS[name].steps(functional, "vasp"):
            if step.name.endswith(("_2", "_3")):
                continue
            for compound in PANEL.values():
                if name != "alexandria" and compound.pbc != CRYSTAL:
                    continue
                geometry = compound.geometry()
                tags, rest = tags_of(name, functional, step, geometry)
                theirs, grid, labels, family = base_of(name, functional, step, geometry)
                place = f"{functional} {step.kind}"
                for tag in sorted({*tags, *theirs}):
                    yield name, place, tag, tags.get(tag), theirs.get(tag)
                if rest["kpoints"] is not None:
                    yield name, place, "KPOINTS", tuple(rest["kpoints"]), tuple(grid.kpts[0])
                else:
                    assert grid is None
                yield name, place, "POTCAR", rest["potcar_family"], family
                if rest["potcar_family"] == family:
                    assert rest["potcars"] == labels


def shown(value):
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}"
    return "none" if value is None else str(value)


@pytest.fixture(scope="module")
def found():
    return list(differences())


def listed(name, place, tag):
    return [c for c in vasp_choices.CHOICES[name] if c.tag == tag and place in c.where]


def test_no_deviation_from_the_input_sets_is_unlisted(found):
    unlisted = {
        (name, place, tag)
        for name, place, tag, ours, theirs in found
        if not same(ours, theirs) and not listed(name, place, tag)
    }
    assert not unlisted


def test_no_setting_is_explained_twice():
    for name, choices in vasp_choices.CHOICES.items():
        places = [(choice.tag, place) for choice in choices for place in choice.where]
        assert len(places) == len(set(places)), name


def test_every_listed_value_is_the_one_in_the_files(found):
    for name, place, tag, ours, theirs in found:
        for choice in listed(name, place, tag):
            if not choice.varies:
                assert (shown(ours), shown(theirs)) == (choice.ours, choice.base), (name, place, tag)


def test_every_listed_setting_is_met_in_the_panel(found):
    met = {(name, place, tag) for name, place, tag, *_ in found}
    for name, choices in vasp_choices.CHOICES.items():
        assert {(name, place, c.tag) for c in choices for place in c.where} <= met


def test_what_varies_and_is_listed_as_a_deviation_does_deviate_somewhere(found):
    apart = {(name, place, tag) for name, place, tag, ours, theirs in found if not same(ours, theirs)}
    agree = {"MAGMOM": "PBE relax", "LDAU": "PBE relax", "ISMEAR": "PBE relax"}
    for name, choices in vasp_choices.CHOICES.items():
        for choice in choices:
            for place in choice.where:
                if choice.varies and agree.get(choice.tag) != place and choice.tag != "LMAXMIX":
                    assert (name, place, choice.tag) in apart


def test_the_documentation_has_these_tables():
    # After a change: python -c "from pathlib import Path; from hullforge.dft.engines import vasp_choices as c;
    # c.rewrite(Path('docs/vasp.md'))"
    page = Path(__file__).parents[2] / "docs" / "vasp.md"
    text = page.read_text()
    assert (
        text.split(vasp_choices.BEGIN)[1].split(vasp_choices.END)[0].strip()
        == vasp_choices.markdown().strip()
    )


@pytest.mark.parametrize(("name", "functional"), CASES)
def test_what_is_written_is_read_back_tag_by_tag(name, functional, tmp_path):
    from pymatgen.io.vasp.inputs import Incar

    for step in PROTOCOLS[name].steps(functional, "vasp"):
        for compound in PANEL.values():
            if name != "alexandria" and compound.pbc != CRYSTAL:
                continue
            geometry, theory = compound.geometry(), PROTOCOLS[name]
            entry = StepInput(
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
            vasp_inputs.write_inputs(tmp_path, entry, potcars="spec")
            assert dict(Incar.from_file(tmp_path / "INCAR")) == vasp_inputs.incar_tags(entry)
