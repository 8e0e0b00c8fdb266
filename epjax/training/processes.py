"""One run in many processes: started together, of one mind, ended together.

Each process runs the same program over the devices of all (jax's multi-controller runtime). What they have to tell each
other beside that goes through the key-value store of jax's coordination service, from host to host: no device waits.

* `start` joins the processes; a process that is alone is left alone.
* `gather` and `first` make them agree on what they may see differently.
* `Moment` brings all of them to the same place in the program because one wished it.
* `end` ends all of them with the message of one.

A process that is killed outright says nothing: jax misses its heartbeat within 100 seconds and ends the others, with a
message of its own.
"""

import atexit
import itertools
import json
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Any, NoReturn, Self, TypeVar

import jax

from epjax.training.rendezvous import Waiting, meet

T = TypeVar("T")

_LOOK_EVERY, _GRACE, _FOREVER = 0.5, 10.0, 2**31 - 1
_FAILED, _ENDED, _WISHED, _PASSED, _GATHERED = (
    f"epjax/{name}" for name in ["failed", "ended", "wished", "passed", "gathered"]
)
# jax's connection is one for the program too.
_rounds, _leaving = itertools.count(), threading.Lock()


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    patience: float = 300.0,
) -> None:
    """Join the processes of this run; to be called before anything touches a device.

    Process 0 of `num_processes` listens at `coordinator`, HOST:PORT, and the others find it there. Where none of the
    three is given, a launcher that jax knows gives them: Slurm, Cloud TPU, an indexed Job of Kubernetes. Where nothing
    says that there are others, and with `num_processes` 1 alone, nothing is done; nor by a second call. Raises
    ValueError for arguments that do not go together, OSError where the others are not found in `patience` seconds.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    told = {name: value for name, value in given.items() if value is not None}
    if jax.distributed.is_initialized() or told == {"num_processes": 1} or not (told or _launched_with_others()):
        return
    if coordinator is not None and num_processes is not None and process_id is not None:
        _check(coordinator, num_processes, process_id)
        meet(coordinator, num_processes, process_id, patience)
    elif told:
        only = " and ".join(f"{name} {value}" for name, value in told.items())
        raise ValueError(f"coordinator, num_processes and process_id go together, but only {only} is given")
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    announced = "waiting for the other processes that the launcher announces; --num-processes 1 runs this one alone"
    try:
        with Waiting(lambda: announced):
            jax.distributed.initialize(
                coordinator,
                num_processes,
                process_id,
                cluster_detection_method="deactivate" if told else None,
                initialization_timeout=max(1, round(patience)),
            )
    except (RuntimeError, ValueError) as error:
        raise OSError(f"the processes that the launcher announces cannot be joined: {error}") from error
    _watch()


def _check(coordinator: str, num_processes: int, process_id: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ValueError(f"coordinator must be HOST:PORT, the address of process 0, but is {coordinator!r}")
    if num_processes < 1:
        raise ValueError(f"num_processes must be at least 1, but is {num_processes}")
    if not 0 <= process_id < num_processes:
        raise ValueError(f"process_id must lie in 0..{num_processes - 1}, one of {num_processes}, but is {process_id}")


def _launched_with_others() -> bool:
    """Whether the environment is that of a launcher which starts several processes."""
    env = os.environ
    # Of the step, not of the allocation: in an interactive shell the allocation's tasks are not started.
    tasks = env.get("SLURM_STEP_NUM_TASKS") or env.get("SLURM_NTASKS") or "1"
    slurm = {"SLURM_STEP_NODELIST", "SLURM_PROCID"} <= env.keys() and tasks.isdigit() and int(tasks) > 1
    kubernetes = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= env.keys()
    # jax notes these two when it is imported: it found a TPU, which has neighbours that its metadata names.
    tpu = env.get("TPU_ML_PLATFORM") == "JAX" and "TPU_SKIP_MDS_QUERY" not in env
    tpu_hosts = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES") or ""
    return slurm or kubernetes or tpu or "," in tpu_hosts


def _state() -> Any:
    """jax's connection. It has no public key-value store; orbax uses this one too."""
    from jax._src.distributed import global_state

    return global_state


def count() -> int:
    """The number of processes in this run. Unlike `jax.process_count`, touches no device."""
    return _state().num_processes if jax.distributed.is_initialized() else 1


def index() -> int:
    """The number of this process, from 0. Unlike `jax.process_index`, touches no device."""
    return _state().process_id if jax.distributed.is_initialized() else 0


def gather(value: T) -> list[T]:
    """What each process gives, by process: anything JSON can hold. All must call it, in the same order; all wait."""
    if count() == 1:
        return [value]
    client, key = _state().client, f"{_GATHERED}/{next(_rounds)}"
    client.key_value_set(f"{key}/{index()}", json.dumps(value))
    client.wait_at_barrier(key, _FOREVER)  # where one never comes, `end` ends this one
    return [json.loads(text) for _, text in sorted(client.key_value_dir_get(key), key=_number)]


def first(value: T) -> T:
    """What process 0 gives. All must call it, in the same order; all wait."""
    return gather(value)[0]


def _number(entry: tuple[str, str]) -> int:
    return int(entry[0].rpartition("/")[2])


def _look(key: str) -> str | None:
    try:
        return _state().client.key_value_try_get(key)
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" in str(error):
            return None
        raise


def _watch() -> None:
    """Look, as long as the program runs, whether another process has failed."""
    over = threading.Event()

    def look() -> None:
        with suppress(jax.errors.JaxRuntimeError):  # the connection is lost, which jax does not survive
            while not over.wait(_LOOK_EVERY):
                if _look(_FAILED) is not None:
                    _leave()

    thread = threading.Thread(target=look, daemon=True, name="processes")
    thread.start()
    atexit.register(thread.join)  # before jax, which registered before, lets go of the connection
    atexit.register(over.set)


def end(message: str, code: int = 1) -> NoReturn:
    """End every process, this one with exit code `code`: each prints `message`, or that of the one that was first.

    No process is waited for beyond a few seconds: one that hangs in a collective is ended as well.
    """
    with suppress(jax.errors.JaxRuntimeError):  # another one has failed already
        _state().client.key_value_set(_FAILED, json.dumps([index(), message, code]))
    _leave()


def _leave() -> NoReturn:
    _leaving.acquire()  # for good: this may be called by two threads
    code = 1
    with suppress(Exception):
        failed, message, code_of_failed = json.loads(_look(_FAILED) or "")
        code = code_of_failed if failed == index() else 1  # whichever thread of it is the first to leave
        print(f"error: {message}" if failed == index() else f"error: on process {failed}: {message}", file=sys.stderr)
        _state().client.key_value_set(f"{_ENDED}/{index()}", "")
        deadline = time.monotonic() + _GRACE  # process 0 keeps what the others still have to read
        while index() == 0 and len(_state().client.key_value_dir_get(_ENDED)) < count() and time.monotonic() < deadline:
            time.sleep(0.05)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Moment:
    """A context in which all processes come past the same places, and one may wish that they do something at the next.

    `wish` may be set by any process, in a signal handler too. `come` is called at every place and gives the wish, the
    same at the same place in all processes: the place is later than those that any has passed when they compare.
    """

    def __init__(self) -> None:
        self.wish: str | None = None
        self._granted: str | None = None
        self._passed, self._due = 0, _FOREVER
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._compare, daemon=True, name="moment")

    def come(self) -> str | None:
        """Pass a place; the wish, from the place on that all have agreed on."""
        if count() == 1:
            return self.wish
        with self._lock:
            self._passed += 1
            return self._granted if self._passed >= self._due else None

    def __enter__(self) -> Self:
        if count() > 1:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if count() == 1:
            return
        if kind is None:
            gather(None)  # until the last one has passed its last place, all compare
        self._over.set()
        self._thread.join()

    def _compare(self) -> None:
        client = _state().client
        with suppress(jax.errors.JaxRuntimeError):  # the connection is lost, which jax does not survive
            while (wish := _look(_WISHED)) is None:
                if self._over.wait(_LOOK_EVERY):
                    return
                if self.wish is not None:
                    with suppress(jax.errors.JaxRuntimeError):  # another one wished before
                        client.key_value_set(_WISHED, self.wish)
            with self._lock:  # where this process is now, it stays, until it knows where the others are
                client.key_value_set(f"{_PASSED}/{index()}", str(self._passed))
                while len(places := client.key_value_dir_get(_PASSED)) < count() and not self._over.wait(0.02):
                    pass
                self._granted, self._due = wish, 1 + max(int(place) for _, place in places)
