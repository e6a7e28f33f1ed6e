"""The words that tables use for what happened, each with the sentence that explains it.

Tables store the value (a lower-case word); the report and the data dictionary print the sentence.
"""

from enum import StrEnum
from typing import Self


class Described(StrEnum):
    """A string enum whose members carry a sentence: `MEMBER = "value", "sentence"`."""

    description: str

    def __new__(cls, value: str, description: str) -> Self:
        """Make a member from its value and its sentence."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.description = description
        return member


class Stratum(Described):
    """Why a candidate was chosen for computation."""

    ELEMENT = "element", "an elemental structure, needed as a reference of the hull"
    INCLUDE = "include", "named in the configuration by the user"
    COVERAGE = "coverage", "chosen for the diversity of prototypes and compositions, before any model exists"
    EXPLOIT = "exploit", "among the lowest predicted distances to the hull"
    EXPLORE = "explore", "the model is uncertain about it"
    CONTROL = (
        "control",
        "drawn at random from all candidates, so that hit rates have something to be compared to",
    )


class PrerelaxStatus(Described):
    """How the pre-relaxation of a candidate ended."""

    CONVERGED = "converged", "forces and stress fell below the limits"
    NOT_CONVERGED = "not_converged", "the limit of steps or time was reached; the last geometry is used"
    EXPLODED = "exploded", "the volume grew beyond the gate or an atom lost its neighbours; the start is used"
    COLLAPSED = "collapsed", "atoms came too close or the volume fell below the gate; the start is used"
    FAILED = (
        "failed",
        "the potential raised an error, gave NaN or an energy outside of its window; the start is used",
    )
    SKIPPED = "skipped", "no potential is configured; the start at the estimated volume is used"


class FailureReason(Described):
    """Why a calculation has no converged result."""

    SCF_NOT_CONVERGED = (
        "scf_not_converged",
        "the electronic steps did not converge with any of the allowed settings",
    )
    IONIC_NOT_CONVERGED = (
        "ionic_not_converged",
        "forces or stress did not fall below the limits in all continuations",
    )
    NUMERICS = (
        "numerics",
        "the engine's mixing, diagonalisation or line search broke down with all of the allowed settings",
    )
    SYMMETRY = (
        "symmetry",
        "the engine's symmetry analysis or its k-points broke down with all of the allowed settings",
    )
    REFUSED = "refused", "the engine refused its input"
    NODE_FAILURE = (
        "node_failure",
        "the engine's process ended without any output or on a full disk, again and again, while others ran",
    )
    CRASHED = "crashed", "the engine's process ended without a result, repeatedly"
    OUT_OF_MEMORY = "out_of_memory", "the engine ran out of memory, repeatedly"
    WALLTIME = "walltime", "the time limit of the step was reached, repeatedly"
    HUNG = "hung", "the engine gave no sign of life for too long, repeatedly"
    ATOMS_TOO_CLOSE = "atoms_too_close", "two atoms came closer than the sum of their radii allows"
    VOLUME_OUT_OF_BOUNDS = "volume_out_of_bounds", "the volume left the allowed range around its start"
    NOT_A_NUMBER = "not_a_number", "an energy, force or stress was NaN or infinite"
    MISSING_DATASET = "missing_dataset", "the engine has no PAW data set or parameters for an element"
    BAD_OUTPUT = "bad_output", "the engine reported success, but its output is incomplete or inconsistent"
    NOT_IN_TABLE = "not_in_table", "the table of known results that is replayed has no row for the candidate"
    ENGINE_ERROR = "engine_error", "the engine raised an error that no handler knows"


class RunRefusal(Described):
    """Why a run that was found in a folder is neither a calculation nor a failure."""

    FOREIGN = "foreign", "the file is not VASP's, is damaged, or holds nothing that was computed"
    UNREADABLE = "unreadable", "the folder or the file can't be opened"
    NO_OUTPUT = "no_output", "VASP's inputs or OSZICAR are here, but neither vasprun.xml nor OUTCAR"
    TRUNCATED = "truncated", "the file ends early: the run was killed, or the copy is not whole"
    NO_ENERGY = "no_energy", "the run is whole and has no ionic step with an energy"
    THEORY_UNKNOWN = (
        "theory_unknown",
        "functional, POTCARs or cutoff can't be told, or a correction has no tag",
    )
    NOT_A_MINIMUM = (
        "not_a_minimum",
        "molecular dynamics, a transition path, phonons or response: no single structure is computed",
    )
    NOT_SELF_CONSISTENT = (
        "not_self_consistent",
        "a fixed charge density (ICHARG 10 and above), a machine-learned force field, or no ground state",
    )
    CHARGED = "charged", "the cell is not neutral, so its energy has no place on a hull"
    CONTRADICTORY = "contradictory", "vasprun.xml and OUTCAR in the folder are of two different runs"
    REPEATED = "repeated", "another folder holds a run of the same theory from the same starting geometry"


class HullStatus(Described):
    """Whether a row could be placed relative to the hull."""

    OK = "ok", "formation energy and distance are given"
    MISSING_REFERENCE = (
        "missing_reference",
        "an element of the row has no elemental calculation in this theory",
    )
    IMPOSSIBLE_ENERGY = (
        "impossible_energy",
        "its energy can't be one, judged by formation energies that would follow; it takes no part in the hull",
    )
    INCOMPATIBLE = (
        "incompatible",
        "the correction scheme doesn't fit, or without a scheme U is another than that of the elements",
    )


class NullReason(Described):
    """Why a property of a calculation is absent; where it is in a hull but not placed, `HullStatus` has the reason."""

    NOT_COMPUTED = "not_computed", "no step of the protocol gives it; static steps do"
    NOT_TOLD = "not_told", "the imported files don't tell"
    NOT_PERIODIC = "not_periodic", "the volume of a crystal that is not periodic along all axes is arbitrary"
    NOT_IN_HULL = "not_in_hull", "settings that touch the energy were changed (protocol_drift)"


class HullChange(Described):
    """What a round changed for an entry on the hull."""

    ENTERED = "entered", "the entry is on the hull and was not before the round"
    LEFT = "left", "the entry was on the hull before the round and lies above it now"


class ImportRefusal(Described):
    """Why a row of a source did not become an entry."""

    UNREADABLE = "unreadable", "the row is not what its format says"
    NO_ID = "no_id", "the row has no id"
    REPEATED_ID = "repeated_id", "an earlier row has the id"
    BAD_FORMULA = (
        "bad_formula",
        "the composition is empty, not whole, or names something that is no element",
    )
    NO_ENERGY = "no_energy", "the row has neither a total nor a formation energy"
    ENERGY_NOT_FINITE = "energy_not_finite", "an energy is no finite number"
    OTHER_FUNCTIONAL = "other_functional", "the row names another functional than the user"
    OTHER_THEORY = "other_theory", "an earlier row has another Hubbard U for one of its elements"
    BAD_STRUCTURE = (
        "bad_structure",
        "the structure can't be read, is partly occupied, or has another composition",
    )


class RejectionReason(Described):
    """Why a frame of a calculation is not published among the frames."""

    NOT_FINITE = "not_finite", "an energy, force, stress or position is no finite number"
    ELECTRONIC_NOT_CONVERGED = (
        "electronic_not_converged",
        "the electronic steps of this step did not converge",
    )
    PROTOCOL_DRIFT = "protocol_drift", "the recovery changed settings that touch the energy"
    ENERGY_OUT_OF_BOUNDS = "energy_out_of_bounds", "the energy per atom is outside the allowed range"
    FORCE_OUT_OF_BOUNDS = "force_out_of_bounds", "a force is larger than allowed"
    STRESS_OUT_OF_BOUNDS = "stress_out_of_bounds", "a component of the stress is larger than allowed"
    ATOMS_TOO_CLOSE = "atoms_too_close", "two atoms are closer than allowed"
    ISOLATED_ATOM = "isolated_atom", "an atom has no neighbour within the allowed distance"
    NEAR_DUPLICATE = "near_duplicate", "its calculation ended in the structure of another one"
    DUPLICATE = "duplicate", "another frame has the geometry, in the same theory and step of the protocol"
    THINNED = "thinned", "the energy hardly differs from that of the step kept before it"


class Change(Described):
    """What became of an id between two releases."""

    ADDED = "added", "not in the previous release"
    CHANGED = "changed", "in both; only what follows from other rows or from settings differs"
    SUPERSEDED = "superseded", "left out, for another calculation of the same candidate and theory"
    WITHDRAWN = "withdrawn", "left out"


class Withdrawal(Described):
    """Why an id of an earlier release is not in this one, where no failure and no rejection says it."""

    OTHER_CALCULATION = (
        "other_calculation",
        "another calculation of the same candidate and theory is in its place",
    )
    FUNCTIONAL_LEFT_OUT = "functional_left_out", "the release does not cover its functional any more"
    CALCULATION_LEFT_OUT = "calculation_left_out", "its calculation is not in the release any more"
    NO_CALCULATION = "no_calculation", "no calculation of the release has this geometry"


class Side(Described):
    """What a frame is for."""

    TRAIN = "train", "for training"
    VALIDATION = "validation", "for choices made during training"
    TEST = "test", "for nothing but the final test"
