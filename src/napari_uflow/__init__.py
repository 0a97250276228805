"""Anomaly detection in microscope images with U-Flow and an a-contrario threshold.

The public names, listed with their types in ``__init__.pyi``, are loaded on first use: importing the package
loads neither torch nor Qt nor napari.
"""

from typing import Any

import lazy_loader

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("napari-uflow")
    from napari_uflow.system.libraries import make_torch_safe_beside_windows

    make_torch_safe_beside_windows()  # a script may have opened a viewer before it loads a model
    return _load(name)
