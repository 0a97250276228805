"""Export of a result: files, a script, a paragraph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from napari_uflow._napari.contributions.io import write_image, write_labels, write_mask
from napari_uflow._napari.layers.axes import axis_letters
from napari_uflow._napari.layers.place import channel_options, place_of
from napari_uflow._napari.layers.planes import planes_of_layer
from napari_uflow._napari.session.layer_detection import LayerDetection
from napari_uflow._napari.session.session import Session
from napari_uflow.errors import ConfigError, UFlowError

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_uflow.detection.result import Detection

__all__ = ["EXPORTS", "as_methods_text", "as_python", "export"]

EXPORTS: Mapping[str, tuple[str, str, str]] = {
    "csv": ("Table (CSV)...", " regions.csv", "Tables (*.csv)"),
    "geojson": ("Outlines for QuPath (GeoJSON)...", " regions.geojson", "GeoJSON (*.geojson)"),
    "labels": ("Labels as TIFF...", " labels.tif", "TIFF (*.tif *.tiff)"),
    "mask": ("Mask as TIFF, 0 and 255...", " mask.tif", "TIFF (*.tif *.tiff)"),
    "heatmap": ("Heatmap as TIFF...", " heatmap.tif", "TIFF (*.tif *.tiff)"),
}
"""Kind of file -> menu entry, end of the proposed name, and filter of the dialog."""


def export(kind: str, path: str, result: LayerDetection, image: Image | None) -> str:
    """Write a result to a file and return its name.

    Parameters
    ----------
    kind : str
        One of `EXPORTS`.
    path : str
        Name of the file; a missing suffix is added.
    result : LayerDetection
        The result.
    image : Image or None
        Image layer of the result; None if it was closed.

    Raises
    ------
    UFlowError
        If the file cannot be written.
    """
    if kind in ("csv", "geojson"):
        if not path.lower().endswith((f".{kind}", ".json")):
            path += f".{kind}"
        if kind == "csv":
            from napari_uflow.store.regions import write_regions

            write_regions(path, _numbered(result))
        else:
            from napari_uflow.store.geojson import write_geojson

            write_geojson(path, _numbered(result), [_place(result, index, image) for index, _ in result.planes])
        return path
    write = {"labels": write_labels, "mask": write_mask, "heatmap": write_image}[kind]
    layer = result.heatmap if kind == "heatmap" else result.labels
    data, meta, _ = layer.as_layer_data_tuple()
    return write(path, data, meta)[0]


def _numbered(result: LayerDetection) -> list[Detection]:
    """Return the detections with the labels of the labels layer."""
    return [found.numbered_after(first) for found, first in zip(result.detections, result.first_labels, strict=True)]


def _place(result: LayerDetection, index: tuple[int, ...], image: Image | None) -> dict[str, int]:
    """Return the position of a plane by the axes that QuPath knows."""
    if image is not None:
        try:
            place = place_of(image, result.labels, index)
        except UFlowError:  # the image was changed: use the axes of the result
            pass
        else:
            return {"row": place.row, "col": place.col, **{a.lower(): place.at[a] for a in "ZT" if a in place.at}}
    letters = axis_letters(result.labels)
    return {letter.lower(): i for letter, i in zip(letters, index, strict=False) if letter in "ZT"}


def as_python(result: LayerDetection, session: Session, index: tuple[int, ...], image: Image | None) -> str:
    """Return a script that repeats a detection; `index` is the plane of a result that does not cover the image."""
    from napari_uflow.evaluation.methods import python_script

    found = dict(result.planes)[index]
    scope = result.labels.metadata.get("napari_uflow", {}).get("scope")
    options = channel_options(result.labels)
    positions = None
    if scope in ("slice", "view") and image is not None:
        place = place_of(image, result.labels, index)
        planes = planes_of_layer(image, **options)
        positions = [i for i, plane in enumerate(planes) if plane.index == place.at] if len(planes) > 1 else None
    remark = (
        "Only a part of the image was processed in napari; this script processes all of it." if scope == "view" else ""
    )
    return python_script(found, session.model_path, positions=positions, channels=options["channels"], remark=remark)


def as_methods_text(result: LayerDetection | None, session: Session) -> str:
    """Return a paragraph for the methods section.

    Raises
    ------
    ConfigError
        If there is no model.
    """
    from napari_uflow.evaluation.methods import methods_text

    if session.model is None:
        raise ConfigError("no model to describe: open the model of this result")
    if result is None:
        return methods_text(session.model, None)
    found = result.planes[0][1]
    n_marked_normal = sum(plane.n_marked_normal for plane in result.detections)
    return methods_text(session.model, replace(found, n_marked_normal=n_marked_normal))
