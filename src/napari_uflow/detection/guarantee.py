"""Meaning of the number of false alarms of a detection: guaranteed, estimated, or nominal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Self

from napari_uflow.config import CalibrationName, NfaMethod
from napari_uflow.nfa.bounds import any_part, most_false, specimens_needed_for_all
from napari_uflow.nfa.conformal import ConformalOffset, counts_images, loss_bound, specimens_needed
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
    """Difference between an image and the normal images, which voids the guarantee; the value is the user's clause."""

    TOO_SMALL = "does not apply here: the image is too small"
    PIXEL_SIZE = "does not apply here: the pixel size differs from that of the normal images"
    BRIGHTNESS = "does not apply here: the brightness differs from that of the normal images"
    CONDITION = "does not apply here: the condition of the image is not one that the model was trained on"
    DISTRIBUTION = "does not apply here: the image as a whole differs from the normal images"
    DRIFT = "does not apply here: recent images are no longer like the held-out ones"


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """Basis and scope of the accepted number of false alarms of a detection.

    Attributes
    ----------
    false_alarms : float
        False alarms accepted per image or stack, above 0.
    n_images : int
        Images that share them: 1 if they are counted per image, the number of planes if per stack.
    n_areas : float
        Calibrated areas in each of these images, which share them too: the area of the image over the mean area of the
        held-out ones, or 1 if it is not larger than each of them.
    area : str
        Calibrated area in words, such as "0.26 mm^2"; "" if it is not known.
    n_specimens : int or None
        Independent specimens held out of training; None for a model without calibration.
    nfa : {"size-conditional", "paper", "binomial"}
        Method that computed the number of false alarms; only the first one is calibrated.
    calibration : {"conformal", "tails", "none"}
        Calibration asked for.
    caveats : tuple of Caveat
        Differences between this image and the normal images.
    any_part : float or None
        Upper bound, with 90 % confidence, of the part of normal images (or stacks) with any false alarm; None if
        nothing is known.
    most_false : int or None
        False alarms that 9 of 10 normal images (or stacks) do not exceed, whatever number is accepted; None if too few
        specimens were held out.
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
    n_areas: float = 1.0
    area: str = ""
    n_specimens: int | None = None
    nfa: NfaMethod = "size-conditional"
    calibration: CalibrationName = "conformal"
    caveats: tuple[Caveat, ...] = ()
    drift_since: str = ""
    any_part: float | None = None
    most_false: int | None = None

    def at(self, false_alarms: float, offset: ConformalOffset) -> Self:
        """Return the guarantee of another accepted number.

        Parameters
        ----------
        false_alarms : float
            False alarms accepted per image or stack, above 0.
        offset : ConformalOffset
            Held-out specimens of the model.
        """
        found = replace(self, false_alarms=false_alarms, any_part=None, most_false=None)
        if found.kind not in (GuaranteeKind.GUARANTEED, GuaranteeKind.EXTRAPOLATED):
            return found
        n_areas = self.n_images * self.n_areas
        part = any_part(offset, false_alarms, n_areas) if found.is_guaranteed else 1.0
        most = most_false(offset, false_alarms, n_areas)
        return replace(found, any_part=part if part < 1 else None, most_false=most)

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
        return self.is_guaranteed and not self.caveats

    @property
    def n_specimens_needed(self) -> int:
        """Held-out specimens required to guarantee the number."""
        return specimens_needed(self._share)

    @property
    def counted_on(self) -> str:
        """Unit that the false alarms are counted per: "image" or "stack of n images"."""
        return "image" if self.n_images == 1 else f"stack of {self.n_images} images"

    @property
    def _unit(self) -> str:
        """Unit that the false alarms are counted per, with its area."""
        return f"{self.counted_on}{self._areas}"

    @property
    def _units(self) -> str:
        return f"{'images' if self.n_images == 1 else f'stacks of {self.n_images} images'}{self._areas}"

    @property
    def _areas(self) -> str:
        each = f" ({self.area} each)" if self.area else ""
        return f" of {self.n_areas:.3g} calibrated areas{each}" if self.n_areas > 1 else ""

    @property
    def _share(self) -> float:
        """False alarms accepted per calibrated area."""
        return self.false_alarms / (self.n_images * self.n_areas)

    def __str__(self) -> str:
        return self.text()

    def text(self) -> str:
        """Return the basis of the number as one sentence without a full stop, after what voids it."""
        if not self.caveats:
            return self._basis()
        reasons = " and ".join(self.clause(caveat).partition(": ")[2] for caveat in self.caveats)
        return f"the {self.subject} does not apply here: {reasons}; for images without this difference: {self._basis()}"

    @property
    def subject(self) -> str:
        """What a caveat voids: the "guarantee", or the "number" that is not guaranteed."""
        return "guarantee" if self.is_guaranteed else "number"

    def clause(self, caveat: Caveat) -> str:
        """Return what a caveat says of this image, as the end of a sentence about the guarantee."""
        if caveat is Caveat.DRIFT and self.drift_since:
            return f"does not apply here: since {self.drift_since}, images are no longer like the held-out ones"
        return caveat.value

    def details(self) -> str:
        """Return :meth:`text` with the confidence of the guarantee and with what voids it, without a full stop."""
        parts = [self.text()]
        if self.is_guaranteed and self.any_part is not None:
            units = "images" if self.n_images == 1 else "stacks"
            parts.append(
                f"with 90 % confidence over the choice of these specimens, at most {100 * self.any_part:.2g} % of such "
                f"{units} contain any"
            )
        parts += [self.at_all_numbers()] * bool(self.at_all_numbers())
        if self.is_guaranteed and self.n_areas == 1 and self.area:
            parts.append(f"counted on {self.area} per image, on average")
        if self.is_guaranteed and not self.caveats:
            parts.append("another kind of specimen, stain, exposure or magnification voids the guarantee")
        return "; ".join(parts)

    def at_all_numbers(self, n_regions: int | None = None) -> str:
        """Return what holds for all numbers at once, which may be chosen after a look at the regions.

        Parameters
        ----------
        n_regions : int, optional
            Reported regions of the image or stack.

        Returns
        -------
        str
            A clause; "" if the number is neither guaranteed nor extrapolated, or the guarantee does not apply.
        """
        if self.caveats or self.kind not in (GuaranteeKind.GUARANTEED, GuaranteeKind.EXTRAPOLATED):
            return ""
        if self.most_false is None:
            needed = specimens_needed_for_all(self.n_images * self.n_areas)
            return (
                f"a number chosen after a look at the regions weakens this: a statement for all numbers at once needs "
                f"{needed} held-out specimens"
            )
        if n_regions:
            most = min(self.most_false, n_regions)
            these = "this region" if n_regions == 1 else f"of these {n_regions} regions"
            if not most:
                found = "this region is no false alarm" if n_regions == 1 else f"none {these} is a false alarm"
            elif n_regions == 1:
                found = "this region may be a false alarm"
            else:
                found = f"{these} at most {most} {'is a false alarm' if most == 1 else 'are false alarms'}"
            return f"{found}, with 90 % confidence, whatever number is chosen"
        most_alarms = f"at most {counted(self.most_false, 'false alarm')}" if self.most_false else "no false alarm"
        unit = "images" if self.n_images == 1 else "stacks"
        return f"9 of 10 normal {unit} have {most_alarms}, even if the number is chosen after a look at the regions"

    def _basis(self) -> str:
        if self.is_guaranteed:
            return self._guaranteed()
        wanted = f"{counted(self.false_alarms, 'false alarm')} per {self._unit}"
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
        if not counts_images(self._share, n_specimens):
            wanted = counted(self.false_alarms, "false alarm")
            place = "an image" if self.n_images == 1 and self.n_areas == 1 else "one of them"
            most = f"{loss_bound(self._share, n_specimens):.3g}"
            return (
                f"on average, at most {wanted} per normal {self._unit} {normal}, where more than {most} in {place} "
                f"count as {most}"
            )
        if self.false_alarms >= 1:  # of a stack or of a large image
            part = "image" if self.n_areas == 1 else "calibrated area"
            parts = counted(self.false_alarms, part)
            return f"on average, at most {parts} per normal {self._unit} {normal} contain a false alarm"
        part = f"{100 * self.false_alarms:.3g} %"
        return f"on average, at most {part} of normal {self._units} {normal} contain a false alarm"
