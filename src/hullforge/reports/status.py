"""Where a campaign stands, from its files alone: what is done, running and failed, how fast, at what cost.

Comes in: the campaign's folder and configuration. Goes out: a dictionary and its text. Only looks, at any moment, beside
running jobs: it locks nothing, writes nothing, and loads neither torch nor pymatgen. Sealed rounds are counted from their
own tables, open ones from the notes of their batches (`store.progress`); batches without notes are counted from their
tables. So a campaign of a million calculations takes a fraction of a second. A table that is broken is reported as
failed, not raised.
"""

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from hullforge.config import Campaign
from hullforge.dft import protocol as protocols
from hullforge.errors import TableError
from hullforge.reports import queue
from hullforge.store import journal, progress, seal, tables
from hullforge.store.progress import BatchState, Progress
from hullforge.thermo import corrections

#: Failures and stopped batches that are named, the newest.
NAMED = 5


@dataclass
class Counts:
    """Structures of one functional in one round."""

    converged: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    running: int = 0
    core_s: float = 0.0
    #: Structures per hour, of the batches that run.
    rate: float = 0.0
    batches: Counter[str] = field(default_factory=Counter)

    @property
    def done(self) -> int:
        """Structures with an outcome."""
        return self.converged + self.failures.total()


def status(campaign_folder: Path, campaign: Campaign, now: float | None = None) -> dict[str, Any]:
    """Give what is done of what the configuration plans.

    `rounds[r]["stages"]` counts files done of planned; `rounds[r]["functionals"]` counts structures: `planned`
    (None while not known), `converged`, `failed`, `running`; `failures` counts reasons, `batches` those that are
    finished, running and stopped (interrupted: a restart goes on with them). Core-hours are time on the clock times cores
    of a calculation; those to go are an estimate from the mean of what has ended, without what no selection or promotion
    has chosen yet where that can't be known. Raises `ProtocolError` for a broken protocol.
    """
    now = time.time() if now is None else now
    asked = queue.ask()
    protocol = protocols.load(campaign.protocol)
    theories = {f: protocol.theory_id(f, campaign.engine) for f in campaign.functionals}
    sealed = seal.sealed_rounds(campaign_folder)
    notes: list[tuple[int, Progress]] = []
    rounds = [
        _round(campaign_folder, campaign, theories, number, notes, now, sealed=number in sealed)
        for number in range(len(campaign.rounds))
    ]
    release = campaign_folder / "release" / campaign.release.version
    entries = [entry for round_ in rounds for entry in round_["functionals"]]
    rate = sum(entry["rate_per_hour"] for entry in entries)
    return {
        "campaign": campaign.campaign,
        "folder": campaign_folder.as_posix(),
        "prototypes": (campaign_folder / "prototypes.parquet").is_file(),
        "rounds": rounds,
        "rate_per_hour": rate,
        "core_hours_spent": sum(entry["core_hours"] for entry in entries),
        **_to_go(rounds, rate),
        "queue": queue.answer(asked),
        "errors": _errors(campaign_folder, notes),
        "release": release.as_posix() if (release / "SHA256SUMS").is_file() else None,
    }


def _round(
    folder: Path,
    campaign: Campaign,
    theories: Mapping[str, str],
    number: int,
    notes: list[tuple[int, Progress]],
    now: float,
    *,
    sealed: bool,
) -> dict[str, Any]:
    """Count a round's files and structures; adds the notes of its batches to `notes`."""
    here = folder / f"round-{number:03d}"
    batches = campaign.rounds[number].batches
    broken: list[str] = []
    stages = []
    if number:
        stages.append(
            _stage(
                "screen",
                [f"{here}/screen/shard-{shard}.parquet" for shard in range(campaign.screening.shards)],
            )
        )
    stages.append(_stage("select", [f"{here}/selection.parquet"]))
    stages.append(_stage("prerelax", [f"{here}/prerelax/batch-{b}.parquet" for b in range(batches)]))
    cores = campaign.execution.cores_per_calculation
    counts = _from_round(here, campaign.functionals, cores, broken) if sealed else None
    found = progress.read(folder / "work", number) if not sealed else {}
    functionals = []
    retries = _retries(here, broken)
    numbers = [*range(batches), *([progress.RETRY] if retries else [])]
    lost = 0
    for place, (functional, theory) in enumerate(theories.items()):
        folders = [f"{here}/dft/{functional}-{theory}/batch-{progress.name_of(b)}" for b in numbers]
        finished = [_exists(f"{batch}/calculations.parquet") for batch in folders]
        stages.append(_stage(f"dft {functional}", finished))
        if counts is not None:
            mine = counts[functional]
            mine.batches[BatchState.FINISHED] = sum(finished)
        else:
            own = [found.get((functional, theory, b)) for b in numbers]
            mine = _from_batches(folders, finished, own, cores, now, broken)
            notes += [(number, one) for one in own if one is not None]
        plan = "promotion" if place else "selection"
        planned = _number(here / f"{plan}.parquet", plan, broken)
        if planned is not None:
            # Each functional after the second starts from what the one before has finished.
            planned = max(planned - lost + retries[functional], mine.done)
        lost += mine.failures.total() if place else 0
        functionals.append({
            "functional": functional,
            "planned": planned,
            "converged": mine.converged,
            "failed": mine.failures.total(),
            "running": mine.running,
            "failures": dict(sorted(mine.failures.items())),
            "batches": {state.value: mine.batches[state] for state in BatchState},
            "core_hours": mine.core_s / 3600,
            "rate_per_hour": mine.rate,
        })  # fmt: skip
    stages += [
        _stage("collect", [f"{here}/{name}.parquet" for name in ("calculations", "failures", "costs")]),
        _stage("hull", [f"{here}/hull/{stem}.parquet" for stem in _hulls(campaign)]),
        _stage("train", [f"{here}/screener/model.pt"]),
        _stage("report", [f"{here}/report/report.html"]),
    ]
    report = here / "report" / "report.html"
    return {
        "round": number,
        "budget": campaign.rounds[number].budget,
        "stages": stages,
        "functionals": functionals,
        "sealed": sealed,
        "report": report.as_posix() if report.is_file() else None,
        "broken": broken,
    }


def _hulls(campaign: Campaign) -> list[str]:
    """Give the stems of the files of the campaign's hulls."""
    return list(corrections.hulls(campaign.functionals, campaign.hull.corrections))


def _exists(path: str) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - tens of thousands of them, in a fraction of a second


def _stage(name: str, files: Sequence[str | bool]) -> dict[str, Any]:
    """Count the files that are there; those that were looked for already are given as whether they are."""
    done = sum(file if isinstance(file, bool) else _exists(file) for file in files)
    return {"stage": name, "done": done, "planned": len(files)}


def _number(path: Path, name: str, broken: list[str]) -> int | None:
    """Give the number of rows of a table, None where there is none; notes one that can't be read."""
    if not path.is_file():
        return None
    try:
        return tables.count(path, name)
    except TableError as error:
        broken.append(str(error))
        return None


def _retries(here: Path, broken: list[str]) -> Counter[str]:
    """Count the retries of a round by functional."""
    path = here / "retries.parquet"
    try:
        rows = _values(path, "retries", ["functional"]) if path.is_file() else Counter()
    except TableError as error:
        broken.append(str(error))
        return Counter()
    return Counter({functional: n for (functional,), n in rows.items()})


def _from_round(here: Path, functionals: Sequence[str], cores: int, broken: list[str]) -> dict[str, Counts]:
    """Count the structures of a round from the tables that stand for all of its batches."""
    counts = {functional: Counts() for functional in functionals}
    try:
        for (functional,), n in _values(
            here / "calculations.parquet", "calculations", ["functional"]
        ).items():
            counts.setdefault(functional, Counts()).converged += n
        failed = _values(here / "failures.parquet", "failures", ["functional", "reason"])
        for (functional, reason), n in failed.items():
            counts.setdefault(functional, Counts()).failures[reason] += n
        costs = tables.read(here / "costs.parquet", "costs", ["functional", "walltime_s"])
        # DLPack, since to_numpy loads pandas.
        coded = costs["functional"].combine_chunks().dictionary_encode()
        seconds = np.bincount(
            np.from_dlpack(coded.indices),
            np.from_dlpack(costs["walltime_s"].combine_chunks()),
            len(coded.dictionary),
        )
        for functional, spent in zip(coded.dictionary.to_pylist(), seconds.tolist(), strict=True):
            counts.setdefault(functional, Counts()).core_s += spent * cores
    except TableError as error:
        broken.append(str(error))
    return counts


def _values(path: Path, name: str, columns: Sequence[str]) -> Counter[tuple[Any, ...]]:
    """Count the different rows of some columns.

    Not by grouping the table: pyarrow loads its query engine for that, which takes as long as all the rest.
    """
    table = tables.read(path, name, columns)
    if len(columns) == 1:
        counted = pc.value_counts(table[columns[0]]).to_pylist()
        return Counter({(entry["values"],): entry["counts"] for entry in counted})
    return Counter(zip(*(table[column].to_pylist() for column in columns), strict=True))


def _from_batches(
    folders: Sequence[str],
    finished: Sequence[bool],
    own: Sequence[Progress | None],
    cores: int,
    now: float,
    broken: list[str],
) -> Counts:
    """Count the structures of a round's batches: from their notes, or from their tables where these say more."""
    counts = Counts()
    for folder, is_finished, note in zip(folders, finished, own, strict=True):
        if is_finished and (note is None or note.state != BatchState.FINISHED):
            counts.batches[BatchState.FINISHED] += 1
            _add_tables(Path(folder), counts, cores, broken)
        elif note is not None:
            state = note.state_at(now)
            if state == BatchState.FINISHED and not is_finished:
                # Its tables were deleted since: what it did is under work, and it is to be written again.
                state = BatchState.STOPPED
            counts.batches[state] += 1
            counts.converged += note.converged
            counts.failures.update(note.failures)
            counts.core_s += note.core_s
            if state == BatchState.RUNNING:
                counts.running += note.running
                counts.rate += note.rate()
    return counts


def _add_tables(folder: Path, counts: Counts, cores: int, broken: list[str]) -> None:
    """Count the rows of a batch's tables; notes one that can't be read."""
    try:
        counts.converged += tables.count(folder / "calculations.parquet", "calculations")
        failures = folder / "failures.parquet"
        if tables.count(failures, "failures"):
            counts.failures.update(tables.read(failures, "failures", ["reason"])["reason"].to_pylist())
        costs = tables.read(folder / "costs.parquet", "costs", ["walltime_s"])["walltime_s"]
        counts.core_s += (pc.sum(costs).as_py() or 0.0) * cores
    except TableError as error:
        broken.append(str(error))


def _to_go(rounds: Sequence[dict[str, Any]], rate: float) -> dict[str, Any]:
    """Estimate what is left: structures, core-hours, and hours at the present rate; None where nothing tells."""
    structures, hours = 0, 0.0
    known = True
    for place in range(len(rounds[0]["functionals"])):
        entries = [round_["functionals"][place] for round_ in rounds]
        ended = sum(entry["converged"] + entry["failed"] for entry in entries)
        spent = sum(entry["core_hours"] for entry in entries)
        left = 0
        for round_, entry in zip(rounds, entries, strict=True):
            # What a later functional gets is not known before the promotion.
            planned = entry["planned"] if entry["planned"] is not None or place else round_["budget"]
            left += max(0, (planned or 0) - entry["converged"] - entry["failed"])
        structures += left
        if ended:
            hours += left * spent / ended
        elif left:
            known = False
    return {
        "structures_to_go": structures,
        "core_hours_to_go": hours if known else None,
        "hours_to_go": structures / rate if rate > 0 else None,
    }


def _errors(folder: Path, notes: Sequence[tuple[int, Progress]]) -> list[dict[str, Any]]:
    """Give the last failures and stopped batches, the newest first, each with the path to look at."""
    newest = sorted(notes, key=lambda pair: (-pair[1].updated, pair[1].batch))
    errors: list[dict[str, Any]] = []
    for number, note in newest:
        where = {"round": number, "functional": note.functional, "batch": note.batch}
        log = (
            folder
            / "logs"
            / f"round-{number:03d}"
            / f"dft-{note.functional}-{note.theory_id}-{progress.name_of(note.batch)}.log"
        )
        if note.message:
            errors.append({
                **where, "calculation_id": None, "reason": note.state.value, "message": note.message,
                "path": log.as_posix(),
            })  # fmt: skip
        for error in reversed(note.errors):
            place = journal.folder_of(folder / "work", note.theory_id, error["calculation_id"])
            if not place.is_dir():
                # Swept: what is left of it is in the batch's archive.
                batch = f"{note.functional}-{note.theory_id}/batch-{progress.name_of(note.batch)}"
                place = folder / f"round-{number:03d}" / "dft" / batch / "raw.tar.gz"
            errors.append({**where, **error, "path": place.as_posix()})
        if len(errors) >= NAMED:
            break
    return errors[:NAMED]
