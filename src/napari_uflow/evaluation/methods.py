"""Documentation of a detection: a script that repeats it, and a paragraph for the methods section."""

from __future__ import annotations

import os
import pprint
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from napari_uflow import __version__
from napari_uflow.config import DetectionConfig, parameters_of
from napari_uflow.detection.guarantee import GuaranteeKind
from napari_uflow.detection.result import Detection
from napari_uflow.model.info import BACKBONES, JOINT_STRIDE, has_joint_levels
from napari_uflow.wording import counted

if TYPE_CHECKING:
    from napari_uflow.evaluation.sensitivity import Sensitivity
    from napari_uflow.model.uflow import TrainedModel

__all__ = ["REFERENCE", "methods_text", "python_script"]

REFERENCE = (
    "Tailanian M., Pardo Á., Musé P. (2024). U-Flow: A U-shaped Normalizing Flow for Anomaly Detection with "
    "Unsupervised Threshold. Journal of Mathematical Imaging and Vision. https://doi.org/10.1007/s10851-024-01193-y"
)
"""Paper of the method."""
_REFERENCE_OF_MEMORY = (
    "Roth K., Pemula L., Zepeda J., Schölkopf B., Brox T., Gehler P. (2022). Towards Total Recall in Industrial "
    "Anomaly Detection. CVPR. https://doi.org/10.1109/CVPR52688.2022.01392"
)

# Position of a plane at the end of its name, as in "embryo t=3,z=10".
_POSITION = re.compile(r" [A-Za-z]=\d+(,[A-Za-z]=\d+)*$")

_CALIBRATIONS = {
    GuaranteeKind.GUARANTEED: "calibrated so that the accepted number holds on specimens held out of training",
    GuaranteeKind.EXTRAPOLATED: "extrapolated from the scores of {source}",
    GuaranteeKind.TAILS: "computed from the tails of the scores of {source}",
    GuaranteeKind.NOMINAL: "computed under the assumption that the latents of normal images are standard normal",
}

_METHODS = {
    "size-conditional": "the number of false alarms of connected regions, with a share of the tests for each size",
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
        Detection to repeat, with file and parameters; any plane of a stack.
    model_path : path-like or None
        File of the model; None for a model that was not saved, which the script notes.
    positions : sequence of int or None
        Planes of the file, by number from 0 in its order; all by default.
    channels : sequence of int or None
        Channels, by number from 0; those of the file by default.
    axes : str or None
        One letter per axis, for a file that does not name its axes.
    remark : str
        Comment at the beginning of the script.
    """
    source = detection.provenance.source
    config = detection.config
    is_shared = config.n_sharing(detection.n_planes) > 1
    function = "detect_stack" if is_shared else "detect"
    lines = [
        f'"""Detect anomalies as in {_sanitized(_image_name(detection, positions))} with napari-uflow '
        f'{detection.provenance.version or __version__}."""',
        "",
        f"from napari_uflow import DetectionConfig, {function}, load_model, read_planes, write_regions",
        "",
    ]
    if remark:
        lines.append(f"# {remark}")
    if model_path is None:
        lines.append("# The model was not saved: save it under this name, or insert its file.")
    lines.append(f"model = load_model({_literal(model_path or 'model.safetensors')})")
    if source is None:
        lines.append("# The image was not opened from a file: save it under this name, or insert its file.")
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


def _image_name(detection: Detection, positions: Sequence[int] | None) -> str:
    """Return the name of the image that a plane belongs to, and the planes of it that were chosen."""
    source = detection.provenance.source
    name = _POSITION.sub("", detection.name) if source is None else os.path.basename(os.path.normpath(source))
    if positions is None:
        return name
    several = len(positions) > 1
    return f"plane{'s' * several} {_wrapped(list(positions)) if several else positions[0]} of {name}"


def _sanitized(text: str) -> str:
    """Return a text that is valid inside a docstring."""
    return text.replace("\\", "/").replace('"', "'").replace("\n", " ")


def _literal(path: str | os.PathLike[str]) -> str:
    return repr(os.fspath(path))


def _wrapped(values: list[int]) -> str:
    if len(values) > 2 and values == list(range(values[0], values[-1] + 1)):
        return f"range({values[0]}, {values[-1] + 1})"
    return pprint.pformat(values, width=100, compact=True)


def _call(config: DetectionConfig) -> str:
    """Return the call that creates a configuration, without default values."""
    changed = [
        f"{parameter.name}={getattr(config, parameter.name)!r}"
        for parameter in parameters_of(DetectionConfig)
        if getattr(config, parameter.name) != parameter.default
    ]
    return f"DetectionConfig({', '.join(changed)})"


def methods_text(
    model: TrainedModel,
    detection: Detection | Sequence[Detection] | None = None,
    *,
    sensitivity: Sensitivity | None = None,
    is_edited: bool = False,
) -> str:
    """Return a paragraph on training and detection for the methods section of a paper.

    Parameters
    ----------
    model : TrainedModel
        Model to describe.
    detection : Detection or sequence of Detection, optional
        Detection to describe too; of a stack, those of all planes.
    sensitivity : Sensitivity, optional
        Planted defects that the model finds, if known.
    is_edited : bool
        True if regions were painted or erased by hand after the detection.
    """
    sentences = [
        _method(model),
        _features(model),
        *_training(model),
    ]
    found = [detection] if isinstance(detection, Detection) else list(detection or ())
    if found:
        sentences += _detection(found)
    if is_edited:
        sentences.append("Regions were then painted or erased by hand.")
    if sensitivity is not None:
        sentences += sensitivity.sentences()
    if model.record.versions:
        named = ", ".join(f"{name} {number}" for name, number in model.record.versions.items())
        sentences.append(f"The model was trained with {named}.")
    references = [_REFERENCE_OF_MEMORY] * bool(_n_remembered(model)) + [REFERENCE]
    return " ".join(sentences) + "\n\n" + "\n".join(references) + "\n"


def _n_remembered(model: TrainedModel) -> int:
    """Return the number of normal positions whose distance is part of the evidence."""
    if not has_joint_levels(model.config) or model.config.evidence == "likelihood":
        return 0
    return len(model.state["memory.vectors"])


def _uses_likelihood(model: TrainedModel) -> bool:
    return model.config.evidence != "memory" or not _n_remembered(model)


def _method(model: TrainedModel) -> str:
    if not has_joint_levels(model.config):
        return (
            f"Anomalies were detected with napari-uflow {__version__}, an independent implementation of U-Flow "
            f"(Tailanian, Pardo and Musé 2024): a U-shaped normalizing flow learns the distribution of the features of "
            f"a frozen network, at several scales, in normal images."
        )
    n = _n_remembered(model)
    scores = [
        "its likelihood under a normalizing flow that learns the features of normal images"
        if model.training.steps
        else "its likelihood under a Gaussian of the features of normal images (a normalizing flow that was not "
        "trained)"
    ]
    scores = scores * _uses_likelihood(model) + [
        f"its distance from the nearest of {n} normal positions, both by its own features and by their mean over 3 × 3 "
        f"positions"
    ] * bool(n)
    joined = scores[0] if len(scores) == 1 else f"the mean of {scores[0]}, and {scores[1]}"
    octaves = max(model.config.octaves, 1)
    sizes = f" The same was done at {' and '.join(['half', 'a quarter', 'an eighth'][: octaves - 1])} of the size "
    sizes += "(without training), and the largest score was kept."
    based = "U-Flow (Tailanian, Pardo and Musé 2024)" + " and PatchCore (Roth et al. 2022)" * bool(n)
    return (
        f"Anomalies were detected with napari-uflow {__version__}, which is based on {based}. The features of a frozen "
        f"network were joined over all of its scales every {JOINT_STRIDE} pixels. Each position was scored by {joined},"
        f" on the scale of normal positions as near the border of the image.{sizes * (octaves > 1)}"
    )


def _features(model: TrainedModel) -> str:
    text = f"Features came from {BACKBONES[model.config.backbone].description}"
    source = model.record.backbone_weights
    if source and BACKBONES[model.config.backbone].needs_weights:
        text += f" (weights: {os.path.basename(source)})"
    if has_joint_levels(model.config):
        if model.training.steps and _uses_likelihood(model):
            text += f"; the flow had {counted(model.config.flow_steps, 'coupling block')}"
        return f"{text}."
    return f"{text}; the flow had {counted(model.config.flow_steps, 'coupling block')} at each scale."


def _training(model: TrainedModel) -> list[str]:
    record = model.record
    held_out = record.holdout_specimens
    sentences = []
    if record.n_images:
        text = (
            f"The model was made from {counted(record.n_images, 'normal image')} of "
            f"{counted(len(record.all_specimens), 'independent specimen')}"
        )
        if record.n_tiles:
            side = model.config.tile
            text += f", and trained on {counted(record.n_tiles, 'tile')} of {side} × {side} pixels"
        if record.is_divided_by_place:
            text += f"; {counted(record.n_holdout_tiles, 'tile')} of the same specimen were held out of training"
        elif held_out:
            text += f"; {counted(len(held_out), 'specimen')} of them ({counted(record.n_holdout_tiles, 'tile')})"
            text += f" {'was' if len(held_out) == 1 else 'were'} held out of training"
            if record.folds:
                text += (
                    f", and each of all specimens was held out in turn, in {len(record.folds)} groups, to count false "
                    f"alarms on it with a network that had not seen it (cross-validation)"
                )
        else:
            text += "; nothing was held out of training"
        sentences.append(text + ".")
    if record.resumed_from is not None and record.resumed_from.is_same:
        sentences.append(f"Training was interrupted after step {record.resumed_from.n_steps}, and then resumed.")
    earlier = record.began_with
    if earlier is not None:
        sentences.append(
            f"Training was resumed from a model of {str(earlier.date)[:10]} that had been trained for "
            f"{counted(earlier.n_steps, 'step')}."
        )
    size, unit = record.pixel_size, record.unit
    if size and unit:
        pixel = f"{size[0]:g}" if size[0] == size[1] else f"{size[0]:g} × {size[1]:g}"
        is_mixed = record.pixel_size_range != (1.0, 1.0)
        subject = "Images of other pixel sizes were resampled; a pixel was" if is_mixed else "A pixel was"
        sentences.append(f"{subject} {pixel} {_micro(unit)}.")
    if model.history:
        last = int(model.history[-1]["step"])
        best = max((int(point["step"]) for point in model.history if point.get("is_best")), default=last)
        chosen = "lowest loss on the held-out specimens" if held_out else "lowest loss"
        sentences.append(
            f"The flow was optimised (Adam, learning rate {model.training.learning_rate:g}, "
            f"{counted(model.training.batch_size, 'tile')} a step) for {counted(last, 'step')}; the weights of step "
            f"{best}, with the {chosen}, were kept."
        )
    return sentences


def _detection(planes: Sequence[Detection]) -> list[str]:
    """Describe the detection in the planes of one image."""
    detection, config = planes[0], planes[0].config
    rests = ""
    if config.nfa == "size-conditional":
        is_held_out = detection.guarantee.n_specimens
        source = "specimens held out of training" if is_held_out else "a single specimen or of the training images"
        rests = f", {_CALIBRATIONS[detection.guarantee.kind].format(source=source)}"
    sentences = [
        f"A region was reported as anomalous if its number of false alarms (NFA: the expected number of regions at "
        f"least as significant in a normal {detection.guarantee.counted_on}) was at most {config.false_alarms:g}. The "
        f"NFA was {_METHODS[config.nfa]}{rests}."
    ]
    if len(planes) > 1 and config.n_sharing(len(planes)) == 1:
        sentences.append(f"The {len(planes)} planes were examined one by one.")
    n_marked = sum(plane.n_marked_normal for plane in planes)
    if n_marked:
        sentences.append(
            f"{counted(n_marked, 'reported region')} {'was' if n_marked == 1 else 'were'} judged normal by eye and "
            f"excluded."
        )
    guarantees = Counter(plane.guarantee for plane in planes)
    texts = [
        guarantee.details() + (f" ({counted(n, 'plane')})" if len(guarantees) > 1 else "")
        for guarantee, n in guarantees.items()
    ]
    return [*sentences, f"Reliability of this threshold: {'; '.join(texts)}."]


def _micro(unit: str) -> str:
    return "µm" if unit == "um" else unit
