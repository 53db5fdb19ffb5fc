"""The named virtual sensors: five phones, and some that are hard on a noise model."""

from __future__ import annotations

from noiseflow.sensors.correlated import CorrelatedSensor
from noiseflow.sensors.virtual import VirtualSensor

# Slopes: the noise level functions published with SIDD (Abdelhamed, Lin and Brown 2018) as used by Noise Flow
# (Abdelhamed, Brubaker and Brown 2019), column beta1 of the table "cam_iso_nlf". Its intercepts are rounding
# placeholders in most rows, hence the read noise of `VirtualSensor`. IP's published slope does not move with
# ISO, which no sensor does: it gets 7.0e-4 · ISO/100.
PHONES: dict[str, VirtualSensor] = {
    sensor.name: sensor
    for sensor in (
        VirtualSensor("IP", "RGGB", 12, 528, 4095, ((100, 7.0e-4), (1600, 1.12e-2))),
        VirtualSensor(
            "GP",
            "BGGR",
            10,
            64,
            1023,
            ((100, 0.000228), (400, 0.000886), (800, 0.001764), (1600, 0.003519), (3200, 0.007029)),
        ),
        VirtualSensor(
            "S6",
            "GRBG",
            10,
            0,
            1023,
            ((100, 0.000479), (400, 0.001774), (800, 0.003696), (1600, 0.008211), (3200, 0.019930)),
        ),
        VirtualSensor(
            "N6",
            "GBRG",
            10,
            42,
            1023,
            ((100, 0.000473), (400, 0.001760), (800, 0.003476), (1600, 0.006909), (3200, 0.013773)),
        ),
        VirtualSensor("G4", "BGGR", 10, 64, 1023, ((100, 0.000739), (400, 0.001860), (800, 0.003356))),
    )
}
"""Five virtual phones, named after SIDD's."""

SENSORS: dict[str, VirtualSensor | CorrelatedSensor] = {
    **PHONES,
    "night": VirtualSensor(
        "night",
        "RGGB",
        10,
        64,
        1023,
        ((800, 0.01), (1600, 0.02), (3200, 0.04)),
        read_pre_e=1.2,
        read_post_dn=0.0,
        speeds=(800, 1600, 3200),
    ),
    "heavy": VirtualSensor("heavy", "GRBG", 10, 64, 1023, PHONES["S6"].slopes, read_pre_e=1.2, tukey_lambda=-0.15),
    "rows": VirtualSensor("rows", "GRBG", 10, 64, 1023, PHONES["S6"].slopes, row_noise_dn=3.0, keep_pedestal=True),
    "correlated": CorrelatedSensor("correlated", "GRBG", PHONES["S6"].slopes, speeds=(800,)),
}
"""The phones and: `night`, 25 to 100 electrons at white, clipped at black; `heavy`, read noise with power-law tails;
`rows`, row noise, with the pedestal kept; `correlated`, noise that neighbours share, continuous."""
