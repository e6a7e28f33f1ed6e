"""Failures on order: which one comes at this attempt, and how it looks.

The plan is JSON in the file that VASP_STAND_IN_FAULTS names, or in `stand-in-faults.json` beside the executable's
inputs. It is either a list of orders, `{"match": "relax1", "faults": ["brmix", ""], "formula": "Al1Cu1"}` (the first
whose `match` is part of the folder's path, and whose formula is the cell's, gives the fault of each attempt), or a
draw, `{"seed": 1, "share": 0.1, "kinds": [...], "forever": 0.5}`, decided by a hash of the attempt's first inputs, so
that equal campaigns fail equally wherever they run.
"""

import hashlib
import json
import os
from pathlib import Path

PLAN_VARIABLE = "VASP_STAND_IN_FAULTS"
PLAN_FILE = "stand-in-faults.json"
#: How often this folder was tried, and the hash of what was tried first.
COUNT_FILE = ".stand-in"

#: VASP's own words, by custodian's names for them, and after how many ionic steps they come.
WORDS = {
    "zbrent": (" ZBRENT: fatal error in bracketing\n     please rerun with smaller EDIFF, or copy CONTCAR\n     to POSCAR and continue", 2),
    "brmix": (" BRMIX: very serious problems\n the old and the new charge density differ", 0),
    "edddav": (" Error EDDDAV: Call to ZHEGV failed. Returncode =   7 1   8", 0),
    "eddrmm": (" WARNING in EDDRMM: call to ZHEGV failed, returncode =   6  3     17", 0),
    "pricel": (" internal error in subroutine PRICEL (probably precision problem, try to change SYMPREC in INCAR ?)", 0),
    "posmap": (" POSMAP internal error: symmetry equivalent atom not found,", 0),
    "rot_matrix": (" VERY BAD NEWS! internal error in subroutine SGRCON:\n Found some non-integer element in rotation matrix         3", 0),
    "tetirr": (" VERY BAD NEWS! internal error in subroutine IBZKPT:\n Routine TETIRR needs special values for the k-mesh", 0),
    "rspher": (" ERROR RSPHER : internal error RSPHER running on too many points", 0),
    "zpotrf": (" LAPACK: Routine ZPOTRF failed!           1", 1),
    "brions": (" BRIONS problems: POTIM should be increased", 1),
    "too_few_bands": (" TOO FEW BANDS!!", 0),
    "real_optlay": (" REAL_OPTLAY: internal error (1)", 0),
    "bravais": (" Inconsistent Bravais lattice types found for crystalline and\n reciprocal lattice", 0),
    "subspacematrix": (" WARNING: Sub-Space-Matrix is not hermitian in DAV            4", 0),
}  # fmt: skip
#: The other ways to fail, see `vaspdouble.program`.
BEHAVIOURS = (
    "nelm", "nelm_inside", "nsw", "nan", "hang", "killed", "disk", "truncated", "nothing", "node", "memory", "explode",
    "close", "positive", "moment", "unknown",
)  # fmt: skip
#: Attempts that a fault which lasts spoils.
FOREVER = 50


def next_fault(folder: Path, inputs: bytes, formula: str) -> str:
    """Count this attempt; give the fault that it shall have, or nothing."""
    plan = _plan(folder)
    if not plan:
        return ""
    path = folder / COUNT_FILE
    count, first = json.loads(path.read_text()) if path.is_file() else (0, hashlib.sha256(inputs).hexdigest())
    path.write_text(json.dumps([count + 1, first]))
    faults = _ordered(plan, folder, formula) if isinstance(plan, list) else _drawn(plan, first)
    fault = faults[count] if count < len(faults) else ""
    if fault and fault not in WORDS and fault not in BEHAVIOURS:
        raise SystemExit(f"stand-in: unknown fault {fault}")
    return fault


def _plan(folder: Path):
    for path in (os.environ.get(PLAN_VARIABLE, ""), folder / PLAN_FILE):
        if path and Path(path).is_file():
            return json.loads(Path(path).read_text())
    return None


def _ordered(plan, folder: Path, formula: str) -> list[str]:
    for order in plan:
        if order.get("match", "") in str(folder) and order.get("formula", formula) == formula:
            return order["faults"] * order.get("times", 1)
    return []


def _drawn(plan, first: str) -> list[str]:
    def draw(what: str) -> float:
        digest = hashlib.sha256(f"{plan.get('seed', 0)}:{what}:{first}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    if draw("share") >= plan["share"]:
        return []
    kinds = plan.get("kinds") or [*WORDS, *BEHAVIOURS]
    times = FOREVER if draw("forever") < plan.get("forever", 0.5) else 1
    return [kinds[int(draw("kind") * len(kinds))]] * times
