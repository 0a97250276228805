"""Parameters of the package, each described once.

The description of a parameter (default, help, range, step, unit, choices) defines its check, its command-line flag, its
form field with tooltip, and its row in the documentation. The three configurations are frozen dataclasses; a value out
of its range raises :class:`~napari_uflow.errors.ConfigError` when the configuration is created.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from napari_uflow.errors import ConfigError

__all__ = [
    "SMALLEST_DETECTION_TILE",
    "SMALLEST_MAGNIFICATION",
    "Config",
    "DetectionConfig",
    "ModelConfig",
    "Parameter",
    "PresetName",
    "TrainingConfig",
    "parameter_table",
    "parameters_of",
    "training_preset",
]


@dataclass(frozen=True, slots=True)
class Parameter:
    """Description of one parameter.

    Attributes
    ----------
    name : str
        Name of the field; the command-line flag has dashes.
    type : type
        ``int``, ``float``, ``bool`` or ``str``.
    default : object
        Default value.
    help : str
        Explanation for the user.
    low, high : float or None
        Allowed range, both ends included; None for no limit.
    step : float or None
        Step of a spin box.
    unit : str
        Unit for display, "" for none.
    choices : tuple of str
        Allowed values of a choice; empty for other parameters.
    advanced : bool
        True if a form shows the parameter under "Advanced".
    """

    name: str
    type: type
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    unit: str = ""
    choices: tuple[str, ...] = ()
    advanced: bool = True

    @property
    def range_text(self) -> str:
        """Allowed values in words."""
        if self.choices:
            return ", ".join(self.choices)
        if self.type is bool:
            return "yes or no"
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"{self.low:g} or more"
        return ""

    def check(self, value: Any) -> Any:
        """Return the value in the type of the parameter.

        Raises
        ------
        ConfigError
            If the value is not of the type or out of its range.
        """
        wrong = ConfigError(f"{self.name} must be {self._wanted()}, not {value!r}")
        if self.type is bool:
            if not isinstance(value, bool):
                raise wrong
            return value
        if self.type is str:
            if not isinstance(value, str) or (self.choices and value not in self.choices):
                raise wrong
            return value
        if isinstance(value, bool):
            raise wrong
        try:
            number = self.type(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise wrong from error
        if number != value or not math.isfinite(number):
            raise wrong
        if (self.low is not None and number < self.low) or (self.high is not None and number > self.high):
            raise wrong
        return number

    def _wanted(self) -> str:
        if self.choices:
            return "one of " + self.range_text
        kind = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}[self.type]
        range_text = self.range_text if self.type in (int, float) else ""
        return f"{kind} ({range_text})" if range_text else kind


def _parameter(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    step: float | None = None,
    unit: str = "",
    advanced: bool = True,
) -> Any:
    metadata = {"help": text, "low": low, "high": high, "step": step, "unit": unit, "advanced": advanced}
    return field(default=default, metadata=metadata)


class Config:
    """Base of the three configurations: checks, dictionaries, descriptions."""

    def __post_init__(self) -> None:
        for parameter in parameters_of(type(self)):
            # Sets the field of a frozen dataclass, so that 1 becomes 1.0 for a parameter of type float.
            object.__setattr__(self, parameter.name, parameter.check(getattr(self, parameter.name)))

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some values replaced.

        Raises
        ------
        ConfigError
            If a name is unknown or a value is out of its range.
        """
        return type(self).from_dict({**self.to_dict(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return the values by name, for JSON."""
        return dataclasses.asdict(self)  # type: ignore[call-overload,no-any-return]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Create a configuration from values by name; other parameters keep their defaults.

        Raises
        ------
        ConfigError
            If a name is unknown or a value is out of its range.
        """
        known = {parameter.name for parameter in parameters_of(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"unknown parameter {unknown[0]!r}; known parameters: {', '.join(sorted(known))}")
        return cls(**values)


def parameters_of(config: type[Config]) -> tuple[Parameter, ...]:
    """Return the descriptions of a configuration's parameters, in order."""
    return tuple(_described(config))


def _described(config: type[Config]) -> Iterator[Parameter]:
    hints = get_type_hints(config)
    for item in fields(config):  # type: ignore[arg-type]
        hint = hints[item.name]
        choices: tuple[str, ...] = ()
        if get_origin(hint) is Literal:
            choices = get_args(hint)
            hint = str
        details = dict(item.metadata)
        yield Parameter(item.name, hint, item.default, details.pop("help"), choices=choices, **details)


def parameter_table(config: type[Config]) -> str:
    """Return a Markdown table of a configuration's parameters, for the documentation."""
    lines = ["| parameter | default | allowed | meaning |", "|---|---|---|---|"]
    for parameter in parameters_of(config):
        unit = f" {parameter.unit}" if parameter.unit else ""
        default = parameter.default if parameter.default != "" else "(none)"
        if parameter.type is bool:
            default = "yes" if default else "no"
        elif parameter.type is float:
            default = f"{default:g}"
        lines.append(f"| `{parameter.name}` | {default}{unit} | {parameter.range_text} | {parameter.help} |")
    return "\n".join(lines)


BackboneName = Literal["efficientnet_lite2", "scattering", "resnet18", "wide_resnet50_2", "mcait"]
LevelsName = Literal["joint", "pyramid"]
EvidenceName = Literal["auto", "likelihood+memory", "likelihood", "memory"]
FeatureNormName = Literal["channel", "whiten", "position", "map"]
BorderName = Literal["auto", "reflect", "replicate"]


SMALLEST_MAGNIFICATION = 0.125
"""Pixels that the network sees per pixel of an image, at least."""


@dataclass(frozen=True)
class ModelConfig(Config):
    """Parts of a model."""

    backbone: BackboneName = _parameter(
        "efficientnet_lite2",
        "Network that computes the features. 'scattering' (wavelets) has no trained weights; the others are "
        "pre-trained on ImageNet. The weights of 'efficientnet_lite2' are installed with the program; those of the "
        "others must be downloaded.",
        advanced=False,
    )
    contrast: float = _parameter(
        0.35,
        "Brightness range of the normal pixels as a pre-trained backbone sees it, over black to white. Low contrast "
        "keeps the noise of the image small beside its objects.",
        low=0.05,
        high=1.0,
        step=0.05,
    )
    magnification: float = _parameter(
        1.0,
        "Pixels that the network sees per pixel of the training images: above 1 for thin or small objects, at the "
        "square of the cost; below 1 for large ones. Images with pixels of another known size are brought to it. 0: "
        "training chooses 1, 2 or 0.5 by planted defects.",
        low=0.0,
        high=8.0,
        step=0.25,
    )
    octaves: int = _parameter(
        0,
        "Sizes at which an image is looked at: 1 as it is; 2 at half the size, too, where large objects are found; 3 "
        "at a quarter as well. A position is as anomalous as at the size where it is most. 0: by the size of the "
        "training images; always 1 for a pyramid.",
        low=0,
        high=4,
        step=1,
    )
    levels: LevelsName = _parameter(
        "joint",
        "Levels of the backbone: 'joint' (all levels together at each position, every 8 pixels) or 'pyramid' (one "
        "position for each 4, 8 and 16 pixels, as published; always for 'mcait').",
    )
    evidence: EvidenceName = _parameter(
        "auto",
        "What makes a position of joint levels anomalous: 'likelihood' (the flow's whole log-likelihood), 'memory' "
        "(the distance from the nearest of many normal positions), 'likelihood+memory' (their mean) or 'auto' (their "
        "mean, unless one of them alone is clearly better on planted defects).",
    )
    memory_size: int = _parameter(
        5_000, "Normal positions in the memory.", low=100, high=1_000_000, step=1000, unit="positions"
    )
    feature_norm: FeatureNormName = _parameter(
        "whiten",
        "Normalisation of the features: 'channel' (mean and SD of each channel over normal pixels), 'whiten' (the "
        "same, with the channels decorrelated), 'position' (over the channels at each position, then 'whiten'), 'map' "
        "(over each whole tile as published, then 'whiten'; results then depend on the tile).",
    )
    border: BorderName = _parameter(
        "auto",
        "Features of the outermost positions of each level (8, 16 and 32 pixels wide): 'reflect' (their own, computed "
        "from the reflected image), 'replicate' (those of the positions further in), 'auto' ('replicate' if corners of "
        "the normal images score above the interior).",
    )
    tile: int = _parameter(256, "Side of the square training tiles.", low=64, high=2048, step=32, unit="pixels")
    flow_steps: int = _parameter(4, "Steps of the flow at each level.", low=1, high=16, step=1)
    affine_clamp: float = _parameter(
        2.0, "Soft bound of the log-scale of each flow step.", low=0.1, high=10.0, step=0.1
    )
    affine_subnet_channels_ratio: float = _parameter(
        1.0, "Hidden channels of the subnet of each flow step, over its input channels.", low=0.1, high=4.0, step=0.1
    )
    permute_soft: bool = _parameter(False, "Mix channels with random rotations instead of permutations.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 < self.magnification < SMALLEST_MAGNIFICATION:
            raise ConfigError(
                f"magnification must be 0 (chosen in training) or {SMALLEST_MAGNIFICATION} or more, not "
                f"{self.magnification}"
            )


GuaranteeName = Literal["auto", "split", "cross"]


@dataclass(frozen=True)
class TrainingConfig(Config):
    """Parameters of a training."""

    steps: int = _parameter(
        200,
        "Maximum number of optimiser steps. 0 trains nothing: a Gaussian and the memory of normal positions remain.",
        low=0,
        high=1_000_000,
        step=100,
        advanced=False,
    )
    batch_size: int = _parameter(8, "Tiles per step.", low=1, high=1024, step=1, unit="tiles")
    learning_rate: float = _parameter(1e-3, "Initial learning rate of Adam.", low=1e-7, high=1.0, step=1e-4)
    final_learning_rate: float = _parameter(
        0.1,
        "Learning rate of the last step, over the initial one; linear in between.",
        low=0.0,
        high=1.0,
        step=0.1,
    )
    weight_decay: float = _parameter(1e-5, "Weight decay of Adam.", low=0.0, high=1.0, step=1e-5)
    gradient_clip: float = _parameter(
        1.0, "Maximum norm of the gradient of a step (of the loss per latent dimension).", low=1e-3, high=1e3, step=0.1
    )
    augmentations: int = _parameter(
        4,
        "Rotated and mirrored copies of each tile (1: the tile as it is, 8: all). Their features are computed once.",
        low=1,
        high=8,
        step=1,
    )
    max_tiles: int = _parameter(
        1000,
        "Maximum number of tiles; if there are more, they are drawn at random.",
        low=1,
        high=1_000_000,
        step=100,
        unit="tiles",
    )
    min_normal: float = _parameter(
        0.5, "Minimum fraction of normal pixels; tiles with fewer are not used.", low=0.01, high=1.0, step=0.05
    )
    holdout: float = _parameter(
        0.2,
        "Fraction of the specimens held out of training, to find the best step and to calibrate the false-alarm rate; "
        "at least three of eight specimens or more.",
        low=0.0,
        high=0.5,
        step=0.05,
    )
    guarantee: GuaranteeName = _parameter(
        "auto",
        "Specimens that the guarantee counts false alarms on: 'split' (those held out), 'cross' (every specimen, each "
        "scored by a network that was trained without it: fewer images guarantee as much, and training takes up to "
        "twice as long), or 'auto' ('cross' for fewer than 50 specimens).",
    )
    specimen_pattern: str = _parameter(
        "",
        "Regular expression with one group that matches the specimen in the name of an image; images of one specimen "
        "are held out together. Empty: the name without a tile coordinate such as _x000_y128.",
    )
    condition_pattern: str = _parameter(
        "",
        "Regular expression with one group that matches the condition (stain, batch, instrument) in an image's folder "
        "and name, such as '(stain[AB])/'. Each condition has a guarantee of its own, which needs as many specimens. "
        "Empty: all images have one condition.",
    )
    check_every: int = _parameter(25, "Steps between two checks of the model.", low=1, high=10_000, step=5)
    patience: int = _parameter(
        6,
        "Checks without a better model or a lower held-out loss after which training stops.",
        low=1,
        high=10_000,
        step=1,
    )
    cache_memory: float = _parameter(
        4.0, "Memory for computed features; the others are kept on disk.", low=0.01, high=1024.0, step=0.5, unit="GB"
    )
    seed: int = _parameter(0, "Seed of all random choices.", low=0, high=2**31 - 1, step=1)


PresetName = Literal["instant", "fast", "balanced", "best"]

_PRESETS: dict[PresetName, dict[str, Any]] = {
    "instant": {"steps": 0, "augmentations": 1},
    "fast": {"steps": 60, "augmentations": 1, "max_tiles": 200, "check_every": 10, "patience": 4},
    "balanced": {},
    "best": {"steps": 1000, "augmentations": 8, "max_tiles": 4000, "patience": 10},
}


def training_preset(name: PresetName) -> TrainingConfig:
    """Return one of the ready-made configurations of a training.

    Parameters
    ----------
    name : {"instant", "fast", "balanced", "best"}
        Without training of the flow; for a first try; the defaults; for the best result, at several times the cost.
    """
    return TrainingConfig(**_PRESETS[name])


NfaMethod = Literal["size-conditional", "paper", "binomial"]
CalibrationName = Literal["conformal", "tails", "none"]
HeatmapName = Literal["rarity", "published"]
SharedBy = Literal["image", "stack"]

SMALLEST_DETECTION_TILE = 128
"""Pixels; a smaller tile would consist mostly of its halo."""


@dataclass(frozen=True)
class DetectionConfig(Config):
    """Parameters of detection."""

    false_alarms: float = _parameter(
        1.0,
        "Accepted false alarms per image or per stack. A region is reported if fewer regions at least as significant "
        "are expected in a normal image or stack.",
        low=1e-12,
        high=10.0,
        step=0.1,
        advanced=False,
    )
    false_alarms_per: SharedBy = _parameter(
        "image",
        "Unit of the accepted false alarms: per 'image' (every plane), or per 'stack' (shared by the planes of a file "
        "or layer: a tenth for each of ten).",
    )
    nfa: NfaMethod = _parameter(
        "size-conditional",
        "Computation of the number of false alarms: 'size-conditional' (regions, with a share of the tests for each "
        "size), 'paper' (regions as in the JMIV paper, one number of tests for all sizes) or 'binomial' (windows as in "
        "its first version). The last two are not calibrated.",
    )
    condition: str = _parameter(
        "",
        "Condition of the images, one of those of the training. Empty: found by the condition pattern of the training.",
    )
    calibration: CalibrationName = _parameter(
        "conformal",
        "Calibration of 'size-conditional': 'conformal' (guaranteed by false alarms counted on held-out specimens), "
        "'tails' (from the distribution of scores on held-out specimens) or 'none' (for standard normal latents).",
    )
    heatmap: HeatmapName = _parameter(
        "rarity",
        "Values of the heatmap: 'rarity' (decades: 3 where one of 1000 normal positions scores as high, of those as "
        "near the border) or 'published' (1 minus the mean likelihood over the levels, 0 to 1).",
    )
    as_published: bool = _parameter(
        False, "Compute 'paper' and 'binomial' exactly as their published code, including its known faults."
    )
    window_size: float = _parameter(
        5.0,
        "Side of the window of 'binomial' on the finest level; half as much on the next level, and so on.",
        low=1.0,
        high=101.0,
        step=2.0,
        unit="positions",
    )
    binomial_probability_thr: float = _parameter(
        0.9,
        "Probability that a latent of a normal image is not a candidate of 'binomial'.",
        low=0.01,
        high=0.9999,
        step=0.01,
    )
    high_precision: bool = _parameter(
        False, "Use a continuous binomial tail for 'binomial', without jumps between whole counts."
    )
    tile: int = _parameter(
        0,
        "Side of the square tiles in which a large image is read; 0 chooses it by the free memory, other values must "
        "be 128 or more. The result does not depend on it, unless the halo is reduced.",
        low=0,
        high=8192,
        step=128,
        unit="pixels",
    )
    halo: int = _parameter(
        -1,
        "Context of the flow around each tile; -1: all that it requires. The context of the backbone is always read.",
        low=-1,
        high=1024,
        step=16,
        unit="pixels",
    )

    @property
    def heatmap_limits(self) -> tuple[float, float]:
        """Heatmap values shown as black and as the brightest colour, the same for all images.

        Black up to the rarest of a hundred normal positions, so that a clean image stays dark.
        """
        return (2.0, 7.0) if self.heatmap == "rarity" else (0.4, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 < self.tile < SMALLEST_DETECTION_TILE:
            raise ConfigError(
                f"tile must be 0 (chosen by the free memory) or {SMALLEST_DETECTION_TILE} pixels or more: {self.tile}"
            )

    def n_sharing(self, n_planes: int) -> int:
        """Return the number of images that share the accepted false alarms, for a stack of `n_planes` planes."""
        return n_planes if self.false_alarms_per == "stack" else 1
