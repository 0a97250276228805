"""Loading: the package is light, its public names are typed and lazy. Who may import whom stands in pyproject.toml."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "napari_uflow"
GUI = {"PyQt5", "PyQt6", "PySide2", "PySide6", "app_model", "magicgui", "napari", "npe2", "qtpy", "superqt", "vispy"}
DEEP = {"FrEIA", "timm", "torch", "torchvision"}


def test_importing_the_package_is_light():
    code = "import sys, napari_uflow; napari_uflow.__version__; dir(napari_uflow); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in result.stdout.split()}
    assert not loaded & (GUI | DEEP | {"matplotlib", "numba", "numpy", "scipy", "skimage"})


def test_every_public_name_can_be_loaded():
    import napari_uflow

    for name in napari_uflow.__all__:
        assert getattr(napari_uflow, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = napari_uflow.nothing_of_the_kind


def test_every_public_name_comes_from_the_module_that_the_stub_names():
    import napari_uflow

    imports = [n for n in ast.parse((SOURCE / "__init__.pyi").read_text()).body if isinstance(n, ast.ImportFrom)]
    named = {alias.name: node.module for node in imports for alias in node.names}
    assert set(named) == set(napari_uflow.__all__)
    for name, module_name in named.items():
        module = importlib.import_module(f"napari_uflow.{module_name}")
        assert getattr(napari_uflow, name) is getattr(module, name)
        assert name in module.__all__


@pytest.mark.slow
def test_training_and_detecting_load_no_gui():
    code = """
import sys
import numpy as np
import napari_uflow.detection.detect, napari_uflow.training.train
from napari_uflow import DetectionConfig, ModelConfig, NormalRegion, Plane, TrainingConfig, detect, train
noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64)).astype(np.uint8)
planes = [Plane(data=image, name=str(i)) for i, image in enumerate(noise)]
model = train(
    [NormalRegion(plane) for plane in planes],
    ModelConfig(tile=64, flow_steps=1),
    TrainingConfig(steps=2, batch_size=2, augmentations=1),
    device="cpu",
)
assert detect(model, planes[0], DetectionConfig(), device="cpu").labels.shape == (64, 64)
print(*sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in result.stdout.split()}
    assert "torch" in loaded
    assert not loaded & (GUI | {"matplotlib"})
