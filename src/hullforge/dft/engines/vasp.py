"""The engine `vasp`: the protocol's steps as VASP's inputs; the program, its licence and its POTCARs are the user's.

Comes in: protocol, step and geometry; goes out: the settings of `StepInput`, which `vasp_inputs.write_inputs` turns
into files. How the program is run, watched and mended is not here.
"""

from collections.abc import Sequence
from typing import Any

from hullforge.config import Engine as EngineConfig
from hullforge.config import Execution
from hullforge.dft.engines import vasp_check, vasp_inputs, vasp_potcars
from hullforge.dft.engines.vasp_run import VaspFiles
from hullforge.dft.engines.vasp_settings import functional_of
from hullforge.dft.protocol import Protocol, Step
from hullforge.dft.step import Geometry
from hullforge.errors import EngineError
from hullforge.store.structures import SYMBOLS


class VaspEngine(VaspFiles):
    """VASP behind the engine interface; see `hullforge.dft.engines.base.Engine` for the meaning of each method."""

    name = "vasp"
    warning = ""

    def check(
        self,
        elements: Sequence[str],
        protocol: Protocol,
        functionals: Sequence[str],
        config: EngineConfig,  # noqa: ARG002 - VASP's version is known to its output alone
        execution: Execution | None = None,
    ) -> None:
        """Raise `EngineError` with one table of all that is missing: programs, input sets, POTCARs.

        Raises `ConfigError` or `ProtocolError` for wrong settings in the protocol.
        """
        rows = vasp_check.missing(elements, protocol, functionals, execution)
        if rows:
            raise EngineError(vasp_check.message(rows))

    def run_type(self, functional: str, elements: Sequence[str], protocol: Protocol) -> str:
        """Give GGA, GGA+U or metaGGA."""
        ours = functional_of(protocol, functional)
        kind = "metaGGA" if vasp_check.is_meta_gga(ours) else "GGA"
        return f"{kind}+U" if self.hubbards(functional, elements, protocol) else kind

    def hubbards(self, functional: str, elements: Sequence[str], protocol: Protocol) -> dict[str, float]:
        """Give U (eV) of those elements that get one: where one of the protocol's anions is present."""
        rule = protocol.functional(functional).hubbard_u
        if rule is None or not set(rule.anions) & set(elements):
            return {}
        return {symbol: rule.values[symbol] for symbol in sorted(set(elements)) if symbol in rule.values}

    def pseudopotentials(
        self,
        functional: str,
        elements: Sequence[str],
        protocol: Protocol,
        config: EngineConfig,  # noqa: ARG002 - the POTCARs themselves say more
    ) -> list[str]:
        """Give family, label, title and hash of the POTCAR of each element, alphabetical."""
        ours = functional_of(protocol, functional)
        return [
            vasp_potcars.describe(ours.potcars.family, vasp_inputs.potcar_label(ours, ours.base, symbol))
            for symbol in sorted(set(elements))
        ]

    def physics(self, functional: str, step: Step, geometry: Geometry, protocol: Protocol) -> dict[str, Any]:
        """Give the INCAR tags that fix the energy, the k-point grid and the POTCARs; see `vasp_inputs.settings`."""
        return self._settings(functional, step, geometry, protocol)[0]

    def numerics(self, functional: str, step: Step, geometry: Geometry, protocol: Protocol) -> dict[str, Any]:
        """Give the other INCAR tags and what passes from step to step."""
        return self._settings(functional, step, geometry, protocol)[1]

    def _settings(
        self, functional: str, step: Step, geometry: Geometry, protocol: Protocol
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        elements = [SYMBOLS[n] for n in geometry.numbers]
        hubbards = self.hubbards(functional, elements, protocol)
        return vasp_inputs.settings(functional, step, geometry, protocol, hubbards)

    def known(self, candidate_id: str, config: EngineConfig) -> dict[str, Any]:  # noqa: ARG002
        """Give the version that VASP's output must name."""
        return {"version": config.version}

    def spent_files(self, functional: str, protocol: Protocol) -> tuple[str, ...]:
        """Name orbitals and densities, unless a step of the functional starts from those of the step before it."""
        steps = functional_of(protocol, functional).steps.values()
        passed = {name for step in steps for name in step.passes}
        return tuple(name for name in ("WAVECAR", "CHGCAR", "CHG") if name not in passed)
