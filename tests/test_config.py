"""One description of each parameter: what it allows, and that configurations hold to it."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_uflow.config import (
    SMALLEST_DETECTION_TILE,
    SMALLEST_MAGNIFICATION,
    DetectionConfig,
    ModelConfig,
    TrainingConfig,
    parameter_table,
    parameters_of,
)
from napari_uflow.errors import ConfigError, UFlowError

CONFIGS = (ModelConfig, TrainingConfig, DetectionConfig)
PARAMETERS = [pytest.param(c, p, id=f"{c.__name__}.{p.name}") for c in CONFIGS for p in parameters_of(c)]


def allowed(parameter):
    """Return a strategy of all that a parameter allows."""
    if parameter.choices:
        return st.sampled_from(parameter.choices)
    if parameter.type is bool:
        return st.booleans()
    if parameter.type is int:
        return st.integers(parameter.low, parameter.high)
    if parameter.type is float:
        return st.floats(parameter.low, parameter.high)
    return st.text(max_size=5)


def configs():
    def built(config):
        values = {parameter.name: allowed(parameter) for parameter in parameters_of(config)}
        if config is DetectionConfig:
            values["tile"] = st.just(0) | st.integers(SMALLEST_DETECTION_TILE, 8192)
        if config is ModelConfig:
            values["magnification"] = st.just(0.0) | st.floats(SMALLEST_MAGNIFICATION, 8)
        return st.builds(config, **values)

    return st.sampled_from(CONFIGS).flatmap(built)


@pytest.mark.parametrize(("config", "parameter"), PARAMETERS)
def test_every_parameter_is_described(config, parameter):
    assert parameter.type in (int, float, bool, str)
    assert type(parameter.default) is parameter.type
    assert parameter.check(parameter.default) == parameter.default
    assert parameter.help.endswith(".")
    assert parameter.help[0].isupper()
    assert parameter.range_text or parameter.type is str
    if parameter.type in (int, float):
        assert parameter.low < parameter.high
        assert 0 < parameter.step <= parameter.high - parameter.low
    assert getattr(config(), parameter.name) == parameter.default


@pytest.mark.parametrize(("config", "parameter"), PARAMETERS)
def test_both_ends_are_allowed_and_nothing_beyond(config, parameter):
    wrong: list[object] = [None, [], b"1", 1j]
    if parameter.type is bool:
        wrong += [0, 1, "yes", 1.0]
    elif parameter.type is str:
        wrong += [1, True] + ["nothing of the kind"] * bool(parameter.choices)
        for choice in parameter.choices:
            assert getattr(config(**{parameter.name: choice}), parameter.name) == choice
    else:
        wrong += ["1", "", True, False, math.nan, math.inf, -math.inf, parameter.high + 1, parameter.low - 1]
        wrong += [parameter.low + 0.5] * (parameter.type is int)
        for end in (parameter.low, parameter.high):
            value = getattr(config(**{parameter.name: end}), parameter.name)
            assert value == end
            assert type(value) is parameter.type
    for value in wrong:
        with pytest.raises(ConfigError) as caught:
            config(**{parameter.name: value})
        text = str(caught.value)
        assert text.startswith(f"{parameter.name} must be ")
        assert text.endswith(f", not {value!r}")


def test_the_message_names_range_and_value():
    with pytest.raises(ConfigError, match=r"^false_alarms must be a number \(1e-12 to 10\), not 0$"):
        DetectionConfig(false_alarms=0)
    with pytest.raises(ConfigError, match=r"^augmentations must be a whole number \(1 to 8\), not 2.5$"):
        TrainingConfig(augmentations=2.5)
    with pytest.raises(ConfigError, match=r"^backbone must be one of efficientnet_lite2, scattering, .*, not 'vgg'$"):
        ModelConfig(backbone="vgg")
    with pytest.raises(ConfigError, match=r"^permute_soft must be True or False, not 1$"):
        ModelConfig(permute_soft=1)
    assert issubclass(ConfigError, UFlowError)
    assert issubclass(ConfigError, ValueError)


def test_numbers_become_the_type_that_is_meant():
    config = TrainingConfig(learning_rate=1, augmentations=np.int64(2), holdout=np.float32(0.25), steps=10.0)
    assert [type(v) for v in (config.learning_rate, config.augmentations, config.holdout, config.steps)] == [
        float,
        int,
        float,
        int,
    ]


@given(configs())
def test_dictionaries_bring_back_the_same_configuration(config):
    values = json.loads(json.dumps(config.to_dict(), allow_nan=False))
    assert type(config).from_dict(values) == config
    assert config.replace() == config
    assert hash(config.replace()) == hash(config)


def test_names_left_out_keep_their_defaults_and_unknown_ones_are_refused():
    assert ModelConfig.from_dict({"tile": 128}) == ModelConfig(tile=128)
    with pytest.raises(ConfigError, match=r"unknown parameter 'tiles'; known parameters: affine_clamp, .*tile"):
        ModelConfig.from_dict({"tiles": 128})
    with pytest.raises(ConfigError, match="unknown parameter 'tiles'"):
        ModelConfig().replace(tiles=128)


def test_replace_checks_and_leaves_the_old_one_alone():
    config = TrainingConfig()
    assert config.replace(seed=7).seed == 7
    assert config == TrainingConfig()
    with pytest.raises(ConfigError, match="seed"):
        config.replace(seed=-1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 7


@pytest.mark.parametrize("config", CONFIGS)
def test_the_table_has_a_row_for_each_parameter(config):
    lines = parameter_table(config).splitlines()[2:]
    assert [line.split("`")[1] for line in lines] == [parameter.name for parameter in parameters_of(config)]
    assert len({line.count("|") for line in lines}) == 1
    for line, parameter in zip(lines, parameters_of(config), strict=True):
        assert parameter.help in line
        assert parameter.range_text in line


def test_no_name_is_in_two_configurations_of_one_command():
    training = {p.name for p in parameters_of(TrainingConfig)}
    assert not training & {p.name for p in parameters_of(ModelConfig)}


def test_tiles_of_detection_are_chosen_or_not_too_small():
    assert DetectionConfig(tile=0).tile == 0
    assert DetectionConfig(tile=128).tile == 128
    with pytest.raises(ConfigError, match=r"tile must be 0 .* 128 pixels or more: 64"):
        DetectionConfig(tile=64)
