"""Description of a detection as plain values, for the metadata of files and layers."""

from __future__ import annotations

from typing import Any

from napari_uflow.detection.result import Detection

__all__ = ["description_of"]


def description_of(detection: Detection) -> dict[str, Any]:
    """Return file, model, parameters and guarantee of a detection as plain values for JSON.

    Parameters
    ----------
    detection : Detection
        The detection to describe.

    Returns
    -------
    dict
        Entries source, detection (parameters), n_planes, n_held_out_specimens, n_marked_normal, guarantee (a sentence),
        guarantee_holds, calibrated_areas (in the image), any_false_alarm_at_most (part of normal images, with 90 %
        confidence), false_alarms_at_most (in 9 of 10 normal images), caveats, model and version.
    """
    guarantee, origin = detection.guarantee, detection.provenance
    return {
        "source": origin.source,
        "detection": detection.config.to_dict(),
        "n_planes": detection.n_planes,
        "n_held_out_specimens": guarantee.n_specimens,
        "n_marked_normal": detection.n_marked_normal,
        "guarantee": guarantee.details(),
        "guarantee_holds": guarantee.holds,
        "calibrated_areas": guarantee.n_areas,
        "any_false_alarm_at_most": guarantee.any_part,
        "false_alarms_at_most": guarantee.most_false,
        "caveats": [caveat.value for caveat in guarantee.caveats],
        "model": {"backbone": origin.backbone, "feature_norm": origin.feature_norm, "trained": origin.trained},
        "version": origin.version,
    }
