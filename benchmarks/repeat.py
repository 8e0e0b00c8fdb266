"""Runs of equal residual blocks, 16 to 1,024 of them: stacked and scanned (`epjax.Repeat`), and block by block.

A block is h + W phi(V h), of dense layers with GELU or of 3x3 convolutions with ReLU; W is drawn with variance 1 / n,
so that signals keep their size through n blocks. muPC's is h + W phi(h) with that paper's scalings
(`epjax.models.residual_mlp`). Compile seconds are of this machine, tracing included. XLA counts a loop's body once:
FLOPs are what programs of two lengths have outside of their loops, and n bodies. Fidelity is the cosine with `jax.grad`
in float32, of every block by itself, and in bfloat16 beside backpropagation's own.
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
from jax import Array

from benchmarks.draw import BACKPROPAGATION, CENTERED, LIGHT, ONE_SIDED, dress, figure, save, ticks
from benchmarks.fidelity import compare
from benchmarks.loops import by_layer, flops_of
from benchmarks.measure import Program, compile_program, paired_times
from benchmarks.methods import Method, backprop
from benchmarks.progress import told
from benchmarks.rows import Row, Table, Target, at_least, at_most, find
from benchmarks.settings import Setting, at_initialisation
from epjax import Layer, Network, Repeat
from epjax.models import residual_mlp
from epjax.network.activation import identity
from epjax.network.drive import Dense

NAME = "repeat"
COLUMNS = (
    *("network", "blocks", "stacked", "name", "precision", "beta", "batch_size", "compile_seconds"),
    *("compile_over_backprop", "flops_over_backprop", "seconds_over_backprop", "memory_over_backprop"),
    *("cosine", "worst_layer_cosine", "repeats"),
)

BLOCKS, UNROLLED = (16, 64, 256, 1024), (16,)
BETA, BATCH, SIZE = 1e-4, 32, 8
WIDTH, CHANNELS = 64, 8
METHODS = (Method(), Method(scheme="random"))


class DenseBlock(nn.Module):
    """h + W gelu(V h)."""

    blocks: int

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """[B, features] -> the same."""
        small = nn.initializers.variance_scaling(1 / self.blocks, "fan_in", "normal")
        return h + nn.Dense(h.shape[-1], kernel_init=small)(nn.gelu(nn.Dense(h.shape[-1])(h)))


class ConvBlock(nn.Module):
    """h + W * relu(V * h)."""

    blocks: int

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """[B, H, W, C] -> the same."""
        small = nn.initializers.variance_scaling(2 / self.blocks, "fan_in", "normal")
        y = nn.relu(nn.Conv(h.shape[-1], (3, 3))(h))
        return h + nn.Conv(h.shape[-1], (3, 3), kernel_init=small)(y)


FIRST: dict[str, Callable[[], nn.Module]] = {"MLP": lambda: Dense(WIDTH), "conv": lambda: nn.Conv(CHANNELS, (3, 3))}
BLOCK: dict[str, Callable[[int], nn.Module]] = {"MLP": DenseBlock, "conv": ConvBlock}
MUPC = "muPC"
KINDS = (*FIRST, MUPC)
STATES = {MUPC: "muPC"}


def network(kind: str, n: int, stacked: bool) -> Network:
    """A first layer, n blocks, a dense output; n = 0 leaves the blocks out."""
    if kind == MUPC:
        return residual_mlp(WIDTH, n + 2, 10, scaling="mupc", stacked=stacked)
    blocks = [Layer(BLOCK[kind](n), identity) for _ in range(1 if stacked else n)]
    run: list[Layer | Repeat] = [Repeat(blocks[0], n)] if stacked and n else [*blocks] if n else []
    return Network((Layer(FIRST[kind](), identity), *run, Layer(Dense(10), identity)))


def run(quick: bool) -> list[Row]:
    """Both networks at every depth, stacked; block by block where that is feasible."""
    depths, unrolled = ((4, 8), (4,)) if quick else (BLOCKS, UNROLLED)
    return told(row for kind in KINDS for n in depths for row in _depth(kind, n, n in unrolled, quick))


def _depth(kind: str, n: int, unrolled: bool, quick: bool) -> Iterator[Row]:
    for stacked in (True, False) if unrolled else (True,):
        yield from _rows(kind, n, stacked, repeats=2 if quick else 5)
        jax.clear_caches()


def setting(kind: str, n: int, stacked: bool) -> Setting:
    """The network on real images; classes are taken modulo 10."""
    s = at_initialisation(
        kind, network(kind, n, stacked), "imagenet", SIZE, BATCH, STATES.get(kind, "W of variance 1 / n")
    )
    return Setting(s.network, s.state, s.net, s.params, s.x, s.y % 10, s.data)


def _rows(kind: str, n: int, stacked: bool, repeats: int) -> Iterator[Row]:
    s = setting(kind, n, stacked)
    args = (s.params, s.x, s.y, jax.random.key(0))
    reference = compile_program(backprop(s.net), *args)
    work, gradient = _flops(kind, n, stacked, None, reference), by_layer(reference.run(*args)[1])
    shared = {**s.row(), "blocks": n, "stacked": stacked, "layers_count": s.net.depth, "beta": None, "repeats": 1}
    alone = {"seconds_over_backprop": 1.0, "memory_over_backprop": 1.0, "flops_over_backprop": 1.0}
    alone |= {"compile_seconds": reference.compile_seconds, "compile_over_backprop": 1.0}
    yield {**shared, **alone, "name": "backpropagation", "precision": "float32", **compare(gradient, gradient)}
    for method in METHODS:
        program = compile_program(method.build(s.net, BETA), *args)
        times = paired_times(lambda p=program: p.run(*args), lambda: reference.run(*args), repeats)  # type: ignore[misc]
        yield {
            **shared,
            **method.row(),
            "beta": BETA,
            "compile_seconds": program.compile_seconds,
            "compile_over_backprop": program.compile_seconds / reference.compile_seconds,
            "flops_over_backprop": _flops(kind, n, stacked, method, program) / work,
            "seconds_over_backprop": times.ratio,
            "memory_over_backprop": program.memory / reference.memory,
            "repeats": repeats,
            **compare(by_layer(program.run(*args)[1]), gradient),
        }
    if not stacked:
        return
    rounded = Method(precision="bfloat16")
    found = by_layer(jax.jit(backprop(s.net, "bfloat16"))(*args)[1])
    costs = dict.fromkeys(("compile_seconds", *(f"{name}_over_backprop" for name in ("compile", *QUANTITIES))))
    yield {**shared, **costs, "name": "backpropagation", "precision": "bfloat16", **compare(found, gradient)}
    found = by_layer(jax.jit(rounded.build(s.net, BETA))(*args)[1])
    same = {"name": rounded.name, "precision": "bfloat16", "beta": BETA}
    yield {**shared, **costs, **same, **compare(found, gradient)}


QUANTITIES = ("flops", "seconds", "memory")


def _flops(kind: str, n: int, stacked: bool, method: Method | None, program: Program) -> float:
    """Of n blocks: what the program has beside its loops grows with n, what it has in them is counted once."""
    if not stacked:
        return program.flops
    return flops_of(n, lambda blocks: _counted(kind, blocks, method))


@cache
def _counted(kind: str, n: int, method: Method | None) -> float:
    """XLA's count for a run of n, each loop's body once."""
    net = network(kind, n, stacked=True)
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), (SIZE, SIZE, 3)))
    x, y = jax.ShapeDtypeStruct((BATCH, SIZE, SIZE, 3), np.float32), jax.ShapeDtypeStruct((BATCH,), np.int32)
    function = backprop(net) if method is None else method.build(net, BETA)
    return compile_program(function, params, x, y, jax.random.key(0)).flops


def targets(rows: list[Row]) -> list[Target]:
    """What deep networks are to cost, stacked; judged on the full range of depths."""
    found: list[Target] = []
    if {row["blocks"] for row in rows} != set(BLOCKS):
        return found
    for kind in KINDS:
        line = find(rows, network=kind, stacked=True)
        (shallow,), (deep,) = (find(line, blocks=n, name=Method().name, precision="float32") for n in (16, 256))
        grows = deep["compile_seconds"] / shallow["compile_seconds"]
        found.append(at_most(f"{kind}: compile seconds at 256 blocks over 16, centered", grows, 2))
        over = deep["compile_over_backprop"]
        found.append(at_most(f"{kind}: compile seconds over backpropagation, 256 blocks, centered", over, 3))
        for method, limit in zip(METHODS, (1.8, 1.5), strict=True):
            each = find(line, name=method.name, precision="float32")
            most = max(row["flops_over_backprop"] for row in each)
            found.append(at_most(f"{kind}: FLOPs over backpropagation, {method.scheme}, every depth", most, limit))
        (deepest,) = find(line, blocks=1024, name=Method().name, precision="float32")
        title = f"{kind}: worst layer, cosine, centered, 1,024 blocks"
        found.append(at_least(title, deepest["worst_layer_cosine"], 0.9999))
        bp, ep = (
            find(line, blocks=1024, name=name, precision="bfloat16")[0]["worst_layer_cosine"]
            for name in ("backpropagation", Method().name)
        )
        title = f"{kind}: worst layer in bfloat16, 1 - cosine over backpropagation's, 1,024 blocks"
        found.append(at_most(title, (1 - ep) / (1 - bp), 1.1))
        memory = max(row["memory_over_backprop"] for row in find(line, name=Method().name, precision="float32"))
        found.append(at_most(f"{kind}: memory over backpropagation, centered, every depth", memory, 1.3))
    return found


def tables(rows: list[Row]) -> list[Table]:
    """Cost with fidelity in float32; then bfloat16."""
    half = find(rows, precision="bfloat16")
    less = ("network", "blocks", "name", "cosine", "worst_layer_cosine", "beta", "batch_size")
    cost = [Table("Cost and fidelity, float32", COLUMNS, find(rows, precision="float32"))]
    return [*cost, Table("Gradients in bfloat16 beside float32", less, half)]


def draw(rows: list[Row], path: Path) -> None:
    """Compile seconds, FLOPs and the worst block over depth; a row of panels for each network."""
    first = rows[0]
    what = f"residual blocks, batch {first['batch_size']}, beta {BETA:g}, {first['data']}; dotted: block by block"
    fig, axes = figure("Stacked blocks compile in the same time at any depth", what, (3, 3), (14.0, 12.6))
    for kind, (compile_, flops, worst) in zip(KINDS, axes, strict=True):
        for name, label, colour in (
            ("backpropagation", "backpropagation", BACKPROPAGATION),
            (METHODS[0].name, "one sweep, centered", CENTERED),
            (METHODS[1].name, "one sweep, random sign", ONE_SIDED),
        ):
            drawn = "--" if name == "backpropagation" else "-"
            for stacked, style in ((True, drawn), (False, ":")):
                line = find(rows, network=kind, name=name, precision="float32", stacked=stacked)
                depths = [row["blocks"] for row in line]
                options = {"color": colour, "linestyle": style, "marker": "o", "markersize": 3.5}
                options |= {"label": label} if stacked else {}
                compile_.plot(depths, [row["compile_seconds"] for row in line], **options)
                flops.plot(depths, [row["flops_over_backprop"] for row in line], **options)
                if name != "backpropagation":
                    worst.plot(depths, [1 - row["worst_layer_cosine"] for row in line], **options)
        for name, label, colour, style in (
            ("backpropagation", "backpropagation, bfloat16", BACKPROPAGATION, "--"),
            (METHODS[0].name, "one sweep, bfloat16", LIGHT, "-"),
        ):
            line = find(rows, network=kind, name=name, precision="bfloat16")
            options = {"color": colour, "linestyle": style, "label": label}
            worst.plot([row["blocks"] for row in line], [1 - row["worst_layer_cosine"] for row in line], **options)
        compile_.set(xscale="log", ylim=(0, None))
        flops.set(xscale="log", ylim=(0, None))
        worst.set(xscale="log", yscale="log")
        dress(compile_, f"{kind}: compile seconds", "blocks", "seconds")
        dress(flops, f"{kind}: FLOPs", "blocks", "multiple of backpropagation")
        dress(worst, f"{kind}: worst layer", "blocks", "1 - cosine with float32 backpropagation")
        for ax in (compile_, flops, worst):
            ticks(ax, sorted({row["blocks"] for row in rows}))
    save(fig, path)
