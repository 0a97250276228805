"""The Train widget in a viewer: choices, estimate, jobs and their outcome."""

import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from qtpy.compat import isalive
from qtpy.QtCore import QCoreApplication, QEvent

from napari_uflow._napari.layers.areas import normal_regions
from napari_uflow._napari.panels.train import TrainWidget
from napari_uflow._napari.parts.channels import chosen_channels
from napari_uflow._napari.session import autosave, estimate
from napari_uflow._napari.session.estimate import _IMAGES_NEEDED, _SPECIMENS_NEEDED, estimate_training, speed_of
from napari_uflow._napari.session.marked_normal import marked_normal_of
from napari_uflow._napari.session.recipe import Recipe
from napari_uflow._napari.session.runner import State
from napari_uflow._napari.session.session import session_of
from napari_uflow._napari.session.worker import Outcome
from napari_uflow.config import ModelConfig, TrainingConfig, training_preset
from napari_uflow.detection.corrections import Correction
from napari_uflow.errors import BackboneUnavailableError, Stopped, UFlowError
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.image.specimen import hold_out_specimens
from napari_uflow.model.record import OutcomeKind
from napari_uflow.progress import FINISH, Progress, Snapshot, TrainingPoint, drain
from napari_uflow.samples.fibres import fibre_field
from napari_uflow.system.owner import nobody
from napari_uflow.training.refine import refinement_of
from napari_uflow.training.snapshots import describe, discard, interrupted, new_snapshot

WAIT = 60_000


@pytest.fixture
def images(viewer):
    stack = np.stack([fibre_field(seed, shape=(128, 128)).image for seed in range(3)])
    return viewer.add_image(stack, name="fibres", axis_labels=("field", "y", "x"))


@pytest.fixture
def widget(viewer, images, qtbot, tiny_model_config, tiny_training_config):
    widget = TrainWidget(viewer)
    qtbot.addWidget(widget)
    widget.new_model.set_configs(tiny_model_config, tiny_training_config)
    yield widget
    session_of(viewer).runner.stop()
    idle(qtbot, widget)


def idle(qtbot, widget):
    qtbot.waitUntil(lambda: widget.session.runner.state is State.IDLE, timeout=WAIT)


def delete_now(widget):
    widget.close()
    widget.deleteLater()
    QCoreApplication.sendPostedEvents(widget, QEvent.Type.DeferredDelete)
    assert not isalive(widget)


def endless(*args, **kwargs):
    """A training that runs until it is stopped, and keeps no model."""
    from napari_uflow.progress import or_stop

    while True:
        yield from or_stop(Progress("Training", 1, 2))
        time.sleep(0.01)


@pytest.mark.slow
def test_a_run(widget, qtbot, tiny_model_config, tiny_training_config, tmp_path):
    assert widget.new_model.model_config() == tiny_model_config
    assert widget.new_model.training_config() == tiny_training_config
    session = widget.session
    with qtbot.waitSignal(session.model_changed, timeout=WAIT):
        widget.job_bar.button.click()
        assert widget.job_bar.button.text() == "Stop"
    idle(qtbot, widget)
    assert session.runner.job.outcome is Outcome.DONE
    decided = session.model.config  # training decides what is left open
    asked = tiny_model_config.replace(border=decided.border, evidence=decided.evidence, octaves=decided.octaves)
    assert session.model.config == asked
    assert session.model_name == "fibres"
    assert len(session.model.record.specimens) + len(session.model.record.holdout_specimens) == 3
    assert [point[0] for point in widget.plot.points] == [2, 4]
    assert widget.job_bar.button.text() == "Train"
    assert "the best step was kept" in widget.job_bar.status.text()
    assert widget.model_bar.label.text() == "fibres (scattering, 1 specimen held out, not saved)"
    (saved,) = tmp_path.glob("*.safetensors")
    assert saved.name.startswith("fibres ")
    widget.plot.grab()


@pytest.mark.slow
def test_stop_keeps_the_best_model(widget, qtbot):
    widget.new_model.training_form.set_config(
        widget.new_model.training_config().replace(steps=100_000, patience=10_000)
    )
    widget.job_bar.button.click()
    qtbot.waitUntil(lambda: len(widget.plot.points) > 0, timeout=WAIT)
    widget.job_bar.button.click()
    assert widget.job_bar.button.text() == "Stopping..."
    assert not widget.job_bar.button.isEnabled()
    idle(qtbot, widget)
    assert widget.session.runner.job.outcome is Outcome.STOPPED
    assert widget.session.model.record.outcome.kind is OutcomeKind.STOPPED
    assert "stopped at step" in widget.job_bar.status.text()


@pytest.mark.slow
def test_the_previous_model_stays_when_a_run_is_stopped_or_fails(widget, qtbot, tiny_model, monkeypatch):
    widget.session.set_model(tiny_model, "good")
    monkeypatch.setattr(import_module("napari_uflow.training.train"), "train_steps", endless)
    widget.job_bar.button.click()
    widget.job_bar.button.click()
    idle(qtbot, widget)
    assert "topped before" in widget.job_bar.status.text()
    assert (widget.session.model, widget.session.model_name) == (tiny_model, "good")
    widget.estimate()
    assert "topped before" in widget.job_bar.status.text()
    widget.new_model.preset.set_value("best")
    assert widget.job_bar.status.text() == ""

    def failing(*args, **kwargs):
        yield Progress("Training", 0, 1)
        raise UFlowError("nothing works; try again")

    monkeypatch.setattr(import_module("napari_uflow.training.train"), "train_steps", failing)
    widget.job_bar.button.click()
    idle(qtbot, widget)
    assert widget.job_bar.status.text() == "Nothing works; try again."
    assert widget.session.model is tiny_model


@pytest.mark.slow
def test_the_layer_may_go_while_it_runs(widget, viewer, qtbot):
    widget.job_bar.button.click()
    viewer.layers.clear()
    idle(qtbot, widget)
    assert widget.session.model is not None


@pytest.mark.slow
def test_the_widget_may_go_while_it_runs(viewer, images, qtbot, tiny_model_config, tiny_training_config):
    widget = TrainWidget(viewer)
    widget.new_model.set_configs(tiny_model_config, tiny_training_config)
    session = widget.session
    viewer.window.add_dock_widget(widget, name="Train")
    with qtbot.waitSignal(session.model_changed, timeout=WAIT):
        widget.job_bar.button.click()
        viewer.window.remove_dock_widget(widget)
        widget.deleteLater()
        del widget
    qtbot.waitUntil(lambda: session.runner.state is State.IDLE, timeout=WAIT)
    assert session.model is not None


@pytest.mark.slow
def test_a_run_is_estimated_before_it_starts(widget, viewer):
    widget.estimate()
    text = widget.estimate_label.text()
    assert text.startswith("Trains on 2 images (8 tiles), keeps 1 back (4 tiles) to count false alarms.")
    assert "8 or more" in text
    widget.normal_images.images.set_layers([])
    widget.estimate()
    assert widget.estimate_label.text() == "Tick at least one normal image."
    assert not widget.job_bar.button.isEnabled()


@pytest.mark.slow
def test_an_area_to_paint(widget, viewer):
    widget.normal_images.new_area_button.click()
    layer = viewer.layers[-1]
    assert layer.name == "fibres, normal area"
    assert layer.mode == "paint"
    assert viewer.layers.selection.active == layer
    assert layer.axis_labels == viewer.layers["fibres"].axis_labels
    assert widget.normal_images.normal.value() is not None
    widget.estimate()
    assert "nothing normal in 'fibres'" in widget.estimate_label.text()
    layer.data[1, :64] = 1
    widget.estimate()
    assert widget.estimate_label.text().startswith("Trains on 1 image (2 tiles), keeps none back")


@pytest.mark.slow
def test_a_shape_of_the_menu_command(viewer, images):
    from napari._app_model import get_app_model

    get_app_model().commands.execute_command("napari-uflow.new_normal_area").result()
    assert viewer.layers[-1].name == "fibres, normal area"


@pytest.mark.slow
def test_layers_come_and_go(widget, viewer):
    assert [layer.name for layer in widget.normal_images.images.layers()] == ["fibres"]
    second = viewer.add_image(np.zeros((128, 128)), name="second")
    assert [layer.name for layer in widget.normal_images.images.layers()] == ["fibres"]
    widget.normal_images.images.set_layers([second])
    second.name = "renamed"
    assert widget.normal_images.images.item(0).text() == "renamed"
    assert [layer.name for layer in widget.normal_images.images.layers()] == ["renamed"]
    viewer.layers.remove("renamed")
    assert widget.normal_images.images.layers() == []


@pytest.mark.slow
def test_results_are_not_offered_as_training_images(widget, viewer):
    viewer.add_image(np.zeros((128, 128)), name="heatmap", metadata={"napari_uflow": {}})
    assert widget.normal_images.images.count() == 1


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "steps"), [("fast", 60), ("balanced", 200), ("best", 1000)])
def test_presets(widget, preset, steps):
    widget.new_model.preset.set_value("fast" if preset != "fast" else "best")
    widget.new_model.preset.set_value(preset)
    assert widget.new_model.training_config().steps == steps


@pytest.mark.slow
def test_only_one_job(widget, viewer, qtbot, monkeypatch):
    from napari_uflow._napari.panels.detect import DetectWidget

    other = DetectWidget(viewer)
    qtbot.addWidget(other)
    monkeypatch.setattr(import_module("napari_uflow.training.train"), "train_steps", endless)
    widget.job_bar.button.click()
    assert other.job_bar.button.text() == "Detect (waiting for: Training)"
    assert not other.job_bar.button.isEnabled()
    widget.session.runner.stop()
    idle(qtbot, widget)
    assert other.job_bar.button.text() == "Detect"


@pytest.mark.parametrize(
    ("text", "channels"), [("", None), ("0, 2", [0, 2]), ("DAPI,GFP", ["DAPI", "GFP"]), (" 1 ,", [1])]
)
def test_channels_as_text(text, channels):
    assert chosen_channels(text) == channels


def test_a_short_run_hardly_changes_the_next_estimate(monkeypatch):
    monkeypatch.setattr(estimate.time, "monotonic", lambda: 136.0)
    assert speed_of(100.0, 1.0) == pytest.approx(38 / 3)
    assert speed_of(36.0, 50.0) == pytest.approx(102 / 52)
    assert speed_of(135.9, 1000.0) == 0.02


def test_the_advice_asks_for_as_many_images_as_a_guarantee_needs():
    from napari_uflow.nfa.conformal import specimens_needed

    assert specimens_needed(1.0) == _SPECIMENS_NEEDED
    for n, is_enough in ((_IMAGES_NEEDED - 1, False), (_IMAGES_NEEDED, True)):
        held_out = hold_out_specimens([f"image {i}" for i in range(n)], TrainingConfig().holdout, 0)
        assert (len(held_out) >= _SPECIMENS_NEEDED) == is_enough
    for guarantee, needed in (("split", _IMAGES_NEEDED), ("auto", _SPECIMENS_NEEDED)):
        for n, is_enough in ((needed - 1, False), (needed, True)):
            regions = [NormalRegion(Plane(data=np.zeros((256, 256)), name=f"image {i}")) for i in range(n)]
            advice = estimate_training(regions, ModelConfig(), TrainingConfig(guarantee=guarantee)).advice()
            assert (advice == "") == is_enough
            assert is_enough or f"({needed} or more)" in advice


@pytest.mark.parametrize(
    ("shape", "begin"),
    [
        ((1, 512, 512), "Trains on one part of the specimen (3 tiles), keeps the other back (1 tile)"),
        ((2, 256, 256), "Trains on 1 image (1 tile), keeps 1 back (1 tile)"),
    ],
)
def test_one_divided_image_is_not_two_images(shape, begin):
    regions = [NormalRegion(Plane(data=data, name=f"image {i}")) for i, data in enumerate(np.zeros(shape))]
    assert estimate_training(regions, ModelConfig(), TrainingConfig()).text().startswith(begin)


def test_the_estimate_has_the_numbers_of_the_training():
    from napari_uflow.training import evidence, magnification, octaves, planted, train

    mine = (estimate._MOST_MEASURED, estimate._FEWEST_MEASURED)
    assert mine == (evidence.MOST_MEASURED, evidence._FEWEST_HELD_OUT)
    for name in ("_MOST_SOURCES", "_FEWEST_SOURCES", "_MOST_DEFECTS", "_FEWEST_DEFECTS", "_PIXELS_PER_DEFECT"):
        assert getattr(estimate, name) == getattr(planted, name)
    assert (estimate._PLANTED_SIDE, estimate._PLANTED_MARGIN) == (planted.PLANTED_SIDE, planted.MARGIN)
    assert train._PLANTED_PART == estimate._PLANTED_PART
    for shape in ((256, 256), (300, 700), (512, 900), (700, 700), (5000, 5000)):
        for model in (ModelConfig(), ModelConfig(octaves=4), ModelConfig(levels="pyramid")):
            region = NormalRegion(Plane(data=np.zeros(shape, np.uint8)))
            assert estimate.octaves_of(model, [min(shape)]) == octaves.octaves_for([region], model)
    mine = (estimate._MAGNIFICATIONS, estimate._MOST_TRIED, estimate._MOST_PIXELS_TRIED)
    assert mine == (magnification._CANDIDATES, magnification._MOST_TILES, magnification._MOST_PIXELS)


# Process time on one core of the server of `BackboneInfo`: trainings on 24 images of drawn fibres of 256 x 256 pixels,
# and a detection in four others with three defects each.
MEASURED = [
    ("efficientnet_lite2", "instant", 1.0, 3.6, 0.57),
    ("efficientnet_lite2", "fast", 1.0, 11.6, 0.53),
    ("efficientnet_lite2", "balanced", 1.0, 32.5, 0.53),
    ("efficientnet_lite2", "instant", 2.0, 16.6, 2.06),
    ("efficientnet_lite2", "fast", 2.0, 25.6, 1.65),
    ("efficientnet_lite2", "instant", 0.5, 1.4, 0.34),
    ("resnet18", "instant", 1.0, 7.8, 0.91),
    ("resnet18", "fast", 1.0, 37.8, 0.85),
    ("resnet18", "balanced", 1.0, 114.4, 0.96),
    ("resnet18", "instant", 2.0, 27.9, 3.29),
]


@pytest.mark.parametrize(("backbone", "preset", "magnification", "seconds", "of_detection"), MEASURED)
def test_the_estimate_is_near_what_was_measured(backbone, preset, magnification, seconds, of_detection, monkeypatch):
    monkeypatch.setattr(estimate.os, "cpu_count", lambda: 1)
    model = ModelConfig(backbone=backbone, magnification=magnification)
    images = np.zeros((24, 256, 256), np.uint8)
    regions = [NormalRegion(Plane(data=image, name=str(i))) for i, image in enumerate(images)]
    training = training_preset(preset).replace(guarantee="split")
    found = estimate_training(regions, model, training).seconds
    assert seconds / 1.5 < found < seconds * 1.5
    assert found < estimate_training(regions, model, training.replace(guarantee="cross")).seconds < 2 * found
    model = model.replace(octaves=round(magnification))  # as training decides
    assert of_detection / 1.5 < estimate.estimate_detection([(256, 256)] * 4, model, 0).seconds < of_detection * 1.5


def test_the_estimate_counts_the_tiles_that_the_network_sees():
    regions = [NormalRegion(Plane(data=np.zeros((256, 256), np.float32), name=str(i))) for i in range(5)]
    at = {z: estimate_training(regions, ModelConfig(magnification=z), TrainingConfig()) for z in (0.5, 1.0, 2.0)}
    assert [found.n_tiles for found in at.values()] == [4, 4, 16]
    assert [found.n_holdout_tiles for found in at.values()] == [1, 1, 4]
    assert at[0.5].seconds < 0.5 * at[1.0].seconds
    assert at[2.0].memory > at[1.0].memory


def test_the_estimate_counts_the_octaves():
    regions = [NormalRegion(Plane(data=np.zeros((1024, 1024)), name=str(i))) for i in range(5)]
    instant = training_preset("instant")
    one, two, four, chosen = (estimate_training(regions, ModelConfig(octaves=n), instant).seconds for n in (1, 2, 4, 0))
    assert one < two < chosen < four < 1.34 * one
    found = [estimate.estimate_detection([(1000, 1000)], ModelConfig(octaves=n), 0).seconds for n in (1, 2, 3)]
    assert found[0] < found[1] < found[2] < 1.34 * found[0]


def test_the_choice_of_a_magnification_takes_time():
    regions = [NormalRegion(Plane(data=np.zeros((256, 256)), name=str(i))) for i in range(9)]
    instant = training_preset("instant")
    chosen, given = (estimate_training(regions, ModelConfig(magnification=z), instant).seconds for z in (0.0, 1.0))
    assert chosen > 3 * given
    pyramid = [ModelConfig(levels="pyramid", magnification=z) for z in (0.0, 1.0)]
    assert len({estimate_training(regions, model, instant).seconds for model in pyramid}) == 1


@pytest.mark.parametrize(("first", "magnification", "n_tiles"), [(0, 1.0, 1), (8, 1.0, 4), (16, 1.0, 1), (0, 2.0, 4)])
def test_tiles_of_regions_marked_normal_are_counted(first, magnification, n_tiles):
    mask = np.zeros((512, 512), bool)
    mask[first : first + 256, first : first + 256] = True
    marked = NormalRegion(Plane(data=np.zeros((512, 512))), mask, is_marked_normal=True)
    model = ModelConfig(magnification=magnification)
    assert estimate.count_marked_tiles([marked, marked], model) == 2 * n_tiles


def test_the_estimate_knows_the_cost_of_joint_levels():
    regions = [NormalRegion(Plane(data=np.zeros((1024, 1024)), name=str(i))) for i in range(4)]

    def seconds(training, **options):
        return estimate_training(regions, ModelConfig.from_dict(options), training).seconds

    long = TrainingConfig(steps=1000)
    joint, pyramid = (seconds(long, backbone="scattering", levels=levels) for levels in ("joint", "pyramid"))
    assert 0.4 * pyramid < joint < 0.8 * pyramid
    instant = training_preset("instant")
    assert seconds(instant) < 0.4 * seconds(TrainingConfig())
    times = [seconds(instant, memory_size=size) for size in (100, 10_000, 1_000_000, 10**6 - 1)]
    assert times[0] < times[1] < times[2] == times[3]  # no more vectors than positions
    assert seconds(instant, evidence="likelihood") < times[0]
    assert seconds(instant, levels="pyramid", memory_size=100) == seconds(instant, levels="pyramid")


def test_the_estimate_of_a_detection_knows_the_memory():
    def found(**options):
        return estimate.estimate_detection([(2000, 2000)], ModelConfig.from_dict(options), 0)

    assert found().seconds > found(memory_size=1000).seconds > found(evidence="likelihood").seconds
    assert len({found(levels="pyramid", memory_size=size).seconds for size in (1000, 5000)}) == 1
    assert found(magnification=2.0).seconds > 3.5 * found().seconds > 3.5 * found(magnification=0.5).seconds
    assert found(magnification=0.0) == found()


def test_an_estimate_reads_no_pixels():
    class Watched:
        shape, dtype = (512, 512), np.dtype(np.float32)

        def __getitem__(self, key):
            raise AssertionError("pixels were read")

    found = estimate_training([NormalRegion(Plane(data=Watched()))], ModelConfig(), TrainingConfig())
    assert (found.n_tiles, found.n_holdout_tiles) == (3, 1)


def test_a_model_is_saved_while_it_is_trained_and_when_it_is_done(tmp_path, tiny_model):
    def training():
        yield Snapshot(tiny_model)
        answer = yield Progress("Training", 1, 2)
        assert answer is FINISH
        return tiny_model

    steps = autosave.autosaving(training(), tmp_path, "a/b")
    assert next(steps) == Progress("Training", 1, 2)
    (unfinished,) = tmp_path.iterdir()
    assert unfinished.name.startswith("unfinished-")
    assert not interrupted(tmp_path)  # this program is alive
    with pytest.raises(StopIteration) as stop:
        steps.send(FINISH)
    assert stop.value.value is tiny_model
    (saved,) = tmp_path.iterdir()
    assert saved.name.startswith("a_b ")


def snapshot_of_killed(folder):
    return new_snapshot(folder).with_name(f"unfinished-{nobody()}-01234567.safetensors")


def failing(model):
    yield Snapshot(model)
    yield Progress("Training", 1, 2)
    raise RuntimeError("CUDA error: out of memory")


def test_a_failed_training_leaves_its_best_model_to_resume_from(tmp_path, tiny_model):
    steps = autosave.autosaving(failing(tiny_model), tmp_path, "a")
    with pytest.raises(RuntimeError):
        drain(steps)
    (path,) = interrupted(tmp_path)
    assert describe(path).startswith("'fibres 0' and 1 more, scattering, step 4 of 4, 20")
    discard(path)
    assert not interrupted(tmp_path)


def test_a_full_disk_ends_no_training(tmp_path, tiny_model, fill_disk):
    fill_disk()

    def training():
        yield Snapshot(tiny_model)
        return tiny_model

    events = []
    assert drain(autosave.autosaving(training(), tmp_path, "a"), events.append) is tiny_model
    assert [event.warning for event in events] == [True, True]
    assert "No space left" in events[0].text


def test_a_finished_model_that_cannot_be_saved_leaves_its_snapshot(tmp_path, tiny_model, fill_disk):
    def training():
        yield Snapshot(tiny_model)
        fill_disk()
        return tiny_model

    assert drain(autosave.autosaving(training(), tmp_path, "a")) is tiny_model
    assert len(interrupted(tmp_path)) == 1


def test_files_that_cannot_be_deleted_end_no_training(tmp_path, tiny_model, monkeypatch):
    for i in range(8):
        (tmp_path / f"model {i}.safetensors").touch()

    original = Path.unlink

    def held_open(path, **options):
        if path.name.startswith(("model", "unfinished")):
            raise PermissionError("used by another program")
        original(path, **options)

    monkeypatch.setattr(Path, "unlink", held_open)

    def training():
        yield Snapshot(tiny_model)
        return tiny_model

    assert drain(autosave.autosaving(training(), tmp_path, "a")) is tiny_model


def test_old_models_are_removed(tmp_path):
    for i in range(8):
        (tmp_path / f"model {i}.safetensors").touch()
    autosave._remove_old(tmp_path)
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.slow
def test_the_model_of_an_interrupted_training_is_offered(viewer, qtbot, tmp_path, tiny_model):
    from napari_uflow.store.checkpoint import save_model

    save_model(snapshot_of_killed(tmp_path), tiny_model)
    widget = TrainWidget(viewer)
    qtbot.addWidget(widget)
    assert not widget.rescue.isHidden()
    widget.rescue.use_button.click()
    idle(qtbot, widget)
    assert widget.session.model is not None
    assert (widget.session.model_name, widget.session.model_path) == ("recovered model", None)
    assert widget.rescue.isHidden()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_recovered_model_becomes_active_although_the_widget_was_closed(viewer, qtbot, tmp_path, tiny_model):
    from napari_uflow.store.checkpoint import save_model

    save_model(snapshot_of_killed(tmp_path), tiny_model)
    widget = TrainWidget(viewer)
    session = widget.session
    widget.rescue.use_button.click()
    delete_now(widget)
    with qtbot.captureExceptions() as exceptions:
        qtbot.waitUntil(lambda: session.runner.state is State.IDLE, timeout=WAIT)
    assert not exceptions
    assert session.model_name == "recovered model"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_interrupted_training_is_resumed(viewer, images, qtbot, tmp_path, tiny_model_config, tiny_training_config):
    from napari_uflow.store.checkpoint import save_model
    from napari_uflow.training.train import train

    two_steps = tiny_training_config.replace(steps=2)
    interrupted = train(normal_regions(images), tiny_model_config, two_steps, device="cpu")
    path = snapshot_of_killed(tmp_path)
    save_model(path, replace(interrupted, training=tiny_training_config.replace(steps=5), calibration=None))

    widget = TrainWidget(viewer)
    qtbot.addWidget(widget)
    widget.normal_images.images.set_layers([])
    widget.rescue.resume_button.click()
    assert "Tick" in widget.job_bar.status.text()
    others = viewer.add_image(images.data, name="others", axis_labels=("field", "y", "x"))
    widget.normal_images.images.set_layers([others])
    widget.rescue.resume_button.click()
    idle(qtbot, widget)
    assert "none of these images took part in the training to resume" in widget.job_bar.status.text().lower()
    assert path.exists()
    assert widget.session.model is None
    widget.normal_images.images.set_layers([images])
    widget.rescue.resume_button.click()
    idle(qtbot, widget)
    model = widget.session.model
    assert (model.record.resumed_from.n_steps, model.record.resumed_from.is_same) == (2, True)
    assert model.training.steps == 5
    assert model.config == interrupted.config
    assert widget.rescue.isHidden()
    assert not path.exists()


@pytest.mark.slow
def test_a_panel_that_is_opened_again_follows_the_training_and_can_stop_it(widget, viewer, qtbot, monkeypatch):
    def slow(*args, **kwargs):
        for step in range(1, 10_000):
            if (yield Progress("Training", step, 10_000)) is FINISH:
                raise Stopped("stopped before there was a result")
            if step == 1:
                yield TrainingPoint(1, 2.0, 3.0, 1.0, True)
            time.sleep(0.01)

    monkeypatch.setattr(import_module("napari_uflow.training.train"), "train_steps", slow)
    widget.job_bar.button.click()
    qtbot.waitUntil(lambda: len(widget.plot.points) == 1, timeout=WAIT)
    again = TrainWidget(viewer)
    qtbot.addWidget(again)
    assert again.job_bar.button.text() == "Stop"
    assert again.plot.points == widget.plot.points
    qtbot.waitUntil(lambda: "of 10000" in again.job_bar.status.text(), timeout=WAIT)
    again.job_bar.button.click()
    idle(qtbot, again)
    assert again.job_bar.button.text() == "Train"


@pytest.mark.slow
def test_opening_the_widgets_is_quick_and_loads_no_torch():
    code = """
import sys, time
import napari, qtpy.QtWidgets
app = qtpy.QtWidgets.QApplication([])
viewer = napari.components.ViewerModel()
began = time.monotonic()
from napari_uflow._napari.panels.train import TrainWidget
from napari_uflow._napari.panels.detect import DetectWidget
widgets = TrainWidget(viewer), DetectWidget(viewer)
took = time.monotonic() - began
heavy = {"torch", "timm", "napari_uflow.nfa.compiled", "napari_uflow.detection.detect"}
print(took, sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, loaded = done.stdout.strip().split(" ", 1)
    assert loaded == "[]"
    assert float(seconds) < 5  # a busy machine; on a quiet one it is below one


def mark_normal(viewer, session, n_channels=1, specimen="odd"):
    """Mark a region of an image of its own normal."""
    data = np.stack([fibre_field(9, shape=(128, 128)).image] * n_channels)
    mask = np.zeros((128, 128), bool)
    mask[:96, :96] = True
    normal = NormalRegion(Plane(data=data, axes="CYX", name="odd"), mask, specimen, is_marked_normal=True)
    correction = Correction(normal, np.array([3]), np.array([4]), np.zeros(1, np.float32))
    marked_normal_of(session).add(viewer.add_labels(np.zeros((8, 8), np.uint8)), (), correction)
    return normal


@pytest.mark.slow
def test_regions_marked_normal_are_trained_on_too(widget, viewer):
    assert widget.normal_images.with_marked.isHidden()
    widget.estimate()
    before = widget.estimate_label.text()
    normal = mark_normal(viewer, widget.session)
    assert not widget.normal_images.with_marked.isHidden()
    assert widget.normal_images.with_marked.text() == "Add 1 region marked normal"
    assert widget.normal_images.regions()[-1] is normal
    widget.estimate()
    assert widget.estimate_label.text() != before
    widget.normal_images.with_marked.setChecked(False)
    assert normal not in widget.normal_images.regions()
    widget.normal_images.with_marked.setChecked(True)
    mark_normal(viewer, widget.session, n_channels=2)  # of other images
    assert len(widget.normal_images.regions()) == 4
    assert widget.normal_images.with_marked.text().startswith("Add 1 region marked normal (1 more with other channels")
    marked_normal_of(widget.session).clear()
    assert widget.normal_images.with_marked.isHidden()


@pytest.mark.slow
def test_a_model_is_refined(widget, viewer, qtbot):
    session = widget.session
    assert widget.refine_button.isHidden()
    widget.job_bar.button.click()
    idle(qtbot, widget)
    old = session.model
    assert session.recipe.is_open(viewer.layers)
    assert widget.refine_button.isHidden()
    mark_normal(viewer, session)
    assert not widget.refine_button.isHidden()
    began = []
    session.runner.started.connect(began.append)
    with qtbot.waitSignal(session.model_changed, timeout=WAIT):
        widget.refine_button.click()
        assert widget.job_bar.button.text() == "Stop"
        assert not widget.refine_button.isEnabled()
        assert session.model is old
    idle(qtbot, widget)
    assert [job.title for job in began] == ["Refining"]
    new = session.model
    assert new is not old
    assert new.config == old.config
    assert new.training == refinement_of(old)
    # the next one is measured out by the first training again
    assert refinement_of(new) == refinement_of(old)
    assert set(new.record.holdout_specimens) == set(old.record.holdout_specimens)
    assert new.record.specimens == old.record.specimens
    assert new.record.n_marked_normal == 1
    assert new.record.n_images == 4
    assert new.intensity == old.intensity
    assert (session.model_name, session.model_path) == ("fibres refined", None)
    assert widget.job_bar.status.text().startswith("Refined with 1 region marked normal. ")
    assert widget.refine_button.isEnabled()


@pytest.mark.slow
@pytest.mark.parametrize(("evidence", "says"), [("likelihood", "did not learn the"), ("memory", "Refined with")])
def test_a_refinement_without_steps_says_what_it_learned(
    widget, viewer, qtbot, tiny_model_config, tiny_training_config, evidence, says
):
    config = tiny_model_config.replace(levels="joint", evidence=evidence)
    widget.new_model.set_configs(config, tiny_training_config.replace(steps=0))
    widget.job_bar.button.click()
    idle(qtbot, widget)
    mark_normal(viewer, widget.session)
    widget.refine_button.click()
    idle(qtbot, widget)
    assert f"{says} 1 region marked normal" in widget.job_bar.status.text()
    assert ("are not learned" in widget.job_bar.messages.text()) == (evidence == "likelihood")


@pytest.mark.slow
def test_a_region_of_a_held_out_specimen_is_trained_on_too(widget, viewer, qtbot):
    widget.job_bar.button.click()
    idle(qtbot, widget)
    (held_out,) = widget.session.model.record.holdout_specimens
    mark_normal(viewer, widget.session, specimen=held_out)
    mark_normal(viewer, widget.session)
    widget.refine_button.click()
    idle(qtbot, widget)
    assert widget.session.model.record.holdout_specimens == (held_out,)
    assert widget.session.model.record.n_marked_normal == 2
    assert widget.job_bar.status.text().startswith("Refined with 2 regions marked normal")


@pytest.mark.slow
def test_the_model_stays_when_a_refinement_is_stopped(widget, viewer, qtbot, tiny_model, monkeypatch):
    widget.session.set_model(tiny_model, "good")
    mark_normal(viewer, widget.session)
    monkeypatch.setattr(import_module("napari_uflow.training.train"), "train_steps", endless)
    widget.refine_button.click()
    widget.job_bar.button.click()
    idle(qtbot, widget)
    assert (widget.session.model, widget.session.model_name) == (tiny_model, "good")


@pytest.mark.slow
def test_a_refinement_needs_the_images_of_the_model(widget, viewer, images, qtbot, tiny_model, monkeypatch):
    session, given = widget.session, []

    def steps(regions, model, training, *, init_from, **options):
        given.append((regions, model, init_from))
        yield Progress("Training", 1, 1)
        return tiny_model

    monkeypatch.setattr(import_module("napari_uflow.training.train"), "train_steps", steps)
    mark_normal(viewer, session)
    session.set_model(tiny_model, "tiny")
    widget.refine_as_trained()
    assert "'tiny' are unknown, because it was opened from a file" in widget.job_bar.status.text()
    assert f"'{widget.refine_button.text()}'" in widget.job_bar.status.text()

    area = viewer.add_labels(np.zeros((3, 128, 128), np.uint8), name="area")
    area.data[1:] = 1
    session.set_model(tiny_model, "tiny", recipe=Recipe.of([images], area, specimens="each", channels=[0]))
    other = viewer.add_image(np.zeros((128, 128)), name="other")
    widget.normal_images.images.set_layers([other])
    widget.refine_as_trained()
    idle(qtbot, widget)
    ((regions, config, start),) = given
    assert [region.specimen for region in regions[:2]] == ["fibres field=1", "fibres field=2"]
    assert {region.specimen for region in regions[2:]} == {"odd"}
    assert (config, start) == (tiny_model.config, tiny_model)
    assert session.model_name == "tiny refined"
    assert session.recipe.is_open(viewer.layers)

    viewer.layers.remove("fibres")
    widget.refine_as_trained()
    assert "are no longer open" in widget.job_bar.status.text()
    assert len(given) == 1


@pytest.mark.slow
def test_missing_weights_are_told_in_terms_of_the_window(widget, qtbot, monkeypatch):
    def failing(*args, **kwargs):
        yield Progress("Training", 0, 1)
        raise BackboneUnavailableError("no weights", url="https://hub/file", path=Path("a.safetensors"))

    monkeypatch.setattr(import_module("napari_uflow.training.train"), "train_steps", failing)
    widget.job_bar.button.click()
    idle(qtbot, widget)
    assert "Preferences > U-Flow anomaly detection > Weights folder" in widget.job_bar.status.text()
    assert "--weights" not in widget.job_bar.status.text()


@pytest.mark.slow
def test_the_plot_is_in_sight_if_there_is_a_loss(
    make_napari_viewer_proxy, qtbot, tiny_model_config, tiny_training_config
):
    viewer = make_napari_viewer_proxy(show=True)
    viewer.window.resize(1366, 738)
    viewer.add_image(fibre_field(0, shape=(128, 128)).image, name="fibres")
    dock, widget = viewer.window.add_plugin_dock_widget("napari-uflow", "Train")
    dock.show()
    widget.new_model.set_configs(tiny_model_config, tiny_training_config.replace(steps=0))
    widget.job_bar.button.click()
    idle(qtbot, widget)
    assert widget.session.model is not None
    assert widget.plot.isHidden()
    widget.new_model.set_configs(tiny_model_config, tiny_training_config)
    widget.job_bar.button.click()
    idle(qtbot, widget)
    qtbot.waitUntil(lambda: not widget.plot.visibleRegion().isEmpty(), timeout=WAIT)
    assert widget.plot.visibleRegion().boundingRect().height() == widget.plot.height()


def test_a_message_about_another_training_is_cleared(widget, viewer, images):
    bar = widget.job_bar

    def tell():
        bar.say("Training finished.")
        bar.warn("too few")

    tell()
    viewer.add_points(np.zeros((1, 2)))  # no image
    widget.new_model.changed.emit()
    assert not bar.status.isHidden()
    assert not bar.messages.isHidden()
    other = viewer.add_image(np.zeros((64, 64)), name="other")
    widget.normal_images.images.set_layers([other])
    assert bar.status.isHidden()
    assert bar.messages.isHidden()
    tell()
    widget.session.set_model(None)
    assert not bar.status.isHidden()  # the same: none
