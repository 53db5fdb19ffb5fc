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
from noiseflow.report import CurveSet, Strip, StructurePicture, curve_sets, render_table, verdict, write_report
from noiseflow.report.figures import (
    curves_figure,
    draw_autocovariance,
    draw_curves,
    draw_noise,
    draw_spectrum,
    spectrum_figure,
)
from noiseflow.report.heat import shot_maps, tenths
from noiseflow.report.results import FINE, difference, display, finite, flatten, ranked, with_tenths
from noiseflow.report.tables import divergences, structure, worst_images

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


def make_whole_results():
    """Results with everything that an evaluation can hold; model 2 is the best, model 0 the worst."""
    rng = np.random.default_rng(4)
    results = make_results()
    for m in results["models"]:
        mass, regret = m["mass"]["value"], m["regret"]["value"]
        m["kld"] = {
            "n2nf": {"value": 0.015 + regret, "low": 0.0141, "high": 0.0199, "floor": [0.0123, 0.0161],
                     "indistinguishable": regret < 0.001},
            "conditional": {"value": regret / 3, "low": regret / 4, "high": regret / 2, "floor": [0.0002, 0.0007],
                            "indistinguishable": regret < 0.002},
        }  # fmt: skip
        m["structure"] = {
            "tails": {"effect": regret + 0.0123, "unit": "excess kurtosis", "p": 0.2501},
            "autocovariance": {"effect": regret - 0.0031, "unit": "of the variance", "p": 0.8101},
            "family": {"p": 0.0104 if regret > 0.1 else 0.4321, "sets": 37},
        }
        m["classifier"] = {"accuracy": 0.5 + regret / 4, "low": 0.4876 + regret / 4, "high": 0.5123 + regret / 4}
        m["by_intensity"] = [
            {"camera": camera, "iso": iso, "low": tenth / 10, "high": (tenth + 1) / 10,
             "values": (values := (1000 + 37 * tenth + round(iso)) if tenth != 9 else 0),
             "mass": mass + tenth / 10 if values else None,
             "regret": regret * rng.uniform(0.5, 1.5) if values else None}
            for camera, iso in SHOTS for tenth in (0, 4, 9)
        ]  # fmt: skip
        m["near_clip"] = {"near": {"values": 4321, "mass": mass - 1.1}, "inside": {"values": 98765, "mass": mass + 0.1}}
        m["images"] = [
            {"name": f"{n:04d}_{n % 6:03d}_{camera}", "camera": camera, "iso": iso, "scene": f"{n % 6:03d}",
             "values": 4096, "mass": mass + regret * n / 10, "regret": regret * (1 + n / 10)}
            for n, (camera, iso) in enumerate(SHOTS * 3)
        ]  # fmt: skip
    names = [m["name"] for m in results["models"]]
    results["differences"] = [
        {"score": "mass", "first": names[i], "second": names[j], "value": 0.01 * (j - i) - 0.0314,
         "low": 0.01 * (j - i) - 0.0418, "high": 0.01 * (j - i) - 0.0106}
        for i in range(3) for j in range(i + 1, 3)
    ]  # fmt: skip
    return results


@pytest.fixture
def results():
    return make_results()


@pytest.fixture
def whole():
    return make_whole_results()


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


def make_structure(title="all cameras and ISOs", lags=3):
    rng = np.random.default_rng(5)
    names = ("real", *SCALE)
    frequency = np.linspace(0.05, 0.7, 9)
    maps = {name: rng.normal(0, 0.02, (2 * lags + 1, 2 * lags + 1)) for name in names}
    return StructurePicture(title, maps, frequency, {name: 1 + rng.normal(0, 0.05, 9) for name in names})


COMMAND = "noiseflow evaluate gaussian nlf runs/noise_flow --data data/sample --out results --seed 0"


def write_full(folder):
    strips = [make_strip(), make_strip("IP", 800.0)]
    write_report(folder, make_results(), curves=make_curves(), strips=strips, command=COMMAND)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "out"
    write_full(folder)
    return folder


@pytest.fixture(scope="module")
def written_whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "whole"
    pictures = [make_structure(), make_structure("S6, ISO 100")]
    write_report(folder, make_whole_results(), curves=[], strips=[make_strip()], structure=pictures, command=COMMAND)
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
            if key in ("src", "href", "srcset") and not (tag == "a" and value.startswith("#")):
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
    """Every number in full; as text, since 0 and 0.0 are equal."""
    return {repr(value) for _, value in flatten(tree) if isinstance(value, int | float)}


def test_json_is_the_results(results, written):
    assert json.loads((written / "results.json").read_text()) == results
    assert sorted(p.name for p in written.iterdir()) == ["report.html", "results.csv", "results.json"]


def test_by_tenth_is_the_mean_over_pixels_of_all_shots(whole):
    for m in with_tenths(whole)["models"]:
        assert [t["low"] for t in m["by_tenth"]] == [0.0, 0.4, 0.9]
        for tenth in m["by_tenth"]:
            here = [e for e in m["by_intensity"] if e["low"] == tenth["low"]]
            counts = [e["values"] for e in here]
            assert tenth["values"] == sum(counts)
            for score in ("mass", "regret"):
                if not sum(counts):
                    assert tenth[score] is None
                    continue
                # five terms in float64
                assert tenth[score] == pytest.approx(np.average([e[score] for e in here], weights=counts), rel=1e-14)
    assert "by_tenth" not in whole["models"][0]  # the caller's results stay as they were


def test_csv_has_a_row_for_every_image_tenth_and_difference(written_whole):
    results = json.loads((written_whole / "results.json").read_text())
    rows = read_csv(written_whole)
    assert max(len(row) for row in rows) < 80  # lists are rows, not columns
    for m in results["models"]:
        own = [row for row in rows if row["name"] == m["name"]]
        images = [row for row in own if row["row"] == "image"]
        got = [(row["image"], row["scene"], row["mass.value"], row["regret.value"]) for row in images]
        assert got == [(i["name"], i["scene"], str(i["mass"]), str(i["regret"])) for i in m["images"]]
        for part, kind in (("by_intensity", "intensity"), ("by_tenth", "tenth")):
            got = [(row["low"], row["values"], row["mass.value"]) for row in own if row["row"] == kind]
            assert got == [(str(e["low"]), str(e["values"]), str(e["mass"] or "")) for e in m[part]]
    got = [
        (row["name"], row["minus"], row["mass.value"], row["mass.low"]) for row in rows if row["row"] == "difference"
    ]
    assert got == [(d["first"], d["second"], str(d["value"]), str(d["low"])) for d in results["differences"]]


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


def check_figures(page, results):
    """Every figure of a page is one of the JSON, rounded; which are there, in full."""
    known = numbers(results)
    for value, shown in page.figures:
        assert value in known
        assert shown in (display(json.loads(value)), display(json.loads(value), FINE))
    return {value for value, _ in page.figures}


def test_every_figure_of_the_page_is_the_jsons_rounded(results, written):
    page = Page((written / "report.html").read_text())
    assert len(page.figures) > 70
    shown = check_figures(page, results)
    for m in results["models"]:
        whole = {k: m[k] for k in ("nll", "mass", "regret", "kld", "by_shot", "parameters")}
        kept = [v for k, v in flatten(whole) if not k.endswith(("iso", "images", "regret.low", "regret.high"))]
        assert {repr(v) for v in kept if not isinstance(v, str)} <= shown


def test_every_figure_of_a_whole_page_is_the_jsons_rounded(written_whole):
    results = json.loads((written_whole / "results.json").read_text())
    shown = check_figures(Page((written_whole / "report.html").read_text()), results)
    parts = ("kld", "structure", "classifier", "near_clip", "by_tenth", "by_intensity")
    missing = set()
    for m in [*results["models"], {"differences": results["differences"]}]:
        for path, value in flatten({part: m[part] for part in (*parts, "differences") if part in m}):
            # camera, ISO and the ends of a tenth are labels, "indistinguishable" a word, and regret goes before mass
            by_place = path.startswith("by_") and path.endswith((".low", ".high", ".mass", ".iso"))
            if isinstance(value, str | bool) or by_place or repr(value) in shown:
                continue
            missing.add(path)
    assert not missing


def test_page_needs_nothing_from_elsewhere(written):
    text = (written / "report.html").read_text()
    page = Page(text)
    assert page.addresses and all(a.startswith("data:image/png;base64,") for a in page.addresses)
    assert "@import" not in text and "url(" not in text and "script" not in page.tags
    assert not re.search(r"https?://", text)
    # 5 panels in two themes; 2 strips with clean, 4 noisy and 4 noise pictures
    assert len(page.addresses) == 5 * 2 + 2 * 9


def test_whole_page_needs_nothing_from_elsewhere(written_whole):
    text = (written_whole / "report.html").read_text()
    page = Page(text)
    assert all(a.startswith("data:image/png;base64,") for a in page.addresses)
    assert "url(" not in text and "script" not in page.tags and not re.search(r"https?://", text)
    # two structure pictures with 4 maps and a spectrum in two themes; a strip of 9
    assert len(page.addresses) == 2 * (4 + 2) + 9
    targets = set(re.findall(r'href="#(\w+)"', text))
    assert len(targets) >= 9 and targets <= set(re.findall(r'id="(\w+)"', text))


def test_page_names_the_json_that_it_shows(written):
    import hashlib

    assert hashlib.sha256((written / "results.json").read_bytes()).hexdigest() in (written / "report.html").read_text()


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


def test_verdict_uses_the_paired_difference(results):
    nlf, best = "nlf", "noise_flow"
    paired = {"score": "mass", "first": best, "second": nlf, "value": -0.0014, "low": -0.0019, "high": -0.0009}
    results["differences"] = [{**paired, "score": "nll", "value": 9.0}, paired]
    expected = (
        "noise_flow has the lowest mass, 2.8533 nats/value, 0.0014 nats/value below nlf; paired by scene, the "
        "95\u00a0% interval of this lead is 0.0009 to 0.0019, and leaves out 0."
    )
    assert verdict(results) == expected  # though their own intervals overlap
    results["differences"] = [{**paired, "first": nlf, "second": best, "value": 0.0014, "low": 0.0009, "high": 0.0019}]
    assert verdict(results) == expected
    assert difference(results, best, nlf).low == -0.0019
    results["differences"] = [{**paired, "value": -0.00042, "low": -0.00053, "high": -0.00031}]
    assert "0.00042 nats/value below nlf" in verdict(results) and "0.00031 to 0.00053" in verdict(results)
    results["differences"] = [{**paired, "low": -0.003, "high": 0.0002}]
    assert "−0.0002 to 0.0030, which holds 0" in verdict(results)
    results["differences"] = [{**paired, "low": None, "high": None}]
    assert verdict(results).endswith("their 95\u00a0% intervals overlap.")


def test_heat_maps_shade_by_regret_and_by_mass_above_the_lowest(results):
    for m, (mass, regret) in zip(results["models"], [(3.2, 0.4), (2.9, 0.02), (2.8999, None)], strict=True):
        for shot in m["by_shot"]:
            shot.update(mass=mass, regret=regret)
    results["models"][2]["reason"]["regret"] = "unknown sensor"
    del results["models"][1]["by_shot"][0]  # IP at ISO 100
    by_regret, by_mass = shot_maps(results)
    assert by_regret["cameras"] == ["IP", "S6"]
    assert [row["iso"] for row in by_regret["maps"][0]["rows"]] == ["100", "800", "3200"]
    # steps: 0.001, 0.003, 0.01, 0.03, 0.1, 0.3
    assert [m["rows"][1]["cells"][0].shade for m in by_regret["maps"]] == [6, 3, None]
    assert by_regret["notes"] == [("a", "unknown sensor")]
    assert [m["rows"][1]["cells"][0].shade for m in by_mass["maps"]] == [6, 0, 0]
    assert by_mass["maps"][1]["rows"][0]["cells"][0] is None and by_mass["maps"][0]["rows"][2]["cells"][0] is None


def test_tenths_show_regret_else_mass_and_nothing_where_no_pixel_lies(whole):
    table = tenths(with_tenths(whole))
    assert table["score"] == "regret" and len(table["shots"]) == len(SHOTS)
    assert [row["range"] for row in table["pooled"]["rows"]] == ["0 to 0.1", "0.4 to 0.5", "0.9 to 1"]
    assert table["pooled"]["rows"][2]["cells"] == [None] * 3 and table["pooled"]["notes"] == []
    for m in whole["models"]:
        for entry in m["by_intensity"]:
            entry["regret"] = None
    table = tenths(with_tenths(whole))
    best = table["pooled"]["rows"][0]["cells"][2]
    assert (table["score"], best.shade) == ("mass", 0)
    assert best.text == display(with_tenths(whole)["models"][2]["by_tenth"][0]["mass"])


def test_divergences_put_the_headline_first_and_name_what_is_indistinguishable(whole, tmp_path):
    rows = divergences(whole)["rows"]
    assert [row["recipe"] for row in rows] == ["conditional", "n2nf"]
    assert [cell["alike"] for cell in rows[0]["cells"]] == [False, False, True]
    assert [cell.text for cell in rows[0]["floor"]] == ["0.00020", "0.00070"]
    whole["models"][1]["kld"]["n2nf"]["floor"] = [0.011, 0.012]  # other sizes: each model its own
    row = divergences(whole)["rows"][1]
    assert row["floor"] is None and row["cells"][1]["floor"][0].text == "0.01100"
    whole["models"][0]["kld"] = {}
    whole["models"][0]["reason"]["kld"] = "no noise was drawn"
    page, _ = write(whole, tmp_path)
    assert "".join(page.text).count("indistinguishable") == 2  # the word in the caption, and one cell
    assert "no noise was drawn" in page.titles


def test_structure_puts_all_tests_together_first(whole):
    table = structure(whole)
    assert [cell["seen"] for cell in table["family"]] == [True, False, False]
    assert [row["name"] for row in table["rows"]] == ["autocovariance", "tails"]
    whole["models"][0]["structure"] = {"row_variance": 1.25}  # no test: shown as it is
    whole["models"][0]["reason"]["structure"] = "old version"
    table = structure(whole)
    assert table["rows"][-1]["name"] == "row variance" and table["rows"][-1]["cells"][0]["value"].text == "1.2500"
    assert table["family"][0]["p"].why == "old version"


def test_worst_images_are_ordered_and_named(whole):
    tables = worst_images(whole)
    assert [t["model"] for t in tables] == ["noise_flow", "nlf", "gaussian"]
    assert [row["name"][:4] for row in tables[0]["rows"]] == [f"{n:04d}" for n in range(14, 4, -1)]
    assert tables[0]["rows"][0]["rival"] == "nlf"
    for m in whole["models"]:
        for image in m["images"]:
            image["regret"] = None
    whole["models"][2]["images"][3]["mass"] += 1.0  # now 1 nat above what others give it
    (first, *_) = worst_images(whole)
    assert first["by"] == "mass above the other models" and first["rows"][0]["name"] == "0003_003_S6"
    del whole["models"][:2]
    assert worst_images(whole)[0]["by"] == "mass"


def test_parts_that_no_model_has_are_left_out_with_their_reason(results, tmp_path):
    for m in results["models"]:
        m["kld"], m["near_clip"] = {}, None
        m["reason"].update(kld="no noise was drawn", near_clip="levels unknown")
    text = "".join(write(results, tmp_path)[0].text)
    assert "no noise was drawn" in text and "levels unknown" in text


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


def test_drawn_figures_are_small():
    # 15 cameras and ISOs, two figures each in two themes, may take half of the page's 3 MB as base64
    most = 1.5e6 * 3 / 4 / (15 * 2 * 2)
    assert len(draw_curves(make_curves()[0], list(SCALE), "light")) < most
    assert len(draw_spectrum(make_structure(), list(SCALE), "light")) < most


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


def test_spectrum_is_points_and_lines():
    picture = make_structure()
    white, points, *lines = spectrum_figure(picture, [*SCALE, "absent"], "light").axes[0].lines
    assert list(white.get_ydata()) == [1, 1] and len(lines) == len(SCALE)
    for line, name in zip((points, *lines), ("real", *SCALE), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), picture.frequency)
        np.testing.assert_array_equal(line.get_ydata(), picture.spectrum[name])
    assert draw_spectrum(picture, list(SCALE), "dark") != draw_spectrum(picture, list(SCALE), "light")


def test_spectrum_of_a_wide_range_is_logarithmic():
    picture = make_structure()
    picture.spectrum["real"][0] = 40.0
    assert spectrum_figure(picture, [], "light").axes[0].get_yscale() == "log"
    assert draw_spectrum(picture, [], "light").startswith(b"\x89PNG")


def test_autocovariance_is_coloured_on_the_stated_scale():
    import cv2

    values = np.array([[0.0, 0.05, -0.1], [0.2, 1.0, np.nan], [-0.1, 0.05, 0.0]])
    png = draw_autocovariance(values, 0.1)
    bgra = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    # half of 255 rounds to the even code 128
    assert bgra[..., 3].tolist() == [[0, 128, 255], [255, 255, 0], [255, 128, 0]]
    blue, red = bgra[..., 0].astype(int), bgra[..., 2].astype(int)
    assert red[1, 0] > blue[1, 0] and blue[0, 2] > red[0, 2]


def test_autocovariance_limit_leaves_out_lag_zero():
    picture = make_structure()
    for values in picture.autocovariance.values():
        values[:] = 1e-5
        values[3, 3] = 1.0
    assert (picture.lags, picture.limit) == (3, 0.01)
    picture.autocovariance["nlf"][0, 1] = -0.3
    assert picture.limit == 0.3


@pytest.mark.parametrize("side", [(4, 4), (3, 5)])
def test_structure_pictures_refuse_other_shapes(side):
    with pytest.raises(ValueError, match="equal odd squares"):
        StructurePicture("all", {"real": np.zeros(side)}, np.zeros(2), {"real": np.ones(2)})


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
