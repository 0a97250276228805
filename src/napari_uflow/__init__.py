"""Find what is not normal in microscope images: U-Flow anomaly detection with an a-contrario threshold.

The public names are loaded when they are first used: importing the package loads neither torch nor Qt nor napari.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_MODULES = {
    "BackboneUnavailableError": "errors",
    "ConfigError": "errors",
    "Detection": "result",
    "DetectionConfig": "config",
    "FibreField": "samples",
    "ImageError": "errors",
    "ModelConfig": "config",
    "ModelFileError": "errors",
    "NormalRegion": "image",
    "Plane": "image",
    "Stopped": "errors",
    "TrainedModel": "model.uflow",
    "TrainingConfig": "config",
    "UFlowError": "errors",
    "detect": "detect",
    "detect_stack": "detect",
    "fibre_dataset": "samples",
    "fibre_field": "samples",
    "load_model": "store",
    "planes_of": "image",
    "read_planes": "store",
    "resegment": "detect",
    "save_model": "store",
    "train": "train",
    "write_fibre_dataset": "samples",
    "write_geojson": "store",
    "write_regions": "store",
    "write_tiff": "store",
}
"""Public name -> the module of this package that defines it."""

__all__ = sorted([*_MODULES, "__version__"])


class _Package(ModuleType):
    """The package; importing its module `train` does not hide its function `train`."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("napari-uflow")
    elif name in _MODULES:
        from napari_uflow.apple import let_missing_operations_run_on_the_processor

        let_missing_operations_run_on_the_processor()
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
