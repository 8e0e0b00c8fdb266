"""A run on hardware as it is built: the options of `epjax.hardware.Device` on the command line."""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import tyro

from epjax.hardware import Adc, Device
from epjax.network import Network
from epjax.runs.option import option
from epjax.systems.system import System

Some = Annotated[float | None, tyro.conf.arg(metavar="FLOAT")]


@dataclass(frozen=True)
class Hardware:
    """Train it as it is built (`epjax.hardware`), with --errors recomputed: a device subtracts what it reads."""

    read_noise: float = option(0.0, before=0.0)
    """Of every read of a state, as a share of its layer's RMS; `epjax hardware` says what beta bears it."""
    reads: int = option(1, before=1)
    """Reads that are averaged."""
    adc_bits: Some = option(None, before=None)
    """Bits of the converter; none: states are read as they are."""
    adc_range: tuple[float, float] = option((-1.0, 1.0), before=(-1.0, 1.0))
    """Its ends, in the unit of the state; what lies outside is clipped."""
    mismatch: float = option(0.0, before=0.0)
    """Standard deviation of the logarithm of every coupling's factor."""
    drift: float = option(0.0, before=0.0)
    """Share by which couplings move between the free and the nudged phase."""
    weight_bits: Some = option(None, before=None)
    """Bits of a coupling; the optimiser keeps what they round."""
    rounding: Literal["nearest", "stochastic"] = option("nearest", before="nearest")
    """Of the couplings."""
    nudge_gain: float = option(1.0, before=1.0)
    """Times the nudge that was asked for."""
    nudge_bits: Some = option(None, before=None)
    """Bits of the nudge's force; none: as it is."""
    temperature: float = option(0.0, before=0.0)
    """k_B T of fluctuations while it settles, in the unit of the energy."""
    chip: int = option(0, before=0)
    """Which chip: its mismatch and drift follow from it."""

    def of(self, network: Network | System) -> Network | System:
        """`network` as it is built; itself where all options are off. Raises ValueError as `Device` does."""
        off = all(getattr(self, one.name) == one.default for one in fields(self) if one.name != "chip")
        if off:
            return network
        given: dict[str, Any] = {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if one.name not in ("adc_bits", "adc_range", "chip")
        }
        adc = None if self.adc_bits is None else Adc(self.adc_bits, *self.adc_range)
        return Device(network, adc=adc, seed=self.chip, **given)  # type: ignore[no-any-return]
