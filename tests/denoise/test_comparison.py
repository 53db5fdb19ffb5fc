"""Differences and PGap against scipy's paired intervals."""

import numpy as np
import pytest
from scipy import stats

from noiseflow.denoise.comparison import compare_scores, markdown, reference_of

RNG = np.random.default_rng(3)
PSNR = {name: 30 + RNG.normal(size=5) for name in ("gaussian", "flow", "real", "sensor")}


def scores(psnr=PSNR):
    return {name: [{"psnr": p, "ssim": p / 40, "drawing_share": 0.1} for p in values] for name, values in psnr.items()}


def paired(first, second):
    difference = first - second
    low, high = stats.t.interval(0.95, len(difference) - 1, difference.mean(), stats.sem(difference))
    return pytest.approx((difference.mean(), low, high))


def test_against_scipy():
    found = {entry["name"]: entry for entry in compare_scores(scores())}
    assert list(found) == list(PSNR)
    for name, entry in found.items():
        low, high = stats.t.interval(0.95, 4, PSNR[name].mean(), stats.sem(PSNR[name]))
        assert (entry["psnr"]["value"], entry["psnr"]["low"], entry["psnr"]["high"]) == pytest.approx(
            (PSNR[name].mean(), low, high)
        )
        for figure, expected in (("difference", (PSNR[name], PSNR["gaussian"])), ("gap", (PSNR["sensor"], PSNR[name]))):
            if entry[figure] is not None:
                assert (entry[figure]["value"], entry[figure]["low"], entry[figure]["high"]) == paired(*expected)
    assert found["gaussian"]["difference"] is None and found["sensor"]["gap"] is None
    assert found["real"]["gap"] is not None


def test_the_reference_is_the_sensor_then_the_recorded_noise():
    assert reference_of(["real", "sensor"]) == "sensor" and reference_of(["nlf", "real"]) == "real"
    without = compare_scores(scores({name: PSNR[name] for name in ("gaussian", "flow")}))
    assert reference_of(["nlf"]) is None and all(entry["gap"] is None for entry in without)


def test_two_seeds_have_no_interval():
    found = compare_scores(scores({name: values[:2] for name, values in PSNR.items()}))
    assert found[1]["difference"]["low"] is None
    assert "±" not in "".join(markdown(found))
    with pytest.raises(ValueError, match="as many seeds"):
        compare_scores({"a": [{"psnr": 1.0, "ssim": 1.0}], "b": []})


def test_the_table_has_the_figures():
    lines = markdown(compare_scores(scores()))
    assert len(lines) == 2 + len(PSNR)
    assert "− gaussian, dB" in lines[0]
    gap = PSNR["sensor"] - PSNR["flow"]
    assert f"{gap.mean():.2f} ± {stats.sem(gap) * stats.t.ppf(0.975, 4):.2f}" in lines[3]
