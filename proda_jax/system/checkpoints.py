"""Checkpoints of a stage: the last and the best train state, through Orbax."""

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from logging import LogRecord
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from proda_jax.system import checkpoint_digests, digests, hosts
from proda_jax.system.files import MAKE_ROOM
from proda_jax.system.progress import phase
from proda_jax.system.trees import Form, abstract, forms, on_host, one_replica

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


class DigestHandler(ocp.AsyncCheckpointHandler):
    """Writes what a checkpoint says of itself, see `checkpoint_digests`."""

    async def async_save(self, directory: epath.Path, args: "DigestSave") -> list[ocp.future.Future]:
        """Takes the arrays now, as training goes on with their memory; digests are computed in the background."""
        if not hosts.is_first():
            return []
        items = {name: on_host(tree) for name, tree in args.items.items()}

        async def write() -> None:
            contents = checkpoint_digests.text(items, args.card, args.score)
            (directory / checkpoint_digests.FILE).write_text(contents)

        return [ocp.future.CommitFutureAwaitingContractedSignals(write(), name="digest")]

    def save(self, directory: epath.Path, args: "DigestSave") -> None:
        """Not asked for: managers save asynchronously."""
        raise NotImplementedError

    def restore(self, directory: epath.Path, args: ocp.args.CheckpointArgs | None = None) -> None:
        """Not asked for: `checkpoint_digests.read` needs no Orbax."""
        raise NotImplementedError


@ocp.args.register_with_handler(DigestHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class DigestSave(ocp.args.CheckpointArgs):
    """What `DigestHandler` saves: the trees of the other items, and the card and the score beside them."""

    items: Mapping[str, Any]
    card: Mapping[str, Any]
    score: Mapping[str, float] | None


class Checkpoints:
    """The checkpoints of one stage.

    A checkpoint has two items: 'network' (params and batch_stats, what evaluation, prediction and later stages want)
    and 'training' (the rest of the train state, what continuing wants). Beside them stands the network's card, see
    `card.Card`, and what `checkpoint_digests` tells damage by.
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
        with phase("waiting until the checkpoint before is written", leave=False):
            self._save(int(state.step), {"network": state.variables, "training": state.rest}, miou, card)

    def save_network(self, variables: Any, miou: float | None = None, card: Mapping[str, Any] | None = None) -> None:
        """Saves a network that was not trained here, as step 0, in place of one that is there; see `save`."""
        if self.step() == 0:
            self._manager.delete(0)
        self._save(0, {"network": variables}, miou, card)

    def _save(self, step: int, items: dict[str, Any], miou: float | None, card: Mapping[str, Any] | None) -> None:
        items = jax.tree.map(one_replica, items)
        score = None if miou is None else {METRIC: miou}
        card = {**(card or {}), **checkpoint_digests.MARK}
        saved = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        saved[checkpoint_digests.ITEM] = DigestSave(items, card, score)
        with self._writing():
            self._manager.save(step, args=ocp.args.Composite(**saved), metrics=score, custom_metadata=card)

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
        wanted = {"network": state.variables, "training": state.rest}
        self._manager.wait_until_finished()
        damaged: dict[int, Exception] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            restored, error = None, None
            try:
                restored = _restored(self._manager.restore, self._folder / str(step), wanted, step)
            except Exception as problem:  # what a damaged file leads to depends on where it is damaged
                error = problem
            if hosts.everywhere(error is None):
                self._put_aside(damaged, step)
                return state.restored(restored["network"], restored["training"])
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
                    check_score(path)
                except ValueError:
                    if not writable:
                        raise ValueError(f"{path} is damaged: delete {path.parent}, which forgets this score") from None
                    print(f"{path} is damaged: the score of this checkpoint is forgotten")
                    path.parent.rmtree()
        hosts.wait("scores can be read")

    def network(self, variables: Any, which: str = "last") -> Any:
        """Variables of the 'last' or 'best' network, in place of variables of the same shapes."""
        step = self.step(which)
        try:
            return _restored(self._manager.restore, self._folder / str(step), {"network": variables}, step)["network"]
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


def card_in(checkpoint: epath.PathLike) -> dict[str, Any] | None:
    """The card in the folder of one checkpoint; None in those of older versions, which have none.

    Raises:
      ValueError: it is damaged.
    """
    try:
        checkpoint_digests.read(checkpoint)  # which compares the card
        card = checkpoint_digests.card_in(checkpoint)
    except digests.Damaged as error:
        raise ValueError(f"checkpoint {checkpoint} is damaged ({error}): use another one") from error
    return {name: value for name, value in card.items() if name not in checkpoint_digests.MARK} or None


def has_extra_norm(checkpoint: epath.PathLike) -> bool:
    """Whether the network in the folder of one checkpoint has the extra normalisation."""
    return "extra_norm" in _described(checkpoint).item_metadata.network.tree["params"]


def network_in(checkpoint: epath.PathLike, variables: Any) -> Any:
    """The network in the folder of one checkpoint, in place of variables of the same shapes.

    Raises:
      ValueError: it cannot be read, or is another network.
    """
    checkpoint = epath.Path(checkpoint).absolute()
    try:
        with _reader() as reader:
            return _restored(reader.restore, checkpoint, {"network": variables}, checkpoint)["network"]
    except Another as error:
        raise ValueError(f"checkpoint {checkpoint} {error}") from error
    except Exception as error:  # what a damaged file leads to depends on where it is damaged
        raise ValueError(f"checkpoint {checkpoint} cannot be read ({in_short(error)}): use another one") from error


class Another(ValueError):
    """A checkpoint holds arrays of other names, shapes or types than are wanted; the message does not name it."""


def _restored(restore: Callable, checkpoint: epath.Path, wanted: Mapping[str, Any], where: Any) -> dict[str, Any]:
    """Items of a checkpoint, as they were written.

    Orbax casts to the type of what it is given, and gives NumPy arrays the shape that is stored, so both are compared.

    Args:
      restore: Orbax's, of what reads the checkpoint.
      checkpoint: its folder.
      wanted: arrays or shapes, in trees by the names of the items.
      where: what `restore` calls the checkpoint.

    Raises:
      Another: the checkpoint holds something else.
      Exception: it is damaged; what that leads to depends on where it is damaged.
    """
    noted = checkpoint_digests.read(checkpoint)
    described = _described(checkpoint).item_metadata if noted is None else None
    for item, tree in wanted.items():
        held = forms(described[item].tree) if noted is None else checkpoint_digests.forms(noted, item)
        check_fits(held, forms(tree))
    items = {item: ocp.args.StandardRestore(abstract(tree)) for item, tree in wanted.items()}
    found = restore(where, args=ocp.args.Composite(**items))
    for item in wanted if noted is not None else ():
        checkpoint_digests.check(noted["arrays"][item], on_host(found[item]))
    return {item: found[item] for item in wanted}


def check_fits(held: dict[str, Form], wanted: dict[str, Form]) -> None:
    """Compares the arrays that a checkpoint holds with those that are wanted.

    Raises:
      Another: some differ.
    """
    differing = sorted(name for name in held | wanted if held.get(name) != wanted.get(name))
    if differing:
        some = (f"{name} is {_written(held.get(name), 'missing')}, not {_written(wanted.get(name), 'there')}"
                for name in differing[:3])  # fmt: skip
        raise Another("holds another network than its card or the configuration says, in "
                      f"{len(differing)} of {len(held | wanted)} arrays: {'; '.join(some)}")  # fmt: skip


def check_shapes(there: Any, wanted: Any, where: str) -> None:
    """Refuses variables of other names, shapes or types than are wanted.

    Raises:
      ValueError: with some that differ; `where` says what holds them.
    """
    try:
        check_fits(forms(there), forms(wanted))
    except Another as error:
        raise ValueError(f"{where} {error}") from error


def _written(form: Form | None, none: str) -> str:
    return f"{form[0]} {form[1]}" if form else none


def check_score(path: epath.Path) -> None:
    """Compares the score beside a checkpoint with what that says of it.

    Args:
      path: of the score, <checkpoint>/metrics/metrics.

    Raises:
      ValueError: the score is damaged; where the checkpoint's own account is, that shows when its arrays are read.
    """
    score, noted = json.loads(path.read_text()), None
    with contextlib.suppress(digests.Damaged):
        noted = checkpoint_digests.read(path.parent.parent)
    if noted is not None and noted["score"] != digests.of_json(score):
        raise digests.Damaged("the score has changed since it was written")


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
    items[checkpoint_digests.ITEM] = DigestHandler()
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler(**items, metrics=ocp.JsonCheckpointHandler()))


def in_short(error: Exception) -> str:
    """The first line of a library's error, without Orbax's words on where more of it lies."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return re.split(r"[.:] See full TensorStore", line)[0][:160]


def reason(error: Exception) -> str | None:
    """What the system said as something could not be written, be it in a library's words; None where that is not it."""
    if found := re.search(r"([^:]+) \[os_error_code=", str(error)):
        return found[1].strip()
    return error.strerror or str(error) if isinstance(error, OSError) else None
