"""Frames of virtual sensors for the tests of calibration."""

import numpy as np

from noiseflow.calibration import FrameSet
from noiseflow.sensors.virtual import VirtualSensor

BLACK, WHITE = 512, 4095
ISOS = (100, 800)
LEVELS = (0.05, 0.15, 0.4, 0.7)


def sensor(**changes):
    """K = 0.5 and 4 DN per electron at ISO 100 and 800."""
    slopes = tuple((iso, 0.5 * iso / 100 / (WHITE - BLACK)) for iso in ISOS)
    arguments = {"read_pre_e": 3.0, "read_post_dn": 1.0, "row_noise_dn": 0.6, "keep_pedestal": True} | changes
    return VirtualSensor("test", "GRBG", 12, BLACK, WHITE, slopes, **arguments)


def codes(camera, light, iso, generator):
    """Codes with the pedestal."""
    return (camera.sample_codes(light, iso, generator) + BLACK).astype(np.uint16)


def frames(camera, iso, size=128, seed=0, darks=4):
    """Dark frames, a flat pair at each level."""
    generator = np.random.default_rng([seed, iso])
    lit = camera.sensitivity(size, size) * np.ones((2, 1, 1))
    return FrameSet(
        iso,
        darks=codes(camera, np.zeros((darks, size, size)), iso, generator),
        flats=tuple(codes(camera, level * lit, iso, generator) for level in LEVELS),
        cfa=camera.cfa,
        white=WHITE,
        camera=camera.name,
        bits=12,
    )
