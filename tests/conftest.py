"""Fixtures: small drawn images, and one model that trains in a second."""

import os
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import settings
from safetensors import SafetensorError

from napari_uflow.config import ModelConfig, TrainingConfig
from napari_uflow.detection.guarantee import Guarantee
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.samples.fibres import fibre_field

settings.register_profile("any machine", deadline=None)  # no test is timed
settings.load_profile("any machine")

TINY_MODEL = {"backbone": "scattering", "tile": 64, "flow_steps": 2}
TINY_TRAINING = {
    "steps": 4,
    "batch_size": 4,
    "check_every": 2,
    "augmentations": 1,
    "holdout": 0.3,
    "learning_rate": 3e-3,
    "guarantee": "split",
}


DEVICE = os.environ.get("NAPARI_UFLOW_TEST_DEVICE", "cpu")
"""Device of the tests that train and detect: NAPARI_UFLOW_TEST_DEVICE=cuda runs the same tests on a GPU."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Let torch use one thread: fastest for images this small, and napari's labels change the number by numba's."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model_config():
    return ModelConfig.from_dict(TINY_MODEL)


@pytest.fixture(scope="session")
def tiny_training_config():
    return TrainingConfig.from_dict(TINY_TRAINING)


@pytest.fixture(scope="session")
def normal_planes():
    """Three fields of fibres: the one held out fills 16 x 16 positions of the coarsest level, enough to calibrate."""
    return [Plane(data=fibre_field(seed, shape=(256, 256)).image, name=f"fibres {seed}") for seed in range(3)]


@pytest.fixture(scope="session")
def odd_plane():
    """A field of fibres with a bright square that no normal field has: rows 40 to 79, columns 88 to 127."""
    image = fibre_field(11, shape=(128, 160)).image.copy()
    image[40:80, 88:128] = np.random.default_rng(0).integers(0, 256, (40, 40))
    return Plane(data=image, name="odd", pixel_size=(0.5, 0.25), unit="um")


@pytest.fixture(scope="session")
def tiny_model(normal_planes, tiny_model_config, tiny_training_config):
    """A model of the normal planes, calibrated on a held-out one."""
    from napari_uflow.training.train import train

    regions = [NormalRegion(plane) for plane in normal_planes]
    model = train(regions, tiny_model_config, tiny_training_config, device=DEVICE)
    assert model.calibration is not None
    return model


@pytest.fixture(scope="session")
def tiny_pyramid(normal_planes, tiny_model_config, tiny_training_config):
    """The same with the levels as published: a pyramid of three."""
    from napari_uflow.training.train import train

    regions = [NormalRegion(plane) for plane in normal_planes]
    model = train(regions, tiny_model_config.replace(levels="pyramid"), tiny_training_config, device=DEVICE)
    assert model.calibration is not None
    return model


@pytest.fixture(params=["joint", "pyramid"])
def either_model(request, tiny_model, tiny_pyramid):
    """The tiny model with either kind of levels."""
    return {"joint": tiny_model, "pyramid": tiny_pyramid}[request.param]


@pytest.fixture(scope="session")
def tiny_model_file(tiny_model, tmp_path_factory):
    from napari_uflow.store.checkpoint import save_model

    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(path, tiny_model)
    return path


@pytest.fixture
def fill_disk(monkeypatch):
    """Return a function after whose call no model can be saved."""

    def full(*args, **kwargs):
        raise SafetensorError("No space left on device (os error 28)")

    return lambda: monkeypatch.setattr("napari_uflow.store.checkpoint.save_file", full)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    """A folder with train/good, test/good, test/KIND and ground_truth/KIND; do not write to it."""
    from napari_uflow.samples.dataset import write_fibre_dataset

    folder = tmp_path_factory.mktemp("data") / "fibres"
    return write_fibre_dataset(folder, n_train=3, n_test_good=2, n_test_defective=3, shape=(128, 128))


@pytest.fixture(scope="session")
def watched_model(tiny_model):
    """The tiny model, as if it had been calibrated on twenty specimens like the fields of fibres."""
    (of_map,) = tiny_model.calibration.maps
    profiles = tuple((float(a), float(b)) for a, b in np.random.default_rng(0).normal(0, 3, size=(20, 2)))
    maps = (replace(of_map, n_specimens=20, profiles=profiles),)
    return replace(tiny_model, calibration=replace(tiny_model.calibration, maps=maps))


@dataclass(frozen=True)
class _Found:
    """What the drift log keeps of a detection."""

    profile: tuple[float, ...]
    guarantee: Guarantee = Guarantee(false_alarms=1.0)


@pytest.fixture
def log_drift():
    """Return a function after whose call the drift log of a model says that images have drifted."""

    def log(model, path):
        from napari_uflow.evaluation.drift import DriftWatch

        watch = DriftWatch(model, path)
        for i in range(12):
            plane = Plane(data=np.full((4, 4), i), name=f"blurred {i}")
            watch.observe([plane], [_Found((100.0 + i % 5, 0.0))])
        assert watch.state.since
        return watch

    return log
