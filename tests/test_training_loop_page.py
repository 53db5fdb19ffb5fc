"""The examples of the page on training loops run as they stand."""

import re
from pathlib import Path

import numpy as np
import torch

from noiseflow.files import save
from noiseflow.models import NoiseLevelFunction

PAGE = Path(__file__).parents[1] / "docs" / "training-loop.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "runs" / "raw").mkdir(parents=True)
    save(NoiseLevelFunction([("S6", 100), ("S6", 800), ("G4", 400)]), tmp_path / "runs" / "raw" / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 4
    names = {}
    for block in blocks:
        exec(block, names)
    assert "S6" in capsys.readouterr().out
    assert names["residual"].shape == (4, 4, 64, 64)
    assert names["noisy"].shape == (128, 192)
    assert np.isfinite(names["noisy"]).all()
    assert not torch.equal(names["y"], names["clean"])
