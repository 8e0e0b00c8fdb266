"""Systems of one form: blocks that embed, couple and respond. Hopfield, resistive and oscillator networks share it.

    E(theta, x, s) = sum_k U_k(psi_k) - sum_k < psi_k, B_k psi_{k-1} + b_k >,   psi_k = psi(s_k),  psi_0 = psi(x)
    field          z_k = b_k + B_k psi_{k-1} + B_{k+1}^T psi_{k+1}
    response       s_k = argmin_s U_k(psi(s)) - < psi(s), z_k >                  exact over the block
    nudge          adds T_L = - beta dC/do to the field of the output o

E is at most quadratic in psi. Differences d_k = s_k^beta - s_k^0 are carried, never formed by subtraction:

    field          dz_k = B_k dpsi_{k-1} + B_{k+1}^T dpsi_{k+1}                  dpsi_k = psi(s_k^0 + d_k) - psi(s_k^0)
    contrast       sum_b w_b [E(s^beta) - E(s^0)] = sum_b w_b dE/dpsi at psi^0 + dpsi / 2, along dpsi

so that one-sided EP at beta 1e-5 is exact in float32, where plain subtraction drowns in rounding. The last line is
exact for couplings that are affine; through a maximum (max-pooling) it is exact as long as no route changes.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from epjax.cost import Cost
from epjax.network import Params, States
from epjax.network.kinks import crossed, switches
from epjax.network.summary import Row, count, flops, table
from epjax.perturbation import Perturbation
from epjax.scheme import Scheme
from epjax.shapes import Array, Inexact, InputShape, shape_of
from epjax.systems.relax import Relax, Relaxed, relax
from epjax.systems.solution import Errors, Solution
from epjax.systems.system import Argnums, Aux, ValueAndGrad

FREE, NUDGED = Relax(200, tolerance=1e-6), Relax(200, tolerance=1e-5)
"""How phases are relaxed where nothing is said."""


@partial(
    jax.tree_util.register_dataclass, data_fields=["output", "states", "solution", "psi", "fields"], meta_fields=[]
)
@dataclass(frozen=True)
class Rest:
    """The free phase of one example: output, (s_1..s_L), how it was reached, (psi_0..psi_L) and the fields there."""

    output: Array
    states: States
    solution: Solution
    psi: States
    fields: States


class Chain:
    """The methods of a `System` from a few small functions, which a frozen dataclass gives.

    Blocks count from 1 to `len`; block 0 is the input. `drive` must be affine in what it is given.
    """

    @abstractmethod
    def __len__(self) -> int:
        """L."""

    @abstractmethod
    def init(self, key: Array, input_shape: InputShape) -> Params:
        """Theta for one input of `input_shape`."""

    @abstractmethod
    def drive(self, theta_k: Any, k: int, *psi: Array) -> Array:
        """B_k psi_{k-1} + b_k, the field that block k has from those that feed it."""

    @abstractmethod
    def respond(self, k: int, z: Array, scale: Array | None) -> Array:
        """The exact minimum of U_k(psi(s)) - < psi(s), z >."""

    @abstractmethod
    def respond_difference(self, k: int, z: Array, dz: Array, scale: Array | None) -> Array:
        """respond(z + dz) - respond(z), never formed as a difference."""

    @abstractmethod
    def towards(self, k: int, old: Array, new: Array, w: Array, at: Array | None = None) -> Array:
        """old + w (new - old) within the block's range; of differences from the states `at`."""

    def sources(self, k: int) -> tuple[int, ...]:
        """The blocks that feed block k."""
        return (k - 1,)

    def embed(self, k: int, s: Array) -> Array:
        """psi(s_k)."""
        del k
        return s

    def embed_difference(self, k: int, s: Array, d: Array) -> Array:
        """psi(s_k + d) - psi(s_k), never formed as a difference."""
        del k, s
        return d

    def scale(self, params: Params, k: int) -> Array | None:
        """What U_k = 1/2 scale psi^2 is weighted with; None: 1."""
        del params, k
        return None

    def own(self, k: int, psi: Array, scale: Array | None) -> Array:
        """U_k of one example."""
        del k
        return 0.5 * jnp.sum(psi * psi if scale is None else scale * psi * psi)

    def inside(self, k: int, s: Array) -> Array | None:
        """Which units of block k are not at an end of their range; None: there are no ends."""
        del k, s
        return None

    def readout_difference(self, s_L: Array, d: Array) -> Array:
        """readout(s_L + d) - readout(s_L), never formed as a difference."""
        del s_L
        return d

    def jumped(self, displacements: States) -> Array:
        """Never: there is one equilibrium to move to."""
        del displacements
        return jnp.zeros((), bool)

    def readout(self, s_L: Array) -> Array:
        """The output o that the cost sees."""
        return s_L

    def lift(self, T: Array) -> Array:
        """A force on the output as a field of its block."""
        return T

    def start(self, params: Params, x: Inexact[Array, "..."]) -> States:
        """Where a free phase starts: each block responds to what is below it."""
        blocks: list[Array] = []
        psi = [self.embed(0, x)]
        for k in range(1, len(self) + 1):
            z = self.drive(params[k - 1], k, *(psi[j] for j in self.sources(k)))
            blocks.append(self.respond(k, z, self.scale(params, k)))
            psi.append(self.embed(k, blocks[-1]))
        return tuple(blocks)

    def project(self, params: Params) -> Params:
        """All parameters are allowed."""
        return params

    def examine(self, params: Params, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        """The output at the start of a free phase. Raises ValueError for parameters and input that do not fit."""
        try:
            return jax.eval_shape(lambda params, x: self.readout(self.start(params, x)[-1]), params, x)
        except (TypeError, KeyError, IndexError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ValueError(
                f"{self._name} refuses an input x of shape {x.shape} or its parameters: {reason}"
            ) from None

    def summary(self, input_shape: InputShape) -> str:
        """A table of the blocks for one input of `input_shape`: shapes, parameters, FLOPs of a drive.

        A pass costs twice as much, for it goes through every drive and its transpose.
        """
        x = jax.ShapeDtypeStruct(shape_of(input_shape), jnp.float32)
        params = jax.eval_shape(lambda key: self.init(key, input_shape), jax.random.key(0))
        states = jax.eval_shape(self.start, params, x)
        psi = [jax.eval_shape(partial(self.embed, k), s) for k, s in enumerate((x, *states))]
        rows = []
        for k in range(1, len(self) + 1):
            work = flops(
                lambda theta, *v, k=k: self.drive(theta, k, *v), params[k - 1], *(psi[j] for j in self.sources(k))
            )
            rows.append(Row(self._name, "", self.sources(k), states[k - 1].shape, count(params[k - 1]), work))
        return table(f"{self._name} of {len(self)} blocks", shape_of(input_shape), rows)

    def default_free(self) -> Relax:
        """Passes from the input up, to 1e-6."""
        return FREE

    def check_values(self, params: Params, x: Any) -> None:
        """Raises ValueError for an input outside `input_range`."""
        del params
        if self.input_range is not None:
            low, high = self.input_range
            values = np.asarray(x)  # known ones; jax would trace them within a jit
            least, most = float(values.min()), float(values.max())
            if not low <= least <= most <= high:
                span = f"got values from {least:g} to {most:g}"
                raise ValueError(f"x must lie between {low:g} and {high:g} for {self._name}, {span}")

    @property
    def input_range(self) -> tuple[float, float] | None:
        """Anywhere."""
        return None

    def default_equilibration(self) -> Relax:
        """Passes from the output down, to 1e-5."""
        return NUDGED

    def check(self, scheme: Scheme, equilibration: Any, errors: Errors) -> None:
        """Raises ValueError for complex strengths, and for an equilibration that is none of a chain."""
        del errors
        if scheme.is_complex:
            raise ValueError(f"scheme='holomorphic' needs analytic responses, but those of {self._name} have kinks")
        if not isinstance(equilibration, Relax):
            raise ValueError(f"equilibration of {self._name} must be epjax.Relax(...), got {equilibration!r}")

    @property
    def _name(self) -> str:
        return type(self).__name__

    # The energy, and the fields that are its derivatives.

    def energy(self, params: Params, x: Inexact[Array, "..."], s: States) -> Inexact[Array, ""]:
        """E(theta, x, s) of one example."""
        return self.energy_of(params, self.embed(0, x), tuple(self.embed(k, s_k) for k, s_k in enumerate(s, start=1)))

    def energy_of(self, params: Params, psi_0: Array, psi: Sequence[Array]) -> Array:
        """E as a function of the embedded blocks, in which it is at most quadratic."""
        total = self.constant(params, psi_0)
        every = (psi_0, *psi)
        for k in range(1, len(self) + 1):
            z = self.drive(params[k - 1], k, *(every[j] for j in self.sources(k)))
            total += self.own(k, every[k], self.scale(params, k)) - jnp.sum(every[k] * z)
        return total

    def constant(self, params: Params, psi_0: Array) -> Array:
        """What of the energy does not depend on the state."""
        del params
        return jnp.zeros((), psi_0.dtype)

    def _feeds(self, k: int) -> list[int]:
        return [j for j in range(k + 1, len(self) + 1) if k in self.sources(j)]

    def _field(self, params: Params, k: int, psi: Sequence[Array], below: Array | None = None) -> Array:
        """z_k at the embedded blocks (psi_0..psi_L); `below` is its share from the clamped input, if that is all."""
        z = self.drive(params[k - 1], k, *(psi[j] for j in self.sources(k))) if below is None else below
        for j in self._feeds(k):
            z = z + self._pull(params, j, k, psi, psi[j])
        return z

    def _pull(self, params: Params, j: int, k: int, psi: Sequence[Array], cotangent: Array) -> Array:
        """B_j^T cotangent, to block k."""

        def of(psi_k: Array) -> Array:
            return self.drive(params[j - 1], j, *(psi_k if i == k else psi[i] for i in self.sources(j)))

        (up,) = jax.vjp(of, psi[k])[1](cotangent)
        return up  # type: ignore[no-any-return]

    def _field_difference(self, params: Params, k: int, psi: Sequence[Array], dpsi: Sequence[Array]) -> Array:
        """dz_k from the differences (0, dpsi_1, ..., dpsi_L), at the middle between the two states."""
        middle = [p + 0.5 * d for p, d in zip(psi, dpsi, strict=True)]
        sources = self.sources(k)
        if any(sources):
            drive = partial(self.drive, params[k - 1], k)
            _, dz = jax.jvp(drive, tuple(middle[j] for j in sources), tuple(dpsi[j] for j in sources))
        else:
            dz = jnp.zeros_like(psi[k])
        for j in self._feeds(k):
            dz = dz + self._pull(params, j, k, middle, dpsi[j])
        return dz

    # The phases.

    def free(
        self, params: Params, x: Inexact[Array, "..."], method: Relax | None = None, start: States | None = None
    ) -> Rest:
        """The free equilibrium of one example, relaxed from the states `start` of all blocks; None: from `self.start`.

        Raises ValueError for a method that is no Relax, and for a start of other shapes than the blocks have.
        """
        method = FREE if method is None else method
        if not isinstance(method, Relax):
            raise ValueError(f"free of {self._name} must be epjax.Relax(...) or None, got {method!r}")
        if start is None:
            start = self.start(params, x)
        else:
            wanted, given = ([s.shape for s in states] for states in (jax.eval_shape(self.start, params, x), start))
            if wanted != given:
                raise ValueError(f"start of {self._name} must hold blocks of shapes {wanted}, got {given}")
        psi_0 = self.embed(0, x)
        found = self._settle(params, psi_0, method, False, tuple(start), self._at_rest)
        psi = (psi_0, *(self.embed(k, s_k) for k, s_k in enumerate(found.blocks, start=1)))
        fields = tuple(self._field(params, k, psi) for k in range(1, len(self) + 1))
        solution = Solution(None, None, found.iterations, found.residual, found.converged, None)
        return Rest(self.readout(found.blocks[-1]), found.blocks, solution, psi, fields)

    def nudged(self, params: Params, free: Rest, perturbation: Perturbation, method: Relax, errors: Errors) -> Solution:
        """The nudged equilibrium of one example, from the free one.

        With carried errors those of the solution are d_k = s_k^beta - s_k^0; "recomputed" gives None in their place:
        the states are measured, as a device does it, and whoever wants differences subtracts.
        """
        if errors == "recomputed":

            def push(s_L: Array) -> Array:
                return self.lift(perturbation.signal(self.readout(s_L)))

            found = self._settle(params, free.psi[0], method, True, free.states, push, perturbation)
            states, d = found.blocks, None
        else:
            found = self.differences(params, free, perturbation, method)
            states, d = tuple(s + d_k for s, d_k in zip(free.states, found.blocks, strict=True)), found.blocks
        return Solution(states, d, found.iterations, found.residual, found.converged, None, found.changes)

    def stiffness(self, z: Array, scale: Array | None) -> Array:
        """kappa_k = d^2E/ds_k^2 of a block in the field z: what its unit weighs, 1 where it has no scale."""
        return jnp.ones_like(z) if scale is None else scale

    def _at_rest(self, s_L: Array) -> Array:
        """No push on the output."""
        return self.lift(jnp.zeros_like(s_L))

    def _settle(
        self,
        params: Params,
        psi_0: Array,
        method: Relax,
        nudged: bool,
        start: States,
        push: Callable[[Array], Array],
        perturbation: Perturbation | None = None,
    ) -> Relaxed:
        """States under a `push` on the field of the output."""
        L, scales = len(self), self._scales(params)
        below = {k: self.drive(params[k - 1], k, psi_0) for k in range(1, L + 1) if not any(self.sources(k))}
        held = None
        if perturbation is not None and perturbation.at_once:
            held = self.held(start[-1], perturbation)

        def respond(k: int, s: States) -> Array:
            if k == L and held is not None:
                return start[-1] + held
            psi = (psi_0, *(self.embed(j, s_j) for j, s_j in enumerate(s, start=1)))
            z = self._field(params, k, psi, below.get(k))
            return self.respond(k, z + push(s[-1]) if k == L else z, scales[k - 1])

        return relax(method, method.groups(L, nudged), respond, self.towards, start)

    def differences(
        self, params: Params, free: Rest, perturbation: Perturbation, method: Relax, start: States | None = None
    ) -> Relaxed:
        """d_k = s_k^beta - s_k^0 of ONE example, carried: relaxed from `start` (a block a layer), else from 0."""
        L, scales, states = len(self), self._scales(params), free.states
        held = self.held(states[-1], perturbation) if perturbation.at_once else None
        nothing = jnp.zeros_like(free.psi[0])
        rest = [self.respond(k, free.fields[k - 1], scales[k - 1]) for k in range(1, L + 1)]

        def respond(k: int, d: States) -> Array:
            if k == L and held is not None:
                return held
            changes = (self.embed_difference(j, states[j - 1], d[j - 1]) for j in range(1, L + 1))
            dz = self._field_difference(params, k, free.psi, (nothing, *changes))
            if k == L:
                dz = dz + self.lift(perturbation.signal(self.readout(states[-1] + d[-1])))
            return self.respond_difference(k, free.fields[k - 1], dz, scales[k - 1])

        def towards(k: int, old: Array, new: Array, w: Array) -> Array:
            return self.towards(k, old, new, w, rest[k - 1])

        start = tuple(jnp.zeros_like(s) for s in states) if start is None else start
        return relax(method, method.groups(L, True), respond, towards, start)

    def held(self, s_L: Array, perturbation: Perturbation) -> Array:
        """The displacement of a clamped output."""
        return perturbation.signal(self.readout(s_L))

    def _scales(self, params: Params) -> list[Array | None]:
        return [self.scale(params, k) for k in range(1, len(self) + 1)]

    # What is seen of the phases.

    def moved(self, free: Rest, nudged: Solution) -> Array:
        """o^beta - o^0, from the carried difference where there is one."""
        assert nudged.h is not None
        d = nudged.h[-1] - free.states[-1] if nudged.errors is None else nudged.errors[-1]
        return self.readout_difference(free.states[-1], d)

    def answer(self, params: Params, free: Rest, force: Array) -> Array:
        """chi force, from the linearised blocks."""
        (of_output,) = jax.linear_transpose(self.lift, force)(self._tangent(params, free, force, None).blocks[-1])
        return of_output  # type: ignore[no-any-return]

    def crossings(self, params: Params, x: Array, free: States, nudged: States) -> Array:
        """Ends of ranges, and what the drives compare."""

        def at(k: int, states: States) -> list[Array]:
            psi = [self.embed(j, s) for j, s in enumerate(states)]
            inside = self.inside(k, states[k])
            found = switches(partial(self.drive, params[k - 1], k), *(psi[j] for j in self.sources(k)))
            return found if inside is None else [*found, inside]

        return crossed(len(self), at, (x, *free), (x, *(jnp.real(s) for s in nudged)))

    # The gradients.

    def contrast(
        self, params: Params, x: Array, free: States, nudged: States, errors: States | None, weights: Array
    ) -> Array:
        """sum_bp weights_bp [E(s^beta) - E(s^0)]: one derivative at the middle, or a subtraction without `errors`."""
        stop = jax.tree.map(lax.stop_gradient, (free, nudged, errors))
        free, nudged, errors = stop
        if errors is None:

            def difference(x: Array, s: States, s_beta: States, w: Array) -> Array:
                at_rest = self.energy(params, x, s)
                return jnp.sum(jax.vmap(lambda w, *s: w * (self.energy(params, x, s) - at_rest))(w, *s_beta))

            return jnp.sum(jax.vmap(difference)(x, free, nudged, weights))

        def slope(x: Array, s: States, d: States, w: Array) -> Array:
            psi_0 = self.embed(0, x)
            psi = tuple(self.embed(k, s_k) for k, s_k in enumerate(s, start=1))

            def along(w: Array, *d: Array) -> Array:
                dpsi = tuple(self.embed_difference(k, s[k - 1], d_k) for k, d_k in enumerate(d, start=1))
                middle = tuple(p + 0.5 * dp for p, dp in zip(psi, dpsi, strict=True))
                return w * jax.jvp(partial(self.energy_of, params, psi_0), (middle,), (dpsi,))[1]

            return jnp.sum(jax.vmap(along)(w, *d))

        return jnp.sum(jax.vmap(slope)(x, free, errors, weights))

    def exact(
        self, cost: Cost, argnums: Argnums = 0, free: Relax | None = None, solve: Relax | None = None
    ) -> ValueAndGrad:
        """The gradient of the cost at the free equilibrium, by implicit differentiation.

            dC/dtheta = d/dtheta <dE/ds, v> at s^0,    H v = - dC/ds_L,   H = d^2E/ds^2 on the blocks that can move

        v is relaxed block by block: each responds, linearised, to the field of the others (`solve`, default 400 passes
        to 1e-6, or to 1e-12 in float64; over-relaxed at need). `aux.solution` tells passes and residual of v.
        """

        def one(params: Params, x: Array, y: Array) -> tuple[Rest, Relaxed]:
            rest = self.free(params, x, free)
            return rest, self._tangent(params, rest, -jax.grad(lambda o: cost(o, y))(rest.output), solve)

        def value_and_grad(
            params: Params, x: Array, y: Array, key: Array | None = None
        ) -> tuple[tuple[Array, Aux], Params]:
            del key
            rest, v = jax.vmap(lambda x, y: _plain(one(params, x, y)))(x, y)
            blocks, iterations, residual, converged = v

            def slope(params: Params, x: Array, s: States, dpsi: States) -> Array:
                psi = tuple(self.embed(k, s_k) for k, s_k in enumerate(s, start=1))
                energy = partial(self.energy_of, params, self.embed(0, x))
                return jax.jvp(energy, (psi,), (dpsi,))[1]

            def total(params: Params, x: Array) -> Array:
                return jnp.mean(jax.vmap(partial(slope, params))(x, rest.states, blocks))

            grads = jax.grad(total, argnums)(params, x)
            told = Solution(None, None, iterations[:, None], residual[:, None], converged[:, None], None)
            mean = jnp.mean(jax.vmap(cost)(rest.output, y))
            return (mean, Aux(rest.output, told, rest.solution)), grads

        return value_and_grad

    def _tangent(self, params: Params, rest: Rest, force: Array, solve: Relax | None) -> Relaxed:
        """dpsi/dbeta at the free state under a `force` on the output: the linearised blocks, relaxed."""
        L, scales = len(self), self._scales(params)
        tolerance = 1e-12 if rest.output.dtype == jnp.float64 else 1e-6
        method = Relax(400, tolerance, over="auto") if solve is None else solve
        nothing = jnp.zeros_like(rest.psi[0])

        def respond(k: int, v: States) -> Array:
            dz = self._field_tangent(params, k, rest.psi, (nothing, *v))
            if k == L:
                dz = dz + self.lift(force)
            ds = jax.jvp(lambda z: self.respond(k, z, scales[k - 1]), (rest.fields[k - 1],), (dz,))[1]
            return jax.jvp(partial(self.embed, k), (rest.states[k - 1],), (ds,))[1]

        def towards(k: int, old: Array, new: Array, w: Array) -> Array:
            del k
            return old + w * (new - old)

        start = tuple(jnp.zeros_like(p) for p in rest.psi[1:])
        return relax(method, method.groups(L, True), respond, towards, start)

    def _field_tangent(self, params: Params, k: int, psi: Sequence[Array], dpsi: Sequence[Array]) -> Array:
        """dz_k at psi itself."""
        return self._field_difference(params, k, [p - 0.5 * d for p, d in zip(psi, dpsi, strict=True)], dpsi)


def _plain(found: tuple[Rest, Relaxed]) -> tuple[Rest, tuple[States, Array, Array, Array]]:
    rest, v = found
    converged = jnp.ones((), bool) if v.converged is None else v.converged
    return rest, (v.blocks, v.iterations, v.residual, converged)
