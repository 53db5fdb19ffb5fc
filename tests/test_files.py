"""Model files: equal models are equal bytes, what comes back is what went in, and nothing else gets in."""

import json

import pytest
import torch
from safetensors.torch import save_file

from noiseflow.errors import UserError
from noiseflow.files import file_hash, load, read_header, save
from noiseflow.models import ARCHITECTURES, synthesize
from noiseflow.shot import Shot

PAIRS = [("IP", 100.0), ("S6", 800.0)]


def channels_of(name):
    return 3 if name in ("isotropic", "full") else 4


def built(name, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ARCHITECTURES[name](PAIRS, channels_of(name))
    model.card = {"data": {"root_hash": "abc"}, "scores": {"steps": 3}}
    return model


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_round_trip(name, tmp_path):
    model = built(name)
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path)
    assert again.card == model.card
    assert again.cameras == ("IP", "S6")
    channels = channels_of(name)
    assert (again.packing, again.noise_domain) == ({3: "RGB", 4: "RGGB"}[channels], "latent")
    shot = Shot.of(torch.rand(2, channels, 8, 8), camera=["IP", "S6"], iso=torch.tensor([100.0, 800.0]), lsb=1 / 1023)
    assert torch.equal(synthesize(model, shot, seed=1), synthesize(again, shot, seed=1))
    save(again, tmp_path / "again.safetensors")
    assert file_hash(tmp_path / "again.safetensors") == file_hash(tmp_path / "model.safetensors")


def test_the_header_is_one_key_of_sorted_json_without_time_or_place(tmp_path):
    save(built("noise_flow"), tmp_path / "m.safetensors")
    raw = (tmp_path / "m.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert list(header["__metadata__"]) == ["noiseflow"]
    text = header["__metadata__"]["noiseflow"]
    assert text == json.dumps(json.loads(text), sort_keys=True)
    assert str(tmp_path) not in text


def altered(path, **changes):
    header = read_header(path) | changes
    tensors = {key: value.clone() for key, value in load(path).state_dict().items()}
    save_file(tensors, path, metadata={"noiseflow": json.dumps(header)})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: altered(p, format=99), "newer than this noiseflow reads"),
        (lambda p: altered(p, architecture="unheard_of"), "unknown architecture"),
        (lambda p: altered(p, arguments={"pairs": [["IP", 100]], "channels": 4}), "does not hold the model"),
        (lambda p: p.write_bytes(p.read_bytes()[:500]), "not a readable"),
        (lambda p: p.write_bytes(b""), "not a readable"),
        (lambda p: p.write_bytes(b"\x80\x04K\x01."), "not a readable"),
        (lambda p: save_file({"a": torch.zeros(1)}, p), "not one that noiseflow wrote"),
        (lambda p: p.unlink(), "no such model file"),
    ],
)
def test_refused_with_a_sentence(damage, message, tmp_path):
    path = tmp_path / "m.safetensors"
    save(built("nlf"), path)
    damage(path)
    with pytest.raises(UserError, match=message):
        load(path)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = built("nlf")
    with torch.no_grad():
        model.level.log_b[0] = torch.nan
    save(model, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="not finite"):
        load(tmp_path / "m.safetensors")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    save(built("nlf"), path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(built("nlf", seed=1), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
