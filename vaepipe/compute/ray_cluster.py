"""Work on a Ray cluster: one that exists, or one of this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, final

from annotated_types import Ge

from vaepipe import files
from vaepipe.compute import ray_connect
from vaepipe.compute.base import SweepTask, TrainTask
from vaepipe.compute.ray_connect import Share
from vaepipe.errors import UserError


@final
class RayCompute:
    """Fits by Ray Train, sweeps by Ray Tune, maps over Ray actors.

    Nothing starts before there is work. This process computes nothing and holds no GPU.

    Args:
        workers: actors of a map; a fit has as many as its stage says.
        gpus_per_worker: `auto` gives each worker a GPU if the cluster has any; a fraction lets
            trials share one.
        threads_per_worker: CPUs and torch threads of a worker.
        address: `host:port` or `auto` to join a cluster; default `$RAY_ADDRESS`, else a cluster
            of this machine is started (`local` insists on that).
    """

    def __init__(
        self,
        *,
        workers: Annotated[int, Ge(1)] = 1,
        gpus_per_worker: Annotated[float, Ge(0)] | Literal["auto"] = "auto",
        threads_per_worker: Annotated[int, Ge(1)] = 1,
        address: str | None = None,
    ) -> None:
        """Nothing starts."""
        self.workers = workers
        self.gpus_per_worker, self.threads = gpus_per_worker, threads_per_worker
        self.address = address or os.environ.get("RAY_ADDRESS") or "local"
        self._connected = False

    def train(self, task: TrainTask) -> None:
        """Fit one model in one worker, or data-parallel in several.

        Raises:
            TrainingError: the fit failed.
            Unreachable: the cluster does not answer.
            UserError: the cluster is too small, or its nodes differ.
        """
        with self._cluster(task.workers, task.output) as share:
            from vaepipe.compute import ray_train

            ray_train.train(task, share)

    def sweep(self, task: SweepTask) -> None:
        """Run trials by Ray Tune; one that fails leaves its `failed` event."""
        with self._cluster(1, task.output) as share:
            from vaepipe.compute import ray_tune

            ray_tune.sweep(task, share, self._fitted)

    def map(
        self,
        target: str,
        units: Sequence[Mapping[str, Any]],
        common: Mapping[str, Any],
        workers: int | None = None,
    ) -> Generator[dict[str, Any], None, None]:
        """Results of `target(common)(unit)` as they complete, from a pool of actors.

        Raises:
            TrainingError: a unit's actor died three times.
        """
        if not units:
            return
        with self._cluster(1) as share:
            from vaepipe.compute import ray_map

            actors = max(1, min(workers or self.workers, len(units), capacity(share)))
            yield from ray_map.run(target, units, common, share, actors)

    def resources(self) -> dict[str, float]:
        """CPUs, GPUs and nodes of the cluster."""
        with self._cluster(1):
            import ray

            nodes = sum(node["Alive"] for node in ray.nodes())
            return {"CPUs": _total("CPU"), "GPUs": _total("GPU"), "nodes": float(nodes)}

    def close(self) -> None:
        """Leave the cluster; stop it if it was started here."""
        if self._connected:
            import ray

            ray.shutdown()
            self._connected = False

    @contextmanager
    def _cluster(self, workers: int, output: str | None = None) -> Iterator[Share]:
        """Yield a cluster that can hold some workers at once; an interruption ends its work.

        Args:
            workers: how many.
            output: folder of the work, where an interruption leaves no half-written file.
        """
        try:
            yield self._fitted(workers)
        except (Exception, GeneratorExit):
            raise
        except BaseException:
            self.close()
            if output is not None:
                _tidy(Path(output))
            raise

    def _fitted(self, workers: int) -> Share:
        """The share of each of some workers.

        Raises:
            UserError: the cluster cannot hold them.
        """
        self._connect(max(workers, self.workers) * self.threads)
        share = Share(self.threads, self._gpus(workers))
        if capacity(share) < workers:
            raise UserError(
                f"{workers} workers need {share.times(workers)}; the cluster has "
                f"{_have()}. Lower `workers` or `gpus_per_worker`, or add nodes."
            )
        return share

    def _connect(self, cpus: int) -> None:
        """Join the cluster, or start one with as many logical CPUs as the workers want."""
        if ray_connect.connected():
            if self.address != "local" or not self._connected or cpus <= _total("CPU"):
                return
            self.close()  # ours, and too small: start it again with more logical CPUs
        if self.address == "local":
            enough = cpus <= (os.cpu_count() or 1)
            ray_connect.start(None if enough else cpus, self.threads)
        else:
            ray_connect.join(self.address, self.threads)
        self._connected = True

    def _gpus(self, workers: int) -> float:
        if not isinstance(self.gpus_per_worker, str):
            return self.gpus_per_worker
        gpus = _total("GPU")
        if 0 < gpus < workers:
            raise UserError(
                f"{workers} workers, but the cluster has {gpus:g} GPUs. Set `workers: {gpus:g}`, "
                "or `gpus_per_worker: 0` to train on CPUs."
            )
        return 1.0 if gpus else 0.0


def capacity(share: Share) -> int:
    """How many workers of this size the cluster holds at once."""
    by_cpu = int(_total("CPU") / share.cpus)
    return min(by_cpu, int(_total("GPU") / share.gpus + 1e-6)) if share.gpus else by_cpu


def _tidy(output: Path) -> None:
    """Remove what killed workers left in the folders of a fit or of the trials of a sweep."""
    for folder in (output, *output.glob("trials/*")):
        shutil.rmtree(folder / ray_connect.STORE, ignore_errors=True)
        files.sweep_temporaries(folder)


def _total(kind: str) -> float:
    import ray

    return float(ray.cluster_resources().get(kind, 0.0))


def _have() -> str:
    return f"{_total('CPU'):g} CPUs and {_total('GPU'):g} GPUs"
