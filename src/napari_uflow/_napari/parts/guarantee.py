"""Guarantee of a result in the words of a panel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from napari_uflow._napari.parts.panel import as_sentence
from napari_uflow.detection.guarantee import Guarantee

__all__ = ["in_sentences"]


def in_sentences(guarantees: Sequence[Guarantee]) -> str:
    """Return the guarantee of a result; what excludes the image from it comes first.

    Parameters
    ----------
    guarantees : sequence of Guarantee
        Those of the planes, which differ in their caveats only.
    """
    first, n = guarantees[0], len(guarantees)
    counts = {c: sum(c in of.caveats for of in guarantees) for of in guarantees for c in of.caveats}
    basis = replace(first, caveats=()).text()
    if not counts:
        return as_sentence(basis)
    planes = {c: f" ({counts[c]} of {n} planes)" if n > 1 else "" for c in counts}
    clauses = {c: of.clause(c) for of in guarantees for c in of.caveats}
    reasons = " ".join(f"The {first.subject} {clauses[c]}{planes[c]}." for c in counts)
    return f"⚠ {reasons} For images like the normal ones: {basis}."
