"""Oracle: what was put in, and the runs of a study. The alarms of a run.

Catches an alarm that rings twice, that rings in a healthy run or stays silent in a lost one; a metric of a step's
health that is not what its name says.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import epjax
from epjax.network.activation import identity
from epjax.network.drive import Dense
from epjax.runs.alarm import COLLAPSED, DISPLACED, WINDOW, Alarms, guessing
from epjax.training.vitals import of_displacement, of_gradient
from experiments.reproduce.figures.defaults import is_dead

pytestmark = pytest.mark.fast
RUNS = Path(__file__).parents[1] / "experiments" / "results" / "defaults"
CHANCE = guessing("cross_entropy", 10)
HEALTHY = {"cost": 1.0, "displacement": 0.01, "displaced_layer": 1, "gradient_norm": 1.0, "silent_layers": 0}


def seen(steps, beta=0.05, chance=CHANCE):
    alarms = Alarms(beta, chance)
    return [words for step, values in enumerate(steps, start=1) for words in alarms.see(step, HEALTHY | values)]


def test_a_healthy_run_is_quiet():
    assert seen({"cost": 2.4 - 0.005 * step} for step in range(300)) == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"displacement": 1.3 * DISPLACED, "displaced_layer": 3},
            "errors are 0.39 of the states in layer 3: beta 0.05",
        ),
        ({"silent_layers": 2}, "2 layers have a gradient of exactly zero"),
        ({"gradient_norm": 0.9 * COLLAPSED}, "the gradient's norm is 9e-05, of 1 in the first steps"),
    ],
)
def test_each_is_said_once_at_its_step(values, words):
    (told,) = seen([{}, {}, values, values, {}])
    assert told.startswith(f"step 3: {words}")


def test_guessing_is_said_after_a_window_of_it():
    (told,) = seen([{"cost": 2.31}] * (2 * WINDOW))
    assert told.startswith(f"step {WINDOW}: for 100 steps the cost has been that of guessing, 2.3,")
    assert seen([{"cost": 2.31}] * (2 * WINDOW), chance=None) == []
    assert seen({"cost": 2.40 - 0.002 * step} for step in range(70)) == []


def test_the_cost_of_guessing_is_that_of_the_best_constant_output():
    y = jnp.arange(10)
    for name in ("cross_entropy", "squared_error"):
        cost = getattr(epjax.cost, name)
        best = jnp.full(10, 0.1 if name == "squared_error" else 0.0)
        np.testing.assert_allclose(guessing(name, 10), jnp.mean(jax.vmap(cost, (None, 0))(best, y)), rtol=1e-6)
    assert guessing("log_phase", 10) is None


def test_the_runs_of_the_study():
    """All that ended at guessing are told of; of the others no more than docs/training.md says."""
    hits = false = dead = total = 0
    for path in RUNS.glob("*.json"):
        run = json.loads(path.read_text())
        steps = [line for line in run["training"] for _ in range(10)]  # a line is the mean of ten steps
        rang = bool(seen([{"cost": line["cost"]} for line in steps]))
        total, dead = total + 1, dead + is_dead(run)
        hits, false = hits + (rang and is_dead(run)), false + (rang and not is_dead(run))
    assert (hits, dead, false, total) == (4, 4, 2, 75)


def test_vital_signs_of_a_step():
    grads = ({"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)}, {}, {"w": jnp.full((2, 2), 3.0), "b": jnp.zeros(2)})
    facts = of_gradient(grads)
    assert facts["gradient_norm"] == 6.0
    assert facts["silent_layers"] == 1
    share = jnp.array([[[0.1, 0.2], [0.3, 0.0]], [[0.1, 0.1], [0.1, 0.1]]])  # 2 images, 2 phases, 2 layers
    facts = of_displacement(share)
    np.testing.assert_allclose(facts["displacement"], 0.2, rtol=1e-6)
    assert facts["displaced_layer"] == 1


@pytest.mark.parametrize("errors", ["carried", "recomputed"])
@pytest.mark.parametrize("system", ["network", "hopfield"])
def test_displacement_is_that_of_the_states(system, errors):
    """Against the states themselves: grows with beta, by layer, one number a phase."""
    x, y = jax.random.uniform(jax.random.key(1), (3, 5)), jnp.array([0, 1, 2])
    net = epjax.systems.Hopfield.dense((7, 4))
    if system == "network":
        net = epjax.Network([epjax.Layer(Dense(7), identity), epjax.Layer(Dense(4), identity)])
    params = net.init(jax.random.key(0), (5,))
    found = {}
    for beta in (0.01, 0.02):
        ep = epjax.value_and_grad(net, "squared_error", beta=beta, errors=errors, keep_states=True)
        solution = ep(params, x, y, None)[0][1].solution
        found[beta] = solution.displacement
        assert solution.displacement.shape == (3, 2, 2)
    assert jnp.all(found[0.01] >= 0)
    assert jnp.all(found[0.02] <= 1)
    np.testing.assert_allclose(found[0.02] / found[0.01], 2.0, rtol=0.2)
