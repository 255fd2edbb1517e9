"""Checkpoints of a stage: the last and the best train state, through Orbax."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from logging import LogRecord
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from proda_jax.system import hosts
from proda_jax.system.files import MAKE_ROOM
from proda_jax.system.progress import phase

METRIC = "miou"


def is_news(record: LogRecord) -> bool:
    """Whether what a library has to say is worth a line over the progress bar.

    Most checkpoints are made between evaluations and have no score, of which Orbax warns each time. What goes wrong in
    its threads it shows several times with tracebacks, and raises it again where somebody waits for them.
    """
    return "tracked_metric" not in str(record.msg) and not (record.exc_info and "orbax" in record.pathname)


logging.get_absl_logger().addFilter(is_news)


class Manager(ocp.CheckpointManager):
    """Orbax's, which is not to ask JAX about preemptions: that is done after each step, and counted (`hosts`)."""

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The checkpoints of one stage.

    A checkpoint has two items: 'network' (params and batch_stats, what evaluation, prediction and later stages want)
    and 'training' (the rest of the train state, what continuing wants). Beside them stands the network's card, see
    `card.Card`.
    """

    def __init__(self, folder: epath.PathLike, *, writable: bool = True):
        """Opens the folder, which is made if need be; one that is not `writable` is left as it is.

        Raises:
          ValueError: a score is damaged, and the folder is to be left as it is.
        """
        best = keep.BestN(get_metric_fn=lambda metrics: metrics[METRIC], n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            # without best_fn no metrics are written, without the policy the latest one would go
            best_fn=lambda metrics: metrics[METRIC],
            best_mode="max",
            # the last but one is there in case that the last is damaged
            preservation_policy=keep.AnyPreservationPolicy([keep.LatestN(2), best]),
            create=writable,
            cleanup_tmp_directories=writable,  # of saves in which a run was killed
        )
        self._folder = epath.Path(folder).absolute()
        self._forget_damaged_scores(writable)
        self._manager = Manager(self._folder, options=options)

    def save(self, state: Any, miou: float | None, card: Mapping[str, Any] | None = None) -> None:
        """Saves a train state with its validation mIoU, if there is one, and card; goes on in the background."""
        training = state.replace(params=None, batch_stats=None)
        items = ocp.args.Composite(
            network=ocp.args.StandardSave(state.variables), training=ocp.args.StandardSave(training)
        )
        with phase("waiting until the checkpoint before is written", leave=False), self._writing():
            self._manager.save(int(state.step), args=items, metrics=_metrics(miou), custom_metadata=card)

    def save_network(self, variables: Any, miou: float | None = None, card: Mapping[str, Any] | None = None) -> None:
        """Saves a network that was not trained here, as step 0, in place of one that is there; see `save`."""
        if self.step() == 0:
            self._manager.delete(0)
        items = ocp.args.Composite(network=ocp.args.StandardSave(variables))
        with self._writing():
            self._manager.save(0, args=items, metrics=_metrics(miou), custom_metadata=card)

    def step(self, which: str = "last") -> int | None:
        """Step of the 'last' or 'best' checkpoint; None where there is none."""
        self._manager.wait_until_finished()
        return self._manager.best_step() if which == "best" else self._manager.latest_step()

    def restore(self, state: Any) -> Any:
        """The newest train state that can be read, in place of a state of the same shapes and shardings.

        Where an older one has to do, those that are damaged are put aside and named.

        Raises:
          ValueError: there are checkpoints, but none can be read.
        """
        training = state.replace(params=None, batch_stats=None)
        items = ocp.args.Composite(
            network=ocp.args.StandardRestore(abstract(state.variables)),
            training=ocp.args.StandardRestore(abstract(training)),
        )
        self._manager.wait_until_finished()
        damaged: dict[int, Exception] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            restored, error = None, None
            try:
                restored = self._manager.restore(step, args=items)
            except Exception as problem:  # what a damaged file leads to depends on where it is damaged
                error = problem
            if hosts.everywhere(error is None):
                self._put_aside(damaged, step)
                return restored.training.replace(**restored.network)
            damaged[step] = error or RuntimeError("another host cannot read it")
        newest = max(damaged)
        raise ValueError(
            f"no checkpoint in {self._folder} can be read, the newest, {newest}, because: {in_short(damaged[newest])}. "
            f"If that is damage, delete {self._folder.parent} to train this stage again"
        )

    def _put_aside(self, damaged: dict[int, Exception], good: int) -> None:
        """Renames checkpoints that cannot be read, now that an older one could be."""
        if not damaged:
            return
        if hosts.is_first():
            for step, error in damaged.items():
                aside = self._folder / f"{step}.damaged"
                print(f"checkpoint {self._folder / str(step)} cannot be read ({in_short(error)}): put aside as "
                      f"{aside.name}, going on from {good}")  # fmt: skip
                if aside.exists():
                    aside.rmtree()
                (self._folder / str(step)).rename(aside)
        hosts.wait("damaged checkpoints are put aside")
        self._manager.reload()

    def _forget_damaged_scores(self, writable: bool) -> None:
        """Deletes scores that cannot be read, with which Orbax would open nothing: the networks may be good."""
        if hosts.is_first() and self._folder.exists():
            for path in self._folder.glob("*/metrics/metrics"):
                try:
                    json.loads(path.read_text())
                except ValueError:
                    if not writable:
                        raise ValueError(f"{path} is damaged: delete {path.parent}, which forgets this score") from None
                    print(f"{path} is damaged: the score of this checkpoint is forgotten")
                    path.parent.rmtree()
        hosts.wait("scores can be read")

    def network(self, variables: Any, which: str = "last") -> Any:
        """Variables of the 'last' or 'best' network, in place of variables of the same shapes."""
        items, step = ocp.args.Composite(network=ocp.args.StandardRestore(abstract(variables))), self.step(which)
        try:
            return self._manager.restore(step, args=items).network
        except Exception as error:
            remedy = f"delete {self._folder.parent} to train this stage again"
            if which == "last":
                result = self._folder.parent / "result.json"
                remedy = f"delete {result} and give the same command again: an older one is tried"
            raise ValueError(
                f"checkpoint {self._folder / str(step)} cannot be read ({in_short(error)}): {remedy}"
            ) from error

    def close(self) -> None:
        """Waits for what is being saved."""
        with phase("writing the last checkpoint"), self._writing():
            self._manager.wait_until_finished()
        self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Says which checkpoints are good where one could not be written, be it that before, in the background."""
        try:
            yield
        except Exception as error:  # Orbax's, TensorStore's or the system's
            if (why := reason(error)) is None:
                raise
            good = [int(path.name) for path in self._folder.iterdir() if path.name.isdigit()]
            left = f"that of step {max(good)} is good" if good else "there is none before it"
            raise OSError(
                f"a checkpoint could not be written to {self._folder} ({why}); {left}. {MAKE_ROOM}"
            ) from error


def _metrics(miou: float | None) -> dict[str, float] | None:
    return None if miou is None else {METRIC: miou}


def card_in(checkpoint: epath.PathLike) -> dict[str, Any] | None:
    """The card in the folder of one checkpoint; None in those of older versions, which have none."""
    return _described(checkpoint).custom_metadata or None


def has_extra_norm(checkpoint: epath.PathLike) -> bool:
    """Whether the network in the folder of one checkpoint has the extra normalisation."""
    return "extra_norm" in _described(checkpoint).item_metadata.network.tree["params"]


def network_in(checkpoint: epath.PathLike, variables: Any) -> Any:
    """The network in the folder of one checkpoint, in place of variables of the same shapes.

    Raises:
      ValueError: it cannot be read, or is another network.
    """
    check_shapes(_described(checkpoint).item_metadata.network.tree, variables, f"checkpoint {checkpoint}")
    items = ocp.args.Composite(network=ocp.args.StandardRestore(abstract(variables)))
    try:
        with _reader() as reader:
            return reader.restore(epath.Path(checkpoint).absolute(), args=items).network
    except Exception as error:  # what a damaged file leads to depends on where it is damaged
        raise ValueError(f"checkpoint {checkpoint} cannot be read ({in_short(error)}): use another one") from error


def check_shapes(there: Any, wanted: Any, where: str) -> None:
    """Refuses variables of other names or shapes than are wanted.

    Raises:
      ValueError: with some that differ; `where` says what holds them.
    """
    held, wanted = _shapes(there), _shapes(wanted)
    if differing := sorted(name for name in held | wanted if held.get(name) != wanted.get(name)):
        some = (f"{name} is {held.get(name, 'missing')}, not {wanted.get(name, 'there')}" for name in differing[:3])
        raise ValueError(f"{where} holds another network than its card or the configuration says, in "
                         f"{len(differing)} of {len(held | wanted)} arrays: {'; '.join(some)}")  # fmt: skip


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each array, by its name."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _described(checkpoint: epath.PathLike) -> Any:
    """What Orbax notes about a checkpoint: its card, and shapes of its arrays.

    Raises:
      ValueError: that note is damaged.
    """
    try:
        with _reader() as reader:
            return reader.metadata(epath.Path(checkpoint).absolute())
    except Exception as error:
        raise ValueError(f"checkpoint {checkpoint} is damaged ({in_short(error)}): use another one") from error


def _reader() -> ocp.Checkpointer:
    """Reads the folder of one checkpoint, whatever its name; Orbax complains of items that it has no handler for."""
    items = {"network": ocp.StandardCheckpointHandler(), "training": ocp.StandardCheckpointHandler()}
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler(**items, metrics=ocp.JsonCheckpointHandler()))


def in_short(error: Exception) -> str:
    """The first line of a library's error."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def reason(error: Exception) -> str | None:
    """What the system said as something could not be written, be it in a library's words; None where that is not it."""
    if found := re.search(r"([^:]+) \[os_error_code=", str(error)):
        return found[1].strip()
    return error.strerror or str(error) if isinstance(error, OSError) else None


def abstract(tree: Any) -> Any:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
