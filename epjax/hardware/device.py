"""A physical system as it is built: a system itself, with noise, few bits and mismatch.

    couplings   w = m Q(theta)                    what is stored, and what the chip makes of it
    free        s^0 of E(w), settled as far as there is time, read as r^0
    nudged      s^beta of E(w') + gain beta C, read as r^beta,   w' = w (1 + d xi)
    contrast    sum_bp w_bp [dE/dw(r^beta) - dE/dw(r^0)]

A device measures states and subtracts them: errors are recomputed from reads, never carried. It does not know m, nor
what Q has rounded: its gradient is dE/dw, taken for theta.
"""

from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from epjax.cost import Cost
from epjax.hardware.nudging import Imprecise
from epjax.hardware.reading import Adc, read
from epjax.hardware.settling import Settling
from epjax.hardware.thermal import shaken, warm_free, warm_nudged
from epjax.hardware.values import Number, check_bits, check_least, is_on, is_traced
from epjax.hardware.variation import constant, drifted, mismatched, stored
from epjax.network import Params, States
from epjax.perturbation import Perturbation
from epjax.scheme import Scheme
from epjax.shapes import Array, InputShape
from epjax.systems import PCN, as_system, layer_by_layer
from epjax.systems.chain import Chain
from epjax.systems.pcn.energy import prediction_errors
from epjax.systems.solution import Errors, Solution
from epjax.systems.system import Argnums, Aux, ValueAndGrad

Rounding = Literal["nearest", "stochastic"]

WARM = 2**20
"""What sets the keys of fluctuations apart from those of reads, which count layers."""


@dataclass(frozen=True)
class Measured:
    """The free phase of one example: as it is, `rest`, and as it was read."""

    rest: Any
    reads: States

    @property
    def output(self) -> Array:
        """The output itself, which nudges: a circuit needs no read of it."""
        return self.rest.output  # type: ignore[no-any-return]

    @property
    def states(self) -> States:
        """The reads."""
        return self.reads

    @property
    def solution(self) -> Solution | None:
        """How the state was reached."""
        return self.rest.solution  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Device:
    """`system` as it is built. Every option is off by default; numbers may be traced, so that a sweep is a vmap.

        read_noise    r = s + sigma xi, sigma a share of the RMS of the layer's free state                  (no unit)
        noise_floor   the same whatever the state; both add in square                                (unit of states)
        reads         N of them are averaged: sigma / sqrt(N); reads of one state are independent
        adc           an `Adc`, after the average: levels D apart, error at most D / 2               (unit of states)
        mismatch      w = m theta, log m ~ N(- p^2 / 2, p^2), m of mean 1 for every coupling of the chip    (no unit)
        drift         w' = w (1 + d xi) where it is nudged, one xi for positive beta, one for negative      (no unit)
        weight_bits   Q(theta), 2^b levels over the layer's range; `rounding` to the nearest or stochastically  (bits)
        nudge_gain    T_L = - gain beta Q(dC/do)                                                            (no unit)
        nudge_bits    Q: 2^b - 1 levels from - nudge_range to nudge_range, 0 among them               (unit of dC/do)
        temperature   k_B T of fluctuations in both phases (`epjax.hardware.thermal`)                (unit of energy)
        settling      a `Settling`: so many iterations or time constants

    `seed` is the chip: it draws m, the drift's xi and a stochastic rounding, which stay. Noise is drawn from the key
    that an estimate is given, and each phase's from its strength beta as well: same key, same noise. What has no key,
    as an evaluation, is without noise. At a temperature all passes are run: what fluctuates meets no tolerance.
    A bias has no mismatch, drift or bits. The optimiser holds theta; where the memory is all there is, it is `write`'s
    after every step.

    Averaged reads: arXiv:2503.22810. Rounding: arXiv:1502.02551. Raises ValueError for a negative strength, fewer reads
    or bits than one, a gain that is not positive, a `system` that is none or a Device, and a temperature or a settling
    of a system of which it is not known how it settles.
    """

    system: Any
    _: KW_ONLY
    read_noise: Number = 0.0
    noise_floor: Number = 0.0
    reads: Number = 1
    adc: Adc | None = None
    mismatch: Number = 0.0
    drift: Number = 0.0
    weight_bits: Number | None = None
    rounding: Rounding = "nearest"
    nudge_gain: Number = 1.0
    nudge_bits: Number | None = None
    nudge_range: Number = 1.0
    temperature: Number = 0.0
    settling: Settling | None = None
    seed: int | Array = 0
    key: Array | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.system, Device):
            raise ValueError("system must be the ideal one, got a Device: give one Device all options")
        object.__setattr__(self, "system", layer_by_layer(as_system(self.system)))
        for name in ("read_noise", "noise_floor", "mismatch", "drift", "temperature"):
            check_least(name, getattr(self, name), 0)
        check_least("reads", self.reads, 1)
        check_least("nudge_gain", self.nudge_gain, 0)
        if not is_on(self.nudge_gain):
            raise ValueError(
                f"nudge_gain must be positive, got {self.nudge_gain!r}: without a nudge nothing is learned"
            )
        self._check_phases()
        if self.adc is not None and not isinstance(self.adc, Adc):
            raise ValueError(f"adc must be an Adc(bits, low, high) or None, got {self.adc!r}")
        if self.weight_bits is not None:
            check_bits("weight_bits", self.weight_bits)
        if self.rounding not in get_args(Rounding):
            raise ValueError(f"rounding must be one of {', '.join(get_args(Rounding))}, got {self.rounding!r}")

    def _check_phases(self) -> None:
        if self.nudge_bits is not None:
            check_bits("nudge_bits", self.nudge_bits, 2)
        check_least("nudge_range", self.nudge_range, 0)
        if not is_on(self.nudge_range):
            raise ValueError(f"nudge_range must be positive, got {self.nudge_range!r}")
        if self.settling is not None and not isinstance(self.settling, Settling):
            raise ValueError(f"settling must be a Settling or None, got {self.settling!r}")
        if (is_on(self.temperature) or self.settling) and not isinstance(self.system, Chain | PCN):
            name = type(self.system).__name__
            raise ValueError(
                f"temperature and settling must be off for {name}, of which it is not known how it settles"
            )

    # Noise.

    @property
    def noisy(self) -> bool:
        """Whether an estimate needs a key."""
        return self._reads_noise or is_on(self.temperature)

    @property
    def _reads_noise(self) -> bool:
        return is_on(self.read_noise) or is_on(self.noise_floor)

    def keyed(self, key: Array) -> "Device":
        """This device while it sees one example: its noise comes from `key`."""
        return replace(self, key=key)

    def _read(self, states: States, free: States, phase: Array | int) -> States:
        key = None if self.key is None or not self._reads_noise else jax.random.fold_in(self.key, phase)
        return read(states, free, self.read_noise, self.noise_floor, self.reads, self.adc, key)

    def clipped(self, params: Params, x: Array, free: Any = None) -> Array:
        """How many free states of each layer the converter clips for a batch x [B, ...]: [L], int32."""

        def one(x: Array) -> Array:
            states = self.free(params, x, free).rest.states
            return jnp.stack(
                [jnp.int32(0) if self.adc is None else self.adc.at(k).clips(s) for k, s in enumerate(states, 1)]
            )

        return jax.vmap(one)(x).sum(axis=0)

    # Parameters.

    def _chip(self, what: int) -> Array:
        if is_traced(self.seed):
            return jax.random.fold_in(jax.random.key(self.seed), what)
        with constant():
            return jax.random.fold_in(jax.random.key(self.seed), what)

    def write(self, params: Params, key: Array | None = None) -> Params:
        """Q(theta), what the memory holds; a stochastic rounding is drawn from `key`, or from the seed without one."""
        if self.weight_bits is None:
            return params
        drawn = self._chip(2) if key is None else key
        return stored(params, self.weight_bits, drawn if self.rounding == "stochastic" else None)

    def couplings(self, params: Params, beta: Array | None = None) -> Params:
        """w = m Q(theta), drifted where `beta` nudges it; dw/dtheta is 1, for neither m nor Q is known outside."""
        w = self.write(params)
        if is_on(self.mismatch):
            w = mismatched(w, self.mismatch, self._chip(0))
        if beta is not None and is_on(self.drift):
            after, before = (drifted(w, self.drift, self._chip(i)) for i in (1, 3))
            w = jax.tree.map(lambda a, b: jnp.where(beta > 0, a, b), after, before)
        if w is params:
            return params
        return jax.tree.map(lambda w, v: lax.stop_gradient(w) + (v - lax.stop_gradient(v)), w, params)  # type: ignore[no-any-return]

    def init(self, key: Array, input_shape: InputShape) -> Params:
        """The system's parameters."""
        return self.system.init(key, input_shape)  # type: ignore[no-any-return]

    def project(self, params: Params) -> Params:
        """The nearest parameters that the system can have."""
        return self.system.project(params)  # type: ignore[no-any-return]

    # What it is given.

    def check(self, scheme: Scheme, equilibration: Any, errors: Errors) -> None:
        """Raises ValueError for carried errors, for complex strengths, and for what the system refuses."""
        if errors != "recomputed":
            raise ValueError(
                f"errors must be 'recomputed' on a Device, which measures states and subtracts them, got {errors!r}"
            )
        if scheme.is_complex:
            raise ValueError("scheme='holomorphic' needs complex states, but a Device reads real ones")
        if len(set(scheme.s)) < len(scheme.s):
            raise ValueError(f"s must differ from phase to phase on a Device, whose noise goes by them, got {scheme.s}")
        self.system.check(scheme, self._settled(equilibration), errors)

    def _settled(self, method: Any) -> Any:
        return method if self.settling is None else self.settling.of(self.system, method)

    def examine(self, params: Params, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        """The system's free output for one input of that shape and dtype."""
        return self.system.examine(params, x)  # type: ignore[no-any-return]

    def check_values(self, params: Params, x: Any) -> None:
        """Raises ValueError for what the system refuses, and for a converter that clips most free states of a layer."""
        self.system.check_values(params, x)
        traced = any(map(is_traced, jax.tree.leaves((self.mismatch, self.weight_bits, self.seed))))
        if self.adc is None or traced or any(map(is_traced, (self.adc.bits, self.adc.low, self.adc.high))):
            return
        free = jax.eval_shape(lambda x: self.system.free(params, x).states, jax.ShapeDtypeStruct(x.shape[1:], x.dtype))
        for k, (n, s) in enumerate(zip(np.asarray(self.clipped(params, x)), free, strict=True), start=1):
            share = int(n) / (s.size * x.shape[0])
            if share > 0.5:
                adc = self.adc.at(k)
                span = f"{float(adc.low):g} to {float(adc.high):g} clips {share:.0%} of layer {k}"
                raise ValueError(f"low and high of the ADC must hold at least half of the free states, but {span}")

    @property
    def input_range(self) -> tuple[float, float] | None:
        """The system's."""
        return self.system.input_range  # type: ignore[no-any-return]

    def default_equilibration(self) -> Any:
        """The system's."""
        return self.system.default_equilibration()

    def default_free(self) -> Any:
        """The system's."""
        return self.system.default_free()

    # The phases.

    def free(self, params: Params, x: Array, method: Any = None) -> Measured:
        """The free phase of one example and its reads."""
        w, system, warm = self.couplings(params), self.system, self._warm(0)
        method = self._settled(self.default_free() if method is None else method)
        if warm is not None and isinstance(system, Chain):
            rest: Any = warm_free(system, w, x, method, self.temperature, warm)
        else:
            rest = system.free(w, x, method)
        return Measured(rest, self._read(rest.states, rest.states, 0))

    def nudged(
        self, params: Params, free: Measured, perturbation: Perturbation, method: Any, errors: Errors
    ) -> Solution:
        """The nudged state of one example as it was read; of a predictive coding network with those errors."""
        system, rest = self.system, free.rest
        phase = lax.bitcast_convert_type(perturbation.beta.astype(jnp.float32), jnp.uint32)
        w = self.couplings(params, perturbation.beta)
        if isinstance(system, PCN) and is_on(self.drift):  # it has its layers linearised where the couplings are
            rest = system.free(w, rest.h[0])
        force = Imprecise(perturbation, self.nudge_gain, self.nudge_bits, self.nudge_range)
        found = self._pushed(w, rest, force, self._settled(method), errors, self._warm(phase))
        assert found.h is not None
        reads, eps = self._read(found.h, free.rest.states, phase), None
        if isinstance(system, PCN):
            w = self.couplings(params)
            eps = prediction_errors(system.net, system.net.spread(w), rest.h[0], reads)
        return replace(found, h=reads, errors=eps)

    def _warm(self, phase: Array | int) -> Array | None:
        if self.key is None or not is_on(self.temperature):
            return None
        return jax.random.fold_in(jax.random.fold_in(self.key, phase), WARM)

    def _pushed(
        self, w: Params, rest: Any, perturbation: Perturbation, method: Any, errors: Errors, warm: Array | None
    ) -> Solution:
        """The nudged state itself, with fluctuations that are drawn from `warm`."""
        system, T = self.system, self.temperature
        if warm is not None and isinstance(system, Chain):
            return warm_nudged(system, w, rest, perturbation, method, T, warm)
        found: Solution = system.nudged(w, rest, perturbation, method, errors)
        if warm is None or found.errors is None:
            return found
        return replace(found, h=shaken(system, w, rest.h[0], found.errors, T, warm))

    # What is seen of them.

    def moved(self, free: Measured, nudged: Solution) -> Array:
        """o^beta - o^0: of a predictive coding network from the free output itself, or from both reads."""
        at = free.rest if isinstance(self.system, PCN) else replace(free.rest, states=free.reads)
        return self.system.moved(at, nudged)  # type: ignore[no-any-return]

    def answer(self, params: Params, free: Measured, force: Array) -> Array:
        """Chi force, where the device is."""
        return self.system.answer(self.couplings(params), free.rest, force)  # type: ignore[no-any-return]

    def crossings(self, params: Params, x: Array, free: States, nudged: States) -> Array:
        """The share of each block's switches that stand otherwise in the reads of the nudged state."""
        return self.system.crossings(self.couplings(params), x, free, nudged)  # type: ignore[no-any-return]

    def jumped(self, displacements: States) -> Array:
        """Whether reads are so far apart that another equilibrium was reached."""
        return self.system.jumped(displacements)  # type: ignore[no-any-return]

    # The gradients.

    def contrast(
        self, params: Params, x: Array, free: States, nudged: States, errors: States | None, weights: Array
    ) -> Array:
        """The system's, of the reads, where the device is."""
        return self.system.contrast(self.couplings(params), x, free, nudged, errors, weights)  # type: ignore[no-any-return]

    def exact(self, cost: Cost, argnums: Argnums = 0, free: Any = None) -> ValueAndGrad:
        """The gradient dC/dw of the device's own cost, without noise: what an estimate is held against."""
        inner = self.system.exact(cost, argnums, free)

        def value_and_grad(
            params: Params, x: Array, y: Array, key: Array | None = None
        ) -> tuple[tuple[Array, Aux], Params]:
            return inner(self.couplings(params), x, y, key)  # type: ignore[no-any-return]

        return value_and_grad
