"""Check of the weights of a model: they belong to its configuration, and a network can compute with them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from napari_uflow.config import ModelConfig
from napari_uflow.model.uflow import UFlow
from napari_uflow.model.weights import check_weights

__all__ = ["check_state"]

_NORM_SCALE = re.compile(r"(coarser\.)*norm\.scale_\d+")
_WIDTH = re.compile(r"(coarser\.)*scale\.width")
_PERMUTATION = re.compile(r"(coarser\.)*flow\..*\.w_perm")
# Rounding errors of a rotation of 2000 channels.
_TOLERANCE = 1e-3


def check_state(config: ModelConfig, n_channels: int, state: Mapping[str, Tensor]) -> None:
    """Raise if tensors are not the weights of a trained network.

    The network to compare them with has no memory of its own, so that a file cannot ask for a large one.

    Parameters
    ----------
    config : ModelConfig
        Parts of the model.
    n_channels : int
        Channels of its images.
    state : mapping of str to Tensor
        Weights by name; those of the backbone may be missing.

    Raises
    ------
    ValueError
        If a tensor is missing, unknown, or of another shape or type than that of the network; or if its values are none
        that a training makes: not finite, a width that is not positive, an order of channels that is no permutation.
    """
    with torch.device("meta"):
        network = UFlow(config, n_channels)
    wanted = network.state_dict()
    has_backbone = any(name.startswith("backbone.") for name in state)
    missing = sorted(
        name for name in wanted if name not in state and (has_backbone or not name.startswith("backbone."))
    )
    unknown = sorted(set(state) - set(wanted))
    other = sorted(name for name in state if name in wanted and not _has_shape(name, state, wanted))
    for names, fault in ((missing, "is missing"), (unknown, "is none of them"), (other, "has another shape")):
        if names:
            raise ValueError(f"its weights do not belong to its configuration: {names[0]} {fault}")
    check_weights(state, wanted, exact_type=True)
    for name, values in state.items():
        if _NORM_SCALE.fullmatch(name):
            is_right = bool(((values if values.ndim == 1 else values.diagonal()) > 0).all())
        elif _WIDTH.fullmatch(name):
            is_right = bool((values > 0).all())
        elif _PERMUTATION.fullmatch(name):
            is_right = _is_permutation(values.flatten(1), is_soft=config.permute_soft)
            is_right &= torch.equal(values.flatten(1).T, state[f"{name}_inv"].flatten(1))
        else:
            continue
        if not is_right:
            raise ValueError(f"its weights {name} are none that a training makes")


def _has_shape(name: str, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    """Return True if a tensor has the shape of the network's; a memory holds any number of vectors, each with a key."""
    shape = state[name].shape
    if name.endswith("memory.vectors"):
        return len(shape) == 2 and shape[1] == wanted[name].shape[1]
    if name.endswith("memory.keys"):
        return shape == state[f"{name.removesuffix('keys')}vectors"].shape[:1]
    return shape == wanted[name].shape


def _is_permutation(matrix: Tensor, *, is_soft: bool) -> bool:
    """Return True if rows and columns have the length 1 and, unless it is a soft permutation, are 0 and 1."""
    is_unit = all(bool(((matrix.square().sum(dim=i) - 1).abs() < _TOLERANCE).all()) for i in (0, 1))
    return is_unit and (is_soft or bool(((matrix == 0) | (matrix == 1)).all()))
