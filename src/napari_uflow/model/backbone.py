"""Frozen backbones: an image in, a pyramid of features out.

Making a backbone never downloads anything; :mod:`napari_uflow.model.weights` fills it with pre-trained weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_uflow.errors import ConfigError
from napari_uflow.model.info import BACKBONES
from napari_uflow.model.scattering import Scattering
from napari_uflow.progress import Chunks, run_chunks

__all__ = ["Backbone"]

# Stages of efficientnet_lite2 whose output is used: the last ones of strides 4, 8 and 16.
_LITE2_STAGES = (1, 2, 4)

# Blocks of the two CaiT networks whose output is used, as published.
_CAIT_BLOCKS = (41, 21)


class Backbone(nn.Module):
    """A frozen backbone with random weights: always in evaluation mode, no parameter has a gradient.

    Parameters
    ----------
    name : str
        One of ``scattering``, ``efficientnet_lite2``, ``resnet18``, ``wide_resnet50_2``, ``mcait``.
    n_channels : int
        Channels of the images, 1 to 3. Networks that need three get one channel three times, or two channels and
        their mean.
    contrast : float
        Range, around middle grey, that a pre-trained network gets for pixels of 0 to 1.

    Attributes
    ----------
    info : BackboneInfo
        Facts that do not depend on the images.
    channels, strides : tuple of int
        Channels of each level, and its pixels per position; finest first.
    halo : int
        Pixels around a position that can influence its features.
    fixed_size : int or None
        Side in pixels of the only tile it accepts; None if it accepts any.

    Raises
    ------
    ConfigError
        If the name is unknown.

    References
    ----------
    M. Tan, Q. V. Le (2019). EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks. ICML.
    https://arxiv.org/abs/1905.11946, and its variants without squeeze-and-excitation,
    https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite (``efficientnet_lite2``).
    K. He, X. Zhang, S. Ren, J. Sun (2016). Deep Residual Learning for Image Recognition. CVPR.
    https://doi.org/10.1109/CVPR.2016.90 (``resnet18``).
    S. Zagoruyko, N. Komodakis (2016). Wide Residual Networks. BMVC. https://doi.org/10.5244/C.30.87
    (``wide_resnet50_2``).
    H. Touvron, M. Cord, A. Sablayrolles, G. Synnaeve, H. Jégou (2021). Going Deeper with Image Transformers. ICCV.
    https://doi.org/10.1109/ICCV48922.2021.00010 (``mcait``).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, n_channels: int, contrast: float = 1.0):
        super().__init__()
        if name not in BACKBONES:
            raise ConfigError(f"backbone must be one of {', '.join(BACKBONES)}, not {name!r}")
        info = BACKBONES[name]
        self.name = name
        self.info = info
        self.n_channels = n_channels
        self.contrast = contrast
        self.strides, self.halo, self.fixed_size = info.strides, info.halo, info.fixed_size
        self.channels = tuple(n * n_channels for n in info.channels) if info.is_per_channel else info.channels
        self.networks = nn.ModuleList()
        if name == "scattering":
            self.networks.append(Scattering(n_channels))
        elif name == "mcait":
            self.networks.extend(_CaitTrunk(*each) for each in zip(info.networks, _CAIT_BLOCKS, strict=True))
        else:
            network = timm.create_model(info.networks[0], pretrained=False, features_only=True, out_indices=(1, 2, 3))
            if name == "efficientnet_lite2":  # timm keeps the stages behind the last level
                network.blocks = network.blocks[: _LITE2_STAGES[-1] + 1]
            self.networks.append(network)
        self.register_buffer("mean", torch.tensor(info.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(info.std)[:, None, None], persistent=False)
        # Channels innermost: convolutions are up to 2.5 times faster on a CPU, and faster on a GPU, too.
        self.networks.to(memory_format=torch.channels_last)
        self.freeze()

    def freeze(self) -> None:
        """Switch off gradients, and switch on the evaluation mode."""
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Backbone:  # noqa: ARG002 - a frozen network has one mode
        """Stay in evaluation mode, whatever the mode of the model around it."""
        return super().train(False)

    def pretrained_parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the networks that have pre-trained weights, with timm's names of these."""
        for name, network in zip(self.info.networks, self.networks, strict=False):
            yield name, network.cait if isinstance(network, _CaitTrunk) else network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute features, see :meth:`chunks`."""
        return run_chunks(self.chunks(x))

    def chunks(self, x: Tensor) -> Chunks[tuple[Tensor, ...]]:
        """Compute features, with a pause after each part of the network.

        Parameters
        ----------
        x : Tensor (B, C, M, N), float32
            Images in the model's intensity range (about 0 to 1); M and N multiples of the coarsest stride.

        Returns
        -------
        tuple of Tensor, each (B, C_l, M / s_l, N / s_l), float32
            Finest level first.
        """
        if self.name == "scattering":
            features: tuple[Tensor, ...] = yield from self.networks[0].chunks(x)  # type: ignore[operator]
            return features
        x = 0.5 + self.contrast * (_three_channels(x) - 0.5)
        x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        if self.name == "mcait":
            small = F.interpolate(x, size=(224, 224), mode="bicubic", align_corners=True)
            fine = yield from self.networks[0].chunks(x)  # type: ignore[operator]
            coarse = yield from self.networks[1].chunks(small)  # type: ignore[operator]
            return fine, coarse
        stages = _lite2_stages if self.name == "efficientnet_lite2" else _residual_stages
        return (yield from _levels_of(stages(self.networks[0]), x))


def _levels_of(stages: Iterable[tuple[Iterable[nn.Module], bool]], x: Tensor) -> Chunks[tuple[Tensor, ...]]:
    """Compute the feature maps of the stages that are levels, block by block."""
    levels: list[Tensor] = []
    for blocks, is_level in stages:
        for block in blocks:
            x = block(x)
            yield
        if is_level:
            levels.append(x)
    return tuple(levels)


def _residual_stages(network: Any) -> Iterator[tuple[Iterable[nn.Module], bool]]:
    """Yield the blocks of each stage of a residual network of timm, and whether its output is a level."""
    for name, layer in network.items():
        yield (layer if isinstance(layer, nn.Sequential) else (layer,)), name in network.return_layers


def _lite2_stages(network: Any) -> Iterator[tuple[Iterable[nn.Module], bool]]:
    """Yield the blocks of each stage of timm's EfficientNet-Lite2, and whether its output is a level."""
    yield (network.conv_stem, network.bn1), False
    for number, blocks in enumerate(network.blocks):
        yield blocks, number in _LITE2_STAGES


class _CaitTrunk(nn.Module):
    """The first blocks of a CaiT network and its final norm, as a map of features."""

    def __init__(self, name: str, n_blocks: int):
        super().__init__()
        self.cait = timm.create_model(name, pretrained=False, num_classes=0)
        self.cait.blocks = self.cait.blocks[:n_blocks]
        self.cait.blocks_token_only = nn.ModuleList()

    def chunks(self, x: Tensor) -> Chunks[Tensor]:
        """Compute the features of squares (B, 3, M, M), block by block; one position per patch."""
        tokens = self.cait.patch_embed(x)
        tokens = self.cait.pos_drop(tokens + self.cait.pos_embed)
        for block in self.cait.blocks:
            tokens = block(tokens)
            yield
        tokens = self.cait.norm(tokens)
        side = round(tokens.shape[1] ** 0.5)
        grid: Tensor = tokens.transpose(1, 2).reshape(len(x), -1, side, side)
        return grid


def _three_channels(x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x.expand(-1, 3, -1, -1)
    if x.shape[1] == 2:
        return torch.cat((x, x.mean(dim=1, keepdim=True)), dim=1)
    return x
