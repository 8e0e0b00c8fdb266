"""What the algorithms share: the options of their inference, and the systems and costs they are for."""

from epjax.cost import Cost, as_cost, squared_error
from epjax.network import Network
from epjax.systems import as_system, layer_by_layer
from epjax.systems.pcn import PCN
from epjax.systems.system import System


def as_pcn(net: Network | System, algorithm: str) -> PCN:
    """The predictive coding network that it trains. Raises ValueError for another system."""
    system = layer_by_layer(as_system(net))
    if not isinstance(system, PCN):
        raise ValueError(f"{algorithm} needs a predictive coding network, got {type(system).__name__}")
    return system


def check_inference(steps: int, rate: float) -> None:
    """Raises ValueError unless steps >= 1 and 0 < rate <= 1."""
    if not steps >= 1:
        raise ValueError(f"steps of inference must be at least 1, got {steps}")
    if not 0 < rate <= 1:
        raise ValueError(f"rate of inference must lie in (0, 1], got {rate}")


def as_clamped_cost(cost: Cost | str, algorithm: str) -> Cost:
    """Squared error. Raises ValueError for another cost: the energy of a clamped output is its squared error."""
    known = as_cost(cost)
    if known is not squared_error:
        name = getattr(known, "__name__", type(known).__name__)
        raise ValueError(f"{algorithm} clamps the output, which makes the cost 'squared_error', got {name!r}")
    return known
