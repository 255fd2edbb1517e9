"""What adversarial stages ask of their discriminators: what these see, and how far their scores are from a domain's.

A stage has one discriminator for the network's prediction, and may have a second one for its auxiliary head, whose
parameters lie among those of the first, as 'auxiliary'. PatchAlign's two networks, 'modes' and 'critic', lie there as
'patches'.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from proda_jax.adaptation import losses
from proda_jax.models.discriminator import Discriminator, PatchModes
from proda_jax.models.heads import Output
from proda_jax.models.precision import at_least_float32
from proda_jax.models.resizing import resize_align_corners

SOURCE, TARGET = 0.0, 1.0  # what discriminators call the domains
MAIN, AUXILIARY = 0, 1  # which of the discriminators, and what these see: the network's output, the auxiliary head's,
MAIN_HEAD = 2  # or the main head alone
CLASSES = "classes"  # the adversarial loss whose discriminators score (domain, class)

Settings = ml_collections.ConfigDict
Size = tuple[int, int]  # height and width


def scored(output: Output, which: int) -> jax.Array:
    """Logits [batch, h, w, classes] that a discriminator judges: of the network, or of one of its heads."""
    return output.logits if which == MAIN else output.heads[1 if which == AUXILIARY else 0]


def probabilities(output: Output, which: int, size: Size) -> jax.Array:
    """Softmax of the logits at the image's size (AdaptSegNet)."""
    logits = resize_align_corners(scored(output, which), size)
    return jax.nn.softmax(logits.astype(at_least_float32(logits.dtype)), axis=-1)


def information(output: Output, which: int, size: Size) -> jax.Array:
    """Weighted self-information of the logits (ADVENT, Equation 4)."""
    return losses.self_information(probabilities(output, which, size))


def features(output: Output, which: int, size: Size) -> jax.Array:
    """The network's features, of the size that they have (FADA)."""
    return output.features


# What a discriminator sees, [batch, h, w, channels]: (output, which of them, size of the image) -> maps
MAPS: dict[str, Callable[[Output, int, Size], jax.Array]] = {
    "probabilities": probabilities,
    "information": information,
    "features": features,
}


def initialise(discriminator: Discriminator, key: jax.Array, stage: Settings, output: Output, size: Size) -> Any:
    """Parameters of a stage's discriminators.

    Args:
      discriminator: both of them have its layers.
      key: a random key.
      stage: its settings.
      output: shapes of the network's output.
      size: of the images.
    """
    def of(which: int, key: jax.Array) -> Any:
        shown = jax.eval_shape(lambda output: MAPS[stage.adversarial_on](output, which, size), output)
        return jax.jit(discriminator.init)(key, jnp.zeros((1, *shown.shape[1:])))["params"]

    params = of(MAIN, key)
    if stage.auxiliary_adversarial_weight:
        params = params | {"auxiliary": of(AUXILIARY, jax.random.fold_in(key, 1))}
    if stage.patch_modes:
        shown = jax.eval_shape(lambda output: probabilities(output, MAIN, size), output)
        modes, critic = patch_networks(stage, discriminator.dtype)
        scores, found = modes.init_with_output(jax.random.fold_in(key, 2), jnp.zeros((1, *shown.shape[1:])))
        critic = critic.init(jax.random.fold_in(key, 3), scores)
        params = params | {"patches": {"modes": found["params"], "critic": critic["params"]}}
    return params


def patch_networks(stage: Settings, dtype: Any) -> tuple[PatchModes, Discriminator]:
    """The layers that say which mode a patch is of, and those that judge by it which domain it is from (PatchAlign)."""
    modes = PatchModes(stage.patch_modes, tuple(stage.patch_size), stage.patch_channels, dtype)
    return modes, Discriminator((256, 512), dtype, kernel=1, stride=1, leaky=True)


def adversarial_loss(
    discriminator: Discriminator,
    params: Any,
    output: Output,
    which: int,
    domain: float,
    stage: Settings,
    *,
    size: Size,
    shares: int,
    shown: int | None = None,
    weigh: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """How far a discriminator is from taking an output for one of a domain.

    Args:
      discriminator, params: see `initialise`.
      output: of the network.
      which: MAIN or AUXILIARY.
      shown: what it sees of the output; None: as `which`.
      domain: SOURCE or TARGET.
      stage: its settings.
      size: of the images, height and width.
      shares: micro-batches of all devices.
      weigh: scores -> weights of their losses, [batch, h, w, 1]; None: all count alike.

    Returns:
      The share of the mean over all scores, a scalar; of a discriminator of several scales the sum over them.
    """
    shown = which if shown is None else shown
    scores = apply(discriminator, params, which, MAPS[stage.adversarial_on](output, shown, size))
    return sum(domain_loss(one, output, shown, domain, stage, size, shares, weigh) for one in scores)


def apply(discriminator: Discriminator, params: Any, which: int, maps: jax.Array) -> tuple[jax.Array, ...]:
    """Scores of one of the discriminators, [batch, h, w, outputs] of each of its scales."""
    own = params if which == MAIN else params["auxiliary"]
    scores = discriminator.apply({"params": {k: v for k, v in own.items() if k not in ("auxiliary", "patches")}}, maps)
    return scores if isinstance(scores, tuple) else (scores,)


def domain_loss(
    scores: jax.Array, output: Output, shown: int, domain: float, stage: Settings, size: Size, shares: int,
    weigh: Callable[[jax.Array], jax.Array] | None,
) -> jax.Array:  # fmt: skip
    """How far scores of one scale are from a domain's; see `adversarial_loss`."""
    if stage.scores_at == "image":
        scores = resize_align_corners(scores, size)
    total = jnp.int32(scores[..., 0].size * shares)
    if stage.gan == CLASSES:
        labels = soft_labels(resize_align_corners(scored(output, shown), scores.shape[1:3]), stage)
        halves = [labels, jnp.zeros_like(labels)] if domain == SOURCE else [jnp.zeros_like(labels), labels]
        everywhere = jnp.ones(labels.shape[:-1], bool)
        return losses.soft_cross_entropy(scores, jnp.concatenate(halves, axis=-1), everywhere, total=total)
    weights = None if weigh is None else weigh(scores)
    return losses.gan_loss(scores, domain, kind=stage.gan, total=total, weights=weights)


def gradient_penalty(
    discriminator: Discriminator, params: Any, output: Output, which: int, stage: Settings, *, size: Size,
    images: jax.Array,
) -> jax.Array:  # fmt: skip
    """Gradient penalty of a discriminator at the output for the source, of each scale by itself (Seg-Uncertainty).

    Args:
      discriminator, params, output, which, stage, size: see `adversarial_loss`.
      images: number of images in the whole batch.

    Returns:
      The share of the mean over images of the squared norm of the gradient of the sum of scores, a scalar.
    """
    maps = MAPS[stage.adversarial_on](output, MAIN, size)
    scores, pullback = jax.vjp(lambda maps: tuple(map(jnp.sum, apply(discriminator, params, which, maps))), maps)
    each = jnp.eye(len(scores), dtype=scores[0].dtype)
    return jnp.sum(jax.vmap(lambda one: pullback(tuple(one))[0])(each) ** 2) / images


def soft_labels(logits: jax.Array, stage: Settings) -> jax.Array:
    """Class knowledge of FADA: softmax(logits / temperature), at most `soft_label_limit`, not made to add up again.

    Args:
      logits: [batch, h, w, classes].
      stage: its settings.

    Returns:
      Of that shape; no gradient flows into it.
    """
    labels = jax.nn.softmax(logits / stage.logit_temperature, axis=-1)
    return jax.lax.stop_gradient(jnp.minimum(labels, stage.soft_label_limit))


def local_weight(output: Output, scores: jax.Array, step: jax.Array, stage: Settings) -> jax.Array:
    """How much each score counts: more where the two heads disagree (CLAN, Equation 6).

    Args:
      output: of a network with two heads.
      scores: of a discriminator, [batch, h, w, 1].
      step: number of steps taken; up to `local_after` all count alike.
      stage: its settings: floor + weight * (1 - cosine).

    Returns:
      [batch, h, w, 1]. Gradients flow through it, as in the released code.
    """
    first, second = (
        jax.nn.softmax(resize_align_corners(logits, scores.shape[1:3]), axis=-1) for logits in output.heads
    )
    weights = stage.local_floor + stage.local_weight * losses.disagreement(first, second)[..., None]
    return jnp.where(step > stage.local_after, weights, 1.0)
