"""Training through plain Lightning: it learns, it initialises once, and every batch is a function of the seed."""

import lightning as L
import numpy as np
import pytest
import torch

from noiseflow.datasets import collate, open_dataset
from noiseflow.models import NoiseLevelFunction, glow
from noiseflow.training.batches import PatchDataModule
from noiseflow.training.likelihood import NoiseModelTask
from noiseflow.training.mean_noise import mean_error
from noiseflow.training.noise_level import fit_noise_level
from noiseflow.transforms import ActNorm


@pytest.fixture(scope="module")
def smeared(tmp_path_factory):
    """8-bit pictures whose noise is strongly correlated between neighbours: what a flow can learn and an NLF cannot."""
    root = tmp_path_factory.mktemp("smeared")
    rng = np.random.default_rng(0)
    rows = ["noisy,clean,camera,iso"]
    for i in range(3):
        clean = np.full((64, 64, 3), 90 + 30 * i) + np.linspace(0, 20, 64)[:, None]
        white = rng.normal(0, 9, (65, 65, 3))
        noise = (white[:-1, :-1] + white[1:, :-1] + white[:-1, 1:] + white[1:, 1:]) / 2
        for kind, image in (("clean", clean), ("noisy", clean + noise)):
            np.save(root / f"{kind}{i}.npy", np.clip(np.rint(image), 0, 255).astype(np.uint8))
        rows.append(f"noisy{i}.npy,clean{i}.npy,C,100")
    (root / "pairs.csv").write_text("\n".join(rows))
    return open_dataset(root)


def trained(dataset, model, steps):
    data = PatchDataModule(dataset.frames, (), patch=16, batch=8, steps=steps, seed=1)
    task = NoiseModelTask(model, steps=steps, seed=1)
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0,
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    return model.eval()


def build(dataset):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return glow(dataset.conditions, 3, steps=3, hidden=12)


@pytest.mark.filterwarnings("ignore:.*:UserWarning:lightning")
@pytest.mark.filterwarnings("ignore:.*:FutureWarning:lightning")
class TestTraining:
    def test_learns_correlation_that_the_noise_level_function_cannot(self, smeared):
        noisy, shot = collate([frame.read() for frame in smeared.frames])
        level = fit_noise_level(noisy, shot)
        nlf = NoiseLevelFunction(smeared.conditions, 3)
        nlf.level.copy_from(level)
        flow = build(smeared)
        flow.start_from(level)
        trained(smeared, flow, 60)
        with torch.no_grad():
            gain = float((flow.log_mass(noisy, shot) - nlf.log_mass(noisy, shot)).sum()) / noisy.numel()
        # The four pixels of a 2×2 block have correlations 1/2 and 1/4: knowing each other is worth 0.2 nats a value.
        block = np.array([[1, 0.5, 0.5, 0.25], [0.5, 1, 0.25, 0.5], [0.5, 0.25, 1, 0.5], [0.25, 0.5, 0.5, 1]])
        available = -0.5 * np.linalg.slogdet(block)[1] / 4
        assert 0.5 * available < gain

    def test_a_flow_that_was_not_started_is_initialised_once_from_the_first_batch(self, smeared):
        flow = build(smeared)
        norms = [layer for layer in flow.transform if isinstance(layer, ActNorm)]
        assert norms
        assert not any(bool(layer.initialized) for layer in norms)
        trained(smeared, flow, 2)
        assert all(bool(layer.initialized) for layer in norms)

    def test_equal_seeds_give_equal_weights(self, smeared):
        states = [trained(smeared, build(smeared), 3).state_dict() for _ in range(2)]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_mean_error_is_the_squared_bias_of_the_draws(smeared):
    """On a noise level function in the form of a flow, moved by a known part of σ, against plain sums over hats."""
    noisy, shot = collate([frame.read() for frame in smeared.frames])
    flow = build(smeared)
    flow.start_from(fit_noise_level(noisy, shot))
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(noisy.shape, generator=generator)
    std = flow.reference.variance(shot).sqrt()
    with torch.no_grad():
        drawn = (shot.clean + flow.reference.mean(shot) + std * z).clamp(0, 1)  # drawn by the flow as it starts
        error = ((drawn - noisy) / std).double().numpy()
        clean = shot.clean.double().numpy()
        expected = np.zeros(3)
        for channel in range(3):
            for knot in np.linspace(0, 1, 6):
                weight = np.interp(clean[:, channel], (knot - 0.2, knot, knot + 0.2), (0, 1, 0))
                expected[channel] += (weight * error[:, channel]).mean() ** 2 / max(weight.mean(), 1e-3)
        found = mean_error(flow, noisy, shot, z)
        assert float(found) == pytest.approx(expected.mean(), rel=1e-4)  # layers in float32
        moved = mean_error(flow, noisy, shot, z + 0.5)
    assert float(moved) > float(found) + 0.1  # half a σ to one side, 0.25 but for what is clipped
