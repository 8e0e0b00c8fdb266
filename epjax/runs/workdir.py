"""The work directory: made, writable, and used by one run at a time."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from epjax.training import processes

_PATIENCE = 10.0


@contextmanager
def own(directory: Path) -> Iterator[None]:
    """Hold `directory` for this run, of which process 0 has the lock and the others must see it.

    Raises OSError where it cannot be written, another run holds it, or the processes have different directories.
    The lock is the operating system's: it ends with the process, however that ends.
    """
    with _lock(directory) if processes.index() == 0 else nullcontext(""):
        holder = processes.first((directory / "lock").read_text() if processes.index() == 0 else "")
        deadline = time.monotonic() + _PATIENCE  # a file of another host may take its time
        while (seen := _read(directory / "lock")) != holder:
            if time.monotonic() > deadline:
                raise OSError(
                    f"workdir {directory} must be one folder that all processes share, but where process 0 has the"
                    f" lock of {holder}, process {processes.index()} finds {f'that of {seen}' if seen else 'none'}"
                )
            time.sleep(0.1)
        processes.gather(None)
        yield


def _read(lock: Path) -> str:
    return lock.read_text() if lock.exists() else ""


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / "lock").open("a+")
    except OSError as error:
        raise OSError(f"workdir {directory} cannot be written: {error.strerror or error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            holder = lock.read().strip() or "an unknown process"
            raise OSError(f"workdir {directory} is in use by another run ({holder})") from error
        lock.truncate(0)
        lock.write(f"pid {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        os.fsync(lock.fileno())
        yield
        lock.truncate(0)
