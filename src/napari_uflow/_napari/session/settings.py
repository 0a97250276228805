"""The Preferences of the plugin, declared in the manifest; their defaults where napari is older than 0.9."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Settings", "data_folder", "read_settings", "weights_folder"]

PLUGIN = "napari-uflow"


@dataclass(frozen=True)
class Settings:
    """What the user chose in the Preferences.

    Attributes
    ----------
    device : str
        "auto", "cpu", "cuda" or "mps".
    memory_limit : float
        Memory for computed features, in GB.
    weights_folder : str
        Folder with weights of backbones; "" where there is none.
    false_alarms : float
        False alarms accepted per image, to begin with.
    autosave : bool
        Whether models are saved in the plugin's own folder while and after they are trained.
    """

    device: str = "auto"
    memory_limit: float = 4.0
    weights_folder: str = ""
    false_alarms: float = 1.0
    autosave: bool = True


# Where each setting is declared in the manifest.
_PLACES = {
    "device": "computing",
    "memory_limit": "computing",
    "weights_folder": "computing",
    "false_alarms": "detection",
    "autosave": "training",
}


def read_settings() -> Settings:
    """Return the user's settings; the defaults where napari has none for plugins."""
    try:
        from napari.settings import get_plugin_settings
    except ImportError:
        return Settings()
    try:
        own: Any = get_plugin_settings(PLUGIN)
    except KeyError:  # the plugin is switched off, or run from a script
        return Settings()
    values = {name: getattr(getattr(own, place, None), name, None) for name, place in _PLACES.items()}
    return Settings(**{name: value for name, value in values.items() if value is not None})


def weights_folder() -> Path | None:
    """Return the folder with weights that the user chose, or None."""
    text = read_settings().weights_folder.strip()
    return Path(text).expanduser() if text else None


def data_folder() -> Path:
    """Return the folder, beside napari's settings, for what the plugin saves by itself; made if missing."""
    from napari.settings import get_settings

    own = get_settings().config_path
    base = Path(own).parent if own else Path.home() / ".napari-uflow"
    folder = base / PLUGIN
    folder.mkdir(parents=True, exist_ok=True)
    return folder
