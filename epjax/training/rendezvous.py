"""Where the processes of a run find each other before jax connects them.

jax's own connection ends a process without a sentence where another is missing, comes twice or was told another number.
So they meet first, for a moment, at the address that jax will use: process i says that it is i of n, and process 0
answers all when all have come, or says why not.
"""

import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

_RETRY_EVERY, _LINE_WITHIN, _GRACE = 0.2, 5.0, 10.0
_FIRST_WORD, _WORD_EVERY = 4.0, 15.0


class Waiting:
    """A context that says on the standard error what is waited for, after 4 seconds and every 15 from then on."""

    def __init__(self, words: Callable[[], str], first: float = _FIRST_WORD, every: float = _WORD_EVERY) -> None:
        self._words, self._first, self._every = words, first, every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._say, daemon=True, name="waiting")

    def _say(self) -> None:
        pause = self._first
        while not self._over.wait(pause):
            print(self._words(), file=sys.stderr, flush=True)
            pause = self._every

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()


def meet(coordinator: str, num_processes: int, process_id: int, patience: float) -> None:
    """Return when all `num_processes` have come to `coordinator`, HOST:PORT of process 0.

    Raises OSError where they do not in `patience` seconds, where they were told other numbers of processes, and in the
    process whose number is taken.
    """
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + patience
    if process_id == 0:
        _await_others(coordinator, int(port), num_processes, deadline)
    else:
        failure = _report(coordinator, (host.strip("[]"), int(port)), num_processes, process_id, deadline)
        if failure is False:
            failure = f"{coordinator} answers, but waits for no process {process_id}: are all {num_processes} there?"
        if failure is not None:
            raise OSError(failure)


def _await_others(coordinator: str, port: int, num_processes: int, deadline: float) -> None:
    """What process 0 does: collect who comes, then answer all of them."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        server = socket.create_server(("", port), family=family, backlog=num_processes, dualstack_ipv6=both)
    except OSError as error:
        raise OSError(f"coordinator {coordinator} cannot be opened by process 0: {error.strerror}") from error
    came: dict[int, socket.socket] = {}
    failure = None

    def words() -> str:
        missing = ", ".join(str(number) for number in range(1, num_processes) if number not in came)
        return f"process 0 waits at {coordinator}: {len(came) + 1} of {num_processes} have come, not yet {missing}"

    with server, Waiting(words):
        while len(came) < num_processes - 1 and failure is None:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                peer, _ = server.accept()
            except TimeoutError:
                missing = ", ".join(str(number) for number in range(1, num_processes) if number not in came)
                failure = f"of {num_processes} processes these did not come to {coordinator} in time: {missing}"
                break
            peer.settimeout(_LINE_WITHIN)
            failure = _admit(peer, _receive(peer), num_processes, came)
        for peer in came.values():
            _answer(peer, failure)
    if failure is not None:
        raise OSError(failure)


def _admit(peer: socket.socket, hello: Any, num_processes: int, came: dict[int, socket.socket]) -> str | None:
    """Note who came; gives what makes the whole run impossible. One too many is sent away, and the others go on."""
    if not isinstance(hello, dict) or not {"process", "of"} <= hello.keys():
        peer.close()  # no process of ours
    elif hello["of"] != num_processes:
        failure = f"num_processes is {num_processes} in process 0, but {hello['of']} in process {hello['process']}"
        _answer(peer, failure)
        return failure
    elif hello["process"] in came:
        taken = f"process_id {hello['process']} is taken"
        _answer(peer, f"{taken}: more processes were started than the {num_processes} announced, or one was twice")
    else:
        came[hello["process"]] = peer
    return None


def _report(coordinator: str, address: tuple[str, int], num_processes: int, process_id: int, deadline: float) -> Any:
    """What the others do: say who they are, again until somebody listens, and give the answer of process 0."""
    words = f"process {process_id} of {num_processes} waits for process 0 at {coordinator} and the others"
    with Waiting(lambda: words):
        return _say_hello(coordinator, address, num_processes, process_id, deadline)


def _say_hello(coordinator: str, address: tuple[str, int], num_processes: int, process_id: int, deadline: float) -> Any:
    while True:
        try:
            with socket.create_connection(address, timeout=max(0.01, deadline - time.monotonic())) as peer:
                peer.settimeout(max(0.01, deadline - time.monotonic()) + _GRACE)
                peer.sendall(json.dumps({"process": process_id, "of": num_processes}).encode() + b"\n")
                return _receive(peer)
        except OSError as error:
            if time.monotonic() + _RETRY_EVERY > deadline:
                why = error.strerror or error
                raise OSError(f"process {process_id} cannot reach the coordinator {coordinator}: {why}") from error
            time.sleep(_RETRY_EVERY)


def _answer(peer: socket.socket, failure: str | None) -> None:
    with peer, suppress(OSError):
        peer.sendall(json.dumps(failure).encode() + b"\n")


def _receive(peer: socket.socket) -> Any:
    """One line of JSON; False where nothing, or something else, is said."""
    try:
        return json.loads(peer.makefile("rb").readline(4096))
    except (OSError, ValueError):
        return False
