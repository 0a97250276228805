"""Preferences of the plugin, declared in the manifest; the defaults apply with napari before 0.9."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Settings", "data_folder", "read_settings", "weights_folder"]

PLUGIN = "napari-uflow"


@dataclass(frozen=True)
class Settings:
    """Values of the Preferences.

    Attributes
    ----------
    device : str
        "auto", "cpu", "cuda" or "mps".
    memory_limit : float
        Memory for cached features, in GB.
    weights_folder : str
        Folder with weights of backbones; "" for the default folders.
    false_alarms : float
        Initial accepted false alarms per image or stack.
    autosave : bool
        True to save models in the plugin's folder during and after training.
    """

    device: str = "auto"
    memory_limit: float = 4.0
    weights_folder: str = ""
    false_alarms: float = 1.0
    autosave: bool = True


# Section of each setting in the manifest.
_PLACES = {
    "device": "computing",
    "memory_limit": "computing",
    "weights_folder": "computing",
    "false_alarms": "detection",
    "autosave": "training",
}


def read_settings() -> Settings:
    """Return the settings of the user; the defaults if this napari has none for plugins."""
    try:
        from napari.settings import get_plugin_settings
    except ImportError:
        return Settings()
    try:
        own: Any = get_plugin_settings(PLUGIN)
    except KeyError:  # the plugin is disabled, or run from a script
        return Settings()
    values = {name: getattr(getattr(own, place, None), name, None) for name, place in _PLACES.items()}
    return Settings(**{name: value for name, value in values.items() if value is not None})


def weights_folder() -> Path | None:
    """Return the folder with weights, or None for the default folders."""
    text = read_settings().weights_folder.strip()
    return Path(text).expanduser() if text else None


def data_folder() -> Path:
    """Return the folder of automatically saved models, beside napari's settings; it is created if needed."""
    from napari.settings import get_settings

    own = get_settings().config_path
    base = Path(own).parent if own else Path.home() / ".napari-uflow"
    folder = base / PLUGIN
    folder.mkdir(parents=True, exist_ok=True)
    return folder
