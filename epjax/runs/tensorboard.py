"""The lines of metrics.jsonl as TensorBoard scalars: `tensorboard --logdir runs` shows them while a run goes on."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_FOR_TIME = ("step", "epoch", "seconds")
"""What says when a line was written: TensorBoard has axes of its own for it."""


class EventLog:
    """One event file in `directory`, which always holds what metrics.jsonl holds.

    The file is written anew from `lines` whenever a run starts or goes on, so a step that is done again stands in it
    once. tensorboardX's own SummaryWriter is not used: it writes from a thread, whose end on a full disk nobody sees.
    """

    def __init__(self, directory: Path, lines: Sequence[Mapping[str, Any]]) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self.directory = directory
        self._began = time.time() - max((line.get("seconds", 0.0) for line in lines), default=0.0)
        directory.mkdir(exist_ok=True)
        for earlier in directory.glob("events.out.tfevents.*"):
            earlier.unlink()
        self._file = EventsWriter(str(directory / "events"))
        # A TensorBoard that is open forgets what it had read from the file before.
        self._file.write_event(Event(step=0, session_log=SessionLog(status=SessionLog.START)))
        for line in lines:
            self._add(line)
        self._flush()

    def write(self, line: Mapping[str, Any]) -> None:
        """One event with all numbers of the line. Raises OSError where there is no room for it."""
        self._add(line)
        self._flush()

    def close(self) -> None:
        """Close the file; what it had no room for was an error of `write` already."""
        with suppress(OSError):
            self._file.close()

    def _add(self, line: Mapping[str, Any]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(line)]
        when = self._began + line.get("seconds", 0.0)
        self._file.write_event(Event(wall_time=when, step=line["step"], summary=Summary(value=values)))

    def _flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            raise OSError(f"could not write to {self.directory}: {error.strerror}") from error


def scalars(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a line by their tags: `val/top1_error` for `val_top1_error`, `train/cost` for `cost`."""
    for name, value in line.items():
        if name not in _FOR_TIME and isinstance(value, int | float) and math.isfinite(value):
            yield (f"val/{name[4:]}" if name.startswith("val_") else f"train/{name}"), float(value)
