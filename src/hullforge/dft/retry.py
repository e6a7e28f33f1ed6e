"""Failures put back into the queue: as new calculations, with other settings, in the first round that is still open.

Comes in: a campaign and which of its failures to try again, how. Goes out: rows of the table `retries` in the folder
of the first open round, which from then on has a batch `retry` for each functional. Nothing that exists is changed:
the old failure keeps its row and its id, and the new calculation, with an id of its own, names it as `supersedes`.
Only numerics and limits can differ; what would change the energy is another theory, and refused.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from hullforge.config import Campaign, Limits, Section, validated
from hullforge.dft import protocol as protocols
from hullforge.dft.engines import base
from hullforge.dft.step import Geometry
from hullforge.errors import ConfigError, EngineError, SealError
from hullforge.store import ids, journal, seal, tables
from hullforge.store.vocabulary import FailureReason

FILE = "retries.parquet"
LIMITS = ("step_time_s", "structure_time_s", "silence_s", "memory_mib")
#: Columns of a failure that its retry starts from.
COPIED = (
    "candidate_id", "prototype_id", "numbers", "cell", "positions", "pbc", "nsites", "volume", "elements", "nelements",
    "chemsys", "chemical_formula_reduced", "functional", "theory_id", "reason",
)  # fmt: skip


class RetrySettings(Section):
    """What a retry changes."""

    numerics: dict[str, Any] = Field({}, description="settings of the engine that decide no energy")
    limits: dict[str, float] = Field({}, description="keys of the section limits")
    max_ionic_steps: int | None = Field(None, ge=1, description="most ionic steps of one attempt")


@dataclass(frozen=True)
class Wish:
    """Which failures: those that match every key that is given, empty ones match all."""

    reasons: Sequence[str] = ()
    rounds: Sequence[int] = ()
    functionals: Sequence[str] = ()
    ids: Sequence[str] = ()
    settings: RetrySettings = field(default_factory=RetrySettings)

    def takes(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of failures is meant."""
        return (
            (not self.reasons or row["reason"] in self.reasons)
            and (not self.rounds or row["round"] in self.rounds)
            and (not self.functionals or row["functional"] in self.functionals)
            and (not self.ids or row["calculation_id"] in self.ids)
        )


@dataclass(frozen=True)
class Queued:
    """What `run` did: the round, the failures by reason, and those that were left out, by why."""

    round: int
    path: Path
    reasons: Counter[str]
    left_out: Counter[str]
    dry_run: bool = False

    def text(self) -> str:
        """Give it in words."""
        total = sum(self.reasons.values())
        verb = "would be" if self.dry_run else "are"
        lines = [f"round {self.round}: {total} failures {verb} tried again ({self.path})"]
        lines += [f"  {number} {reason}" for reason, number in sorted(self.reasons.items())]
        lines += [f"  {number} left out: {why}" for why, number in sorted(self.left_out.items())]
        return "\n".join(lines)


def run(campaign: Campaign, wish: Wish, *, dry_run: bool = False) -> Queued:
    """Queue failures for another try; with `dry_run` nothing is written.

    Raises:
        ConfigError: an unknown reason, functional, id, setting or limit, or no failure matches.
        EngineError: a setting would change the energy.
        SealError: all rounds are sealed.

    """
    _check_words(campaign, wish)
    round_ = _open_round(campaign)
    protocol = protocols.load(campaign.protocol)
    theories = {name: protocol.theory_id(name, campaign.engine) for name in campaign.functionals}
    path = campaign.folder / f"round-{round_:03d}" / FILE
    queued = {row["supersedes"]: row for row in tables.read_rows(path, "retries")} if path.is_file() else {}
    found, superseded = history(campaign.folder)
    meant = [row for row in found.values() if wish.takes(row)]
    if not meant:
        reasons = Counter(row["reason"] for row in found.values())
        known = ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))
        raise ConfigError(f"{campaign.folder}: no failure matches; it has {known or 'no failures'}")
    taken: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for row in meant:
        why = _why_not(row, theories, superseded)
        again = ids.calculation_id(
            row["theory_id"], row["candidate_id"], row["parent_structure_id"], row["calculation_id"]
        )
        done = journal.folder_of(campaign.folder / "work", row["theory_id"], again) / journal.DONE_FILE
        if not why and row["calculation_id"] in queued and done.is_file():
            why = "its retry has ended and waits for its round's tables"
        if why:
            left_out[why] += 1
            continue
        _check_settings(campaign, protocol, row, wish.settings)
        taken[row["reason"]] += 1
        queued[row["calculation_id"]] = _retry_row(row, round_, wish.settings)
    if taken and not dry_run:
        tables.write(path, "retries", list(queued.values()))
    return Queued(round_, path, taken, left_out, dry_run)


def history(folder: Path) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """Give all failures of a campaign by id, and the ids of those that were tried again and ended."""
    found: dict[str, dict[str, Any]] = {}
    superseded: set[str] = set()
    wanted = ("calculation_id", "round", "parent_structure_id", *COPIED)
    for round_folder in sorted(folder.glob("round-[0-9][0-9][0-9]")):
        for name in ("failures", "calculations"):
            whole = round_folder / f"{name}.parquet"
            # Batches of an open round may be newer than its tables.
            sealed = (round_folder / seal.SEAL_FILE).is_file()
            batches = [] if sealed else sorted(round_folder.glob(f"dft/*/batch-*/{name}.parquet"))
            for path in ([whole] if whole.is_file() else []) + batches:
                if name == "failures":
                    rows = tables.read_rows(path, name, wanted)
                    found.update((row["calculation_id"], row) for row in rows)
                superseded |= _superseded(path, name)
    return found, superseded


def _superseded(path: Path, name: str) -> set[str]:
    """Give what the rows of a table supersede; tables from before there were retries lack the column."""
    return {row["supersedes"] for row in tables.read_rows(path, name, ("supersedes",))} - {None}


def _why_not(row: Mapping[str, Any], theories: Mapping[str, str], superseded: set[str]) -> str:
    """Say why a failure is not tried again, empty when it is."""
    if row["calculation_id"] in superseded:
        return "tried again already; ask for the failure of that retry"
    if row["candidate_id"] is None:
        return "imported"
    if theories.get(row["functional"]) != row["theory_id"]:
        return "of another theory than the configuration's"
    return ""


def _retry_row(row: Mapping[str, Any], round_: int, settings: RetrySettings) -> dict[str, Any]:
    return {
        **{name: row[name] for name in COPIED},
        "structure_id": row["parent_structure_id"],
        "round": round_,
        "batch": 0,
        "supersedes": row["calculation_id"],
        "settings": settings.to_json(),
    }


def _open_round(campaign: Campaign) -> int:
    """Give the first open round; raises `SealError` when there is none."""
    sealed = set(seal.sealed_rounds(campaign.folder))
    for number in range(len(campaign.rounds)):
        if number not in sealed:
            return number
    raise SealError(
        f"{campaign.folder}: all {len(campaign.rounds)} rounds are sealed, and a sealed round takes nothing more; add a"
        " round to the key 'rounds' (a budget of 1 is enough), then retry: it takes the failures with it"
    )


def _check_words(campaign: Campaign, wish: Wish) -> None:
    known = [reason.value for reason in FailureReason]
    for what, given, allowed in (
        ("--reason", wish.reasons, known),
        ("--functional", wish.functionals, campaign.functionals),
        ("a limit", tuple(wish.settings.limits), LIMITS),
    ):
        strange = [word for word in given if word not in allowed]
        if strange:
            raise ConfigError(f"{what}: unknown {', '.join(strange)}; allowed are {', '.join(allowed)}")
    validated(Limits, wish.settings.limits, "--limit")


def _check_settings(
    campaign: Campaign, protocol: protocols.Protocol, row: Mapping[str, Any], settings: RetrySettings
) -> None:
    """Check that settings are numerics of the engine; raises `EngineError` for physics, `ConfigError` for unknown ones."""
    if not settings.numerics:
        return
    engine, functional = base.get(campaign.engine.name), row["functional"]
    geometry = Geometry(**{name: row[name] for name in ("numbers", "cell", "positions", "pbc")})
    for step in protocol.steps(functional, engine.name):
        physics = set(engine.physics(functional, step, geometry, protocol))
        allowed = set(engine.numerics(functional, step, geometry, protocol))
        allowed |= {key for reason in FailureReason for rung in engine.ladder(reason.value) for key in rung}
        if engine.name == "vasp":
            from hullforge.dft.engines.vasp_inputs import NUMERIC_TAGS, NUMERICS_KEYS

            allowed = (allowed | NUMERIC_TAGS) - set(NUMERICS_KEYS)
        for key in settings.numerics:
            if key in physics or (key not in allowed and _is_protocols(key, protocol)):
                raise EngineError(
                    f"--set {key}: changes the energy, and energies of two theories don't mix; make a protocol with it"
                    " and a campaign of its own"
                )
            if key not in allowed:
                raise ConfigError(
                    f"--set {key}: no setting of {engine.name} that a retry may change; those are"
                    f" {', '.join(sorted(allowed)) or 'none'}"
                )


def _is_protocols(key: str, protocol: protocols.Protocol) -> bool:
    """Whether the protocol fixes a setting of that name."""
    return f'"{key}":' in json.dumps(protocol.model_dump(mode="json"))
