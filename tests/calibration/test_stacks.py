"""Variances of stacks against least squares with an explicit design, and their expectation."""

import numpy as np
import pytest

from noiseflow.calibration.frames import FrameSet
from noiseflow.calibration.stacks import stack_statistics


def residual(columns: list[np.ndarray], y: np.ndarray) -> np.ndarray:
    """What least squares on indicator columns leaves."""
    design = np.stack(columns, axis=1).astype(float)
    return y - design @ np.linalg.lstsq(design, y, rcond=None)[0]


def test_variances_are_those_of_least_squares():
    generator = np.random.default_rng(0)
    count, height, width = 3, 16, 18
    stack = np.rint(generator.normal(200, 30, (count, height, width)))
    found = stack_statistics(stack, FrameSet(100))
    frame, row, column = (index.ravel() for index in np.indices(stack.shape))
    pixel = row * width + column
    fixed = [pixel == p for p in range(height * width)]
    frames = [frame == k for k in range(count)]
    rows = [(frame == k) & (row == i) for k in range(count) for i in range(height)]
    columns = [(frame == k) & (column == j) for k in range(count) for j in range(width)]
    y = stack.ravel()
    every = (residual([*fixed, *frames, *rows, *columns], y) ** 2).sum()
    dof = (count - 1) * (height - 1) * (width - 1)
    # Sums of squares in float32 of numbers around 30: relative 1e-6.
    assert found.noise == pytest.approx(every / dof, rel=1e-5)
    only_columns = (residual([*fixed, *frames, *columns], y) ** 2).sum()
    assert found.rows.variance * found.rows.dof * width == pytest.approx(only_columns - every, rel=1e-4)
    assert found.rows.dof == (count - 1) * (height - 1)
    only_rows = (residual([*fixed, *frames, *rows], y) ** 2).sum()
    assert found.columns.variance * found.columns.dof * height == pytest.approx(only_rows - every, rel=1e-4)


def test_all_parts_are_told_apart_whatever_the_scene():
    generator = np.random.default_rng(3)
    count, size = 4, 256
    scene = np.linspace(500, 3000, size) + 200 * np.sin(np.arange(size)[:, None] / 3)
    pattern = 3 * generator.standard_normal((size, size))
    codes = scene + pattern + generator.normal(0, 5, (count, size, size))
    codes += 2 * generator.standard_normal((count, size, 1)) + generator.standard_normal((count, 1, size))
    found = stack_statistics(codes, FrameSet(100, cfa="RGGB"))
    n = (count - 1) * size**2
    assert found.noise == pytest.approx(25, rel=4.5 * np.sqrt(2 / n))
    assert found.rows.variance == pytest.approx(4 + 25 / size, rel=4.5 * np.sqrt(2 / (3 * 255)))
    assert found.columns.variance == pytest.approx(1 + 25 / size, rel=4.5 * np.sqrt(2 / (3 * 255)))
    dark = stack_statistics(codes - scene, FrameSet(100, cfa="RGGB"))
    # Rows and columns leave (4 + 1)/4 in the pattern's variance, of 256 lines: ± 1.25·√(2/256)·4.5.
    assert dark.spatial == pytest.approx(9, abs=0.5)


def test_tiles_hold_the_local_mean_and_extremes():
    stack = np.zeros((2, 64, 64))
    stack[0, 1, 2] = 7
    stack[:, 32:, :] = 100
    found = stack_statistics(stack, FrameSet(100))
    assert found.mean.shape == (1, 4, 4)
    assert found.highest[0, 0, 0] == 7
    np.testing.assert_allclose(found.mean[0, 2:], 100)
