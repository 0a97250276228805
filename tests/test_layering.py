"""Who may import whom, read from the sources, and what importing the package loads.

The arrow points to the importer, never back::

    errors, config, progress, wording <- image, nfa <- model, devices <- result, store <- train, detect
    <- batch, evaluate <- demo <- cli, _napari
"""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "napari_uflow"
MODULES = sorted(SOURCE.rglob("*.py"))

GUI = {"PyQt5", "PyQt6", "PySide2", "PySide6", "app_model", "magicgui", "napari", "npe2", "qtpy", "superqt", "vispy"}
DEEP = {"FrEIA", "timm", "torch", "torchvision"}

LEVELS = (
    {"apple", "errors", "config", "memory", "progress", "wording"},
    {"scratch"},
    {"image", "nfa", "metrics", "samples"},
    {"model", "devices"},
    {"result", "store"},
    {"evidence", "features", "tiles", "train", "detect"},
    {"corrections", "trust", "figures", "batch", "evaluate", "provenance"},
    {"cluster", "demo"},
    {"cli", "_napari"},
)
"""A part may import from its own level and from those above it here; `__init__` and `__main__` stand outside."""


def name_of(path: Path) -> str:
    """``model/flow.py`` is ``model.flow``."""
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def imports_of(path: Path) -> set[str]:
    """Absolute names of all that a file imports, inside functions and type checks too."""
    names = set()
    package = ["napari_uflow", *path.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            # `from napari_uflow import image` names a module by its last part
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def part_of(module: str) -> str:
    return module.split(".")[0]


def level_of(part: str) -> int | None:
    return next((level for level, parts in enumerate(LEVELS) if part in parts), None)


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports_of(path)}


@pytest.fixture(params=MODULES, ids=name_of)
def path(request):
    return request.param


def test_every_part_has_its_level(path):
    part = part_of(name_of(path))
    assert part in {"__init__", "__main__"} or level_of(part) is not None, f"give {part} its level in LEVELS"


def test_only_the_plugin_sees_the_gui(path):
    if part_of(name_of(path)) != "_napari":
        assert not roots(path) & GUI


def test_who_sees_deep_learning(path):
    module = name_of(path)
    part = part_of(module)
    seen = roots(path)
    if part not in {"model", "devices", "store", "evidence", "features", "train", "detect", "_napari"}:
        assert not seen & DEEP
    if part != "model":
        assert "timm" not in seen
    if module != "model.flow":
        assert "FrEIA" not in seen


def test_imports_point_up_the_list(path):
    part = part_of(name_of(path))
    level = level_of(part)
    if level is None:
        return
    ours = {name.removeprefix("napari_uflow.").split(".")[0] for name in imports_of(path) if "napari_uflow." in name}
    for other in ours:
        other_level = level_of(other)
        if other_level is not None:
            assert other_level <= level, f"{part} must not import {other}"
    if part == "model":
        assert not ours & {"store", "_napari"}


def test_the_reader_of_imports_sees_them_all(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "SOURCE", tmp_path)
    file = tmp_path / "model" / "flow.py"
    file.parent.mkdir()
    file.write_text(
        "import torch.nn as nn\nfrom ..errors import UFlowError\nfrom . import norm\n"
        "def f():\n    from napari_uflow import store\n    import timm\n",
        encoding="utf-8",
    )
    assert imports_of(file) == {
        "torch.nn",
        "napari_uflow.errors.UFlowError",
        "napari_uflow.model.norm",
        "napari_uflow.store",
        "timm",
    }


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


def test_a_module_does_not_hide_the_function_of_its_name():
    import napari_uflow

    for name, module_name in napari_uflow._MODULES.items():
        module = importlib.import_module(f"napari_uflow.{module_name}")
        setattr(napari_uflow, module_name, module)  # as the import system does
        assert getattr(napari_uflow, name) is getattr(module, name)


def test_training_and_detecting_load_no_gui():
    code = """
import sys
import numpy as np
import napari_uflow.detect, napari_uflow.train
from napari_uflow import DetectionConfig, ModelConfig, NormalRegion, Plane, TrainingConfig, detect, train
noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64)).astype(np.uint8)
planes = [Plane(data=image, name=str(i)) for i, image in enumerate(noise)]
model = train(
    [NormalRegion(plane) for plane in planes],
    ModelConfig(tile=64, flow_steps=1),
    TrainingConfig(steps=2, batch_size=2, views=1),
    device="cpu",
)
assert detect(model, planes[0], DetectionConfig(), device="cpu").labels.shape == (64, 64)
print(*sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in result.stdout.split()}
    assert "torch" in loaded
    assert not loaded & (GUI | {"matplotlib"})
