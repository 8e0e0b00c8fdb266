"""Oracle: what was saved comes back. Folders whose names are patterns to somebody, folders that vanish, signals.

Catches a checkpoint that is written and can never be read, work that goes on in a folder that is gone, a signal of a
batch system that ends a run without a save.
"""

import os
import shutil
import signal

import jax
import jax.numpy as jnp
import pytest

from epjax.runs.stopping import SIGNALS, StopRequest
from epjax.training import checkpoint
from epjax.training.checkpoint import Checkpoints, describe

pytestmark = pytest.mark.usefixtures("signals_heard")
NAMES = [
    "[brackets]",
    "star*",
    "question?",
    "a space",
    "ünïcode",
    ".hidden",
    "{braces}",
    "quote'",
    "x" * 120,
    "new\nline",
]


def like(state):
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return describe(state, jax.tree.map(lambda _: here, state))


@pytest.mark.parametrize("name", NAMES)
def test_every_folder_keeps_what_it_is_given_or_is_refused_at_once(name, tmp_path):
    state = {"w": jnp.arange(5.0)}
    try:
        checkpoints = Checkpoints(tmp_path / name, {})
    except (OSError, ValueError):
        return
    try:
        checkpoints.save(1, state)
    finally:
        checkpoints.close()
    again = Checkpoints(tmp_path / name, {})
    restored = again.restore(like(state))
    again.close()
    assert restored.step == 1
    assert jnp.array_equal(restored.state["w"], state["w"])


def test_a_folder_that_vanished_is_one_sentence(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run", {})
    checkpoints.save(1, {"w": jnp.arange(5.0)})
    checkpoints.wait()
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    with pytest.raises(OSError, match="was removed, renamed or unmounted while the run went on"):
        checkpoints.save(2, {"w": jnp.arange(5.0)})
    assert (tmp_path / "elsewhere" / "1").is_dir()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w: w + 1, "other arrays came back"),
        (lambda w: w.astype(jnp.float16), "arrays of another kind came back"),
        (lambda w: w[:3], "arrays of another kind came back"),
    ],
    ids=["values", "dtype", "shape"],
)
def test_a_first_save_that_does_not_come_back_is_told_at_once(change, sentence, tmp_path, monkeypatch):
    load = checkpoint._load_own
    monkeypatch.setattr(checkpoint, "_load_own", lambda *given: {"w": change(load(*given)["w"])})
    checkpoints = Checkpoints(tmp_path / "run", {})
    with pytest.raises(OSError, match=f"was written and cannot be read: {sentence}"):
        checkpoints.save(1, {"w": jnp.arange(5.0)})
    checkpoints.close()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_every_signal_asks_for_a_stop_and_ends_nothing(number, capfd):
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2} == set(SIGNALS)
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.due() is None
        os.kill(os.getpid(), number)
        assert stop.due() == number.name
    assert signal.getsignal(number) == before
    assert f"{number.name}: the run ends after the step at hand, and is saved" in capfd.readouterr().err
