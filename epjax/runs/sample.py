"""Goes on with a text, one token after the other, by a trained language model.

    x_{n+1} ~ softmax(h_L[n] / temperature)    of the free output at the last of the tokens so far

epjax sample --workdir runs/lm --prompt "MENENIUS:" --length 400 --temperature 0.8
"""

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import Array

from epjax import Network
from epjax.network import Params
from epjax.runs.answer import answer
from epjax.runs.trained import Trained, load


@partial(jax.jit, static_argnums=0)
def draw(network: Network, params: Params, window: Array, count: Array, temperature: Array, key: Array) -> Array:
    """The token after the first `count` of window [T]; a temperature of 0 takes the likeliest.

    What stands behind them is not seen, for the network is causal.
    """
    logits = network.forward(params, window)[-1][count - 1]
    hot = jnp.where(temperature > 0, temperature, 1.0)
    return jnp.where(temperature > 0, jax.random.categorical(key, logits / hot), jnp.argmax(logits))


def tokens(trained: Trained, prompt: np.ndarray, length: int, temperature: float, key: Array) -> Iterator[int]:
    """`length` tokens after those of prompt [N], each from the last T at most, the model's context."""
    assert isinstance(trained.network, Network)
    (T,) = trained.transform.shape
    seen = [int(token) for token in prompt]
    for step in range(length):
        window = np.zeros(T, np.int32)
        last = seen[-T:]
        window[: len(last)] = last
        given = (jnp.asarray(window), jnp.asarray(len(last)), jnp.asarray(temperature, jnp.float32))
        seen.append(int(draw(trained.network, trained.params, *given, jax.random.fold_in(key, step))))
        yield seen[-1]


def sample(
    workdir: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    prompt: str,
    length: int = 400,
    temperature: float = 0.8,
    seed: int = 0,
    checkpoint: str = "best",
) -> None:
    """Go on with a text by a trained language model.

    Args:
        workdir: Work directory of a run of char_lm; its text is not needed.
        prompt: What the text begins with; of a long one the network sees the last tokens, as many as its context.
        length: Tokens to be drawn.
        temperature: Of the softmax that they are drawn from; 0 takes the likeliest.
        seed: Draws them.
        checkpoint: best (lowest validation cost), newest, or a step.
    """
    if not prompt:
        raise ValueError("prompt must hold at least one character, got none")
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be a finite number of at least 0, got {temperature}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    trained = load(workdir, checkpoint)
    vocabulary = trained.vocabulary
    given = vocabulary.encode(prompt, "prompt")
    (context,) = trained.transform.shape
    if len(given) > context:
        told = f"the prompt has {len(given)} tokens, of which the network sees the last {context}"
        print(told, file=sys.stderr)
    drawn = np.fromiter(tokens(trained, given, length, temperature, jax.random.key(seed)), np.int32)
    print(prompt + vocabulary.decode(drawn))


def main(argv: Sequence[str] | None = None, prog: str = "epjax sample") -> int:
    """The command."""
    return answer(sample, argv, prog)
