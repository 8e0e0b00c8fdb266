"""Eight simulated devices, strict dtype and rank promotion, no dependence on the x64 flag."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

FLAG = "--xla_force_host_platform_device_count=8"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAG}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax  # noqa: E402  (the flags above must come first)
import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# Shapes and dtypes in signatures are checked at every call, from the first import on. Not where anything may come, to
# be refused in our words (estimator, loss, diagnosis), nor in dataclasses that are trees of shardings, too (step).
SHAPED = [
    *("cost", "network.activation", "network.drive", "perturbation", "scheme", "systems.pcn.energy"),
    *("systems.hopfield", "systems.oscillators", "systems.resistive", "training.accumulation", "training.evaluation"),
]
install_import_hook([f"epjax.{name}" for name in SHAPED], "beartype.beartype")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64() -> Iterator[None]:
    """float64 inside the test, whatever the global flag."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def wide(x64: None) -> Iterator[None]:
    """float64, under the promotion that models are written for."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def signals_heard() -> Iterator[None]:
    """Signals as at a terminal, for the test and what it starts.

    `nohup pytest` ignores SIGHUP and `pytest &` in a script SIGINT, and so would they.
    """
    usual = {signal.SIGHUP: signal.SIG_DFL, signal.SIGQUIT: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.getsignal(number) for number in usual}
    for number, handler in before.items():
        signal.signal(number, usual[number] if handler == signal.SIG_IGN else handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data beside the checkout, or a skip that says so."""
    folder = Path(os.environ.get("EPJAX_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set EPJAX_SHARED_DATA")
    return folder
