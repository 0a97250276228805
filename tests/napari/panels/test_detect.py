"""The Detect widget in a viewer: results are aligned with their images, and the slider uses the stored maps."""

import re
from dataclasses import replace
from types import SimpleNamespace

import dask.array as da
import numpy as np
import pytest

from napari_uflow._napari.layers.planes import planes_of_layer
from napari_uflow._napari.panels.anomalies import AnomaliesWidget
from napari_uflow._napari.panels.detect import DetectWidget
from napari_uflow._napari.parts.false_alarm_slider import FalseAlarmSlider
from napari_uflow._napari.session import results as outputs
from napari_uflow._napari.session.results import show_detections
from napari_uflow._napari.session.runner import State
from napari_uflow._napari.session.session import session_of
from napari_uflow._napari.session.targets import target_of_planes
from napari_uflow._napari.session.worker import Outcome
from napari_uflow.config import DetectionConfig
from napari_uflow.detection.detect import detect
from napari_uflow.detection.guarantee import Caveat
from napari_uflow.errors import OverwriteError
from napari_uflow.image.plane import Plane
from napari_uflow.samples.fibres import fibre_field

WAIT = 60_000


def odd_image(seed=11, shape=(128, 160)):
    image = fibre_field(seed, shape=shape).image.copy()
    image[40:80, 88:128] = np.random.default_rng(0).integers(0, 256, (40, 40))
    return image


@pytest.fixture
def widget(viewer, tiny_model, qtbot):
    session_of(viewer).set_model(tiny_model, "tiny")
    widget = DetectWidget(viewer)
    qtbot.addWidget(widget)
    yield widget
    widget.session.runner.stop()
    qtbot.waitUntil(lambda: widget.session.runner.state is State.IDLE, timeout=WAIT)


def run(widget, qtbot):
    widget.job_bar.button.click()
    qtbot.waitUntil(lambda: widget.session.runner.state is State.IDLE, timeout=WAIT)
    assert widget.session.runner.job.outcome is Outcome.DONE, widget.job_bar.status.text()
    return list(widget.session.results.values())[-1]


def lies_on(output, image):
    """Return True if the corners of an output are those of its image, in the world."""
    corners = [(0,) * output.ndim, tuple(n - 1 for n in output.data.shape)]
    tail = image.ndim - output.ndim
    data = image.data[0] if image.multiscale else image.data
    of_image = [(0,) * image.ndim, (*(0,) * tail, *(n - 1 for n in data.shape[tail : image.ndim]))]
    return all(
        np.allclose(output.data_to_world(a), image.data_to_world(b)[tail:])
        for a, b in zip(corners, of_image, strict=True)
    )


SCALED = {"scale": (2, 0.5, 0.5), "units": ("um", "um", "um"), "translate": (1, 2, 3), "axis_labels": ("z", "y", "x")}
IMAGE = odd_image()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "options"),
    [
        (IMAGE, {}),
        (IMAGE[None], {}),
        (np.stack([IMAGE, IMAGE]), SCALED),
        (np.stack([IMAGE.astype(np.uint16) * 256] * 2)[None], {}),
        (odd_image(shape=(110, 2048)), {"scale": (0.1, 0.2), "rotate": 20}),
        (da.from_array(np.stack([IMAGE] * 2), chunks=64), {}),
        ([np.stack([IMAGE] * 2), np.stack([IMAGE[::2, ::2]] * 2)], {"multiscale": True, **SCALED}),
    ],
    ids=["YX", "1YX", "scaled", "TZYX 16 bit", "strip", "dask", "multiscale"],
)
def test_outputs_land_on_the_image(widget, viewer, qtbot, data, options):
    image = viewer.add_image(data, name="odd", **options)
    result = run(widget, qtbot)
    shape = data[0].shape if options.get("multiscale") else data.shape
    for layer in (result.heatmap, result.log10_nfa, result.labels):
        assert layer.data.shape == shape
        assert lies_on(layer, image)
        assert layer.units == image.units
        assert layer.axis_labels == image.axis_labels
        assert layer.metadata["napari_uflow"]["guarantee"]
        assert layer.metadata["napari_uflow"]["model_name"] == "tiny"
    assert tuple(result.heatmap.contrast_limits) == (2, 7)
    assert not result.log10_nfa.visible
    assert len(result.planes) == int(np.prod(shape[:-2]))


@pytest.mark.slow
@pytest.mark.parametrize("model_channels", [3])
def test_colours_and_channels(viewer, qtbot, tiny_model_config, tiny_training_config, model_channels):
    from napari_uflow.image.plane import Plane
    from napari_uflow.image.region import NormalRegion
    from napari_uflow.training.train import train

    stack = np.stack([fibre_field(seed, shape=(128, 128)).image for seed in range(3)])
    regions = [NormalRegion(Plane(data=np.stack([p] * 3), axes="CYX", name=str(i))) for i, p in enumerate(stack)]
    model = train(regions, tiny_model_config, tiny_training_config, device="cpu")
    session_of(viewer).set_model(model, "colours")
    widget = DetectWidget(viewer)
    qtbot.addWidget(widget)
    image = viewer.add_image(np.stack([IMAGE] * 3, axis=-1), rgb=True, name="rgb")
    result = run(widget, qtbot)
    assert result.labels.data.shape == IMAGE.shape
    assert lies_on(result.labels, image)

    image = viewer.add_image(np.stack([IMAGE] * 3), axis_labels=("channel", "y", "x"), name="channels")
    widget.image.set_layer(image)
    result = run(widget, qtbot)
    assert result.labels.data.shape == IMAGE.shape
    assert lies_on(result.labels, image)

    viewer.add_image(IMAGE, name="gray")
    widget.image.set_layer(viewer.layers["gray"])
    widget.job_bar.button.click()
    qtbot.waitUntil(lambda: widget.session.runner.state is State.IDLE, timeout=WAIT)
    text = widget.job_bar.status.text()
    assert "has 1 channels, but the model was trained on 3" in text
    assert not re.search(r"--|\w=|\w\(", text)  # neither flags nor Python

    viewer.add_image(np.stack([IMAGE] * 5), axis_labels=("channel", "y", "x"), name="many")
    widget.image.set_layer(viewer.layers["many"])
    widget.job_bar.button.click()
    text = widget.job_bar.status.text()
    assert "has 5 channels" in text
    assert not re.search(r"--|\w=|\[", text)


@pytest.mark.slow
def test_ids_are_unique_and_rows_are_ids(widget, viewer, qtbot):
    viewer.add_image(np.stack([IMAGE, odd_image(12)]), name="odd", axis_labels=("specimen", "y", "x"))
    widget.slider.set_value(10)
    result = run(widget, qtbot)
    ids, features = result.labels.data, result.labels.features
    n = int(ids.max())
    assert n > 1
    assert set(np.unique(ids)) == set(range(n + 1))
    assert len(features) == n + 1
    assert list(features["index"]) == list(range(n + 1))
    for number in range(1, n + 1):
        places = np.nonzero(ids == number)
        assert set(places[0]) == {features["specimen"][number]}
        assert len(places[0]) == features["area_px"][number]
    assert [label for plane in result.shown() for label in plane.found.regions.label] == list(range(1, n + 1))


@pytest.mark.slow
def test_the_slider_updates_the_regions(widget, viewer, qtbot):
    viewer.add_image(IMAGE, name="odd")
    result = run(widget, qtbot)
    layer = result.labels
    widget.slider.set_value(10)
    qtbot.waitUntil(lambda: layer.metadata["napari_uflow"]["detection"]["false_alarms"] == 10)
    many = layer.data > 0
    assert widget.guarantee_label.text().startswith("10 false alarms per image: extrapolated")
    assert "chosen after a look at the regions weakens this" in widget.all_numbers_label.text()
    widget.slider.set_value(0.001)
    qtbot.waitUntil(lambda: layer.metadata["napari_uflow"]["detection"]["false_alarms"] == 0.001)
    assert not np.any((layer.data > 0) & ~many)
    assert len(layer.features) == int(layer.data.max()) + 1
    assert widget.guarantee_label.text().startswith("0.001 false alarms per image")
    new = widget.session.result_of(layer)
    assert new.planes[0][1].false_alarms == 0.001
    assert widget.session.result_of(new.heatmap) is new


def test_the_panel_says_how_many_regions_may_be_false(widget, tiny_model, monkeypatch):
    found = detect(tiny_model, Plane(data=IMAGE), DetectionConfig(false_alarms=widget.state.false_alarms))
    assert not widget.all_numbers_label.isVisibleTo(widget)

    def show(n_planes, **changes):
        plane = replace(found, guarantee=replace(found.guarantee, n_specimens=20, **changes))
        result = SimpleNamespace(detections=(plane,) * n_planes, planes=[((i,), plane) for i in range(n_planes)])
        with monkeypatch.context() as patch:
            patch.setattr(widget.state, "_session", SimpleNamespace(results={"odd": result}))
            patch.setattr(widget.state, "_is_of_request", lambda result: True)
            patch.setattr(widget.state, "next_to_confirm", str)
            widget._show_guarantee()
        return widget.all_numbers_label.text()

    n = len(found.regions)
    assert n == 1
    assert show(1, most_false=1) == "This region may be a false alarm, with 90 % confidence, whatever number is chosen."
    assert widget.all_numbers_label.isVisibleTo(widget)
    # several images have the statement each, a stack that shares the number has one
    assert show(3, most_false=1).startswith("9 of 10 normal images have at most 1 false alarm, even if the number")
    assert show(3, most_false=1, n_images=3).startswith("Of these 3 regions at most 1 is a false alarm, with 90 %")
    assert "needs 9 held-out specimens" in show(1, most_false=None)
    assert show(1, most_false=1, caveats=(Caveat.BRIGHTNESS,)) == ""
    assert not widget.all_numbers_label.isVisibleTo(widget)


@pytest.mark.slow
def test_a_view_and_a_slice_lie_where_they_are(widget, viewer, qtbot):
    image = viewer.add_image(np.stack([IMAGE] * 3), name="odd", **SCALED)
    viewer.dims.set_current_step(0, 2)
    image.corner_pixels = np.array([[0, 16, 32], [0, 111, 143]])
    widget.scope.set_value("view")
    result = run(widget, qtbot)
    assert result.labels.data.shape == (1, 96, 112)
    assert np.allclose(result.labels.data_to_world((0, 0, 0)), image.data_to_world((2, 16, 32)))
    assert result.heatmap.name == "odd heatmap (view)"

    widget.scope.set_value("slice")
    result = run(widget, qtbot)
    assert result.labels.data.shape == (1, 128, 160)
    assert np.allclose(result.labels.data_to_world((0, 0, 0)), image.data_to_world((2, 0, 0)))
    assert len(widget.session.results) == 2

    run(widget, qtbot)  # again: it replaces
    assert len(widget.session.results) == 2
    assert len(viewer.layers) == 7


@pytest.mark.slow
def test_selected_layers(widget, viewer, qtbot):
    first = viewer.add_image(IMAGE, name="first")
    second = viewer.add_image(IMAGE, name="second")
    widget.scope.set_value("selected")
    viewer.layers.selection = {first, second}
    run(widget, qtbot)
    assert {result.image_name for result in widget.session.results.values()} == {"first", "second"}
    viewer.layers.selection.clear()
    widget.job_bar.button.click()
    assert "no image is selected" in widget.job_bar.status.text().lower()


@pytest.mark.slow
def test_the_image_may_go_while_it_runs(widget, viewer, qtbot):
    viewer.add_image(IMAGE, name="odd")
    widget.job_bar.button.click()
    viewer.layers.remove("odd")
    qtbot.waitUntil(lambda: widget.session.runner.state is State.IDLE, timeout=WAIT)
    assert [layer.name for layer in viewer.layers] == ["odd heatmap", "odd log10 NFA", "odd anomalies"]


@pytest.mark.slow
def test_why_there_is_no_result_is_shown_until_another_choice(widget, viewer, qtbot):
    first = viewer.add_image(IMAGE, name="first")
    second = viewer.add_image(IMAGE, name="second")
    status = widget.job_bar.status
    for choose in (lambda: widget.image.set_layer(first), lambda: widget.scope.set_value("slice")):
        widget.image.set_layer(second)
        widget.job_bar.button.click()
        widget.job_bar.button.click()
        qtbot.waitUntil(lambda: widget.session.runner.state is State.IDLE, timeout=WAIT)
        assert widget.session.runner.job.outcome is Outcome.STOPPED
        widget.estimate()
        assert "topped before" in status.text()
        choose()
        assert status.text() == ""
        assert status.isHidden()


@pytest.mark.slow
def test_removed_layers_are_forgotten(widget, viewer, qtbot):
    viewer.add_image(IMAGE, name="odd")
    run(widget, qtbot)
    viewer.layers.remove("odd anomalies")
    assert not widget.session.results
    assert widget.count_label.isHidden()


@pytest.mark.slow
def test_without_a_model(widget, viewer):
    widget.session.set_model(None)
    assert not widget.job_bar.button.isEnabled()
    assert widget.model_bar.label.text().startswith("No model")


@pytest.mark.slow
def test_a_model_file(widget, tiny_model_file, qtbot, tmp_path):
    session = widget.session
    session.set_model(None)
    with qtbot.waitSignal(session.model_changed, timeout=WAIT):
        session.start_opening(tiny_model_file)
    assert (session.model_name, session.model_path) == ("tiny", tiny_model_file)
    assert widget.model_bar.label.text() == "tiny (scattering, 1 specimen held out)"
    assert session.save_model(tmp_path / "other") == tmp_path / "other.safetensors"
    assert session.model_name == "other"
    with pytest.raises(OverwriteError, match="choose it with its ending"):  # it was not named in the dialog
        session.save_model(tmp_path / "other")
    assert session.save_model(tmp_path / "other.safetensors") == tmp_path / "other.safetensors"
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_text("of another program")
    with pytest.raises(OverwriteError, match="not a model"):
        session.save_model(foreign)
    assert foreign.read_text() == "of another program"
    assert session.model_name == "other"
    qtbot.waitUntil(lambda: session.runner.state is State.IDLE)


@pytest.mark.slow
def test_a_file_that_is_no_model(widget, tiny_model, qtbot, tmp_path):
    path = tmp_path / "no.safetensors"
    path.write_bytes(b"nothing")
    job = widget.session.start_opening(path)
    said = []
    job.failed.connect(said.append)
    qtbot.waitUntil(lambda: bool(said))
    assert "not a model" in said[0]
    assert widget.session.model is tiny_model


@pytest.mark.parametrize("value", [0.001, 0.1, 0.5, 1, 10])
def test_slider_and_box_agree(qtbot, value):
    slider = FalseAlarmSlider(value)
    qtbot.addWidget(slider)
    assert slider.value() == value
    slider.slider.setValue(slider.slider.minimum())
    assert slider.value() == 0.001
    slider.slider.setValue(slider.slider.maximum())
    assert slider.value() == 10
    slider.set_value(value)
    assert slider.value() == value


def test_preferences(npe2pm, plugin_settings):
    from pathlib import Path

    from napari.settings import get_plugin_settings

    from napari_uflow._napari.session.settings import Settings, read_settings

    assert read_settings() == Settings()
    with npe2pm.tmp_plugin(manifest=str(Path(__file__).parents[3] / "napari.yaml")):
        assert read_settings() == Settings()
        own = get_plugin_settings("napari-uflow")
        own.detection.false_alarms = 0.1
        own.computing.device = "cpu"
        assert read_settings() == Settings(false_alarms=0.1, device="cpu")
        with pytest.raises(ValueError, match="enum"):
            own.computing.device = "tpu"


@pytest.mark.slow
def test_the_sliders_move_to_the_most_anomalous_plane(widget, viewer, qtbot):
    viewer.add_image(np.zeros((9, 128, 160), np.uint8), name="long")
    image = viewer.add_image(np.stack([np.full_like(IMAGE, 100), IMAGE]), name="odd")
    widget.image.set_layer(image)
    viewer.dims.set_current_step(0, 7)
    result = run(widget, qtbot)
    strangest = min(result.planes, key=lambda item: item[1].lowest_log10_nfa)[0]
    assert viewer.dims.current_step[0] == strangest[0]
    other = 1 - strangest[0]
    viewer.dims.set_current_step(0, other)
    run(widget, qtbot)
    assert viewer.dims.current_step[0] == other


@pytest.mark.slow
def test_a_second_detection_is_written_over_the_first(widget, viewer, qtbot):
    image = viewer.add_image(IMAGE, name="odd")
    first = run(widget, qtbot)
    first.heatmap.opacity = 0.3
    image.scale = (0.5, 0.5)
    widget.slider.set_value(10)
    second = run(widget, qtbot)
    assert (second.heatmap, second.log10_nfa, second.labels) == (first.heatmap, first.log10_nfa, first.labels)
    assert len(viewer.layers) == 4
    assert second.heatmap.opacity == 0.3  # what the user chose stays
    assert tuple(second.labels.scale) == (0.5, 0.5)
    assert second.labels.data.max() == len(second.planes[0][1].regions)
    assert second.labels.metadata["napari_uflow"]["detection"]["false_alarms"] == 10
    np.testing.assert_array_equal(second.heatmap.data, second.planes[0][1].score)
    viewer.layers.remove("odd heatmap")
    third = run(widget, qtbot)
    assert third.labels is not second.labels
    assert len(viewer.layers) == 4
    assert len(widget.session.results) == 1


@pytest.mark.slow
@pytest.mark.parametrize("n_planes", [1, 2])
def test_results_in_large_images_are_multiscale(widget, viewer, qtbot, monkeypatch, n_planes):
    monkeypatch.setattr(outputs, "_LARGEST_PLAIN", 100)
    monkeypatch.setattr(outputs, "_COARSEST", 40)
    image = viewer.add_image(np.stack([odd_image(seed) for seed in range(n_planes)]), name="large")
    result = run(widget, qtbot)
    layers = (result.heatmap, result.log10_nfa, result.labels)
    for layer in layers:
        assert layer.multiscale
        assert [level.shape[-2:] for level in layer.data] == [(128, 160), (64, 80), (32, 40)]
        assert lies_on(layer, image)
    for index, found in result.planes:
        np.testing.assert_array_equal(result.heatmap.data[0][index], found.score)
        np.testing.assert_array_equal(result.labels.data[0][index] > 0, found.labels > 0)
        np.testing.assert_array_equal(result.labels.data[1][index], result.labels.data[0][index][::2, ::2])
    before = result.labels.data[0]
    widget.slider.set_value(0.001)
    qtbot.waitUntil(
        lambda: all(found.false_alarms == 0.001 for found in widget.session.result_of(layers[2]).detections)
    )
    assert result.labels.multiscale
    assert result.labels.data[0] is not before
    assert np.asarray(result.labels.data[0]).max() == len(result.labels.features) - 1
    again = run(widget, qtbot)
    assert [again.heatmap, again.log10_nfa, again.labels] == list(layers)
    regions = AnomaliesWidget(viewer)
    qtbot.addWidget(regions)
    row = regions.table.rows()[0]
    regions.table.choose(0)
    regions.mark_normal()
    assert not (again.labels.data[0][row.index] == row.number).all()
    assert len(regions.table.rows()) == len(again.labels.features) - 1


@pytest.mark.slow
def test_false_alarms_are_counted_per_image_or_per_stack(widget, viewer, qtbot):
    viewer.add_image(np.stack([IMAGE] * 4), name="stack")
    assert widget.slider_heading.text() == "Accepted false alarms per image"
    apart = [len(found.regions) for found in run(widget, qtbot).detections]
    widget.form.fields["false_alarms_per"].value = "stack"
    assert widget.slider_heading.text() == "Accepted false alarms per image"  # of what is shown
    assert " The next detection counts them per stack." in widget.guarantee_label.text()
    widget.scope.set_value("slice")
    assert "next detection" not in widget.guarantee_label.text()  # one plane is no stack
    widget.scope.set_value("layer")
    shared = run(widget, qtbot)
    assert widget.slider_heading.text() == "Accepted false alarms per stack"
    assert "next detection" not in widget.guarantee_label.text()
    widget.scope.set_value("slice")
    assert " The next detection counts them per image." in widget.guarantee_label.text()
    widget.scope.set_value("layer")
    assert all(found.n_planes == 4 for found in shared.detections)
    assert "stack of 4 images" in widget.guarantee_label.text()
    assert sum(len(found.regions) for found in shared.detections) <= sum(apart)
    regions = AnomaliesWidget(viewer)
    qtbot.addWidget(regions)
    assert "per stack of 4 images accepted" in regions.summary.text()
    for layer in list(viewer.layers)[1:]:
        viewer.layers.remove(layer)
    widget.scope.set_value("slice")
    assert widget.slider_heading.text() == "Accepted false alarms per image"  # one plane is no stack
    widget.scope.set_value("layer")
    assert widget.slider_heading.text() == "Accepted false alarms per stack"


@pytest.mark.slow
def test_time_and_memory_are_estimated(widget, viewer):
    widget.estimate()
    assert widget.estimate_label.isHidden()
    viewer.add_image(np.stack([IMAGE] * 3), name="stack", axis_labels=("specimen", "y", "x"))
    widget.estimate()
    assert widget.estimate_label.text().startswith("3 planes: about 0.1\u00a0GB of memory, about 1\u00a0s")
    widget.scope.set_value("slice")
    widget.estimate()
    assert widget.estimate_label.text().startswith("1 plane: ")
    large = da.zeros((10_000, 10_000), dtype=np.uint16, chunks=(1000, 1000))
    layer = viewer.add_image(large, name="large", contrast_limits=(0, 1))
    widget.image.set_layer(layer)
    widget.estimate()
    said = widget.estimate_label.text()
    assert 1.0 < float(said.split("about ")[1].split("\u00a0GB")[0]) < 3.0
    assert "min without a GPU" in said


@pytest.fixture
def idle_widget(viewer, qtbot):
    """The widget without a model."""
    widget = DetectWidget(viewer)
    qtbot.addWidget(widget)
    return widget


def test_the_image_is_the_one_that_was_opened_or_activated_last(idle_widget, viewer, monkeypatch):
    widget, active = idle_widget, viewer.layers.selection
    first = viewer.add_image(IMAGE, name="first")
    assert widget.image.value() == first
    second = viewer.add_image(IMAGE, name="second")
    assert widget.image.value() == second
    viewer.add_labels(np.zeros((4, 4), np.uint8))
    assert widget.image.value() == second
    active.active = first
    assert widget.image.value() == first
    monkeypatch.setattr(widget.session.runner, "_state", State.RUNNING)
    active.active = second
    third = viewer.add_image(IMAGE, name="third")
    assert widget.image.value() == first
    monkeypatch.undo()
    active.active = second
    active.active = third
    assert widget.image.value() == third


def test_a_widget_opened_later_begins_with_the_active_image(viewer, qtbot):
    first = viewer.add_image(IMAGE, name="first")
    viewer.add_image(IMAGE, name="second")
    viewer.layers.selection.active = first
    widget = DetectWidget(viewer)
    qtbot.addWidget(widget)
    assert widget.image.value() == first


def show_hills(viewer, image, found):
    target = target_of_planes(image, planes_of_layer(image), "layer")
    return show_detections(viewer, session_of(viewer), target, [found], model_name="none")


def test_guarantee_and_warnings_are_those_of_the_chosen_image(idle_widget, viewer, hills):
    widget = idle_widget
    first, second = (viewer.add_image(np.zeros((40, 50)), name=name) for name in ("first", "second"))
    show_hills(viewer, first, hills((40, 50), [], n_specimens=40, caveats=(Caveat.BRIGHTNESS,)))
    widget.image.set_layer(first)
    widget.job_bar.warn("too dark")
    text = widget.guarantee_label.text()
    assert text.startswith("⚠ The guarantee does not apply here")
    assert text.count("does not apply") == 1
    assert "'first anomalies': 0 regions; ⚠ could not be judged" in widget.count_label.text()
    viewer.add_points(np.zeros((1, 2)))  # no other image
    assert not widget.job_bar.messages.isHidden()
    widget.image.set_layer(second)
    assert widget.job_bar.messages.isHidden()
    assert widget.guarantee_label.text().startswith("Run a detection")
    show_hills(viewer, second, hills((40, 50), [], n_specimens=40))
    assert widget.guarantee_label.text().startswith("On average")
    widget.image.set_layer(first)
    assert widget.guarantee_label.text() == text


@pytest.mark.slow
def test_a_message_about_another_model_is_cleared(widget, viewer, tmp_path):
    viewer.add_image(IMAGE)
    widget.job_bar.warn("of another model")
    widget.job_bar.say("Stopped.")
    widget.session.save_model(tmp_path / "same")
    assert not widget.job_bar.messages.isHidden()
    widget.session.set_model(replace(widget.session.model), "copy")
    assert widget.job_bar.messages.isHidden()
    assert widget.job_bar.status.isHidden()


def test_whole_images_are_added_to_the_drift_log(widget, viewer, qtbot, watched_model, tmp_path):
    viewer.add_image(odd_image(), name="odd")
    widget.session.set_model(watched_model, "watched", tmp_path / "watched.safetensors")
    widget.scope.set_value("view")
    run(widget, qtbot)
    assert not (tmp_path / "watched.drift.jsonl").exists()
    widget.scope.set_value("layer")
    run(widget, qtbot)
    assert (tmp_path / "watched.drift.jsonl").read_text().count('"image": "odd"') == 1


def test_drift_is_shown(widget, viewer, qtbot, watched_model, log_drift, tmp_path):
    viewer.add_image(odd_image(), name="odd")
    log_drift(watched_model, tmp_path / "watched.safetensors")
    widget.session.set_model(watched_model, "watched", tmp_path / "watched.safetensors")
    run(widget, qtbot)
    assert "since 'blurred 0' (" in widget.guarantee_label.text()
    assert "Since 'blurred 0' (" in widget.job_bar.messages.text()
    widget.state.accept(0.1)
    qtbot.waitUntil(lambda: widget.session.results and widget.state.last_found[0].false_alarms == 0.1, timeout=WAIT)
    assert "since 'blurred 0' (" in widget.guarantee_label.text()


def test_the_images_to_confirm_are_shown(widget, viewer, qtbot):
    viewer.add_image(odd_image(), name="new image")
    run(widget, qtbot)
    text = widget.guarantee_label.text().splitlines()[1]
    assert text.startswith("1 can be guaranteed with 3 more normal specimens: look at 'new image', and train again")
    widget.state.accept(0.1)
    qtbot.waitUntil(lambda: widget.guarantee_label.text().splitlines()[1].startswith("0.1 can be"), timeout=WAIT)
