"""Any OPTIMADE provider, through the client of the package `optimade`.

Comes in: a base address, or the name of a preset, and a filter. Goes out: a row a structure, page by page as the
provider gives them. Energies have no names in the standard: each provider prefixes its own, so a preset or the user
says what they are called.
"""

import io
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from typing import Any

from hullforge.errors import TableError
from hullforge.imports.base import Found, Refused
from hullforge.imports.columns import STRUCTURE, Columns, found
from hullforge.imports.pymatgen_entries import guarded


@dataclass(frozen=True)
class Preset:
    """A provider: its base address, and what it calls what."""

    address: str
    named: dict[str, str]


#: Providers with energies; `hullforge` is a release behind `hullforge serve`. The Materials Project and OQMD give
#: formation energies only. OQMD's distance is negative where the row itself lies below the hull of all others.
PRESETS = {
    "alexandria": Preset(
        "https://alexandria.icams.rub.de/pbe",
        {
            "energy": "_alexandria_energy",
            "energy_corrected": "_alexandria_energy_corrected",
            "formation_energy_per_atom": "_alexandria_formation_energy_per_atom",
            "e_above_hull": "_alexandria_hull_distance",
            "functional": "_alexandria_xc_functional",
            "band_gap": "_alexandria_band_gap",
            "total_magnetization": "_alexandria_magnetization",
            "space_group_it_number": "_alexandria_space_group",
        },
    ),
    "mp": Preset(
        "https://optimade.materialsproject.org",
        {
            "formation_energy_per_atom": "_mp_stability/gga_gga+u/formation_energy_per_atom",
            "e_above_hull": "_mp_stability/gga_gga+u/energy_above_hull",
        },
    ),
    "oqmd": Preset(
        "https://oqmd.org/optimade",
        {
            "formation_energy_per_atom": "_oqmd_delta_e",
            "e_above_hull": "_oqmd_stability",
            "band_gap": "_oqmd_band_gap",
        },
    ),
    "hullforge": Preset(
        "http://127.0.0.1:5000",
        {
            "energy": "_hullforge_energy",
            "energy_correction_per_atom": "_hullforge_energy_correction_per_atom",
            "formation_energy_per_atom": "_hullforge_formation_energy_per_atom",
            "e_above_hull": "_hullforge_e_above_hull",
            "functional": "_hullforge_functional",
            "run_type": "_hullforge_run_type",
            "band_gap": "_hullforge_band_gap",
            "total_magnetization": "_hullforge_total_magnetization",
            "space_group_it_number": "space_group_it_number",
        },
    ),
}
_LONG = 300  # characters of a provider's error that are printed
_STANDARD = ("chemical_formula_reduced", "nsites", *STRUCTURE)


@dataclass(frozen=True)
class Optimade:
    """Importer of structures of a provider that pass the filter.

    `preset` names a provider of `PRESETS`; the user's `columns` come before what it says. `page` rows are asked for at
    once; by default so many as the provider likes, which refuses more than its limit.
    """

    filter: str = ""
    preset: str = ""
    columns: Columns = field(default_factory=Columns)
    page: int | None = None

    @property
    def name(self) -> str:
        """What the source is called; without a preset by its address."""
        return self.preset

    def read(self, source: str) -> Iterator[Found | Refused]:
        """Read the provider at the address `source`, which may be a preset's name.

        Raises `TableError` when the package is missing, the provider doesn't answer or refuses the filter, or nothing
        says what its energies are called.
        """
        preset = PRESETS.get(self.preset or source)
        address = PRESETS[source].address if source in PRESETS else source
        named = {**(preset.named if preset else {}), **self.columns.named}
        if not {"energy", "energy_per_atom", "formation_energy_per_atom"} & set(named):
            raise TableError(
                f"{source}: OPTIMADE has no name for energies; say what the provider calls them: --column"
                f" energy=_provider_energy (eV per cell), or --preset {', '.join(PRESETS)}"
            )
        meant = {"id": "id", "formula": "chemical_formula_reduced", "nsites": "nsites", **named}
        fields = [*_STANDARD, *(name.split("/")[0] for name in named.values())]
        items = _structures(address, self.filter, sorted(set(fields)), self.page)
        for number, item in enumerate(items, start=1):
            row, id_ = f"structure {number}", str(item.get("id") or "")
            values = {**(item.get("attributes") or {}), "id": id_}
            yield guarded(
                lambda values=values, row=row, id_=id_: found(values, meant, row, id_),  # type: ignore[misc]
                row,
                id_,
            )


def _structures(address: str, filter_: str, fields: list[str], page: int | None) -> Iterator[dict[str, Any]]:
    try:
        from optimade.client import OptimadeClient
    except ImportError as error:
        raise TableError(
            "the package optimade is not installed, which reads OPTIMADE providers: pip install 'hullforge[optimade]'"
        ) from error

    client = OptimadeClient(base_urls=[address], use_async=False, silent=True)
    following, seen = None, set()
    while True:
        with redirect_stderr(io.StringIO()):  # errors come back in the answer, and are raised here once
            (answer,) = client.get_one(
                "structures",
                filter_,
                address,
                response_fields=fields,
                page_limit=page,
                paginate=False,
                override_url=following,
            ).values()
        if answer.errors:
            text = "; ".join(map(str, answer.errors))
            raise TableError(
                f"{address}: the provider answers {text if len(text) < _LONG else text[:_LONG] + ' ...'}"
            )
        yield from answer.data
        following = answer.links.get("next")
        if isinstance(following, dict):
            following = following.get("href")
        if not following:
            return
        if following in seen:
            raise TableError(f"{address}: the provider's pages go in a circle, at {following}")
        seen.add(following)
