"""What a person reads before step 1: what is trained, on what, where, how, for how long, and what is unusual."""

import textwrap
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax

from epjax.network.summary import count
from epjax.runs.config import Config, flat
from epjax.runs.machine import unused_accelerator
from epjax.runs.table import method
from epjax.runs.task import Task
from epjax.training.optimiser import SCHEDULES

PLACES = ("workdir", "recipe", "data", "show_config", "log_to", "seeds")
"""Options that are said elsewhere."""
HANGING: dict[str, Any] = {"subsequent_indent": " " * 9, "break_long_words": False, "break_on_hyphens": False}
"""No word is broken, and a line that goes on is told from a new one."""


def opening(config: Config, recipe: Config, task: Task, total: int, width: int = 80) -> list[str]:
    """Model, data, devices, method, plan of `total` steps, and the options that differ from the recipe's."""
    init = partial(task.network.init, input_shape=task.train_transform.shape)
    shapes = jax.eval_shape(init, jax.random.key(0))
    depth = getattr(task.network, "depth", len(shapes))  # another system has one entry a layer
    data, device = task.dataset, jax.devices()[0]
    images = f"{len(data.train):,} + {len(data.val):,} {data.examples}"
    kinds = f"{len(data.classes)} {f'kinds of {data.token}s' if data.token else 'classes'}"
    kind = "" if device.device_kind == device.platform else f" ({device.device_kind})"
    where = f"{jax.device_count()} {device.platform} device{'s' * (jax.device_count() > 1)}{kind}"
    at_work = f"{where}, {config.gradient.precision} products, jax {jax.__version__}"
    options = config.optimiser
    words = SCHEDULES[options.schedule].words
    rate = f"learning rate {words.format(options.learning_rate, options.final_learning_rate)}"
    rows = {
        "model": f"{task.title}: {depth} layers, {count(shapes):,} parameters",
        "data": f"{data.origin}: {kinds}, {images}",
        "devices": "; ".join(filter(None, (at_work, unused_accelerator()))),
        "method": method(config.gradient),
        "plan": f"{total:,} steps: {options.epochs} epochs, batches of {options.batch_size}, {rate}",
        "recipe": f"{config.run.recipe}, {changes(flat(config), flat(recipe))}",
    }
    return [textwrap.fill(f"{name:<8} {text}", width, **HANGING) for name, text in rows.items()]


def changes(options: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """Which options differ, in words: `with beta 0.005 (not 0.0005)`."""
    differing = [
        f"{name} {_short(value)} (not {_short(usual[name])})"
        for name, value in options.items()
        if name not in PLACES and value != usual[name]
    ]
    return f"with {', '.join(differing)}" if differing else "as it is"


def _short(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
