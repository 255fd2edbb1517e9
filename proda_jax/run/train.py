"""The loop: any stage, any number of devices."""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from proda_jax.adaptation.state import TrainState
from proda_jax.run.cost import Cost
from proda_jax.run.records import History, Metrics
from proda_jax.system import devices, hosts
from proda_jax.system.checkpoints import Checkpoints
from proda_jax.system.interruption import Interruption, Stopped
from proda_jax.system.progress import phase, progress


class Writer(Protocol):
    """Of curves and panels, as clu's writers are."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None: ...


@dataclass(frozen=True)
class Schedule:
    """When the loop does what, in steps."""

    steps: int
    log_every: int
    evaluate_every: int
    save_every: int
    save_minutes: float
    max_skipped: int

    def logs(self, step: int) -> bool:
        return step % self.log_every == 0 or step == self.steps

    def evaluates(self, step: int) -> bool:
        return step % self.evaluate_every == 0 or step == self.steps

    def saves(self, step: int, since: float) -> bool:
        """Whether there is a checkpoint after this step, the last being `since` seconds old.

        Hosts save together, and their clocks differ: several of them go by the number of steps alone.
        """
        late = since >= 60.0 * self.save_minutes and jax.process_count() == 1
        return step % self.save_every == 0 or late or self.evaluates(step)


def train(
    compiled_for: Callable[[TrainState, Any, Any], Callable],
    state: TrainState,
    teacher: Any,
    batches_from: Callable[[int], Iterable[Any]],
    evaluate: Callable[[TrainState], dict] | None,
    schedule: Schedule,
    folder: epath.Path,
    mesh: Mesh,
    title: str,
    writer: Writer,
    interruption: Interruption,
    card: Mapping[str, Any] | None = None,
    before_scoring: Callable[[TrainState], TrainState] | None = None,
    cost: Cost | None = None,
) -> tuple[TrainState, History]:
    """Runs a stage from where it stands to its end, with an evaluation and a checkpoint every so often.

    Args:
      compiled_for: state, batch and teacher -> the mapped train step for arguments like these, compiled: (state, batch,
        teacher) -> (state, metrics), which takes over the state's memory.
      state: replicated state before the first step.
      teacher: replicated variables, or None.
      batches_from: gives host batches from a step on.
      evaluate: state -> what is noted of it, with 'miou' in percent where it is scored; None where nothing is.
      schedule: number of steps and intervals.
      folder: of the stage.
      mesh: the devices.
      title: for the progress bar.
      writer: gets the metrics of each logged step.
      interruption: whether the program is asked to stop.
      card: what each checkpoint says of its network, see `card.Card.as_json`.
      before_scoring: what is done to the state before it is evaluated and kept, if anything.
      cost: is told how long compiling took, of the step's memory, and of steps that are taken again.

    Returns:
      The last state and all evaluations.

    Raises:
      Stopped: the program was asked to stop; a checkpoint of the last step is complete.
      FloatingPointError: too many steps in a row had a loss, gradient or statistic that is not finite.
    """
    checkpoints = Checkpoints(folder / "checkpoints")
    if checkpoints.step():
        with phase(f"{title}: reading its last checkpoint"):
            state = checkpoints.restore(state)
    done = int(state.step)
    history, lines = History(folder / "history.jsonl", done), Metrics(folder / "metrics.jsonl", done)
    before = max(history.seconds, lines.seconds)
    if cost and lines.repeated:
        cost.repeats(lines.repeated)
    step, started = None, time.time()
    saved = started
    line: dict = {}  # of the last step that was logged
    bar = progress(title, schedule.steps, "steps", done=done)

    def score(number: int) -> dict:
        """Evaluates, and adds to the history."""
        scores: dict = {}
        if evaluate is not None:
            scores = evaluate(state)
            if "miou" in scores:
                writer.write_scalars(number, {"validation_miou": scores["miou"]})
        history.add({"step": number, "seconds": round(before + time.time() - started, 1)} | scores)
        return scores

    # what is being saved is kept where the run is interrupted
    with contextlib.closing(checkpoints), contextlib.closing(lines), bar, interruption:
        for number, batch in zip(
            range(done + 1, schedule.steps + 1), devices.prefetch(batches_from(done), mesh), strict=False
        ):
            if step is None:  # ahead of time, so that another shape is an error and not a compilation
                with bar.during("compiling"):
                    began = time.time()
                    step = compiled_for(state, batch, teacher)
                if cost:
                    cost.compiled(step, time.time() - began)
                lines.go_on()
            state, metrics = step(state, batch, teacher)
            devices.block_on_cpu(metrics)
            lines.count(sum(len(batch[domain]["image"]) for domain in ("source", "target") if domain in batch))
            bar.update()
            if schedule.logs(number):
                values = {name: float(value) for name, value in metrics.items()}
                line = lines.add(number, before + time.time() - started, values)
                check_finite(state, values, number, schedule)
                bar.show(in_short(history, line))
                writer.write_scalars(number, values | {"images_per_second": line["images_per_second"]})
            scores = {}
            if schedule.evaluates(number):
                state = before_scoring(state) if before_scoring else state
                scores = score(number)
                lines.go_on()
                bar.show(in_short(history, line))
                bar.refresh()
            stopping = hosts.is_preempted() or interruption.wished
            if stopping or schedule.saves(number, time.time() - saved):
                lines.write()
                checkpoints.save(state, scores.get("miou"), card)
                saved = time.time()
                lines.go_on()
            if stopping:
                interruption.wished = True  # which ends the run, if this was the last step
            if stopping and number < schedule.steps:
                raise Stopped(f"{title} stopped after step {number} of {schedule.steps}")
        if not history.entries:  # somebody deleted it, after the last step
            score(schedule.steps)
    return state, history


def check_finite(state: TrainState, metrics: dict[str, float], step: int, schedule: Schedule) -> None:
    """Ends a training that has gone astray, with what is known about it."""
    total, in_row = np.asarray(state.skipped)
    if in_row < schedule.max_skipped:
        return
    bad = ", ".join(name for name, value in metrics.items() if not np.isfinite(value)) or "statistics or prototypes"
    raise FloatingPointError(
        f"the last {in_row} steps up to step {step} were left out, {total} in all, as these were not finite: {bad}. "
        "The network is still that of the last good step. Likely causes: a learning rate that is too high, bfloat16 "
        "where float32 is needed, weights for another input convention"
    )


def in_short(history: History, line: dict[str, float | None]) -> list[str]:
    """How a training is doing, from its last score and the line of a logged step; the first words matter most."""
    last = history.entries[-1] if history.entries else {}
    words = [f"{line['images_per_second']:.3g} images/s"] if "images_per_second" in line else []
    words += [f"mIoU {last['miou']:.1f}"] if last.get("miou") is not None else []
    besides = [name for name in ("gradient_norm", "skipped") if line.get(name)]
    losses = [name for name in line if name not in ("step", "seconds", "images_per_second", "gradient_norm", "skipped")]
    return words + [f"{name} {line[name]:.3g}" for name in (*losses, *besides) if line[name] is not None]


def merge_batches(source: Iterable[dict] | None, target: Iterable[dict] | None, first_slot: int) -> Iterable[dict]:
    """Batches as the steps take them: {'source', 'target', 'slot'}.

    Args:
      source: batches of labelled images, or None where there are none.
      target: batches of target images, or None where the stage has no use for them.
      first_slot: place in the global batch of this host's first example.
    """
    domains = {name: given for name, given in (("source", source), ("target", target)) if given is not None}
    for images in zip(*domains.values(), strict=False):
        slots = np.arange(len(images[0]["record"]), dtype=np.int32) + first_slot
        yield {"slot": slots} | {
            name: {k: v for k, v in batch.items() if k != "record"}
            for name, batch in zip(domains, images, strict=True)
        }
