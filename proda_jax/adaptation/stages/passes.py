"""Passes of the trained network, and their gradients: one after another, so one pass's activations live at a time.

Passes that are alike in all but their images and losses are iterations of a loop: XLA compiles network and gradient
once for all of them. Losses are the branches of a switch between the network and its gradient, so that a turn computes
what the pass alone would, and keeps nothing for a later one.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from proda_jax.adaptation import statistics
from proda_jax.adaptation.stages.setup import Setup
from proda_jax.adaptation.state import TrainState
from proda_jax.models.heads import Output

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Pass:
    """A pass of the trained network over images, and a loss of what it says of them.

    Attributes:
      images: RGB in [0, 1], [batch, height, width, 3].
      keys: of dropout, [batch], or None.
      loss: output -> (loss, what is reported beside it), in shares.
      domain: of the images, see `statistics.moved_by`.
      encoded: whether the output has what the backbone gives, too.
      places: of windows at full size, see `SegmentationNetwork`; None: the network has one resolution.
    """

    images: jax.Array
    keys: jax.Array | None
    loss: Callable[[Output], tuple[jax.Array, Metrics]]
    domain: str = "target"
    encoded: bool = False
    places: jax.Array | None = None

    @property
    def form(self) -> tuple:
        """Equal for passes that can be iterations of one loop."""
        leaves, tree = jax.tree.flatten((self.images, self.keys, self.places))
        return tuple(map(jax.typeof, leaves)), tree, self.encoded


def forward(
    setup: Setup, params: Any, batch_stats: Any, taken: Pass, moves: bool | jax.Array | None = None
) -> tuple[Output, Any]:
    """A pass of the trained network: its own batch for batch normalisation, which moves the running statistics.

    Args:
      setup: `stage.batch_norm` 'frozen' uses running statistics and leaves them alone.
      params, batch_stats: of the network.
      taken: the pass.
      moves: whether it moves running statistics; None: what `stage.statistics` says of its domain.

    Returns:
      The output and the running statistics after it.
    """
    variables, kept = {"params": params, "batch_stats": batch_stats}, ["intermediates"] if taken.encoded else []
    train = setup.stage.batch_norm != "frozen"
    windows = {} if taken.places is None else {"places": taken.places}
    output, updates = setup.model.apply(
        variables, taken.images, train=train, dropout_keys=taken.keys,
        mutable=["batch_stats", *kept] if train else kept, **windows,
    )  # fmt: skip
    if taken.encoded:
        output = output.replace(encoded=updates["intermediates"]["encoded"][0])
    moves = statistics.moved_by(setup.stage, taken.domain) if moves is None else moves
    if not train or moves is False:
        return output, batch_stats
    if moves is True:
        return output, updates["batch_stats"]
    return output, jax.tree.map(lambda new, old: jnp.where(moves, new, old), updates["batch_stats"], batch_stats)


def gradients(
    setup: Setup, state: TrainState, batch_stats: Any, passes: Sequence[Pass]
) -> tuple[Any, Any, list[Metrics]]:
    """Gradient of the sum of the losses of passes.

    Args:
      setup: `scan_passes` says whether neighbours that are alike are iterations of a loop.
      state: holds the parameters.
      batch_stats: running statistics before the first pass; each has those after the one before it.
      passes: one at least.

    Returns:
      gradient, running statistics after the last pass, what the losses report, of each pass.
    """
    sums, found = [], []
    for _, alike in itertools.groupby(passes, key=lambda taken: taken.form):
        group = list(alike)
        if setup.scan_passes and len(group) > 1:
            gradient, batch_stats, metrics = in_a_loop(setup, state, batch_stats, group)
        else:
            gradient, batch_stats, metrics = one_by_one(setup, state, batch_stats, group)
        sums, found = [*sums, gradient], [*found, *metrics]
    return add(*sums), batch_stats, found


def one_by_one(
    setup: Setup, state: TrainState, batch_stats: Any, passes: Sequence[Pass]
) -> tuple[Any, Any, list[Metrics]]:
    """See `gradients`; each pass is traced by itself."""
    found, metrics = [], []
    for taken in passes:

        def loss(params: Any, taken: Pass = taken, before: Any = batch_stats) -> tuple[jax.Array, tuple[Any, Metrics]]:
            output, after = forward(setup, params, before, taken)
            value, reported = taken.loss(output)
            return value, (after, reported)

        gradient, (batch_stats, reported) = jax.grad(loss, has_aux=True)(state.params)
        found, metrics = [*found, gradient], [*metrics, reported]
    return add(*found), batch_stats, metrics


def in_a_loop(
    setup: Setup, state: TrainState, batch_stats: Any, passes: Sequence[Pass]
) -> tuple[Any, Any, list[Metrics]]:
    """See `gradients`, for passes of one form."""
    moves = [statistics.moved_by(setup.stage, taken.domain) for taken in passes]
    arrays = jax.tree.map(lambda *of: jnp.stack(of), *((taken.images, taken.keys, taken.places) for taken in passes))
    losses = [jax.grad(taken.loss, has_aux=True) for taken in passes]
    names: list[set[str]] = []  # of what each reports, known once the loop is traced

    def turn(so_far: tuple, given: tuple) -> tuple[tuple, Metrics]:
        gradient, stats = so_far
        number, moved, (images, keys, places) = given
        taken = Pass(images, keys, passes[0].loss, encoded=passes[0].encoded, places=places)
        output, pull, stats = jax.vjp(
            lambda params: forward(setup, params, stats, taken, moves[0] if len(set(moves)) == 1 else moved),
            state.params, has_aux=True,
        )  # fmt: skip
        reported = [jax.eval_shape(loss, output)[1] for loss in losses]
        names[:] = map(set, reported)
        all_of_them = {name: shape for of_one in reported for name, shape in of_one.items()}
        nothing = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), all_of_them)

        def branch(loss: Callable) -> Callable:
            def run(output: Output) -> tuple[Output, Metrics]:
                slope, metrics = loss(output)
                return slope, nothing | metrics

            return run

        slope, metrics = jax.lax.switch(number, list(map(branch, losses)), output)
        return (add(gradient, *pull(slope)), stats), metrics

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    count = len(passes)
    (gradient, batch_stats), metrics = jax.lax.scan(
        turn, (zeros, batch_stats), (jnp.arange(count), jnp.array(moves), arrays)
    )
    return gradient, batch_stats, [
        jax.tree.map(lambda x, i=i: x[i], {name: metrics[name] for name in own}) for i, own in enumerate(names)
    ]


def merged(gradient: Any, batch_stats: Any, metrics: Sequence[Metrics]) -> tuple[Any, Any, Metrics]:
    """What `gradients` returns, with the metrics of all passes together."""
    return gradient, batch_stats, {name: value for of_one in metrics for name, value in of_one.items()}


def add(*gradients: Any) -> Any:
    """Sum of gradients, leaf by leaf."""
    return jax.tree.map(lambda *leaves: sum(leaves), *gradients)
