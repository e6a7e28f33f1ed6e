"""The Materials Project: recorded documents through the code of the real client."""

from types import SimpleNamespace

import pytest
from mp_api.client import MPRester
from pymatgen.core import Lattice, Structure
from pymatgen.entries.compatibility import MaterialsProject2020Compatibility
from pymatgen.entries.computed_entries import ComputedStructureEntry

from hullforge import cli
from hullforge.errors import TableError
from hullforge.imports import load, materials_project
from hullforge.imports.materials_project import MaterialsProject, ThermoType
from hullforge.store import tables

PAW = {"Li": "PBE Li_sv 10Sep2004", "Fe": "PBE Fe_pv 06Sep2000", "O": "PBE O 08Apr2002"}


def entry(name, composition, energy, run_type="GGA"):
    """An entry as the API serves it: structure, parameters and the adjustments of MP2020 itself."""
    species = [element for element, count in composition.items() for _ in range(count)]
    cell = Lattice.cubic(2.6 * len(species) ** (1 / 3))
    crystal = Structure(cell, species, [[i / len(species)] * 3 for i in range(len(species))])
    hubbards = {"Fe": 5.3} if run_type == "GGA+U" else {}
    made = ComputedStructureEntry(
        crystal,
        energy,
        entry_id=name,
        parameters={
            "run_type": run_type,
            "is_hubbard": bool(hubbards),
            "hubbards": {element: hubbards.get(element, 0.0) for element in composition} if hubbards else {},
            "potcar_symbols": [PAW[element].rsplit(" ", 1)[0] for element in composition],
            "potcar_spec": [{"titel": f"PAW_{PAW[element]}", "hash": None} for element in composition],
        },
        data={"oxide_type": "oxide"},
    )
    MaterialsProject2020Compatibility(check_potcar=False).process_entry(made, inplace=True)
    return made


@pytest.fixture(scope="module")
def recorded():
    lithium, oxygen = entry("mp-135-GGA", {"Li": 1}, -1.9), entry("mp-12957-GGA", {"O": 2}, -9.87)
    return {
        "Li-O": [entry("mp-1960-GGA", {"Li": 2, "O": 1}, -14.3), oxygen, lithium],
        "Fe-O": [
            oxygen,
            entry("mp-13-GGA", {"Fe": 1}, -8.3),
            entry("mp-19770-GGA+U", {"Fe": 2, "O": 3}, -33.0, "GGA+U"),
        ],
    }


class Client:
    """The real client's own code over recorded documents: what it asks the API for is answered from records."""

    def __init__(self, recorded):
        self.recorded = recorded
        self.materials = SimpleNamespace(thermo=SimpleNamespace(search=self._search))

    def _search(self, *, chemsys, thermo_types, all_fields, fields):
        """One document of the endpoint `thermo` per material of the systems."""
        assert (thermo_types, all_fields) == (["GGA_GGA+U"], False)
        assert set(fields) == {"entries", "thermo_type", "formation_energy_per_atom", "energy_above_hull"}
        entries = {one.entry_id: one for system in self.recorded.values() for one in system}
        found = [one for one in entries.values() if one.composition.chemical_system in chemsys]
        if not found:
            raise ConnectionError("REST query returned with error status code 500")
        return [
            {"entries": {one.parameters["run_type"]: one.as_dict()}, "thermo_type": "GGA_GGA+U",
             "formation_energy_per_atom": -0.5, "energy_above_hull": 0.01}
            for one in found
        ]  # fmt: skip

    def get_entries(self, *positional, **named):
        return MPRester.get_entries(self, *positional, **named)

    def get_entries_in_chemsys(self, *positional, **named):
        return MPRester.get_entries_in_chemsys(self, *positional, **named)


def test_entries_keep_energy_and_correction_apart_and_shared_ones_come_once(
    monkeypatch, tmp_path, recorded, capsys
):
    monkeypatch.setattr(materials_project, "_client", lambda: Client(recorded))
    out = tmp_path / "e.parquet"
    assert cli.main(["import", "mp", "Li-O", "O-Fe", "--out", str(out)]) == 0
    rows = {row["id"]: row for row in tables.read_rows(out, "entries")}
    entries = {one.entry_id: one for system in recorded.values() for one in system}
    assert set(rows) == set(entries)
    for name, row in rows.items():
        atoms = entries[name].composition.num_atoms
        assert row["energy_per_atom"] * atoms == pytest.approx(entries[name].uncorrected_energy)
        assert row["energy_correction_per_atom"] * atoms == pytest.approx(entries[name].correction)
        assert (row["functional"], row["correction_scheme"], row["source"]) == ("PBE", "MP2020", "mp")
    assert rows["mp-19770-GGA+U"]["energy_correction_per_atom"] < -0.5
    assert {row["e_above_hull"] for row in rows.values()} == {0.01}
    assert rows["mp-135-GGA"]["energy_correction_per_atom"] == 0.0
    assert rows["mp-19770-GGA+U"]["hubbards"] == {"Fe": 5.3}
    assert len({row["theory_id"] for row in rows.values()}) == 2
    assert "5 entries, 0 refused" in capsys.readouterr().out


def test_what_the_client_raises_is_one_error(monkeypatch, tmp_path, recorded):
    monkeypatch.setattr(materials_project, "_client", lambda: Client(recorded))
    with pytest.raises(TableError, match="Na-Cl: the Materials Project answers ConnectionError: REST query"):
        load.run(MaterialsProject(), ["Na-Cl"], load.Said(), tmp_path / "e.parquet", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_without_a_key_the_error_says_where_to_put_it(monkeypatch):
    monkeypatch.delenv("MP_API_KEY", raising=False)
    monkeypatch.delenv("PMG_MAPI_KEY", raising=False)
    with pytest.raises(TableError, match=r"no key of the Materials Project.*MP_API_KEY"):
        list(MaterialsProject().read("Li-O"))


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mp_api.client", None)
    with pytest.raises(TableError, match=r"pip install 'hullforge\[mp\]'"):
        list(MaterialsProject(ThermoType.R2SCAN).read("Li-O"))
