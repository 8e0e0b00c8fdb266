"""Oracle: autodiff of the energy 1/2 sum_k pi_k || eps_k ||^2 at the equilibrium that was found.

Catches a precision that is left out of a signal, of the output's error, of the gradient or of the recorded energies,
and a default that is not pi = 1.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import epjax
from epjax.systems import PCN
from epjax.systems.pcn.relaxation import chi, largest
from tests.test_relaxation import dense_chi, flat

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.fast]

PI = (0.5, 2.0, 1.5)
NET = epjax.models.mlp([6, 5, 4], activation=epjax.activation.tanh, gain=1.5)
METHODS = [
    epjax.Sweep(80, update="pgd", relaxation="auto"),
    epjax.Async(600, update="pgd", relaxation="auto"),
    epjax.Sync(900, update="pgd", step_size=0.2),
]


def case():
    with jax.enable_x64(False):
        params = NET.init(jax.random.key(0), (7,))
    params = jax.tree.map(lambda v: v.astype(jnp.float64), params)
    return params, jax.random.normal(jax.random.key(1), (2, 7), jnp.float64), jnp.array([1, 3])


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("perturbation", ["nudge", "clamp"])
def test_states_and_gradient_are_those_of_the_energy(method, perturbation):
    params, x, y = case()
    beta = 0.3
    options = {"scheme": "forward", "perturbation": perturbation, "beta": beta}
    ep = epjax.value_and_grad(PCN(NET, PI), "squared_error", equilibration=method, keep_states=True, **options)
    (_, aux), grads = jax.jit(ep)(params, x, y, None)
    h = tuple(h_k[:, 0] for h_k in aux.solution.h)

    def E(params, h):
        return jnp.sum(jax.vmap(partial(epjax.energy.energy, NET, params, precisions=PI))(x, h)) / 2

    def F(h):
        return E(params, h) + (beta * jnp.mean(jax.vmap(epjax.cost.squared_error)(h[-1], y)))

    forces = jax.grad(F)(h)
    moving = forces if perturbation == "nudge" else forces[:-1]
    assert max(float(jnp.max(jnp.abs(force))) for force in moving) < 1e-9
    if perturbation == "clamp":
        held = (1 - beta) * aux.output + beta * jax.nn.one_hot(y, 4, dtype=x.dtype)
        np.testing.assert_allclose(h[-1], held, atol=1e-9)
    np.testing.assert_allclose(flat(grads), flat(jax.grad(E)(params, h)) / beta, rtol=1e-6, atol=1e-9)


def test_the_recorded_energy_is_that_of_the_state():
    params, x, y = case()
    method = epjax.Sweep(40, update="pgd", trace=True)
    options = {"scheme": "forward", "beta": 0.05, "keep_states": True}
    ep = epjax.value_and_grad(PCN(NET, PI), "squared_error", equilibration=method, **options)
    solution = jax.jit(ep)(params, x, y, None)[0][1].solution
    h = tuple(h_k[:, 0] for h_k in solution.h)
    F = jax.vmap(partial(epjax.energy.energy, NET, params, precisions=PI))(x, h)
    F = F + 0.05 * jax.vmap(epjax.cost.squared_error)(h[-1], y)
    np.testing.assert_allclose(solution.energies[:, 0, -1], F, rtol=1e-8)


def test_equal_precisions_of_one_are_none():
    params, x, y = case()
    method = epjax.Sweep(3, update="pgd")
    one, other = (
        epjax.value_and_grad(system, "cross_entropy", equilibration=method)(params, x, y, None)[1]
        for system in (NET, PCN(NET, (1.0, 1.0, 1.0)))
    )
    np.testing.assert_allclose(flat(one), flat(other), rtol=1e-13)


def test_a_small_nudge_gives_backpropagation_whatever_they_are():
    params, x, y = case()
    method = epjax.Sweep(1, update="pgd")
    ep = epjax.value_and_grad(PCN(NET, PI), "cross_entropy", beta=1e-4, equilibration=method)
    exact = flat(epjax.backprop_value_and_grad(NET, "cross_entropy")(params, x, y, None)[1])
    assert np.linalg.norm(flat(ep(params, x, y, None)[1]) - exact) < 1e-6 * np.linalg.norm(exact)


def test_the_susceptibility_is_weighed():
    params, x, _ = case()
    free = PCN(NET, PI).free(params, x[0])
    found = largest(chi(free), jnp.arange(1.0, 5.0), iterations=200)
    dense = dense_chi(NET, params, x[0], [PI[-1] / pi for pi in PI])
    np.testing.assert_allclose(found, np.linalg.eigvalsh(dense)[-1], rtol=1e-6)


@pytest.mark.parametrize("precisions", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, -1.0, 1.0), (1.0, float("nan"), 1.0)])
def test_what_is_no_precision_is_refused(precisions):
    with pytest.raises(ValueError, match="precisions must be one positive number for each of 3 layers, got"):
        PCN(NET, precisions)
