"""What it costs that nothing is lost: saving, going on, memory over many steps, and runs that are killed.

* saving: seconds that a checkpoint adds to the steps around it, against one minute of training. Windows of steps with
  and without a save in turn, the write in the background included; the median difference counts.
* going on: seconds from the start of the process to its first step, cold and from a checkpoint, in turn, nothing
  compiled beforehand; the median of the ratios counts.
* growth: what one process uses up to a third of its steps, and from there to the last, with a checkpoint every 100
  steps and evaluations between: its largest resident size (VmHWM), open files and threads (medians up to there, and of
  the last third), looked up in /proc ten times a second, and the programs that jax says it compiles (JAX_LOG_COMPILES).
* kills: SIGKILL at random moments, two in five once a checkpoint is being written, one in five at any time of the
  start; after each the same command goes on. At the end parameters, optimiser and metrics.jsonl must be those of a run
  that was left alone, bit for bit, but for the clock.
"""

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import epjax
from benchmarks import crash
from benchmarks import draw as look
from benchmarks.progress import told
from benchmarks.rows import Row, Table, Target, at_least, at_most, find
from epjax.network import Network
from epjax.runs.metrics import read_lines
from epjax.training.checkpoint import Checkpoints
from epjax.training.optimiser import sgd
from epjax.training.step import Normalise, initial_state, train_step

NAME = "upkeep"
COLUMNS = ("measure", "network", "batch_size", "state_mb", "repeats", "value", "unit", "data", "precision")
SAVING, SAVING_SHARE = "seconds a save adds", "share of a minute"
COLD, RESUMED, RATIO = "cold start to first step", "resume to first step", "resume over cold start"
EARLY, LATE, GROWTH = "peak memory after a third of the steps", "peak memory after all steps", "growth"
FILES, THREADS, COMPILED = (
    f"{what} in the last two thirds" for what in ("more open files", "more threads", "compilations")
)
KILLS, MID_SAVE, SAME = "kills", "kills while a checkpoint was being written", "kills after which nothing differed"
NOISE = "noise, 32x32, 10 classes"


def _row(measure: str, value: float, unit: str, **about: Any) -> Row:
    start = {"measure": measure, "network": "VGG5", "batch_size": 8, "state_mb": None, "repeats": 1}
    return start | {"value": value, "unit": unit, "data": NOISE, "precision": "float32", "name": measure} | about


# Saving


def saving(net: Network, name: str, size: int, batch: int, steps: int, pairs: int) -> list[Row]:
    """Windows of `steps` steps of backpropagation with a save after the first, and without, in turn."""
    optimiser = sgd(1e-4)
    state = initial_state(jax.jit(lambda key: net.init(key, (size, size, 3)))(jax.random.key(0)), optimiser)
    gradient = epjax.backprop_value_and_grad(net, epjax.cost.cross_entropy)
    step = train_step(gradient, optimiser, Normalise((0.5,) * 3, (0.25,) * 3))
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    data = {"image": jnp.asarray(images), "label": jnp.zeros(batch, jnp.int32)}
    seconds: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder) / "checkpoints", {}, keep=1)
        for pair in range(pairs + 1):
            for saves in (True, False) if pair % 2 else (False, True):
                began = time.perf_counter()
                for number in range(steps):
                    state, metrics = step(state, data)
                    if saves and number == 0:
                        jax.block_until_ready(metrics)
                        checkpoints.save(pair, state)
                jax.block_until_ready(metrics)
                checkpoints.wait()
                if pair:  # the first pair compiles
                    seconds[saves].append(time.perf_counter() - began)
        checkpoints.close()
    added = float(np.median(np.subtract(seconds[True], seconds[False])))
    size_mb = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6
    about = {"network": name, "batch_size": batch, "state_mb": round(size_mb), "repeats": pairs}
    about["data"] = f"noise, {size}x{size}"
    about["seconds_with"], about["seconds_without"] = seconds[True], seconds[False]
    return [_row(SAVING, added, "s", **about), _row(SAVING_SHARE, added / 60, "of the time", **about)]


# Going on


def starts(data: Path, root: Path, width: float, pairs: int, compiled: Path | None = None) -> list[Row]:
    """Cold starts and resumes in turn; `compiled`, where compiled programs are found, makes this no measurement."""
    prepared = root / "prepared"
    crash.finish(crash.command(data, prepared, width, "--max-steps", "2"), compiled)
    times = []
    for pair in range(pairs):
        cold, resumed = root / f"cold{pair}", shutil.copytree(prepared, root / f"resumed{pair}")
        runs = [(cold, 1), (resumed, 3)]
        seconds = {
            workdir: crash.until_step(crash.command(data, workdir, width, "--max-steps", "8"), workdir, step, compiled)
            for workdir, step in (runs if pair % 2 else runs[::-1])
        }
        times.append((seconds[cold], seconds[resumed]))
    cold_seconds, resumed_seconds = np.median(times, axis=0)
    about = {"network": f"VGG5, width {width:g}", "repeats": pairs}
    return [
        _row(COLD, float(cold_seconds), "s", **about),
        _row(RESUMED, float(resumed_seconds), "s", **about),
        _row(RATIO, float(np.median([b / a for a, b in times])), "of the time", **about, pairs=times),
    ]


# Growth


@dataclass(frozen=True)
class Look:
    """What a process has used by a step: peak memory in MB, open files, threads, programs compiled so far."""

    step: int
    peak: float
    files: int
    threads: int
    compiled: int


def growth(data: Path, root: Path, steps: int, compiled: Path | None = None) -> list[Row]:
    """One process up to a third of its steps, and from there to its end."""
    workdir, said, looks = root / "long", root / "said.txt", list[Look]()
    options = ("--epochs", "100000", "--max-steps", str(steps), "--checkpoint-every", str(min(100, steps // 4)))
    argv = crash.command(data, workdir, 0.01, *options, "--eval-every", "25", "--log-every", "5")
    with crash.running(argv, compiled, said) as process:
        while process.poll() is None:
            looks += _look(process.pid, crash.last_step(workdir), said)
            time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(said.read_text()[-2000:])
    early = [look for look in looks if 0 < look.step <= steps / 3] or looks[:1]
    late = [look for look in looks if look.step > steps * 2 / 3] or looks[-1:]
    peaks = early[-1].peak, late[-1].peak
    # In the background a save holds some for a moment: the median is what the process holds at rest.
    more = {
        name: float(
            np.median([getattr(look, name) for look in late]) - np.median([getattr(look, name) for look in early])
        )
        for name in ("files", "threads")
    }
    about = {"network": "VGG5, width 0.01", "steps": steps}
    seen = [(look.step, look.peak) for look in looks][:: max(1, len(looks) // 50)]
    return [
        _row(EARLY, peaks[0], "MB", **about),
        _row(LATE, peaks[1], "MB", **about),
        _row(GROWTH, peaks[1] / peaks[0] - 1, "of the peak", **about, peaks=seen),
        _row(FILES, max(0, more["files"]), "", **about),
        _row(THREADS, max(0, more["threads"]), "", **about),
        _row(COMPILED, late[-1].compiled - early[-1].compiled, "", **about),
    ]


def _look(pid: int, step: int, said: Path) -> list[Look]:
    """One look; none where the process is gone or the system does not say."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return []
    if "VmHWM:" not in status:
        return []
    number = {name: int(status.split(f"{name}:")[1].split()[0]) for name in ("VmHWM", "Threads")}
    compiled = said.read_text().count("Finished XLA compilation")
    return [Look(step, number["VmHWM"] / 1e3, files, number["Threads"], compiled)]


# Kills


def kills(data: Path, root: Path, count: int, runs: int, epochs: int, seed: int = 0) -> list[Row]:
    """`count` kills in each of `runs` runs, which are then compared with one that was left alone."""
    random, compiled, rows = np.random.default_rng(seed), root / "compiled", []
    options = ("--epochs", str(epochs), "--checkpoint-every", "3", "--eval-every", "2")
    began = time.perf_counter()
    crash.finish(crash.command(data, root / "alone", 0.01, *options), compiled)
    lines = read_lines(root / "alone" / "metrics.jsonl")
    steps, startup = lines[-1]["step"], time.perf_counter() - began - lines[-1]["seconds"]
    for number in range(runs):
        workdir = root / f"killed{number}"
        argv = crash.command(data, workdir, 0.01, *options)
        done: list[dict[str, Any]] = []
        for moment in crash.moments(count, startup, random):
            if crash.kill(argv, workdir, moment, compiled):
                # what an earlier kill left of a save lies there until the start is over
                half_written = moment.kind != "start" and bool(crash.being_written(workdir))
                done.append({"kind": moment.kind, "step": crash.last_step(workdir), "in_save": half_written})
        crash.finish(argv, compiled)
        differing = crash.differences(root / "alone", workdir)
        if not crash.is_complete(workdir, steps):
            differing.append("a gap or a duplicate")
        about = {"network": "VGG5, width 0.01", "run": number, "steps": steps, "differing": ", ".join(differing)}
        rows += [
            _row(KILLS, len(done), "", **about, moments=done),
            _row(MID_SAVE, sum(bool(one["in_save"]) for one in done), "", **about),
            _row(SAME, 0 if differing else len(done), "", **about),
        ]
    return rows


# The benchmark


def run(quick: bool) -> list[Row]:
    """All rows; `quick` measures little and nothing well."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = crash.images(root / "images", 64, 16)
        if quick:
            found = kills(data, root, 2, 1, 3)
            found += starts(data, root, 0.01, 1, root / "compiled") + growth(data, root, 20, root / "compiled")
            return found + saving(epjax.models.mlp([64, 10]), "MLP", 8, 8, 2, 1)
        found = told(kills(data, root, 5, 4, 16))
        found += told(growth(data, root, 3000))
        found += told(starts(data, root, 0.5, 3))
        return found + told(saving(epjax.models.vgg10(1000), "VGG10", 64, 8, 5, 5))


def targets(rows: list[Row]) -> list[Target]:
    """What a long run must not pay."""
    value = {row["measure"]: row["value"] for row in rows}
    killed, same = (sum(row["value"] for row in find(rows, measure=m)) for m in (KILLS, SAME))
    return [
        at_most("saving at one checkpoint a minute: share of the time", value[SAVING_SHARE], 0.02, _note(rows)),
        at_most("resume to first step over cold start", value[RATIO], 1.2),
        at_most(f"peak memory from a third of {_steps(rows)} steps to all: growth", value[GROWTH], 0.02),
        # A leak is one a checkpoint, of which there are dozens; two are what a save in the background holds.
        *(at_most(f"{name} of {_steps(rows)} steps", value[name], 2) for name in (FILES, THREADS)),
        at_most(f"{COMPILED} of {_steps(rows)} steps", value[COMPILED], 0),
        at_least(f"of {killed} kills, those after which the run ended as if left alone", same, killed),
    ]


def _note(rows: list[Row]) -> str:
    row = find(rows, measure=SAVING)[0]
    return f"({row['value']:.2f} s for {row['state_mb']} MB, beside other work on the machine)"


def _steps(rows: list[Row]) -> int:
    return find(rows, measure=GROWTH)[0]["steps"]


def tables(rows: list[Row]) -> list[Table]:
    """Kills by run; the rest."""
    killed = [
        {"run": row["run"] + 1, "steps": row["steps"]}
        | {m: find(rows, measure=m, run=row["run"])[0]["value"] for m in (KILLS, MID_SAVE, SAME)}
        for row in find(rows, measure=KILLS)
    ]
    rest = [row for row in rows if row["measure"] not in (KILLS, MID_SAVE, SAME)]
    columns = tuple(name for name in COLUMNS if name != "precision")
    return [Table("Saving, going on, memory", columns, rest), Table("Kills", tuple(killed[0]), killed)]


def draw(rows: list[Row], path: Path) -> None:
    """Left: peak memory over steps. Right: where in its run each kill fell."""
    title, what = "What it costs that nothing is lost", "VGG5 of width 0.01 on noise, batch 8, float32, one process"
    fig, axes = look.figure(title, what, (1, 2))
    steps, peaks = zip(*find(rows, measure=GROWTH)[0]["peaks"], strict=True)
    axes[0, 0].plot(steps, peaks, color=look.GREEN, linewidth=1.8)
    axes[0, 0].set_ylim(0, 1.25 * max(peaks))
    look.dress(axes[0, 0], "peak resident memory, MB", "step")
    colours = {"save": look.VIOLET, "step": look.GREEN, "start": look.GOLD}
    words = {"save": "as a save began", "step": "after a step", "start": "before the first step"}
    for row in find(rows, measure=KILLS):
        for kind, colour in colours.items():
            at = [one["step"] for one in row["moments"] if one["kind"] == kind]
            label = words[kind] if row["run"] == 0 else None
            axes[0, 1].scatter(at, [row["run"] + 1] * len(at), color=colour, s=28, label=label, zorder=3)
    runs = find(rows, measure=KILLS)
    axes[0, 1].set_xlim(0, runs[0]["steps"])
    axes[0, 1].set_ylim(0.5, len(runs) + 1.5)
    axes[0, 1].set_yticks([row["run"] + 1 for row in runs], [f"run {row['run'] + 1}" for row in runs])
    look.dress(axes[0, 1], "kills", "step")
    look.save(fig, path)
