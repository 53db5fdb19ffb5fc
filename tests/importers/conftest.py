"""Where the published weights and the expected numbers lie, on machines that have them."""

from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).parents[3] / "shared"


@pytest.fixture(scope="session")
def released():
    """A function from the name of a published checkpoint to its path."""

    def find(name):
        path = SHARED / "pretrained" / name
        if not path.is_file():
            pytest.skip("the published weights are not on this machine")
        return path

    return find


@pytest.fixture(scope="session")
def expected():
    """A function from the name of a fixture to its arrays."""

    def read(name):
        path = SHARED / "fixtures" / name
        if not path.is_file():
            pytest.skip("the published models' expected numbers are not on this machine")
        with np.load(path) as content:
            return {key: content[key] for key in content.files}

    return read
