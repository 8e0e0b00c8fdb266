"""pcx: state predictive coding as its AlexNet notebook has it: momentum 0.5, rate 0.05, T = 13, or L if deeper."""

import jax
import jax.numpy as jnp
import optax
import pcx as px
import pcx.functional as pxf
import pcx.nn as pxnn
import pcx.predictive_coding as pxc
import pcx.utils as pxu

RATE, MOMENTUM, LEAST_STEPS = 0.05, 0.5, 13


class Model(pxc.EnergyModule):
    """A state after every layer, the cross-entropy at the output."""

    def __init__(self, case, weights):
        super().__init__()
        self.case = px.static(case)
        self.layers = [[pxnn.LayerParam(v) for v in w] for w in weights]
        self.vodes = [pxc.Vode() for _ in weights[:-1]] + [pxc.Vode(pxc.ce_energy)]
        self.vodes[-1].h.frozen = True

    def __call__(self, x, y):
        """One example."""
        for k, (vode, w) in enumerate(zip(self.vodes, self.layers, strict=True)):
            x = vode(self.case.get().layer(k, [v.get() for v in w], x))
        if y is not None:
            self.vodes[-1].set("h", y)
        return self.vodes[-1].get("u")


_STATES = pxu.M(pxc.VodeParam | pxc.VodeParam.Cache).to((None, 0))


@pxf.vmap(_STATES, in_axes=(0, 0), out_axes=0)
def _forward(x, y, *, model):
    return model(x, y)


@pxf.vmap(_STATES, in_axes=(0,), out_axes=(None, 0), axis_name="batch")
def _energy(x, *, model):
    y_ = model(x, None)
    return jax.lax.psum(model.energy(), "batch"), y_


def steps(case):
    """T steps on the states, the gradient of the energy by the weights, over the batch."""
    T = max(len(case.layers), LEAST_STEPS)

    def step(weights, x, y):
        model = Model(case, weights)
        model.train()
        with pxu.step(model, pxc.STATUS.INIT, clear_params=pxc.VodeParam.Cache):
            _forward(x, y, model=model)
        free = pxu.M_hasnot(pxc.VodeParam, frozen=True)
        optim = pxu.Optim(lambda: optax.sgd(RATE, momentum=MOMENTUM, nesterov=True), free(model))
        for _ in range(T):
            with pxu.step(model, clear_params=pxc.VodeParam.Cache):
                _, g = pxf.value_and_grad(free.to([False, True]), has_aux=True)(_energy)(x, model=model)
            optim.step(model, g["model"])
        with pxu.step(model, clear_params=pxc.VodeParam.Cache):
            _, g = pxf.value_and_grad(pxu.M(pxnn.LayerParam).to([False, True]), has_aux=True)(_energy)(x, model=model)
        return [[jnp.asarray(v.get()) / len(x) for v in w] for w in g["model"].layers]

    return {f"PC, T = {T}, rate {RATE}, momentum {MOMENTUM}": step}
