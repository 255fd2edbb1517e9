"""Checkpoints of a stage: the last and the best train state, through Orbax."""

from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

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
            preservation_policy=keep.AnyPreservationPolicy([keep.LatestN(1), best]),
        )
        self._manager = ocp.CheckpointManager(epath.Path(folder).absolute(), options=options)

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
        """The last train state, in place of a state of the same shapes and shardings."""
        training = state.replace(params=None, batch_stats=None)
        items = ocp.args.Composite(
            network=ocp.args.StandardRestore(abstract(state.variables)),
            training=ocp.args.StandardRestore(abstract(training)),
        )
        restored = self._manager.restore(self.step(), args=items)
        return restored.training.replace(**restored.network)

    def network(self, variables: Any, which: str = "last") -> Any:
        """Variables of the 'last' or 'best' network, in place of variables of the same shapes."""
        items = ocp.args.Composite(network=ocp.args.StandardRestore(abstract(variables)))
        return self._manager.restore(self.step(which), args=items).network

    def close(self) -> None:
        """Waits for what is being saved."""
        self._manager.wait_until_finished()
        self._manager.close()


def abstract(tree: Any) -> Any:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
