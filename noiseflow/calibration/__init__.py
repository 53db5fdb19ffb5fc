"""From frames of one's own camera to the parameters of its noise, with intervals."""

from noiseflow.calibration.calibrate import Calibration, calibrate
from noiseflow.calibration.findings import Finding
from noiseflow.calibration.frames import FrameSet
from noiseflow.calibration.profile import Estimate, IsoProfile, Profile
from noiseflow.calibration.verdict import Targets, Verdict

__all__ = ["Calibration", "Estimate", "Finding", "FrameSet", "IsoProfile", "Profile", "Targets", "Verdict", "calibrate"]
