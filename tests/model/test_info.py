"""The facts about the backbones are those of the networks."""

from typing import get_args

import pytest

from napari_uflow.config import BackboneName, ModelConfig
from napari_uflow.model.backbone import Backbone
from napari_uflow.model.info import BACKBONES, flow_kernels, has_joint_levels, sizes_text
from napari_uflow.model.scattering import Scattering
from napari_uflow.model.uflow import UFlow


def test_every_backbone_is_known():
    assert set(BACKBONES) == set(get_args(BackboneName))


@pytest.mark.parametrize("n_channels", [1, 2, 3])
def test_channels_of_scattering(n_channels):
    assert Backbone("scattering", n_channels).channels == Scattering(n_channels).channels


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("scattering", 8.97),
        ("efficientnet_lite2", 2.719),
        ("resnet18", 7),
        ("wide_resnet50_2", 28),
        ("mcait", 3.375),
    ],
)
@pytest.mark.parametrize("n_channels", [1, 3])
def test_values_per_pixel(name, values, n_channels):
    expected = values * (n_channels if name == "scattering" else 1)
    assert BACKBONES[name].values_per_pixel(n_channels) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["scattering", "efficientnet_lite2", "resnet18"])
@pytest.mark.parametrize("flow_steps", [1, 2, 3, 4])
@pytest.mark.parametrize("levels", ["joint", "pyramid"])
def test_the_halo_of_the_flow(name, flow_steps, levels):
    config = ModelConfig(backbone=name, flow_steps=flow_steps, levels=levels)
    assert BACKBONES[name].flow_halo(config) == UFlow(config, 1).flow_halo
    assert (BACKBONES[name].flow_halo(config) == 0) == (levels == "joint")


@pytest.mark.parametrize("name", ["scattering", "efficientnet_lite2", "resnet18"])
@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("levels", ["joint", "pyramid"])
def test_values_of_the_flow(name, n_channels, levels):
    config = ModelConfig(backbone=name, levels=levels, flow_steps=1)
    network = UFlow(config, n_channels)
    expected = sum(n / stride**2 for n, stride in zip(network.channels, network.strides, strict=True))
    assert BACKBONES[name].values_of_flow(config, n_channels) == pytest.approx(expected)


@pytest.mark.parametrize("levels", ["joint", "pyramid"])
def test_levels_of_a_backbone_without_stride_8_stay_a_pyramid(levels):
    config = ModelConfig(backbone="mcait", levels=levels)
    assert not has_joint_levels(config)
    assert flow_kernels(config) == (3, 1)


@pytest.mark.parametrize(("n", "text"), [(0, "full"), (1, "full"), (2, "full and 1/2"), (3, "full, 1/2 and 1/4")])
def test_sizes_of_octaves(n, text):
    assert sizes_text(n) == text
