"""Backbones: frozen, never downloaded behind the user's back, loaded from what the user gives."""

import dataclasses
import pickle
import socket

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.cait import Cait
from torch import nn

from napari_uflow.config import ModelConfig
from napari_uflow.errors import BackboneUnavailableError, ConfigError
from napari_uflow.model import backbone as module
from napari_uflow.model.backbone import create_backbone, load_pretrained, weights_folder
from napari_uflow.model.uflow import UFlow

CREATE_MODEL = timm.create_model


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch, tmp_path):
    """Neither the hub nor the user's own weights are there, and nothing may ask for the network."""

    def create_model(name, *arguments, pretrained=False, **options):
        if pretrained:
            raise OSError(f"We couldn't connect to the hub for {name}\nand a second line")
        return CREATE_MODEL(name, *arguments, pretrained=False, **options)

    def no_socket(*arguments, **options):
        raise OSError("the network is unreachable")

    monkeypatch.setattr(timm, "create_model", create_model)
    monkeypatch.setattr(socket, "create_connection", no_socket)
    monkeypatch.setattr(socket.socket, "connect", no_socket)
    monkeypatch.setenv(module.WEIGHTS_FOLDER_VARIABLE, str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()


def stirred(network: nn.Module) -> nn.Module:
    """Give all batch norms some numbers; timm starts the last one of each block at 0, so that nothing passes."""
    torch.manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1)
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return network


@pytest.fixture(scope="module")
def resnet18():
    """The whole network with random weights."""
    return stirred(CREATE_MODEL("resnet18", pretrained=False)).eval()


@pytest.fixture(scope="module")
def resnet18_file(resnet18, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.tv_in1k.safetensors"
    save_file(resnet18.state_dict(), path)
    return path


def layers_of(resnet18, x):
    """Features of layers 1 to 3 of the whole network, for an image of one channel."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (x.expand(-1, 3, -1, -1) - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        x = resnet18.maxpool(resnet18.act1(resnet18.bn1(resnet18.conv1(x))))
        outputs = []
        for layer in (resnet18.layer1, resnet18.layer2, resnet18.layer3):
            x = layer(x)
            outputs.append(x)
    return outputs


@pytest.fixture
def tiny_cait(monkeypatch):
    """CaiT networks with the depth and patches of the real ones, and as few channels as can be."""
    made = {}

    def create_model(name, pretrained=False, num_classes=1000):
        assert not pretrained
        size, depth, channels = {"cait_m48_448": (448, 48, 16), "cait_s24_224": (224, 24, 8)}[name.split(".")[0]]
        torch.manual_seed(depth)
        made[name] = Cait(
            img_size=size, embed_dim=channels, depth=depth, num_heads=1, mlp_ratio=1, num_classes=num_classes
        ).eval()
        for i, block in enumerate(made[name].blocks):
            block.number = i
        return made[name]

    info = dataclasses.replace(module._INFO["mcait"], channels=(16, 8))
    monkeypatch.setitem(module._INFO, "mcait", info)
    monkeypatch.setattr(timm, "create_model", create_model)
    return made


# Made without a download


@pytest.mark.parametrize("name", ["scattering", "resnet18", "wide_resnet50_2"])
@pytest.mark.parametrize("n_channels", [1, 2, 3])
def test_features_of_every_level(name, n_channels):
    backbone = create_backbone(name, n_channels)
    with torch.no_grad():
        outputs = backbone(torch.rand(1, n_channels, 64, 96))
    assert len(outputs) == len(backbone.channels) == len(backbone.strides)
    for y, channels, stride in zip(outputs, backbone.channels, backbone.strides, strict=True):
        assert y.shape == (1, channels, 64 // stride, 96 // stride)
        assert y.dtype == torch.float32
        assert bool(torch.isfinite(y).all())


@pytest.mark.parametrize("name", ["scattering", "resnet18"])
def test_frozen_whatever_the_model_around_it_does(name):
    model = nn.Sequential(create_backbone(name, 1)).train()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(part.training for part in model[0].modules())
    x = torch.rand(2, 1, 64, 64)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    one, other = model(x), model(x[:1])
    for a, b in zip(one, other, strict=True):  # no statistics of the batch
        torch.testing.assert_close(a[:1], b, rtol=1e-4, atol=1e-5)
        assert not a.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_unknown_backbone_is_named():
    with pytest.raises(ConfigError, match=r"one of scattering, .*, not 'vgg'"):
        create_backbone("vgg", 1)


def test_one_and_two_channels_become_three():
    backbone = create_backbone("resnet18", 3)
    x = torch.rand(1, 2, 64, 64)
    with torch.no_grad():
        for y, expected in zip(backbone(x[:, :1]), backbone(x[:, :1].repeat(1, 3, 1, 1)), strict=True):
            torch.testing.assert_close(y, expected)
        for y, expected in zip(backbone(x), backbone(torch.cat((x, x.mean(1, keepdim=True)), 1)), strict=True):
            torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("name", ["scattering", "resnet18"])
@pytest.mark.parametrize("place", [0, 15])
def test_nothing_beyond_the_halo_is_seen(name, place):
    """Change one pixel, the first or last one of a position of the coarsest level."""
    backbone = stirred(create_backbone(name, 1))
    middle = -(-(backbone.halo + 32) // 16) * 16 + place
    size = 2 * (middle // 16 * 16) + 16
    x = torch.rand(1, 1, size, size)
    changed = x.clone()
    changed[..., middle, middle] += 0.5
    with torch.no_grad():
        for a, b, stride in zip(backbone(x), backbone(changed), backbone.strides, strict=True):
            difference = (a - b).abs().amax(dim=(0, 1))
            first = torch.arange(len(difference)) * stride  # of the pixels that a position covers
            away = torch.maximum(first - middle, middle - (first + stride - 1)).clamp_min(0)
            distance = torch.maximum(away[:, None], away[None])
            assert distance[difference > 0].max() >= stride
            assert (distance > backbone.halo).any()
            assert float(difference[distance > backbone.halo].max()) <= 1e-6 * float(a.abs().max())


# Weights


@pytest.mark.parametrize("how", ["file", "folder", "variable", "other name"])
def test_weights_from_a_file(how, resnet18, resnet18_file, tmp_path, monkeypatch):
    weights = {"file": resnet18_file, "folder": resnet18_file.parent, "variable": None, "other name": tmp_path}[how]
    if how == "variable":
        monkeypatch.setenv(module.WEIGHTS_FOLDER_VARIABLE, str(resnet18_file.parent))
        assert weights_folder() == resnet18_file.parent
    if how == "other name":
        torch.save(resnet18.state_dict(), tmp_path / "resnet18.pth")
    backbone = create_backbone("resnet18", 1)
    x = torch.rand(1, 1, 64, 64)
    source = load_pretrained(backbone, weights)
    assert source == ("resnet18.pth" if how == "other name" else "resnet18.tv_in1k.safetensors")
    for y, expected in zip(backbone(x), layers_of(resnet18, x), strict=True):
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(part.training for part in backbone.modules())


def test_scattering_needs_no_weights():
    assert load_pretrained(create_backbone("scattering", 1)) == ""


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(1000)}, path)
    with pytest.raises(
        BackboneUnavailableError, match=r"does not hold the weights of resnet18.*bn1\.bias and \d+ more"
    ):
        load_pretrained(create_backbone("resnet18", 1), path)


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
        load_pretrained(create_backbone("resnet18", 1), path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "harm").exists()


def test_missing_weights_are_named(tmp_path):
    backbone = create_backbone("resnet18", 1)
    with pytest.raises(BackboneUnavailableError, match=r"there is no file of weights .*nowhere"):
        load_pretrained(backbone, tmp_path / "nowhere")
    with pytest.raises(BackboneUnavailableError, match=r"holds no resnet18\.tv_in1k\.safetensors"):
        load_pretrained(backbone, tmp_path / "weights")


def test_without_a_hub_the_message_says_what_to_fetch_and_where_to_put_it(tmp_path):
    with pytest.raises(BackboneUnavailableError) as caught:
        load_pretrained(create_backbone("resnet18", 1))
    assert "timm/resnet18.tv_in1k/" in caught.value.url
    assert caught.value.path == tmp_path / "weights" / "resnet18.tv_in1k.safetensors"
    text = str(caught.value)
    assert "\n" not in text
    assert all(part in text for part in (caught.value.url, str(caught.value.path), "--weights", "'scattering'"))


def test_the_default_folder_is_in_the_home(monkeypatch):
    monkeypatch.delenv(module.WEIGHTS_FOLDER_VARIABLE)
    assert weights_folder().parts[-2:] == (".cache", "napari-uflow")


# The published backbone, with very small networks


def test_mcait_keeps_the_right_blocks(tiny_cait):
    backbone = create_backbone("mcait", 1)
    large, small = tiny_cait["cait_m48_448.fb_dist_in1k"], tiny_cait["cait_s24_224.fb_dist_in1k"]
    for trunk, cait, n in zip(backbone.networks, (large, small), (41, 21), strict=True):
        assert trunk.cait is cait
        assert [block.number for block in cait.blocks] == list(range(n))
        assert len(cait.blocks_token_only) == 0
    x = torch.rand(1, 1, 448, 448)
    with torch.no_grad():
        fine, coarse = backbone(x)
        assert fine.shape == (1, 16, 28, 28)
        assert coarse.shape == (1, 8, 14, 14)
        normalised = (x.expand(-1, 3, -1, -1) - backbone.mean) / backbone.std
        # without blocks for the class token, timm's own features are the same tokens behind a class token
        tokens = large.forward_features(normalised)[:, 1:]
    torch.testing.assert_close(fine, tokens.transpose(1, 2).reshape(1, 16, 28, 28), rtol=1e-4, atol=1e-5)


def test_mcait_has_one_file_for_each_network(tiny_cait, tmp_path):
    torch.manual_seed(1)
    backbone = create_backbone("mcait", 1)
    with pytest.raises(BackboneUnavailableError, match=r"holds no cait_m48_448\.fb_dist_in1k\.safetensors"):
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


def test_the_whole_network_runs_on_mcait(tiny_cait):
    network = UFlow(ModelConfig(backbone="mcait", flow_steps=2), 1)
    assert network.tile == 448
    assert not network.is_size_free
    energies = network.energies(torch.rand(1, 1, 448, 448))
    assert [tuple(e.shape) for e in energies] == [(1, 28, 28), (1, 14, 14)]
    assert all(bool(torch.isfinite(e).all()) for e in energies)
