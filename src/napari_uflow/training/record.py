"""The record of a training that ends."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import torch

from napari_uflow import __version__
from napari_uflow.image.region import NormalRegion
from napari_uflow.model.record import EarlierTraining, TrainingOutcome, TrainingRecord
from napari_uflow.model.uflow import TrainedModel
from napari_uflow.training.tiles import Split

__all__ = ["record_of"]

# Names of images that a record keeps.
_MOST_NAMES = 1000


def record_of(
    regions: Sequence[NormalRegion],
    split: Split,
    outcome: TrainingOutcome,
    *,
    backbone_weights: str,
    device: torch.device,
    init_from: TrainedModel | None,
) -> TrainingRecord:
    """Return the record of a training that ends now.

    Parameters
    ----------
    regions : sequence of NormalRegion
        Regions of the training; repetitions count once.
    split : Split
        Tiles of the training.
    outcome : TrainingOutcome
        How it ends.
    backbone_weights : str
        File or package, or name at the model hub, of the backbone's weights.
    device : torch.device
        Device of the training.
    init_from : TrainedModel or None
        Model that it was resumed from.
    """
    distinct = list(dict.fromkeys(regions))
    planes = [region.plane for region in distinct]
    specimens, first_training, resumed_from = split.specimens, None, None
    if init_from is not None:
        specimens |= set(init_from.record.specimens)
        first_training = init_from.record.first_training or init_from.training
        n_steps = int(max((point["step"] for point in init_from.history), default=0))
        resumed_from = EarlierTraining(init_from.record.date, n_steps, init_from.record.resumed_from)
    calibrated = next((plane for plane in planes if plane.pixel_size), None)
    pixel_size, unit = (None, None) if calibrated is None else (calibrated.pixel_size, calibrated.unit)
    if init_from is not None and init_from.record.pixel_size:  # its features are of that size
        pixel_size, unit = init_from.record.pixel_size, init_from.record.unit
    return TrainingRecord(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        outcome=outcome,
        n_images=len(planes),
        image_names=tuple(plane.title for plane in planes[:_MOST_NAMES]),
        specimens=tuple(sorted(specimens)),
        holdout_specimens=tuple(sorted(split.holdout_specimens)),
        n_tiles=len(split.train),
        n_holdout_tiles=len(split.holdout),
        n_marked_normal=sum(region.is_marked_normal for region in distinct),
        pixel_size=pixel_size,
        unit=unit,
        versions=_versions(),
        backbone_weights=backbone_weights,
        device=str(device),
        first_training=first_training,
        resumed_from=resumed_from,
    )


def _versions() -> dict[str, str]:
    return {
        "napari-uflow": __version__,
        "torch": torch.__version__,
        "timm": version("timm"),
        "FrEIA": version("FrEIA"),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
