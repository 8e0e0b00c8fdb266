"""Inference learning (IL): the output clamped, T synchronous steps of the states, then the energy's gradient.

    h = forward pass, h_L = y
    T times, all hidden layers at once     h_k <- proj(h_k - alpha (eps_k - T_k)),   T_k = sum_j (d f_j / d h_k)^T eps_j
    gradient                               dE/dtheta = - sum_k (d f_k / d theta_k)^T eps_k

R. P. N. Rao and D. H. Ballard, Nature Neuroscience 2, 1999; J. C. R. Whittington and R. Bogacz, Neural Computation 29,
2017. It is what `epjax.value_and_grad` computes with the forward scheme, a clamp at beta = 1 and Sync.
"""

from epjax.cost import Cost, squared_error
from epjax.estimator import value_and_grad
from epjax.network import Network
from epjax.pc.inference import as_clamped_cost, as_pcn, check_inference
from epjax.systems.pcn import PCN, Sync
from epjax.systems.system import Argnums, ValueAndGrad


def inference_learning_value_and_grad(
    net: Network | PCN,
    cost: Cost | str = squared_error,
    *,
    steps: int = 20,
    rate: float = 0.1,
    argnums: Argnums = 0,
) -> ValueAndGrad:
    """``f(params, x, y, key) -> ((cost, aux), grads)`` of IL with T = `steps` of size alpha = `rate`; key is not used.

    The cost is that of the free output. The wave needs `steps` >= L - 1 to reach the first layer. A step is 2
    forward-equivalents, a gradient 2 T + 2. Raises ValueError for another cost than squared error, steps < 1, a rate
    outside (0, 1] and a system that is no predictive coding network.
    """
    system, cost = as_pcn(net, "inference learning"), as_clamped_cost(cost, "inference learning")
    check_inference(steps, rate)
    method = Sync(iterations=steps, update="pgd", step_size=rate)
    return value_and_grad(
        system, cost, scheme="forward", perturbation="clamp", beta=1.0, equilibration=method, argnums=argnums
    )
