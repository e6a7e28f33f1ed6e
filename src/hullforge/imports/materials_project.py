"""The Materials Project, through mp-api and with the user's own key.

Comes in: chemical systems such as Li-Fe-O, which include their subsystems. Goes out: a row an entry of the Materials
Project's phase diagrams, total energies and corrections apart. One of its two unmixed sets is read: GGA and GGA+U,
corrected by MP2020, or r2SCAN. Their mixture is not: its corrections hold within one chemical system only.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from hullforge.errors import TableError
from hullforge.imports.base import Found, Refused
from hullforge.imports.pymatgen_entries import found, guarded


class ThermoType(StrEnum):
    """Sets of entries of the Materials Project that share one scale of energies."""

    GGA = "GGA_GGA+U"
    R2SCAN = "R2SCAN"


_FUNCTIONAL = {ThermoType.GGA: "PBE", ThermoType.R2SCAN: "r2SCAN"}
_SCHEME = {ThermoType.GGA: "MP2020", ThermoType.R2SCAN: ""}
_KEYS = ("MP_API_KEY", "PMG_MAPI_KEY")


@dataclass(frozen=True)
class MaterialsProject:
    """Importer of chemical systems of the Materials Project; an entry that two systems share is given once."""

    thermo_type: ThermoType = ThermoType.GGA
    name: str = "mp"
    _given: set[str] = field(default_factory=set, repr=False, compare=False)

    def read(self, source: str) -> Iterator[Found | Refused]:
        """Read the chemical system `source`.

        Raises `TableError` when mp-api is not installed, there is no key, or the Materials Project doesn't answer.
        """
        try:
            entries = _client().get_entries_in_chemsys(
                source.split("-"),
                property_data=["formation_energy_per_atom", "energy_above_hull"],
                additional_criteria={"thermo_types": [self.thermo_type.value]},
            )
        except TableError:
            raise
        except Exception as error:  # the client raises its own errors and those of the network
            raise TableError(
                f"{source}: the Materials Project answers {type(error).__name__}: {error}"
            ) from error
        # The client gives a set's entries in no order.
        for number, entry in enumerate(sorted(entries, key=lambda entry: str(entry.entry_id)), start=1):
            row, id_ = f"entry {number}", str(entry.entry_id)
            if id_ in self._given:
                continue
            self._given.add(id_)
            yield guarded(lambda entry=entry, row=row, id_=id_: self._found(entry, row, id_), row, id_)  # type: ignore[misc]

    def _found(self, entry: Any, row: str, id_: str) -> Found:
        made = found(_plain(entry), row, id_)
        scheme = _SCHEME[self.thermo_type]
        return replace(
            made,
            functional=_FUNCTIONAL[self.thermo_type],
            software=made.software or "VASP",
            # An entry without adjustments is one that the scheme leaves as it is.
            correction=(made.correction or 0.0) if scheme else made.correction,
            correction_scheme=scheme or made.correction_scheme,
        )


def _plain(entry: Any) -> dict[str, Any]:
    """Give what is read of an entry as a dictionary.

    Its own `as_dict` fails: mp-api puts objects of its own into entries, elements as keys among them.
    """
    parameters = entry.parameters or {}
    return {
        "composition": {element.symbol: amount for element, amount in entry.composition.items()},
        "energy": entry.uncorrected_energy,
        "correction": entry.correction,
        "parameters": {
            **{
                name: parameters.get(name)
                for name in ("run_type", "is_hubbard", "hubbards", "potcar_symbols")
            },
            "potcar_spec": [
                {"titel": spec.get("titel") if isinstance(spec, dict) else spec.titel}
                for spec in parameters.get("potcar_spec") or []
            ],
        },
        "data": entry.data or {},
        "structure": entry.structure.as_dict(),
    }


def _client() -> Any:
    try:
        from mp_api.client import MPRester
    except ImportError as error:
        raise TableError(
            "the package mp-api is not installed, which reads the Materials Project: pip install 'hullforge[mp]'"
        ) from error

    key = next((os.environ[name] for name in _KEYS if os.environ.get(name)), "")
    if not key:
        raise TableError(
            f"no key of the Materials Project: put yours, from your page there, into the environment variable {_KEYS[0]}"
        )
    return MPRester(key, mute_progress_bars=True)
