"""Meaning of the number of false alarms of a detection: guaranteed, estimated, or nominal."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from napari_uflow.config import CalibrationName, NfaMethod
from napari_uflow.nfa.conformal import counts_images, specimens_needed
from napari_uflow.wording import counted

__all__ = ["Caveat", "Guarantee", "GuaranteeKind"]

_NOMINAL = "valid only if the latents of normal images are exactly standard normal"


class GuaranteeKind(Enum):
    """Basis of a number of false alarms, the strongest first."""

    GUARANTEED = "guaranteed"
    """Counted on enough held-out specimens; holds for any distribution of exchangeable specimens."""
    EXTRAPOLATED = "extrapolated"
    """Counted on too few held-out specimens and continued with the tails fitted to them."""
    TAILS = "tails"
    """Computed from the tails fitted to the held-out specimens."""
    NOMINAL = "nominal"
    """Computed for standard normal latents; not calibrated."""


class Caveat(Enum):
    """Difference between an image and the normal images; the value is the clause for the user."""

    TOO_SMALL = "does not apply here: the image is too small"
    PIXEL_SIZE = "does not apply here: the pixel size differs from that of the normal images"
    BRIGHTNESS = "does not apply here: the brightness differs from that of the normal images"
    DISTRIBUTION = "does not apply here: the image as a whole differs from the normal images"
    DRIFT = "does not apply: recent images are no longer like the held-out ones"
    LARGER = "extended by theory to an image much larger than the held-out ones"

    @property
    def is_voiding(self) -> bool:
        """True if a guarantee does not hold with it."""
        return self is not Caveat.LARGER


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """Basis and scope of the accepted number of false alarms of a detection.

    Attributes
    ----------
    false_alarms : float
        False alarms accepted per image or stack, above 0.
    n_images : int
        Images that share them: 1 if they are counted per image, the number of planes if per stack.
    n_specimens : int or None
        Independent specimens held out of training; None for a model without calibration.
    nfa : {"size-conditional", "paper", "binomial"}
        Method that computed the number of false alarms; only the first one is calibrated.
    calibration : {"conformal", "tails", "none"}
        Calibration asked for.
    caveats : tuple of Caveat
        Differences between this image and the normal images.
    drift_since : str
        Image, with its date, since which images are no longer like the held-out ones; "" if it is not known.

    Examples
    --------
    >>> Guarantee(false_alarms=0.1, n_specimens=20).text()
    'on average, at most 10 % of normal images like the 20 held-out specimens contain a false alarm'
    >>> Guarantee(false_alarms=0.1, n_specimens=6).kind
    <GuaranteeKind.EXTRAPOLATED: 'extrapolated'>
    """

    false_alarms: float
    n_images: int = 1
    n_specimens: int | None = None
    nfa: NfaMethod = "size-conditional"
    calibration: CalibrationName = "conformal"
    caveats: tuple[Caveat, ...] = ()
    drift_since: str = ""

    @property
    def kind(self) -> GuaranteeKind:
        """Basis of the number."""
        if self.nfa != "size-conditional" or self.calibration == "none" or self.n_specimens is None:
            return GuaranteeKind.NOMINAL
        if self.calibration == "tails":
            return GuaranteeKind.TAILS
        is_enough = self.n_specimens >= self.n_specimens_needed
        return GuaranteeKind.GUARANTEED if is_enough else GuaranteeKind.EXTRAPOLATED

    @property
    def is_guaranteed(self) -> bool:
        """True if enough specimens were held out to guarantee the number for images like them."""
        return self.kind is GuaranteeKind.GUARANTEED

    @property
    def holds(self) -> bool:
        """True if the number is guaranteed and no caveat excludes this image."""
        return self.is_guaranteed and not any(caveat.is_voiding for caveat in self.caveats)

    @property
    def n_specimens_needed(self) -> int:
        """Held-out specimens required to guarantee the number."""
        return specimens_needed(self.false_alarms / self.n_images)

    @property
    def counted_on(self) -> str:
        """Unit that the false alarms are counted per: "image" or "stack of n images"."""
        return "image" if self.n_images == 1 else f"stack of {self.n_images} images"

    def __str__(self) -> str:
        return self.text()

    def text(self) -> str:
        """Return the guarantee and its caveats as one sentence without a full stop."""
        return "; ".join([self._basis(), *(self._clause(caveat) for caveat in self.caveats)])

    def _clause(self, caveat: Caveat) -> str:
        if caveat is Caveat.DRIFT and self.drift_since:
            return f"does not apply: since {self.drift_since}, images are no longer like the held-out ones"
        return caveat.value

    def _basis(self) -> str:
        if self.is_guaranteed:
            return self._guaranteed()
        wanted = f"{counted(self.false_alarms, 'false alarm')} per {self.counted_on}"
        if self.kind is GuaranteeKind.NOMINAL:
            method = "" if self.nfa == "size-conditional" else f"method '{self.nfa}' is "
            return f"{wanted}: {method}not calibrated, {_NOMINAL}"
        specimens = counted(self.n_specimens or 0, "held-out specimen")
        source = specimens if self.n_specimens else "a single specimen or the training images"
        if self.kind is GuaranteeKind.TAILS:
            return f"{wanted}: estimated from the tails fitted to {source}"
        return f"{wanted}: extrapolated from {source}; a guarantee needs {self.n_specimens_needed} held-out specimens"

    def _guaranteed(self) -> str:
        n_specimens = self.n_specimens or 0
        normal = f"like the {counted(n_specimens, 'held-out specimen')}"
        if not counts_images(self.false_alarms / self.n_images, n_specimens):
            wanted = counted(self.false_alarms, "false alarm")
            return f"on average, at most {wanted} per normal {self.counted_on} {normal}"
        if self.false_alarms >= 1:  # of a stack
            images = counted(self.false_alarms, "image")
            return f"on average, at most {images} per normal {self.counted_on} {normal} contain a false alarm"
        units = "images" if self.n_images == 1 else f"stacks of {self.n_images} images"
        return f"on average, at most {100 * self.false_alarms:.3g} % of normal {units} {normal} contain a false alarm"
