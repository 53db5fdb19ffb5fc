"""What calibration says of virtual sensors against what these are made of."""

import csv
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import rawpy
from virtual import BLACK, ISOS, codes, frames, sensor

from noiseflow.calibration import Estimate, FrameSet, Targets, calibrate
from noiseflow.calibration.points import calibrate_points
from noiseflow.errors import UserError
from noiseflow.sensors.read_noise import tukey_std

REAL = Path(__file__).resolve().parents[2] / "../shared/real"
real_data = pytest.mark.skipif(not REAL.is_dir(), reason="the real frames are not here")


def holds(estimate: Estimate | None, truth: float, standard_errors: float = 4.5) -> bool:
    """Whether the truth is within so many standard errors: one miss in 10⁵ for 4.5."""
    assert estimate is not None
    reach = standard_errors / 1.96
    return (
        estimate.value - reach * (estimate.value - estimate.low)
        <= truth
        <= estimate.value + reach * (estimate.high - estimate.value)
    )


@pytest.fixture(scope="module")
def normal():
    camera = sensor(prnu=0.01)
    return camera, calibrate([frames(camera, iso) for iso in ISOS])


def test_all_parameters_of_a_sensor_with_normal_noise_are_found(normal):
    camera, found = normal
    profile = found.profile
    for iso in ISOS:
        one = profile.isos[iso]
        assert holds(one.gain_dn_per_e, camera.gain(iso))
        assert holds(one.read_noise_dn, camera.read_noise_dn(iso))
        assert holds(one.row_noise_dn, 0.6)
        assert holds(one.prnu, 0.01)
        assert one.tukey_lambda is None
        assert all(holds(black, BLACK) for black in one.black_dn) and len(one.black_dn) == 4
        assert one.column_noise_dn is not None and one.column_noise_dn.low < 0.05 * camera.read_noise_dn(iso)
        assert one.step_dn == 1 and one.white_dn == 4095
        # 128² pixels: K to 4 %, read noise to 2 %; wider intervals would hold anything.
        assert one.gain_dn_per_e.high / one.gain_dn_per_e.low < 1.08
        assert one.read_noise_dn.high / one.read_noise_dn.low < 1.05
    assert holds(profile.read_noise_pre_e, 3.0) and holds(profile.read_noise_post_dn, 1.0)
    assert profile.gain_segments == ((100, 800),)
    assert found.findings == ()


def test_diagnostics_are_what_pictures_need(normal):
    _, found = normal
    for one in found.diagnostics:
        assert one.transfer is not None and one.read_plot is not None and one.rows is not None
        assert one.transfer.mean.shape == (16,)  # four pairs, four channels
        # Residuals of χ² variances around the line, in standard errors.
        assert np.abs((one.transfer.variance - one.transfer.fitted) / one.transfer.error).max() < 4.5
        # Row noise is white: the mean of its power is the variance of the means of rows.
        assert one.rows.power.mean() == pytest.approx(one.rows.power[1::2].mean(), rel=4.5 * math.sqrt(4 / (3 * 63)))
        middle = one.read_plot.observed < 3
        # At 3 standard deviations a share of 0.0013 of 98,000 differences is known to 10 %, 0.03 standard deviations.
        assert np.abs(one.read_plot.observed - one.read_plot.expected)[middle].max() < 0.15
        assert all(gain is not None for gain in one.channel_gains)


def test_heavy_tails_are_chosen_and_their_shape_is_found():
    camera = sensor(read_post_dn=0.0, read_pre_e=1.5, tukey_lambda=-0.12, row_noise_dn=0.3)
    found = calibrate([frames(camera, iso, seed=1) for iso in ISOS]).profile
    for iso in ISOS:
        one = found.isos[iso]
        assert holds(one.tukey_lambda, -0.12)
        assert holds(one.read_noise_dn, 1.5 * camera.gain(iso))
        assert one.tukey_lambda.high - one.tukey_lambda.low < 0.06
    assert holds(found.read_noise_pre_e, 1.5 * tukey_std(-0.12))


def test_read_noise_of_half_a_code_is_found_without_bias():
    camera = sensor(read_pre_e=0.0, read_post_dn=0.5, row_noise_dn=0.025)
    found = calibrate([frames(camera, iso, size=192, seed=2) for iso in ISOS]).profile
    for iso in ISOS:
        assert holds(found.isos[iso].read_noise_dn, 0.5)
        # Ignoring that the codes are whole would give √(0.25 + 1/12 + …) = 0.58.
        assert found.isos[iso].read_noise_dn.high < 0.53


def test_read_noise_far_below_a_code_is_not_identifiable():
    camera = sensor(read_pre_e=0.0, read_post_dn=0.25, row_noise_dn=0.0)
    found = calibrate([frames(camera, 800)]).profile
    assert found.isos[800].read_noise_dn is None and found.read_noise_post_dn is None
    assert any("far below one code" in warning for warning in found.warnings)
    assert holds(found.isos[800].gain_dn_per_e, camera.gain(800))


def test_clipped_darks_leave_the_gain_and_say_so():
    camera = sensor()
    group = frames(camera, 800)
    cut = dataclasses.replace(
        group,
        darks=np.maximum(group.darks, BLACK) - BLACK,
        flats=tuple(np.maximum(flat, BLACK) - BLACK for flat in group.flats),
        black=(0.0,),
        white=4095 - BLACK,
    )
    found = calibrate([cut])
    one = found.profile.isos[800]
    assert one.row_noise_dn is None and one.tukey_lambda is None and one.black_dn == (None,) * 4
    assert holds(one.gain_dn_per_e, camera.gain(800))
    # With the level known, the flats tell the read noise, far less well than darks do (there 2 %).
    assert holds(one.read_noise_dn, camera.read_noise_dn(800))
    assert one.read_noise_dn.high > 1.1 * one.read_noise_dn.low
    assert [finding.kind for finding in found.findings] == ["clipped black"]
    assert not [advice for advice in found.verdict.advice if advice.what == "darks"]  # more of them would not help
    assert any("cut off" in warning for warning in found.profile.warnings)


def test_a_black_level_that_drifts_under_light_does_not_bend_the_gain():
    camera = sensor()
    group = frames(camera, 100, size=192)
    drifted = dataclasses.replace(group, darks=group.darks + 30)
    found = calibrate([drifted])
    assert holds(found.profile.isos[100].gain_dn_per_e, camera.gain(100))
    shift = found.diagnostics[0].black_shift
    assert holds(shift, -30)
    assert [finding.kind for finding in found.findings] == ["black drift"]


def test_codes_four_apart_are_calibrated_in_their_own_step():
    camera = sensor()
    group = frames(camera, 800)
    wide = dataclasses.replace(group, darks=group.darks * 4, flats=tuple(f * 4 for f in group.flats), white=16380)
    one = calibrate([wide]).profile.isos[800]
    assert one.step_dn == 4
    assert holds(one.gain_dn_per_e, 4 * camera.gain(800))
    assert holds(one.read_noise_dn, 4 * camera.read_noise_dn(800))


def test_one_iso_cannot_divide_read_noise_and_darks_alone_have_no_gain():
    group = frames(sensor(), 100)
    alone = calibrate([dataclasses.replace(group, flats=())])
    assert alone.profile.isos[100].gain_dn_per_e is None
    assert any("gain is not identifiable" in warning for warning in alone.profile.warnings)
    assert [advice.what for advice in alone.verdict.advice if advice.iso == 100][-1] == "flat pairs"
    assert calibrate([group]).profile.read_noise_pre_e is None


def test_one_dark_frame_gives_no_row_noise():
    camera = sensor()
    found = calibrate([frames(camera, 800, darks=1)]).profile
    assert found.isos[800].row_noise_dn is None
    assert holds(found.isos[800].read_noise_dn, camera.read_noise_dn(800))
    assert any("one dark frame" in warning for warning in found.warnings)


def test_a_burst_of_any_scene_gives_the_gain():
    camera = sensor()
    generator = np.random.default_rng(5)
    scene = 0.1 + 0.3 * (1 + np.sin(np.arange(128) / 5)) * np.linspace(0.3, 1, 128)[:, None]
    burst = codes(camera, np.repeat(scene[None], 6, axis=0), 100, generator)
    group = dataclasses.replace(frames(camera, 100), flats=(), bursts=(burst,))
    assert holds(calibrate([group]).profile.isos[100].gain_dn_per_e, camera.gain(100))


def test_a_burst_in_which_something_blinks_is_doubted():
    camera = sensor()
    generator = np.random.default_rng(12)
    scene = 0.2 * np.linspace(0.2, 1, 128)[:, None] * np.ones((6, 1, 128))
    scene[::2, 40:44, ::9] *= 1.5
    group = FrameSet(100, bursts=(codes(camera, scene, 100, generator),), cfa=camera.cfa)
    assert any("doubtful" in warning for warning in calibrate([group]).profile.warnings)


def test_flat_blocks_of_one_picture_are_picked_without_bias():
    camera = sensor(row_noise_dn=0.0)
    generator = np.random.default_rng(6)
    size = 512
    scene = 0.05 + 0.6 * np.kron(generator.random((8, 8)), np.ones((size // 8, size // 8)))
    textured = np.kron(generator.random((4, 4)) < 0.5, np.ones((size // 4, size // 4)))
    scene *= 1 + 0.3 * textured * generator.standard_normal((size, size)).clip(-2, 2)
    picture = codes(camera, scene, 800, generator)
    found = calibrate([FrameSet(800, singles=(picture,), cfa=camera.cfa, white=4095, black=(float(BLACK),))])
    gain = found.profile.isos[800].gain_dn_per_e
    # About 400 flat blocks of 98/1.94 degrees of freedom: 1 %, and the lever of the free intercept; without bias.
    assert gain is not None and gain.value == pytest.approx(camera.gain(800), rel=0.05)
    assert gain.low < 0.86 * gain.value
    assert any("single pictures" in warning for warning in found.profile.warnings)


def test_the_verdict_asks_for_frames_until_intervals_are_as_narrow_as_wanted():
    camera = sensor()
    group = frames(camera, 800, size=64, darks=3)
    wanted = Targets(gain=0.02, read_noise=0.01)
    first = calibrate([group], wanted)
    more = {advice.what: advice.more for advice in first.verdict.advice}
    assert set(more) == {"darks", "flat pairs"} and more["flat pairs"] % 4 == 0
    assert "at ISO 800" in str(first.verdict)
    series = 1 + more["flat pairs"] // 4
    sets = [frames(camera, 800, size=64, seed=10 + k) for k in range(series)]
    enough = dataclasses.replace(
        frames(camera, 800, size=64, seed=9, darks=3 + more["darks"]),
        flats=tuple(flat for one in sets for flat in one.flats),
    )
    again = calibrate([enough], Targets(gain=0.022, read_noise=0.011))
    left = [a for a in again.verdict.advice if a.why != "for the row noise" and a.why != "for the column noise"]
    assert not left
    assert calibrate([frames(camera, 800)], Targets(1, 1, 1, 1, 1)).verdict.enough


def test_frames_of_a_few_rows_give_no_interval_of_the_read_noise():
    found = calibrate([frames(sensor(), 800, size=16)]).profile
    assert found.isos[800].read_noise_dn is None
    assert any("few rows" in warning for warning in found.warnings)


def test_sets_that_do_not_belong_together_are_refused():
    group = frames(sensor(), 100, size=32)
    with pytest.raises(UserError, match="got none"):
        calibrate([])
    with pytest.raises(UserError, match="one set of frames for each ISO"):
        calibrate([group, group])
    with pytest.raises(UserError, match="one camera"):
        calibrate([group, dataclasses.replace(group, iso=200, camera="other")])


def test_the_profile_is_plain_numbers(normal):
    # np.float64 and bool_ would not survive strict JSON writers.
    def plain(value):
        if isinstance(value, dict):
            return all(plain(v) for v in value.values())
        if isinstance(value, (list, tuple)):
            return all(plain(v) for v in value)
        return value is None or type(value) in (int, float, str)

    values = dataclasses.asdict(normal[1].profile)
    assert plain({str(k): v for k, v in values.items()})
    json.dumps(values, allow_nan=False)


@real_data
def test_the_gain_of_a_real_camera_and_its_break():
    points: dict[float, list[tuple[float, float]]] = {}
    with (REAL / "parameters/Nikon_D5100_flat.csv").open() as file:
        for iso, _, mean, sigma in csv.reader(file, delimiter=";"):
            points.setdefault(float(iso), []).append((float(mean), float(sigma)))
    profile = calibrate_points(points, camera="D5100")
    known = {100: 0.350, 200: 0.704, 400: 1.401, 800: 2.780, 1600: 5.397}
    for iso, gain in known.items():
        assert profile.isos[iso].gain_dn_per_e.value == pytest.approx(gain, rel=0.05)
    assert profile.gain_segments == ((100, 1600), (3200, 25600))
    assert any("from 1600 to 3200" in warning for warning in profile.warnings)


@real_data
@pytest.mark.parametrize(
    ("name", "black", "white", "known"),
    [
        ("pidng_rpi_640x480_10bit_minhtcai_test.dng", (64.0,), 1023.0, (0.161, 0.195, 0.190, 0.185)),
        ("infinite_isp_ColorCheckerRAW_1920x1080_12bit_BGGR_le16.raw", None, 4000.0, (0.82, 1.07, 1.05, 0.95)),
    ],
)
def test_the_gains_of_single_real_pictures(name, black, white, known):
    path = REAL / "raw" / name
    if path.suffix == ".dng":
        with rawpy.imread(str(path)) as raw:
            mosaic = raw.raw_image_visible.copy()
    else:
        mosaic = np.fromfile(path, "<u2").reshape(1080, 1920)
    found = calibrate([FrameSet(100, singles=(mosaic,), cfa="BGGR", black=black, white=white)])
    gains = [gain.value for gain in found.diagnostics[0].channel_gains]
    np.testing.assert_allclose(gains, known, rtol=0.15)


def test_flats_whose_noise_nears_saturation_do_not_bias_the_gain():
    camera = sensor()
    generator = np.random.default_rng(11)
    # White at 4095, 5 standard deviations of √(4·2600 DN) above 512 + 2600 at 3620: some tiles are in, some out.
    edge = np.linspace(0.5, 0.95, 256) * np.ones((2, 256, 1))
    pairs = tuple(codes(camera, edge, 800, generator) for _ in range(4))
    group = dataclasses.replace(frames(camera, 800, size=256), flats=(*frames(camera, 800, size=256).flats, *pairs))
    assert holds(calibrate([group]).profile.isos[800].gain_dn_per_e, camera.gain(800), 3.5)
