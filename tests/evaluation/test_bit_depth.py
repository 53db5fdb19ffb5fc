"""Mass counts codes: a finer converter adds the log of the code ratio to every model alike, and ranks none anew."""

import math
from itertools import combinations, pairwise

import numpy as np
import pytest

from noiseflow.datasets import collate, open_dataset
from noiseflow.metrics.intervals import paired_difference
from noiseflow.sensors import SensorTruth, VirtualSensor
from noiseflow.simulate import simulate
from noiseflow.training.fit import calibration_patches, fit_baseline

BITS = (10, 12, 14)
MODELS = ("gaussian", "nlf", "physics")
ISO = 800
LEAST_STD, CLEARANCE = 2.5, 6.0  # codes of 10 bits; standard deviations from the clip ends
PATCHES = 2  # of 4×16×16 values, to fit on: trying heavy tails takes physics a second for 500 distinct codes


def sensor(bits):
    """The same electronics behind another converter: white − black is 239, 4·239 and 16·239 codes.

    400 electrons fill a pixel long before the converter is full. In the dark σ is 1.2 codes of 10 bits: were it far
    below one, the converters would see different things, and `gaussian`, whose one σ is mostly that of the dark, would
    be fitted to different things.
    """
    finer = 2 ** (bits - 10)
    return VirtualSensor("meter", "RGGB", bits, 64 * finer, 303 * finer, ((ISO, 1 / 400),), read_pre_e=2.0,
                         read_post_dn=0.0, speeds=(ISO,))  # fmt: skip


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """By bits: the noisy test images, their shot, and −log mass of every value by model, `(images, H, W)`.

    The draws of a simulated frame depend on the seed and the names only, so that all three converters see the very
    same electrons. There is one image a scene.
    """
    root, found = tmp_path_factory.mktemp("bit_depth"), {}
    for bits in BITS:
        simulate(root / str(bits), sensors=[sensor(bits)], scenes=30, size=(96, 96), seed=2)
        data = open_dataset(root / str(bits))
        noisy, shot = calibration_patches(data.select("train").frames, 0)
        models = {name: fit_baseline(name, noisy[:PATCHES], shot.rows(slice(PATCHES))) for name in MODELS}
        models["the sensor"] = SensorTruth.from_dict(data.sensor)
        noisy, shot = collate([frame.read() for frame in data.select("test").frames])
        masses = {name: -model.log_mass_map(noisy, shot).numpy(force=True) / 4 for name, model in models.items()}
        found[bits] = noisy, shot, masses
    return found


def test_the_converters_saw_one_signal(recorded):
    """What the converters wrote of one signal is apart by half a code of each at most; 1e-6: float32."""
    for bits in BITS[1:]:
        apart = (recorded[bits][0] - recorded[10][0]).abs().max()
        assert float(apart) <= 0.5 * sensor(10).lsb + 0.5 * sensor(bits).lsb + 1e-6


def test_models_rank_alike(recorded):
    """Wherever the paired interval of a difference spares 0, its sign is that at every bit depth."""
    told_apart = set()
    for pair in combinations((*MODELS, "the sensor"), 2):
        signs = set()
        for _, _, masses in recorded.values():
            first, second = (masses[name].sum(axis=(1, 2)).tolist() for name in pair)
            difference = paired_difference(first, second, [masses[pair[0]][0].size] * len(first))
            if difference.low > 0 or difference.high < 0:
                signs.add(math.copysign(1, difference.value))
        assert len(signs) <= 1
        told_apart |= {pair} if signs else set()
    assert told_apart >= set(combinations(MODELS, 2))


@pytest.mark.parametrize("name", [*MODELS, "the sensor"])
def test_masses_differ_by_the_log_of_the_code_ratio(recorded, name):
    """Two bits are log 4 where the noise is wider than the codes and the clip is out of reach.

    Rounding to codes of width w adds w²/12 to the variance of a normal density, which costs at most w²/24σ² nats:
    1/(24·2.5²) = 0.0067 for codes of 10 bits, a sixteenth of that for 12. The draws are the same at all depths; what
    rounding moves each of them by, w/√12, changes its mass by w/(√12·σ) = 0.115 at most (standard deviations), and the
    mean over 2,500 values by 0.0023. (σ being the model's, both are larger for `gaussian`, whose one σ is too small
    here; 0.0069 was measured.)
    """
    _, shot, _ = recorded[10]
    clean = shot.clean.double().numpy()
    a, b = sensor(10).noise_level(ISO)
    std = np.sqrt(a * np.maximum(clean, 0) + b)
    inside = (std >= LEAST_STD * sensor(10).lsb) & (np.minimum(clean, 1 - clean) > CLEARANCE * std)
    chosen = inside.all(axis=1)
    assert 4 * chosen.sum() > 2_500
    masses = [masses[name][chosen].mean() for _, _, masses in recorded.values()]
    for coarse, fine in pairwise(masses):
        assert abs(fine - coarse - math.log(4)) < 0.01
