"""Signals, lost worker processes and disks that fail while a run goes on: saved where it can be, told in one sentence.

Would catch: a signal that ends a run without a save, a second Ctrl-C that waits or ends in a traceback, a terminal that
is closed and takes the run with it, a killed or hanging worker that costs the steps since the last checkpoint or leaves
shared memory behind, a folder that disappears and is made anew, user text that is read as markup.
"""

import os
import pty
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from pairs import ROOT, environment
from test_command_run import compiled_once, fails, folder, newest, small  # noqa: F401
from test_processes import images, pair  # noqa: F401

from epjax.runs.metrics import MetricsLog
from epjax.runs.progress import Reporter
from experiments import vgg5

pytestmark = pytest.mark.usefixtures("signals_heard")
POSIX = ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"]


@pytest.fixture
def after_step(monkeypatch):
    """Something is done, once, when the bar shows a step."""

    def set_up(step, do):
        update = Reporter.update

        def update_and_do(self, status):
            update(self, status)
            if status.step == step:
                do()

        monkeypatch.setattr(Reporter, "update", update_and_do)

    return set_up


@pytest.mark.parametrize("name", POSIX)
def test_every_signal_that_asks_for_an_end_saves(folder, tmp_path, name, after_step, capfd):  # noqa: F811
    after_step(1, lambda: os.kill(os.getpid(), getattr(signal, name)))
    before = signal.getsignal(getattr(signal, name))
    assert vgg5.main(small(folder, tmp_path / "run")) == 75
    told = capfd.readouterr()
    assert f"{name}: the run ends after the step at hand, and is saved; Ctrl-C ends it at once, unsaved" in told.err
    assert f"stopped by {name} after step 2 of 8, saved" in " ".join(told.out.split())
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()
    assert signal.getsignal(getattr(signal, name)) == before


def test_a_signal_that_is_to_be_ignored_is_ignored(folder, tmp_path, after_step):  # noqa: F811
    """As `nohup` asks."""
    after_step(1, lambda: os.kill(os.getpid(), signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert vgg5.main(small(folder, tmp_path / "run", "--max-steps", "3")) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_signal_while_the_first_is_obeyed_does_not_hurt(folder, tmp_path, after_step):  # noqa: F811
    """A batch system sends SIGUSR1 as a warning, and SIGTERM when time is up."""

    def both():
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)

    after_step(1, both)
    assert vgg5.main(small(folder, tmp_path / "run")) == 75
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()


TWICE = """
import os, signal, sys, time
from epjax.runs.progress import Reporter
from experiments import vgg5

update = Reporter.update

def update_and_signal(self, status):
    update(self, status)
    if status.step == 2:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

if __name__ == "__main__":
    Reporter.update = update_and_signal
    sys.exit(vgg5.main())
"""
ENDED = "ended at once by SIGINT after SIGINT: what was saved before is kept"


def script(path, text):
    path.write_text(textwrap.dedent(text))
    return path


def shared():
    return {name for name in os.listdir("/dev/shm") if not name.startswith("sem.")}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_second_ctrl_c_ends_at_once(folder, tmp_path, workers):  # noqa: F811
    memory, path = shared(), script(tmp_path / "twice.py", TWICE)
    argv = small(folder, tmp_path / "run", "--checkpoint-every", "1", "--num-workers", workers)
    run = subprocess.run(
        [sys.executable, path, *argv], env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 130, run.stderr
    lines = [line for line in run.stderr.splitlines() if line and "resource_tracker" not in line]
    assert [line for line in lines if not line.startswith("SIGINT: the run ends")][:1] == [ENDED]
    assert "Traceback" not in run.stderr
    assert (tmp_path / "run" / "checkpoints" / "1").is_dir()
    gone(lambda: shared() <= memory)


def test_a_second_ctrl_c_ends_all_processes(images, tmp_path):  # noqa: F811
    plain = "import sys; from experiments import vgg5; sys.exit(vgg5.main())"
    codes, _, err = pair(small(images, tmp_path / "run"), (plain, TWICE)).end()
    assert codes == [1, 130], err
    assert err[0].splitlines()[-1] == f"error: on process 1: {ENDED}"
    assert err[1].splitlines()[-1] == f"error: {ENDED}"
    assert "Traceback" not in "".join(err)


def test_ctrl_c_before_the_first_step_is_one_sentence(folder, tmp_path, monkeypatch, capsys):  # noqa: F811
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("epjax.runs.trainer.Trainer._start", interrupted)
    assert vgg5.main(small(folder, tmp_path / "run")) == 130
    assert capsys.readouterr().err.split() == ["error:", "interrupted"]


CLOSED = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from experiments import vgg5
code = vgg5.main(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    file.write(str(code))
"""


def test_a_terminal_that_is_closed_saves_the_run(folder, tmp_path):  # noqa: F811
    ours, theirs = pty.openpty()
    argv = small(folder, tmp_path / "run", "--epochs", "100000", "--log-every", "1", "--eval-every", "100000")
    command = [sys.executable, script(tmp_path / "closed.py", CLOSED), str(tmp_path / "code"), *argv]
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    with subprocess.Popen(command, env=environment(), cwd=ROOT, start_new_session=True, **streams) as run:
        os.close(theirs)
        try:
            drain(ours, tmp_path / "run" / "metrics.jsonl", 3)
            os.close(ours)
            run.wait(60)
        finally:
            run.kill()  # leaving the block waits for it, however long that takes
    assert (tmp_path / "code").read_text() == "75"
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit()]


def drain(terminal, log, lines):
    """Take what is written to a terminal until a log has that many lines."""
    os.set_blocking(terminal, False)
    deadline = time.monotonic() + 120
    while not log.exists() or len(log.read_text().splitlines()) < lines:
        assert time.monotonic() < deadline
        try:
            os.read(terminal, 4096)
        except (BlockingIOError, OSError):
            time.sleep(0.05)


def gone(condition, patience=20.0):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


LOSES = """
import multiprocessing, os, signal, sys
from epjax.data import pipeline
from epjax.runs.progress import Reporter
from experiments import vgg5

update = Reporter.update

def update_and_lose(self, status):
    update(self, status)
    if status.step == 5:
        workers = [one for one in multiprocessing.active_children() if one.name.startswith("grain")]
        print("started as", {{type(one).__name__ for one in workers}})
        pipeline.HANGS_AFTER = 2.0
        os.kill(workers[0].pid, signal.{signal})

if __name__ == "__main__":
    Reporter.update = update_and_lose
    sys.exit(vgg5.main())
"""
KILLED = "a process that decodes images was killed, most likely because memory ran out: give fewer than 2 --num-workers"
HUNG = (
    "the processes that decode images (2) gave no batch for 2 seconds and were ended: look whether the disk with the"
    " images answers"
)


@pytest.mark.parametrize(("name", "message"), [("SIGKILL", KILLED), ("SIGSTOP", HUNG)], ids=["killed", "hangs"])
def test_a_worker_that_is_lost_costs_no_step(folder, tmp_path, name, message):  # noqa: F811
    """Killed as the kernel kills when memory runs out, or without an answer for longer than it may take."""
    memory, path = shared(), script(tmp_path / "loses.py", LOSES.format(signal=name))
    options = ("--num-workers", "2", "--epochs", "300", "--eval-every", "300")
    run = subprocess.run(
        [sys.executable, path, *small(folder, tmp_path / "run", *options)],
        **{"env": environment(), "cwd": ROOT, "capture_output": True, "text": True, "timeout": 120},
    )
    assert run.returncode == 1, run.stderr
    assert run.stderr.splitlines()[0] == f"error: {message}"
    assert "Traceback" not in run.stderr
    assert "started as {'SpawnProcess'}" in run.stdout  # no fork of a process in which jax has started threads
    (step,) = [int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert step >= 5
    gone(lambda: shared() <= memory)


UNGUARDED = """
import numpy as np
from epjax.data import Example, PadTo, train_batches

class Pixels:
    def __len__(self):
        return 8

    def __getitem__(self, i):
        return Example(np.zeros((4, 4, 3), np.uint8), 0, str(i))

batches = train_batches(Pixels(), PadTo(4), batch_size=4, seed=0, num_workers=2)
next(batches)
"""


def test_a_script_without_a_guard_is_told_so(tmp_path):
    path = script(tmp_path / "script.py", UNGUARDED)
    run = subprocess.run([sys.executable, path], env=environment(), capture_output=True, text=True, timeout=120)
    assert run.returncode == 1
    lines = run.stderr.splitlines()
    assert lines[-1] == (
        f"ValueError: num_workers is 2, and each of these processes runs {path} anew: put what it does under"
        ' `if __name__ == "__main__":`, or give num_workers=0'
    )
    assert sum(line.startswith("Traceback") for line in lines) == 1
    assert len(lines) < 20


@pytest.mark.parametrize("how", ["renamed", "removed"])
def test_a_work_directory_that_is_gone_is_one_sentence(folder, tmp_path, how, after_step, capsys):  # noqa: F811
    workdir = tmp_path / "run"

    def lose():
        time.sleep(1.0)  # until the save before is done
        shutil.rmtree(workdir) if how == "removed" else workdir.rename(tmp_path / "moved")

    after_step(6, lose)
    message = fails(vgg5.main, small(folder, workdir, "--checkpoint-every", "1"), capsys)
    assert "was removed, renamed or unmounted while the run went on" in message
    assert not workdir.exists()
    if how == "renamed":
        assert newest(tmp_path / "moved")


def test_metrics_that_cannot_be_written_are_one_sentence(folder, tmp_path, monkeypatch, capsys):  # noqa: F811
    class ReadOnly:
        def write(self, text):
            raise OSError(30, os.strerror(30))

        def close(self):
            pass

    write = MetricsLog.write

    def write_until(self, line):
        if line["step"] == 6:
            self._file.close()
            self._file = ReadOnly()
        write(self, line)

    monkeypatch.setattr(MetricsLog, "write", write_until)
    message = fails(vgg5.main, small(folder, tmp_path / "run", "--log-every", "1"), capsys)
    assert message == f"error: could not write to {tmp_path / 'run' / 'metrics.jsonl'}: {os.strerror(30)}"
    assert newest(tmp_path / "run")


def test_a_path_with_a_pattern_is_refused_before_the_first_step(folder, tmp_path, capsys):  # noqa: F811
    message = fails(vgg5.main, small(folder, tmp_path / "lr=[1e-3]"), capsys)
    assert "orbax takes [ in a path for a pattern; give another workdir" in message
    assert not (tmp_path / "lr=[1e-3]" / "metrics.jsonl").exists()


def test_a_path_that_is_not_utf_8_is_refused(folder, tmp_path, capsys):  # noqa: F811
    message = fails(vgg5.main, small(folder, os.fsdecode(os.fsencode(tmp_path) + b"/r\xff")), capsys)
    assert message.startswith("error: workdir must be a path in UTF-8, but is ")
