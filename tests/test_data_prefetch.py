"""Would catch: items lost or out of order, an error swallowed by the thread, a thread that outlives `close`, waiting
that is not counted, more batches in memory than asked for."""

import threading
import time

import pytest

from epjax.data import prefetch

pytestmark = pytest.mark.fast


def test_items_come_in_order_and_end():
    with prefetch(iter(range(50)), lambda x: 2 * x, size=3) as items:
        assert list(items) == [2 * i for i in range(50)]
        with pytest.raises(StopIteration):
            next(items)


def settle(made: list, count: int) -> None:
    """The thread makes so many items, in its own time, and then no more."""
    patience = time.monotonic() + 20
    while len(made) < count and time.monotonic() < patience:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(made) == count


def test_no_more_than_size_items_wait():
    made = []
    with prefetch(iter(range(100)), made.append, size=3) as items:
        settle(made, 3)
        next(items)
        settle(made, 4)


def test_error_comes_in_its_place():
    def put(x: int) -> int:
        if x == 3:
            raise OSError("disk is gone")
        return x

    with prefetch(iter(range(9)), put, size=2) as items:
        assert [next(items) for _ in range(3)] == [0, 1, 2]
        for _ in range(2):
            with pytest.raises(OSError, match="disk is gone"):
                next(items)


def test_only_waiting_is_counted():
    def slow(x: int) -> int:
        time.sleep(0.05)
        return x

    with prefetch(iter(range(4)), slow, size=2) as items:
        list(items)
        assert 0.15 < items.waited < 5
    with prefetch(iter(range(4)), slow, size=2) as items:
        for _ in range(4):
            time.sleep(0.15)  # The step takes longer than a batch: nothing to wait for.
            next(items)
        assert items.waited < 0.15


def test_close_ends_the_thread_and_closes_the_iterator():
    class Batches:
        closed = False

        def __iter__(self):
            return self

        def __next__(self) -> int:
            return 1

        def close(self) -> None:
            self.closed = True

    before, batches = threading.active_count(), Batches()
    items = prefetch(batches, lambda x: x)
    next(items)
    items.close()
    assert threading.active_count() == before
    assert batches.closed
    assert list(items) == []


def test_size_must_be_positive():
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        prefetch(iter(()), lambda x: x, size=0)
