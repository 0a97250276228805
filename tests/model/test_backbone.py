"""Backbones: frozen, and made without a download."""

import pytest
import timm
import torch
from torch import nn

from napari_uflow.config import ModelConfig
from napari_uflow.errors import ConfigError
from napari_uflow.model.backbone import Backbone
from napari_uflow.model.info import BACKBONES
from napari_uflow.model.uflow import UFlow

pytestmark = pytest.mark.usefixtures("no_downloads")


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


# Made without a download


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scattering", "efficientnet_lite2", "resnet18", "wide_resnet50_2"])
@pytest.mark.parametrize("n_channels", [1, 2, 3])
def test_features_of_every_level(name, n_channels):
    backbone = Backbone(name, n_channels)
    with torch.no_grad():
        outputs = backbone(torch.rand(1, n_channels, 64, 96))
    assert len(outputs) == len(backbone.channels) == len(backbone.strides)
    for y, channels, stride in zip(outputs, backbone.channels, backbone.strides, strict=True):
        assert y.shape == (1, channels, 64 // stride, 96 // stride)
        assert y.dtype == torch.float32
        assert bool(torch.isfinite(y).all())


@pytest.mark.parametrize("name", ["scattering", "efficientnet_lite2", "resnet18"])
def test_frozen_whatever_the_model_around_it_does(name):
    model = nn.Sequential(Backbone(name, 1)).train()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(part.training for part in model[0].modules())
    x = torch.rand(2, 1, 64, 64)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    one, other = model(x), model(x[:1])
    for a, b in zip(one, other, strict=True):  # no statistics of the batch
        torch.testing.assert_close(a[:1], b, rtol=1e-4, atol=1e-5)
        assert not a.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_levels_are_layers_of_the_whole_network(resnet18):
    backbone = Backbone("resnet18", 1)
    backbone.networks[0].load_state_dict(resnet18.state_dict(), strict=False)
    x = torch.rand(1, 1, 64, 64)
    for y, expected in zip(backbone(x), layers_of(resnet18, x), strict=True):
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


def test_the_levels_are_those_of_timm_for_efficientnet_lite2(stirred):
    """They are the last ones of their strides, and nothing behind them is kept."""
    backbone = Backbone("efficientnet_lite2", 1)
    network = stirred(timm.create_model("tf_efficientnet_lite2", features_only=True, out_indices=(1, 2, 3))).eval()
    assert tuple(network.feature_info.channels()) == backbone.channels
    assert tuple(network.feature_info.reduction()) == backbone.strides
    wanted = backbone.networks[0].state_dict()
    backbone.networks[0].load_state_dict({key: network.state_dict()[key] for key in wanted})
    x = torch.rand(1, 1, 64, 96)
    with torch.no_grad():
        for y, expected in zip(backbone(x), network((x.expand(-1, 3, -1, -1) - 0.5) / 0.5), strict=True):
            torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    assert [len(stage) for stage in backbone.networks[0].blocks] == [1, 3, 3, 4, 4]


@pytest.mark.parametrize("name", [name for name, info in BACKBONES.items() if info.needs_weights])
def test_pixels_are_normalised_as_in_the_training_of_the_network(name):
    info = BACKBONES[name]
    for network in info.networks:
        config = timm.get_pretrained_cfg(network)
        assert (config.mean, config.std) == (info.mean, info.std)


def test_unknown_backbone_is_named():
    with pytest.raises(ConfigError, match=r"one of .*scattering, .*, not 'vgg'"):
        Backbone("vgg", 1)


def test_one_and_two_channels_become_three():
    backbone = Backbone("resnet18", 3)
    x = torch.rand(1, 2, 64, 64)
    with torch.no_grad():
        for y, expected in zip(backbone(x[:, :1]), backbone(x[:, :1].repeat(1, 3, 1, 1)), strict=True):
            torch.testing.assert_close(y, expected)
        for y, expected in zip(backbone(x), backbone(torch.cat((x, x.mean(1, keepdim=True)), 1)), strict=True):
            torch.testing.assert_close(y, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scattering", "efficientnet_lite2", "resnet18"])
@pytest.mark.parametrize("place", [0, 15])
def test_nothing_beyond_the_halo_is_seen(name, place, stirred):
    """Change one pixel, the first or last one of a position of the coarsest level."""
    backbone = stirred(Backbone(name, 1))
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


@pytest.mark.parametrize("axis", [2, 3])
def test_the_halo_of_efficientnet_lite2_is_no_larger_than_needed(axis):
    """Equal positive weights and small values: nothing cancels or saturates, so the farthest pixels have a gradient."""
    backbone = Backbone("efficientnet_lite2", 1).double()
    for layer in backbone.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
    long = 2 * 256 + 16
    x = torch.full((1, 1, long, 32) if axis == 2 else (1, 1, 32, long), 0.501, dtype=torch.double, requires_grad=True)
    level = backbone(x)[-1]
    (gradient,) = torch.autograd.grad(level.select(axis, 16).sum(), x)
    seen = gradient.any(dim=5 - axis).flatten().nonzero()
    assert (256 - seen[0].item(), seen[-1].item() - (256 + 15)) == (222, 237)
    assert backbone.halo == 240


# The published backbone, with very small networks


def test_mcait_keeps_the_right_blocks(tiny_cait):
    backbone = Backbone("mcait", 1)
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


def test_the_whole_network_runs_on_mcait(tiny_cait):
    network = UFlow(ModelConfig(backbone="mcait", flow_steps=2), 1)
    assert network.tile == 448
    assert not network.is_size_free
    energies = network.energies(torch.rand(1, 1, 448, 448))
    assert [tuple(e.shape) for e in energies] == [(1, 28, 28), (1, 14, 14)]
    assert all(bool(torch.isfinite(e).all()) for e in energies)
