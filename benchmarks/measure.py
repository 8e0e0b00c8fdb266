"""What a program costs: XLA's FLOPs and memory, which no load on the machine can move, and seconds, in pairs."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks.methods import Method, Nothing
from benchmarks.settings import Setting


@dataclass(frozen=True)
class Program:
    """A compiled function. `flops` counts a loop's body once; `memory` is what it needs at its peak, in bytes."""

    run: Callable[..., Any]
    flops: float
    memory: int
    temporaries: int
    compile_seconds: float


def compile_program(function: Callable[..., Any], *args: Any) -> Program:
    """`function` compiled for `args`, which may be shapes.

    memory = arguments + outputs + temporaries - what outputs share with arguments, as XLA has assigned them.
    """
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*args).compile()
    seconds = time.perf_counter() - start
    sizes: Any = compiled.memory_analysis()
    held = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    analysis: Any = compiled.cost_analysis()
    temporaries = sizes.temp_size_in_bytes
    return Program(compiled, float(analysis["flops"]), held + temporaries, temporaries, seconds)


def shapes(setting: Setting, batch_size: int | None = None) -> tuple[Any, ...]:
    """(params, x, y, key) of a setting as shapes, at another batch size if given."""
    args = (setting.params, setting.x, setting.y, jax.random.key(0))
    params, x, y, key = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), args)
    if batch_size is None:
        return params, x, y, key
    x, y = (jax.ShapeDtypeStruct((batch_size, *v.shape[1:]), v.dtype) for v in (x, y))
    return params, x, y, key


def total_flops(method: Method, program: Program, setting: Setting, args: tuple[Any, ...]) -> float:
    """The FLOPs of `program`, that of `method`, with its loop counted as often as it runs.

    XLA counts a loop's body once. For a sweep the body is what one more sweep before the loop adds. An even/odd
    iteration on all layers is what a program with such a loop has more than one without any equilibration.
    """
    K = method.iterations
    if method.traversal == "sweep":
        before = 1
        count = partial(_loop_flops, replace(method, iterations=5), setting, args)
        body = (lambda: count(unroll=2) - count(unroll=1)) if K > 2 else None
    else:
        before = (len(setting.net) + 1) // 2 if method.skip_unreached else 0
        count = partial(_loop_flops, replace(method, iterations=5, skip_unreached=False), setting, args)
        rest = partial(compile_program, method.build(setting.net, equilibration=Nothing()), *args)
        body = (lambda: count() - rest().flops) if before + 1 < K else None
    return program.flops if body is None else program.flops + (K - before - 1) * body()


def _loop_flops(method: Method, setting: Setting, args: tuple[Any, ...], **options: Any) -> float:
    function = method.build(setting.net, equilibration=method.equilibration(**options))
    return compile_program(function, *args).flops


@dataclass(frozen=True)
class Times:
    """Medians over pairs: the ratio of elapsed and of processor seconds, the ratio's quartiles, and the seconds."""

    ratio: float
    quartiles: tuple[float, float]
    cpu_ratio: float
    seconds: float
    reference_seconds: float


def paired_times(
    function: Callable[[], Any], reference: Callable[[], Any], repeats: int, least_seconds: float = 0.2
) -> Times:
    """Runs the two in turn, changing who goes first, `repeats` times after one run of each that does not count.

    Where the reference takes less than `least_seconds`, each is run as often in a row as fills that time.
    """
    jax.block_until_ready(function())
    reference_run = _clock(reference, 1)[0]
    count = max(1, round(least_seconds / reference_run))
    pairs = []
    for i in range(repeats):
        order = (function, reference) if i % 2 else (reference, function)
        seconds = {f: _clock(f, count) for f in order}
        pairs.append((seconds[function], seconds[reference]))
    times = np.array(pairs)  # [repeat, function or reference, elapsed or processor]
    ratios = times[:, 0] / times[:, 1]
    low, high = np.percentile(ratios[:, 0], (25, 75))
    elapsed = np.median(times[:, :, 0], axis=0)
    return Times(
        float(np.median(ratios[:, 0])),
        (float(low), float(high)),
        float(np.median(ratios[:, 1])),
        float(elapsed[0]),
        float(elapsed[1]),
    )


def _clock(function: Callable[[], Any], count: int) -> tuple[float, float]:
    elapsed, processor = time.perf_counter(), time.process_time()
    for _ in range(count):
        jax.block_until_ready(function())
    return (time.perf_counter() - elapsed) / count, (time.process_time() - processor) / count
