"""Virtual cameras whose noise is known exactly."""

from noiseflow.sensors.phones import PHONES, SENSORS
from noiseflow.sensors.truth import SensorTruth
from noiseflow.sensors.virtual import STANDARD_ISOS, VirtualSensor

__all__ = ["PHONES", "SENSORS", "STANDARD_ISOS", "SensorTruth", "VirtualSensor"]
