"""`noiseflow compare` from outside."""

import copy
import json

import pytest

from noiseflow.cli import main


def entry(name, mass):
    return {
        "name": name,
        "file_hash": "ab" * 32,
        "mass": {"value": mass, "low": mass - 0.1, "high": mass + 0.1},
        "nll": {"value": mass - 5, "low": None, "high": None},
        "regret": None,
        "kld": {"conditional": {"value": 0.00321, "low": 0.00311, "high": 0.00331, "floor": [0.0, 0.1]}},
        "structure": {"family": {"p": 0.25, "sets": 8}},
    }


@pytest.fixture
def results():
    return {
        "format": 1,
        "data": {"root_hash": "9f" * 32, "split": "test", "images": 4, "scenes": 2},
        "protocol": {"seed": 0, "draws": 2},
        "models": [entry("nlf", 2.5), entry("flow", 2.4)],
    }


@pytest.fixture
def compare(tmp_path, capsys, monkeypatch):
    """Write two results, compare them, return exit code, output and error."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(first, second):
        for name, content in (("a", first), ("b", second)):
            (tmp_path / name).mkdir(exist_ok=True)
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / name / "results.json").write_text(text)
        code = main(["compare", str(tmp_path / "a"), str(tmp_path / "b" / "results.json")])
        return code, *capsys.readouterr()

    return run


def test_equal_results_are_equal(results, compare):
    code, out, _ = compare(results, results)
    assert code == 0
    assert "same data, split and protocol" in out and "warning" not in out and "only in" not in out
    assert "another model file" not in out and "apart\n" not in out


def test_every_figure_with_its_difference_and_whether_intervals_overlap(results, compare):
    other = copy.deepcopy(results)
    other["models"][0]["mass"] = {"value": 2.75, "low": 2.7, "high": 2.8}
    other["models"][0]["kld"]["conditional"]["value"] = 0.00322
    other["models"][0]["structure"]["family"]["p"] = 0.0125
    other["models"][0]["file_hash"] = "cd" * 32
    code, out, _ = compare(results, other)
    assert code == 0
    lines = out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.split()[:1] == ["mass"])
    assert lines[at].split() == ["mass", "2.5000", "2.7500", "0.2500"]
    assert lines[at + 1].split() == ["[2.4000,", "2.6000]", "[2.7000,", "2.8000]", "apart"]
    kld = next(line.split() for line in lines if line.split()[-1:] == ["0.00001"])
    assert kld[-3:-1] == ["0.00321", "0.00322"]
    assert next(line.split() for line in lines if "structure p" in line)[-3:] == ["0.2500", "0.0125", "−0.2375"]
    nll = next(line.split() for line in lines if line.split()[:1] == ["nll"])
    assert nll == ["nll", "−2.5000", "−2.5000", "0.0000"]
    assert "overlap" in out and "nlf: another model file" in out and "flow: another" not in out
    assert not any(line.split()[:1] == ["regret"] for line in lines)  # neither has one
    assert all(len(line.rstrip()) <= 80 for line in lines if line.startswith(("  ", " ─")))


def test_intervals_that_touch_overlap(results, compare):
    other = copy.deepcopy(results)
    other["models"] = [entry("nlf", 2.7)]
    other["models"][0]["mass"].update(low=results["models"][0]["mass"]["high"])
    results["models"] = results["models"][:1]
    assert "apart\n" not in compare(results, other)[1]


def test_other_data_and_protocols_are_named_first_with_a_warning(results, compare):
    other = copy.deepcopy(results)
    other["data"].update(root_hash="11" * 32, split="all")
    other["protocol"] = {"draws": 2, "tile": 256}
    code, out, _ = compare(results, other)
    assert code == 0
    assert out.index("cannot be compared") < out.index("mass")
    for line in (f"data.root_hash: {'9f' * 32} in A, {'11' * 32} in B", "data.split: test in A, all in B",
                 "protocol.seed: 0 in A, nothing in B", "protocol.tile: nothing in A, 256 in B"):  # fmt: skip
        assert line in out
    assert "draws" not in out


def test_models_in_one_only_are_listed(results, compare):
    other = copy.deepcopy(results)
    other["models"][0]["name"] = "[red]physics"
    code, out, _ = compare(results, other)
    assert code == 0 and "only in A: nlf" in out and "only in B: [red]physics" in out
    other["models"] = []
    assert "no model is in both" in compare(results, other)[1]


def test_models_without_figures_make_no_trouble(results, compare):
    results["models"] = [{"name": "nlf", "mass": "broken", "kld": None, "structure": {}}]
    assert compare(results, results)[0] == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "expected the JSON"),
        ("[1]", "list of named models"),
        ('{"models": [{"mass": 1}]}', "list of named models"),
        ('{"models": [], "format": 2}', "expected format 1, got 2"),
        ('{"models": [], "format": 1, "data": 3}', "expected 'data' to be an object"),
        ("[" * 100_000, "expected the JSON"),
    ],
)
def test_bad_files_are_one_sentence(results, compare, content, said):
    code, _, err = compare(results, content)
    assert code == 1
    assert said in err and err.count("\n") == 1 and "Traceback" not in err


def test_a_missing_file_is_one_sentence(tmp_path, capsys):
    assert main(["compare", str(tmp_path), str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path}: expected a results.json or a folder with one, found none\n"
