"""Checkpoints of a run: written in the background, complete or absent, checked when read.

Of a run in many processes each writes and reads its own share, in one folder that all see; what one of them cannot read
is damaged for all.

Nothing else in epjax knows orbax. A checkpoint holds the state (any pytree of arrays), the configuration
that made it, and a few numbers of the caller's; the position in the data is a function of the step, so it
needs no place here.
"""

import asyncio
import gc
import json
import logging
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore
from orbax.checkpoint import v1 as ocp

from epjax.training.processes import count, first, gather, index

State = Any
_policies = ocp.training.preservation_policies

_DONE_WITHIN, _TOLD_WITHIN = 60.0, 1.0


class ConfigurationDiffers(ValueError):
    """The checkpoint belongs to a run with another configuration, or to another network."""


@dataclass(frozen=True)
class Restored:
    """What a checkpoint gave back."""

    state: State
    step: int
    extra: dict[str, Any]


class Checkpoints:
    """The checkpoints in one folder: the last `keep`, and the one with the smallest `metric`.

    `config` must be a mapping that JSON can hold. It is stored with every checkpoint, and `restore` refuses a
    checkpoint whose configuration is another one. So is `content`, which earlier checkpoints may be without.
    """

    def __init__(
        self, directory: Path, config: Mapping[str, Any], keep: int = 3, content: Mapping[str, Any] | None = None
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, but is {keep}")
        self.directory = Path(directory).absolute()
        self._content = dict(content or {})
        self._config = json.loads(json.dumps({**config, **self._content}))
        self._saving: int | None = None
        self._started: Any = None
        self._proven = False
        _check_path(self.directory)
        self._remove_leftovers()
        self._try_folder()
        self._put_aside_unreadable_notes()
        best = _policies.BestN(get_metric_fn=_metric, reverse=True, n=1, keep_checkpoints_without_metrics=False)
        self._manager = ocp.training.Checkpointer(
            self.directory,
            save_decision_policy=_Always(),
            preservation_policy=_policies.AnyPreservationPolicy([_policies.LatestN(keep), best]),
        )
        self._place = _place(self.directory)

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending."""
        return [checkpoint.step for checkpoint in self._manager.checkpoints]

    @property
    def best_step(self) -> int | None:
        """The step with the smallest metric, if any checkpoint has one."""
        known = [(c.metrics["metric"], c.step) for c in self._manager.checkpoints if c.metrics]
        return min(known)[1] if known else None

    def save(
        self, step: int, state: State, extra: Mapping[str, Any] | None = None, metric: float | None = None
    ) -> None:
        """Start to write `state`; returns when `state` may be overwritten.

        Raises OSError if the save before this one failed, or the folder is another than it was. A step that already
        has its checkpoint is left as it is. The first checkpoint of a run is read back before this returns.
        """
        self.wait()
        if step in self.steps:
            return
        self._check_place(step)  # orbax would make the folder anew, and one run would lie in two places
        extra = json.loads(json.dumps(dict(extra or {})))  # written later, when the caller's may have changed
        note = {"config": self._config, "extra": extra, "digest": _digest(state), "arrays": _arrays(state)}
        self._saving = step
        with self._explain_failure():
            metrics = None if metric is None else {"metric": float(metric)}
            self._started = self._manager.save_async(step, state, metrics=metrics, custom_metadata=note)
        if not self._proven:
            self._prove(step, state, note["digest"])

    def wait(self) -> None:
        """Wait until what was started is on disk. Raises OSError, with the reason, if it could not be."""
        with self._explain_failure():
            started, self._started = self._started, None
            try:
                if started is not None:
                    started.result()  # ends the thread, and the event loop in it, that orbax began for this save
            finally:
                self._manager.wait()
        self._saving = None

    def close(self) -> None:
        """Wait, and let go of the folder."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def restore(self, like: State) -> Restored | None:
        """The newest checkpoint that can be read, placed as `like` says; None where there is none.

        `like` has the state's structure with `jax.ShapeDtypeStruct` leaves that carry a sharding, which may
        belong to another mesh than the one it was saved from. A damaged checkpoint is passed over with a
        warning and put aside in `damaged/`. Raises `ConfigurationDiffers`, ValueError for arrays of 64 bits
        that jax is not set to have in all threads, and OSError where no checkpoint is readable.
        """
        damaged: dict[int, str] = {}
        for step in reversed(first(self.steps)):
            path = self.directory / str(step)
            note, reason = _of_all(partial(_note, path))
            if reason is None:
                self._check_configuration(note["config"])
                self._check_network(step, note.get("arrays", _arrays(like)), _arrays(like))
                state, reason = _of_all(partial(_load_own, path, like))  # all load or none: orbax counts the loads
            if reason is None:
                self._check_width(step, _arrays(state), _arrays(like))
                if _digest(state) == note["digest"]:
                    self._proven = True
                    self._put_aside(damaged, f"going on from step {step}")
                    self._manager.reload()
                    return Restored(state, step, note["extra"])
                reason = f"the arrays of step {step} are not those that were saved"
            damaged[step] = reason
        self._refuse(damaged)
        return None

    def _prove(self, step: int, state: State, digest: list[int]) -> None:
        """Raises OSError where what was just written does not come back: better now than after days."""
        self.wait()
        like = describe(state, jax.tree.map(_sharding, state))
        found, reason = _of_all(partial(_load_own, self.directory / str(step), like))
        if reason is None and _arrays(found) != _arrays(state):
            # What is cut to 32 bits `restore` refuses in its own words; nothing else may come back changed.
            reason = None if _arrays(found) == _arrays(_cut(state, found)) else "arrays of another kind came back"
        elif reason is None and _digest(found) != digest:
            reason = "other arrays came back"
        if reason is not None:
            raise OSError(f"the checkpoint of step {step} in {self.directory} was written and cannot be read: {reason}")
        self._proven = True

    def _try_folder(self) -> None:
        """Raises OSError where a file system or a path is such that nothing can be written there and read again."""
        if first(saved_steps(self.directory)):
            return
        _, reason = _of_all(partial(_write_and_read, self.directory))
        if reason is not None:
            raise OSError(
                f"checkpoints cannot be kept in {self.directory}, where a trial failed: {reason}; give another workdir"
            )

    def _check_place(self, step: int | None) -> None:
        if _place(self.directory) != self._place:
            raise OSError(
                f"could not write the checkpoint of step {step}: {self.directory} was removed, renamed or unmounted"
                " while the run went on; what was saved in it is as it was"
            )

    def _check_configuration(self, config: Mapping[str, Any]) -> None:
        known = {name: v for name, v in self._config.items() if name in config or name not in self._content}
        differing = differences(config, known)
        if differing:
            raise ConfigurationDiffers(
                f"the checkpoint in {self.directory} has another configuration: {'; '.join(differing)};"
                " give the same options, or another --workdir"
            )

    def _check_network(self, step: int, arrays: Mapping[str, str], expected: Mapping[str, str]) -> None:
        if others := differences(arrays, expected):
            more = f" and {len(others) - 2} more" if len(others) > 2 else ""
            raise ConfigurationDiffers(
                f"the checkpoint of step {step} in {self.directory} is of another network:"
                f" {'; '.join(others[:2])}{more}; give another --workdir"
            )

    def _check_width(self, step: int, arrays: Mapping[str, str], expected: Mapping[str, str]) -> None:
        if cut := differences(expected, arrays):
            raise ValueError(
                f"the checkpoint of step {step} in {self.directory} has arrays of 64 bits, which need"
                f" JAX_ENABLE_X64=1 to be read: {cut[0]}"
            )

    def _put_aside_unreadable_notes(self) -> None:
        """Before the folder is opened, because opening reads the notes of every step."""
        steps = first(saved_steps(self.directory))
        reasons = {step: _of_all(partial(_note, self.directory / str(step)))[1] for step in steps}
        damaged = {step: reason for step, reason in reasons.items() if reason is not None}
        if damaged and len(damaged) == len(steps):
            self._refuse(damaged)
        self._put_aside(damaged, "going on without it")

    def _put_aside(self, damaged: Mapping[int, str], then: str) -> None:
        for step in damaged:
            warnings.warn(f"the checkpoint of step {step} is damaged, {then}", stacklevel=4)
            if index() == 0:
                shutil.move(self.directory / str(step), _free_name(self.directory.parent / "damaged", str(step)))
        gather(None)  # before the others look into the folder again

    def _refuse(self, damaged: Mapping[int, str]) -> None:
        if damaged:
            newest = max(damaged)
            reason = damaged[newest]
            raise OSError(f"no checkpoint in {self.directory} can be read, newest is step {newest}: {reason}")

    def _remove_leftovers(self) -> None:
        """Remove what a killed save left: a folder gets its final name only when it is complete."""
        if index() == 0:
            for path in self.directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def _explain_failure(self) -> Iterator[None]:
        """Any failure to write becomes one OSError; what was saved before is whole and stays."""
        try:
            with _quiet():
                yield
        except Exception as error:
            self._check_place(self._saving)
            raise OSError(
                f"could not write the checkpoint of step {self._saving} to {self.directory}: {_line(error)}"
            ) from error


def saved_steps(directory: Path) -> list[int]:
    """The steps that have a checkpoint in `directory`, ascending, without opening it as a run does."""
    return sorted(int(path.name) for path in directory.glob("*") if path.name.isdigit())


def saved_digest(directory: Path, step: int) -> list[int]:
    """A number for each array of the state that was saved after `step`, which any changed bit of it changes."""
    return list(_note(Path(directory).absolute() / str(step))["digest"])


def read_params(directory: Path, step: int, like: State, averaged: bool = False) -> State:
    """The parameters alone of the `TrainState` that was saved after `step`, placed as `like` says (see `describe`).

    Or, `averaged`, the average of them that `epjax.training.optimiser.averaged` keeps in the optimiser's state.
    Nothing is written, so that a run which goes on in `directory` is not disturbed. Raises OSError where the checkpoint
    is not there, has other shapes or is damaged.
    """
    path = Path(directory).absolute() / str(step)
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    try:
        with _quiet(), context:
            digest = _note(path)["digest"]
            if averaged:
                params = ocp.load(path, {"opt_state": {"average": like}})["opt_state"]["average"]
            else:
                params = ocp.load(path, {"params": like})["params"]
    except Exception as error:
        raise OSError(f"the checkpoint {path} cannot be read: {_line(error)}") from error
    found = _digest(params)  # the parameters are the first leaves of a TrainState, their average is what follows
    first_leaf = len(found) if averaged else 0
    if found != digest[first_leaf : first_leaf + len(found)]:
        raise OSError(f"the arrays of the checkpoint {path} are not those that were saved")
    return params


def _check_path(directory: Path) -> None:
    if found := sorted(set("*?[\\") & set(str(directory))):
        raise ValueError(
            f"checkpoints cannot be kept in {directory}: orbax takes {' and '.join(found)} in a path for a pattern;"
            " give another workdir"
        )


def _write_and_read(directory: Path) -> None:
    """A few numbers, in a folder whose name is longer than that of a checkpoint, where one process is alone."""
    if count() > 1:  # orbax would have all of them wait for each other; the first checkpoint is read back in any case
        return
    path, written = directory / "trial.of.this.folder", {"numbers": np.arange(3, dtype=int)}
    try:
        with _alone():
            ocp.save(path, written, overwrite=True)
            read = ocp.load(path, {"numbers": np.zeros(3, int)})
        if not np.array_equal(read["numbers"], written["numbers"]):
            raise OSError("other numbers came back")
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _place(directory: Path) -> tuple[int, int] | None:
    """What tells a folder from another of the same name; None where there is none."""
    try:
        about = directory.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _sharding(leaf: Any) -> Any:
    """Where an array lies; one of NumPy comes back to where jax puts it."""
    return leaf.sharding if isinstance(leaf, jax.Array) else jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One phrase for each field that differs: `beta was 0.05, is 0.1`."""
    absent = "not set"
    names = sorted(old.keys() | new.keys())
    return [
        f"{name} was {old.get(name, absent)}, is {new.get(name, absent)}"
        for name in names
        if old.get(name, absent) != new.get(name, absent)
    ]


def _note(path: Path) -> dict[str, Any]:
    """What `save` wrote beside the arrays. Raises where it is incomplete."""
    metadata = ocp.metadata(path)
    note = metadata.custom_metadata
    if (
        not metadata.commit_timestamp_nsecs
        or not isinstance(note, dict)
        or not {"config", "extra", "digest"} <= note.keys()
    ):
        raise OSError(f"the notes of the checkpoint in {path} are incomplete")
    return note


class _Always:
    """The training loop decides when to save."""

    def should_save(self, step: Any, previous_steps: Any, *, context: Any) -> bool:
        return True


def _metric(metrics: Mapping[str, float]) -> float:
    return metrics["metric"]


@jax.jit
def _fingerprint(leaves: list[jax.Array]) -> list[jax.Array]:
    """sum_i (2 i + 1) bits_i modulo 2^32 of each leaf: integers, so the same however the leaf is divided."""

    def of_one(leaf: jax.Array) -> jax.Array:
        bits = _bits(leaf)
        weight = jnp.zeros(bits.shape, jnp.uint32)
        for axis in range(bits.ndim):
            weight = weight * bits.shape[axis] + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        return jnp.sum((2 * weight + 1) * bits, dtype=jnp.uint32)

    return [of_one(leaf) for leaf in leaves]


def _bits(leaf: jax.Array) -> jax.Array:
    """All bits of a leaf of any dtype as uint32; elements that have more than 32 of them get an axis of their own."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return _bits(jax.random.key_data(leaf))
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return _bits(jnp.stack([leaf.real, leaf.imag], axis=-1))
    if leaf.dtype.itemsize < 4 and not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf.astype(jnp.uint32)  # bool has no bits to be cast, and nothing is lost
    width = jnp.finfo(leaf.dtype).bits if jnp.issubdtype(leaf.dtype, jnp.floating) else 32
    unsigned = {4: jnp.uint4, 8: jnp.uint8, 16: jnp.uint16}.get(width, jnp.uint32)
    return jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)


def _digest(state: State) -> list[int]:
    """A number for each leaf that changes with any bit of it: storage flips bits that no reader notices."""
    with jax.enable_x64(True):  # lest a leaf of 64 bits is cut to 32 on its way
        return [int(number) for number in jax.device_get(_fingerprint(jax.tree.leaves(state)))]


def _arrays(state: State) -> dict[str, str]:
    """Dtype and shape of each leaf by its name, such as `.params[0]['kernel']: float32 [3, 3, 64, 128]`."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): f"{leaf.dtype} {list(np.shape(leaf))}" for path, leaf in leaves}


_CUT = {"float64": "float32", "int64": "int32", "uint64": "uint32", "complex128": "complex64"}
"""What a program that does not know 64 bits makes of them."""


def _cut(state: State, found: State) -> State:
    """The shapes and dtypes of `state`, of 32 bits where those of `found` are."""

    def leaf(saved: Any, read: Any) -> jax.ShapeDtypeStruct:
        cut = _CUT.get(str(saved.dtype)) == str(read.dtype)
        return jax.ShapeDtypeStruct(np.shape(saved), read.dtype if cut else saved.dtype)

    return jax.tree.map(leaf, state, found)


def _line(error: BaseException) -> str:
    """The first line of what went wrong, cut where it turns into a dump."""
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text.split("[tensorstore_spec")[0].strip()[:300]


def _free_name(folder: Path, name: str) -> Path:
    """`folder/name`, or `folder/name.1` and so on where that is taken."""
    folder.mkdir(parents=True, exist_ok=True)
    candidates = [folder / name, *(folder / f"{name}.{number}" for number in range(1, 1000))]
    return next(path for path in candidates if not path.exists())


def _load_own(path: Path, like: State) -> State:
    """This process's share of the arrays, without a barrier: one that cannot read must not keep the others waiting."""
    with _alone():
        return ocp.load(path, like)


def _alone() -> Any:
    """A context in which orbax waits for no other process."""
    context = ocp.Context()
    if count() > 1:
        context.multiprocessing.primary_host = index()
        context.multiprocessing.active_processes = {index()}
        context.multiprocessing.barrier_sync_key_prefix = f"process{index()}"
    return context


def _of_all(read: Callable[[], Any]) -> tuple[Any, str | None]:
    """What `read` gives in this process, and why it failed in the first of the processes in which it did."""
    value, reason = None, None
    try:
        with _quiet():
            value = read()
    except Exception as error:
        reason = _line(error)
    return value, next((reason for reason in gather(reason) if reason is not None), None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep orbax's own reports of a failure off the screen: the caller says it in one sentence.

    Where one array cannot be read or written, orbax closes the event loop under those that are on their way, and each
    of these complains about it when it is done. So the silence lasts until the last one is.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    disabled, hook = [logger.disabled for logger in loggers], sys.unraisablehook
    for logger in loggers:
        logger.disabled = True
    sys.unraisablehook = lambda _: None
    try:
        yield
    except Exception as error:
        _forget_frames(error)  # which keep alive what waits
        _await_orphans()
        raise
    finally:
        sys.unraisablehook = hook
        for logger, before in zip(loggers, disabled, strict=True):
            logger.disabled = before


def _forget_frames(error: BaseException) -> None:
    """Clear the variables of all frames that the error came through, and of what caused it."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__


def _await_orphans() -> None:
    """Wait until all that was being read or written is done, and has said so to an event loop that was closed."""
    done, told = time.monotonic() + _DONE_WITHIN, None
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # that a reader was never awaited
        while time.monotonic() < (done if told is None else told):
            gc.collect()
            alive = gc.get_objects()
            if told is None and all(one.done() for one in alive if isinstance(one, tensorstore.Future)):
                told = time.monotonic() + _TOLD_WITHIN
            tasks = [one for one in alive if isinstance(one, asyncio.Task) and one.get_loop().is_closed()]
            ended = [task for task in tasks if task.done()]
            for task in ended:
                if not task.cancelled():
                    task.exception()  # looked at: a task whose failure nobody saw complains when it is let go of
            if len(ended) == len(tasks):
                return
            del alive, tasks, ended
            time.sleep(0.01)


def describe(tree: State, shardings: Any) -> State:
    """`like` for `Checkpoints.restore`: shapes and dtypes of `tree`, placed as `shardings`."""

    def leaf(array: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(np.shape(array), array.dtype, sharding=sharding)

    return jax.tree.map(leaf, tree, shardings)
