"""What `sensor.json` tells the reader of a simulated tree about the ends of its codes."""

import dataclasses

import pytest
import torch

from noiseflow.datasets import collate, open_dataset
from noiseflow.models import NoiseLevelFunction, Physics
from noiseflow.sensors import VirtualSensor
from noiseflow.simulate import simulate

KEEPS = VirtualSensor("keeps", "RGGB", 6, 7, 63, ((100, 0.01), (800, 0.1)), keep_pedestal=True, row_noise_dn=0.5)
CUTS = dataclasses.replace(KEEPS, name="cuts", keep_pedestal=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("pedestal") / "tree"
    simulate(root, sensors=[KEEPS, CUTS], isos=[800], scenes=2, size=(48, 64), seed=2)
    return open_dataset(root)


def test_a_kept_pedestal_reaches_down_to_code_zero(data):
    for frame in data.frames:
        low = -7 / 56 if frame.camera == "keeps" else 0.0
        assert frame.low.tolist() == [low] * 4
        assert frame.high.tolist() == [1.0] * 4
        assert frame.lsb.tolist() == [1 / 56] * 4
        assert bool((frame.read().noisy < 0).any()) == (frame.camera == "keeps")


@pytest.mark.parametrize("kind", [NoiseLevelFunction, Physics])
def test_masses_of_all_codes_sum_to_one(data, kind):
    """Whatever the model says: its codes are those from `min_code` to `max_code`."""
    model = kind(data.conditions, 4)
    for frame in data.frames[:2]:
        sensor = KEEPS if frame.camera == "keeps" else CUTS
        codes = torch.arange(sensor.min_code, sensor.max_code + 1).double() * sensor.lsb
        noisy, shot = collate([frame.read(5, 7, 1, 1)])
        shot = shot.rows([0] * len(codes))
        recorded = model.log_mass(noisy, shot.rows(0)).item()
        total = -3 * recorded  # Π_k Σ_c p_k(c) = Π_k [Σ_c P(c in channel k, recorded codes elsewhere)] / P(recorded)³
        for channel in range(4):
            changed = noisy.double().repeat(len(codes), 1, 1, 1)
            changed[:, channel, 0, 0] = codes
            total += torch.logsumexp(model.log_mass(changed.float(), shot), 0).item()
        assert total == pytest.approx(0.0, abs=1e-5)  # codes in float32
