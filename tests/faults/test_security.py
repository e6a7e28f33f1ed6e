"""Nothing in a configuration, a file's name or an imported file is run, as shell or as Python."""

import contextlib
import json
import os
import pickle
import subprocess
import sys
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hullforge import cli, config
from hullforge.config import PrototypesSettings, PrototypeTable
from hullforge.crystals import prototypes, sources
from hullforge.dft import protocol
from hullforge.errors import ConfigError, ModelError, TableError
from hullforge.screening import model
from hullforge.store import journal, tables

BASE = "config/test/emt.yaml"
#: A folder's name that does four different things in shells that are not told what it is.
HOSTILE = "my results; touch pwned $(touch pwned) `touch pwned` 'touch pwned' \"&& touch pwned"


class Trap:
    """Makes the file `pwned` when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def pwned(tmp_path, monkeypatch):
    """The path that an attack would make, in the present folder; it must not be there at the end."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pwned"
    yield path
    assert not path.exists(), "something was run"


def emt(**edits):
    import yaml

    from conftest import ROOT

    return {**yaml.safe_load((ROOT / BASE).read_text()), **edits}


# ------------------------------------------------------------------------------------------- names


@pytest.mark.slow
@pytest.mark.campaign
def test_a_campaign_in_folders_with_hostile_names_is_a_campaign(make_campaign, tmp_path):
    import shutil

    from ase.build import bulk
    from ase.io import write

    campaign = make_campaign(
        output=HOSTILE,
        description=HOSTILE,
        functionals=["PBE"],
        rounds=[{"budget": 4, "batches": 1}],
        release={"title": HOSTILE},
        prerelax={"backend": "none"},
    )
    moved = tmp_path / HOSTILE
    shutil.move(campaign.folder, moved)
    campaign.folder = moved
    # Prototypes with names of the kind, too.
    mine = moved / HOSTILE
    mine.mkdir()
    write(mine / "a; touch pwned $(touch pwned).extxyz", bulk("Cu", "bcc", 3.0))
    write(mine / "@1 'x' [0-9].cif", bulk("CuAu", "cesiumchloride", 3.0))
    campaign.edit(prototypes={"library": "none", "folder": HOSTILE, "rejects": "record"})
    campaign.edit(bootstrap={"include": []}, elements=["Al", "Cu"])
    done = campaign.run()
    assert done.returncode == 0, done.stdout[-3000:]
    release = moved / HOSTILE / "emt" / "release" / "2026.1"
    assert cli.main(["verify", str(release)]) == 0
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize(
    "edit",
    [
        {"output": "a\nb"},
        {"output": "{round}"},
        {"output": "-rf"},
        {"candidates": "{a}.parquet"},
        {"hull": {"known_phases": "a\tb.csv"}},
        {"campaign": "../x"},
        {"campaign": "a b"},
        {"campaign": "a\n"},
        {"release": {"version": "2026.1; touch pwned"}},
        {"release": {"version": "../2026.1"}},
    ],
    ids=str,
)
def test_names_that_would_mean_something_else_to_snakemake_are_refused(edit):
    with pytest.raises(ConfigError):
        config.load(emt(**edit))


@pytest.mark.parametrize("name", ["../../x", "a b", "$(touch pwned)", ".*", "-x", "a\n", "{round}", ""])
def test_functionals_are_parts_of_paths_and_named_accordingly(tmp_path, name):
    import yaml

    data = yaml.safe_load((protocol.FOLDER / "emt.yaml").read_text())
    data["functionals"] = {name: data["functionals"]["PBE"]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match="functionals"):
        protocol.load(str(tmp_path / "mine.yaml"))


def test_an_id_never_leads_out_of_the_work_folder(tmp_path):
    with pytest.raises(TableError, match="no id"):
        journal.folder_of(tmp_path, "t1-00000000", "c1-../../../x")


# ------------------------------------------------------------------------------------------- YAML, JSON


YAML = "!!python/object/apply:os.mkdir [pwned]"


@pytest.mark.parametrize("key", ["campaign", "elements", "engine", "protocol"])
def test_tags_of_yaml_make_no_objects(pwned, tmp_path, key):
    lines = {name: json.dumps(value) for name, value in emt().items()} | {key: YAML}
    (tmp_path / "c.yaml").write_text("".join(f"{name}: {text}\n" for name, text in lines.items()))
    with pytest.raises(ConfigError, match="not valid YAML"):
        config.load(tmp_path / "c.yaml")
    (tmp_path / "protocol.yaml").write_text(f"name: {YAML}\n")
    with pytest.raises(Exception, match="not valid YAML"):
        protocol.load(str(tmp_path / "protocol.yaml"))


def test_nor_do_they_in_snakemake(pwned, tmp_path):
    from conftest import ROOT

    (tmp_path / "c.yaml").write_text(f"campaign: {YAML}\n")
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "-s", str(ROOT / "Snakefile"), "--configfile", "c.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "not valid JSON or YAML" in done.stdout + done.stderr


def test_a_configuration_with_expressions_is_refused_before_snakemake_sees_it(pwned, tmp_path):
    """Snakemake itself would run these; `hullforge check` does not, and says so."""
    text = "__use_yte__: true\n__definitions__:\n  - import os\n  - os.mkdir('pwned')\n"
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match="runs the Python expressions"):
        config.load(tmp_path / "c.yaml")


def test_a_matgl_model_may_name_matgl_classes_alone(pwned, tmp_path):
    trap = {
        "@module": "subprocess",
        "@class": "Popen",
        "@model_version": 1,
        "init_args": {"args": ["touch", str(pwned)]},
    }
    kwargs = {"model": {"init_args": {"element_types": ["Al"]}}}
    head = {"@class": "Potential", "@module": "matgl.apps.pes", "@model_version": 4, "kwargs": kwargs}
    (tmp_path / "model.json").write_text(json.dumps(head))
    torch.save({"model": trap}, tmp_path / "model.pt")
    torch.save({}, tmp_path / "state.pt")
    from hullforge.potentials import matgl

    with pytest.raises(ModelError, match=r"subprocess\.Popen"):
        matgl.load(tmp_path)
    torch.save({"model": {}}, tmp_path / "model.pt")
    (tmp_path / "model.json").write_text(json.dumps({**head, "@module": "subprocess", "@class": "Popen"}))
    with pytest.raises(ModelError, match=r"subprocess\.Popen"):
        matgl.load(tmp_path)


def test_entries_of_pymatgen_are_read_without_making_what_they_name(pwned, tmp_path):
    trap = {"@module": "subprocess", "@class": "Popen", "args": ["touch", str(pwned)]}
    entry = {
        "@module": "subprocess",
        "@class": "Popen",
        "args": ["touch", str(pwned)],
        "composition": {"Al": 1},
        "energy": -1.0,
        "entry_id": "x",
        "parameters": trap,
        "structure": {**trap, "lattice": trap, "sites": [trap]},
    }
    (tmp_path / "entries.json").write_text(json.dumps([entry]))
    cli.main(["import", "alexandria", "entries.json", "--functional", "PBE", "--out", "entries.parquet"])


# ------------------------------------------------------------------------------------------- pickles


@pytest.mark.parametrize("protocol_", [2, 4])
def test_a_screener_is_never_unpickled(pwned, tmp_path, protocol_):
    for name, content in (("zip.pt", {"format": Trap(pwned)}), ("whole.pt", Trap(pwned))):
        torch.save(content, tmp_path / name, pickle_protocol=protocol_)
        with pytest.raises(ModelError, match="not a whole model file"):
            model.load(tmp_path / name)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap(pwned), protocol=protocol_))
    with pytest.raises(ModelError, match="not a whole model file"):
        model.load(tmp_path / "plain.pt")


@pytest.mark.parametrize("file", ["model.pt", "state.pt"])
def test_nor_is_a_potential(pwned, tmp_path, file):
    kwargs = {"model": {"init_args": {"element_types": ["Al"]}}}
    head = {"@class": "Potential", "@module": "matgl.apps.pes", "@model_version": 4, "kwargs": kwargs}
    (tmp_path / "model.json").write_text(json.dumps(head))
    for name in ("model.pt", "state.pt"):
        torch.save({"model": Trap(pwned)} if name == file else {}, tmp_path / name)
    from hullforge.potentials import matgl

    with pytest.raises(ModelError):
        matgl.load(tmp_path)


def test_nor_is_what_the_metadata_of_a_parquet_file_holds(pwned, tmp_path):
    payload = pickle.dumps(Trap(pwned))
    field = pa.field(
        "candidate_id",
        pa.string(),
        metadata={
            b"ARROW:extension:name": b"arrow.py_extension_type",
            b"ARROW:extension:metadata": payload,
        },
    )
    schema = pa.schema([field], metadata={b"hullforge.table": b"selection", b"pandas": payload})
    pq.write_table(pa.table([pa.array(["x"])], schema=schema), tmp_path / "t.parquet")
    with contextlib.suppress(TableError):
        tables.read(tmp_path / "t.parquet", "selection")
    pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert sources.folder(tmp_path / "t.parquet")[1], "no structures are in it"


# ------------------------------------------------------------------------------------------- structures, archives


CIFS = {
    "transformation": "_space_group_magn.transform_BNS_Pp_abc  'a,b,[d for d in ().__class__.__mro__[1]"
    '.__getattribute__(*[().__class__.__mro__[1]]+["__sub" + "classes__"])() if d.__name__ == "BuiltinImporter"]'
    '[0].load_module ("os").mkdir ("pwned"); 0,0,0\'\n_space_group_magn.number_BNS 62.448\n'
    "_space_group_magn.name_BNS \"P n' m a'  \"\n",
    "operation": 'loop_\n_symmetry_equiv_pos_as_xyz\n\'x, y, __import__("os").mkdir("pwned")\'\n',
}


@pytest.mark.parametrize("kind", CIFS)
def test_a_cif_is_no_program(pwned, tmp_path, kind):
    head = "data_x\n_cell_length_a 3\n_cell_length_b 3\n_cell_length_c 3\n"
    head += "_cell_angle_alpha 90\n_cell_angle_beta 90\n_cell_angle_gamma 90\n"
    tail = "loop_\n_atom_site_label\n_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n"
    tail += "_atom_site_fract_z\nAl1 Al 0 0 0\n"
    (tmp_path / "evil.cif").write_text(head + CIFS[kind] + tail)
    sources.folder(tmp_path / "evil.cif")


@pytest.mark.parametrize(
    "comment",
    [
        "Lattice=\"3 0 0 0 3 0 0 0 3\" x=\"__import__('os').mkdir('pwned')\"",
        'Lattice="3 0 0 0 3 0 0 0 3" calculator="$(touch pwned)"',
        'Lattice="3 0 0 0 3 0 0 0 3" name="../../pwned"',
    ],
)
def test_nor_is_extended_xyz(pwned, tmp_path, comment):
    (tmp_path / "evil@__import__('os').mkdir('pwned').extxyz").write_text(f"1\n{comment}\nAl 0 0 0\n")
    (tmp_path / "evil.extxyz").write_text(f"1\n{comment}\nAl 0 0 0\n")
    settings = PrototypesSettings(
        prototypes=PrototypeTable(library="none", folder=tmp_path, rejects="record")
    )
    prototypes.build(settings, tmp_path / "out" / "p.parquet", tmp_path / "out" / "r.parquet")


def test_the_names_in_an_archive_of_raw_outputs_stay_inside(tmp_path):
    from emt_batch import run, settings, start_rows

    run(tmp_path, settings(steps=1), start_rows(1))
    with tarfile.open(tmp_path / "out" / "raw.tar.gz") as archive:
        members = archive.getmembers()
    assert members
    for member in members:
        assert member.isfile()
        assert not member.name.startswith("/")
        assert ".." not in member.name.split("/")
