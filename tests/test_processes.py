"""Several processes are one run: they find each other, are of one mind, and end together.

Would catch: a process that waits for ever for another that failed, was never started or was told something else; two
that write the same file or stop at different steps; a checkpoint that only as many processes can read as wrote it.
"""

import os
import socket
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from data_forms import few_images
from pairs import ROOT, Pair, environment, free_address

# The tools of the commands' tests, not their tests.
from test_command_run import compiled_once, small, values  # noqa: F401

from epjax.runs import command
from epjax.runs.config import shared
from epjax.runs.trained import load
from epjax.training import processes
from epjax.training.rendezvous import Waiting, meet
from experiments import vgg5


class Meeting:
    """Processes, here threads, that try to meet; `outcome` is what each was told."""

    def __init__(self, of, patience=20.0):
        self.address, self.of, self.patience = free_address(), of, patience
        self.outcome, self.threads = [], []

    def come(self, number, of=None):
        def run():
            try:
                meet(self.address, of or self.of, number, self.patience)
                self.outcome.append((number, None))
            except OSError as error:
                self.outcome.append((number, str(error)))

        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()

    def end(self):
        for thread in self.threads:
            thread.join(30)
        return sorted(self.outcome, key=str)


def wait_until(condition, patience=30.0):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_all_meet_in_any_order_and_a_stranger_is_no_harm():
    meeting = Meeting(of=3)
    for number in (2, 0):
        meeting.come(number)
    host, port = meeting.address.split(":")
    time.sleep(0.3)
    with socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n")
    meeting.come(1)
    assert meeting.end() == [(0, None), (1, None), (2, None)]


def test_more_processes_than_announced_are_sent_away_and_the_others_go_on():
    meeting = Meeting(of=3)
    for number in (0, 1, 1):
        meeting.come(number)
    wait_until(lambda: meeting.outcome)
    meeting.come(2)
    outcome = meeting.end()
    assert [number for number, failure in outcome if failure is None] == [0, 1, 2]
    assert [failure for _, failure in outcome if failure] == [
        "process_id 1 is taken: more processes were started than the 3 announced, or one was twice"
    ]


def test_who_waits_says_for_whom(capsys, monkeypatch):
    monkeypatch.setattr(Waiting.__init__, "__defaults__", (0.1, 0.2))
    meeting = Meeting(of=3)
    for number in (0, 2):
        meeting.come(number)
    time.sleep(0.6)
    meeting.come(1)
    assert meeting.end() == [(0, None), (1, None), (2, None)]
    told = capsys.readouterr().err.splitlines()
    assert told.count(f"process 0 waits at {meeting.address}: 2 of 3 have come, not yet 1") >= 2
    assert f"process 2 of 3 waits for process 0 at {meeting.address} and the others" in told


def test_processes_that_do_not_meet_are_told_why():
    meeting = Meeting(of=2)
    meeting.come(0)
    meeting.come(1, of=3)
    reason = "num_processes is 2 in process 0, but 3 in process 1"
    assert meeting.end() == [(0, reason), (1, reason)]

    meeting = Meeting(of=4, patience=0.5)
    for number in (0, 2):
        meeting.come(number)
    reason = f"of 4 processes these did not come to {meeting.address} in time: 1, 3"
    assert meeting.end() == [(0, reason), (2, reason)]

    meeting = Meeting(of=2, patience=0.3)
    meeting.come(1)
    ((_, reason),) = meeting.end()
    assert reason.startswith(f"process 1 cannot reach the coordinator {meeting.address}: ")


def test_an_address_that_another_program_has():
    with socket.create_server(("localhost", 0)) as other:
        address = f"localhost:{other.getsockname()[1]}"
        with pytest.raises(
            OSError, match=f"coordinator {address} cannot be opened by process 0: Address already in use"
        ):
            meet(address, 2, 0, 1.0)

        def speak():
            peer, _ = other.accept()
            with peer:
                peer.sendall(b"\0\0\x12\x04\0 another protocol\n")

        speaker = threading.Thread(target=speak)
        speaker.start()
        with pytest.raises(OSError, match=f"{address} answers, but waits for no process 1: are all 2 there"):
            meet(address, 2, 1, 5.0)
        speaker.join()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("localhost:1", None, 0), "go together, but only coordinator localhost:1 and process_id 0 is given"),
        ((None, 2, None), "go together, but only num_processes 2 is given"),
        (("localhost", 2, 0), "coordinator must be HOST:PORT, the address of process 0, but is 'localhost'"),
        (("localhost:99999", 2, 0), "coordinator must be HOST:PORT"),
        (("localhost:1", 0, 0), "num_processes must be at least 1, but is 0"),
        (("localhost:1", 2, 2), r"process_id must lie in 0..1, one of 2, but is 2"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        processes.start(*options)
    assert not jax.distributed.is_initialized()


def test_a_wrong_number_on_the_command_line_is_one_sentence(tmp_path, capsys):
    more = ["--coordinator", "localhost:1", "--num-processes", "2", "--process-id", "5"]
    assert vgg5.main(small("none", tmp_path / "run", *more)) == 1
    assert capsys.readouterr().err == "error: process_id must lie in 0..1, one of 2, but is 5\n"
    assert not (tmp_path / "run").exists()


SLURM = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4"}


@pytest.mark.parametrize(
    ("variables", "joins"),
    [
        ({}, False),
        (SLURM, False),  # the batch script itself, outside srun
        ({**SLURM, "SLURM_STEP_NODELIST": "node[1-4]"}, True),
        ({**SLURM, "SLURM_STEP_NODELIST": "node1", "SLURM_NTASKS": "1"}, False),
        # an interactive shell in an allocation of four tasks
        ({**SLURM, "SLURM_STEP_NODELIST": "node1", "SLURM_STEP_NUM_TASKS": "1"}, False),
        ({**SLURM, "SLURM_STEP_NODELIST": "node[1-4]", "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}, False),  # mpirun: jax is not asked
        ({"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "node1"}, False),  # torchrun's
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),  # a notebook in a cluster
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a"}, False),
        ({"TPU_ML_PLATFORM": "JAX"}, True),
        ({"TPU_ML_PLATFORM": "JAX", "TPU_SKIP_MDS_QUERY": "1"}, False),
    ],
    ids=lambda case: " ".join(f"{name}={value}" for name, value in case.items()) if isinstance(case, dict) else "",
)
def test_jax_is_asked_only_where_a_launcher_started_others(monkeypatch, variables, joins):
    asked = []
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TPU_", "KUBERNETES_", "JOB_COMPLETION")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **_: asked.append(given))
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(processes, "_watch", lambda: None)
    processes.start()
    assert asked == [(None, None, None)] * joins
    processes.start(num_processes=1)  # this one alone, whatever the launcher says
    assert len(asked) == joins


def test_processes_that_were_started_for_different_runs_are_refused(monkeypatch):
    options = {"beta": 0.1, "workdir": "a", "max_steps": None}
    monkeypatch.setattr(processes, "gather", lambda mine: [mine, mine, mine | {"max_steps": 3}])
    with pytest.raises(ValueError, match="max_steps is None in process 0, but 3 in process 2"):
        command._check_alike(options)
    own = shared(vgg5.EXPERIMENT.parse(["--workdir", "a", "--data", "idx:there"]))
    assert not own.keys() & {"workdir", "data", "num_workers", "num_threads", "coordinator", "process_id"}
    assert {"beta", "max_steps", "num_processes", "dataset"} <= own.keys()


PLAIN = "import sys; from experiments import vgg5; sys.exit(vgg5.main())"

SIGNALLED = """
import os, signal, sys, time
from experiments import vgg5
from epjax.runs.progress import Reporter

update = Reporter.update

def update_and_signal(self, status):
    update(self, status)
    if status.step == 2:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(2)  # the other process must wait for this one's step

Reporter.update = update_and_signal
sys.exit(vgg5.main())
"""

BLIND = """
import shutil, sys, tempfile
from pathlib import Path
from experiments import vgg5
from orbax.checkpoint import v1 as ocp

load = ocp.load

def load_what_this_process_sees(path, *rest):
    if path.name == "{step}":
        path = shutil.copytree(path, Path(tempfile.mkdtemp(dir=path.parents[2])) / path.name)
        for data in path.glob("state/**/d/*"):
            data.write_bytes(b"")
    return load(path, *rest)

ocp.load = load_what_this_process_sees
sys.exit(vgg5.main())
"""


def pair(argv, programs=(PLAIN, PLAIN), more=((), ())):
    """Two processes with the same command, each with a program of its own."""
    address = free_address()
    together = ["--coordinator", address, "--num-processes", "2", "--process-id"]
    commands = [
        ["-c", program, *argv, *own, *together, str(number)]
        for number, (program, own) in enumerate(zip(programs, more, strict=True))
    ]
    return Pair(commands, {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir})


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Ten classes with four images each for training and one for validation: five steps of eight an epoch."""
    classes = tuple(f"n{number:08}" for number in range(10))
    return few_images(classes, train=4, val=1).folder(tmp_path_factory.mktemp("here") / "images")


def assert_close_runs(one, other):
    """The same lines and the same parameters, to rounding that some steps of a network with kinks have magnified."""
    for a, b in zip(values(one), values(other), strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-4)
    a, b = load(one, "newest"), load(other, "newest")
    assert a.step == b.step
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5 * float(np.max(np.abs(y))))


def test_two_processes_stopped_continued_by_one_and_by_two_again_are_one_run(images, tmp_path):
    whole, workdir = tmp_path / "whole", tmp_path / "run"
    options = ("--scheme", "random", "--log-every", "3", "--eval-every", "1")
    stopped = pair(small(images, workdir, *options), (PLAIN, SIGNALLED))
    assert vgg5.main(small(images, whole, *options)) == 0  # while the two are on their way
    codes, out, err = stopped.end()
    assert codes == [75, 75], err
    (step,) = (int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert 2 < step < 6
    assert f"stopped by SIGTERM after step {step} of 10, saved" in out[0]
    assert "step" not in out[1]
    # Another number of processes and of devices: this one.
    assert vgg5.main(small(images, workdir, *options, "--max-steps", str(step + 1))) == 0
    # Again two, of which one cannot read the newest checkpoint.
    codes, out, err = pair(small(images, workdir, *options), (PLAIN, BLIND.replace("{step}", str(step + 1)))).end()
    assert codes == [0, 0], err
    assert f"going on from step {step} of 10" in out[0]
    assert f"the checkpoint of step {step + 1} is damaged, going on from step {step}" in err[0]
    assert (err[1], (workdir / "damaged" / str(step + 1)).is_dir()) == ("", True)
    assert_close_runs(whole, workdir)
    # The same command once more, as a person gives it.
    script = [str(ROOT / "experiments" / "launch" / "two_processes.sh"), "experiments.vgg5"]
    own = environment() | {"PYTHON": sys.executable, "PORT": free_address().rpartition(":")[2]}
    again = subprocess.run(
        [*script, *small(images, workdir, *options)], env=own, capture_output=True, text=True, timeout=480
    )
    assert again.returncode == 0, again.stderr
    assert "going on from step 10 of 10" in again.stdout


def test_an_error_on_one_ends_both_with_its_message(images, tmp_path):
    """The images of process 1 are bad; process 0 waits for it in the first step."""
    elsewhere = few_images(tuple(path.name for path in sorted((images / "train").iterdir())), train=4, val=1)
    elsewhere = elsewhere.folder(tmp_path / "images")
    for image in elsewhere.glob("train/*/*"):
        image.write_bytes(b"no image")
    codes, _, err = pair(small(images, tmp_path / "run"), more=((), ("--data", f"folder:{elsewhere}"))).end()
    assert codes == [1, 1]
    assert err[1].startswith(f"error: {elsewhere / 'train'}")
    assert err[0] == err[1].replace("error: ", "error: on process 1: ")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_processes_with_different_work_directories_are_refused(images, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    codes, _, err = pair(small(images, here), more=((), ("--workdir", str(there)))).end()
    assert codes == [1, 1]
    assert err[1].startswith(
        f"error: workdir {there} must be one folder that all processes share, but where process 0 has"
    )
    assert err[0] == err[1].replace("error: ", "error: on process 1: ")
