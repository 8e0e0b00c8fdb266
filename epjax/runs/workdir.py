"""The work directory: made, writable, and used by one run at a time."""

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from epjax.training import processes

LOCK, HOLDER = "lock", "lock.holder"
"""The file that is locked, and beside it who did it: what is locked cannot be read everywhere."""

NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_PATIENCE = 10.0


@contextmanager
def own(directory: Path) -> Iterator[None]:
    """Hold `directory` for this run, of which process 0 has the lock and the others must see it.

    Raises ValueError for a path that is not UTF-8, and OSError where it cannot be written, another run holds it, or the
    processes have different directories. The lock is the operating system's: it ends with the process, however that
    ends.
    """
    try:
        str(directory).encode()
    except UnicodeEncodeError:
        raise ValueError(f"workdir must be a path in UTF-8, but is {str(directory)!a}") from None
    with _lock(directory) if processes.index() == 0 else nullcontext(""):
        holder = processes.first(_read(directory / HOLDER) if processes.index() == 0 else "")
        deadline = time.monotonic() + _PATIENCE  # a file of another host may take its time
        while (seen := _read(directory / HOLDER)) != holder:
            if time.monotonic() > deadline:
                raise OSError(
                    f"workdir {directory} must be one folder that all processes share, but where process 0 has the"
                    f" lock of {holder}, process {processes.index()} finds {f'that of {seen}' if seen else 'none'}"
                )
            time.sleep(0.1)
        processes.gather(None)
        yield


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _write(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    # Without the operating system's lock there is none: a file alone would outlive a run that is killed.
    lock = FileLock(directory / LOCK, blocking=False, fallback_to_soft=False)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        _write(directory / HOLDER, f"pid {os.getpid()} on {socket.gethostname()}")
    except Timeout as error:
        holder = _read(directory / HOLDER).strip() or "an unknown process"
        raise OSError(f"workdir {directory} is in use by another run ({holder})") from error
    except (OSError, NotImplementedError) as error:
        if isinstance(error, NotImplementedError) or error.errno in NO_LOCKS:
            raise OSError(f"workdir {directory} lies where no file can be locked: give another --workdir") from error
        raise OSError(f"workdir {directory} cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        with suppress(OSError):  # the folder may be gone, which the run has told
            (directory / HOLDER).unlink()
            lock.release()
