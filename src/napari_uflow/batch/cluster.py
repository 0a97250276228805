"""Detection in many files on a running cluster of dask.distributed."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any

from napari_uflow.batch.files import PHASE, detect_file_steps, results_left_out
from napari_uflow.batch.journal import task_of
from napari_uflow.batch.results import BatchSummary, FileResult, may_pass, with_next_step
from napari_uflow.batch.run import BatchRun, images_of, locked
from napari_uflow.config import DetectionConfig
from napari_uflow.errors import UFlowError
from napari_uflow.evaluation.drift import DriftWatch
from napari_uflow.model.uflow import TrainedModel
from napari_uflow.progress import FINISH, Message, Progress, Steps, drain, or_stop
from napari_uflow.store.files import made_folder
from napari_uflow.system.devices import choose_device
from napari_uflow.wording import counted

__all__ = ["detect_on_cluster_steps"]

_SECONDS_TO_CONNECT = 20
# Between two checks of the finished files, at which the job may be stopped.
_SECONDS_BETWEEN = 0.3
_SECONDS_WITHOUT_WORKERS = 60
# For a result that is already on a worker.
_SECONDS_TO_FETCH = 5
# Raised for no answer (OSError, and TimeoutError, which is one), for a malformed address, and for an answer of others.
_NO_ANSWER = (OSError, ValueError, TypeError, LookupError, AttributeError, MemoryError, OverflowError)
_KILLED_WORKERS = "every worker that processed this image died; it may need more memory than a worker has"
_NO_WORKER = "no worker of the cluster was left"
_NO_SCHEDULER = "the scheduler of the cluster was lost"


class _Lost(Enum):
    """Reason why a task has no result."""

    WITH_WORKER = "the worker was lost with the result; the task is run again"
    KILLED_WORKERS = "the task was lost with its worker too often"


def detect_on_cluster_steps(
    model: TrainedModel,
    paths: Sequence[Path],
    output: str | Path,
    config: DetectionConfig,
    scheduler: str,
    *,
    channels: Sequence[int | str] | None = None,
    axes: str | None = None,
    series: int | str | None = None,
    device: str = "auto",
    weights: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    model_path: str | Path | None = None,
) -> Steps[BatchSummary]:
    """Detect in files as :func:`~napari_uflow.batch.files.detect_files_steps` does, on the machines of a cluster.

    The machines must see the files and the output folder under the same names, and have this version of napari-uflow.
    An image whose worker is lost is given to another one; it fails when that has happened more often than the cluster's
    setting ``distributed.scheduler.allowed-failures`` (three times by default). The other images are not affected. If
    several images fail in this way, perhaps because one of them killed the workers of all, each is tried again alone.

    Parameters
    ----------
    model, paths, output, config, channels, axes, series, device, weights, resume, overwrite, model_path
        As in :func:`~napari_uflow.batch.files.detect_files_steps`; the device is that of each worker.
    scheduler : str
        Address of the scheduler, such as "tcp://10.0.0.5:8786".

    Yields
    ------
    Message or Progress
        The answer FINISH cancels the files that have not begun; finished files are kept.

    Returns
    -------
    BatchSummary
        Files that were not finished fail if all workers are gone for a minute or the scheduler is lost.

    Raises
    ------
    UFlowError
        If the package distributed is missing, or the scheduler cannot be reached.
        Otherwise as in :func:`~napari_uflow.batch.files.detect_files_steps`.
    """
    distributed = _distributed()
    # Workers may have another working directory.
    folder = Path(output).absolute()
    files, results = images_of([Path(path).absolute() for path in paths], folder)
    options = {"channels": channels, "axes": axes, "series": series}
    with made_folder(folder), locked(folder):
        yield from or_stop(Message(f"Connecting to {scheduler}"))
        with _connect(distributed, scheduler) as client:
            n_workers = len(client.scheduler_info(n_workers=-1)["workers"])
            wait = "" if n_workers else f": waiting for one, {_SECONDS_WITHOUT_WORKERS} s at most"
            yield from or_stop(Message(f"{counted(n_workers, 'worker')} at {scheduler}{wait}"))
            task = task_of(model, config, options)
            run = BatchRun(folder, files, task, config, options, resume=resume, overwrite=overwrite)
            yield from results_left_out(results)
            yield from run.begin()
            left = [path for path in files if not run.is_finished(path)]
            place = None if model_path is None else Path(model_path).absolute()
            arguments = (folder, config, {**options, "device": device, "weights": weights, "model_path": place})
            work = _Work(client, model, arguments, run, len(files))
            suspects = yield from work.detect(left)
            if len(suspects) > 1 and work.is_on:
                # An image that kills its worker fails the images beside it too; alone, only that image fails.
                yield Message(f"{len(suspects)} images lost their workers; each is retried alone", warning=True)
                together, suspects = suspects, []
                for path in together:
                    suspects += yield from work.detect([path])
            for path in suspects:
                yield from work.add(FileResult(path=path, reason=_KILLED_WORKERS, may_pass=True))
            if not work.was_stopped:
                yield Progress(PHASE, len(files), len(files))
        return with_next_step((yield from run.finish(was_stopped=work.was_stopped)), model)


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise UFlowError("a cluster requires the package distributed: pip install napari-uflow[cluster]") from error
    return distributed


def _connect(distributed: Any, scheduler: str) -> Any:
    """Return a client of the cluster.

    The address is tried first, since a client waits for ever for the answer of a server that is no scheduler, such as
    the dashboard of one. The trial has a thread of its own: that of the caller may run an event loop.
    """
    try:
        with ThreadPoolExecutor(1) as executor:
            kind = executor.submit(asyncio.run, _kind_of_server(distributed, scheduler)).result()
        if kind != "Scheduler":
            raise ValueError(f"a {kind}")
        return distributed.Client(scheduler, timeout=_SECONDS_TO_CONNECT, set_as_default=False)
    except _NO_ANSWER as error:
        raise UFlowError(
            f"no scheduler of dask.distributed at '{scheduler}': start one with 'dask scheduler', or check the address "
            f"(tcp://HOST:8786, or the port that the scheduler says; that of its dashboard, 8787, is another)"
        ) from error


async def _kind_of_server(distributed: Any, address: str) -> str:
    """Return what a server of dask.distributed says that it is; OSError if there is no answer."""
    from distributed.core import connect

    arguments = distributed.Security().get_connection_args("client")

    async def ask() -> str:
        comm = await connect(address, timeout=_SECONDS_TO_CONNECT, **arguments)
        try:
            await comm.write({"op": "identity", "reply": True})
            return str((await comm.read())["type"])
        finally:
            comm.abort()

    return await asyncio.wait_for(ask(), _SECONDS_TO_CONNECT)


class _Work:
    """Files of one batch on the cluster."""

    def __init__(
        self, client: Any, model: TrainedModel, arguments: tuple[Any, ...], run: BatchRun, n_files: int
    ) -> None:
        self._client, self._model, self._arguments, self._n_files = client, pickle.dumps(model), arguments, n_files
        self._shared: Any = None
        self._run = run
        self._n_done = 0
        self.was_stopped = self._is_abandoned = False

    @property
    def is_on(self) -> bool:
        """True unless the user stopped the batch or the workers are gone."""
        return not (self.was_stopped or self._is_abandoned)

    def add(self, result: FileResult) -> Steps[None]:
        """Add the result of a file."""
        self._n_done += 1
        yield from self._run.add(result)

    def detect(self, paths: Sequence[Path]) -> Steps[list[Path]]:
        """Detect in files at the same time; return those whose workers died too often."""
        suspects: list[Path] = []
        if self._is_abandoned:
            yield from self._fail(paths, _NO_WORKER)
        waiting = self._submit(paths) if self.is_on else {}
        seconds_alone = 0.0
        while waiting:
            answer = yield Progress(PHASE, self._n_done, self._n_files)
            finished = [future for future in waiting if future.done()]
            for future in finished:
                result = _result_of(future, waiting[future])
                if result is _Lost.WITH_WORKER:
                    continue
                path = waiting.pop(future)
                if isinstance(result, FileResult):
                    yield from self.add(result)
                else:
                    suspects.append(path)
            if answer is FINISH:
                self.was_stopped = True
                self._client.cancel(list(waiting))
                break
            if finished:
                seconds_alone = 0.0
                continue
            self._wait(waiting)
            seconds_alone = 0.0 if self._n_workers() else seconds_alone + _SECONDS_BETWEEN
            if seconds_alone > _SECONDS_WITHOUT_WORKERS:
                yield Message("all workers of the cluster are gone; finished files are kept", warning=True)
                self._is_abandoned = True
                yield from self._fail(waiting.values(), _NO_WORKER)
                break
        return suspects

    def _submit(self, paths: Sequence[Path]) -> dict[Any, Path]:
        if self._shared is None or self._shared.status not in ("pending", "finished"):
            # The model is the result of a task and not scattered: scattered data are lost with their workers. A task
            # that was on too many lost workers is lost, too.
            self._shared = self._client.submit(pickle.loads, self._model, pure=False)
        submit = self._client.submit
        return {submit(_detect_file, self._shared, path, *self._arguments, pure=False): path for path in paths}

    def _fail(self, paths: Iterable[Path], reason: str) -> Steps[None]:
        for path in paths:
            yield from self.add(FileResult(path=path, reason=reason, may_pass=True))

    def _wait(self, waiting: dict[Any, Path]) -> None:
        from distributed import wait

        with self._client.as_current(), suppress(TimeoutError, CancelledError):
            wait(list(waiting), timeout=_SECONDS_BETWEEN, return_when="FIRST_COMPLETED")

    def _n_workers(self) -> int:
        try:
            return len(self._client.scheduler_info(n_workers=-1)["workers"])
        except (OSError, CancelledError, RuntimeError):  # the scheduler was lost
            return 0


def _result_of(future: Any, path: Path) -> FileResult | _Lost:
    """Return the result of a finished task, with an error as the reason of a failure."""
    try:
        result: FileResult = future.result(timeout=_SECONDS_TO_FETCH)
        return result
    except TimeoutError:
        return _Lost.WITH_WORKER
    except CancelledError:
        return FileResult(path=path, reason=_NO_SCHEDULER, may_pass=True)
    except UFlowError as error:
        return FileResult(path=path, reason=str(error), may_pass=may_pass(error))
    except Exception as error:  # any exception of a worker
        kind = type(error).__name__
        if kind == "KilledWorker":
            return _Lost.KILLED_WORKERS
        is_lost = kind == "CommClosedError"
        reason = _NO_SCHEDULER if is_lost else f"internal error on the worker ({kind}: {error})"
        return FileResult(path=path, reason=reason, may_pass=is_lost or may_pass(error))


def _detect_file(
    model: TrainedModel, path: Path, output: Path, config: DetectionConfig, options: dict[str, Any]
) -> FileResult:
    """Detect in one file on a worker, which builds the network once."""
    from distributed import get_worker

    worker = get_worker()
    kept = getattr(worker, "_napari_uflow", None)
    if kept is None or kept[0] is not model:
        network = model.network(choose_device(options["device"]), options["weights"])
        place = options["model_path"]
        kept = (model, network, None if place is None else DriftWatch(model, place))
        worker._napari_uflow = kept
    reading = {name: options[name] for name in ("channels", "axes", "series")}
    return drain(detect_file_steps(model, kept[1], path, output, config, watch=kept[2], **reading))
