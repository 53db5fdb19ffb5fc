"""The results as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from noiseflow.report.results import comparable, display, figure, ranked, set_aside

if TYPE_CHECKING:
    from rich.table import Table


def render_table(results: dict[str, Any]) -> Table:
    """The ranked models as a table for the terminal, with the same figures as the page.

    Args:
        results: in the schema of results.json.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    data = results.get("data", {})
    counts = ", ".join(
        f"{display(data[k])} {k[:-1] if data[k] == 1 else k}" for k in ("images", "scenes") if data.get(k) is not None
    )
    caption = (
        f"{data.get('split', 'unknown')} split, {counts}; lower is better; ± 95 % interval over scenes\n"
        "mass, regret, looseness: nats/value; nll: nats/dim"
    )
    if any(map(set_aside, results["models"])):
        caption += "\n* not comparable with the others; results.json says why"
    table = Table(title="Models by mass", caption=Text(caption), box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("model", overflow="fold")
    for heading in ("mass", "± 95 %", "regret ± se", "nll", "looseness"):  # 80 columns hold no more
        table.add_column(heading, justify="right", no_wrap=True)
    for position, model in enumerate(ranked(results)):
        mass, high = figure(model, "mass.value"), figure(model, "mass.high")
        best = position == 0 and comparable(model)
        regret = display(figure(model, "regret.value"))
        regret += "" if figure(model, "regret.se") is None else f" ± {display(figure(model, 'regret.se'))}"
        table.add_row(
            Text(str(model["name"])),
            Text(display(mass) + ("*" if set_aside(model) else ""), style="bold" if best else ""),
            display(None if high is None or mass is None else high - mass),
            regret,
            *(display(figure(model, path)) for path in ("nll.value", "mass.looseness")),
        )
    return table
