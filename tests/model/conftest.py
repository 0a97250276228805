"""Shared by the tests of backbones and of their weights: no network, and networks with random weights."""

import dataclasses
import socket

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.cait import Cait
from torch import nn

from napari_uflow.model import backbone as module
from napari_uflow.model.info import BACKBONES
from napari_uflow.model.weights import WEIGHTS_FOLDER_VARIABLE

CREATE_MODEL = timm.create_model


@pytest.fixture
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
    monkeypatch.setenv(WEIGHTS_FOLDER_VARIABLE, str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()


@pytest.fixture(scope="session")
def stirred():
    """The function that gives all batch norms some numbers."""
    return _stirred


def _stirred(network: nn.Module) -> nn.Module:
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
    return _stirred(CREATE_MODEL("resnet18", pretrained=False)).eval()


@pytest.fixture(scope="module")
def resnet18_file(resnet18, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.tv_in1k.safetensors"
    save_file(resnet18.state_dict(), path)
    return path


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

    info = dataclasses.replace(BACKBONES["mcait"], channels=(16, 8))
    monkeypatch.setattr(module, "BACKBONES", {**BACKBONES, "mcait": info})
    monkeypatch.setattr(timm, "create_model", create_model)
    return made
