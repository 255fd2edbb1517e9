"""Checkpoints of a stage: the last and the best train state, through Orbax."""

from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from proda_jax import hosts

METRIC = "miou"


class Checkpoints:
    """The checkpoints of one stage.

    A checkpoint has two items: 'network' (params and batch_stats, what evaluation, prediction and later stages want)
    and 'training' (the rest of the train state, what continuing wants).
    """

    def __init__(self, folder: epath.PathLike):
        best = keep.BestN(get_metric_fn=lambda metrics: metrics[METRIC], n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            # without best_fn no metrics are written, without the policy the latest one would go
            best_fn=lambda metrics: metrics[METRIC],
            best_mode="max",
            # the last but one is there in case that the last is damaged
            preservation_policy=keep.AnyPreservationPolicy([keep.LatestN(2), best]),
        )
        self._folder = epath.Path(folder).absolute()
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(self, state: Any, miou: float | None) -> None:
        """Saves a train state with its validation mIoU, if there is one; goes on in the background."""
        training = state.replace(params=None, batch_stats=None)
        items = ocp.args.Composite(
            network=ocp.args.StandardSave(state.variables), training=ocp.args.StandardSave(training)
        )
        self._manager.save(int(state.step), args=items, metrics=None if miou is None else {METRIC: miou})

    def save_network(self, variables: Any) -> None:
        """Saves a network that was not trained here, as step 0, in place of one that is there."""
        if self.step() == 0:
            self._manager.delete(0)
        self._manager.save(0, args=ocp.args.Composite(network=ocp.args.StandardSave(variables)))

    def step(self, which: str = "last") -> int | None:
        """Step of the 'last' or 'best' checkpoint; None where there is none."""
        self._manager.wait_until_finished()
        return self._manager.best_step() if which == "best" else self._manager.latest_step()

    def restore(self, state: Any) -> Any:
        """The newest train state that can be read, in place of a state of the same shapes and shardings.

        Damaged checkpoints are put aside and named.

        Raises:
          ValueError: there are checkpoints, but none can be read.
        """
        training = state.replace(params=None, batch_stats=None)
        items = ocp.args.Composite(
            network=ocp.args.StandardRestore(abstract(state.variables)),
            training=ocp.args.StandardRestore(abstract(training)),
        )
        self._manager.wait_until_finished()
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self._manager.restore(step, args=items)
                return restored.training.replace(**restored.network)
            except Exception as error:  # what a damaged file leads to depends on where it is damaged
                self._put_aside(step, error)
        raise ValueError(
            f"no checkpoint in {self._folder} can be read: delete {self._folder.parent} to train this stage again"
        )

    def _put_aside(self, step: int, error: Exception) -> None:
        damaged = self._folder / str(step)
        aside = self._folder / f"{step}.damaged"
        print(f"checkpoint {damaged} cannot be read ({in_short(error)}): put aside as {aside.name}, next an older one")
        hosts.wait("all have found the checkpoint damaged")
        if hosts.is_first():
            if aside.exists():
                aside.rmtree()
            damaged.rename(aside)
        hosts.wait("the damaged checkpoint is put aside")
        self._manager.reload()

    def network(self, variables: Any, which: str = "last") -> Any:
        """Variables of the 'last' or 'best' network, in place of variables of the same shapes."""
        items, step = ocp.args.Composite(network=ocp.args.StandardRestore(abstract(variables))), self.step(which)
        try:
            return self._manager.restore(step, args=items).network
        except Exception as error:
            raise ValueError(
                f"checkpoint {self._folder / str(step)} cannot be read ({in_short(error)}): delete "
                f"{self._folder.parent / 'result.json'} and give the same command again: an older one is tried"
            ) from error

    def is_preempted(self, step: int) -> bool:
        """Whether the machine is about to be taken away; all hosts agree on the step. Only several hosts are told."""
        return jax.process_count() > 1 and self._manager.reached_preemption(step)

    def close(self) -> None:
        """Waits for what is being saved."""
        self._manager.wait_until_finished()
        self._manager.close()


def in_short(error: Exception) -> str:
    """The first line of a library's error."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def abstract(tree: Any) -> Any:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
