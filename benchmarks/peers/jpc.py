"""jpc: error-reparameterised and state predictive coding as its example `epc.ipynb` runs them: T = L, rate 0.5."""

import equinox as eqx
import jax.numpy as jnp
import jpc
import optax

RATE = 0.5


def steps(case):
    """ePC and state PC, both L steps of SGD and the cross-entropy."""
    L = len(case.layers)

    def epc(weights, x, y):
        model, optim = _model(case, weights), optax.sgd(RATE)
        errors = [jnp.zeros_like(h) for h in jpc.init_activities_with_ffwd(model=model, input=x)]
        state = optim.init(errors)
        for _ in range(L):
            found = jpc.update_epc_errors(
                params=(model, None), errors=errors, optim=optim, opt_state=state, output=y, input=x, loss_id="ce"
            )
            errors, state = found["errors"], found["opt_state"]
        return _layout(jpc.compute_epc_param_grads(params=(model, None), errors=errors, y=y, x=x, loss_id="ce"))

    def states(weights, x, y):
        params, optim = (_model(case, weights), None), optax.sgd(RATE)
        h = jpc.init_activities_with_ffwd(model=params[0], input=x)
        state = optim.init(h)
        for _ in range(L):
            found = jpc.update_pc_activities(
                params=params, activities=h, optim=optim, opt_state=state, output=y, input=x, loss_id="ce"
            )
            h, state = found["activities"], found["opt_state"]
        return _layout(jpc.compute_pc_param_grads(params=params, activities=h, y=y, x=x, loss_id="ce"))

    return {f"ePC, T = L, rate {RATE}": epc, f"state PC, T = L, rate {RATE}": states}


class Layer(eqx.Module):
    """Layer k of the case, for one example."""

    weights: list
    k: int = eqx.field(static=True)
    case: object = eqx.field(static=True)

    def __call__(self, h):
        """h_{k+1}."""
        return self.case.layer(self.k, self.weights, h)


def _model(case, weights):
    return [Layer(list(w), k, case) for k, w in enumerate(weights)]


def _layout(grads):
    return [layer.weights for layer in grads[0]]
