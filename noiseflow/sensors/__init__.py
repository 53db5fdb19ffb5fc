"""Virtual cameras whose noise is known exactly."""

from noiseflow.sensors.phones import PHONES
from noiseflow.sensors.truth import SensorTruth
from noiseflow.sensors.virtual import STANDARD_ISOS, VirtualSensor

__all__ = ["PHONES", "STANDARD_ISOS", "SensorTruth", "VirtualSensor"]
