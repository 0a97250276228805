"""What was done, in words and in code: a script that repeats a detection, and a paragraph for the methods section."""

from __future__ import annotations

import os
import pprint
from collections.abc import Sequence
from typing import TYPE_CHECKING

from napari_uflow import __version__
from napari_uflow.config import DetectionConfig, parameters_of
from napari_uflow.detection.guarantee import GuaranteeKind
from napari_uflow.detection.result import Detection
from napari_uflow.model.info import BACKBONES
from napari_uflow.wording import counted

if TYPE_CHECKING:
    from napari_uflow.model.uflow import TrainedModel

__all__ = ["REFERENCE", "methods_text", "python_script"]

REFERENCE = (
    "Tailanian M., Pardo Á., Musé P. (2024). U-Flow: A U-shaped Normalizing Flow for Anomaly Detection with "
    "Unsupervised Threshold. Journal of Mathematical Imaging and Vision. https://doi.org/10.1007/s10851-024-01193-y"
)
"""The paper that the method comes from."""

_CALIBRATIONS = {
    GuaranteeKind.GUARANTEED: "calibrated so that the accepted number holds on specimens held out of training",
    GuaranteeKind.EXTRAPOLATED: "extrapolated from the scores of specimens held out of training",
    GuaranteeKind.TAILS: "computed from the tails of the scores of specimens held out of training",
    GuaranteeKind.NOMINAL: "computed under the assumption that the latents of normal images are standard normal",
}

_METHODS = {
    "size-conditional": "the number of false alarms of connected regions, tested for each size apart",
    "paper": "the number of false alarms of connected regions as in the cited paper",
    "binomial": "the number of false alarms of windows, by a binomial test",
}


def python_script(
    detection: Detection,
    model_path: str | os.PathLike[str] | None = None,
    *,
    positions: Sequence[int] | None = None,
    channels: Sequence[int] | None = None,
    axes: str | None = None,
    remark: str = "",
) -> str:
    """Return a Python script that repeats a detection with the public functions of this package.

    Parameters
    ----------
    detection : Detection
        What was found; its provenance says in which file and with which parameters.
    model_path : path-like or None
        The model's file; None where it was not saved: the script then says so.
    positions : sequence of int or None
        Which planes of the file, counted from 0 in its order; all by default.
    channels : sequence of int or None
        Channels that were used, from 0; those of the file by default.
    axes : str or None
        One letter for each axis of the file, where it does not say so itself.
    remark : str
        A sentence that the script begins with.
    """
    source = detection.provenance.source
    config = detection.config
    is_shared = config.n_sharing(detection.n_planes) > 1
    function = "detect_stack" if is_shared else "detect"
    lines = [
        f'"""Find what is not normal, as on {_sanitized(detection.name)} with napari-uflow '
        f'{detection.provenance.version or __version__}."""',
        "",
        f"from napari_uflow import DetectionConfig, {function}, load_model, read_planes, write_regions",
        "",
    ]
    if remark:
        lines.append(f"# {remark}")
    if model_path is None:
        lines.append("# The model had not been saved: save it under this name, or name the file it was saved to.")
    lines.append(f"model = load_model({_literal(model_path or 'model.safetensors')})")
    if source is None:
        lines.append("# The image was not opened from a file by napari: save it under this name, or name its file.")
    options = {"channels": None if channels is None else list(channels), "axes": axes}
    given = "".join(f", {name}={value!r}" for name, value in options.items() if value is not None)
    lines.append(f"planes = read_planes({_literal(source or 'image.tif')}{given})")
    if positions is not None:
        lines.append(f"planes = [planes[i] for i in {_wrapped(list(positions))}]")
    call = "detect_stack(model, planes, config)" if is_shared else "[detect(model, plane, config) for plane in planes]"
    lines += [
        f"config = {_call(config)}",
        "",
        f"detections = {call}",
        "for found in detections:",
        '    print(f"{found.name}: {len(found.regions)} regions; {found.guarantee.text()}")',
        'write_regions("regions.csv", detections)',
    ]
    return "\n".join(lines) + "\n"


def _sanitized(text: str) -> str:
    """Return a text that can stand in a docstring."""
    return text.replace("\\", "/").replace('"', "'").replace("\n", " ")


def _literal(path: str | os.PathLike[str]) -> str:
    return repr(os.fspath(path))


def _wrapped(values: list[int]) -> str:
    if len(values) > 2 and values == list(range(values[0], values[-1] + 1)):
        return f"range({values[0]}, {values[-1] + 1})"
    return pprint.pformat(values, width=100, compact=True)


def _call(config: DetectionConfig) -> str:
    """Return the call that makes a configuration: only what is not the default."""
    changed = [
        f"{parameter.name}={getattr(config, parameter.name)!r}"
        for parameter in parameters_of(DetectionConfig)
        if getattr(config, parameter.name) != parameter.default
    ]
    return f"DetectionConfig({', '.join(changed)})"


def methods_text(model: TrainedModel, detection: Detection | None = None) -> str:
    """Return a paragraph that says how anomalies were detected, for the methods section of a paper.

    Parameters
    ----------
    model : TrainedModel
        The model; its record says what it was trained on.
    detection : Detection, optional
        What was found with it; without it, only the model is described.
    """
    sentences = [
        f"Anomalies were detected with napari-uflow {__version__}, an independent implementation of U-Flow "
        f"(Tailanian, Pardo and Musé 2024): a U-shaped normalizing flow learns how the features of a frozen network "
        f"are distributed, at several scales, in images that are normal.",
        _features(model),
        *_training(model),
    ]
    if detection is not None:
        sentences += _detection(detection)
    if model.record.versions:
        named = ", ".join(f"{name} {number}" for name, number in model.record.versions.items())
        sentences.append(f"The model was trained with {named}.")
    return " ".join(sentences) + "\n\n" + REFERENCE + "\n"


def _features(model: TrainedModel) -> str:
    text = f"Features came from {BACKBONES[model.config.backbone].description}"
    source = model.record.backbone_weights
    if source and BACKBONES[model.config.backbone].needs_weights:
        text += f" (weights: {os.path.basename(source)})"
    return f"{text}; the flow had {model.config.flow_steps} steps at each scale."


def _training(model: TrainedModel) -> list[str]:
    record = model.record
    held_out = record.holdout_specimens
    sentences = []
    if record.n_images:
        text = (
            f"It was trained on {counted(record.n_images, 'normal image')} from "
            f"{counted(len(record.all_specimens), 'independent specimen')}"
        )
        if record.n_tiles:
            text += f", in {counted(record.n_tiles, 'tile')} of {model.config.tile} × {model.config.tile} pixels"
        if record.is_divided_by_place:
            text += f"; {counted(record.n_holdout_tiles, 'tile')} of the same specimen were held out of training"
        elif held_out:
            text += f"; {counted(len(held_out), 'specimen')} of them ({counted(record.n_holdout_tiles, 'tile')})"
            text += f" {'was' if len(held_out) == 1 else 'were'} held out of training"
        else:
            text += "; nothing was held out of training"
        sentences.append(text + ".")
    earlier = record.resumed_from
    if earlier is not None:
        sentences.append(
            f"Training was resumed from a model of {str(earlier.date)[:10]} that had been trained for "
            f"{counted(earlier.n_steps, 'step')}."
        )
    size, unit = record.pixel_size, record.unit
    if size and unit:
        pixel = f"{size[0]:g}" if size[0] == size[1] else f"{size[0]:g} × {size[1]:g}"
        sentences.append(f"A pixel was {pixel} {_micro(unit)}.")
    if model.history:
        last = int(model.history[-1]["step"])
        best = max((int(point["step"]) for point in model.history if point.get("is_best")), default=last)
        chosen = "lowest loss on what was held out" if held_out else "lowest loss"
        sentences.append(
            f"The flow was optimised (Adam, learning rate {model.training.learning_rate:g}, "
            f"{counted(model.training.batch_size, 'tile')} a step) for {counted(last, 'step')}; the weights of step "
            f"{best}, of the {chosen}, were kept."
        )
    return sentences


def _detection(detection: Detection) -> list[str]:
    config, n_planes = detection.config, detection.n_planes
    rests = ""
    if config.nfa == "size-conditional":
        rests = f", {_CALIBRATIONS[detection.guarantee.kind]}"
    sentences = [
        f"A region was called anomalous where its number of false alarms (NFA: how many regions as strange as it are "
        f"expected in one normal {config.counted_on(n_planes)}) was at most {config.false_alarms:g}. The NFA was "
        f"{_METHODS[config.nfa]}{rests}."
    ]
    n_marked = detection.n_marked_normal
    if n_marked:
        sentences.append(
            f"{counted(n_marked, 'region')} that had been reported were judged normal by eye and left out."
        )
    return [*sentences, f"Reliability of this threshold: {detection.guarantee.text()}."]


def _micro(unit: str) -> str:
    return "µm" if unit == "um" else unit
