"""Systems as they are built: noise, few bits, mismatch; and what a system asks of its hardware."""

from epjax.hardware.device import Device
from epjax.hardware.needs import Budget, budget
from epjax.hardware.reading import Adc

__all__ = ["Adc", "Budget", "Device", "budget"]
