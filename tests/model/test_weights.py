"""Pre-trained weights: read from files of the user, never downloaded without need."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from napari_uflow.errors import BackboneUnavailableError
from napari_uflow.model.backbone import Backbone
from napari_uflow.model.weights import WEIGHTS_FOLDER_VARIABLE, load_pretrained, weights_folder

pytestmark = pytest.mark.usefixtures("no_downloads")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["file", "folder", "variable", "other name"])
def test_weights_from_a_file(how, resnet18, resnet18_file, tmp_path, monkeypatch):
    weights = {"file": resnet18_file, "folder": resnet18_file.parent, "variable": None, "other name": tmp_path}[how]
    if how == "variable":
        monkeypatch.setenv(WEIGHTS_FOLDER_VARIABLE, str(resnet18_file.parent))
        assert weights_folder() == resnet18_file.parent
    if how == "other name":
        torch.save(resnet18.state_dict(), tmp_path / "resnet18.pth")
    backbone = Backbone("resnet18", 1)
    source = load_pretrained(backbone, weights)
    assert source == ("resnet18.pth" if how == "other name" else "resnet18.tv_in1k.safetensors")
    expected = resnet18.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in backbone.networks[0].state_dict().items())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(part.training for part in backbone.modules())


def test_scattering_needs_no_weights():
    assert load_pretrained(Backbone("scattering", 1)) == ""


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(1000)}, path)
    with pytest.raises(
        BackboneUnavailableError, match=r"does not contain the weights of resnet18.*bn1\.bias and \d+ more"
    ):
        load_pretrained(Backbone("resnet18", 1), path)


class _Bomb:
    """Does harm when it is read by a careless reader of pickles."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    "kind", ["text.safetensors", "text.pth", "empty.safetensors", "empty.pth", "bomb.pth", "a.pth"]
)
def test_what_is_no_file_of_weights_is_refused(kind, tmp_path):
    path = tmp_path / kind
    if kind.startswith("bomb"):
        path.write_bytes(pickle.dumps({"conv1.weight": _Bomb(tmp_path / "harm")}, protocol=2))
    elif kind.startswith("a."):
        torch.save([1, 2, 3], path)
    else:
        path.write_text("" if kind.startswith("empty") else "no weights at all, just a text")
    with pytest.raises(BackboneUnavailableError) as caught:
        load_pretrained(Backbone("resnet18", 1), path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "harm").exists()


def test_missing_weights_are_named(tmp_path):
    backbone = Backbone("resnet18", 1)
    with pytest.raises(BackboneUnavailableError, match=r"there is no file of weights .*nowhere"):
        load_pretrained(backbone, tmp_path / "nowhere")
    with pytest.raises(BackboneUnavailableError, match=r"does not contain resnet18\.tv_in1k\.safetensors"):
        load_pretrained(backbone, tmp_path / "weights")


def test_without_a_hub_the_message_says_what_to_fetch_and_where_to_put_it(tmp_path):
    with pytest.raises(BackboneUnavailableError) as caught:
        load_pretrained(Backbone("resnet18", 1))
    assert "timm/resnet18.tv_in1k/" in caught.value.url
    assert caught.value.path == tmp_path / "weights" / "resnet18.tv_in1k.safetensors"
    text = str(caught.value)
    assert "\n" not in text
    assert all(part in text for part in (caught.value.url, str(caught.value.path), "--weights", "'scattering'"))


def test_the_default_folder_is_in_the_home(monkeypatch):
    monkeypatch.delenv(WEIGHTS_FOLDER_VARIABLE)
    assert weights_folder().parts[-2:] == (".cache", "napari-uflow")


def test_mcait_has_one_file_for_each_network(tiny_cait, tmp_path):
    torch.manual_seed(1)
    backbone = Backbone("mcait", 1)
    with pytest.raises(BackboneUnavailableError, match=r"does not contain cait_m48_448\.fb_dist_in1k\.safetensors"):
        load_pretrained(backbone, tmp_path)
    for name, cait in tiny_cait.items():
        state = {key: torch.randn_like(value) for key, value in cait.state_dict().items()}
        save_file(
            {key: value.contiguous() for key, value in state.items()} | {"head.weight": torch.zeros(10, 4)},
            tmp_path / f"{name}.safetensors",
        )
    names = [f"{name}.safetensors" for name in tiny_cait]
    with pytest.raises(BackboneUnavailableError, match="a file for each of its networks"):
        load_pretrained(backbone, tmp_path / names[0])
    assert load_pretrained(backbone, tmp_path) == ", ".join(names)
    with pytest.raises(BackboneUnavailableError, match="cait_m48_448"):
        load_pretrained(backbone)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda v: torch.full_like(v, float("nan")), "not finite"),
        (lambda v: torch.full_like(v, float("inf")), "not finite"),
        (lambda v: v * 1e30, "too large"),
        (lambda v: torch.zeros_like(v), "all zero"),
        (lambda v: v.to(torch.int32), "of the type int32, not float32"),
        (lambda v: v.to(torch.complex64), "of the type complex64"),
        (lambda v: -v.abs(), "below zero"),
    ],
)
def test_weights_that_a_network_cannot_compute_with_are_refused(resnet18, tmp_path, change, fault):
    state = {name: change(v) if v.is_floating_point() else v for name, v in resnet18.state_dict().items()}
    save_file(state, tmp_path / "resnet18.safetensors")
    backbone = Backbone("resnet18", 1)
    before = {name: values.clone() for name, values in backbone.state_dict().items()}
    with pytest.raises(BackboneUnavailableError, match=f"resnet18.safetensors cannot be used as weights.*{fault}"):
        load_pretrained(backbone, tmp_path / "resnet18.safetensors")
    assert all(torch.equal(values, before[name]) for name, values in backbone.state_dict().items())


def test_weights_of_less_precision_serve(resnet18, tmp_path):
    state = {name: v.half() if v.is_floating_point() else v for name, v in resnet18.state_dict().items()}
    save_file(state, tmp_path / "resnet18.safetensors")
    backbone = Backbone("resnet18", 1)
    load_pretrained(backbone, tmp_path)
    assert backbone.state_dict()["networks.0.conv1.weight"].dtype == torch.float32
