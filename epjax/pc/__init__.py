"""Predictive coding's own algorithms, by name, to compare with: none of them is equilibrium propagation.

    inference_learning_value_and_grad    IL: the output clamped to its target, small steps of the states
    error_optimisation_value_and_grad    ePC: gradient steps of the errors through the whole network
    incremental_update                   iPC: a step of the states and one of the parameters in turn

The first two have the signature of `epjax.value_and_grad`; iPC has its optimiser inside. docs/predictive_coding.md.
"""

from epjax.pc.error_optimisation import error_optimisation_value_and_grad
from epjax.pc.incremental import incremental_update
from epjax.pc.inference_learning import inference_learning_value_and_grad

__all__ = ["error_optimisation_value_and_grad", "incremental_update", "inference_learning_value_and_grad"]
