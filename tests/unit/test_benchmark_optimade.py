"""The benchmark of answers to OPTIMADE requests: it asks what it says, and an answer that differs ends it."""

import json

import pytest

from benchmarks import optimade_latency

pytest.importorskip("duckdb")
pytest.importorskip("optimade.server")


def test_a_small_run_prints_every_request(monkeypatch, capsys):
    monkeypatch.setattr(optimade_latency, "REQUESTS", optimade_latency.REQUESTS[-6:])
    outcome = optimade_latency.run(long=False, n=400, n_peer=100)
    assert outcome.holds
    assert outcome.figures["structures"] == 400
    assert outcome.figures["peer_structures"] == 100
    assert outcome.figures["ids_compared"] > 100
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 6
    matches = {line.split("  ")[0]: int(line.split()[-3]) for line in lines[2:]}
    assert matches["_hullforge_is_on_hull=TRUE"] == 40
    assert json.loads(outcome.line("optimade_latency"))["holds"] is True


def test_an_answer_other_than_the_peers_is_no_figure(monkeypatch):
    for name in ("release", "client", "peer"):
        monkeypatch.setattr(optimade_latency, name, lambda *_: None)
    for theirs, words in (
        ((["a"], []), "the peer finds 1; b is one's alone"),
        ((["a", "c"], []), "b is one's alone"),  # as many, but others
        ((["b", "a"], [1, 2]), "sorted otherwise"),
    ):
        answers = iter([(["a", "b"], []), theirs])
        monkeypatch.setattr(optimade_latency, "entries", lambda *_, answers=answers: next(answers))
        with pytest.raises(AssertionError, match=words):
            optimade_latency.run(long=False)
