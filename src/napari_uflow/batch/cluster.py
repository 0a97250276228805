"""Many images on many machines: the batch on a cluster of dask.distributed that is already there."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any

from napari_uflow.batch.files import PHASE, BatchSummary, Collected, FileResult, detect_file_steps, prepare
from napari_uflow.config import DetectionConfig
from napari_uflow.errors import UFlowError
from napari_uflow.model.uflow import TrainedModel
from napari_uflow.progress import FINISH, Message, Progress, Steps, drain, or_stop
from napari_uflow.system.devices import choose_device
from napari_uflow.wording import counted

__all__ = ["detect_on_cluster_steps"]

_SECONDS_TO_CONNECT = 20
# Between two looks at what is done, at which the job may be stopped.
_SECONDS_BETWEEN = 0.3
_SECONDS_WITHOUT_WORKERS = 60
# For a result that lies on a worker already.
_SECONDS_TO_FETCH = 5
_DIED = "the workers that took it died, each time: it may need too much memory"
_NO_WORKER = "no worker of the cluster was left"
_NO_SCHEDULER = "the scheduler of the cluster went away"


def detect_on_cluster_steps(
    model: TrainedModel,
    paths: Sequence[Path],
    output: str | Path,
    config: DetectionConfig,
    scheduler: str,
    *,
    channels: Sequence[int | str] | None = None,
    axes: str | None = None,
    device: str = "auto",
    weights: str | Path | None = None,
) -> Steps[BatchSummary]:
    """Detect in files as :func:`~napari_uflow.batch.files.detect_files_steps` does, each file on one of many machines.

    The machines must see the files and the folder under the same names, and have this version of napari-uflow. A
    image whose worker is lost is given to another one; it fails when that has happened more often than the cluster's
    setting ``distributed.scheduler.allowed-failures`` says (three times by default). The other images go on. Where
    several were lost so often, perhaps for being beside the one that killed their workers, each is tried again alone.

    Parameters
    ----------
    model, paths, output, config, channels, axes, device, weights
        As in :func:`~napari_uflow.batch.files.detect_files_steps`; the device is that of each worker.
    scheduler : str
        Address of the scheduler, such as "tcp://10.0.0.5:8786".

    Yields
    ------
    Message or Progress
        Where FINISH is sent, what has not begun is called off; the files done so far are kept.

    Returns
    -------
    BatchSummary

    Raises
    ------
    UFlowError
        If the package distributed is missing, or the scheduler cannot be reached. Files that were not done when all
        workers were gone for a minute, or the scheduler went away, have failed.
    ConfigError
        If two files would write to the same names.
    """
    try:
        import distributed
    except ImportError as error:
        raise UFlowError("a cluster takes the package distributed: pip install napari-uflow[cluster]") from error
    files, folder = prepare(paths, output)
    # Workers may have another working directory.
    files, folder = [path.absolute() for path in files], folder.absolute()
    yield from or_stop(Message(f"Connecting to {scheduler}"))
    try:
        client = distributed.Client(scheduler, timeout=_SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:  # its timeout is an OSError, a malformed address a ValueError
        raise UFlowError(
            f"there is no scheduler of dask.distributed at '{scheduler}': start one with 'dask scheduler', or check "
            f"the address"
        ) from error
    with client:
        n_workers = len(client.scheduler_info(n_workers=-1)["workers"])
        wait = "" if n_workers else f": waiting for one, {_SECONDS_WITHOUT_WORKERS} s at most"
        yield from or_stop(Message(f"{counted(n_workers, 'worker')} at {scheduler}{wait}"))
        options = {"channels": channels, "axes": axes, "device": device, "weights": weights}
        work = _Work(client, model, (folder, config, options), len(files))
        suspects = yield from work.detect(files)
        if len(suspects) > 1 and work.is_on:
            # Whatever kills a worker takes along what runs beside it: alone it turns out which of them it was.
            yield Message(f"{len(suspects)} images lost their workers; they are tried again one by one", warning=True)
            together, suspects = suspects, []
            for path in together:
                suspects += yield from work.detect([path])
        for path in suspects:
            yield from work.add(FileResult(path, reason=_DIED))
        if not work.was_stopped:
            yield Progress(PHASE, len(files), len(files))
    return work.collected.write(folder, was_stopped=work.was_stopped, order=files)


class _Work:
    """The files of one call on their way to the workers and back."""

    def __init__(self, client: Any, model: TrainedModel, arguments: tuple[Any, ...], n_files: int) -> None:
        self._client, self._model, self._arguments, self._n_files = client, pickle.dumps(model), arguments, n_files
        self._shared: Any = None
        self._n_done = 0
        self.collected = Collected()
        self.was_stopped = self._is_abandoned = False

    @property
    def is_on(self) -> bool:
        """Whether more can be asked of the cluster: nobody stopped it, and it has workers."""
        return not (self.was_stopped or self._is_abandoned)

    def add(self, result: FileResult) -> Steps[None]:
        """Take what became of a file."""
        self.collected.add(result)
        self._n_done += 1
        if result.reason:
            yield Message(result.reason, warning=True, source=result.path)

    def detect(self, paths: Sequence[Path]) -> Steps[list[Path]]:
        """Detect in files at the same time; return those whose workers died too often."""
        from distributed import wait

        client = self._client
        suspects: list[Path] = []
        if self.was_stopped:
            return suspects
        if self._is_abandoned:
            for path in paths:
                yield from self.add(FileResult(path, reason=_NO_WORKER))
            return suspects
        if self._shared is None or self._shared.status not in ("pending", "finished"):
            # The model is the result of a task and not scattered: what was scattered is lost with its workers. One that
            # was with too many of them is lost, too.
            self._shared = client.submit(pickle.loads, self._model, pure=False)
        waiting = {
            client.submit(_detect_file, self._shared, path, *self._arguments, pure=False): path for path in paths
        }
        seconds_alone = 0.0
        while waiting:
            answer = yield Progress(PHASE, self._n_done, self._n_files)
            finished = [future for future in waiting if future.done()]
            for future in finished:
                result = _result_of(future, waiting[future])
                if result is None:  # its worker went away with it; it is made once more
                    continue
                path = waiting.pop(future)
                if result.reason == _DIED:
                    suspects.append(path)
                else:
                    yield from self.add(result)
            if answer is FINISH:
                self.was_stopped = True
                client.cancel(list(waiting))
                break
            if finished:
                seconds_alone = 0.0
                continue
            with client.as_current(), suppress(TimeoutError, CancelledError):
                wait(list(waiting), timeout=_SECONDS_BETWEEN, return_when="FIRST_COMPLETED")
            seconds_alone = 0.0 if self._n_workers() else seconds_alone + _SECONDS_BETWEEN
            if seconds_alone > _SECONDS_WITHOUT_WORKERS:
                yield Message("all workers of the cluster are gone; what was done is kept", warning=True)
                self._is_abandoned = True
                for path in waiting.values():
                    yield from self.add(FileResult(path, reason=_NO_WORKER))
                break
        return suspects

    def _n_workers(self) -> int:
        try:
            return len(self._client.scheduler_info(n_workers=-1)["workers"])
        except (OSError, CancelledError, RuntimeError):  # the scheduler went away
            return 0


def _result_of(future: Any, path: Path) -> FileResult | None:
    """Return what a worker made of a file, an error as a reason; None where the result went away with its worker."""
    try:
        result: FileResult = future.result(timeout=_SECONDS_TO_FETCH)
        return result
    except TimeoutError:
        return None
    except CancelledError:
        return FileResult(path, reason=_NO_SCHEDULER)
    except UFlowError as error:
        return FileResult(path, reason=str(error))
    except Exception as error:  # whatever a worker raised
        known = {"KilledWorker": _DIED, "CommClosedError": _NO_SCHEDULER}
        if type(error).__name__ in known:
            return FileResult(path, reason=known[type(error).__name__])
        return FileResult(path, reason=f"something went wrong on the worker ({type(error).__name__}: {error})")


def _detect_file(
    model: TrainedModel, path: Path, output: Path, config: DetectionConfig, options: dict[str, Any]
) -> FileResult:
    """Detect in one file; runs on a worker, which builds the network once."""
    from distributed import get_worker

    worker = get_worker()
    kept = getattr(worker, "_napari_uflow", None)
    if kept is None or kept[0] is not model:
        kept = (model, model.network(choose_device(options["device"]), options["weights"]))
        worker._napari_uflow = kept
    steps = detect_file_steps(model, kept[1], path, output, config, channels=options["channels"], axes=options["axes"])
    return drain(steps)
