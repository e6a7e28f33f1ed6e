"""The stage `label`: energies that a potential gives to random candidates, for the screener to be pre-trained on.

Comes in: the table `prototypes`, the pool of elements and how many labels are wanted. Goes out: the table `labels`, one
row per drawn candidate in any case. A candidate keeps the ideal geometry of its prototype and is scaled through a few
volumes; its label is the lowest point of the parabola through the lowest three. A label costs some four energies
without forces, a twentieth of a pre-relaxation. Labels are of the potential's own theory: they are in a table
of their own, and no calculation, hull or release ever meets one.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from tqdm import tqdm

from hullforge.config import LabelSettings
from hullforge.crystals import decorations
from hullforge.crystals import prototypes as prototype_table
from hullforge.errors import ConfigError
from hullforge.potentials.base import Potential, load
from hullforge.store import ids, tables
from hullforge.store.vocabulary import PrerelaxStatus

if TYPE_CHECKING:
    from ase import Atoms

#: Step of the scan in the length of the cell, and the furthest step: 0.7 to 1.3 of the estimated length.
STEP, FURTHEST = 0.05, 6


def run(settings: LabelSettings, prototypes: Path, out: Path, checkpoint: Path | None = None) -> None:
    """Label `settings.number` random candidates and write the table `labels` to `out`.

    What a killed run has done is read from `checkpoint`, a line per label, which is deleted at the end. Raises
    `ModelError` when the potential can't be loaded or lacks an element, `ConfigError` without a potential.
    """
    known = prototype_table.load(prototypes)
    potential = load(settings.prerelax, settings.elements)
    if potential is None:
        raise ConfigError(
            "training.pretrain.labels needs a potential; set prerelax.backend to chgnet or matgl"
        )
    drawn = draw(decorations.spaces(known, settings.elements, settings.site_groups), settings)
    label_all(potential, [(known[index], species) for index, species in drawn], out, checkpoint)


def label_all(
    potential: Potential,
    candidates: Sequence[tuple[prototype_table.Prototype, tuple[str, ...]]],
    out: Path,
    checkpoint: Path | None = None,
) -> None:
    """Label the candidates and write the table; `checkpoint` as in `run`, bound to the candidates and the potential."""
    backend = potential.describe().label
    names = [ids.candidate_id(prototype.prototype_id, species) for prototype, species in candidates]
    key = sha256(f"{backend}{names}".encode()).hexdigest()
    done = _read(checkpoint, key)
    rows: list[dict[str, Any]] = []
    with (
        _Journal(checkpoint, key, done) as journal,
        tqdm(total=len(names), initial=len(done), desc="labels", unit="candidate", disable=not sys.stderr.isatty()) as bar,
    ):  # fmt: skip
        for number, (prototype, species) in enumerate(candidates):
            found: Mapping[str, Any]
            if number < len(done):
                found = done[number]
            else:
                found = scan(potential, decorations.decorate(prototype, species))
                journal.add(found)
                bar.update()
            rows.append(
                {
                    "candidate_id": names[number],
                    "prototype_id": prototype.prototype_id,
                    "species": list(species),
                    **found,
                    "volume_per_atom": found["volume_per_atom"] if prototype.pbc.all() else None,
                    "backend": backend,
                }
            )
    tables.write(out, "labels", sorted(rows, key=lambda row: row["candidate_id"]))
    if checkpoint is not None:
        Path(checkpoint).unlink(missing_ok=True)


def draw(
    spaces: "list[decorations.Decorations]", settings: LabelSettings
) -> list[tuple[int, tuple[str, ...]]]:
    """Draw different candidates, each as likely as any other: prototype's index and elements; all, where few exist.

    More labels begin with those of fewer.
    """
    ends = np.cumsum([space.count for space in spaces])
    total = int(ends[-1]) if len(ends) else 0
    random = np.random.default_rng([settings.seed, 0x1ABE15])
    if total <= 4 * settings.number:
        ranks = random.permutation(total)[: settings.number].tolist()
    else:
        chosen: dict[int, None] = {}
        while len(chosen) < settings.number:
            chosen.setdefault(int(random.integers(total)))
        ranks = list(chosen)
    found = []
    for rank in ranks:
        index = int(np.searchsorted(ends, rank, side="right"))
        space = spaces[index]
        first = int(ends[index]) - space.count
        indices = space.unrank(np.array([rank - first]))[0]
        found.append((index, tuple(space.elements[at] for at in indices)))
    return found


def scan(potential: Potential, atoms: "Atoms") -> dict[str, Any]:
    """Give the columns of a label: the lowest energy of `atoms` as its cell is scaled; a failure is one too.

    The cell of a layer is scaled with its vacuum, which no potential feels.
    """
    size, volume = len(atoms), float(atoms.get_volume())
    energies: dict[int, float] = {}

    def energy(step: int) -> float:
        if step not in energies:
            scaled = atoms.copy()
            scaled.set_cell(atoms.cell * (1 + STEP * step), scale_atoms=True)
            value = potential.energy(scaled)
            if not np.isfinite(value):
                raise ValueError("the potential gave no finite energy")
            energies[step] = value
        return energies[step]

    try:
        lowest, status = _bracket(energy)
    except Exception as error:  # noqa: BLE001 - whatever a model raises is this label's failure
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        return _label(None, None, PrerelaxStatus.FAILED, text, len(energies))
    if status is not PrerelaxStatus.CONVERGED:
        return _label(None, None, status, "no lowest energy between 0.7 and 1.3 of the length", len(energies))
    below, at, above = (energies[lowest + step] for step in (-1, 0, 1))
    slope, curvature = (above - below) / 2, above + below - 2 * at
    shift = -slope / curvature if curvature > 0 else 0.0
    length = 1 + STEP * (lowest + shift)
    return _label((at + slope * shift / 2) / size, volume * length**3 / size, status, "", len(energies))


def _bracket(energy: Callable[[int], float]) -> tuple[int, PrerelaxStatus]:
    """Walk downhill from step 0 until both neighbours are higher; gives the step and whether that succeeded."""
    step = 0
    while abs(step) < FURTHEST:
        best = min((step - 1, step, step + 1), key=energy)
        if best == step:
            return step, PrerelaxStatus.CONVERGED
        step = best
    return step, PrerelaxStatus.NOT_CONVERGED


def _label(
    energy: float | None, volume: float | None, status: PrerelaxStatus, message: str, evaluations: int
) -> dict[str, Any]:
    return {
        "energy_per_atom": energy,
        "volume_per_atom": volume,
        "status": status.value,
        "message": message,
        "n_evaluations": evaluations,
    }


def _read(checkpoint: Path | None, key: str) -> list[dict[str, Any]]:
    """Read the labels of a run that was killed; a last line that is cut short is done again."""
    if checkpoint is None or not Path(checkpoint).is_file():
        return []
    rows = list(_lines(Path(checkpoint).read_text(encoding="utf-8")))
    return rows[1:] if rows and rows[0] == {"key": key} else []


def _lines(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


class _Journal:
    """A file that gets a line per label, so that a killed run goes on."""

    def __init__(self, path: Path | None, key: str, done: list[dict[str, Any]]) -> None:
        self._file = None
        if path is not None:
            path = Path(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            # Written anew: a line that was cut short must not stay before the next one.
            self._file = path.open("w", encoding="utf-8")
            for row in ({"key": key}, *done):
                self.add(row)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row."""
        if self._file is not None:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
