"""A cell that trains a small causal transformer on the characters of a text: random windows, AdamW."""

import gzip
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import epjax
from epjax.network.summary import count
from experiments.reproduce.cell import Result

FILE = "tinyshakespeare.txt.gz"
Gradient = Literal["EP one-sided", "EP centered", "backpropagation"]


@dataclass(frozen=True)
class Writer:
    """The model and its training."""

    length: int = 64
    features: int = 64
    depth: int = 2
    heads: int = 4
    steps: int = 1_500
    batch_size: int = 16
    learning_rate: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.01
    beta: float = 5e-4
    windows: int = 256

    def model(self, vocab: int) -> epjax.Network:
        """A GPT whose attention and MLP blocks are layers."""
        return epjax.models.gpt(vocab, self.length, features=self.features, depth=self.depth, heads=self.heads)

    def optimiser(self) -> optax.GradientTransformation:
        """AdamW after a linear warm-up, with a cosine to a tenth."""
        peak = self.learning_rate
        rate = optax.warmup_cosine_decay_schedule(0.0, peak, self.warmup, self.steps, 0.1 * peak)
        return optax.adamw(rate, b2=0.99, weight_decay=self.weight_decay)

    def gradient(self, net: epjax.Network, name: Gradient) -> Any:
        """The estimator; one sweep."""
        if name == "backpropagation":
            return epjax.backprop_value_and_grad(net, "cross_entropy")
        scheme = "forward" if name == "EP one-sided" else "centered"
        sweep = epjax.Sweep(1, update="pgd")
        return epjax.value_and_grad(net, "cross_entropy", scheme=scheme, beta=self.beta, equilibration=sweep)


@dataclass(frozen=True)
class Text:
    """The cell."""

    place: Mapping[str, Any]
    writer: Writer
    gradient: Gradient
    seed: int

    def identity(self) -> dict[str, Any]:
        """All its options."""
        return asdict(self.writer) | {"gradient": self.gradient, "seed": self.seed, "text": FILE}

    def forwards(self) -> float:
        """Windows seen."""
        return float(self.writer.steps * self.writer.batch_size)

    def forward_seconds(self) -> float:
        """A guess, which the first cell corrects."""
        return 1 / 250

    def run(self, folder: Path, data: Path) -> Result:
        """Train; validation in bits a character at ten moments, and how near the gradient is to backpropagation's."""
        del folder
        w, (train, val, vocab) = self.writer, split(data)
        net = w.model(vocab)
        params = net.init(jax.random.key(self.seed), (w.length,))
        optimiser = w.optimiser()
        state, estimate = optimiser.init(params), w.gradient(net, self.gradient)
        exact = w.gradient(net, "backpropagation")

        @jax.jit
        def part(carry: Any, starts: Any) -> Any:
            def step(carry: Any, at: Any) -> Any:
                params, state = carry
                (cost, _), grads = estimate(params, *windows(train, at, w.length))
                updates, state = optimiser.update(grads, state, params)
                return (optax.apply_updates(params, updates), state), cost

            return jax.lax.scan(step, carry, starts)

        @jax.jit
        def bits(params: Any) -> Any:
            x, y = windows(val, jnp.linspace(0, len(val) - w.length - 2, w.windows).astype(jnp.int32), w.length)
            return exact(params, x, y)[0][0] / jnp.log(2.0)

        @jax.jit
        def nearness(params: Any, at: Any) -> Any:
            x, y = windows(train, at, w.length)
            return cosine(estimate(params, x, y)[1], exact(params, x, y)[1])

        random = np.random.default_rng(self.seed)
        starts = random.integers(0, len(train) - w.length - 1, (10, w.steps // 10, w.batch_size)).astype(np.int32)
        lines, carry = [], (params, state)
        for number, chosen in enumerate(starts, start=1):
            carry, costs = part(carry, jnp.asarray(chosen))
            near = float(nearness(carry[0], jnp.asarray(chosen[-1])))
            line = {"step": number * (w.steps // 10), "val_bits": float(bits(carry[0])), "cosine": near}
            lines.append(line | {"bits": float(jnp.mean(costs)) / float(np.log(2))})
        lost = None if np.isfinite(lines[-1]["val_bits"]) else "the cost became NaN"
        return {"evaluations": lines, "training": [], "diverged": lost, "parameters": count(params)}


@cache
def split(data: Path) -> tuple[Any, Any, int]:
    """The text as numbers of its characters: the first 90%, the rest, how many characters there are."""
    path = data / FILE
    if not path.exists():
        raise FileNotFoundError(f"--data {data} has no {FILE}: put there the text of tiny Shakespeare, packed by gzip")
    text = gzip.decompress(path.read_bytes()).decode()
    alphabet = sorted(set(text))
    number = {character: i for i, character in enumerate(alphabet)}
    codes = jnp.asarray([number[character] for character in text], jnp.int32)
    cut = int(0.9 * len(codes))
    return codes[:cut], codes[cut:], len(alphabet)


def windows(codes: Any, at: Any, length: int) -> tuple[Any, Any]:
    """x, y [B, length]: from each start so many characters, and the ones after them."""
    found = jax.vmap(lambda start: jax.lax.dynamic_slice(codes, (start,), (length + 1,)))(at)
    return found[:, :-1], found[:, 1:]


def cosine(a: Any, b: Any) -> Any:
    """Of two gradients, all layers together."""
    a, b = (jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)]) for tree in (a, b))
    return a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b))
