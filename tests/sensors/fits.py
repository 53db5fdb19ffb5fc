"""Chi-square tests of codes under a probability mass function."""

import numpy as np
from scipy import stats


def merged_cells(expected: np.ndarray, least: float) -> np.ndarray:
    """A cell number for every code, neighbours joined until each cell expects at least `least`."""
    cells, total, cell = np.empty(len(expected), int), 0.0, 0
    for code, count in enumerate(expected):
        cells[code] = cell
        total += count
        if total >= least:
            cell, total = cell + 1, 0.0
    if total < least and cell > 0:
        cells[cells == cell] = cell - 1
    return cells


def p_value_of(codes: np.ndarray, pmf: np.ndarray) -> float | None:
    """Chi-square p-value of codes under a pmf, None with fewer than two cells."""
    cells = merged_cells(pmf * len(codes), 10.0)
    if cells[-1] == 0:
        return None
    observed = np.bincount(cells[codes], minlength=cells[-1] + 1)
    expected = np.bincount(cells, weights=pmf * len(codes))
    return float(stats.chisquare(observed, expected, sum_check=False).pvalue)
