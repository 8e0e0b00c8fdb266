"""The measurement of one step on one network, in whatever environment the step lives: needs jax and numpy alone.

A case is a file: specs of layers, their weights, a batch of images with labels. An adapter is a file with
`steps(case)`, a dictionary of functions (weights, x, y) -> gradients in the layout of the weights; it raises ValueError
with a sentence where it cannot express the network. Each function is held against `jax.grad` of the same network and
the mean cross-entropy, written plainly: FLOPs, temporaries, seconds in turn, cosines. An adapter of another framework
has `rows(case, repeats, harness)` instead.

    python -P harness.py ADAPTER CASE REPEATS        writes rows to the standard output, as JSON in its last line
"""

import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Weights = list[list[Any]]
Step = Callable[[Weights, Any, Any], Weights]
LEAST_SECONDS = 0.1


@dataclass(frozen=True, eq=False)
class Case:
    """Layers: kind (conv, dense, block), relu, pool. Weights: [kernel, bias] of each, of a block [V, c, W, b].

    x: [B, ...] float32, channels last; y: [B, classes] float32, one-hot.
    """

    name: str
    layers: list[dict[str, Any]]
    weights: Weights
    x: Any
    y: Any

    def save(self, path: Path) -> None:
        """To an .npz."""
        arrays = {f"{k}.{j}": w for k, ws in enumerate(self.weights) for j, w in enumerate(ws)}
        np.savez(path, x=self.x, y=self.y, about=json.dumps([self.name, self.layers]), **arrays)

    @classmethod
    def load(cls, path: Path) -> "Case":
        """What `save` wrote."""
        with np.load(path) as file:
            name, layers = json.loads(str(file["about"]))
            count = [4 if layer["kind"] == "block" else 2 for layer in layers]
            weights = [[jnp.asarray(file[f"{k}.{j}"]) for j in range(n)] for k, n in enumerate(count)]
            return cls(name, layers, weights, jnp.asarray(file["x"]), jnp.asarray(file["y"]))

    def layer(self, k: int, w: list[Any], h: Any) -> Any:
        """Layer k of one example: h without a batch."""
        return apply(self.layers[k], w, h[None])[0]


def apply(layer: dict[str, Any], w: list[Any], h: Any) -> Any:
    """h_{k+1} = phi(pool(w * h) + b), phi(W h + b), or h + W relu(V h + c) + b."""
    if layer["kind"] == "conv":
        a = jax.lax.conv_general_dilated(h, w[0], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        if layer["pool"]:
            a = jax.lax.reduce_window(a, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        a = a + w[1].reshape(1, 1, 1, -1)
    elif layer["kind"] == "block":
        a = h + jax.nn.relu(h @ w[0] + w[1][None]) @ w[2] + w[3][None]
    else:
        a = h.reshape(len(h), -1) @ w[0] + w[1][None]
    return jax.nn.relu(a) if layer["relu"] else a


def backpropagation(case: Case) -> Step:
    """The gradient of the mean cross-entropy by `jax.grad`."""

    def loss(weights: Weights, x: Any, y: Any) -> Any:
        for layer, w in zip(case.layers, weights, strict=True):
            x = apply(layer, w, x)
        return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(x), axis=-1))

    return jax.grad(loss)


def measure(case: Case, steps: dict[str, Step], repeats: int) -> list[dict[str, Any]]:
    """A row for each step."""
    args = (case.weights, case.x, case.y)
    reference, _, work, held = compiled(backpropagation(case), args)
    gradient, rows = reference(*args), []
    for name, step in steps.items():
        program, seconds, flops, temporaries = compiled(step, args)
        extra = getattr(step, "uncounted", None)  # what loops do beyond the one time that XLA counts
        pairs = in_turn(lambda p=program: p(*args), lambda: reference(*args), repeats)  # type: ignore[misc]
        rows.append(
            {
                "method": name,
                "flops_over_backprop": (flops + (extra() if extra else 0.0)) / work,
                "seconds_over_backprop": statistics.median(a / b for a, b in pairs),
                "least_seconds_over_backprop": min(a for a, _ in pairs) / min(b for _, b in pairs),
                "temporaries_over_backprop": temporaries / max(held, 1),
                "compile_seconds": seconds,
                **cosines(program(*args), gradient),
            }
        )
    return rows


def compiled(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, float, float, int]:
    """The program, seconds to trace and compile it, XLA's FLOPs (a loop's body once), bytes of temporaries."""
    start = time.perf_counter()
    program = jax.jit(function).lower(*args).compile()
    seconds = time.perf_counter() - start
    counted: Any = program.cost_analysis()
    counted = counted[0] if isinstance(counted, list) else counted  # a list before jax 0.6
    memory: Any = program.memory_analysis()
    return program, seconds, float(counted["flops"]), int(memory.temp_size_in_bytes)


def in_turn(one: Callable[[], Any], other: Callable[[], Any], repeats: int) -> list[tuple[float, float]]:
    """Seconds of both in pairs, changing who goes first, after one run of each; short ones several times in a row."""

    def clock(f: Callable[[], Any], count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            jax.block_until_ready(f())
        return (time.perf_counter() - start) / count

    clock(one, 1), clock(other, 1)
    counts = {f: max(1, round(LEAST_SECONDS / clock(f, 1))) for f in (one, other)}
    pairs = []
    for i in range(repeats):
        seconds = {f: clock(f, counts[f]) for f in ((one, other) if i % 2 else (other, one))}
        pairs.append((seconds[one], seconds[other]))
    return pairs


def cosines(gradient: Weights, reference: Weights) -> dict[str, float]:
    """Cosine of the whole and of the worst layer, in float64; 0 for a layer without any gradient."""
    sums = []
    for g, r in zip(gradient, reference, strict=True):
        a, b = (np.concatenate([np.asarray(v, np.float64).ravel() for v in vs]) for vs in (g, r))
        sums.append((a @ b, a @ a, b @ b))

    def cosine(s: Any) -> float:
        return float(s[0] / np.sqrt(s[1] * s[2])) if s[1] * s[2] > 0 else 0.0

    layers = [cosine(s) for s in sums]
    worst = int(np.argmin(layers))
    return {"cosine": cosine(np.sum(sums, axis=0)), "worst_layer_cosine": layers[worst], "worst_layer": worst + 1}


def adapter(path: Path) -> Any:
    """The file as a module that hides no other of its name."""
    spec = importlib.util.spec_from_file_location("adapter", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(argv: list[str]) -> None:
    """Rows of one adapter on one case; a network that it cannot express is a row that says so."""
    case, module, repeats = Case.load(Path(argv[1])), adapter(Path(argv[0])), int(argv[2])
    try:
        if hasattr(module, "rows"):
            rows = module.rows(case, repeats, sys.modules[__name__])
        else:
            rows = measure(case, module.steps(case), repeats)
    except ValueError as error:
        rows = [{"why": " ".join(str(error).split())}]
    print(json.dumps({"rows": rows, "framework": getattr(module, "FRAMEWORK", f"jax {jax.__version__}")}))


if __name__ == "__main__":
    main(sys.argv[1:])
