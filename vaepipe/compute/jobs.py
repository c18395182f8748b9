"""One fit, from data to bundle: the same job in this process, in a trial, in parallel workers.

Several ranks run the same job together. Rank 0 alone validates, writes files and decides when it
is enough; the others hear of its verdict. At the end of an epoch the checkpoint is written first,
then the journal, then whoever started the job is told: so nobody hears of an epoch that is lost.
"""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, final

import pyarrow as pa
import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from vaepipe import __version__
from vaepipe.compute import outputs
from vaepipe.compute.base import TrainTask
from vaepipe.compute.outputs import CHECKPOINT, HISTORY, JOURNAL, MODEL, STOP, VALIDATION
from vaepipe.compute.snapshots import Snapshots, rows_kept
from vaepipe.compute.views import sample, seen
from vaepipe.core import Purpose, Stream, build, seeded, stream
from vaepipe.data import shards
from vaepipe.data.batches import Batches
from vaepipe.datasets.base import Dataset
from vaepipe.errors import TrainingError
from vaepipe.evaluation import collapse, examine
from vaepipe.journal import Journal
from vaepipe.training import bundle, checkpoint, loop, optim, schedule, speed, start
from vaepipe.training.average import Average
from vaepipe.training.parts import Ranks

EVIDENCE = "val/log_evidence"
"""What the best weights are chosen by: the same estimate for every objective."""

WARM = "warm_epochs"
"""What a report says beside the metrics: epochs with the final weights of the objective."""

Report = Callable[[dict[str, float]], str | None]


class Verdict(enum.IntEnum):
    """What rank 0 decides after an epoch."""

    GO_ON = 0
    ENOUGH = 1
    STOPPED = 2
    FAILED = 3


def silent(metrics: Mapping[str, float]) -> None:
    """A report that nobody hears."""


def train_job(
    task: TrainTask,
    *,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    report: Report = silent,
) -> loop.Step | None:
    """Fit one model, resuming from the task's checkpoint; rank 0 leaves bundle and history.

    Args:
        task: what to fit.
        rank: this worker's number.
        world_size: number of workers; with several, torch's default process group exists.
        device: where to compute.
        report: told the metrics of every validated epoch, with `epoch` and `WARM`; a reason, if it
            returns one, stops the fit, which then keeps its best weights so far.

    Returns:
        The model and objective as they were at the end; None if all was done before.

    Raises:
        TrainingError: the fit diverged.
    """
    if outputs.ended(task) is not None:
        return None
    Path(task.output).mkdir(parents=True, exist_ok=True)
    with outputs.alone(task) if rank == 0 else nullcontext():
        try:
            return _Job(task, rank, world_size, torch.device(device), report).run()
        except Exception as error:
            if rank == 0 and (world_size == 1 or isinstance(error, TrainingError)):
                outputs.record_failure(task, error)  # other errors of one rank may be tried again
            raise


def finalize(task: TrainTask) -> checkpoint.State:
    """Make `model/`, `history.parquet` and `validation.parquet` from the last checkpoint.

    Raises:
        TrainingError: the task has no checkpoint.
    """
    folder = Path(task.output)
    state = checkpoint.load(folder / CHECKPOINT, task.fingerprint)
    if state is None:
        raise TrainingError(f"{task.name}: there is no checkpoint to make a model from.")
    step = _build(task)
    checkpoint.load_weights(checkpoint.kept_weights(folder / CHECKPOINT, state), step)
    dataset: Dataset = task.data.dataset.build()
    _, golden = sample(task.data.path, dataset, "train", bundle.ROWS)
    bundle.save(folder / MODEL, step.model, _card(task, state), golden)
    shards.write_table(folder / HISTORY, pa.Table.from_pylist(_rows(state)))
    rows = checkpoint.kept_rows(folder / CHECKPOINT)
    if rows is not None:
        names = ("id", *(name for name in rows if name != "id"))
        table = pa.table({name: rows[name].numpy() for name in names})
        shards.write_table(folder / VALIDATION, table)
    return state


@final
class _Job:
    """A fit in this process."""

    def __init__(
        self,
        task: TrainTask,
        rank: int,
        world_size: int,
        device: torch.device,
        report: Report,
    ) -> None:
        self.task, self.rank, self.world_size, self.device = task, rank, world_size, device
        self.report, self.journal = report, Journal(Path(task.output) / JOURNAL)
        self.folder = Path(task.output) / CHECKPOINT
        self.dataset: Dataset = task.data.dataset.build()
        self.batches = self._batches()
        self.step = _build(task)
        loop.require_examples(self.step.objective, self.batches.rows // self.batches.steps)
        self.kept = self._begin()
        self.step.to(device)
        speed.hasten(self.step.model, task.precision, compiled=task.compile)
        self.average = Average(self.step, task.ema) if task.ema else None
        self.judged = self.average.module if self.average else self.step
        self.fitter = self._fitter()
        self.state = self._resumed()
        self.validation = self._validation_rows() if rank == 0 else None
        self.rows: dict[str, Tensor] | None = None
        self.snapshots = self._snapshots()
        self.reason: str | None = None
        self.warned = False
        self.stopped = False
        self.clock = time.perf_counter()

    def run(self) -> loop.Step:
        """Fit what is left, then leave the model."""
        self._start()
        began = time.perf_counter()
        last = dict(self.state.metrics(self.state.epoch))
        if not self._exhausted():
            epochs = range(self.state.epoch, self.task.epochs)
            loop.fit(self.fitter, epochs, self._epoch, self._after)
            last = dict(self.state.metrics(self.state.epoch))
        self._finish(time.perf_counter() - began)
        if not self.stopped:
            self._report(last)
        return self.step

    def _start(self) -> None:
        """Tell the journal, also of an epoch that it missed because the last process was killed."""
        if self.rank != 0:
            return
        (Path(self.task.output) / STOP).unlink(missing_ok=True)
        known = outputs.epochs(self.journal.read())
        self.journal.write(
            "start",
            epochs=self.task.epochs,
            steps_per_epoch=self.batches.steps,
            world_size=self.world_size,
            device=str(self.device),
            resumed_from=self.state.epoch or None,
            **({} if self.kept is None else {"weights": str(self.kept)}),
        )
        for row in self.state.history:
            if row["epoch"] not in known:
                self._tell(row)
        self._warn_once(self.journal.read())

    def _warn_once(self, before: Sequence[Mapping[str, Any]]) -> None:
        """Write to the journal what is to know of the fit, unless an earlier start wrote it."""
        texts = list(self.kept.warnings if self.kept else ())
        last = self.fitter.context(self.task.epochs * self.batches.steps - 1)
        late = schedule.unfinished(self.task.objective, last, self.task.epochs)
        if late is not None:
            texts.append(f"{late}: no epoch counts as best, the last is kept. {schedule.ADVICE}")
        for text in texts:
            if not any(event.get("text") == text for event in before):
                self.journal.write("warning", text=text)

    def _tell(self, metrics: Mapping[str, float]) -> None:
        """The event of an epoch."""
        values = {k: v for k, v in metrics.items() if k not in ("epoch", "step")}
        self.journal.write(
            "epoch",
            epoch=int(metrics["epoch"]),
            step=int(metrics["step"]),
            best_epoch=self.state.kept_epoch,
            metrics=values,
        )

    def _epoch(self, number: int) -> Iterator[Tensor]:
        """Batches of an epoch as the model sees them."""
        self.clock = time.perf_counter()
        for _, x in self.batches.epoch(number):
            yield self.dataset.tensor(x, partial(torch.rand, x.shape, device=x.device))

    def _noise(self, number: int) -> Stream:
        """The noise of an epoch on this rank."""
        return stream(self.task.seed, Purpose.TRAINING_NOISE, number, self.rank)

    def _after(self, epoch: int, terms: dict[str, float]) -> bool:
        """Keep what an epoch was worth; whether that is enough."""
        due = epoch % self.task.validation["every"] == 0 or epoch == self.task.epochs
        verdict, metrics = Verdict.GO_ON, self._training_metrics(epoch, terms)
        if self.rank == 0:
            verdict = self._keep(epoch, metrics, due=due)
        verdict = self._agree(verdict) if due else verdict
        if verdict is Verdict.FAILED:
            raise TrainingError(
                f"{self.task.name}: the validation evidence was not finite after epoch {epoch}. "
                "Checkpoints from before are kept. Lower `optimizer.lr`, or set `optimizer.clip`."
            )
        if due and verdict is Verdict.GO_ON:
            self.reason = self._report(metrics)
            verdict = self._agree(Verdict.STOPPED if self.reason else verdict)
        self.stopped = verdict is Verdict.STOPPED
        return verdict is not Verdict.GO_ON

    def _keep(self, epoch: int, metrics: dict[str, float], *, due: bool) -> Verdict:
        """Validate, write the checkpoint, then the journal."""
        metrics |= self._validate() if due else {}
        if not math.isfinite(metrics.get(EVIDENCE, 0.0)):
            return Verdict.FAILED
        self.state = self._advanced(epoch, metrics)
        if self.snapshots is not None:
            self.snapshots.take(epoch, self.judged)
        if due:
            average = self.average and self.average.module
            optimizers = self.fitter.optimizers
            checkpoint.save(self.folder, self.state, self.step, optimizers, average, self.rows)
        self._tell(metrics)
        if 2 * epoch >= self.task.epochs and self._warm(metrics):
            self._warn(metrics)
        return Verdict.ENOUGH if due and self._exhausted() else Verdict.GO_ON

    def _warn(self, metrics: Mapping[str, float]) -> None:
        """Tell once, of a fit half done or of its kept weights, that the posterior collapsed."""
        text = None if self.warned else collapse(metrics)
        if text is not None:
            self.warned = True
            self.journal.write("warning", text=text, epoch=int(metrics["epoch"]))

    def _training_metrics(self, epoch: int, terms: Mapping[str, float]) -> dict[str, float]:
        step = epoch * self.batches.steps
        return {
            "epoch": epoch,
            "step": step,
            **{f"train/{name}": value for name, value in terms.items()},
            "lr": self.fitter.rate(step - 1),
            "examples_per_second": self.batches.rows / max(time.perf_counter() - self.clock, 1e-9),
        }

    def _validate(self) -> dict[str, float]:
        if self.validation is None:
            return {}
        model, features = self.judged.model, self.judged.objective.features
        ids, x = self.validation
        means, rows = examine(model, x, k=self.task.validation["k"], features=features)
        self.rows = {"id": ids, **rows}
        return {f"val/{name}": value for name, value in means.items()}

    def _advanced(self, epoch: int, metrics: Mapping[str, float]) -> checkpoint.State:
        """The state after an epoch; no weights count as best before the objective is warm."""
        old, value = self.state, metrics.get(EVIDENCE)
        warm = self._warm(metrics)
        best = -math.inf if old.best_value is None else old.best_value
        better = value is not None and warm and value > best
        return checkpoint.State(
            fingerprint=old.fingerprint,
            epoch=epoch,
            step=int(metrics["step"]),
            history=(*old.history, metrics),
            best_epoch=epoch if better else old.best_epoch,
            best_value=value if better else old.best_value,
        )

    def _report(self, metrics: Mapping[str, float]) -> str | None:
        """Report an epoch, and how many epochs began with the final weights of the objective."""
        epoch = int(metrics.get("epoch", 0))
        starts = (self.fitter.context(e * self.batches.steps) for e in range(epoch))
        return self.report({**metrics, WARM: sum(map(self.step.objective.warm, starts))})

    def _warm(self, metrics: Mapping[str, float]) -> bool:
        """Whether the objective's schedules had ended by then."""
        return self.step.objective.warm(self.fitter.context(int(metrics["step"])))

    def _exhausted(self) -> bool:
        """Whether all epochs are done, or too many passed without a better evidence."""
        state, patience = self.state, self.task.patience
        waited = state.epoch - state.best_epoch if state.best_epoch is not None else 0
        return state.epoch >= self.task.epochs or (patience is not None and waited >= patience)

    def _agree(self, verdict: Verdict) -> Verdict:
        """What rank 0 says."""
        if self.world_size == 1:
            return verdict
        said = torch.tensor(int(verdict), device=self.device)
        distributed.broadcast(said, src=0)
        return Verdict(int(said))

    def _finish(self, seconds: float) -> None:
        """The model of the best weights, then the last event."""
        if self.rank != 0:
            return
        state = finalize(self.task)
        self._warn(state.metrics(state.kept_epoch))
        facts = {"seconds": seconds, "best_epoch": state.kept_epoch, "epoch": state.epoch}
        if self.stopped:
            self.journal.write("stopped", reason=self.reason, **facts)
        else:
            self.journal.write("done", **facts)

    def _batches(self) -> Batches:
        split = shards.open_split(self.task.data.path, "train")
        order = stream(self.task.seed, Purpose.ORDER_OF_ROWS)
        size = self.task.batch_size
        return Batches(split, size, order, self.rank, self.world_size, self.device)

    def _fitter(self) -> loop.Fitter:
        task = self.task
        return loop.Fitter(
            name=task.name,
            step=self.step,
            forward=self._parallel() if self.world_size > 1 else self.step,
            optimizers=loop.optimizers(self.step, task.optimizer),
            rate=optim.schedule(task.optimizer, task.epochs * self.batches.steps),
            clip=task.optimizer.get("clip"),
            steps=self.batches.steps,
            num_examples=self.batches.split.num_rows,
            noise=self._noise,
            reduce=self._mean,
            accumulate=task.accumulate,
            normalize=bool(task.optimizer.get("normalize")),
            average=self.average,
            ranks=Ranks(self.world_size, self.rank),
        )

    def _parallel(self) -> DistributedDataParallel:
        devices = [self.device] if self.device.type == "cuda" else None
        several = len(self.step.phases) > 1
        return DistributedDataParallel(
            self.step, device_ids=devices, find_unused_parameters=several
        )

    def _mean(self, value: Tensor) -> Tensor:
        """The mean over all ranks; each saw equally many examples."""
        if self.world_size == 1:
            return value
        distributed.all_reduce(value)
        return value / self.world_size

    def _resumed(self) -> checkpoint.State:
        state = checkpoint.load(self.folder, self.task.fingerprint)
        if state is None:
            return checkpoint.State(self.task.fingerprint)
        average = self.average and self.average.module
        checkpoint.restore(self.folder, self.step, self.fitter.optimizers, average)
        return state

    def _begin(self) -> start.Agreement | None:
        """Take over the weights of another model, where the task says so."""
        if self.task.start is None:
            return None
        parts, path = self.task.model.parts(), Path(self.task.start["path"])
        return start.adopt(self.step.model, parts, path)

    def _snapshots(self) -> Snapshots | None:
        """Where posteriors of validation rows lie over the epochs; None without such rows."""
        if self.validation is None:
            return None
        split = shards.open_split(self.task.data.path, "val")
        count = rows_kept(split.num_rows, math.prod(self.task.model.latent_shape))
        rows = split.sample(count)
        x = seen(self.dataset, rows, split.shape)[1].to(self.device)
        output, fresh = Path(self.task.output), not self.state.epoch
        return Snapshots(output, rows, x, self.task.epochs, fresh=fresh)

    def _validation_rows(self) -> tuple[Tensor, Tensor] | None:
        """Ids and rows of the val split, with noise that never changes; None without a split."""
        rows = self.task.validation["examples"]
        if not rows or "val" not in shards.read_manifest(self.task.data.path)["splits"]:
            return None
        ids, x = sample(self.task.data.path, self.dataset, "val", rows)
        return ids, x.to(self.device)


def _build(task: TrainTask) -> loop.Step:
    """Model and objective with their first weights, which the seed alone decides."""
    data = shards.load_spec(task.data.path)
    with seeded(stream(task.seed, Purpose.FIRST_WEIGHTS)):
        model = build(task.model.latent_shape, data, **task.model.parts())
        return loop.Step(model, task.objective.build())


def _card(task: TrainTask, state: checkpoint.State) -> dict[str, Any]:
    """What `model.json` says."""
    return {
        "vaepipe": __version__,
        "name": task.name,
        "model": task.model.to_dict(),
        "objective": task.objective.to_dict(),
        "data": dict(task.data.spec),
        "dataset": task.data.dataset.to_dict(),
        "data_digest": task.data.digest,
        "stored": shards.open_split(task.data.path, "train").stored,
        "lexicon": shards.read_manifest(task.data.path).get("lexicon"),
        "settings": dict(task.settings),
        "start": task.start and {name: task.start[name] for name in ("stage", "digest")},
        "fingerprint": task.fingerprint,
        "seed": task.seed,
        "epoch": state.kept_epoch,
        "metrics": {k: v for k, v in state.metrics(state.kept_epoch).items() if "/" in k},
    }


def _rows(state: checkpoint.State) -> list[dict[str, Any]]:
    """A row for each epoch, with the same columns in each."""
    names = dict.fromkeys(name for row in state.history for name in row)
    whole = {"epoch": int, "step": int}
    return [
        {n: whole.get(n, float)(row[n]) if n in row else None for n in names}
        for row in state.history
    ]
