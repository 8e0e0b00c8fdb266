"""Systems that settle, diagnosed. Oracles: a dense Hessian, faults that are put in on purpose.

Catches a softness that is not the largest value of chi C'', a negative phase that is taken to exist where it runs away,
a free phase that did not settle, and a jump, that nobody tells of.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import epjax
from epjax.diagnosis.susceptibility import largest
from epjax.systems import PCN, Hopfield, Oscillators, Relax, Resistive

SE, CE = epjax.cost.squared_error, epjax.cost.cross_entropy
SIZES = (8, 6, 4)
SYSTEMS = {
    "hopfield": Hopfield.dense(SIZES, gain=0.45),
    "resistive": Resistive(SIZES, input_gain=3.0, gain=2.0),
    "oscillators": Oscillators(SIZES, gain=0.4),
}
FREE = Relax(2000, 1e-13, over="auto")


def setting(system, B=8):
    with jax.enable_x64(False):
        params = system.init(jax.random.key(0), (12,))
    params = jax.tree.map(lambda v: v + 0.03 if v.ndim == 1 else v, params)
    return params, jax.random.uniform(jax.random.key(1), (B, 12)), jnp.arange(B) % 4


def wide(tree):
    return jax.tree.map(lambda v: jnp.asarray(np.asarray(v), jnp.float64), tree)


def softness(system, cost, params, x, y, free):
    """The largest eigenvalue of chi C'', chi from the whole Hessian of the energy on the units that can move."""
    rest = system.free(params, x, free)
    flat, back = jax.flatten_util.ravel_pytree(rest.states)
    H = jax.hessian(lambda s: system.energy(params, x, back(s)))(flat)
    moves = np.concatenate(
        [
            np.ravel(m if (m := system.inside(k, s)) is not None else np.ones(s.shape, bool))
            for k, s in enumerate(rest.states, start=1)
        ]
    )
    inverse = np.linalg.inv(np.asarray(H)[np.ix_(moves, moves)])
    n = rest.states[-1].size
    slope = np.asarray(jax.jacobian(system.readout)(rest.states[-1]))
    chi = slope @ inverse[-n:, -n:] @ slope.T
    return np.linalg.eigvals(chi @ np.asarray(jax.hessian(lambda o: cost(o, y))(rest.output))).real.max()


@pytest.mark.parametrize("cost", [SE, CE])
@pytest.mark.parametrize("name", SYSTEMS)
def test_softness_is_that_of_the_whole_hessian(name, cost, x64):
    system = SYSTEMS[name]
    params, x, y = setting(system, 1)
    params, x = wide(params), wide(x)
    if name == "oscillators":  # the Hessian of F has the readout's curvature too, which is not chi's
        cost = SE
    found = largest(system, cost, params, x[0], y[0], FREE)
    np.testing.assert_allclose(found, softness(system, cost, params, x[0], y[0], FREE), rtol=0.02)


def test_softness_of_a_predictive_coding_network(x64):
    """I + sum_k J_k J_k^T, written out for two layers."""
    net = epjax.models.mlp((8, 4), activation=epjax.network.activation.tanh)
    with jax.enable_x64(False):
        params = net.init(jax.random.key(0), (12,))
    params, x = wide(params), jnp.asarray(np.random.default_rng(0).uniform(size=12))
    J = np.asarray(params[1]["kernel"]).T
    expected = np.linalg.eigvalsh(np.eye(4) + J @ J.T).max()
    np.testing.assert_allclose(largest(PCN(net), SE, params, x, jnp.int32(1)), expected, rtol=0.02)


@pytest.mark.parametrize("name", SYSTEMS)
def test_susceptibility_is_reported_with_the_gradient(name, x64):
    """||d_o|| / (beta ||dC/do||), which for small beta lies between the least and the largest value of chi."""
    system = SYSTEMS[name]
    params, x, y = setting(system)
    params, x = wide(params), wide(x)
    ep = epjax.value_and_grad(system, SE, beta=1e-6, free=FREE, equilibration=FREE)
    (_, aux), _ = jax.jit(ep)(params, x, y, None)
    most = jax.vmap(partial(largest, system, SE, params, free=FREE))(x, y)
    assert aux.solution.susceptibility.shape == (8, 2)
    assert np.all(aux.solution.susceptibility <= 1.001 * most[:, None])
    assert np.all(aux.solution.susceptibility > 0.05 * most[:, None])
    clamp = epjax.value_and_grad(system, SE, perturbation="clamp", beta=1e-6, free=FREE, equilibration=FREE)
    assert jax.eval_shape(clamp, params, x, y)[0][1].solution.susceptibility is None


CASES = [
    ("hopfield", {"beta": 0.01}, "good", "the exact gradient's"),
    ("hopfield", {"beta": 1.0}, "negative phase does not exist", "use a beta below 0."),
    ("hopfield", {"beta": 1.0, "scheme": "forward"}, "beta too large", "lower beta from 1"),
    (
        "hopfield",
        {"beta": 1e-3, "scheme": "forward", "errors": "recomputed", "free": Relax(1, None)},
        "free phase not settled",
        "give the free phase more passes",
    ),
    ("resistive", {"beta": 0.01}, "good", "the exact gradient's"),
    ("circuit", {"beta": 1e-5, "scheme": "forward", "errors": "recomputed"}, "drowned in rounding", "raise beta"),
    ("oscillators", {"beta": 0.01}, "good", "the exact gradient's"),
    ("oscillators", {"beta": 40.0, "scheme": "forward"}, "jumped to another equilibrium", "lower beta from 40"),
]


@pytest.mark.parametrize(("name", "options", "verdict", "advice"), CASES)
def test_a_fault_is_named(name, options, verdict, advice, tmp_path):
    system = Resistive(SIZES, input_gain=1000.0) if name == "circuit" else SYSTEMS[name]
    report = epjax.diagnose(system, *setting(system), cost=SE, **options)
    assert report.verdict == verdict, report
    assert advice in report.advice
    assert "free phase: residual" in str(report)
    assert (report.q >= 1) == (verdict == "negative phase does not exist" or options["beta"] >= 1)
    report.draw(tmp_path / "report.png")


def test_energy_that_runs_away_is_told():
    """ReLU without an upper end, couplings above one."""
    net = epjax.models.mlp((16, 16, 4), gain=6.0)
    system = Hopfield(net)
    report = epjax.diagnose(system, *setting(system), cost=SE, scheme="forward", free=Relax(2000, 1e-6))
    assert report.verdict == "not finite"
    assert "the energy runs away" in report.advice
