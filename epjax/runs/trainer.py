"""The training loop: steps, evaluations, checkpoints, metrics; goes on where an earlier run stopped."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import optax
from rich.console import Console

from epjax.cost import COSTS
from epjax.data import BadImage, Batches, LostWorker, Prefetch, eval_batches, prefetch, train_batches
from epjax.diagnosis.examine import Diagnose, attempt
from epjax.network import Params
from epjax.runs import machine
from epjax.runs.alarm import Alarms, guessing
from epjax.runs.algorithm import ALGORITHMS
from epjax.runs.config import Config, Optimiser, flat, identity, store
from epjax.runs.meter import Meter
from epjax.runs.metrics import BITS, ERROR, Line, MetricsLog, diagnosis_line, in_bits, skipped_in_a_row
from epjax.runs.pace import Pace
from epjax.runs.progress import Reporter, Status
from epjax.runs.stopping import NotFinite, Stopped, StopRequest, broken, together
from epjax.runs.table import shows_top5
from epjax.runs.task import Task, diagnosis, gradient, incremental, output, updates
from epjax.systems import as_system
from epjax.training import processes, sharding
from epjax.training.accumulation import accumulate
from epjax.training.checkpoint import Checkpoints, describe
from epjax.training.evaluation import eval_step, evaluate
from epjax.training.optimiser import averaged, check_layer_rates, evaluated, named, per_batch, scheduled, warmed_up
from epjax.training.step import Normalise, Step, TrainState, incremental_train_step, initial_state, train_step

DIAGNOSED = 32
"""Images of a diagnosis, at most."""


@dataclass(frozen=True)
class Plan:
    """The steps of a run: one epoch, all of them, between two lines, between two evaluations."""

    epoch: int
    total: int
    log: int
    evaluation: int

    def at(self, step: int) -> float | int:
        """Epochs done, an int where they are whole."""
        return step // self.epoch if step % self.epoch == 0 else round(step / self.epoch, 4)

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation is due after this step."""
        return step == self.total or (step > 0 and step % self.evaluation == 0)


@dataclass(frozen=True)
class Pending:
    """A step that was dispatched and whose metrics were not fetched."""

    step: int
    metrics: dict[str, jax.Array]
    waited: float


def make_plan(config: Config, images: int, examples: str = "images") -> Plan:
    """Raises ValueError for a batch larger than the training set and for counts below 1."""
    run, optimiser = config.run, config.optimiser
    counts = [("epochs", optimiser.epochs), ("batch_size", optimiser.batch_size), ("max_steps", run.max_steps)]
    names = ("eval_every", "checkpoint_every", "log_every", "microbatches", "max_skipped", "diagnose_every")
    counts += [(name, getattr(run, name)) for name in names]
    for name, value in counts:
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, but is {value}")
    amounts = ("learning_rate", "final_learning_rate", "weight_decay")
    for name, amount in ((name, getattr(optimiser, name)) for name in amounts):
        if not 0 <= amount < math.inf:
            raise ValueError(f"{name} must be a finite number of at least 0, but is {amount}")
    epoch = images // optimiser.batch_size
    if not epoch:
        raise ValueError(f"batch_size must be at most the {images} training {examples}, but is {optimiser.batch_size}")
    total = min(epoch * optimiser.epochs, run.max_steps or epoch * optimiser.epochs)
    return Plan(epoch, total, run.log_every or max(1, min(100, epoch // 10)), epoch * run.eval_every)


def evaluation_batch(batch_size: int) -> int:
    """A small batch is right for learning and slow for measuring: its smallest multiple from 64 on, or itself."""
    return batch_size * max(1, -(-64 // batch_size))


def schedule(options: Optimiser, plan: Plan) -> Any:
    """The warm-up, then the schedule of that name, once an epoch or at every step."""
    if not 0 <= options.warmup_epochs < options.epochs:
        allowed = f"at least 0 and less than the {options.epochs} epochs"
        raise ValueError(f"warmup_epochs must be {allowed}, but is {options.warmup_epochs}")
    steps = plan.epoch if options.cosine == "epoch" else 1
    periods = (options.epochs - options.warmup_epochs) * plan.epoch // steps
    rates = (options.learning_rate, options.final_learning_rate)
    decay = scheduled(options.schedule, *rates, periods, steps, options.decay_share)
    return warmed_up(decay, options.warmup_epochs * plan.epoch)


def optimiser(options: Optimiser, rate: Any, project: Callable[[Params], Params]) -> optax.GradientTransformation:
    """The optimiser of that name at the rates of `schedule`, with an average of the parameters if asked for."""
    links = named(
        options.optimiser,
        rate,
        options.weight_decay,
        options.momentum,
        decay_norms=options.decay_norms,
        layer_rates=options.layer_rates,
        clip_norm=options.clip_norm,
    )
    return links if options.ema is None else averaged(links, options.ema, project)


class Trainer:
    """One run in one work directory, which the caller holds."""

    def __init__(
        self, config: Config, task: Task, console: Console, on_evaluation: Callable[[list[Line]], None]
    ) -> None:
        """Touches no file. `on_evaluation` is given all lines of metrics.jsonl after each evaluation."""
        self.config, self.task, self.console, self.on_evaluation = config, task, console, on_evaluation
        self.directory: Path = config.run.workdir
        self.plan = make_plan(config, len(task.dataset.train), task.dataset.examples)
        self.mesh = sharding.make_mesh(config.run.model_parallel)
        if task.dataset.token and config.gradient.label_smoothing:
            raise ValueError(f"label_smoothing must be 0 for a text, got {config.gradient.label_smoothing}")
        microbatches = config.run.microbatches
        sharding.check_batch_size(config.optimiser.batch_size, self.mesh, microbatches)
        self.rate = schedule(config.optimiser, self.plan)
        options = config.optimiser
        if options.layer_rates:
            check_layer_rates(options.layer_rates, jax.eval_shape(self._params, jax.random.key(0)))
        each = per_batch(self.rate, updates(config.gradient))
        self.optimiser = optimiser(options, each, as_system(task.network).project)
        normalise = Normalise(task.dataset.stats.mean, task.dataset.stats.std)
        cost = COSTS[config.gradient.cost]
        self.normalise = normalise
        self.diagnose: Diagnose | None = None
        if config.run.diagnose_every:
            self.diagnose = diagnosis(config.gradient, task.network, len(task.dataset.classes))
        self.top5 = shows_top5(len(task.dataset.classes))
        if self.diagnose is not None and jax.process_count() > 1:
            raise ValueError(f"diagnose_every needs one process, but there are {jax.process_count()}")
        normalise.check_range(as_system(task.network).input_range)
        self.train_step = self._make_step(normalise)
        self.eval_step = eval_step(output(config.gradient, task.network), cost, normalise)
        self.put = sharding.put_batch(self.mesh)
        self.pending: Pending | None = None
        self.pace = Pace()
        beta = config.gradient.beta if config.gradient.algorithm == "ep" else None
        positions = math.prod(getattr(task.train_transform, "label_shape", ()))
        self.alarms = Alarms(beta, guessing(config.gradient.cost, len(task.dataset.classes), positions))
        self.bits = in_bits if task.dataset.token and config.gradient.cost == "cross_entropy" else lambda line: {}
        self.judged = BITS if self.bits is in_bits else ERROR
        self.left_out: set[str] = set()

    def _make_step(self, normalise: Normalise) -> Step:
        options, network, classes = self.config.gradient, self.task.network, len(self.task.dataset.classes)
        microbatches = self.config.run.microbatches
        if ALGORITHMS[options.algorithm].gradient is None:
            if microbatches > 1:
                raise ValueError(f"microbatches must be 1 with algorithm {options.algorithm!r}, got {microbatches}")
            return incremental_train_step(incremental(options, network, classes, self.optimiser), normalise)
        estimate = sharding.per_device(accumulate(gradient(options, network, classes), microbatches), self.mesh)
        project = as_system(network).project
        return train_step(estimate, self.optimiser, normalise, self.config.run.seed, project)

    def run(self) -> list[Line]:
        """Train to the last step; gives all lines of metrics.jsonl.

        Raises Stopped after a signal and NotFinite at a NaN.
        """
        options = flat(self.config) | self.task.facts()
        same = identity(self.config) | self.task.sizes()
        where, content = self.directory / "checkpoints", self.task.content()
        self.checkpoints = Checkpoints(where, same, keep=self.config.run.keep, content=content)
        try:
            with together():  # closing waits for the other processes, so an error must reach them before
                self._start()
                if jax.process_index() == 0:
                    facts = {"config": options, "model": self.task.interface(), "machine": machine.describe()}
                    for name, content in facts.items():
                        store(content, self.directory / f"{name}.json")
                data, of = self.task.dataset, (self.plan.total, self.config.optimiser.epochs, self.step)
                reporter = Reporter(self.console, *of, self.top5, data.examples, data.token)
                with StopRequest() as self.stop, reporter as self.reporter:
                    self._loop()
                self.checkpoints.wait()
            return self.log.lines
        finally:
            self._close()

    def _start(self) -> None:
        """The newest checkpoint's state, or a new one."""

        def make(key: jax.Array) -> TrainState:
            return initial_state(self._params(key), self.optimiser)

        key = jax.random.key(self.config.run.seed)
        shapes = jax.eval_shape(make, key)
        restored = self.checkpoints.restore(describe(shapes, sharding.state_shardings(self.mesh, shapes)))
        if restored is None:
            self.state, self.step, extra = sharding.born_sharded(make, self.mesh)(key), 0, {}
        else:
            self.state, self.step, extra = restored.state, restored.step, restored.extra
            self.console.print(f"going on from step {self.step} of {self.plan.total}")
            known = {one.quantity: one for one in (ERROR, BITS)}
            self.judged = known[extra.get("best_by", ERROR.quantity)]  # one measure for all of its checkpoints
        self.began = time.perf_counter() - extra.get("seconds", 0.0)
        self.meter = Meter(self.config.optimiser.batch_size, extra.get("sums"))
        write = jax.process_index() == 0
        self.log = MetricsLog(
            self.directory / "metrics.jsonl", self.step, write, self.config.run.log_to, flat(self.config)
        )

    def _params(self, key: jax.Array) -> Params:
        return self.task.network.init(key, self.task.train_transform.shape)

    def _loop(self) -> None:
        source = self._train_batches()
        with prefetch(source, self.put) as feed:
            try:
                self._steps(feed)
            except (BadImage, LostWorker):
                if processes.count() == 1:  # the steps before were good; the other processes do not know yet
                    self._settle()
                    self._save()
                raise
        self.left_out |= source.skipped.keys()

    def _steps(self, feed: Prefetch[Any]) -> None:
        while True:
            last = self.step >= self.plan.total
            due = last or self.plan.evaluates(self.step)
            if due and not processes.first(self.log.is_evaluated(self.step)):
                self._evaluate_and_save()
            if last:
                return
            waited = feed.waited
            batch = next(feed)
            with jax.transfer_guard("disallow"):
                self.state, metrics = self.train_step(self.state, batch)
            self.step += 1
            before, self.pending = self.pending, Pending(self.step, metrics, feed.waited - waited)
            if before is not None:  # fetched while the step after it runs
                self._record(before)
            if self.config.run.diagnose_every and self.step % self.config.run.diagnose_every == 0:
                self._settle()
                self._diagnose(batch)
            due = self.step % self.config.run.checkpoint_every == 0
            if signal := self.stop.due():
                self._stop(signal)
            if due or self.plan.evaluates(self.step):
                self._settle()
                if not self.plan.evaluates(self.step):
                    self._save()

    def _settle(self) -> None:
        """Take in the last step too: what comes next is no step."""
        if self.pending is not None:
            self._record(self.pending)
        self.pending = None
        self.meter.pause()

    def _diagnose(self, batch: Mapping[str, jax.Array]) -> None:
        """A line on what the gradient is worth at these parameters, on images of the batch just used, by one device."""
        assert self.diagnose is not None
        params, images, y = jax.device_get((self.state.params, batch["image"], batch["label"]))
        key = jax.random.fold_in(jax.random.key(self.config.run.seed), self.step)
        report = attempt(self.diagnose, params, self.normalise(images[:DIAGNOSED]), y[:DIAGNOSED], key)
        line = {"step": self.step, "epoch": self.plan.at(self.step)} | diagnosis_line(report)
        self.log.write(line | {"seconds": self._seconds()})
        if report.verdict != "good":
            self.console.print(f"step {self.step}: {report.verdict}: {report.advice}")

    def _train_batches(self) -> Batches:
        feed = self.config.feed
        return train_batches(
            self.task.dataset.train,
            self.task.train_transform,
            batch_size=self.config.optimiser.batch_size,
            seed=self.config.run.seed,
            start_step=self.step,
            num_workers=feed.num_workers,
            num_threads=feed.num_threads,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            on_bad_image=feed.on_bad_image,
        )

    def _record(self, done: Pending) -> None:
        """Take in what a step reported, and write a line where one is due."""
        values, step = jax.device_get(done.metrics), done.step
        what = broken(values)
        if what:
            self._skip(step, what)
        self.meter.add(None if what else values, done.waited)
        self._tell_if_slow(step)
        if not what:
            self.reporter.update(self._status(step, values))
            for alarm in self.alarms.see(step, values):
                self.console.print(alarm, soft_wrap=True)
        if step % self.plan.log == 0 and self.meter.sums["steps"]:
            line = {"step": step, "epoch": self.plan.at(step)} | self.meter.line()
            rate_used = float(f"{float(self.rate(step - 1)):.6g}")
            self.log.write(line | self.bits(line) | {"learning_rate": rate_used, "seconds": self._seconds()})

    def _status(self, step: int, values: Mapping[str, Any]) -> Status:
        rate = self.meter.images_per_second
        left = None if rate is None else (self.plan.total - step) * self.config.optimiser.batch_size / rate
        return Status(
            step=step,
            epoch=step / self.plan.epoch,
            cost=float(values["cost"]),
            error=100.0 * float(values["top1_error"]),
            images_per_second=rate,
            seconds_left=left,
            waiting=self.meter.waiting,
        )

    def _tell_if_slow(self, step: int) -> None:
        """On the screen only: it says something of the machine, or of what feeds it, not of the run."""
        seconds = self.meter.step_seconds
        usual = None if seconds is None else self.pace.slow(seconds)
        if usual is not None:
            self.console.print(f"step {step} took {seconds:.1f} s, usually {usual:.2g} s")

    def _skip(self, step: int, what: str) -> None:
        """Leave a step out, which has changed no parameter. Raises NotFinite where that is not allowed (any more)."""
        if self.config.run.on_nan == "stop":
            raise NotFinite(self._not_finite(step, what))
        self.log.write({"step": step, "epoch": self.plan.at(step), "skipped": what, "seconds": self._seconds()})
        count = skipped_in_a_row(self.log.lines, step)
        if count > self.config.run.max_skipped:
            raise NotFinite(self._not_finite(step, what, f", with {count} steps skipped in a row"))
        self.console.print(f"step {step} was skipped: {what} became NaN or infinite")

    def _not_finite(self, step: int, what: str, more: str = "") -> str:
        saved = self.checkpoints.steps
        kept = f"the checkpoint of step {saved[-1]} is kept" if saved else "there is no checkpoint yet"
        return (
            f"{what} became NaN or infinite at step {step} (epoch {self.plan.at(step)}){more}; {kept} in"
            f" {self.checkpoints.directory}; try a smaller learning rate or beta"
        )

    def _evaluate_and_save(self) -> None:
        with prefetch(self._eval_batches(), self.put) as feed:
            values = evaluate(self.eval_step, evaluated(self.state.params, self.state.opt_state), feed)
        if signal := self.stop.due():
            self._stop(signal)
        line = {"step": self.step, "epoch": self.plan.at(self.step)} | values | self.bits(values)
        line |= {"seconds": self._seconds()}
        self.log.write(line)
        self.reporter.evaluated(line, self.meter.images_per_second, self.meter.waiting)
        self._save(metric=self.judged.of(line))
        if jax.process_index() == 0:
            self.on_evaluation(self.log.lines)

    def _eval_batches(self) -> Iterator[Any]:
        """Every validation image once; ends early where a signal asks for it."""
        feed = self.config.feed
        batches = eval_batches(
            self.task.dataset.val,
            self.task.eval_transform,
            batch_size=evaluation_batch(self.config.optimiser.batch_size),
            num_workers=feed.num_workers,
            num_threads=feed.num_threads,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            on_bad_image=feed.on_bad_image,
        )
        with batches:
            for batch in batches:
                yield batch
                if self.stop.due():
                    return
        self.left_out |= batches.skipped.keys()

    def _save(self, metric: float | None = None) -> None:
        self.log.sync()
        extra = {"seconds": self._seconds(), "sums": self.meter.sums, "best_by": self.judged.quantity}
        self.checkpoints.save(self.step, self.state, extra=extra, metric=metric)

    def _stop(self, signal: str) -> None:
        self._settle()
        self._save()
        self.checkpoints.wait()
        raise Stopped(
            f"stopped by {signal} after step {self.step} of {self.plan.total}, saved;"
            " the same command goes on from there"
        )

    def _seconds(self) -> float:
        """Seconds of all parts of the run so far."""
        return round(time.perf_counter() - self.began, 3)

    def _close(self) -> None:
        try:
            if hasattr(self, "log"):
                self.log.close()
        finally:
            self.checkpoints.close()
