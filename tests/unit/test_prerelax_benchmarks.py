"""The benchmarks of pre-relaxation: what they measure runs, on cells small enough for a test."""

import importlib.util
import json

import pytest

from benchmarks import prerelax_cells, prerelax_gpu, prerelax_speed, runner
from hullforge.config import Prerelax


def test_the_cells_are_the_same_for_everybody_and_range_from_small_to_large():
    few, again, many = prerelax_cells.cells(6), prerelax_cells.cells(6), prerelax_cells.cells(64)
    assert [str(a.symbols) for a in few] == [str(a.symbols) for a in again]
    assert (len(many[0]), len(many[-1])) == (2, 12)
    assert all(len(set(a.symbols)) > 1 for a in many)


def test_batches_are_measured_against_one_at_a_time():
    """On a CPU with EMT here: the function is the one that a GPU is measured with."""
    from ase.build import bulk

    rates = prerelax_gpu.measure(Prerelax(backend="emt"), [bulk("Cu", a=3.8), bulk("Al", a=4.2)] * 2, 2)
    assert min(rates) > 0


def test_without_a_gpu_the_benchmark_is_unavailable(capsys):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert runner.run("prerelax_gpu", long=False) == 1
    told = capsys.readouterr()
    assert "needs a GPU" in told.err or "needs the package chgnet" in told.err
    assert json.loads(told.out) == {"name": "prerelax_gpu", "figures": {}, "holds": None}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("chgnet") is None, reason="chgnet is not installed")
def test_the_peer_is_chgnets_own_relaxer_and_agrees():
    from ase.build import bulk

    start = bulk("MgO", "rocksalt", a=4.3)
    ((steps, energy),) = prerelax_speed.plain_loop([start])
    from hullforge.potentials import base
    from hullforge.potentials.relax import relax

    settings = Prerelax(device="cpu")
    ours = relax(base.load(settings), start, settings)
    assert 0 < ours.n_steps < steps
    assert ours.energy_per_atom == pytest.approx(energy, abs=2e-3)
