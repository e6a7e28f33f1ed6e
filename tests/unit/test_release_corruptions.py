"""Corruptions planted in a release: `verify` catches each, and names the file and the first bad row.

Checksums and logical hashes are made again wherever these alone would tell, so that it is the content that is caught.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic_campaign

from hullforge.release import build, layout, logical
from hullforge.release.verify import verify
from hullforge.store import atomic, tables

CALCULATIONS, FRAMES, HULL, PROPERTIES = (
    layout.table(name, "PBE") for name in ("calculations", "frames", "hull", "properties")
)
REFERENCES, STRUCTURES, FAILURES = (
    layout.table(name) for name in ("elemental_references", "structures", "failures")
)
FRAMES_TEXT, STRUCTURES_TEXT = (layout.extxyz(kind, "PBE") for kind in ("frames", "structures"))
STRESS = r' stress="([^"]*)"'


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    settings = synthetic_campaign.campaign(tmp_path_factory.mktemp("campaign"))
    out = settings.folder / "release" / "2026.1"
    build.run(settings, synthetic_campaign.make(settings), out)
    assert verify(out) == []
    return out


@pytest.fixture
def release(pristine, tmp_path):
    return Path(shutil.copytree(pristine, tmp_path / "2026.1"))


def renew(release):
    """Make the logical hashes of all tables that can be read, and the checksums, again."""
    listed = layout.listed(release, layout.LOGICAL)
    for name in layout.tables(release):
        listed[name] = logical.of_file(release / name)
    text = "".join(f"{listed[name]}  {name}\n" for name in layout.tables(release))
    (release / layout.LOGICAL).write_text(text)
    renew_sums(release)


def renew_sums(release):
    (release / layout.SUMS).write_text(layout.sums(release))


def value(path, column, change, row=0):
    """Change one value of a table."""

    def corrupt(release):
        name = path.split("/")[1].removesuffix(".parquet")
        rows = tables.read_rows(release / path, name)
        rows[row][column] = change(rows[row][column])
        tables.write(release / path, name, rows)
        renew(release)

    return corrupt


def table(path, change):
    """Change a table as a whole, as some other tool would that knows nothing of ours."""

    def corrupt(release):
        pq.write_table(change(pq.read_table(release / path)), release / path)
        renew(release)

    return corrupt


def words(path, pattern, replacement):
    """Change the first match in a text."""

    def corrupt(release):
        text = (release / path).read_text()
        changed = re.sub(pattern, replacement, text, count=1, flags=re.MULTILINE)
        assert changed != text
        (release / path).write_text(changed)
        renew(release)

    return corrupt


def dataset(change):
    """Change the data set row."""

    def corrupt(release):
        data = json.loads((release / layout.DATASET).read_text())
        change(data)
        atomic.write_json(release / layout.DATASET, data)
        renew(release)

    return corrupt


def flipped_byte(release):
    path = release / FRAMES
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(bytes(data))


def missing_part(release):
    (release / HULL).unlink()
    renew(release)


def cut_short(release):
    path = release / CALCULATIONS
    path.write_bytes(path.read_bytes()[:-60])
    renew_sums(release)


def wrong_hash(release):
    text = (release / layout.LOGICAL).read_text()
    (release / layout.LOGICAL).write_text(
        re.sub(rf"^\w{{64}}  {FRAMES}$", f"{'0' * 64}  {FRAMES}", text, flags=re.M)
    )
    renew_sums(release)


def no_hashes(release):
    (release / layout.LOGICAL).unlink()
    renew_sums(release)


def wrong_unit(given):
    fields = [
        f.with_metadata({**f.metadata, b"unit": b"kbar"}) if f.name == "stress" else f for f in given.schema
    ]
    return pa.table(given.columns, schema=pa.schema(fields, metadata=given.schema.metadata))


def swapped_sign(match):
    return f' stress="{" ".join(str(-float(word)) for word in match[1].split())}"'


def swapped_rows(given):
    return given.take(np.array([0, 2, 1, *range(3, given.num_rows)]))


def stale(entry):
    entry["by_functional"]["PBE"]["energy_per_atom_mean"] -= 0.5


def more(number):
    return number + 1e-3


#: What is done, the file that `verify` names, and what it says of it.
CORRUPTIONS = {
    "a flipped byte": (flipped_byte, FRAMES, "checksum is not the one in SHA256SUMS"),
    "a missing part": (missing_part, HULL, "no such file"),
    "Parquet cut short": (cut_short, CALCULATIONS, "not a whole Parquet file"),
    "another logical hash": (wrong_hash, FRAMES, "another logical hash"),
    "no logical hashes": (no_hashes, layout.LOGICAL, "missing"),
    "a wrong unit": (table(CALCULATIONS, wrong_unit), CALCULATIONS, "column stress has unit b'kbar'"),
    "a missing column": (table(CALCULATIONS, lambda t: t.drop_columns(["forces"])), CALCULATIONS, "columns are not those"),
    "a column as float32": (
        table(FRAMES, lambda t: t.set_column(t.column_names.index("energy"), "energy", t["energy"].cast(pa.float32()))),
        FRAMES, "columns are not those",
    ),
    "swapped rows": (table(CALCULATIONS, swapped_rows), CALCULATIONS, r"not sorted by .*: row 1 is .* it should be"),
    "a duplicated row": (
        table(FRAMES, lambda t: pa.concat_tables([t.slice(0, 1), t])), FRAMES, r"row 1: frame_id \S+ is in more than one row, first in row 0"
    ),
    "a row left out": (table(FRAMES, lambda t: t.slice(0, 13)), FRAMES_TEXT, "more than the 13 frames"),
    "a failure left out": (table(FAILURES, lambda t: t.slice(1)), layout.table("selection"), r"candidate c1-\w+ has neither"),
    "the sign of stress in the text": (words(FRAMES_TEXT, STRESS, swapped_sign), FRAMES_TEXT, r"frame 1: frame_id k1-\w+-1: stress is"),
    "the sign of stress in the table": (
        value(CALCULATIONS, "stress", lambda s: [-x for x in s], row=3), STRUCTURES_TEXT, r"frame 3: calculation_id k1-\w+: stress is"
    ),
    "stress in kbar in the table": (
        value(CALCULATIONS, "stress", lambda s: [x * 1602.18 for x in s], row=2), CALCULATIONS, "calculation_id .*: the largest stress is"
    ),
    "a force in the text": (words(STRUCTURES_TEXT, r"^(Al 0 0 0) \S+", r"\1 0.25"), STRUCTURES_TEXT, r"frame 0: .* atom 0 .* is Al 0 0 0 0\.25"),
    "a force in the table": (
        value(FRAMES, "forces", lambda f: [[-x for x in row] for row in f], row=1), FRAMES_TEXT, "frame 1: frame_id .*: atom 0"
    ),
    "a species in the text": (words(FRAMES_TEXT, r"^Cu ", "Ni "), FRAMES_TEXT, r"frame \d+: .*atom \d .* is Ni .* has Cu"),
    "a cell in the text": (words(FRAMES_TEXT, r'Lattice="2.2', 'Lattice="2.3'), FRAMES_TEXT, r"frame \d+: .*Lattice is 2.3"),
    "a leaked split": (
        value(FRAMES, "split", lambda side: "test" if side == "train" else "train"), FRAMES, r"frame_id k1-\S+: split is \w+, its composition gives"
    ),
    "another structure group": (value(STRUCTURES, "structure_group", lambda _: "X"), STRUCTURES, "structure_id .*structure_group is X"),
    "a stale hull": (value(HULL, "e_above_hull", more, row=1), HULL, r"calculation_id k1-\w+: e_above_hull is 0.*the published energies give"),
    "another energy": (value(CALCULATIONS, "energy", more, row=4), CALCULATIONS, r"calculation_id k1-\w+: energy .* eV is not"),
    "another formation energy": (
        value(HULL, "formation_energy_per_atom", more, row=5), HULL, r"calculation_id k1-\w+: formation_energy_per_atom is"
    ),
    "another decomposition": (
        value(HULL, "decomposition", lambda d: [{**p, "fraction": p["fraction"] / 2} for p in d], row=2),
        HULL, r"calculation_id k1-\w+: its decomposition is not a mixture",
    ),
    "another potential": (value(HULL, "chemical_potentials", lambda mu: [x + 0.1 for x in mu], row=2), HULL, r"k1-\w+: its chemical potentials"),
    "an energy in the properties": (value(PROPERTIES, "e_above_hull", more), PROPERTIES, r"k1-\w+.* e_above_hull"),
    "a calculation of no structure": (
        value(CALCULATIONS, "structure_id", lambda _: "s1-0", row=2), CALCULATIONS, "row 2: structure_id s1-0 is not among the structures"
    ),
    "a frame of no calculation": (
        value(FRAMES, "calculation_id", lambda _: "k1-0", row=3), FRAMES, r"row \d+: calculation_id k1-0 is not among the calculations"
    ),
    "a moved atom": (
        value(STRUCTURES, "positions", lambda p: [[0.2, 0.0, 0.0], *p[1:]], row=1), STRUCTURES, r"structure_id s1-\w+: the geometry is not"
    ),
    "another reference": (value(REFERENCES, "energy_per_atom", more), REFERENCES, "row 0 of this functional is .* it should be"),
    "another count": (dataset(lambda d: d["by_functional"]["PBE"].update(frames=15)), layout.DATASET, "counts 15 rows of data/frames/PBE"),
    "a stale mean": (dataset(stale), layout.DATASET, "PBE: energy_per_atom_mean is .* the tables give"),
    "an element too many": (dataset(lambda d: d["elements"].append("Au")), layout.DATASET, "elements is .* the tables give"),
}  # fmt: skip


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_verify_catches(release, corruption):
    corrupt, file, expected = CORRUPTIONS[corruption]
    corrupt(release)
    problems = verify(release)
    assert any(re.match(f"{re.escape(file)}: .*{expected}", problem) for problem in problems), problems


def test_the_way_numbers_are_written_in_the_text_is_no_corruption(release):
    words(STRUCTURES_TEXT, r"energy=-3\.7 ", "energy=-3.70e0 ")(release)
    assert verify(release) == []
