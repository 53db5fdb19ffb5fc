"""Data sets that several test files read."""

import pytest
from sidd_tree import write_sidd


@pytest.fixture
def four_phones(tmp_path):
    """One instance of each CFA pattern, raw and sRGB, two frames each."""
    instances = [(1, 1, "S6", 100), (2, 1, "IP", 400), (3, 2, "GP", 800), (5, 2, "N6", 3200)]
    return write_sidd(tmp_path / "sidd", instances, srgb=True)
