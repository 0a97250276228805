"""The form of a configuration says what the configuration says, digit by digit."""

import pytest

from napari_uflow._napari.forms import ConfigForm
from napari_uflow.config import DetectionConfig, ModelConfig, TrainingConfig, parameters_of

CONFIGS = (ModelConfig, TrainingConfig, DetectionConfig)


@pytest.fixture
def form_of(qtbot):
    def make(*args, **kwargs):
        form = ConfigForm(*args, **kwargs)
        qtbot.addWidget(form)
        return form

    return make


@pytest.mark.parametrize("config", CONFIGS)
def test_every_default_comes_back(form_of, config):
    assert form_of(config).config() == config()


@pytest.mark.parametrize("config", CONFIGS)
def test_every_bound_comes_back(form_of, config):
    form = form_of(config)
    for parameter in parameters_of(config):
        for value in (*parameter.choices, parameter.low, parameter.high):
            if value is None or (config is ModelConfig and parameter.name == "tile"):
                continue
            wanted = config().replace(**{parameter.name: value})
            form.set_config(wanted)
            assert form.config() == wanted, parameter.name


@pytest.mark.parametrize("config", CONFIGS)
def test_every_field_says_what_it_does(form_of, config):
    form = form_of(config)
    for parameter in parameters_of(config):
        assert parameter.help.split("'")[0][:40] in form.fields[parameter.name].toolTip()


def test_a_number_may_be_typed_with_an_exponent(form_of, qtbot):
    form = form_of(TrainingConfig)
    field = form.fields["learning_rate"]
    assert field.text() == "0.001"
    field.selectAll()
    qtbot.keyClicks(field, "2e-4")
    field.interpretText()
    assert form.config().learning_rate == 2e-4


def test_what_is_not_shown_is_kept(form_of):
    form = form_of(TrainingConfig, shown=lambda parameter: not parameter.advanced)
    assert set(form.fields) == {"steps"}
    form.set_config(TrainingConfig(steps=7, seed=3))
    form.fields["steps"].setValue(9)
    assert form.config() == TrainingConfig(steps=9, seed=3)


def test_one_change_is_told_once(form_of, qtbot):
    form = form_of(TrainingConfig)
    heard = []
    form.changed.connect(lambda: heard.append(True))
    form.set_config(TrainingConfig(steps=7, views=2, seed=3))
    assert len(heard) == 1
