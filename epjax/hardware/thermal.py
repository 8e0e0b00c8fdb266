"""Thermal noise: states fluctuate about the equilibrium, with probability exp(- F / T).

    heat bath    s_k <- s_k + w (response_k - s_k) + sqrt(w (2 - w) T / kappa_k) xi,   kappa_k = d^2E/ds_k^2
    rests at     s ~ N(s*, T H^-1) of a quadratic energy, exactly, for any 0 < w < 2 with blocks one after the other
    PCN          eps_k ~ N(eps_k^beta, T / pi_k),   h_k = f_k(h_{k-1}) + eps_k

A pass is a step of Langevin's equation that a block solves exactly given its neighbours (Adler, Phys. Rev. D 23, 2901,
1981). For all blocks at once, as in a `Settling` of some duration, variances are right to first order in w. kappa is 1
for a Hopfield unit, the conductance at a resistive node, |z| for a phase (to first order in T / |z|). At an end of its
range a unit is stopped. In coordinates eps the energy of a predictive coding network is 1/2 sum pi_k ||eps_k||^2 and
its volume that of h, so that the equilibrium is drawn at once, to first order in beta. T is k_B T in the unit of the
energy.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from epjax.hardware.values import Number
from epjax.network import Params, States
from epjax.perturbation import Perturbation
from epjax.shapes import Array
from epjax.systems.chain import Chain, Rest
from epjax.systems.pcn import PCN
from epjax.systems.relax import Relax
from epjax.systems.solution import Solution, relative


def warm_free(chain: Chain, params: Params, x: Array, method: Relax, temperature: Number, key: Array) -> Rest:
    """The free phase of one example after `method.iterations` passes of the heat bath, from `chain.start`."""
    psi_0 = chain.embed(0, x)
    states, solution = _fluctuate(chain, params, psi_0, method, chain.start(params, x), None, temperature, key)
    psi = (psi_0, *(chain.embed(k, s) for k, s in enumerate(states, start=1)))
    fields = tuple(chain._field(params, k, psi) for k in range(1, len(chain) + 1))
    return Rest(chain.readout(states[-1]), states, solution, psi, fields)


def warm_nudged(
    chain: Chain,
    params: Params,
    free: Rest,
    perturbation: Perturbation,
    method: Relax,
    temperature: Number,
    key: Array,
) -> Solution:
    """The nudged phase after `method.iterations` passes, from the free state as it was."""
    start = free.states
    states, found = _fluctuate(chain, params, free.psi[0], method, start, perturbation, temperature, key)
    return Solution(states, None, found.iterations, found.residual, None, None)


def _fluctuate(
    chain: Chain,
    params: Params,
    psi_0: Array,
    method: Relax,
    start: States,
    perturbation: Perturbation | None,
    temperature: Number,
    key: Array,
) -> tuple[States, Solution]:
    L, scales, dtype = len(chain), chain._scales(params), start[0].dtype
    w = jnp.asarray(1.0 if method.over == "auto" else method.over, dtype)
    strength = w * (2 - w) * jnp.asarray(temperature, dtype)
    below = {k: chain.drive(params[k - 1], k, psi_0) for k in range(1, L + 1) if not any(chain.sources(k))}
    held = None
    if perturbation is not None and perturbation.at_once:
        held = start[-1] + chain.held(start[-1], perturbation)

    def field(k: int, s: States) -> Array:
        z = chain._field(params, k, (psi_0, *(chain.embed(j, s_j) for j, s_j in enumerate(s, start=1))), below.get(k))
        if k == L and perturbation is not None and held is None:
            z = z + chain.lift(perturbation.signal(chain.readout(s[-1])))
        return z

    def moved(k: int, s: States, xi: Array) -> Array:
        if k == L and held is not None:
            return held
        z = field(k, s)
        new = chain.towards(k, s[k - 1], chain.respond(k, z, scales[k - 1]), w)
        kick = jnp.sqrt(strength / chain.stiffness(z, scales[k - 1])) * xi
        return chain.towards(k, new, new + kick, jnp.ones((), dtype))  # into the range

    def one_pass(i: Any, s: States) -> States:
        xi = normals(jax.random.fold_in(key, i), s)  # in a loop: laid out, XLA would draw again for all that reads them
        for group in method.groups(L, perturbation is not None):
            new = {k: moved(k, s, xi[k - 1]) for k in group}
            s = tuple(new.get(k, block) for k, block in enumerate(s, start=1))
        return s

    s = lax.fori_loop(0, method.iterations, one_pass, start)
    rest = [chain.respond(k, field(k, s), scales[k - 1]) for k in range(1, L + 1)]
    rest = rest if held is None else [*rest[:-1], held]
    away = jnp.max(jnp.stack([relative(r - s_k, s_k) for r, s_k in zip(rest, s, strict=True)]))
    return s, Solution(None, None, jnp.int32(method.iterations), away, None, None)


def shaken(pcn: PCN, params: Params, x: Array, errors: States, temperature: Number, key: Array) -> States:
    """(h_1, ..., h_L) of a predictive coding network with errors eps_k + sqrt(T / pi_k) xi, in their range."""
    net, params, h = pcn.net, pcn.net.spread(params), [x]
    for k, (eps, xi) in enumerate(zip(errors, normals(key, errors), strict=True), start=1):
        precision = 1.0 if pcn.precisions is None else pcn.precisions[k - 1]
        kick = jnp.sqrt(jnp.asarray(temperature, eps.dtype) / precision)
        f = net.predict(params[k - 1], k, *(h[j] for j in net.sources(k)))
        h.append(net.activation(k).project(f + eps + kick * xi))
    return tuple(h[1:])


def normals(key: Array, like: Sequence[Array]) -> States:
    """Standard normal numbers of the shapes and dtypes of `like`."""
    return tuple(jax.random.normal(jax.random.fold_in(key, k), v.shape, v.dtype) for k, v in enumerate(like))
