"""The form of a configuration says what the configuration says, digit by digit."""

import html
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication, QSpinBox

from napari_uflow._napari.parts.fields import NumberBox, WheelGuard
from napari_uflow._napari.parts.form import ConfigForm
from napari_uflow._napari.parts.labels import LABELS
from napari_uflow._napari.parts.panel import as_sentence
from napari_uflow.config import DetectionConfig, ModelConfig, TrainingConfig, parameters_of
from napari_uflow.errors import ConfigError

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
        assert parameter.help.split("'")[0][:30] in form.fields[parameter.name].tooltip


@pytest.mark.parametrize("config", CONFIGS)
def test_the_window_shows_labels_instead_of_names(form_of, config):
    form = form_of(config)
    names = {parameter.name for other in CONFIGS for parameter in parameters_of(other)}
    assert names == set(LABELS)
    for name, field in form.fields.items():
        label = form.layout().labelForField(field.native).text()
        assert label.startswith(LABELS[name])
        choices = next(parameter.choices for parameter in parameters_of(config) if parameter.name == name)
        for text in (label, field.tooltip):
            for choice in choices:  # which the field itself shows by its name
                text = text.replace(html.escape(f"'{choice}'"), "")
            assert not re.search(r"[a-z]_[a-z]|--", text)
    assert as_sentence("learning_rate must be 0 or more") == "'Learning rate' must be 0 or more."
    assert as_sentence("a final_learning_rate, not steps") == "A 'Final learning rate ratio', not steps."


def test_a_number_may_be_typed_with_an_exponent(form_of, qtbot):
    form = form_of(TrainingConfig)
    field = form.fields["learning_rate"].native
    assert field.text() == "0.001"
    field.selectAll()
    qtbot.keyClicks(field, "2e-4")
    assert form.config().learning_rate == 2e-4
    field.selectAll()
    qtbot.keyClicks(field, "0,003")
    assert form.config().learning_rate == 0.003


@pytest.mark.parametrize(("text", "said"), [("fast", "such as 0.001, not 'fast'"), ("", "not ''"), ("7", "not 7")])
def test_a_text_that_is_no_learning_rate_is_refused_with_its_name(form_of, text, said):
    name, form = "learning_rate", form_of(TrainingConfig)
    form.fields["learning_rate"].value = text
    with pytest.raises(ConfigError, match=f"{name} must be .*{said}"):
        form.config()


@given(
    st.floats(1e-7, 1.0), st.floats(0.0, 0.5), st.floats(0.01, 1024.0), st.integers(1, 10**6), st.sampled_from([1, 8])
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_is_shown_comes_back(form_of, rate, holdout, memory, steps, augmentations):
    config = TrainingConfig(
        learning_rate=float(f"{rate:.6g}"),
        holdout=round(holdout, 6),
        cache_memory=round(memory, 3),
        steps=steps,
        augmentations=augmentations,
    )
    form = form_of(TrainingConfig)
    form.set_config(config)
    assert form.config() == config


def wheel_event():
    return QWheelEvent(
        QPointF(2, 2),
        QPointF(2, 2),
        QPoint(0, 0),
        QPoint(0, 120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )


def test_the_wheel_scrolls_the_form_and_changes_nothing(form_of, qtbot):
    form = form_of(TrainingConfig)
    form.show()
    before = form.config()
    for field in form.fields.values():
        QApplication.sendEvent(field.native, wheel_event())
    assert form.config() == before


def test_the_wheel_turns_a_field_that_was_clicked_on(form_of, qtbot):
    form = form_of(TrainingConfig)
    guard = WheelGuard()
    box = QSpinBox()
    qtbot.addWidget(box)
    wheel = wheel_event()
    for has_focus in (False, True):
        box.hasFocus = lambda has_focus=has_focus: has_focus
        wheel.accept()
        assert guard.eventFilter(box, wheel) != has_focus
        assert wheel.isAccepted() == has_focus  # an event that is not goes on to the form, which scrolls
    assert form.isEnabled()


def test_what_is_not_shown_is_kept(form_of):
    form = form_of(TrainingConfig, shown=lambda parameter: not parameter.advanced)
    assert set(form.fields) == {"steps"}
    form.set_config(TrainingConfig(steps=7, seed=3))
    form.fields["steps"].value = 9
    assert form.config() == TrainingConfig(steps=9, seed=3)


def test_one_change_is_told_once(form_of, qtbot):
    form = form_of(TrainingConfig)
    heard = []
    form.changed.connect(lambda: heard.append(True))
    form.set_config(TrainingConfig(steps=7, augmentations=2, seed=3))
    assert len(heard) == 1


@pytest.mark.parametrize(("typed", "value"), [("500", 10.0), ("0", 0.001), ("abc", 2.0), ("0,5", 0.5), ("1e-2", 0.01)])
def test_a_number_that_is_out_of_its_range_becomes_the_nearest(qtbot, typed, value):
    box = NumberBox()
    qtbot.addWidget(box)
    box.setRange(0.001, 10)
    box.setValue(2)
    box.selectAll()
    qtbot.keyClicks(box, typed)
    qtbot.keyClick(box, Qt.Key.Key_Return)
    assert box.value() == value
