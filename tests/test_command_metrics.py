"""metrics.jsonl, the meter and the pictures drawn from them.

Would catch: a line that is lost or written twice over a resume, a window of steps that a resume shortens,
percent taken for shares, a NaN that makes the file unreadable, a picture that is empty.
"""

import csv
import gc
import io
import json
import resource
import struct
import sys
from types import ModuleType

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from epjax.runs import machine
from epjax.runs.config import Gradient
from epjax.runs.meter import Meter
from epjax.runs.metrics import MetricsLog, evaluations, read_lines, skipped_in_a_row, training
from epjax.runs.pace import Pace
from epjax.runs.plots import learning_curve
from epjax.runs.progress import Reporter, Status, duration
from epjax.runs.table import method, summary

pytestmark = pytest.mark.fast

VAL = {"val_top1_error": 50.0, "val_top5_error": 10.0, "val_cost": 1.5, "val_images": 1000, "seconds": 61.0}


def lines(steps):
    made = []
    for step in range(1, steps + 1):
        made.append({"step": step, "epoch": step / 2, "cost": 3.0 / step, "top1_error": 90.0 / step})
        if step % 2 == 0:
            made.append({"step": step, "epoch": step // 2, **VAL, "val_top1_error": 80.0 / step})
    return made


def test_lines_after_the_restored_step_are_removed_and_cut_lines_ignored(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = MetricsLog(path, 0)
    for line in lines(6):
        first.write(line)
    first.close()
    with path.open("a") as file:
        file.write('{"step": 7, "cos')  # the process was killed here
    again = MetricsLog(path, 4)
    for line in lines(6):
        if line["step"] > 4:
            again.write(line)
    again.close()
    assert read_lines(path) == lines(6)
    assert again.lines == lines(6)
    assert again.is_evaluated(4)
    assert not again.is_evaluated(5)
    assert len(evaluations(again.lines)) == 3
    assert len(training(again.lines)) == 6


def events(directory):
    """{tag: [(step, value), ...]} and the wall times of the one event file, read by the TFRecord format."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = directory.iterdir()
    data, found, times = file.read_bytes(), {}, []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
        if event.summary.value:
            times.append(event.wall_time)
    return found, times


def test_tensorboard_shows_each_line_once_over_a_resume(tmp_path):
    timed = [{**line, "seconds": 10.0 * line["step"]} for line in lines(6)]
    first = MetricsLog(tmp_path / "metrics.jsonl", 0)
    for line in timed:
        first.write(line)
    first.close()
    again = MetricsLog(tmp_path / "metrics.jsonl", 4)
    for line in timed:
        if line["step"] > 4:
            again.write(line | {"learning_rate": float("nan"), "waiting": None})
    again.close()
    found, times = events(tmp_path / "tensorboard")
    assert found.keys() == {"train/cost", "train/top1_error"} | {
        f"val/{name}" for name in ("top1_error", "top5_error", "cost", "images")
    }
    assert found["train/cost"] == [(step, pytest.approx(3.0 / step)) for step in range(1, 7)]
    assert found["val/top1_error"] == [(step, pytest.approx(80.0 / step)) for step in (2, 4, 6)]
    assert times[-1] - times[0] == pytest.approx(50.0)


def test_what_is_not_a_number_is_null(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    log.write({"step": 1, "cost": float("nan")})
    log.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail) == {"step": 1, "cost": None}


def test_a_full_disk_names_the_file_and_keeps_whole_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    log.write({"step": 1, "cost": 0.5})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, limits[1]))
    try:
        for step in (2, 3):  # the first has room for a part, the second for nothing
            with pytest.raises(OSError, match=r"could not write to .*metrics.jsonl"):
                log.write({"step": step, "cost": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    log.close()
    again = MetricsLog(path, 3)
    again.write({"step": 2, "cost": 0.5})
    again.close()
    assert [line["step"] for line in read_lines(path)] == [1, 2]


def test_a_process_that_does_not_write_leaves_the_file_alone(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", 0, write=False)
    log.write({"step": 1})
    log.close()
    assert list(tmp_path.iterdir()) == []


def steps(numbers):
    return [{"cost": float(n), "top1_error": 0.1 * n, "top5_error": 0.0} for n in numbers]


def test_a_resumed_window_gives_the_same_means():
    whole = Meter(32)
    for values in steps(range(5)):
        whole.add(values, 0.0)
    half = Meter(32)
    for values in steps(range(2)):
        half.add(values, 0.0)
    resumed = Meter(32, json.loads(json.dumps(half.sums)))
    for values in steps(range(2, 5)):
        resumed.add(values, 0.0)
    line = whole.line()
    assert line["cost"] == 2.0
    assert line["top1_error"] == pytest.approx(20.0)
    again = resumed.line()
    assert {name: again[name] for name in ("cost", "top1_error")} == {
        name: line[name] for name in ("cost", "top1_error")
    }
    whole.add(steps([7])[0], 0.0)
    assert whole.line()["cost"] == 7.0


def test_rate_and_waiting_leave_out_the_first_step_and_pauses(monkeypatch):
    clock = iter([0.0, 2.0, 4.0, 100.0, 101.0])
    monkeypatch.setattr("epjax.runs.meter.time.perf_counter", lambda: next(clock))
    meter = Meter(batch_size=10)
    first, *rest = steps(range(5))
    meter.add(first, waited=50.0)  # compiles, not timed
    meter.add(rest[0], waited=1.0)
    meter.add(rest[1], waited=0.0)
    assert (meter.images_per_second, meter.waiting, meter.step_seconds) == (5.0, 0.25, 2.0)
    meter.pause()
    meter.add(rest[2], waited=3.0)  # not timed
    assert meter.step_seconds is None
    meter.add(rest[3], waited=0.0)
    assert (meter.images_per_second, meter.waiting) == (6.0, 0.2)


def test_a_skipped_step_has_time_and_no_numbers():
    meter = Meter(32)
    for values in (*steps([1]), None, *steps([2])):
        meter.add(values, 0.0)
    assert meter.sums["steps"] == 2
    assert meter.images_per_second is not None
    assert meter.line()["cost"] == 1.5


def test_a_step_that_takes_far_longer_than_usual_is_noticed():
    pace, slow = Pace(), [0.3] * 4 + [9.0] + [0.3] * 25 + [1.4, 1.6, 0.3]
    assert [(i, usual) for i, seconds in enumerate(slow) if (usual := pace.slow(seconds))] == [(31, 0.3)]
    assert not any(Pace().slow(seconds) for seconds in [0.01] * 20 + [0.9])  # a second is nothing to speak of
    steady = [pace.slow(4.0) for _ in range(100)]
    assert steady[0] == 0.3
    assert steady[-1] is None  # it has become usual


def test_the_worst_residual_of_a_window():
    meter = Meter(32)
    for values, residual in zip(steps(range(3)), (0.1, 0.3, 0.2), strict=True):
        meter.add(values | {"residual": residual}, 0.0)
    assert Meter(32, json.loads(json.dumps(meter.sums))).line()["residual"] == 0.3
    assert meter.line()["residual"] == 0.3
    meter.add(steps([1])[0], 0.0)
    assert "residual" not in meter.line()


def test_skipped_steps_in_a_row():
    log = [{"step": step, "skipped": "the cost"} for step in (2, 5, 6, 7)] + [{"step": 7, "cost": 1.0}]
    assert [skipped_in_a_row(log, step) for step in (1, 2, 4, 6, 7, 8)] == [0, 1, 0, 2, 3, 0]


def test_learning_curve_is_a_picture_with_curves(tmp_path):
    def colours(path):
        image = np.asarray(Image.open(path).convert("RGB"))
        assert image.shape[0] > 400
        assert image.shape[1] > 1000
        return {tuple(int(c) for c in pixel) for pixel in image[::2, ::2].reshape(-1, 3)}

    learning_curve(lines(8), tmp_path / "full.png", "title", "subtitle")
    learning_curve(lines(1), tmp_path / "one.png", "title")
    red = (0xD1, 0x49, 0x5B)
    assert red in colours(tmp_path / "full.png")
    assert red not in colours(tmp_path / "one.png")


def test_a_picture_leaves_nothing_in_memory(tmp_path):
    """One is drawn at every evaluation of a run: a figure that stays is 5 MB each."""
    learning_curve(lines(4), tmp_path / "curve.png", "title")
    assert not [thing for thing in gc.get_objects() if isinstance(thing, Figure)]


def test_table_names_best_and_last():
    console = Console(width=80, record=True, file=io.StringIO())
    worse = [*lines(8), {"step": 10, "epoch": 5, **VAL}]
    console.print(summary(worse, "VGG10", method(Gradient()), 20))
    text = console.export_text()
    cells = [[cell.strip() for cell in line.split("│")[1:4]] for line in text.splitlines() if "%" in line]
    assert cells == [["best", "4", "10.00%"], ["last", "5", "50.00%"]]
    assert "EP centered, async mod_pgd, beta = 0.05, K = 10," in text
    assert "top-5" in text
    console.print(summary(worse, "VGG10", "", 10))
    assert "top-5" not in console.export_text()


def test_durations():
    assert [duration(s) for s in (5, 65, 3605, 90_000)] == ["0:05", "1:05", "1:00:05", "1d 01:00"]


def foretold(done, left, terminal):
    """What is said of the time, of a run that goes on from step `done` and needs `left` seconds."""
    console = Console(width=80, force_terminal=terminal, file=io.StringIO(), highlight=False)
    reporter = Reporter(console, 1000, 10, done)
    for step in range(done + 1, done + 40):
        reporter.update(Status(step, 0.1, 2.0, 50.0, 100.0, left, 0.0))
    return [line for line in console.file.getvalue().splitlines() if "to go" in line]


def test_how_long_it_takes_is_said_once():
    assert foretold(0, 200.0, False) == ["about 3:20 to go"]
    assert foretold(500, 200.0, True) == []  # the bar says it
    (long,) = foretold(500, 2 * 86_400.0, True)
    assert "about 2d 00:00 to go" in long


@pytest.mark.fast
@pytest.mark.parametrize(
    ("paths", "programs", "told"),
    [
        ((), (), None),
        (("/dev/accel0",), (), "a TPU seems to be here, but jax was installed without it"),
        ((), ("nvidia-smi",), "an NVIDIA GPU seems to be here, but jax was installed without it"),
    ],
)
def test_an_accelerator_that_jax_does_not_use_is_told(paths, programs, told, monkeypatch):
    monkeypatch.setattr(machine.os.path, "exists", lambda path: path in paths)
    monkeypatch.setattr(machine.shutil, "which", lambda program: program if program in programs else None)
    found = machine.unused_accelerator()
    assert (found is None) if told is None else told in found


def test_csv_files_hold_what_the_lines_hold(tmp_path):
    """Once each over a resume; a column that comes later is there for all."""
    first = MetricsLog(tmp_path / "metrics.jsonl", 0, log_to=("csv",))
    for line in lines(6):
        first.write(line)
    first.close()
    again = MetricsLog(tmp_path / "metrics.jsonl", 4, log_to=("csv",))
    for line in lines(6):
        if line["step"] > 4:
            again.write(line | {"residual": 0.25})
    again.close()
    training, validation = (
        list(csv.DictReader((tmp_path / f"{name}.csv").read_text().splitlines())) for name in ("training", "validation")
    )
    assert [int(row["step"]) for row in training] == [1, 2, 3, 4, 5, 6]
    assert [row["residual"] for row in training] == ["", "", "", "", "0.25", "0.25"]
    assert [int(row["step"]) for row in validation] == [2, 4, 6]
    assert not (tmp_path / "tensorboard").exists()


class Wandb(ModuleType):
    """Stands for the package: what a run is given."""

    def __init__(self):
        super().__init__("wandb")
        self.id, self.logged, self.summary, self.began = "abc", [], {}, []

    def init(self, **given):
        self.began.append(given)
        return self

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.began[-1]["finished"] = True


def test_weights_and_biases_has_each_step_once_the_options_and_the_end(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", wandb := Wandb())
    for since in (0, 4):
        log = MetricsLog(tmp_path / "metrics.jsonl", since, log_to=("wandb",), config={"beta": 0.5})
        for line in lines(6):
            if line["step"] > since:
                log.write(line)
        log.close()
    assert [given["id"] for given in wandb.began] == [None, "abc"]
    assert all(given["config"] == {"beta": 0.5} and given["finished"] for given in wandb.began)
    assert wandb.summary["val/top1_error"] == pytest.approx(80 / 6)
    assert {step for step, _ in wandb.logged} == {1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize("when", ["init", "log"])
def test_a_logger_that_fails_warns_once_and_stops_nothing(when, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setitem(sys.modules, "wandb", wandb := Wandb())
    monkeypatch.setattr(wandb, when, fail)

    def run():
        log = MetricsLog(tmp_path / "metrics.jsonl", 0, log_to=("wandb", "csv"))
        for line in lines(3):
            log.write(line)
        log.close()

    with pytest.warns(UserWarning, match="logging to wandb failed and is left off: no network") as warned:
        run()
    assert len(warned) == 1
    assert read_lines(tmp_path / "metrics.jsonl") == lines(3)
    assert (tmp_path / "training.csv").exists()
