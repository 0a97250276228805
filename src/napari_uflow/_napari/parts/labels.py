"""Labels of the parameters: what the window calls them, in forms and in messages."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["LABELS", "label_of", "with_labels"]

LABELS: Mapping[str, str] = {
    "affine_clamp": "Affine clamp",
    "affine_subnet_channels_ratio": "Subnet channel ratio",
    "as_published": "As published",
    "augmentations": "Augmentations per tile",
    "backbone": "Backbone",
    "batch_size": "Batch size",
    "binomial_probability_thr": "Binomial probability threshold",
    "border": "Border handling",
    "cache_memory": "Memory for features",
    "calibration": "Calibration",
    "check_every": "Steps between checks",
    "condition": "Condition",
    "condition_pattern": "Condition pattern",
    "contrast": "Contrast for the backbone",
    "evidence": "Evidence",
    "false_alarms": "Accepted false alarms",
    "false_alarms_per": "False alarms per",
    "feature_norm": "Feature normalisation",
    "final_learning_rate": "Final learning rate ratio",
    "flow_steps": "Flow steps per level",
    "gradient_clip": "Gradient clipping",
    "guarantee": "Guarantee counted on",
    "halo": "Flow context",
    "heatmap": "Heatmap values",
    "high_precision": "Continuous binomial tail",
    "holdout": "Held-out fraction",
    "learning_rate": "Learning rate",
    "levels": "Levels",
    "magnification": "Magnification",
    "max_tiles": "Maximum tiles",
    "memory_size": "Memory size",
    "min_normal": "Minimum normal fraction",
    "nfa": "NFA method",
    "octaves": "Octaves",
    "patience": "Patience (checks)",
    "permute_soft": "Soft permutations",
    "seed": "Random seed",
    "specimen_pattern": "Specimen pattern",
    "steps": "Training steps",
    "tile": "Tile size",
    "weight_decay": "Weight decay",
    "window_size": "Binomial window",
}
"""Name of a parameter -> its label."""

# Only names with an underscore cannot be words of a sentence.
_NAMES = re.compile(rf"\b({'|'.join(sorted((name for name in LABELS if '_' in name), key=len, reverse=True))})\b")


def label_of(name: str, unit: str = "") -> str:
    """Return the label of a parameter, with its unit."""
    label = LABELS.get(name) or name.replace("_", " ").capitalize()
    return f"{label} ({unit})" if unit and unit not in label.lower() else label


def with_labels(text: str) -> str:
    """Return a text of the package with the labels of the window in place of the names of parameters."""
    return _NAMES.sub(lambda match: f"'{LABELS[match[0]]}'", text)
