"""Bodies of worker processes that die, hang or look around; apart from the tests so that they start fast."""

import os
import time

from hullforge.potentials.relax import Relaxation
from hullforge.store.vocabulary import PrerelaxStatus


def dies_on_aluminium(connection, settings_json, elements):
    """A worker that a structure kills outright, as a segmentation fault would."""
    connection.send("dying 1")
    while (task := connection.recv()) is not None:
        start, _ = task
        if start.get_chemical_formula() == "Al":
            os._exit(11)
        connection.send(Relaxation(start, PrerelaxStatus.CONVERGED))


def hangs_on_aluminium(connection, settings_json, elements):
    connection.send("hanging 1")
    while (task := connection.recv()) is not None:
        start, _ = task
        if start.get_chemical_formula() == "Al":
            time.sleep(600)
        connection.send(Relaxation(start, PrerelaxStatus.CONVERGED))


def never_starts(connection, settings_json, elements):
    os._exit(3)


def counts_threads(connection, settings_json, elements):
    connection.send(
        ",".join(os.environ.get(name, "?") for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"))
    )
    while (task := connection.recv()) is not None:
        start, _ = task
        connection.send(Relaxation(start, PrerelaxStatus.CONVERGED))
