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
        guarantee_holds, caveats, model and version.
    """
    guarantee, origin = detection.guarantee, detection.provenance
    return {
        "source": origin.source,
        "detection": detection.config.to_dict(),
        "n_planes": detection.n_planes,
        "n_held_out_specimens": guarantee.n_specimens,
        "n_marked_normal": detection.n_marked_normal,
        "guarantee": guarantee.text(),
        "guarantee_holds": guarantee.holds,
        "caveats": [caveat.value for caveat in guarantee.caveats],
        "model": {"backbone": origin.backbone, "feature_norm": origin.feature_norm, "trained": origin.trained},
        "version": origin.version,
    }
