"""The parameters of a profile for the terminal, and how an estimate is written there and on the page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from noiseflow.calibration.profile import Estimate, IsoProfile, Profile
from noiseflow.report.results import DASH

if TYPE_CHECKING:
    from rich.table import Table

PARAMETERS = {
    "gain_dn_per_e": ("gain", "DN/e⁻"),
    "read_noise_dn": ("read noise", "DN"),
    "tukey_lambda": ("λ", ""),
    "row_noise_dn": ("row noise", "DN"),
    "column_noise_dn": ("column noise", "DN"),
    "prnu": ("PRNU", "relative"),
}
"""What an ISO has one estimate of: its name and unit, by the key in the profile."""


def shown(estimate: Estimate) -> tuple[str, str, str]:
    """Value and both ends of an estimate, to two digits of the half width of its interval.

    Examples:
        >>> shown(Estimate(0.35012, 0.34813, 0.35211))
        ('0.3501', '0.3481', '0.3521')
        >>> shown(Estimate(1024.31, 1010.0, 1040.0))
        ('1024', '1010', '1040')
    """
    half = (estimate.high - estimate.low) / 2
    places = max(1 - math.floor(math.log10(half)), 0) if half > 0 else 4
    value, low, high = (
        f"{n:.{min(places, 9)}f}".replace("-", "−") for n in (estimate.value, estimate.low, estimate.high)
    )
    return value, low, high


def profile_table(profile: Profile) -> Table:
    """A profile's main parameters with their 95 % intervals, at most 80 columns wide.

    Args:
        profile: what was found.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names = [name for name in list(PARAMETERS)[:4] if name != "tukey_lambda" or _has(profile, name)]
    facts = [profile.camera, profile.cfa, None if profile.bits is None else f"{profile.bits} bits"]
    table = Table(title=Text(", ".join(filter(None, facts))), title_justify="left", box=box.SIMPLE_HEAD,
                  caption=Text(f"95 % intervals; {DASH} not known"), padding=(0, 1))  # fmt: skip
    table.add_column("ISO", justify="right", no_wrap=True)
    for name in names:
        title, unit = PARAMETERS[name]
        table.add_column(f"{title}\n{unit}", justify="right", no_wrap=True)
    for iso, one in sorted(profile.isos.items()):
        table.add_row(f"{iso:g}", *(Text(_cell(one, name)) for name in names))
    return table


def _has(profile: Profile, name: str) -> bool:
    return any(getattr(one, name) is not None for one in profile.isos.values())


def _cell(one: IsoProfile, name: str) -> str:
    estimate = getattr(one, name)
    if estimate is None:
        # No λ is no lack of one: the read noise is normal.
        return "normal" if name == "tukey_lambda" and one.read_noise_dn is not None else DASH
    value, low, high = shown(estimate)
    return f"{value}\n{low}{'…' if estimate.low < 0 else '–'}{high}"
