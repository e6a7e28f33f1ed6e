"""Benchmarks: how they are called and told, and that the peers compute what they are said to."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import (
    perovskites,
    perovskites_screener,
    runner,
    screening_gpu,
    screening_memory,
    screening_throughput,
    training_memory,
    unranking,
)
from hullforge.crystals.prototypes import compile_structure
from hullforge.screening.graphs import GraphTable
from hullforge.store.structures import NUMBERS

ROOT = Path(__file__).parents[2]

CIF = """_cell_length_a   4.0
_cell_length_b   4.0
_cell_length_c   4.0
_cell_angle_alpha   90.0
_cell_angle_beta   90.0
_cell_angle_gamma   90.0
loop_
  Ca  Ca0  1  {a:.5f}  0.0  0.0  1
  Ti  Ti1  1  {b:.5f}  0.5  0.5  1
  O  O2  1  {x:.5f}  0.0  0.5  1
  N  N3  1  {x:.5f}  0.5  0.0  1
  O  O4  1  {y:.5f}  {z}  0.5  1
"""


def perovskite():
    from ase import Atoms

    positions = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return compile_structure(
        Atoms("CaTiO3", cell=[4.0] * 3, scaled_positions=positions, pbc=True), "perovskite", "test"
    )


def half_heusler():
    from ase import Atoms
    from ase.build import bulk

    atoms = bulk("Cu", "fcc", a=6.0)
    positions = [[0, 0, 0], [0.25, 0.25, 0.25], [0.5, 0.5, 0.5]]
    return compile_structure(
        Atoms("MgAgAs", cell=atoms.cell, scaled_positions=positions, pbc=True), "half-Heusler", "test"
    )


def test_all_benchmarks_are_listed_and_have_a_module(capsys):
    assert command.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(runner.BENCHMARKS)
    for name in runner.BENCHMARKS:
        assert (ROOT / "benchmarks" / f"{name}.py").is_file()


def test_an_unknown_name_is_one_sentence_and_status_2():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "speed"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "'speed'" in done.stderr
    assert "unranking" in done.stderr


def test_the_last_line_is_json_with_ratio_and_peer_where_there_are_any():
    told = json.loads(
        runner.Outcome({"atoms_per_s": 12345.678, "x": None}, holds=True, ratio=2.0, peer="them").line("n")
    )
    assert told == {"name": "n", "figures": {"atoms_per_s": 12350.0, "x": None}, "ratio": 2.0, "peer": "them", "holds": True}  # fmt: skip
    assert set(json.loads(runner.Outcome({}, holds=None).line("n"))) == {"name", "figures", "holds"}


def test_unranking_runs_and_its_figures_are_rates(capsys):
    outcome = unranking.run(long=False, known=[half_heusler(), perovskite()], pool=unranking.POOL[:20])
    assert "itertools" in capsys.readouterr().out
    assert outcome.figures["decorations"] == 6840 + 3420
    assert (
        outcome.figures["decorations_per_cpu_second"]
        > outcome.figures["itertools_decorations_per_cpu_second"]
    )
    assert outcome.ratio > 1


def test_the_check_of_unranking_can_fail(monkeypatch):
    prototype = half_heusler()
    monkeypatch.setattr(unranking, "listed", lambda *_: iter([(0, 1, 2)]))
    with pytest.raises(AssertionError, match="other decorations"):
        unranking.check([prototype], 4)


def test_sides_take_turns_and_the_first_round_is_not_counted():
    order = []

    def side(name):
        order.append(name)
        return float(len(order))

    rates = runner.interleaved({"a": lambda: side("a"), "b": lambda: side("b")}, rounds=2)
    assert order == ["a", "b"] * 3
    assert rates.rounds == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
    assert rates.median("b") == 5.0


def test_absent_data_is_told_in_one_sentence_and_the_json_says_null(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.setenv("HULLFORGE_DATA", str(tmp_path))
    assert runner.run("perovskites", long=False) == 1
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert "HULLFORGE_DATA" in told.err
    assert json.loads(told.out.splitlines()[-1]) == {"name": "perovskites", "figures": {}, "holds": None}


def test_an_absent_package_is_named_with_how_to_install_it():
    with pytest.raises(runner.UnavailableError, match="pip install no-such-distribution"):
        runner.package("no_such_package_anywhere", "no-such-distribution")


def test_cations_of_a_perovskite_are_told_apart_in_ideal_and_polar_cells():
    ideal = CIF.format(a=0, b=0.5, x=0.5, y=0, z=0.5)
    polar = CIF.format(a=0.178, b=0.497, x=0.388, y=-0.012, z=0.5)
    assert perovskites.sites(ideal, "1") == ("Ca", "Ti", ("N", "O", "O"))
    assert perovskites.sites(polar, "1") == ("Ca", "Ti", ("N", "O", "O"))
    with pytest.raises(ValueError, match="material 7: the atoms are not those"):
        perovskites.sites(CIF.format(a=0, b=0.5, x=0.5, y=0, z=0.2), "7")


def test_every_row_of_the_data_is_a_perovskite_of_its_own():
    try:
        rows = perovskites.load_rows()
    except runner.UnavailableError as error:
        pytest.skip(str(error))
    assert len(rows) == len({(row.a, row.b, row.anions) for row in rows}) == 3787
    assert {anion for row in rows for anion in row.anions} == {"N", "O", "F", "S"}


def test_folds_part_the_rows_and_training_subsets_are_nested():
    rows = [perovskites.Row(str(i), "Ca", "Ti", ("O", "O", "O"), 0.0) for i in range(400)]
    tested = [row for _, test in perovskites.folds(rows, 0.8) for row in test]
    assert sorted(row.material_id for row in tested) == sorted(row.material_id for row in rows)
    shares = [list(perovskites.folds(rows, share)) for share in perovskites.SHARES]
    for number in range(perovskites.FOLDS):
        sizes = []
        for smaller, larger in pairwise(shares):
            assert set(smaller[number][0]) < set(larger[number][0])
            assert smaller[number][1] == larger[number][1]
            sizes.append(len(smaller[number][0]) / len(rows))
        assert sizes == pytest.approx([0.1, 0.2, 0.4], abs=0.02)
        train, test = shares[-1][number]
        assert len(train) + len(test) == len(rows)


def screened(monkeypatch, uncertainty):
    """Run `perovskites` with models that know the answer, but for an error, and give the outcome."""
    rows = [
        perovskites.Row(str(i), "Ca", "Ti", ("O", "O", "O"), float(heat))
        for i, heat in enumerate(np.random.default_rng(0).normal(size=300))
    ]

    def with_error(size):
        def model(train, test, seed):
            errors = size * np.random.default_rng(seed).normal(size=len(test))
            return np.array([row.heat for row in test]) + errors, uncertainty(np.abs(errors))

        return model

    monkeypatch.setattr(runner, "package", lambda *_: None)
    monkeypatch.setattr(perovskites, "load_rows", lambda: rows)
    monkeypatch.setattr(perovskites.perovskites_baselines, "MODELS", {"baseline": with_error(0.2)})
    screener = SimpleNamespace(screener_predictions=with_error(0.1))
    monkeypatch.setattr(runner, "seam", lambda _: screener)
    monkeypatch.setattr(perovskites, "find_spec", lambda _: None)
    return perovskites.run(long=False)


def test_a_screener_holds_when_its_error_is_small_and_its_uncertainty_tells(monkeypatch):
    outcome = screened(monkeypatch, lambda errors: errors)
    assert outcome.holds is True
    assert outcome.ratio == pytest.approx(2.0)
    assert outcome.figures["screener_spearman_of_uncertainty"] == pytest.approx(1.0)


def test_a_screener_without_a_telling_uncertainty_does_not_hold(monkeypatch):
    outcome = screened(monkeypatch, lambda errors: np.arange(len(errors), dtype=float))
    assert outcome.figures["screener_mae_eV_per_cell_at_80_percent"] < 0.125
    assert outcome.holds is False


def test_labels_are_drawn_from_all_that_elements_and_anions_allow():
    rows = [
        perovskites.Row(str(i), a, b, anions, 0.0)
        for i, (a, b, anions) in enumerate(
            [("Ca", "Ti", ("O", "O", "O")), ("Sr", "Zr", ("N", "O", "O")), ("K", "K", ("N", "O", "F"))]
        )
    ]
    found = perovskites_screener.candidates(rows, 1000)
    assert len(set(map(str, found))) == 5 * 5 * 3
    assert perovskites_screener.candidates(rows, 10) == found[:10]
    # CaTiO3 and TiCaO3, one on each cation's site.
    oxides = [species for _, species in found if set(species) == {"Ca", "Ti", "O"}]
    assert len(oxides) == 2


@pytest.fixture
def small_throughput(monkeypatch):
    pytest.importorskip("torch_geometric")
    small = {"width": 16, "shell_width": 16, "heads": 2, "layers": 1, "readout": (16,)}
    monkeypatch.setattr(screening_throughput, "FORMS", {screening_throughput.PEER: small})
    monkeypatch.setattr(screening_throughput, "structures", lambda: {"perovskite": perovskite()})
    monkeypatch.setattr(screening_throughput, "PRESET", "tiny")
    monkeypatch.setattr(screening_throughput, "RANKS", 300)
    monkeypatch.setattr(screening_throughput, "TRAINED", ("tiny",))
    monkeypatch.setattr(screening_throughput.unranking, "ternaries", lambda: [perovskite(), half_heusler()])


def bounds(monkeypatch, **values):
    never = {"MIN_RATIO": {"fp32": 0.0, "bf16": 0.0}}
    never |= dict.fromkeys(("MIN_RATIO_PLAIN", "MIN_END_TO_END", "MIN_RATIO_TRAINING"), 0.0)
    for name, value in (never | values).items():
        monkeypatch.setattr(screening_throughput, name, value)


@pytest.mark.slow
def test_throughput_holds_when_all_bounds_are_met_and_tells_all_parts(small_throughput, monkeypatch, capsys):
    bounds(monkeypatch)
    outcome = screening_throughput.run(long=False)
    assert outcome.holds is True
    assert outcome.peer == screening_throughput.PEER
    assert outcome.ratio == outcome.figures["perovskite_fp32_over_cgat"] > 1
    assert outcome.figures["perovskite_fp32_over_whole_graphs"] > 1
    assert outcome.figures["training_tiny_over_whole_graphs"] > 1
    assert 0 < outcome.figures["end_to_end_share"] < 1.5
    assert all(value is not None and np.isfinite(value) for value in outcome.figures.values())
    told = capsys.readouterr().out
    for text in (*screening_throughput.FORMS, screening_throughput.PLAIN, "hullforge, bf16", "whole stage"):
        assert text in told


@pytest.mark.parametrize(
    "bound", [{"MIN_RATIO": {"fp32": 1e9, "bf16": 0.0}}, {"MIN_RATIO": {"fp32": 0.0, "bf16": 1e9}}, {"MIN_RATIO_PLAIN": 1e9}]
)  # fmt: skip
def test_throughput_does_not_hold_when_a_peer_is_too_fast(small_throughput, monkeypatch, bound):
    compiled = {"perovskite": perovskite()}
    bounds(monkeypatch)
    assert screening_throughput.throughput(compiled, long=False).met
    bounds(monkeypatch, **bound)
    assert not screening_throughput.throughput(compiled, long=False).met


def test_a_structure_without_a_bound_may_be_slow(small_throughput, monkeypatch):
    bounds(monkeypatch, MIN_RATIO_PLAIN=1e9)
    compiled = {"perovskite": perovskite(), "other": half_heusler()}
    monkeypatch.setattr(screening_throughput, "BOUNDED", ("other",))
    assert not screening_throughput.throughput(compiled, long=False).met
    bounds(monkeypatch, MIN_RATIO={"fp32": 0.0, "bf16": 0.0})
    found = screening_throughput.throughput(compiled, long=False)
    assert found.met
    assert found.ratio == found.figures["other_fp32_over_cgat"]


def test_the_stage_and_training_have_bounds_that_can_fail(small_throughput, monkeypatch):
    bounds(monkeypatch, MIN_END_TO_END=1e9, MIN_RATIO_TRAINING=1e9)
    assert not screening_throughput.end_to_end(perovskite(), long=False).met
    assert not screening_throughput.training([perovskite()], ("tiny",), long=False).met


def test_our_side_scores_consecutive_ranks_and_starts_over_at_the_end():
    side = screening_throughput.Ours(screening_throughput.network("tiny"), perovskite(), "fp32")
    scored = []
    side.screener.predict_shared = lambda *arguments: scored.append(arguments[-1])
    side.space.count = 300
    block = side.screener.block
    assert side.score(3) == 3 * block
    pool = [NUMBERS[symbol] for symbol in unranking.POOL]
    for first, species in zip((0, block, 0), scored, strict=True):
        wanted = side.space.unrank(np.arange(first, first + block)).tolist()
        assert species.tolist() == [[pool[element] for element in row] for row in wanted]


@pytest.mark.parametrize("name", screening_throughput.STRUCTURES)
def test_whole_graphs_give_the_outputs_of_the_reduced_ones(name):
    pytest.importorskip("torch_geometric")
    prototype = screening_throughput.structures()[name]
    made = screening_throughput.network("small")
    assert 0 < screening_throughput.check(made, prototype) <= 1e-5
    assert screening_throughput.check(made.double(), prototype, tolerance=1e-8) <= 1e-8


def test_the_check_of_whole_graphs_can_fail(monkeypatch):
    pytest.importorskip("torch_geometric")
    from benchmarks.peers import plain

    as_it_is = plain.Graphs.decorated

    def moved(graphs, numbers):
        structure = as_it_is(graphs, numbers)
        structure.weight = structure.weight.clone()
        structure.weight[0] += 0.5
        return structure

    monkeypatch.setattr(plain.Graphs, "decorated", moved)
    with pytest.raises(AssertionError, match="outputs differ by"):
        screening_throughput.check(screening_throughput.network("small"), perovskite())


def test_a_step_on_whole_graphs_is_the_step_on_reduced_ones():
    pytest.importorskip("torch_geometric")
    from benchmarks.peers import plain

    known = [perovskite(), half_heusler()]
    made = screening_throughput.network("tiny")
    whole = plain.Plain(made)
    index, species = np.array([0, 1, 0]), np.array([[20, 22, 8], [12, 47, 33], [22, 20, 8]])
    batch = plain.collate(
        [plain.Graphs(known[i]).decorated(row) for i, row in zip(index, species, strict=True)]
    )
    outputs = [made(GraphTable(known).mixed(index, species)), whole(batch)]
    for output in outputs:
        (output.mean.sum() + output.log_std.square().sum()).backward()
    gradients = [model.elements.learned.grad for model in (made, whole)]
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
    whole_first = whole.layers[0].perceptron.first.weight.grad
    layer = made.layers[0]
    parts = torch.cat([part.weight.grad for part in (layer.centre, layer.shell, layer.neighbour)], dim=1)
    torch.testing.assert_close(whole_first, parts, rtol=1e-4, atol=1e-6)


def test_without_a_gpu_its_benchmark_says_so_and_the_json_says_null(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runner.run("screening_gpu", long=False) == 1
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert "needs a GPU" in told.err
    assert json.loads(told.out) == {"name": "screening_gpu", "figures": {}, "holds": None}


def test_the_gpu_benchmark_measures_wherever_it_is_put(monkeypatch, capsys):
    monkeypatch.setattr(screening_gpu, "PRESET", "tiny")
    monkeypatch.setattr(screening_gpu, "MATRIX", 128)
    outcome = screening_gpu.measure(torch.device("cpu"), {"perovskite": perovskite()}, rounds=1)
    figures = outcome.figures
    share = figures["perovskite_structures_per_s"] * figures["perovskite_GFLOP_per_structure"] / 1e3
    assert figures["perovskite_share_of_peak"] == pytest.approx(share / figures["peak_bf16_TFLOP_per_s"])
    assert "bf16" in capsys.readouterr().out


def test_operations_of_a_structure_are_those_of_its_products_of_matrices():
    """Counted by hand: what is per class, per composition and for the readout; shells are shared by a block."""
    side = screening_throughput.Ours(screening_throughput.network("tiny"), perovskite(), "fp32")
    shape = side.screener.members[0].arguments
    width, inner = shape.width, shape.heads * shape.hidden
    classes, edges = len(perovskite().class_species), len(perovskite().edge_source)
    layer = classes * (3 * width * inner + 3 * width * shape.hidden) + edges * inner
    pool = classes * (width * inner + inner) + width * inner + inner * width
    wide = (2 * width, *shape.readout)
    readout = sum(2 * a * b if a != b else a * b for a, b in pairwise(wide)) + wide[-1] * 3
    least = 2 * (shape.layers * layer + pool + readout)
    assert least < screening_gpu.operations(side) < 1.6 * least


@pytest.mark.slow
def test_training_memory_trains_in_a_process_of_its_own_and_counts_its_peak(capsys):
    outcome = training_memory.run(long=False, sizes=(500, 1500))
    assert {"peak_GiB_at_500_records", "peak_GiB_at_1500_records"} < set(outcome.figures)
    assert 0.1 < outcome.figures["peak_GiB_at_1500_records"] < 3
    assert "1,500" in capsys.readouterr().out


@pytest.mark.slow
def test_memory_is_measured_on_the_real_stage():
    outcome = screening_memory.run(long=False, lengths=(2000, 4000), full=3000)
    assert 0.05 < outcome.figures["peak_GiB_with_default_kept_rows"] < 2
    assert outcome.holds == (outcome.figures["growth_per_decade"] < 0.05)


def test_switches_of_cgat_change_no_output():
    pytest.importorskip("torch_geometric")
    from benchmarks.peers import cgat

    small = {"width": 16, "shell_width": 16, "heads": 2, "layers": 2, "readout": (32, 16)}
    graphs = cgat.Graphs(perovskite())
    structures = [graphs.decorated(numbers) for numbers in ((20, 22, 8), (38, 22, 8), (22, 20, 8))]
    outputs = [
        cgat.CGAT(cgat.Arguments(**small, dead_code=dead, grouped=grouped)).predict(structures)
        for dead in (True, False)
        for grouped in (True, False)
    ]
    for other in outputs[1:]:
        torch.testing.assert_close(other, outputs[0], rtol=1e-4, atol=1e-6)
    assert len({round(float(value), 6) for value in outputs[0][:, 0]}) == 3
    alone = [cgat.CGAT(cgat.Arguments(**small)).predict([structure]) for structure in structures]
    torch.testing.assert_close(torch.cat(alone), outputs[0], rtol=1e-4, atol=1e-6)


def test_cgat_counts_the_neighbours_of_a_perovskite():
    pytest.importorskip("torch_geometric")
    from benchmarks.peers import cgat

    prototype = perovskite()
    edges, shells = cgat.neighbours(prototype)
    anion, found = prototype.species_counts.argmax(), []
    assert edges.shape == (2, 24 * 5)
    for site in range(5):
        mine = edges[1] == site
        assert mine.sum() == 24
        found.append(np.bincount(shells[mine])[1:].tolist())
        nearest = prototype.site_species[edges[0][mine & (shells == 1)]]
        assert (nearest == anion).all() == (prototype.site_species[site] != anion)
    # B: 6 anions, 8 A, 6 B, and 4 of the 24 next anions. A: 12 anions, 8 B, 4 of 6 A. An anion: 2 B, then 8 anions
    # and 4 A at one distance, 6 anions, 4 of the next B.
    assert sorted(found) == sorted([[6, 8, 6, 4], [12, 8, 4], *[[2, 12, 6, 4]] * 3])


@pytest.mark.slow
def test_cgat_at_paper_width_has_65_million_parameters():
    pytest.importorskip("torch_geometric")
    from benchmarks.peers import cgat

    assert cgat.CGAT().parameter_count == pytest.approx(65.3e6, rel=0.001)
