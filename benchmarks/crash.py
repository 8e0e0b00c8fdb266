"""Training runs in processes of their own: watched, killed with SIGKILL at chosen moments, continued, compared."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from PIL import Image

from epjax.runs.metrics import Line, evaluations, read_lines, training
from epjax.runs.trained import load
from epjax.training.checkpoint import saved_digest, saved_steps

ROOT = Path(__file__).parents[1]
CLOCK = ("seconds", "images_per_second", "waiting")


@dataclass(frozen=True)
class Moment:
    """When a run is killed: `delay` seconds after

    * `start`: its process was started, or as soon as it has done a step,
    * `step`: metrics.jsonl has lines of `steps` more than when it was started,
    * `save`: a checkpoint of as many more, or of a later one, has begun to be written.
    """

    kind: Literal["start", "step", "save"]
    steps: int
    delay: float


def images(root: Path, train: int, val: int) -> Path:
    """Ten class folders of 32x32 noise whose mean colour tells the class."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            label = number % 10
            pixels = random.integers(0, 60, (32, 32, 3)) + np.array([20 * label, 190 - 20 * label, 10 * label])
            path = root / split / f"n{label:08}" / f"{number:05}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


def command(data: Path, workdir: Path, width: float, *options: str) -> list[str]:
    """VGG5 of that width by EP, one sweep with random signs, on `data`; batches of 8, a line at every step."""
    argv = ["--workdir", str(workdir), "--dataset", "cifar10", "--data", f"folder:{data}", "--width", f"{width:g}"]
    argv += ["--batch-size", "8", "--gain", "2", "--traversal", "sweep", "--scheme", "random", "--log-every", "1"]
    argv += options
    return [sys.executable, "-m", "experiments.vgg5", *argv]


@contextmanager
def running(
    argv: Sequence[str], compiled: Path | None = None, said: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The command on one device; `compiled` is a folder for compiled programs. It is killed when the context ends.

    Its errors go to a pipe, or to the file `said`, with a line for each program that jax compiles.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    environment["XLA_FLAGS"] = ""
    if compiled is not None:
        cache = {"COMPILATION_CACHE_DIR": str(compiled), "PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        environment |= {f"JAX_{name}": value for name, value in cache.items()}
    if said is not None:
        environment["JAX_LOG_COMPILES"] = "1"
    with (
        nullcontext(subprocess.PIPE) if said is None else said.open("wb") as errors,
        subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=errors) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def finish(argv: Sequence[str], compiled: Path | None = None) -> None:
    """Run to the end. Raises RuntimeError, with what it said, where that was no success."""
    with running(argv, compiled) as process:
        _, said = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(argv)} ended with {process.returncode}: {said.decode().strip()}")


def until_step(argv: Sequence[str], workdir: Path, step: int, compiled: Path | None = None) -> float:
    """Seconds from the start of the process to its line of `step`; it is killed then."""
    with running(argv, compiled) as process:
        began = time.perf_counter()
        while last_step(workdir) < step:
            if process.poll() is not None:
                assert process.stderr is not None
                raise RuntimeError(f"{' '.join(argv)} ended before step {step}: {process.stderr.read().decode()}")
            time.sleep(0.002)
        return time.perf_counter() - began


def kill(argv: Sequence[str], workdir: Path, moment: Moment, compiled: Path | None = None) -> bool:
    """Start the command and kill it at the moment; False where it had ended before."""
    goal, began, log = last_step(workdir) + moment.steps, time.perf_counter(), workdir / "metrics.jsonl"
    before = log.read_bytes() if log.exists() else b""

    def starting() -> bool:
        done = log.exists() and len(log.read_bytes()) > len(before)
        return done or time.perf_counter() - began > moment.delay

    reached = {
        "start": starting,
        "step": lambda: last_step(workdir) >= goal,
        "save": lambda: any(step >= goal for step in being_written(workdir)),
    }[moment.kind]
    with running(argv, compiled) as process:
        while process.poll() is None and not reached():
            time.sleep(0.001)
        time.sleep(0.0 if moment.kind == "start" else moment.delay)
        return process.poll() is None


def being_written(workdir: Path) -> list[int]:
    """The steps whose checkpoint was begun and not completed."""
    names = [path.name.split(".")[0] for path in (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")]
    return [int(name) for name in names if name.isdigit()]


def last_step(workdir: Path) -> int:
    """The step of the last whole line of metrics.jsonl, 0 where there is none."""
    lines = read_lines(workdir / "metrics.jsonl")
    return lines[-1]["step"] if lines else 0


def differences(one: Path, other: Path) -> list[str]:
    """How two finished runs differ, whatever the clock said: lines of metrics, parameters, the whole state."""
    found = []
    if _lines(one) != _lines(other):
        found.append("metrics")
    a, b = (jax.tree.leaves(load(workdir, "newest").params) for workdir in (one, other))
    if any(x.tobytes() != y.tobytes() for x, y in zip(map(np.asarray, a), map(np.asarray, b), strict=True)):
        found.append("parameters")
    states = [
        saved_digest(workdir / "checkpoints", saved_steps(workdir / "checkpoints")[-1]) for workdir in (one, other)
    ]
    return found if states[0] == states[1] else [*found, "state"]


def is_complete(workdir: Path, steps: int) -> bool:
    """Whether every step has one training line, and no evaluation is there twice."""
    lines = read_lines(workdir / "metrics.jsonl")
    measured = [line["step"] for line in evaluations(lines)]
    return [line["step"] for line in training(lines)] == list(range(1, steps + 1)) and len(measured) == len(
        set(measured)
    )


def _lines(workdir: Path) -> list[Line]:
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in read_lines(workdir / "metrics.jsonl")]


def moments(count: int, startup: float, random: np.random.Generator) -> list[Moment]:
    """Moments of one run: two in five in the middle of a save, one before the first step, `startup` seconds long."""
    kinds: list[Literal["start", "step", "save"]] = ["save", "step", "save", "step", "start"]
    delays = {"start": startup, "step": 0.1, "save": 0.02}
    drawn = [(kinds[i % 5], int(random.integers(1, 12)), float(random.uniform())) for i in range(count)]
    return [Moment(kind, steps, share * delays[kind]) for kind, steps, share in drawn]
