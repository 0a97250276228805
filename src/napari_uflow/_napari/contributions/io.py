"""Readers, writers and commands for napari: open a model, save layers as calibrated TIFF."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_uflow.errors import ImageError
from napari_uflow.store.endings import with_ending

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Layer

__all__ = [
    "model_reader",
    "open_model",
    "save_as_mask",
    "save_as_tiff",
    "write_image",
    "write_labels",
    "write_mask",
]

_ENDINGS = (".tif", ".tiff")
_NO_LAYERS: list[Any] = [(None,)]
"""Return value of a reader without layers."""


def model_reader(path: str | Sequence[str]) -> Callable[[Any], list[Any]] | None:
    """Return the reader of a model file, or None for other files.

    Parameters
    ----------
    path : str or sequence of str
        Opened files. Several files are refused, because only one model is active.
    """
    return _read_model if isinstance(path, str) and path.lower().endswith(".safetensors") else None


def _read_model(path: Any) -> list[Any]:
    """Make a model the active one; it adds no layer."""
    import napari

    viewer = napari.current_viewer()
    if viewer is None:
        raise ImageError(
            "a model is opened in a viewer: start napari first, or use napari_uflow.load_model in a script"
        )
    _make_active(viewer, Path(path))
    return _NO_LAYERS


def _make_active(viewer: napari.viewer.Viewer, path: Path) -> None:
    from napari.utils.notifications import show_info

    from napari_uflow._napari.session.session import session_of

    session_of(viewer).open_model(path)
    show_info(f"'{path.stem}' is the active model. Next: Plugins > U-Flow anomaly detection > Detect")


def write_image(path: str, data: Any, meta: Mapping[str, Any]) -> list[str]:
    """Write an image layer as TIFF with its axes, pixel size and unit, as Fiji reads them.

    Parameters
    ----------
    path : str
        Name of the file; ".tif" is added to a name without ending.
    data : array-like
        The pixels; of a pyramid the finest level is written.
    meta : mapping
        Attributes of the layer: name, scale, units, axis_labels, rgb, metadata and others.

    Returns
    -------
    list of str
        The written file.

    Raises
    ------
    UFlowError
        If the layer has more axes than a TIFF file can name, the file cannot be written, its ending is that of another
        kind of file, it is the image that a result was found in, or the added ending makes it a file of another origin.
    """
    return _write(path, data, meta)


def write_labels(path: str, data: Any, meta: Mapping[str, Any]) -> list[str]:
    """Write a labels layer as TIFF with its axes, pixel size and unit; as in :func:`write_image`."""
    return _write(path, data, meta)


def write_mask(path: str, data: Any, meta: Mapping[str, Any]) -> list[str]:
    """Write a labels layer as a mask, 255 for labels above 0 and 0 elsewhere; as in :func:`write_image`."""
    finest = data[0] if meta.get("multiscale") else data
    mask = np.where(np.asarray(finest) > 0, np.uint8(255), np.uint8(0))
    return _write(path, mask, {**meta, "multiscale": False})


class _Described(NamedTuple):
    """Attributes of a layer that describe its axes."""

    name: str
    ndim: int
    scale: Sequence[float]
    units: Sequence[Any]
    axis_labels: Sequence[str]
    rgb: bool


def _write(path: str, data: Any, meta: Mapping[str, Any]) -> list[str]:
    from napari_uflow.store.provenance import check_replaceable, identities
    from napari_uflow.store.tiff_writer import write_tiff

    known = (meta.get("metadata") or {}).get("napari_uflow")
    source = known.get("source") if isinstance(known, Mapping) else None
    target = Path(with_ending(path, _ENDINGS))
    is_asked = str(target) == str(Path(path))
    # the dialog has asked for the given name only
    check_replaceable(target, identities([Path(source)] if source else []), overwrite=is_asked)
    values = np.asarray(data[0] if meta.get("multiscale") else data)
    layer = _described(values, meta)
    values, axes, steps = _hyperstack(values, layer)
    pixel_size, unit = _calibration(layer)
    write_tiff(
        target,
        values,
        axes,
        pixel_size=pixel_size,
        unit=unit,
        z_spacing=steps.get("Z") if unit else None,
        frame_interval=steps.get("T"),
        description={"napari_uflow": _plain(known)} if known else None,
    )
    return [str(target)]


def _described(values: NDArray[Any], meta: Mapping[str, Any]) -> _Described:
    rgb = bool(meta.get("rgb"))
    ndim = values.ndim - rgb
    return _Described(
        str(meta.get("name", "layer")),
        ndim,
        meta.get("scale", (1.0,) * ndim),
        meta.get("units") or ("pixel",) * ndim,
        meta.get("axis_labels") or tuple(str(axis - ndim) for axis in range(ndim)),
        rgb,
    )


def _hyperstack(values: NDArray[Any], layer: _Described) -> tuple[NDArray[Any], str, dict[str, float | None]]:
    """Return the values with the axes of ImageJ, the letters of these axes, and the steps along Z and T."""
    from napari_uflow._napari.layers.axes import axis_letters

    letters = list(axis_letters(layer))
    kept = [axis for axis, n in enumerate(values.shape) if letters[axis] in "YXS" or n > 1]
    values = values.reshape([values.shape[axis] for axis in kept])
    free = [letter for letter in "CTZ" if letter not in {letters[axis] for axis in kept}]
    named = {axis: letters[axis] for axis in kept if letters[axis] in "TZCYXS"}
    for axis in reversed(kept):
        if axis not in named:
            if not free:
                raise ImageError(
                    f"'{layer.name}' has {len(kept)} axes, but a TIFF file names only five (time, depth, channels, "
                    "rows, columns): save a part of it"
                )
            named[axis] = free.pop()
    steps = {
        letter: _step(layer, axis, unit)
        for letter, unit in (("Z", layer.units[-1]), ("T", "second"))
        for axis in kept
        if letters[axis] == named[axis] == letter
    }
    return values, "".join(named[axis] for axis in kept), steps


def _step(layer: _Described, axis: int, unit: Any) -> float | None:
    """Return the step of an axis in a unit, such as that of the pixel size; None if it has no such unit."""
    own = layer.units[axis]
    step = abs(float(layer.scale[axis]))
    if str(own) == str(unit):
        return step
    try:
        return float((step * own).to(unit).magnitude)
    except Exception:  # an error of pint, which the plugin does not import: another kind of unit
        return None


def _calibration(layer: _Described) -> tuple[tuple[float, float] | None, str | None]:
    from napari_uflow._napari.layers.axes import pixel_size_of

    size, unit = pixel_size_of(layer)
    return (size, unit) if size is not None and unit is not None else (None, None)


def _plain(value: Any) -> Any:
    """Return a value as JSON types; others become text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def open_model(viewer: napari.viewer.Viewer) -> None:
    """Ask for a model file and make it the active model."""
    from napari_uflow._napari.parts import dialogs

    path = dialogs.ask_to_open("Open a U-Flow model", "Models (*.safetensors)")
    if path:
        _make_active(viewer, Path(path))


def save_as_tiff(viewer: napari.viewer.Viewer) -> None:
    """Ask for a file name and save the selected layer as calibrated TIFF."""
    from napari_uflow._napari.parts import dialogs

    layer = _active(viewer, ("image", "labels"), "an image or labels layer")
    path = dialogs.ask_to_save("Save as calibrated TIFF", f"{layer.name}.tif", "TIFF (*.tif *.tiff)")
    if path:
        data, meta, _ = layer.as_layer_data_tuple()
        _show_saved(_write(path, data, meta))


def save_as_mask(viewer: napari.viewer.Viewer) -> None:
    """Ask for a file name and save the selected labels layer as a mask of 0 and 255."""
    from napari_uflow._napari.parts import dialogs

    layer = _active(viewer, ("labels",), "a labels layer")
    path = dialogs.ask_to_save("Save as mask", f"{layer.name} mask.tif", "TIFF (*.tif *.tiff)")
    if path:
        data, meta, _ = layer.as_layer_data_tuple()
        _show_saved(write_mask(path, data, meta))


def _active(viewer: napari.viewer.Viewer, kinds: Sequence[str], wanted: str) -> Layer:
    layer = viewer.layers.selection.active
    if layer is None or layer.as_layer_data_tuple()[2] not in kinds:
        raise ImageError(f"select {wanted} in the layer list first, and only one")
    return layer


def _show_saved(paths: Sequence[str]) -> None:
    from napari.utils.notifications import show_info

    show_info(f"Saved '{paths[0]}'")
