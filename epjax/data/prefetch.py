"""Keeps batches on their way to the device while the step runs."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")


class Prefetch(Iterator[T], Generic[T]):
    """The items put(x) for x in `batches`, made by a thread that stays up to `size` items ahead.

    `waited` is the time in seconds that `next` has spent waiting. What the thread raises, `next` raises, in its place.
    """

    def __init__(self, batches: Iterator[Any], put: Callable[[Any], T], size: int) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.waited = 0.0
        self._batches = batches
        self._queue: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()
        self._free, self._closed = threading.Semaphore(size), False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(batches, put), daemon=True, name="device-prefetch")
        self._thread.start()

    def _run(self, batches: Iterator[Any], put: Callable[[Any], T]) -> None:
        while self._free.acquire() and not self._closed:
            try:
                self._queue.put((put(next(batches)), None))
            except BaseException as error:  # StopIteration too: it ends the iteration over there.
                self._queue.put((None, error))
                return

    def __next__(self) -> T:
        """The next item."""
        if self._error is not None:
            raise self._error
        start = time.perf_counter()
        item, error = self._queue.get()
        self.waited += time.perf_counter() - start
        if error is not None:
            self._error = error
            raise error
        self._free.release()
        return item  # type: ignore[return-value]

    def close(self) -> None:
        """End the thread, then the iterator it reads where that one can be closed."""
        self._closed = True
        self._free.release()
        self._thread.join()
        self._error = self._error or StopIteration()
        if hasattr(self._batches, "close"):
            self._batches.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def prefetch(batches: Iterator[Any], put: Callable[[Any], T], size: int = 2) -> Prefetch[T]:
    """`put` applied to each batch (host arrays -> device arrays) by a thread, up to `size` items ahead."""
    return Prefetch(batches, put, size)
