import csv
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from rich.console import Console

from noiseflow.metrics.curves import IntensityCurve
from noiseflow.report import CurveSet, Strip, curve_sets, render_table, verdict, write_report
from noiseflow.report.figures import curves_figure, draw_curves, draw_noise
from noiseflow.report.results import display, finite, flatten, ranked

SHOTS = [("IP", 100.0), ("IP", 800.0), ("S6", 100.0), ("S6", 800.0), ("S6", 3200.0)]
NLF = {"IP": 7.0e-6, "S6": 4.5e-6}
SCALE = {"gaussian": None, "nlf": 1.0, "noise_flow": 1.012}


def std_of(camera, iso, clean):
    return np.sqrt(NLF[camera] * iso * np.maximum(clean, 0) + 1e-6 * (iso / 100) ** 1.3)


def model(name, nll, mass, regret, rng, *, parameters, looseness=None):
    margin = 0.0113 * rng.uniform(0.8, 1.2)
    return {
        "name": name,
        "file_hash": rng.bytes(32).hex() if parameters else None,
        "parameters": parameters,
        "noise_domain": "latent",
        "nll": {"value": nll, "low": nll - margin, "high": nll + margin, "unit": "nats/dim"},
        "mass": {
            "value": mass,
            "low": mass - margin,
            "high": mass + margin,
            "unit": "nats/value",
            "bits": mass / math.log(2),
            "looseness": looseness,
        },
        "regret": {"value": regret, "low": regret - 0.0009, "high": regret + 0.0009, "se": 0.0003724},
        "kld": {"histogram": {"value": regret * 1.7, "floor": [0.0011, 0.0017], "low": None, "high": None}},
        "structure": {},
        "by_shot": [
            {
                "camera": camera,
                "iso": iso,
                "images": 3,
                "nll": nll + rng.normal(0, 0.3),
                "mass": mass + 0.4 * math.log(iso / 800) + regret * rng.uniform(0.5, 1.5),
                "regret": regret * rng.uniform(0.5, 1.5),
            }
            for camera, iso in SHOTS
        ],
        "reason": {} if looseness is not None else {"mass.looseness": "exact: summed cell by cell"},
    }


def make_results():
    rng = np.random.default_rng(0)
    models = [
        model("gaussian", -2.43517, 3.26581234567, 0.41206, rng, parameters=10),
        model("nlf", -2.84981, 2.85471234567, 0.00262, rng, parameters=10),
        model("noise_flow", -2.851017, 2.853321234567, 0.00107, rng, parameters=2434, looseness=0.00041),
    ]
    protocol = {"patch": "64 × 64", "draws": 4, "seed": 0, "interval": "t interval over 6 scenes"}
    data = {"root_hash": "9f" * 32, "truth": "exact", "images": 15, "scenes": 6, "split": "test"}
    return {"format": 1, "data": data, "protocol": protocol, "models": models}


@pytest.fixture
def results():
    return make_results()


def make_curves():
    x = (np.linspace(0, 1, 41)[1:] ** 2 + np.linspace(0, 1, 41)[:-1] ** 2) / 2
    rng = np.random.default_rng(1)
    sets = []
    for camera, iso in SHOTS:
        truth = std_of(camera, iso, x)
        spread = 0.004 + 0.03 * x**2
        data = truth * np.exp(rng.normal(0, spread / 2))
        data[-2:] = np.nan
        models = {
            name: np.full(40, std_of(camera, iso, 0.2)) if scale is None else truth * (scale + 0.02 * (x < 0.02))
            for name, scale in SCALE.items()
        }
        low, high = data * np.exp(-spread), data * np.exp(spread)
        sets.append(CurveSet(camera, iso, x, data, low, high, models))
    return sets


def make_strip(camera="S6", iso=3200.0, size=96):
    rng = np.random.default_rng(2)
    rows, columns = np.mgrid[:size, :size] / size
    disc = (rows - 0.55) ** 2 + (columns - 0.4) ** 2 < 0.06
    level = 0.02 + 0.5 * columns**2 + 0.25 * disc
    clean = np.stack([level * tint for tint in (0.9, 0.8 + 0.3 * rows, 0.55 + 0.4 * (1 - rows))], axis=-1)
    noisy, noise = {}, {}
    for name in ("real", *SCALE):
        std = std_of(camera, iso, clean if name != "gaussian" else np.full_like(clean, 0.2))
        drawn = rng.normal(0, 1, clean.shape) * std
        noisy[name] = np.clip(clean + drawn, 0, 1) ** (1 / 2.2)
        noise[name] = drawn[..., 1]
    return Strip(f"scene 004, {camera}, ISO {iso:g}", clean ** (1 / 2.2), noisy, noise)


COMMAND = "noiseflow evaluate gaussian nlf runs/noise_flow --data data/sample --out results --seed 0"


def write_full(folder):
    strips = [make_strip(), make_strip("IP", 800.0)]
    write_report(folder, make_results(), curves=make_curves(), strips=strips, command=COMMAND)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "out"
    write_full(folder)
    return folder


class Page(HTMLParser):
    """What a browser would see: figures with their full value, addresses, text, tags."""

    def __init__(self, text):
        super().__init__()
        self.figures, self.addresses, self.text, self.tags, self.titles = [], [], [], [], []
        self.value = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for key, value in attributes:
            if key in ("src", "href", "srcset"):
                self.addresses.append(value)
            if key == "title":
                self.titles.append(value)
            if key == "data-value":
                self.value = value

    def handle_data(self, data):
        self.text.append(data)
        if self.value is not None:
            self.figures.append((self.value, data))
            self.value = None


def write(results, folder, **extra):
    path = write_report(folder, results, **{"curves": [], "strips": [], "command": COMMAND, **extra})
    return Page(path.read_text()), json.loads((folder / "results.json").read_text())


def read_csv(folder):
    return list(csv.DictReader((folder / "results.csv").read_text().splitlines()))


def numbers(tree):
    return {value for _, value in flatten(tree) if isinstance(value, int | float)}


def test_json_is_the_results(results, written):
    assert json.loads((written / "results.json").read_text()) == results
    assert sorted(p.name for p in written.iterdir()) == ["report.html", "results.csv", "results.json"]


def test_every_figure_of_the_csv_is_the_jsons(results, written):
    rows = read_csv(written)
    assert [row["row"] for row in rows].count("model") == 3
    by_name = {m["name"]: m for m in results["models"]}
    checked = 0
    for row in rows:
        source = by_name[row["name"]]
        if row["row"] == "shot":
            source = next(s for s in source["by_shot"] if (s["camera"], s["iso"]) == (row["camera"], float(row["iso"])))
            assert int(row["images"]) == source["images"]
            expected = {f"{k}.value": source[k] for k in ("nll", "mass", "regret")}
        else:
            expected = {k: v for k, v in flatten(source) if not k.startswith(("by_shot", "reason", "name"))}
        for column, value in expected.items():
            assert row[column] == str(value)
            checked += 1
        scores = [c for c in row if c.startswith(("nll", "mass", "regret", "kld"))]
        assert all(row[c] == "" for c in scores if c not in expected)
    assert checked > 60


def test_every_figure_of_the_page_is_the_jsons_shown_with_four_decimals(results, written):
    page = Page((written / "report.html").read_text())
    known = {repr(value) for value in numbers(results)}
    assert len(page.figures) > 70
    for value, shown in page.figures:
        assert value in known
        assert shown == display(json.loads(value))
    shown = {value for value, _ in page.figures}
    for m in results["models"]:
        whole = {k: m[k] for k in ("nll", "mass", "regret", "kld", "by_shot", "parameters")}
        kept = [v for k, v in flatten(whole) if not k.endswith(("iso", "images", "regret.low", "regret.high"))]
        assert {repr(v) for v in kept if not isinstance(v, str)} <= shown


def test_page_needs_nothing_from_elsewhere(written):
    text = (written / "report.html").read_text()
    page = Page(text)
    assert page.addresses and all(a.startswith("data:image/png;base64,") for a in page.addresses)
    assert "@import" not in text and "url(" not in text and "script" not in page.tags
    assert not re.search(r"https?://", text)
    # 5 panels in two themes; 2 strips with clean, 4 noisy and 4 noise pictures
    assert len(page.addresses) == 5 * 2 + 2 * 9


def test_null_is_a_dash_with_its_reason(results, tmp_path):
    first = results["models"][0]
    first["regret"] = None
    first["nll"] = None
    first["mass"].update(low=None, high=None)
    first["reason"].update(regret="the truth is a mean of frames", nll="no density", mass="two scenes only")
    page, data = write(results, tmp_path)
    assert data["models"][0]["regret"] is None
    text = "".join(page.text)
    for why in ("the truth is a mean of frames", "no density", "two scenes only"):
        assert why in page.titles and why in text
    assert text.count("–") > 3
    rows = read_csv(tmp_path)
    assert rows[0]["regret.value"] == "" and "regret: the truth is a mean of frames" in rows[0]["reason"]


def test_what_is_not_finite_becomes_null_with_a_reason(results, tmp_path):
    first = results["models"][0]
    first["mass"]["value"] = math.inf
    first["nll"]["low"] = np.float64("nan")
    first["by_shot"][1]["regret"] = torch.tensor(-math.inf)
    results["protocol"]["budget"] = math.nan
    page, data = write(results, tmp_path)
    got = data["models"][0]
    assert (got["mass"]["value"], got["nll"]["low"], got["by_shot"][1]["regret"]) == (None, None, None)
    assert got["reason"]["mass.value"] == "not finite: inf"
    assert got["reason"]["nll.low"] == "not finite: nan"
    assert got["reason"]["by_shot.1.regret"] == "not finite: -inf"
    assert data["reason"] == {"protocol.budget": "not finite: nan"}
    assert {"not finite: inf", "not finite: nan", "not finite: -inf"} <= set(page.titles)
    assert math.isinf(first["mass"]["value"])  # the caller's results stay as they were


def test_numpy_and_torch_scalars_are_numbers(results):
    results["models"][0]["nll"]["value"] = np.float32(0.1)
    results["models"][0]["parameters"] = torch.tensor(12)
    got = finite(results)["models"][0]
    assert got["nll"]["value"] == float(np.float32(0.1)) and got["parameters"] == 12


def test_hostile_names_are_text(results, tmp_path):
    hostile = "<script>alert('x')</script>$\\frac{[red]&\""
    results["models"][1]["name"] = hostile
    for shot in results["models"][1]["by_shot"]:
        shot["camera"] = hostile
    curve = make_curves()[0]
    curve = CurveSet(hostile, 100.0, *(getattr(curve, f) for f in ("intensity", "data_std", "data_low")),
                     curve.data_high, {hostile: curve.models["nlf"]})  # fmt: skip
    strip = make_strip()
    strip = Strip(hostile, strip.clean, {"real": strip.noisy["real"], hostile: strip.noisy["nlf"]},
                  {"real": strip.noise["real"], hostile: strip.noise["nlf"]})  # fmt: skip
    page, data = write(results, tmp_path, curves=[curve], strips=[strip], command=f"noiseflow {hostile}")
    assert data["models"][1]["name"] == hostile
    assert "script" not in page.tags
    assert page.text.count(hostile) > 3
    assert read_csv(tmp_path)[0]["name"] == "gaussian"


def test_verdict_claims_what_the_intervals_allow(results):
    assert verdict(results) == (
        "noise_flow has the lowest mass, 2.8533 nats/value, 0.0014 nats/value below nlf; "
        "their 95\u00a0% intervals overlap."
    )
    nlf = results["models"][1]
    nlf["mass"].update(value=3.0, low=2.99, high=3.01)
    assert verdict(results).endswith("0.1467 nats/value below nlf; their 95\u00a0% intervals do not overlap.")
    nlf["mass"]["looseness"] = 0.2
    assert verdict(results).endswith("and the lead is within the looseness of nlf's bound.")
    nlf["mass"].update(low=None, high=None, looseness=None)
    assert "is open" in verdict(results)
    nlf["mass"]["value"] = results["models"][2]["mass"]["value"]
    assert verdict(results) == "noise_flow and nlf have the same mass, 2.8533 nats/value."
    for m in results["models"][:2]:
        m["mass"] = None
    assert verdict(results) == "noise_flow has the lowest mass, 2.8533 nats/value; no other model has one."
    results["models"][2]["mass"] = None
    assert verdict(results) == "No model has a mass, so none is ranked first."


def test_a_mass_that_cannot_be_compared_is_never_ranked(results):
    """However low: its reason says that it is none, and the table and the page mark it."""
    aside = results["models"][0]
    aside["mass"]["value"] = -9.0
    aside["reason"]["mass"] = "not comparable: of recorded noise"
    assert ranked(results)[-1] is aside
    assert aside["name"] not in verdict(results)
    for model in results["models"][1:]:
        model["mass"] = None
    assert verdict(results) == "No model has a mass that can be compared, so none is ranked first."


def test_terminal_table_ranks_and_shows_the_pages_figures(results):
    results["models"][0]["regret"] = None
    console = Console(width=80, file=None, record=True, quiet=False)
    with console.capture() as captured:
        console.print(render_table(results))
    lines = captured.get().splitlines()
    order = [next(i for i, line in enumerate(lines) if f" {n} " in line) for n in ("noise_flow", "nlf")]
    assert order == sorted(order)
    best = lines[order[0]]
    for shown in ("2.8533", "−2.8510", "0.0011 ± 0.0004"):
        assert shown in best
    assert all(len(line) <= 80 for line in lines)  # a terminal of the usual width holds it
    assert "15 images, 6 scenes" in captured.get()


def test_empty_results_make_a_page(results, tmp_path):
    results["models"] = []
    page, data = write(results, tmp_path)
    assert data["models"] == [] and "No model has a mass" in "".join(page.text)


def test_failing_leaves_the_old_files(results, written):
    before = {p.name: p.read_bytes() for p in written.iterdir()}
    results["models"][0]["mass"]["value"] = object()
    with pytest.raises(TypeError):
        write_report(written, results, curves=[], strips=[], command="")
    assert {p.name: p.read_bytes() for p in written.iterdir()} == before


def test_same_results_are_the_same_bytes(written, tmp_path):
    write_full(tmp_path)
    for path in written.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_curves_may_be_empty():
    nothing = np.full(4, np.nan)
    curve = CurveSet("S6", 100.0, np.linspace(0.1, 0.9, 4), nothing, nothing, nothing, {"nlf": nothing})
    assert draw_curves(curve, ["nlf", "other"], "dark").startswith(b"\x89PNG")


def test_points_and_lines_are_the_curves_in_thousandths_and_per_cent():
    curve = make_curves()[0]
    upper, lower = curves_figure(curve, list(SCALE), "light").axes
    seen = np.isfinite(curve.data_std)
    points, *lines = upper.lines
    np.testing.assert_array_equal(points.get_xdata(), curve.intensity[seen])
    np.testing.assert_allclose(points.get_ydata(), 1e3 * curve.data_std[seen], rtol=1e-15)
    for name, line, deviation in zip(SCALE, lines, lower.lines, strict=False):
        np.testing.assert_allclose(line.get_ydata(), 1e3 * curve.models[name][seen], rtol=1e-15)
        ratio = curve.models[name][seen] / curve.data_std[seen]
        # a ratio near 1 in float64, times 100
        np.testing.assert_allclose(deviation.get_ydata(), 100 * ratio - 100, atol=1e-12)


def test_noise_is_grey_on_the_stated_scale():
    import cv2

    png = draw_noise(np.array([[-0.2, -0.1, 0.0, 0.05, 0.1, 0.3]]), 0.1)
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    # 0.5 rounds to the even code 128
    assert pixels.tolist() == [[0, 0, 128, 191, 255, 255]]


def test_curve_sets_put_models_beside_the_data():
    clean = torch.full((2, 1, 8, 8), 0.3)
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    data, other = IntensityCurve(bins=4), IntensityCurve(bins=4)
    data.update(noise, clean, [("S6", 100.0), ("IP", 100.0)])
    other.update(2 * noise[:1], clean[:1], [("S6", 100.0)])
    ip, s6 = curve_sets(data, {"nlf": other})
    assert (ip.camera, s6.camera) == ("IP", "S6")
    assert np.isnan(ip.models["nlf"]).all()
    # doubling is exact in floating point
    np.testing.assert_array_equal(s6.models["nlf"], 2 * s6.data_std)


def test_importing_does_not_load_what_draws():
    code = "import sys, noiseflow.report; sys.exit(any(m in sys.modules for m in ('matplotlib', 'jinja2', 'rich')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
