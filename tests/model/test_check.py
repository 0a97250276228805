"""Weights that are none: of another type or shape, not finite, or none that a training makes."""

import pytest
import torch

from napari_uflow.config import ModelConfig
from napari_uflow.model.check import check_state
from napari_uflow.model.uflow import UFlow

CONFIGS = {
    "joint": ModelConfig(backbone="scattering", tile=64, flow_steps=2, octaves=2),
    "pyramid": ModelConfig(backbone="scattering", tile=64, flow_steps=1, levels="pyramid", permute_soft=True),
    "channel": ModelConfig(tile=64, flow_steps=1, octaves=1, feature_norm="channel"),
}


@pytest.fixture(scope="module", params=CONFIGS)
def initial(request):
    """A configuration and the weights that a network begins with, which must stay legal."""
    config = CONFIGS[request.param]
    return config, UFlow(config, 2).state_dict()


def first(state, part, ndim=1):
    return next(name for name, values in state.items() if part in name and values.ndim >= ndim)


def test_a_network_that_was_never_trained_is_legal(initial):
    config, state = initial
    check_state(config, 2, state)
    check_state(config, 2, {name: v for name, v in state.items() if not name.startswith("backbone.")})


@pytest.mark.parametrize("part", ["flow.", "norm.scale", "norm.mean"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_a_single_number_that_is_not_usable_is_refused(initial, part, value):
    config, state = initial
    name = first(state, part)
    changed = state[name].clone()
    changed.view(-1)[-1] = value
    with pytest.raises(ValueError, match=f"its weights {name} are not finite, or too large"):
        check_state(config, 2, {**state, name: changed})


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.float16, torch.float64, torch.complex64, torch.bool])
def test_another_type_is_refused(initial, dtype):
    config, state = initial
    changed = {name: values.to(dtype) if values.is_floating_point() else values for name, values in state.items()}
    with pytest.raises(ValueError, match=r"of the type .*, not float32"):
        check_state(config, 2, changed)


def test_zeros_are_refused(initial):
    config, state = initial
    with pytest.raises(ValueError, match=r"none that a training makes|all zero"):
        check_state(config, 2, {name: torch.zeros_like(values) for name, values in state.items()})


@pytest.mark.parametrize("part", ["norm.scale", "w_perm", "scale.width"])
@pytest.mark.parametrize("change", [torch.zeros_like, torch.neg, lambda x: x * -0.5])
def test_values_that_no_training_makes_are_refused(initial, part, change):
    config, state = initial
    for name in [name for name in state if part in name]:
        with pytest.raises(ValueError, match="none that a training makes"):
            check_state(config, 2, {**state, name: change(state[name])})


def test_a_backbone_with_negative_variances_or_lost_kernels_is_refused():
    config = CONFIGS["channel"]
    state = UFlow(config, 2).state_dict()
    variance = first(state, "running_var")
    with pytest.raises(ValueError, match="are variances but below zero"):
        check_state(config, 2, {**state, variance: -state[variance]})
    kernel = first(state, "conv_stem.weight")
    with pytest.raises(ValueError, match="are all zero"):
        check_state(config, 2, {**state, kernel: torch.zeros_like(state[kernel])})


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda state, name: {k: v for k, v in state.items() if k != name}, "is missing"),
        (lambda state, name: {**state, "evil": torch.zeros(3)}, "evil is none of them"),
        (lambda state, name: {**state, name: state[name].reshape(-1)}, "has another shape"),
    ],
)
def test_weights_of_another_network_are_refused(initial, change, fault):
    config, state = initial
    with pytest.raises(ValueError, match=f"do not belong to its configuration: .*{fault}"):
        check_state(config, 2, change(state, first(state, "flow.", ndim=2)))


def test_a_large_configuration_takes_no_memory():
    """The card of a small file may ask for a network of gigabytes."""
    config = ModelConfig(backbone="resnet18", flow_steps=16, affine_subnet_channels_ratio=4.0, octaves=1)
    with pytest.raises(ValueError, match="is missing"):
        check_state(config, 1, {"backbone.x": torch.zeros(1)})
