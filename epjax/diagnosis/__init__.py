"""What ails an EP gradient."""

from epjax.diagnosis.examine import attempt, diagnose, diagnoser
from epjax.diagnosis.report import Diagnosis, LayerReport

__all__ = ["Diagnosis", "LayerReport", "attempt", "diagnose", "diagnoser"]
