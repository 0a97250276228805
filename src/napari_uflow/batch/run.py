"""Output folder of a batch while it runs: locked, marked as unfinished, with tables of the files finished so far."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from napari_uflow.batch.journal import Journal
from napari_uflow.batch.mark import UNFINISHED
from napari_uflow.batch.output import map_paths, overview_row_of_files
from napari_uflow.batch.results import BatchSummary, FileResult, summary_of, summary_row
from napari_uflow.config import DetectionConfig
from napari_uflow.errors import ConfigError, UFlowError
from napari_uflow.evaluation.figures import save_figure
from napari_uflow.evaluation.overview import OverviewRow, overview
from napari_uflow.progress import Message, Steps
from napari_uflow.store.files import append_text, stem_of
from napari_uflow.store.provenance import check_replaceable, identities, is_own, without_results
from napari_uflow.store.table import REGION_COLUMNS, SUMMARY_COLUMNS, lines_of, write_table
from napari_uflow.wording import counted

__all__ = ["N_OVERVIEW", "BatchRun", "images_of", "locked"]

N_OVERVIEW = 8
"""Planes of the overview figure: those with the lowest NFA."""

_SUMMARY, _REGIONS, _OVERVIEW = "summary.csv", "regions.csv", "overview.png"
_LOCK = ".napari-uflow.lock"
# Of file systems without locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
# The summary is written again after this many times the time that writing it took, and after this many seconds at most.
_SHARE, _LONGEST_LAG = 20, 10.0


def images_of(paths: Sequence[str | Path], folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the images to process, each file once, and the results of this program among them.

    Raises
    ------
    ConfigError
        If two images would write to the same names in the output folder, the folder is part of an image, or all files
        are results.
    """
    given, results = without_results([Path(path) for path in paths])
    images: dict[str, Path] = {}
    for path in given:
        other = images.setdefault(stem_of(path), path)
        if other is not path and not identities([other]) & identities([path]):
            raise _same_output(other, path)
    if identities(images.values()) & identities([folder.absolute(), *folder.resolve().parents]):
        raise ConfigError(f"the folder '{folder}' is part of an image; choose another output folder")
    return list(images.values()), results


def _same_output(path: Path, other: Path) -> ConfigError:
    return ConfigError(f"'{path}' and '{other}' have the same output files; process one folder at a time")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other batches out of a folder; the system lets go of it if this process dies.

    Raises
    ------
    UFlowError
        If another batch uses the folder, or it cannot be written to.
    """
    lock = FileLock(folder / _LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise UFlowError(
            f"the folder '{folder}' is in use by another run; wait until it ends, or choose another output folder"
        ) from error
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise UFlowError(
                f"cannot write to the folder '{folder}' ({error.strerror or error}); choose another output folder"
            ) from error
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):  # Windows does not remove an open file
            (folder / _LOCK).unlink()
        lock.release()


class BatchRun:
    """Files of a batch with their results so far, and what is written of them.

    Parameters
    ----------
    folder : Path
        Output folder, locked.
    paths : sequence of Path
        Images.
    task : mapping
        What is computed, from :func:`~napari_uflow.batch.journal.task_of`.
    config : DetectionConfig
        Parameters of the detection.
    read_options : mapping
        Channels, axes and series of the images.
    resume : bool
        Continue an unfinished batch of the folder.
    overwrite : bool
        Replace files of other origins.

    Attributes
    ----------
    order : list of Path
        Images, and those that the continued batch had finished before.
    refused : dict of Path to str
        Images whose results cannot be written, with the reason.

    Raises
    ------
    ConfigError
        If a table would replace a file of another origin, or the unfinished batch computed something else.
    UFlowError
        If the folder cannot be written to.
    """

    def __init__(
        self,
        folder: Path,
        paths: Sequence[Path],
        task: Mapping[str, Any],
        config: DetectionConfig,
        read_options: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self._folder, self._config, self._read_options = folder, config, read_options
        self._journal = Journal(folder)
        self._results: dict[Path, FileResult] = {}
        self._rows: list[tuple[float, OverviewRow]] = []
        self._next_summary = 0.0
        self._has_all_regions = False  # of the finished files, in the table on the disk
        self._messages: list[Message] = []
        self._check(paths, overwrite=overwrite)
        before = self._unfinished(task, paths) if resume else self._given_up()
        resumed = {result.path for result in before}
        self.order = [*(path for path in resumed if path not in set(paths)), *paths]
        self.refused = self._refused([path for path in paths if path not in resumed], overwrite=overwrite)
        self._resumed = resumed
        self._journal.begin(task, before)
        self._results.update((result.path, result) for result in before)
        self._remove_earlier()
        self._write_regions()
        self._write_summary("the run is not finished")

    def _check(self, paths: Sequence[Path], *, overwrite: bool) -> None:
        self._inputs = identities(paths)
        if (self._folder / _LOCK.upper()).exists():  # a file system without capital letters
            seen: dict[str, Path] = {}
            for path in paths:
                other = seen.setdefault(stem_of(path).casefold(), path)
                if other is not path:
                    raise _same_output(other, path)
        for name in (_SUMMARY, _REGIONS, _OVERVIEW, UNFINISHED):
            check_replaceable(self._folder / name, self._inputs, overwrite=overwrite)

    def _refused(self, paths: Sequence[Path], *, overwrite: bool) -> dict[Path, str]:
        refused = {}
        for path in paths:
            try:
                for place in map_paths(self._folder, stem_of(path)).values():
                    check_replaceable(place, self._inputs, overwrite=overwrite)
            except UFlowError as error:
                refused[path] = str(error)
        return refused

    def _unfinished(self, task: Mapping[str, Any], paths: Sequence[Path]) -> list[FileResult]:
        """Return the results of the unfinished batch whose maps are there, under the paths of this one."""
        found_task, results = self._journal.read()
        if found_task is None:
            self._messages.append(Message(f"no unfinished run in '{self._folder}': beginning with the first image"))
            return []
        if found_task != dict(task):
            raise ConfigError(
                f"the unfinished run in '{self._folder}' has another model, other parameters or another version of the "
                "program; repeat it with the same ones, or begin a new run"
            )
        given = {identity: path for path in paths for identity in identities([path])}
        kept = [
            replace(result, path=next((given[i] for i in identities([result.path]) if i in given), result.path))
            for result in results
            if all(place.is_file() for place in map_paths(self._folder, stem_of(result.path)).values())
        ]
        self._messages.append(Message(f"resuming: {counted(len(kept), 'image')} finished before"))
        return kept

    def _given_up(self) -> list[FileResult]:
        """Say that an unfinished batch of the folder is not continued."""
        _, results = self._journal.read()
        if results:
            text = (
                f"an unfinished run in '{self._folder}' had finished {counted(len(results), 'image')}; this run begins "
                f"anew (--resume continues one)"
            )
            self._messages.append(Message(text, warning=True))
        return []

    def _remove_earlier(self) -> None:
        """Remove the figure and the maps of an earlier batch: what is in the tables belongs to the maps beside them."""
        paths = [path for path in self.order if path not in self._resumed and path not in self.refused]
        own = [place for path in paths for place in map_paths(self._folder, stem_of(path)).values()]
        own += [self._folder / name for name in (_OVERVIEW, _REGIONS)]
        for place in own:
            if place.is_file() and is_own(place):
                with suppress(OSError):  # held open by another program: writing says so
                    place.unlink()
        stems = {stem_of(path) for path in self.order}
        end = "_labels.tif"
        others = sum(place.name.removesuffix(end) not in stems for place in self._folder.glob(f"*{end}"))
        if others:
            text = f"'{self._folder}' has results of {counted(others, 'other image')}; the tables are of this run only"
            self._messages.append(Message(text, warning=True))

    def is_finished(self, path: Path) -> bool:
        """Return True if a file has a result."""
        return path in self._results

    def begin(self) -> Steps[None]:
        """Say what was found in the folder, and add the results of the files that are refused."""
        while self._messages:
            yield self._messages.pop(0)
        for path, reason in self.refused.items():
            yield from self.add(FileResult(path=path, reason=reason))

    def add(self, result: FileResult) -> Steps[None]:
        """Add the result of a file to the tables; the summary follows some seconds later if it takes long to write."""
        self._rows = _most_anomalous([*self._rows, *result.rows])
        result = replace(result, rows=())
        self._results[result.path] = result
        if result.reason:
            yield Message(result.reason, warning=True, source=result.path)
        try:
            if not result.reason:
                was_complete, self._has_all_regions = self._has_all_regions, False  # until these are in the table
                self._journal.append(result)
                self._add_regions(result, is_complete=was_complete)
            start = time.monotonic()
            if start >= self._next_summary:
                self._write_summary("the run is not finished")
                end = time.monotonic()
                self._next_summary = end + min(_SHARE * (end - start), _LONGEST_LAG)
        except UFlowError as error:  # such as a full disk: the others go on
            yield Message(f"the tables could not be written yet: {error}", warning=True)

    def finish(self, *, was_stopped: bool) -> Steps[BatchSummary]:
        """Write tables and overview, and remove the mark of an unfinished batch unless files are left to do.

        Left are those that were not processed, and those that failed for a reason that may pass.

        Raises
        ------
        UFlowError
            If the tables cannot be written.
        """
        self._write_regions()  # first, so that the summary lists no file without its regions
        self._write_summary("the batch was stopped")
        results = [self._results[path] for path in self.order if path in self._results]
        left_out = [path for path in self.order if path not in self._results]
        if any(not result.reason for result in results):
            try:
                self._write_overview()
            except Exception as error:  # a figure is not worth the tables: a full disk, a font, an odd name
                first = (str(error).splitlines() or [type(error).__name__])[0][:200]
                yield Message(
                    f"'{_OVERVIEW}' could not be drawn ({first}); all other results are written", warning=True
                )
        if not left_out and not any(result.may_pass for result in results):
            self._journal.end()
        return summary_of(results, left_out, was_stopped=was_stopped)

    def _add_regions(self, result: FileResult, *, is_complete: bool) -> None:
        """Add the regions of a file to their table; write it anew if regions of an earlier file are missing in it."""
        if is_complete:
            append_text(self._folder / _REGIONS, result.regions)
            self._has_all_regions = True
        else:
            self._write_regions()

    def _write_regions(self) -> None:
        """Write the table of the regions, in the order of the files."""
        done = [result for path in self.order if (result := self._results.get(path)) and not result.reason]
        if done:
            write_table(self._folder / _REGIONS, REGION_COLUMNS, (result.regions for result in done))
            self._has_all_regions = True

    def _write_summary(self, reason_of_rest: str) -> None:
        results = [self._results.get(path) for path in self.order]
        rows = [
            (path.name, "not processed", "", "", "", "", "", reason_of_rest) if result is None else summary_row(result)
            for path, result in zip(self.order, results, strict=True)
        ]
        write_table(self._folder / _SUMMARY, SUMMARY_COLUMNS, [lines_of(rows)])

    def _write_overview(self) -> None:
        """Draw the most anomalous planes; those of files that were finished before are read again."""
        candidates: list[tuple[float, Callable[[], OverviewRow]]] = [
            (lowest, partial(_same, row)) for lowest, row in self._rows
        ]
        for path in self._resumed:
            for i, plane in enumerate(self._results[path].planes):
                row = partial(overview_row_of_files, self._folder, path, i, plane, **self._read_options)
                candidates.append((plane.lowest_log10_nfa, row))
        rows = []
        for _, make_row in _most_anomalous(candidates):
            with suppress(UFlowError):  # the file is gone meanwhile
                rows.append(make_row())
        if rows:
            limits = self._config.heatmap_limits
            figure = overview(rows, score_limits=limits, title="Most anomalous images first")
            save_figure(figure, self._folder / _OVERVIEW)


def _same(row: OverviewRow) -> OverviewRow:
    return row


def _most_anomalous(rows: list[tuple[float, Any]]) -> list[tuple[float, Any]]:
    return sorted(rows, key=lambda row: row[0])[:N_OVERVIEW]
