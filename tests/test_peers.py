"""Oracles: `jax.grad` itself as a peer; the table; a peer that cannot be had.

Catches weights or gradients that are exchanged between layouts, a cosine of the wrong sign, a peer whose failure ends
the command, an adapter that is not there, a loop counted once.
"""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import peers
from benchmarks.peers import environment, harness, ours
from benchmarks.peers.cases import block, conv, dense, made
from benchmarks.peers.table import PEERS, Peer

BACKPROPAGATION = """
import sys
def steps(case):
    gradient = sys.modules["__main__"].backpropagation(case)
    def half(*args):
        return [[v / 2 for v in w] for w in gradient(*args)]
    def opposite(*args):
        return [[-v for v in w] for w in gradient(*args)]
    return {"jax.grad": gradient, "half": half, "opposite": opposite}
"""


@pytest.fixture(scope="module")
def case():
    return made("small", [conv(4, True), dense(8), block(8), dense(10, relu=False)], "cifar10", 8, 4)


def test_the_table_is_well_formed():
    assert len({peer.name for peer in PEERS}) == len(PEERS) >= 5
    for peer in PEERS:
        assert (Path(peers.__file__).parent / f"{peer.adapter}.py").exists()
        assert peer.address.startswith("github.com/")
        assert bool(peer.package) != (len(peer.commit) == 40)
        assert peer.version


def test_backpropagation_as_a_peer_has_cosine_one(case, tmp_path):
    adapter, saved = tmp_path / "adapter.py", tmp_path / "case.npz"
    adapter.write_text(BACKPROPAGATION)
    case.save(saved)
    rows = environment.measured(Path(sys.executable), adapter, saved, 1, tmp_path)
    same, half, opposite = rows
    for row, sign in ((same, 1), (half, 1), (opposite, -1)):
        assert row["cosine"] == pytest.approx(sign, abs=1e-12)
        assert row["worst_layer_cosine"] == pytest.approx(sign, abs=1e-12)
    assert same["flops_over_backprop"] == pytest.approx(1)
    assert same["compile_seconds"] > 0
    assert same["seconds_over_backprop"] > 0


def test_a_network_that_cannot_be_expressed_is_a_row(case, tmp_path):
    adapter, saved = tmp_path / "adapter.py", tmp_path / "case.npz"
    adapter.write_text("def steps(case):\n    raise ValueError('it has no convolutions')\n")
    case.save(saved)
    (row,) = environment.measured(Path(sys.executable), adapter, saved, 1, tmp_path)
    assert row["why"] == "it has no convolutions"


def test_a_peer_that_cannot_be_had_is_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "CACHE", tmp_path / "cache")
    peer = Peer("nobody", "nobody", "1", "github.com/nobody/nobody", "0" * 40)
    (row,) = environment.run(peer, tmp_path / "case.npz", 1, tmp_path)
    assert row == {"why": "there is no checkout of github.com/nobody/nobody in the folder that was given"}


def test_a_failing_adapter_is_a_row_without_paths(case, tmp_path):
    adapter, saved = tmp_path / "adapter.py", tmp_path / "case.npz"
    case.save(saved)
    adapter.write_text("raise RuntimeError('/somewhere/here is broken')\n")
    with pytest.raises(environment.NotToBeHad, match="broken") as found:
        environment.measured(Path(sys.executable), adapter, saved, 1, tmp_path)
    assert "/somewhere" not in str(found.value)


def test_a_case_survives_its_file(case, tmp_path):
    case.save(tmp_path / "case.npz")
    again = harness.Case.load(tmp_path / "case.npz")
    assert (again.name, again.layers) == (case.name, case.layers)
    jax.tree.map(np.testing.assert_array_equal, (again.weights, again.x, again.y), (case.weights, case.x, case.y))


def test_ours_is_the_same_network(case):
    """The centered estimate is near `jax.grad` of the network written plainly, in every layer."""
    rows = {row["method"].split(",")[0]: row for row in harness.measure(case, ours.steps(case), 1)}
    assert rows["centered"]["worst_layer_cosine"] > 0.999
    assert rows["even/odd"]["flops_over_backprop"] > rows["centered"]["flops_over_backprop"]
