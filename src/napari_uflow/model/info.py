"""Facts about the backbones that are known without torch: for the command line, the estimate and the methods text."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from napari_uflow.config import ModelConfig

__all__ = [
    "BACKBONES",
    "JOINT_STRIDE",
    "BackboneInfo",
    "at_size",
    "flow_kernels",
    "flow_reach",
    "has_joint_levels",
    "octaves_of",
    "sizes_text",
]

JOINT_STRIDE = 8
"""Pixels per position of joint features."""
# Positions of the coarsest level around a position that can influence its joint features: mean and interpolation.
_JOINT_HALO = 2
# Least shorter side of an image in the coarsest octave, in pixels, and octaves at most.
_LEAST_SIDE, _MOST_OCTAVES = 160, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneInfo:
    """Facts about a backbone.

    Attributes
    ----------
    description : str
        Noun phrase for a methods section.
    networks : tuple of str
        timm's names, with the tags of their weights; empty for a backbone without weights.
    mean, std : tuple of float
        Of red, green and blue: a network gets (x - mean) / std of pixels of about 0 to 1. ImageNet's unless stated.
        Not used by a backbone without weights.
    channels, strides : tuple of int
        Channels of each level for an image of one channel, and pixels per position of each level; finest first.
    is_per_channel : bool
        Each channel of an image has features of its own.
    halo : int
        Pixels around a position that can influence its features, rounded up to a multiple of the coarsest stride.
    fixed_size : int or None
        Side in pixels of the only tile it accepts; None if it accepts any.
    feature_seconds, step_seconds, joint_step_seconds, detection_seconds : float
        Seconds of one core per million pixels: of the features, of an optimiser step of the flow of a pyramid and of
        that of joint levels, and of a whole detection with a pyramid. Measured on one core of an AMD EPYC server with
        tiles of 256 pixels and 4 flow steps; for ``wide_resnet50_2`` scaled from the times of ``resnet18`` in the same
        rounds on another machine, for ``mcait`` guessed from its size.
    """

    description: str
    networks: tuple[str, ...] = ()
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    is_per_channel: bool = False
    halo: int
    fixed_size: int | None = None
    feature_seconds: float
    step_seconds: float
    joint_step_seconds: float = 0.0
    detection_seconds: float

    @property
    def needs_weights(self) -> bool:
        """Weights must be loaded before it can be used."""
        return bool(self.networks)

    def values_per_pixel(self, n_channels: int = 1) -> float:
        """Return the number of feature values per pixel of an image of `n_channels` channels."""
        values = sum(n / stride**2 for n, stride in zip(self.channels, self.strides, strict=True))
        return values * n_channels if self.is_per_channel else values

    def values_of_flow(self, config: ModelConfig, n_channels: int = 1) -> float:
        """Return the number of feature values per pixel of an image of `n_channels` channels that the flow gets."""
        if not has_joint_levels(config):
            return self.values_per_pixel(n_channels)
        return sum(self.channels) * (n_channels if self.is_per_channel else 1) / JOINT_STRIDE**2

    def feature_halo(self, config: ModelConfig) -> int:
        """Return the pixels around a position that can influence its features, a multiple of the coarsest stride."""
        return self.halo + (_JOINT_HALO * max(self.strides) if has_joint_levels(config) else 0)

    def flow_halo(self, config: ModelConfig) -> int:
        """Return the pixels around a position that can influence its latents through the flow alone."""
        return flow_reach(config) * sum(self.strides)


def has_joint_levels(config: ModelConfig) -> bool:
    """Return True if all levels of the backbone are joined on one grid."""
    return config.levels == "joint" and JOINT_STRIDE in BACKBONES[config.backbone].strides


def tested_strides(config: ModelConfig) -> tuple[int, ...]:
    """Return the pixels per position of each map that the calibrated region test uses."""
    return (JOINT_STRIDE,) if has_joint_levels(config) else BACKBONES[config.backbone].strides * 2


def octaves_of(config: ModelConfig, sides: Sequence[int]) -> int:
    """Return the octaves of a model.

    Parameters
    ----------
    config : ModelConfig
        Its `octaves` if they are given; 1 for a pyramid.
    sides : sequence of int
        Shorter sides of the training images, in pixels that the network sees: half of them are large enough in the
        coarsest octave.
    """
    if not has_joint_levels(config):
        return 1
    n, side = 1, statistics.median(sides)
    while n < _MOST_OCTAVES and side / 2**n >= _LEAST_SIDE:
        n += 1
    return config.octaves or n


def at_size(text: str, depth: int) -> str:
    """Return a text about an octave with its size, "... at 1/2 of the size"; `depth` are the halvings of the size."""
    return f"{text} at 1/{2**depth} of the size" if depth else text


def sizes_text(n_octaves: int) -> str:
    """Return the sizes of an image in the octaves, "full, 1/2 and 1/4"."""
    sizes = ["full", *(f"1/{2**i}" for i in range(1, n_octaves))]
    return sizes[0] if n_octaves <= 1 else f"{', '.join(sizes[:-1])} and {sizes[-1]}"


def flow_kernels(config: ModelConfig) -> tuple[int, int]:
    """Return the kernels of the flow's steps, in turn.

    As published for a pyramid. Couplings of joint levels see one position: with their neighbours they learn to predict
    a defect from the defect beside it, and detect less while the likelihood rises.

    References
    ----------
    P. Kirichenko, P. Izmailov, A. G. Wilson (2020). Why Normalizing Flows Fail to Detect Out-of-Distribution Data.
    NeurIPS. https://arxiv.org/abs/2006.08545
    """
    return (1, 1) if has_joint_levels(config) else (3, 1)


def flow_reach(config: ModelConfig) -> int:
    """Return the positions to each side that the flow sees on one level: 2 in each step with kernel 3."""
    kernels = flow_kernels(config)
    return sum(kernels[step % 2] - 1 for step in range(config.flow_steps))


# Halos of the trained networks follow from their kernels: half the receptive field of the last layer used is 105 pixels
# for resnet18 (7, pool 3, then 4 convolutions of 3 per stage) and 133 for wide_resnet50_2. efficientnet_lite2 pads as
# TensorFlow does, so a position of its last level sees 222 pixels before its first and 237 after its last one. The
# farthest reach measured of scattering is 75 pixels. Tests compare all of these facts with the networks.
BACKBONES: Mapping[str, BackboneInfo] = MappingProxyType(
    {
        "scattering": BackboneInfo(
            description="a wavelet scattering transform (8 orientations, two orders; no pre-trained weights)",
            channels=(92, 165, 165),
            strides=(4, 8, 16),
            is_per_channel=True,
            halo=80,
            feature_seconds=0.75,
            step_seconds=1.2,
            joint_step_seconds=0.75,
            detection_seconds=1.4,
        ),
        "efficientnet_lite2": BackboneInfo(
            description="an EfficientNet-Lite2 pre-trained on ImageNet",
            networks=("tf_efficientnet_lite2.in1k",),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            channels=(24, 48, 120),
            strides=(4, 8, 16),
            halo=240,
            feature_seconds=0.5,
            step_seconds=0.22,
            joint_step_seconds=0.21,
            detection_seconds=0.65,
        ),
        "resnet18": BackboneInfo(
            description="a ResNet-18 pre-trained on ImageNet",
            networks=("resnet18.tv_in1k",),
            channels=(64, 128, 256),
            strides=(4, 8, 16),
            halo=112,
            feature_seconds=0.6,
            step_seconds=0.9,
            joint_step_seconds=0.9,
            detection_seconds=1.1,
        ),
        "wide_resnet50_2": BackboneInfo(
            description="a Wide ResNet-50-2 pre-trained on ImageNet",
            networks=("wide_resnet50_2.tv_in1k",),
            channels=(256, 512, 1024),
            strides=(4, 8, 16),
            halo=144,
            feature_seconds=4.8,
            step_seconds=24.0,
            joint_step_seconds=24.0,
            detection_seconds=11.0,
        ),
        "mcait": BackboneInfo(
            description="two CaiT transformers pre-trained on ImageNet",
            networks=("cait_m48_448.fb_dist_in1k", "cait_s24_224.fb_dist_in1k"),
            channels=(768, 384),
            strides=(16, 32),
            halo=64,
            fixed_size=448,
            feature_seconds=60.0,
            step_seconds=12.0,
            detection_seconds=70.0,
        ),
    }
)
"""Facts about every backbone of :class:`~napari_uflow.config.ModelConfig`, by its name."""
