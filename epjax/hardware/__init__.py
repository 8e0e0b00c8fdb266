"""Systems as they are built: noise, few bits, mismatch, little time; and what a system asks of its hardware."""

from epjax.hardware.device import Device
from epjax.hardware.needs import Budget, budget
from epjax.hardware.reading import Adc
from epjax.hardware.settling import Settling
from epjax.hardware.updates import dead_band, soft_bounds

__all__ = ["Adc", "Budget", "Device", "Settling", "budget", "dead_band", "soft_bounds"]
