"""Results of a batch: per plane, per file, and the summary."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_uflow.detection.guarantee import Caveat, Guarantee
from napari_uflow.detection.result import Detection
from napari_uflow.errors import ConfigError, UFlowError
from napari_uflow.evaluation.confirm import confirm_next
from napari_uflow.evaluation.overview import OverviewRow
from napari_uflow.store.files import stem_of
from napari_uflow.system.devices import is_out_of_memory
from napari_uflow.wording import printable, without_name

if TYPE_CHECKING:
    from napari_uflow.model.uflow import TrainedModel

__all__ = [
    "BatchSummary",
    "FileResult",
    "PlaneResult",
    "may_pass",
    "reason_of",
    "summary_of",
    "summary_row",
    "warnings_of",
    "with_next_step",
]

# A full disk, too many open files, and a drive that is away.
_PASSING = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "ENOMEM", "EMFILE", "ENFILE", "EIO", "EBUSY", "ESTALE", "ETIMEDOUT", "EHOSTDOWN")
    if hasattr(errno, name)
}

_NO_MEMORY = "not enough memory: choose a smaller tile, or close other programs"


@dataclass(frozen=True, kw_only=True)
class BatchSummary:
    """Summary of a batch.

    Attributes
    ----------
    done : tuple of Path
        Processed files.
    failed : tuple of (Path, str)
        Failed files, each with the reason.
    n_regions : int
        Anomalous regions in all files.
    n_regions_by_file : tuple of int
        Anomalous regions in each file of `done`.
    n_anomalous_planes, n_planes : int
        Planes with at least one region, and planes in all.
    was_stopped : bool
        True if the user stopped the batch.
    guarantees : tuple of Guarantee
        Distinct guarantees of the planes; stacks of different sizes differ if the planes share the false alarms.
    left_out : tuple of Path
        Files that were not processed because the batch was stopped.
    warnings : tuple of (Path, str)
        Processed files to whose results the guarantee does not apply, or that have another fault, each with the reason.
    to_repeat : tuple of Path
        Failed files whose reason may pass; a batch that resumes this one processes them again.
    n_planes_by_file : tuple of int
        Planes of each file of `done`.
    n_unjudged_by_file : tuple of int
        Those of them that could not be judged: not measured, or excluded from the guarantee.
    to_confirm : str
        Which images to confirm as normal, so that the number of false alarms can be guaranteed; "" if it is.
    """

    done: tuple[Path, ...]
    failed: tuple[tuple[Path, str], ...]
    n_regions: int
    n_regions_by_file: tuple[int, ...]
    n_anomalous_planes: int
    n_planes: int
    was_stopped: bool
    guarantees: tuple[Guarantee, ...]
    left_out: tuple[Path, ...] = ()
    warnings: tuple[tuple[Path, str], ...] = ()
    to_repeat: tuple[Path, ...] = ()
    n_planes_by_file: tuple[int, ...] = ()
    n_unjudged_by_file: tuple[int, ...] = ()
    to_confirm: str = ""


@dataclass(frozen=True, kw_only=True)
class PlaneResult:
    """Result of one plane without its maps.

    Attributes
    ----------
    name : str
        Name of the plane.
    n_regions : int
        Anomalous regions.
    lowest_log10_nfa : float
        log10 NFA of the most anomalous region.
    guarantee : Guarantee
        Basis of the number of false alarms.
    is_measured : bool
        False if no pixel could be measured.
    is_judged : bool
        False if no pixel could be measured, or a caveat excludes the plane from the guarantee.
    """

    name: str
    n_regions: int
    lowest_log10_nfa: float
    guarantee: Guarantee
    is_measured: bool = True
    is_judged: bool = True

    @classmethod
    def of(cls, found: Detection) -> PlaneResult:
        """Return the result of a detection."""
        return cls(
            name=found.name,
            n_regions=len(found.regions),
            lowest_log10_nfa=found.lowest_log10_nfa,
            guarantee=found.guarantee,
            is_measured=found.is_measured,
            is_judged=found.is_judged,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class FileResult:
    """Result of one file, small enough to be sent from another machine.

    Attributes
    ----------
    path : Path
        File.
    planes : tuple of PlaneResult
        One per plane; empty for a failed file.
    regions : str
        Lines of the table of regions.
    rows : tuple of (float, OverviewRow)
        Lowest log10 NFA and overview row of the most anomalous planes.
    warnings : tuple of str
        What limits the results.
    reason : str
        Cause of the failure; "" for a processed file.
    may_pass : bool
        True if the cause may pass, such as a full disk, see :func:`may_pass`.
    """

    path: Path
    planes: tuple[PlaneResult, ...] = ()
    regions: str = ""
    rows: tuple[tuple[float, OverviewRow], ...] = ()
    warnings: tuple[str, ...] = ()
    reason: str = ""
    may_pass: bool = False

    @property
    def n_regions(self) -> int:
        """Anomalous regions of all planes."""
        return sum(plane.n_regions for plane in self.planes)

    @property
    def n_anomalous_planes(self) -> int:
        """Planes with at least one region."""
        return sum(plane.n_regions > 0 for plane in self.planes)

    def to_dict(self) -> dict[str, Any]:
        """Return the result of a processed file as plain values for JSON, without its overview rows."""
        planes = [{**asdict(plane), "guarantee": _plain(plane.guarantee)} for plane in self.planes]
        return {
            "path": str(self.path),
            "planes": planes,
            "regions": self.regions,
            "warnings": list(self.warnings),
            "reason": self.reason,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FileResult:
        """Return the result that :meth:`to_dict` described; KeyError, TypeError or ValueError if it did not."""
        planes = [PlaneResult(**{**plane, "guarantee": _guarantee(plane["guarantee"])}) for plane in values["planes"]]
        return cls(
            path=Path(values["path"]),
            planes=tuple(planes),
            regions=str(values["regions"]),
            warnings=tuple(values["warnings"]),
            reason=str(values["reason"]),
        )


def _plain(guarantee: Guarantee) -> dict[str, Any]:
    return {**asdict(guarantee), "caveats": [caveat.name for caveat in guarantee.caveats]}


def _guarantee(values: Mapping[str, Any]) -> Guarantee:
    return Guarantee(**{**values, "caveats": tuple(Caveat[name] for name in values["caveats"])})


def warnings_of(planes: Sequence[PlaneResult]) -> list[str]:
    """Return what limits the results of the planes of a file, each once with the number of planes."""
    of_planes = [
        [f"the guarantee {caveat.value}" for caveat in plane.guarantee.caveats]
        + ["no pixel could be measured"] * (not plane.is_measured)
        for plane in planes
    ]
    texts = dict.fromkeys(text for found in of_planes for text in found)
    counts = {text: sum(text in found for found in of_planes) for text in texts}
    return [text if len(planes) == 1 else f"{text} ({n} of {len(planes)} planes)" for text, n in counts.items()]


def reason_of(error: Exception, path: Path) -> str:
    """Return why a file failed as a sentence that says what to do, whatever was raised.

    Parameters
    ----------
    error : Exception
        Any error.
    path : Path
        The file.
    """
    if isinstance(error, UFlowError):
        return str(error)
    if is_out_of_memory(error):
        return _NO_MEMORY
    if isinstance(error, OSError):
        return f"'{path}' cannot be processed ({error.strerror or error}); check the drive, and process it again"
    first = without_name((str(error).splitlines() or [""])[0][:200], str(path))
    return (
        f"'{path}' cannot be processed ({type(error).__name__}: {first}); the file may be damaged: save it again with "
        "another program, or report this"
    )


def may_pass(error: BaseException | None) -> bool:
    """Return True if a file that failed may succeed when it is processed again, without a change of it.

    Reasons are a full disk, memory or descriptors that other programs take, and a drive that is away.

    Parameters
    ----------
    error : Exception or None
        What was raised; the errors that it was raised from count, too.
    """
    if error is None:
        return False
    is_passing = isinstance(error, OSError) and error.errno in _PASSING
    return is_passing or is_out_of_memory(error) or may_pass(error.__cause__)


def summary_row(result: FileResult) -> tuple[Any, ...]:
    """Return the row of a file in the summary."""
    if result.reason:
        return (result.path.name, "failed", "", "", "", "", "", result.reason)
    return (
        result.path.name,
        "done",
        len(result.planes),
        result.n_anomalous_planes,
        result.n_regions,
        f"{min(plane.lowest_log10_nfa for plane in result.planes):.6g}",
        "; ".join(result.warnings),
        "",
    )


def summary_of(results: Iterable[FileResult], left_out: Sequence[Path], *, was_stopped: bool) -> BatchSummary:
    """Return the summary of the results of files, in their order."""
    of_files = list(results)
    done = [result for result in of_files if not result.reason]
    planes = [plane for result in done for plane in result.planes]
    return BatchSummary(
        done=tuple(result.path for result in done),
        failed=tuple((result.path, printable(result.reason)) for result in of_files if result.reason),
        n_regions=sum(result.n_regions for result in done),
        n_regions_by_file=tuple(result.n_regions for result in done),
        n_anomalous_planes=sum(result.n_anomalous_planes for result in done),
        n_planes=len(planes),
        was_stopped=was_stopped,
        guarantees=tuple(dict.fromkeys(plane.guarantee for plane in planes)),
        left_out=tuple(left_out),
        warnings=tuple((result.path, "; ".join(result.warnings)) for result in done if result.warnings),
        to_repeat=tuple(result.path for result in of_files if result.may_pass),
        n_planes_by_file=tuple(len(result.planes) for result in done),
        n_unjudged_by_file=tuple(sum(not plane.is_judged for plane in result.planes) for result in done),
    )


def with_next_step(summary: BatchSummary, model: TrainedModel) -> BatchSummary:
    """Return the summary of a batch with the images to confirm as normal, if its number is not guaranteed."""
    images = [(stem_of(path), str(path)) for path in summary.done]
    with suppress(ConfigError):  # a pattern of specimens that takes too long is not worth the summary
        plans = (confirm_next(model, guarantee, images) for guarantee in summary.guarantees)
        return replace(summary, to_confirm=next((plan.text() for plan in plans if plan is not None), ""))
    return summary
