"""Several kinds of normal images: each is calibrated, and guaranteed, by itself."""

import numpy as np
import pytest
from scipy import ndimage

from napari_uflow.cli import main
from napari_uflow.config import DetectionConfig, ModelConfig, training_preset
from napari_uflow.detection.detect import detect
from napari_uflow.detection.guarantee import Caveat
from napari_uflow.errors import ConfigError
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.progress import Message
from napari_uflow.store.checkpoint import load_model, save_model
from napari_uflow.training.train import train

MODEL = ModelConfig(backbone="scattering", tile=64, flow_steps=1, octaves=1, magnification=1.0, memory_size=200)
TRAINING = training_preset("instant").replace(condition_pattern=r"(dim|bright)")


def plane(name, seed, gain) -> Plane:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(128, 128)), 1.5)
    return Plane(data=(128 + gain * noise / noise.std()).clip(0, 255).astype(np.uint8), name=name)


@pytest.fixture(scope="module")
def regions() -> list[NormalRegion]:
    dim = [plane(f"dim {i}", i, 10) for i in range(4)]
    return [NormalRegion(one) for one in [*dim, *(plane(f"bright {i}", 50 + i, 40) for i in range(6))]]


@pytest.fixture(scope="module")
def trained(regions):
    events = []
    model = train(regions, MODEL, TRAINING, on_event=events.append)
    return model, [event.text for event in events if isinstance(event, Message)]


@pytest.fixture(scope="module")
def model(trained):
    return trained[0]


def test_each_condition_has_its_own_specimens(model):
    assert {name: of.offset.n_specimens for name, of in model.calibration.conditions.items()} == {"bright": 6, "dim": 4}
    assert model.calibration.offset.n_specimens == 10
    held_out = model.record.holdout_specimens
    assert any(name.startswith("dim") for name in held_out)
    assert any(name.startswith("bright") for name in held_out)


def test_what_is_guaranteed_is_told(trained):
    said = trained[1]
    assert "2 conditions, with a guarantee each: 'bright' (6 specimens), 'dim' (4 specimens)" in said
    end = "false alarms per image or more can be guaranteed for the condition"
    assert f"0.14 {end} 'bright', counted on 6 specimens" in said
    assert f"0.2 {end} 'dim', counted on 4 specimens" in said


def test_an_image_is_compared_with_its_condition(model):
    config = DetectionConfig(false_alarms=0.2)
    dim, bright = (detect(model, plane(f"new {name}", 99, 25), config) for name in ("dim", "bright"))
    assert (dim.guarantee.n_specimens, bright.guarantee.n_specimens) == (4, 6)
    assert dim.score.max() > bright.score.max()  # for dim images it is unusual
    assert dim.guarantee.is_guaranteed
    given = detect(model, plane("new", 99, 25), config.replace(condition="dim"))
    np.testing.assert_array_equal(given.score, dim.score)
    assert Caveat.CONDITION not in given.guarantee.caveats


def test_an_unknown_condition_has_no_guarantee(model):
    events = []
    found = detect(model, plane("new", 99, 25), DetectionConfig(), on_event=events.append)
    assert Caveat.CONDITION in found.guarantee.caveats
    assert any("is of an unknown condition" in event.text for event in events if isinstance(event, Message))
    with pytest.raises(ConfigError, match="no condition 'dark' in this model; its conditions: 'bright', 'dim'"):
        detect(model, plane("new", 99, 25), DetectionConfig(condition="dark"))


def test_a_model_of_one_condition_knows_no_other(tiny_model):
    with pytest.raises(ConfigError, match="its conditions: none"):
        detect(tiny_model, plane("new", 99, 25), DetectionConfig(condition="dim"))


def test_images_of_another_condition_than_the_only_one_have_no_guarantee(regions):
    bright = [one for one in regions if one.plane.name.startswith("bright")]
    model = train(bright, MODEL, TRAINING)
    config = DetectionConfig(false_alarms=0.2)
    dim, other = (detect(model, plane(f"{name} new", 99, 25), config) for name in ("dim", "bright"))
    assert Caveat.CONDITION in dim.guarantee.caveats
    assert other.guarantee.holds or Caveat.CONDITION not in other.guarantee.caveats
    assert other.guarantee.n_specimens == 6


def test_nothing_is_guaranteed_for_a_condition_without_held_out_images(regions):
    model = train(regions, MODEL, TRAINING.replace(holdout=0.0))
    assert set(model.calibration.conditions) == {"bright", "dim"}
    found = detect(model, plane("new dim", 99, 25), DetectionConfig(false_alarms=0.2))
    assert found.guarantee.n_specimens == 0
    assert not found.guarantee.is_guaranteed


def test_a_region_marked_normal_needs_no_condition(regions, model):
    mask = np.zeros((128, 128), bool)
    mask[32:96, 32:96] = True
    marked = NormalRegion(plane("odd", 1, 10), mask, is_marked_normal=True)
    refined = train([*regions, marked], MODEL, TRAINING, init_from=model)
    assert {name: of.offset.n_specimens for name, of in refined.calibration.conditions.items()} == {
        "bright": 6,
        "dim": 4,
    }


def test_an_image_of_no_condition_cannot_be_trained_on(regions):
    with pytest.raises(ConfigError, match="does not match 'odd' and its folder"):
        train([*regions, NormalRegion(plane("odd", 1, 10))], MODEL, TRAINING)


def test_a_file_keeps_the_conditions(model, tmp_path, capsys):
    save_model(tmp_path / "m.safetensors", model)
    assert load_model(tmp_path / "m.safetensors").calibration == model.calibration
    assert main(["show", str(tmp_path / "m.safetensors")]) == 0
    assert "conditions:             bright (6 specimens), dim (4 specimens)" in capsys.readouterr().out
