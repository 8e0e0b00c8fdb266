"""What can train a network, by the name that `--algorithm` knows. Only the first of them is equilibrium propagation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from epjax import backprop_value_and_grad, exact_value_and_grad, pc, value_and_grad
from epjax.cost import Cost
from epjax.systems.system import ValueAndGrad

MakeGradient = Callable[[Any, Any, Cost, Mapping[str, Any]], ValueAndGrad]
"""(options of the run, network, cost, EP's options) -> its gradient."""


@dataclass(frozen=True)
class Algorithm:
    """A way to a gradient; `gradient` None: a batch is more than one update, see `epjax.runs.task.incremental`.

    `of_any_system`: it needs no forward pass.
    """

    label: str
    gradient: MakeGradient | None
    infers: bool = False
    of_any_system: bool = False

    def describe(self, options: Any) -> str:
        """The label with what its numbers depend on, for an algorithm that is not EP."""
        how = f", T = {options.inference_steps}, alpha = {options.inference_rate:g}" if self.infers else ""
        return f"{self.label}{how}, {options.cost}, {options.precision}"


def inference(options: Any) -> dict[str, Any]:
    """The options of an algorithm that infers."""
    return {"steps": options.inference_steps, "rate": options.inference_rate}


ALGORITHMS: Mapping[str, Algorithm] = {
    "ep": Algorithm("EP", lambda options, net, cost, ep: value_and_grad(net, cost, **ep), of_any_system=True),
    "bp": Algorithm("backpropagation", lambda options, net, cost, ep: backprop_value_and_grad(net, cost)),
    "exact": Algorithm(
        "exact gradient",
        lambda options, net, cost, ep: exact_value_and_grad(net, cost, free=ep["free"]),
        of_any_system=True,
    ),
    "il": Algorithm(
        "inference learning",
        lambda options, net, cost, ep: pc.inference_learning_value_and_grad(net, cost, **inference(options)),
        infers=True,
    ),
    "epc": Algorithm(
        "error optimisation",
        lambda options, net, cost, ep: pc.error_optimisation_value_and_grad(net, cost, **inference(options)),
        infers=True,
    ),
    "ipc": Algorithm("incremental predictive coding", None, infers=True),
}
