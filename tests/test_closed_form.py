"""Oracle: paper and pencil. A two-layer network with every update, traversal, perturbation and scheme in NumPy.

Catches a wrong sign or factor, a layer that sees a stale neighbour, an update order other than even before odd, a
nudged phase that does not start from the free state, errors that belong to another state.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import epjax
from epjax.cost import as_target, smooth_labels

W1 = np.array([[0.9, -0.7], [0.4, 0.8], [-1.1, 0.3]]).T  # [2, 3] -> a_1 = W1 x + b1
B1 = np.array([0.2, -0.45])
W2 = np.array([[0.6, -1.3], [-0.5, 0.9]])
B2 = np.array([0.1, -0.3])
X = np.array([0.5, -0.4, 0.3])
Y = np.array([0.0, 1.0])
BETA = 0.7  # large, so that mod-PGD opens the unit that ReLU had closed

NET = epjax.models.mlp([2, 2])


def params():
    return ({"kernel": jnp.array(W1.T), "bias": jnp.array(B1)}, {"kernel": jnp.array(W2.T), "bias": jnp.array(B2)})


def relu(v):
    return np.maximum(v, 0.0)


def f1():
    return W1 @ X + B1


def f2(h1):
    return W2 @ h1 + B2


def cost_gradient(cost, h2):
    if cost == "squared_error":
        return h2 - Y
    e = np.exp(h2 - h2.max())
    return e / e.sum() - Y


def step_1(update, alpha, h1, eps2):
    """Layer 1 by hand."""
    T1 = W2.T @ eps2
    if update == "mod_pgd":
        return relu(f1() + T1)
    return relu(h1 - alpha * ((h1 - relu(f1())) - T1))


def step_2(cost, beta, alpha, h1, h2):
    """The nudged output by hand."""
    return h2 - alpha * ((h2 - f2(h1)) + beta * cost_gradient(cost, h2))


def free():
    h1 = relu(f1())
    return h1, f2(h1)


def by_hand(traversal, update, perturbation, cost, beta, alpha=1.0, K=1):
    """(h1, h2) after K iterations."""
    h1, h2 = free()
    clamp = (1 - beta) * h2 + beta * Y
    if perturbation == "clamp":
        h2 = clamp
    for _ in range(K):
        if traversal == "async":
            h2 = clamp if perturbation == "clamp" else step_2(cost, beta, alpha, h1, h2)
            h1 = step_1(update, alpha, h1, h2 - f2(h1))
        else:
            new_h2 = clamp if perturbation == "clamp" else step_2(cost, beta, alpha, h1, h2)
            h1, h2 = step_1(update, alpha, h1, h2 - f2(h1)), new_h2
    return h1, h2


def sweep_by_hand(update, perturbation, cost, beta, S):
    h1, h2 = free()
    free_h2 = h2
    for _ in range(S):
        eps2 = clamp_error(beta, free_h2, h1) if perturbation == "clamp" else -beta * cost_gradient(cost, h2)
        top = -beta * cost_gradient(cost, h2)
        h1 = step_1(update, 1.0, h1, eps2)
        h2 = (1 - beta) * free_h2 + beta * Y if perturbation == "clamp" else f2(h1) + top
    return h1, h2


def relaxed_by_hand(update, perturbation, cost, beta, S, w):
    """(h1, h2) after S sweeps in which eps_2 goes the share w of the way, once its target has moved."""
    h1, h2 = free()
    free_h2 = h2
    eps2 = beta * (Y - h2) if perturbation == "clamp" else -beta * cost_gradient(cost, h2)
    for _ in range(S):
        if perturbation == "nudge":
            eps2 = eps2 + w * (-beta * cost_gradient(cost, h2) - eps2)
        h1 = step_1(update, 1.0, h1, eps2)
        if perturbation == "clamp":
            eps2 = eps2 + w * (clamp_error(beta, free_h2, h1) - eps2)
        h2 = f2(h1) + eps2
    return h1, h2


def clamp_error(beta, free_h2, h1):
    return (1 - beta) * free_h2 + beta * Y - f2(h1)


def solve(method, perturbation="nudge", cost="squared_error", beta=BETA, errors="carried"):
    from epjax.perturbation import Clamp, Nudge
    from epjax.systems.pcn.problem import Problem, equilibrate
    from epjax.systems.pcn.signals import free_phase

    phase = free_phase(NET, params(), jnp.array(X))
    y = jnp.array(Y)
    if perturbation == "nudge":
        push = Nudge(epjax.cost.COSTS[cost], y, jnp.array(beta))
    else:
        push = Clamp(as_target(y, 2, y.dtype), phase.output, jnp.array(beta))
    return equilibrate(Problem(NET, params(), phase, push, errors), method)


def gradient_by_hand(h1, h2, eps1, eps2):
    """dF/dtheta = - sum_k (df_k/dtheta_k)^T eps_k, kernels as [in, out]."""
    gated = eps1 * (f1() > 0)
    return (
        {"kernel": -np.outer(X, gated), "bias": -gated},
        {"kernel": -np.outer(h1, eps2), "bias": -eps2},
    )


pytestmark = pytest.mark.usefixtures("x64")


def test_the_case_is_one_where_the_updates_differ():
    """A unit with a < 0 and T > 0, without which PGD and mod-PGD could be swapped unseen."""
    _, h2 = free()
    T1 = W2.T @ (-BETA * cost_gradient("squared_error", h2))
    assert f1()[1] < 0 < f1()[1] + T1[1]
    pgd = by_hand("async", "pgd", "nudge", "squared_error", BETA)
    mod = by_hand("async", "mod_pgd", "nudge", "squared_error", BETA)
    assert pgd[0][0] == mod[0][0]
    assert pgd[0][1] != mod[0][1]


@pytest.mark.parametrize("K", [1, 2, 5])
@pytest.mark.parametrize("cost", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize("perturbation", ["nudge", "clamp"])
@pytest.mark.parametrize("update", ["mod_pgd", "pgd"])
@pytest.mark.parametrize("traversal", ["async", "sync"])
@pytest.mark.parametrize("beta", [BETA, -BETA])
def test_iterations(traversal, update, perturbation, cost, beta, K):
    method = epjax.Async(K, update=update, relaxation=1.0) if traversal == "async" else epjax.Sync(K, update=update)
    solution = solve(method, perturbation, cost, beta)
    expected = by_hand(traversal, update, perturbation, cost, beta, K=K)
    for h, by_pencil in zip(solution.h, expected, strict=True):
        np.testing.assert_allclose(h, by_pencil, rtol=1e-12)
    assert solution.iterations == K


@pytest.mark.parametrize("alpha", [0.1, 0.5])
@pytest.mark.parametrize("traversal", ["async", "sync"])
@pytest.mark.parametrize("perturbation", ["nudge", "clamp"])
def test_small_steps(traversal, perturbation, alpha):
    method = {"async": epjax.Async, "sync": epjax.Sync}[traversal](3, update="pgd", step_size=alpha)
    solution = solve(method, perturbation)
    for h, expected in zip(
        solution.h, by_hand(traversal, "pgd", perturbation, "squared_error", BETA, alpha, 3), strict=True
    ):
        np.testing.assert_allclose(h, expected, rtol=1e-12)


@pytest.mark.parametrize("S", [1, 2, 4])
@pytest.mark.parametrize("cost", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize("perturbation", ["nudge", "clamp"])
@pytest.mark.parametrize("update", ["mod_pgd", "pgd"])
def test_sweeps(update, perturbation, cost, S):
    solution = solve(epjax.Sweep(S, update=update, relaxation=1.0), perturbation, cost)
    for h, expected in zip(solution.h, sweep_by_hand(update, perturbation, cost, BETA, S), strict=True):
        np.testing.assert_allclose(h, expected, rtol=1e-12)
    for eps, h, f in zip(solution.errors, solution.h, (relu(f1()), f2(np.array(solution.h[0]))), strict=True):
        np.testing.assert_allclose(eps, h - f, atol=1e-14)


@pytest.mark.parametrize("S", [1, 3])
@pytest.mark.parametrize("w", [0.3, 1.0])
@pytest.mark.parametrize("perturbation", ["nudge", "clamp"])
def test_relaxed_sweeps(perturbation, w, S):
    solution = solve(epjax.Sweep(S, relaxation=w), perturbation)
    expected = relaxed_by_hand("mod_pgd", perturbation, "squared_error", BETA, S, w)
    for h, by_pencil in zip(solution.h, expected, strict=True):
        np.testing.assert_allclose(h, by_pencil, rtol=1e-12)
    for eps, h, f in zip(solution.errors, solution.h, (relu(f1()), f2(np.array(solution.h[0]))), strict=True):
        np.testing.assert_allclose(eps, h - f, atol=1e-14)


def test_clamping_fixes_the_output():
    _, h2 = free()
    for method in (epjax.Async(4, relaxation=1.0), epjax.Sync(4), epjax.Sweep(4, relaxation=1.0)):
        np.testing.assert_allclose(solve(method, "clamp").h[1], (1 - BETA) * h2 + BETA * Y, rtol=1e-14)


@pytest.mark.parametrize("scheme", ["forward", "backward", "centered", "random"])
@pytest.mark.parametrize("update", ["mod_pgd", "pgd"])
def test_schemes(scheme, update):
    """Two equal examples, so that the batch mean is the example's gradient (and signs can differ between them)."""
    estimator = epjax.value_and_grad(
        NET, epjax.cost.squared_error, scheme=scheme, beta=BETA, equilibration=epjax.Async(2, update=update)
    )
    key = jax.random.key(5)
    x, y = jnp.array([X, X]), jnp.array([Y, Y])
    (cost, aux), grads = estimator(params(), x, y, key)

    def G(beta):
        h1, h2 = by_hand("async", update, "nudge", "squared_error", beta, K=2)
        # What each layer carries: its error when it was updated last; layer 2 saw h_1 of the iteration before.
        h1_before, _ = by_hand("async", update, "nudge", "squared_error", beta, K=1)
        return gradient_by_hand(h1, h2, h1 - relu(f1()), h2 - f2(h1_before))

    if scheme == "random":
        signs = np.array(jax.random.rademacher(key, (2, 1), jnp.float64))[:, 0]
        terms = [(0.5 / (s * BETA), s * BETA) for s in signs]
    else:
        b = BETA
        terms = {"forward": [(1 / b, b)], "backward": [(-1 / b, -b)], "centered": [(0.5 / b, b), (-0.5 / b, -b)]}[
            scheme
        ]
    expected = jax.tree.map(
        lambda *gs: sum(w * g for (w, _), g in zip(terms, gs, strict=True)), *(G(b) for _, b in terms)
    )
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-10, atol=1e-14), grads, expected)
    _, h2 = free()
    np.testing.assert_allclose(cost, 0.5 * np.sum((h2 - Y) ** 2), rtol=1e-12)
    np.testing.assert_allclose(aux.output, [h2, h2], rtol=1e-12)


def test_random_signs_are_per_example_and_seeded():
    from epjax.scheme import as_scheme

    signs = np.array(as_scheme("random").nudges(64, jax.random.key(0), jnp.float64)[0])
    assert set(signs.ravel()) == {-1.0, 1.0}
    assert np.array_equal(signs, as_scheme("random").nudges(64, jax.random.key(0), jnp.float64)[0])
    assert not np.array_equal(signs, as_scheme("random").nudges(64, jax.random.key(1), jnp.float64)[0])


def test_recomputed_errors_are_those_of_the_final_state():
    solution = solve(epjax.Async(2), errors="recomputed")
    h1, h2 = by_hand("async", "mod_pgd", "nudge", "squared_error", BETA, K=2)
    np.testing.assert_allclose(solution.errors[0], h1 - relu(f1()), atol=1e-14)
    np.testing.assert_allclose(solution.errors[1], h2 - f2(h1), rtol=1e-12)


def test_costs():
    h, label = jnp.array([0.3, -1.0, 2.0]), jnp.int32(1)
    soft = jnp.array([0.2, 0.5, 0.3])
    log_p = np.array(h) - np.log(np.exp(np.array(h)).sum())
    np.testing.assert_allclose(epjax.cost.cross_entropy(h, label), -log_p[1], rtol=1e-12)
    np.testing.assert_allclose(epjax.cost.cross_entropy(h, soft), -(np.array(soft) * log_p).sum(), rtol=1e-12)
    np.testing.assert_allclose(epjax.cost.squared_error(h, label), 0.5 * (0.09 + 4.0 + 4.0), rtol=1e-12)
    with pytest.raises(ValueError, match=r"y of an example must have shape \(3,\) or \(\), got \(2,\)"):
        epjax.cost.squared_error(h, soft[:2])


def test_smoothed_labels():
    """The share goes to all classes, the right one too: what torch and optax call label smoothing."""
    np.testing.assert_allclose(smooth_labels(jnp.int32(2), 4, 0.2), [0.05, 0.05, 0.85, 0.05], rtol=1e-6)
    np.testing.assert_allclose(smooth_labels(jnp.int32(0), 10, 0.1).sum(), 1.0, rtol=1e-6)
    for amount in (-0.1, 1.0):
        with pytest.raises(ValueError, match="label_smoothing must be at least 0 and less than 1"):
            smooth_labels(jnp.int32(1), 4, amount)
