"""What VASP needs before its first job, and what of it is missing: POTCARs, program, launcher, input sets.

Comes in: elements, protocol, functionals and the campaign's `execution`; goes out: the list of what is missing, as rows
of one table. Nothing is run, and no POTCAR is read further than its header and its hash.
"""

import difflib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from hullforge.config import Execution
from hullforge.dft.engines import vasp_inputs, vasp_potcars
from hullforge.dft.engines.vasp_settings import VaspFunctional, functional_of
from hullforge.dft.protocol import Protocol
from hullforge.dft.step import Geometry
from hullforge.errors import EngineError
from hullforge.store.structures import SYMBOLS

#: Labels that compute something else than a user may think, and what.
DOUBTFUL = {
    "Yb_2": "Yb_2 keeps 14 f electrons in the core: right for Yb2+, wrong energies for Yb3+ (oxides, fluorides); the"
    " Materials Project has left it",
    **{
        f"{symbol}_3": f"{symbol}_3 keeps the f electrons of {symbol}3+ in the core: no other valence, no f magnetism"
        for symbol in ("Dy", "Er", "Ho", "Lu", "Nd", "Pm", "Pr", "Sm", "Tb", "Tm")
    },
}


@dataclass(frozen=True)
class Missing:
    """One thing that is missing: what, what needs it, what was found, what to do."""

    what: str
    needed_for: str
    found: str
    remedy: str


def is_meta_gga(ours: VaspFunctional) -> bool:
    """Whether a functional needs POTCARs with kinetic energy densities."""
    return bool(ours.incar.get("METAGGA")) or "R2SCAN" in map(str, ours.base_options.values())


def missing(
    elements: Sequence[str], protocol: Protocol, functionals: Sequence[str], execution: Execution | None
) -> list[Missing]:
    """Give everything that is missing, in the order in which a user would mend it.

    Raises `ConfigError` or `ProtocolError` when the protocol's own settings are wrong.
    """
    rows: list[Missing] = []
    if execution is not None:
        rows += _programs(execution)
    if execution is None or execution.potcars == "library":
        root = vasp_potcars.library()
        if root is None or not root.is_dir():
            families = sorted({functional_of(protocol, name).potcars.family for name in functionals})
            rows.append(
                Missing(
                    "POTCAR library",
                    ", ".join(families),
                    "PMG_VASP_PSP_DIR is not set" if root is None else f"{root} is not a folder",
                    "set PMG_VASP_PSP_DIR (docs/vasp.md, POTCARs); execution.potcars: spec for a dry run without them",
                )
            )
    needs: dict[tuple[str, str], list[str]] = {}
    for name in functionals:
        ours = functional_of(protocol, name)
        rows += _sets(ours, f"protocol {protocol.name}, {name}")
        rows += _tags(ours, f"protocol {protocol.name}, {name}")
        if not rows and elements:
            rows += _inputs(protocol, name, elements[0])
        for symbol in elements:
            for base in _bases(ours):
                label = vasp_inputs.potcar_label(ours, base, symbol)
                entry = needs.setdefault((ours.potcars.family, label), [])
                if f"{symbol} in {name}" not in entry:
                    entry.append(f"{symbol} in {name}")
                    rows += _unfit(ours, name, symbol, label)
    if not any(row.what == "POTCAR library" for row in rows) and (
        execution is None or execution.potcars == "library"
    ):
        for (family, label), users in needs.items():
            rows += _potcar(family, label, ", ".join(users))
    return rows


def notes(elements: Sequence[str], protocol: Protocol, functionals: Sequence[str]) -> list[str]:
    """Give what a user should know of the POTCARs chosen, a sentence each."""
    found: dict[str, str] = {}
    for name in functionals:
        ours = functional_of(protocol, name)
        for symbol in elements:
            label = vasp_inputs.potcar_label(ours, ours.base, symbol)
            if label in DOUBTFUL:
                found[f"{symbol} in {name}: {DOUBTFUL[label]}"] = ""
    return list(found)


def message(rows: Sequence[Missing]) -> str:
    """Give the table of what is missing as text."""
    table = [("what", "needed for", "found", "what to do"), *(astuple(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
        for row in table
    ]
    return "engine vasp: this machine lacks what the campaign needs\n" + "\n".join(lines)


def _bases(ours: VaspFunctional) -> list[str]:
    """Names of the input sets of a functional."""
    return list(dict.fromkeys([ours.base, *(step.base for step in ours.steps.values() if step.base)]))


def _sets(ours: VaspFunctional, where: str) -> Iterator[Missing]:
    for base in _bases(ours):
        try:
            vasp_inputs.check_digest(ours, base, where)
        except EngineError as error:
            yield Missing(f"input set {base}", where, "another one", str(error))


def _tags(ours: VaspFunctional, where: str) -> Iterator[Missing]:
    """Say which INCAR tags nobody knows: VASP would pass over a misspelt one without a word."""
    import json

    import pymatgen.io.vasp as package

    known = json.loads(Path(str(package.__file__)).with_name("incar_parameters.json").read_text())
    for tags in (ours.incar, *(more for step in ours.steps.values() for more in (step.incar, step.first))):
        for tag in tags:
            if tag not in known:
                close = difflib.get_close_matches(tag, known, n=1)
                hint = f"write {close[0]}?" if close else "remove it"
                yield Missing(f"INCAR tag {tag}", where, "no tag of VASP that pymatgen knows", hint)


def _inputs(protocol: Protocol, functional: str, symbol: str) -> Iterator[Missing]:
    """Say why no input can be made, tried with one atom in a cube: a wrong value of a tag or option of the set."""
    cube = Geometry(
        numbers=[SYMBOLS.index(symbol)],
        cell=[4, 0, 0, 0, 4, 0, 0, 0, 4],
        positions=[[0, 0, 0]],
        pbc=[True] * 3,
    )
    for step in protocol.steps(functional, "vasp"):
        try:
            vasp_inputs.settings(functional, step, cube, protocol, {})
        except (EngineError, ValueError, TypeError, ArithmeticError, LookupError) as error:
            text = " ".join(str(error).split())[:120]
            yield Missing(
                f"input of {functional} {step.name}",
                f"protocol {protocol.name}",
                text,
                "mend it in the protocol",
            )


def _unfit(ours: VaspFunctional, functional: str, symbol: str, label: str) -> Iterator[Missing]:
    """Say when a label is unknown in its family or can't do the functional, library or not."""
    family = ours.potcars.family
    try:
        entry = vasp_potcars.known(family, label)
    except EngineError:
        yield Missing(
            f"POTCAR {label} ({family})",
            f"{symbol} in {functional}",
            "the family has none of this label",
            f"remove {symbol} from elements, or name another label in the protocol (potcars.labels)",
        )
        return
    if is_meta_gga(ours) and not entry.tau:
        yield Missing(
            f"POTCAR {label} ({family})",
            f"{symbol} in {functional}",
            "it has no kinetic energy density, which a meta-GGA needs",
            "name a family that has them in the protocol (potcars.family: PBE_54)",
        )


def _potcar(family: str, label: str, users: str) -> Iterator[Missing]:
    try:
        expected = vasp_potcars.known(family, label)
    except EngineError:
        return  # said by _unfit
    path = vasp_potcars.find(family, label)
    what = f"POTCAR {label} ({family})"
    if path is None:
        place = vasp_potcars.places(family, label)[0]
        yield Missing(what, users, f"no {place}(.gz)", "add it to the library from your licensed copy")
        return
    try:
        found = vasp_potcars.read(path)
    except EngineError as error:
        yield Missing(what, users, str(error), "replace it by a whole one")
        return
    if found["electrons"] != expected.electrons:
        wanted = f"{expected.title} with {expected.electrons:g} valence electrons"
        had = f"{found['title']} with {found['electrons']:g}"
        yield Missing(what, users, had, f"replace it by {wanted}")
    elif found["title"] != expected.title:
        yield Missing(
            what, users, found["title"], f"replace it by {expected.title}, the one of the family {family}"
        )


def _programs(execution: Execution) -> Iterator[Missing]:
    for key, words in (("launcher", execution.launcher), ("command", execution.command)):
        if words and shutil.which(words[0], path=execution.environment.get("PATH")) is None:
            yield Missing(
                f"program {words[0]}",
                f"execution.{key}",
                "not an executable on PATH",
                "load VASP's module where the campaign is started and in the jobs, or give its whole path",
            )
