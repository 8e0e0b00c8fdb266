"""Checkpoints: what is saved comes back bit for bit, or a sentence says why not; nothing whole is ever lost.

Would catch: a save that sees the next step's numbers in a donated buffer, flipped bits that pass unnoticed,
a damaged checkpoint that stops the run or is overwritten, the best one thrown away, a resume under another
configuration.
"""

import asyncio
import errno
import gc
import os
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epjax.training import checkpoint, sharding
from epjax.training.checkpoint import Checkpoints, ConfigurationDiffers, _digest, describe, differences
from epjax.training.optimiser import sgd
from epjax.training.step import initial_state

CONFIG = {"beta": 0.05, "width": 0.25, "mean": (0.5, 0.25)}


def make_state(seed=0, step=0):
    random = np.random.default_rng(seed)
    params = ({"kernel": jnp.asarray(random.normal(size=(128, 256)), jnp.float32)}, {"bias": jnp.zeros(5)})
    state = initial_state(params, sgd(0.1))
    return type(state)(state.params, state.opt_state, jnp.int32(step))


def like(state, mesh=None):
    mesh = mesh or sharding.make_mesh(devices=jax.devices()[:1])
    return describe(state, sharding.state_shardings(mesh, state))


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.fixture
def no_room():
    """A limit on the size of files, which fails a write like a full disk does."""

    @contextmanager
    def limit():
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


def save_steps(folder, steps, **options):
    checkpoints = Checkpoints(folder, CONFIG, **options)
    for step in steps:
        checkpoints.save(step, make_state(step, step), extra={"seconds": 0.1 * step})
    checkpoints.close()


def test_state_config_and_extra_come_back(folder):
    assert Checkpoints(folder, CONFIG).restore(like(make_state())) is None
    save_steps(folder, [7])
    restored = Checkpoints(folder, CONFIG).restore(like(make_state()))
    assert (restored.step, restored.extra) == (7, {"seconds": 0.1 * 7})
    assert_same(restored.state, make_state(7, 7))


def test_a_donated_buffer_is_saved_as_it_was(folder):
    step = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    state = step({"w": jnp.zeros((1500, 1500)), "step": jnp.int32(0)})
    checkpoints = Checkpoints(folder, CONFIG, keep=5)
    for number in range(4):
        checkpoints.save(number, state)
        for _ in range(3):
            state = step(state)
    checkpoints.wait()
    restored = checkpoints.restore(like(state))
    np.testing.assert_array_equal(restored.state["w"], np.full((1500, 1500), 10.0))
    checkpoints.close()


def test_notes_are_saved_as_they_were(folder):
    checkpoints, extra = Checkpoints(folder, CONFIG), {"sums": {"steps": 0}}
    for step in range(3):
        extra["sums"]["steps"] = step
        checkpoints.save(step, make_state(), extra=extra)
        extra["sums"]["steps"] = 100
    checkpoints.wait()
    assert checkpoints.restore(like(make_state())).extra == {"sums": {"steps": 2}}
    checkpoints.close()


def test_the_last_and_the_best_are_kept(folder):
    checkpoints = Checkpoints(folder, CONFIG, keep=2)
    for step, error in ((1, 60.0), (2, 30.0), (3, 50.0), (4, None), (5, 40.0), (6, 31.0)):
        checkpoints.save(step, make_state(step, step), metric=error)
    checkpoints.wait()
    assert checkpoints.steps == [2, 5, 6]
    assert checkpoints.best_step == 2
    checkpoints.save(6, make_state(99, 6))  # a step that has its checkpoint keeps it
    assert_same(checkpoints.restore(like(make_state())).state, make_state(6, 6))
    checkpoints.close()


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_restore_onto_another_mesh(folder):
    state = make_state(3)
    divided = jax.device_put(state, sharding.state_shardings(sharding.make_mesh(4), state))
    checkpoints = Checkpoints(folder, CONFIG)
    checkpoints.save(1, divided)
    checkpoints.close()
    for mesh in (sharding.make_mesh(2), sharding.make_mesh(devices=jax.devices()[:1])):
        restored = Checkpoints(folder, CONFIG).restore(like(state, mesh)).state
        assert_same(restored, state)
        kernel = restored.params[0]["kernel"]
        assert kernel.sharding == sharding.parameter_sharding(mesh, kernel.shape)


def test_another_configuration_is_refused_by_field(folder):
    save_steps(folder, [1])
    changed = {**CONFIG, "beta": 0.1, "gain": 2.0}
    with pytest.raises(ConfigurationDiffers, match=r"beta was 0.05, is 0.1; gain was not set, is 2.0"):
        Checkpoints(folder, changed).restore(like(make_state()))
    assert Checkpoints(folder, CONFIG).steps == [1]


def test_differences_of_equal_configurations():
    assert differences(CONFIG, dict(CONFIG)) == []


def payload(folder, step):
    """The largest file of a checkpoint: its arrays."""
    return max((f for f in (folder / str(step)).rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def cut(path: Path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink], ids=["cut", "flip", "missing"])
@pytest.mark.parametrize("what", ["arrays", "notes"])
def test_a_damaged_newest_checkpoint_falls_back(folder, damage, what, capfd):
    save_steps(folder, [1, 2, 3])
    damage(payload(folder, 3) if what == "arrays" else folder / "3" / "_CHECKPOINT_METADATA")

    def resume():
        checkpoints = Checkpoints(folder, CONFIG)
        return checkpoints, checkpoints.restore(like(make_state()))

    with pytest.warns(UserWarning, match="the checkpoint of step 3 is damaged, going on"):
        checkpoints, restored = resume()
    assert restored.step == 2
    assert_same(restored.state, make_state(2, 2))
    assert "Traceback" not in capfd.readouterr().err
    assert (folder.parent / "damaged" / "3").is_dir()
    checkpoints.save(3, make_state(3, 3))  # its place is free again
    checkpoints.wait()
    assert_same(checkpoints.restore(like(make_state())).state, make_state(3, 3))
    checkpoints.close()


FLOATS = ["float16", "bfloat16", "float32", "float64", "complex64", "complex128", "float8_e4m3fn", "float4_e2m1fn"]
INTEGERS = ["bool", "int4", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
WIDTH = {"bool": 1, "int4": 4, "float4_e2m1fn": 4}
"""Bits of an element that does not fill its bytes."""


@pytest.mark.parametrize("flag", [False, True], ids=["x64 off", "x64 on"])
@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS])
def test_a_flipped_bit_anywhere_is_noticed(dtype, flag):
    """Of arrays of NumPy: those of jax that have 64 bits are made of these."""
    random, kind = np.random.default_rng(0), jnp.dtype(dtype)
    array = random.integers(0, 2, (2, 3)).astype(kind) if dtype in INTEGERS else random.uniform(-1, 1, (2, 3))
    array = np.ascontiguousarray(array.astype(kind))
    seen, raw = set(), array.view(np.uint8).reshape(array.size, -1)
    with jax.enable_x64(flag):
        for element in range(array.size):
            for bit in range(WIDTH.get(dtype, 8 * array.itemsize)):
                flipped = raw.copy()
                flipped[element, bit // 8] ^= 1 << bit % 8
                seen.add(*_digest([flipped.reshape(-1).view(kind).reshape(array.shape)]))
        assert _digest([array])[0] not in seen
    assert len(seen) > 1


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint32"])
def test_the_fingerprint_of_what_older_versions_saved_stays(dtype):
    """sum_i (2 i + 1) bits_i modulo 2^32."""
    array = np.random.default_rng(1).normal(size=(3, 4, 5)).astype(dtype)
    bits = array.view(np.uint32).reshape(-1).astype(object)
    assert _digest([jnp.asarray(array)]) == [sum((2 * i + 1) * b for i, b in enumerate(bits)) % 2**32]


@pytest.fixture
def x64_everywhere():
    """Also in the threads in which orbax reads."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def test_a_state_of_every_width_comes_back(folder, x64_everywhere):
    state = {name: jnp.asarray([0.25, -0.5], name) for name in ("float64", "bfloat16", "float16", "complex64")}
    state |= {name: jnp.asarray([0, 1], name) for name in ("bool", "int8", "uint8", "int64")}
    checkpoints = Checkpoints(folder, CONFIG)
    checkpoints.save(1, state)
    checkpoints.wait()
    assert_same(checkpoints.restore(like(state)).state, state)
    checkpoints.close()


def test_arrays_that_would_be_cut_to_32_bits_are_refused(folder, x64):
    checkpoints, state = Checkpoints(folder, CONFIG), {"w": jnp.asarray([0.1])}
    checkpoints.save(1, state)
    checkpoints.wait()
    with pytest.raises(ValueError, match=r"step 1 in .* need JAX_ENABLE_X64=1 to be read: \['w'\] was float64"):
        checkpoints.restore(like(state))
    assert checkpoints.steps == [1]
    checkpoints.close()


def test_where_nothing_is_readable_nothing_is_touched(folder):
    save_steps(folder, [1, 2])
    for step in (1, 2):
        cut(payload(folder, step))
    checkpoints = Checkpoints(folder, CONFIG)
    with pytest.raises(OSError, match=r"no checkpoint in .* can be read, newest is step 2"):
        checkpoints.restore(like(make_state()))
    assert checkpoints.steps == [1, 2]
    assert not (folder.parent / "damaged").exists()


@pytest.mark.parametrize("other", ["wider", "narrower", "deeper"])
def test_a_checkpoint_of_another_network_is_refused_and_not_touched(folder, other):
    """Of the same configuration, by a library that builds another network from it: no array is cut or padded to fit."""
    save_steps(folder, [1, 2])
    kernel, bias = jnp.zeros((128, {"wider": 300, "narrower": 200, "deeper": 256}[other])), jnp.zeros(5)
    message = r"step 2 in .* is of another network: .*params\[2\]\['kernel'\] was not set, is float32 \[5\]"
    if other != "deeper":
        message = rf"params\[0\]\['kernel'\] was float32 \[128, 256\], is float32 \[128, {kernel.shape[1]}\]"
    params = ({"kernel": kernel}, {"bias": bias}, *([{"kernel": bias}] if other == "deeper" else []))
    checkpoints = Checkpoints(folder, CONFIG)
    with pytest.raises(ConfigurationDiffers, match=message):
        checkpoints.restore(like(initial_state(params, sgd(0.1))))
    assert checkpoints.steps == [1, 2]
    assert_same(checkpoints.restore(like(make_state())).state, make_state(2, 2))
    checkpoints.close()


def test_what_a_killed_save_left_behind_is_not_a_checkpoint(folder):
    save_steps(folder, [1])
    leftover = folder / "2.orbax-checkpoint-tmp"
    leftover.mkdir()
    (leftover / "half").write_bytes(b"x")
    checkpoints = Checkpoints(folder, CONFIG)
    assert checkpoints.steps == [1]
    assert not leftover.exists()
    checkpoints.close()


def test_a_full_disk_is_one_sentence_and_loses_nothing(folder, no_room):
    save_steps(folder, [1])
    checkpoints = Checkpoints(folder, CONFIG)

    def save_and_wait():
        checkpoints.save(2, make_state(2, 2))
        checkpoints.wait()

    with no_room(), pytest.raises(OSError, match=r"could not write the checkpoint of step 2 to .*: \w+"):
        save_and_wait()
    checkpoints.close()
    again = Checkpoints(folder, CONFIG)
    assert again.steps == [1]
    assert_same(again.restore(like(make_state())).state, make_state(1, 1))
    again.save(2, make_state(2, 2))  # there is room again
    again.wait()
    assert again.steps == [1, 2]
    again.close()


PATHS = [
    "two words",
    "über 漢字",
    "line\nbreak",
    "-dash",
    "#1",
    "a%20b",
    "quote'\"",
    "$HOME",
    "~",
    "a:b",
    "a|b,{c}",
    "x" * 255,
]
PATTERNS = ["[a]", "a*", "a?", "a\\b", "lr=[1e-3]"]


@pytest.mark.parametrize("name", PATHS, ids=lambda name: ascii(name)[:20])
def test_every_path_keeps_checkpoints(folder, name):
    save_steps(folder.parent / name / "checkpoints", [1])
    again = Checkpoints(folder.parent / name / "checkpoints", CONFIG)
    assert_same(again.restore(like(make_state())).state, make_state(1, 1))
    again.close()
    assert [path.name for path in (folder.parent / name / "checkpoints").iterdir()] == ["1"]


@pytest.mark.parametrize("name", PATTERNS)
def test_a_path_that_is_taken_for_a_pattern_is_refused(folder, name):
    with pytest.raises(ValueError, match=r"orbax takes [*?\\\[] in a path for a pattern; give another workdir"):
        Checkpoints(folder.parent / name, CONFIG)
    assert not list(folder.parent.iterdir())


def test_a_folder_that_gives_back_other_numbers_is_refused_at_once(folder, monkeypatch):
    monkeypatch.setattr("epjax.training.checkpoint.ocp.load", lambda *_: {"numbers": np.zeros(3)})
    with pytest.raises(OSError, match=r"cannot be kept in .*, where a trial failed: other numbers came back; give"):
        Checkpoints(folder, CONFIG)
    assert not list(folder.iterdir())


def test_the_first_checkpoint_is_read_back_before_the_run_goes_on(folder, monkeypatch):
    checkpoints, loads = Checkpoints(folder, CONFIG), []
    load = checkpoint._load_own
    monkeypatch.setattr(checkpoint, "_load_own", lambda path, like: loads.append(path.name) or load(path, like))
    for step in (1, 2):
        checkpoints.save(step, make_state(step, step))
    checkpoints.close()
    assert loads == ["1"]
    again = Checkpoints(folder, CONFIG)
    again.restore(like(make_state()))
    again.save(3, make_state(3, 3))  # what went on from a checkpoint has read one
    again.close()
    assert loads == ["1", "2"]


def test_a_first_checkpoint_that_cannot_be_read_back_is_one_sentence(folder, monkeypatch):
    checkpoints = Checkpoints(folder, CONFIG)
    monkeypatch.setattr(checkpoint, "_load_own", lambda path, like: make_state(9))
    with pytest.raises(OSError, match=r"step 1 in .* was written and cannot be read: other arrays came back"):
        checkpoints.save(1, make_state(1, 1))
    checkpoints.close()


@pytest.mark.parametrize("how", ["renamed", "removed", "another in its place"])
def test_a_folder_that_is_gone_while_the_run_goes_on(folder, tmp_path, how):
    """orbax would make it anew: the run would lie in two places, or be saved where nobody looks."""
    checkpoints = Checkpoints(folder, CONFIG)
    checkpoints.save(1, make_state(1, 1))
    checkpoints.wait()
    shutil.rmtree(folder) if how == "removed" else folder.rename(tmp_path / "moved")
    if how == "another in its place":
        folder.mkdir()
    with pytest.raises(OSError, match=r"step 2: .* was removed, renamed or unmounted while the run went on"):
        checkpoints.save(2, make_state(2, 2))
    checkpoints.close()
    assert not folder.exists() or not list(folder.iterdir())
    if how != "removed":
        assert_same(Checkpoints(tmp_path / "moved", CONFIG).restore(like(make_state())).state, make_state(1, 1))


@pytest.mark.parametrize("number", [errno.EROFS, errno.EDQUOT, errno.ENOSPC, errno.EIO, errno.ESTALE])
def test_a_disk_that_refuses_is_one_sentence(folder, monkeypatch, number):
    save_steps(folder, [1])
    checkpoints = Checkpoints(folder, CONFIG)

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checkpoints._manager, "save_async", refuse)
    with pytest.raises(OSError, match=f"could not write the checkpoint of step 2 to .*{os.strerror(number)}"):
        checkpoints.save(2, make_state(2, 2))
    assert_same(checkpoints.restore(like(make_state())).state, make_state(1, 1))
    checkpoints.close()


def test_what_orbax_left_on_its_way_complains_to_nobody(caplog):
    """A reader of another array fails as its event loop goes, and is let go of long after the sentence was said."""

    async def fail():
        raise ValueError("another array is damaged as well")

    async def read():
        kept.append(asyncio.get_running_loop().create_task(fail()))
        await asyncio.wait(kept)

    def damaged():
        loop = asyncio.new_event_loop()
        loop.run_until_complete(read())
        loop.close()
        raise OSError("damaged")

    kept = []
    with pytest.raises(OSError, match="damaged"), checkpoint._quiet():
        damaged()
    kept.clear()
    gc.collect()
    assert not caplog.records


def test_keep_must_be_positive(folder):
    with pytest.raises(ValueError, match="keep must be at least 1, but is 0"):
        Checkpoints(folder, CONFIG, keep=0)
