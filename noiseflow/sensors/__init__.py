"""Virtual cameras whose noise is known exactly."""

from noiseflow.sensors.correlated import CorrelatedSensor
from noiseflow.sensors.phones import PHONES, SENSORS
from noiseflow.sensors.slopes import STANDARD_ISOS
from noiseflow.sensors.truth import Sensor, SensorTruth, sensor_from_dict
from noiseflow.sensors.virtual import VirtualSensor

__all__ = [
    "PHONES",
    "SENSORS",
    "STANDARD_ISOS",
    "CorrelatedSensor",
    "Sensor",
    "SensorTruth",
    "VirtualSensor",
    "sensor_from_dict",
]
