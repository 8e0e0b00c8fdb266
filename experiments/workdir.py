"""The work directory: made, writable, and used by one run at a time."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def own(directory: Path) -> Iterator[None]:
    """Hold `directory` for this run. Raises OSError where it cannot be written or another run holds it.

    The lock is the operating system's: it ends with the process, however that ends.
    """
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
        yield
        lock.truncate(0)
