"""Every column of every table: its type, its unit and its meaning, in one place.

Tables are written and read only through `hullforge.store.tables`, which takes its Arrow schemas from here;
the data dictionary and the data cards are printed from here too. Names follow OPTIMADE where it has one.
Units: eV, angstrom, eV/angstrom, eV/angstrom^3 (stress with ASE's sign: positive under tension), Bohr magneton.
"""

from dataclasses import dataclass

import pyarrow as pa

from hullforge.store import definitions
from hullforge.store.columns import (
    BOOL,
    CELL,
    F64,
    HUBBARDS,
    I8,
    I16,
    I32,
    I64,
    NULL_REASONS,
    PBC,
    STR,
    U8,
    U16,
    VEC3,
    C,
    Column,
    P,
    many,
    optional,
)  # fmt: skip

#: Raised whenever a column changes its type or meaning, or disappears; a reader refuses what is newer than itself, and
#: reads what is older (`tables.modern`). 2: no maps, and no lists of fixed size where a row may be null.
SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Table:
    """One table: its columns and the columns whose order its rows are sorted by."""

    name: str
    description: str
    sort_by: tuple[str, ...]
    columns: tuple[Column, ...]

    def arrow(self) -> pa.Schema:
        """Give the Arrow schema, with the schema's version as metadata."""
        metadata = {"hullforge.table": self.name, "hullforge.schema_version": str(SCHEMA_VERSION)}
        fields = []
        for column in self.columns:
            field = column.field()
            fields.append(field.with_metadata(field.metadata | definitions.metadata(self.name, column.name)))
        return pa.schema(fields, metadata=metadata)


PROTOTYPE_ID = C(
    "prototype_id", STR, "id of the prototype: protostructure label and a hash of its shell graph"
)
CANDIDATE_ID = C("candidate_id", STR, "id of the candidate: prototype and elements")
#: For the tables that imported calculations stand in, too.
_IMPORTED = "imported, not made from a prototype"
PROTOTYPE_ID_OR_NONE = C("prototype_id", STR, PROTOTYPE_ID.description, "", _IMPORTED)
CANDIDATE_ID_OR_NONE = C("candidate_id", STR, CANDIDATE_ID.description, "", _IMPORTED)
ROUND = C("round", I16, "round of the campaign, from 0; 0 where it was imported")
BATCH = C("batch", I32, "batch within the round, from 0")
FUNCTIONAL = C("functional", STR, "exchange-correlation functional: PBE, PBEsol, SCAN, ...")
THEORY_ID = C(
    "theory_id", STR, "hash of everything that fixes the energy; energies of two theories never mix"
)
SPECIES = C("species", many(STR), "element on each species of the prototype, in the prototype's order")
RANK = C(
    "rank", I64, "rank of the decoration among the distinct decorations of its prototype in this element pool"
)

GEOMETRY = (
    C("numbers", many(U8), "atomic numbers, one per site"),
    C("cell", CELL, "lattice vectors, row-major", "angstrom"),
    C("positions", many(VEC3), "Cartesian positions, one per site", "angstrom"),
    C("pbc", PBC, "periodic along each lattice vector"),
)
DERIVED = (
    C("nsites", I32, "number of atoms in the cell"),
    C("volume", F64, "volume of the cell", "angstrom^3"),
    C("elements", many(STR), "elements present, alphabetical"),
    C("nelements", I8, "number of elements"),
    C("chemsys", STR, "elements joined by '-', alphabetical"),
    C("chemical_formula_reduced", STR, "reduced formula, elements alphabetical, as in OPTIMADE"),
)
START = (
    CANDIDATE_ID, PROTOTYPE_ID, ROUND, BATCH,
    C("structure_id", STR, "id of the geometry in this row"),
    *GEOMETRY, *DERIVED,
)  # fmt: skip
#: Appended, so that tables made before retries existed are read as they are.
SUPERSEDES = Column(
    "supersedes",
    STR,
    "failed calculation that this one tries again, with other settings; its row stays",
    "",
    "the first try",
    added=True,
)
#: What a release adds to a table of the rounds.
SIDES = (
    Column("structure_group", STR, "what is kept on one side of the split: the reduced formula, or the chemical system", "", "not of a release", added=True),
    Column("split", STR, "train, validation or test; the same for all of one structure group", "", "not of a release", added=True),
)  # fmt: skip
CHEMISTRY = tuple(
    Column(name, type_, description, "", "not of a release", added=True)
    for name, type_, description in (
        ("nelements", I8, "number of elements"),
        ("chemsys", STR, "elements joined by '-', alphabetical"),
        ("chemical_formula_reduced", STR, "reduced formula, elements alphabetical, as in OPTIMADE"),
    )
)
PREDICTION_NULL = "no screener exists yet, or the row was not chosen by it"
PREDICTION = (
    C("predicted_formation_energy_per_atom", F64, "mean of the screener's ensemble", "eV/atom", PREDICTION_NULL),
    C("predicted_e_above_hull", F64, "prediction against the hull of the round before; negative: below it", "eV/atom", PREDICTION_NULL),
    C("uncertainty", F64, "standard deviation of the prediction (spread of the ensemble and its own noise)", "eV/atom", PREDICTION_NULL),
    C("predicted_volume_per_atom", F64, "mean of the screener's ensemble", "angstrom^3/atom", PREDICTION_NULL),
    C("latent_distance", F64, "distance to the training set in the screener's latent space; 1: as far as its records lie apart", "", PREDICTION_NULL),
)  # fmt: skip

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(
            "prototypes",
            "what can be decorated: each prototype compiled once, without elements",
            ("prototype_id",),
            (
                PROTOTYPE_ID,
                C("protostructure", STR, "protostructure label in AFLOW style, species as letters: AB2_cF12_225_a_c"),
                C("name", STR, "common name: mineral, Strukturbericht or file name"),
                C("source", STR, "where it comes from: aflow, or the file's name"),
                C("space_group_it_number", I16, "space group number of the prototype with its own species"),
                C("symprec", F64, "tolerance of the symmetry search", "angstrom"),
                C("nsites", I32, "sites in the symmetrised primitive cell"),
                C("nspecies", I8, "number of species"),
                C("species_counts", many(I32), "sites of each species in the primitive cell"),
                C("site_species", many(I8), "species (from 0) of each site"),
                C("cell", CELL, "lattice vectors of the symmetrised primitive cell, row-major, as in the source", "angstrom"),
                C("positions", many(VEC3), "Cartesian positions of the sites", "angstrom"),
                C("pbc", PBC, "periodic along each lattice vector"),
                C("site_class", many(I16), "class of each site in the 1-WL equitable partition of the shell graph"),
                C("class_species", many(I8), "species of each class"),
                C("class_multiplicity", many(I16), "number of sites of each class"),
                C("edge_source", many(I16), "class at the centre, one per unique edge"),
                C("edge_target", many(I16), "class of the neighbour, one per unique edge"),
                C("edge_shell", many(I16), "shell of the neighbour, from 0 (nearest)"),
                C("edge_weight", many(F64), "number of such neighbours; the shell cut at 24 neighbours counts in part"),
                C("automorphisms", many(many(I8)), "species permutations that leave label and shell graph unchanged, identity included, sorted"),
            ),
        ),
        Table(
            "rejects",
            "structures that could not become prototypes",
            ("source", "name", "reason"),
            (
                C("source", STR, "where it comes from: aflow, the file's name, or the calculation of an earlier round"),
                C("name", STR, "name of the structure: mineral, file name, name or id in a table"),
                C("reason", STR, "why it can't be a prototype"),
            ),
        ),
        Table(
            "screen",
            "survivors of the screening of one shard of decorations",
            ("prototype_id", "rank"),
            (
                PROTOTYPE_ID,
                RANK,
                SPECIES,
                CANDIDATE_ID,
                C("is_control", BOOL, "kept because of a hash of its id, whatever its prediction"),
                *PREDICTION,
            ),
        ),
        Table(
            "selection",
            "what a round computes, and why",
            ("batch", "candidate_id"),
            (
                CANDIDATE_ID,
                PROTOTYPE_ID,
                ROUND,
                BATCH,
                C("rank", I64, RANK.description),
                SPECIES,
                C("chemical_formula_reduced", STR, "reduced formula, elements alphabetical"),
                C("stratum", STR, "why it was chosen: element, include, coverage, exploit, explore, control"),
                *PREDICTION,
            ),
        ),
        Table(
            "prerelax",
            "starting geometries of a batch after the pre-relaxation",
            ("candidate_id",),
            (
                *START,
                C("status", STR, "how the pre-relaxation ended"),
                C("message", STR, "what went wrong, or empty"),
                C("backend", STR, "potential that was used, with its version"),
                C("n_steps", I32, "steps taken"),
                C("volume_ratio", F64, "final over starting volume of the pre-relaxation", "", "the potential gave no usable geometry"),
                C("energy_per_atom", F64, "energy of the potential: of its own theory, never mixed with DFT", "eV/atom", "the potential gave no usable geometry"),
            ),
        ),
        Table(
            "labels",
            "random candidates with energies of a potential, which the screener is pre-trained on; no DFT",
            ("candidate_id",),
            (
                CANDIDATE_ID,
                PROTOTYPE_ID,
                SPECIES,
                C("energy_per_atom", F64, "lowest energy of the ideal prototype as it is scaled: of the potential's own theory, never mixed with DFT", "eV/atom", "the scan found none"),
                C("volume_per_atom", F64, "volume there", "angstrom^3", "the scan found none, or an axis is not periodic"),
                C("status", STR, "how the scan ended, as a pre-relaxation"),
                C("message", STR, "what went wrong, or empty"),
                C("n_evaluations", I32, "energies that were computed"),
                C("backend", STR, "potential that was used, with its version"),
            ),
        ),
        Table(
            "promotion",
            "structures near the first functional's hull, which go on to the next functionals",
            ("batch", "candidate_id"),
            (
                *START,
                C("parent_calculation_id", STR, "calculation whose final geometry this is"),
                C("e_above_hull", F64, "distance to the hull that decided", "eV/atom"),
            ),
        ),
        Table(
            "retries",
            "failures that an open round tries again, from the same geometry with other settings",
            ("functional", "candidate_id"),
            (
                *START,
                FUNCTIONAL,
                THEORY_ID,
                C("supersedes", STR, "the failed calculation"),
                C("reason", STR, "why it failed"),
                C("settings", STR, "what is changed, as JSON: numerics, limits, max_ionic_steps"),
            ),
        ),
        Table(
            "calculations",
            "one row per structure and functional with a converged result",
            ("functional", "nelements", "chemsys", "chemical_formula_reduced", "calculation_id"),
            (
                C("calculation_id", STR, "id: theory, candidate and starting geometry"),
                C("structure_id", STR, "id of the final geometry, the one in this row"),
                C("parent_structure_id", STR, "id of the starting geometry"),
                CANDIDATE_ID_OR_NONE,
                PROTOTYPE_ID_OR_NONE,
                ROUND,
                C("source", STR, "where the calculation comes from: the campaign's name, or the imported folder"),
                FUNCTIONAL,
                THEORY_ID,
                C("run_type", STR, "GGA, GGA+U, metaGGA, classical or replay; LDA or hybrid where imported"),
                C("hubbards", HUBBARDS, "Hubbard U by element; empty: none", "eV", keyed=True),
                C("software", STR, "engine"),
                C("software_version", STR, "version of the engine"),
                C("pseudopotentials", many(STR), "PAW data sets or the like, one per element, alphabetical"),
                C("input_hash", STR, "hash of the first step's input as the engine got it"),
                C("encut", F64, "plane-wave cutoff", "eV", "the engine has none"),
                C("kpoints", many(U16), "grid of the last step, Gamma-centred unless imported", "", "the engine has none, or no grid", length=3),
                C("steps", many(STR), "steps of the protocol that were run, in order"),
                C("energy", F64, "total energy of the cell at the last step, extrapolated to zero smearing", "eV"),
                C("energy_per_atom", F64, "energy over number of atoms", "eV/atom"),
                C("free_energy", F64, "electronic free energy of the cell at the last step, the one that forces and stress belong to", "eV", "the engine does not say"),
                C("forces", many(VEC3), "forces of the last step", "eV/angstrom", "the last step gives none"),
                C("stress", many(F64), "stress of the last step: xx, yy, zz, yz, xz, xy; positive under tension", "eV/angstrom^3", "the last step gives none", length=6),
                C("max_force", F64, "largest norm of a force", "eV/angstrom", "the last step gives none"),
                C("max_stress", F64, "largest absolute component of the stress", "eV/angstrom^3", "the last step gives none"),
                C("magmoms", many(F64), "magnetic moments, one per site", "Bohr magneton", "not spin-polarised"),
                C("total_magnetization", F64, "magnetic moment of the cell, from a static step, or the last one where imported", "Bohr magneton", "no static step, or not told where imported"),
                C("band_gap", F64, "indirect band gap on the grid of a static step; 0 for metals", "eV", "no static step, or not told where imported"),
                C("dos_at_fermi", F64, "density of states at the Fermi level of a static step, both spins", "states/eV", "no static step, or not told where imported"),
                C("n_ionic_steps", I32, "ionic steps over all steps of the protocol"),
                C("n_attempts", I32, "engine runs over all steps, those that failed included"),
                C("errors", many(STR), "errors met and overcome, 'step:code', in order"),
                C("corrections", many(STR), "settings changed by the recovery, 'step:setting=value', in order"),
                C("protocol_drift", many(STR), "corrections that touch the energy; such rows stay out of hulls and training"),
                C("flags", many(STR), "'step:flag' for what a reader should know: moments_flipped, moments_lost (against the start, and the step before), unconverged_ionic_steps=n", "", "nothing to say"),
                *GEOMETRY,
                *DERIVED,
                *SIDES,
                SUPERSEDES,
            ),
        ),
        Table(
            "frames",
            "every ionic step of every converged calculation",
            ("nelements", "chemsys", "chemical_formula_reduced", "calculation_id", "step"),
            (
                C("frame_id", STR, "calculation_id and step"),
                C("calculation_id", STR, "calculation that the frame belongs to"),
                FUNCTIONAL,
                THEORY_ID,
                C("step", I32, "number of the frame within the calculation, from 0"),
                C("protocol_step", STR, "step of the protocol: relax1, static, ..."),
                *GEOMETRY,
                C("energy", F64, "total energy of the cell, extrapolated to zero smearing", "eV"),
                C("free_energy", F64, "electronic free energy of the cell, the one that forces and stress belong to", "eV", "the engine does not say"),
                C("electronic_converged", BOOL, "the electronic steps of this ionic step converged", "", "the engine does not say"),
                C("forces", many(VEC3), "forces, consistent with the free energy", "eV/angstrom", "the step gives none"),
                C("stress", many(F64), "stress: xx, yy, zz, yz, xz, xy; positive under tension", "eV/angstrom^3", "the step gives none", length=6),
                C("magmoms", many(F64), "magnetic moments, one per site", "Bohr magneton", "not spin-polarised"),
                *CHEMISTRY,
                *SIDES,
            ),
        ),
        Table(
            "rejections",
            "frames that the curation of a release left out, each with its reason",
            ("functional", "nelements", "chemsys", "chemical_formula_reduced", "calculation_id", "step"),
            (
                C("frame_id", STR, "calculation_id and step"),
                C("calculation_id", STR, "calculation that the frame belongs to"),
                FUNCTIONAL,
                THEORY_ID,
                C("step", I32, "number of the frame within the calculation, from 0"),
                C("protocol_step", STR, "step of the protocol: relax1, static, ..."),
                C("reason", STR, "code of the reason"),
                C("message", STR, "what was found, and what is allowed"),
                *DERIVED[-3:],
            ),
        ),
        Table(
            "changes",
            "ids that came since the previous release, and all ids of earlier ones that are not in this one",
            ("table", "change", "id"),
            (
                C("table", STR, "table that the id belongs to: structures, calculations, frames or prototypes"),
                C("id", STR, "id in that table: structure_id, calculation_id, frame_id or prototype_id"),
                C("change", STR, "added, changed, superseded or withdrawn"),
                C("version", STR, "version of the release in which that happened"),
                C("superseded_by", STR, "calculation in its place", "", "none is"),
                C("reason", STR, "code of the reason", "", "not known, or added"),
                C("columns", many(STR), "columns that changed; of ids left out: columns and types that were hashed"),
                C("hashes", many(STR), "of ids left out: a hash of each column, by which the id is known should it come back"),
            ),
        ),
        Table(
            "failures",
            "one row per structure and functional without a converged result",
            ("functional", "chemsys", "chemical_formula_reduced", "calculation_id"),
            (
                C("calculation_id", STR, "id: theory, candidate and starting geometry"),
                CANDIDATE_ID_OR_NONE,
                PROTOTYPE_ID_OR_NONE,
                ROUND,
                C("source", STR, "the campaign's name, or the imported folder"),
                FUNCTIONAL,
                THEORY_ID,
                C("parent_structure_id", STR, "id of the starting geometry, the one in this row"),
                C("reason", STR, "code of the failure"),
                C("protocol_step", STR, "step of the protocol that failed"),
                C("message", STR, "the engine's own words, shortened"),
                C("n_attempts", I32, "engine runs over all steps"),
                C("errors", many(STR), "errors met, 'step:code', in order"),
                C("corrections", many(STR), "settings changed by the recovery, 'step:setting=value', in order"),
                C("protocol_drift", many(STR), "corrections that touch the energy"),
                *GEOMETRY,
                *DERIVED,
                SUPERSEDES,
            ),
        ),
        Table(
            "costs",
            "what each calculation cost on the machine that ran it; not part of a release, since it never repeats",
            ("functional", "calculation_id"),
            (
                C("calculation_id", STR, "calculation or failure that the cost belongs to"),
                FUNCTIONAL,
                ROUND,
                C("walltime_s", F64, "wall time of all attempts", "s"),
                C("cpu_time_s", F64, "CPU time of all attempts, children included", "s"),
                C("max_memory_mib", F64, "largest resident memory", "MiB"),
            ),
        ),
        Table(
            "hull",
            "formation energies and distances to the convex hull of one functional, of all rounds so far",
            ("nelements", "chemsys", "chemical_formula_reduced", "calculation_id"),
            (
                C("calculation_id", STR, "calculation that is placed"),
                C("structure_id", STR, "its final geometry"),
                CANDIDATE_ID_OR_NONE,
                PROTOTYPE_ID_OR_NONE,
                ROUND,
                FUNCTIONAL,
                THEORY_ID,
                C("correction_scheme", STR, "energy correction applied before the hull: none or MP2020"),
                C("hull_version", I16, "round after which the hull was made"),
                *DERIVED,
                C("energy_per_atom", F64, "energy as calculated, without correction", "eV/atom"),
                C("energy_correction_per_atom", F64, "what was added to it before it was placed", "eV/atom", "the scheme doesn't fit the calculation"),
                C("correction_note", STR, "what was corrected; after 'incompatible' why the energy can't be placed"),
                C("formation_energy_per_atom", F64, "against the lowest elemental calculations of the same theory, corrected", "eV/atom", "the row is not placed: see hull_status"),
                C("e_above_hull", F64, "distance to the convex hull", "eV/atom", "the row is not placed: see hull_status"),
                C("is_on_hull", BOOL, "e_above_hull <= 1e-8 eV/atom"),
                C("hull_status", STR, "ok, missing_reference, incompatible or impossible_energy"),
                C("decomposition", many(pa.struct([("calculation_id", STR), ("fraction", F64)])), "stable phases at this composition, fractions of atoms"),
                C("chemical_potentials", many(F64), "one per element of `elements`, relative to the elemental references", "eV/atom", "the row is not placed: see hull_status"),
            ),
        ),
        Table(
            "properties",
            "the seven properties that ALEXANDRIA reports, one row per calculation; absent values with their reason",
            ("nelements", "chemsys", "chemical_formula_reduced", "calculation_id"),
            (
                C("calculation_id", STR, "calculation that they belong to"),
                C("structure_id", STR, "its final geometry"),
                FUNCTIONAL,
                THEORY_ID,
                C("nsites", I32, "number of atoms in the cell"),
                C("nelements", I8, "number of elements"),
                C("chemsys", STR, "elements joined by '-', alphabetical"),
                C("chemical_formula_reduced", STR, "reduced formula, elements alphabetical, as in OPTIMADE"),
                P("energy"),
                P("energy_per_atom"),
                C("correction_scheme", STR, "energy correction of the hull that the next two belong to", "", "the row is in no hull"),
                *(P(column) for column in definitions.SEVEN[1:]),
                C("null_reasons", NULL_REASONS, "of each absent property the code of the reason: see property_definitions.json", keyed=True),
            ),
        ),
        Table(
            "hull_changes",
            "what a round changed on the hull of one functional: the entries that entered it and those that left it",
            ("change", "nelements", "chemsys", "chemical_formula_reduced", "calculation_id"),
            (
                C("calculation_id", STR, "the calculation, or the phase_id of a known phase"),
                C("prototype_id", STR, PROTOTYPE_ID.description, "", "a known phase"),
                C("round", I16, "round that the calculation belongs to", "", "a known phase"),
                FUNCTIONAL,
                C("correction_scheme", STR, "energy correction applied before both hulls"),
                C("hull_version", I16, "round that made the change; in round 0 everything on the hull has entered it"),
                C("elements", many(STR), "elements present, alphabetical"),
                C("nelements", I8, "number of elements"),
                C("chemsys", STR, "elements joined by '-', alphabetical"),
                C("chemical_formula_reduced", STR, "reduced formula, elements alphabetical, as in OPTIMADE"),
                C("change", STR, "entered or left"),
                C("is_reference", BOOL, "the entry has become (entered) or was (left) the reference of its element"),
                C("formation_energy_per_atom", F64, "against the references after the round", "eV/atom", "the entry is not placed any more"),
                C("e_above_hull_before", F64, "distance to the hull before the round; negative: below it; 0 for what left it", "eV/atom", "no hull before, or an element had no reference then"),
                C("e_above_hull", F64, "distance to the hull after the round; of what left: how far it was pushed up", "eV/atom", "the entry is not placed any more"),
                C("decomposition", many(pa.struct([("calculation_id", STR), ("fraction", F64)])), "stable phases at this composition after the round, fractions of atoms"),
                C("displaced_by", many(STR), "of what left: the phases of its decomposition that were not on the hull before"),
            ),
        ),
        Table(
            "elemental_references",
            "the lowest elemental calculation or known phase of each element, per theory and correction scheme",
            ("functional", "correction_scheme", "element"),
            (
                C("element", STR, "chemical symbol"),
                FUNCTIONAL,
                THEORY_ID,
                C("correction_scheme", STR, "energy correction of the hull that it is a reference of; elements get none"),
                C("calculation_id", STR, "the calculation, or the phase_id of a known phase"),
                C("structure_id", STR, "its final geometry; empty for a known phase"),
                C("energy_per_atom", F64, "its energy", "eV/atom"),
            ),
        ),
        Table(
            "known_phases",
            "phases known before the campaign, relative to the hull of one functional; none of them was computed",
            ("nelements", "chemsys", "chemical_formula_reduced", "phase_id"),
            (
                C("phase_id", STR, "known: and the id in the user's table; decompositions name it as a calculation_id"),
                FUNCTIONAL,
                C("hull_version", I16, "round after which the hull was made"),
                C("elements", many(STR), "elements present, alphabetical"),
                C("nelements", I8, "number of elements"),
                C("chemsys", STR, "elements joined by '-', alphabetical"),
                C("chemical_formula_reduced", STR, "reduced formula, elements alphabetical, as in OPTIMADE"),
                C("energy_per_atom", F64, "energy on the scale of the campaign's calculations", "eV/atom"),
                C("formation_energy_per_atom", F64, "against the lowest phase of each element, known or computed", "eV/atom", "an elemental reference is missing"),
                C("e_above_hull", F64, "distance to the convex hull", "eV/atom", "an elemental reference is missing"),
                C("is_on_hull", BOOL, "e_above_hull <= 1e-8 eV/atom"),
            ),
        ),
        Table(
            "replay",
            "known results that the engine replay answers from; the table of candidates of such a campaign, too",
            ("candidate_id",),
            (
                CANDIDATE_ID,
                PROTOTYPE_ID,
                SPECIES,
                FUNCTIONAL,
                *GEOMETRY,
                *DERIVED,
                C("energy_per_atom", F64, "energy; of formation where the source gives no total energies", "eV/atom"),
                C("e_above_known", F64, "distance to the hull of the known phases alone; negative: below it", "eV/atom", "no phases are known beforehand"),
                C("site_distance", F64, "root mean square distance of the atoms from the prototype's sites, over the cube root of the volume per atom", "", "the source names the candidate itself"),
                C("source", STR, "file that the row comes from, and the row's name in it"),
            ),
        ),
        Table(
            "entries",
            "what others computed, as their source gives it, in the source's order",
            (),
            (
                C("id", STR, "id in the source"),
                C("source", STR, "where it comes from: alexandria, mp, an OPTIMADE provider, a file, or what the user calls it"),
                FUNCTIONAL,
                C("correction_scheme", STR, "what energy_correction_per_atom is by: MP2020, ...; published: the source doesn't say; none: no correction is given"),
                THEORY_ID,
                C("run_type", STR, "GGA, GGA+U, r2SCAN, ...", "", "the source doesn't say"),
                C("hubbards", HUBBARDS, "Hubbard U by element; empty: none", "eV", "the source doesn't say", keyed=True),
                C("software", STR, "code that computed it", "", "neither source nor user says"),
                C("energy_per_atom", F64, "total energy, without correction", "eV/atom", "the source gives formation energies only"),
                C("energy_correction_per_atom", F64, "what the source adds to it before it makes a hull", "eV/atom", "the source gives none"),
                C("formation_energy_per_atom", F64, "as published, against the source's own references", "eV/atom", "the source gives none"),
                C("e_above_hull", F64, "as published, to the source's own hull", "eV/atom", "the source gives none"),
                C("band_gap", F64, "band gap, indirect where the source tells", "eV", "the source gives none"),
                C("total_magnetization", F64, "magnetic moment of the cell", "Bohr magneton", "the source gives none"),
                C("space_group_it_number", I16, "space group, as published", "", "the source gives none"),
                *(optional(c, "the source gives no structure") for c in GEOMETRY),
                *(Column(c.name, c.type, c.description, c.unit, {
                    "nsites": "the source gives neither structure nor number of atoms",
                    "volume": "the source gives no structure",
                }.get(c.name, "")) for c in DERIVED),
            ),
        ),
        Table(
            "placed",
            "entries of any files, placed on their common hull or against a fixed one by `hullforge hull`",
            ("id",),
            (
                C("id", STR, "id in the file"),
                C("formula", STR, "formula as the file gives it"),
                C("energy_per_atom", F64, "energy that was placed", "eV/atom", "the file gives none"),
                C("formation_energy_per_atom", F64, "against the lowest entry of each element", "eV/atom", "an elemental reference is missing, or the hull is fixed"),
                C("e_above_hull", F64, "distance to the convex hull; negative: below a fixed hull", "eV/atom", "an elemental reference is missing, or the row could not be placed"),
                C("is_on_hull", BOOL, "e_above_hull <= 1e-8 eV/atom"),
                C("hull_status", STR, "ok, missing_reference, or why the entry was not placed"),
                C("decomposition", many(pa.struct([("id", STR), ("fraction", F64)])), "stable entries at this composition, fractions of atoms; empty against a fixed hull"),
                C("chemical_potentials", many(F64), "one per element, alphabetical, relative to the elemental references", "eV/atom", "an elemental reference is missing, or the hull is fixed"),
            ),
        ),
        Table(
            "refusals",
            "rows of a source that could not become entries",
            (),
            (
                C("file", STR, "file or query that was read"),
                C("row", STR, "where in it: entry, row or frame, from 1"),
                C("id", STR, "id in the source; empty: it has none, or can't be read"),
                C("reason", STR, "code of the reason"),
                C("message", STR, "what was found, and what is allowed"),
            ),
        ),
        Table(
            "structures",
            "one row per distinct final geometry of a release",
            ("nelements", "chemsys", "chemical_formula_reduced", "structure_id"),
            (
                C("structure_id", STR, "id of the geometry"),
                C("parent_structure_id", STR, "id of the geometry that its calculation started from"),
                CANDIDATE_ID_OR_NONE,
                PROTOTYPE_ID_OR_NONE,
                ROUND,
                C("source", STR, "where the structure comes from: the campaign's name, or the imported folder"),
                C("space_group_it_number", I16, "space group of this geometry", "", "the symmetry search failed"),
                C("symprec", F64, "tolerance of the symmetry search", "angstrom"),
                *GEOMETRY,
                *DERIVED,
                *SIDES,
            ),
        ),
    )
}  # fmt: skip
