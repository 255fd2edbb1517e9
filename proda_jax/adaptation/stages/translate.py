"""Translation: generators learn to give source images the target's look, and back (CyCADA, arXiv:1711.03213; BDL).

Two cycles, source -> target -> source and the other way round, each with a discriminator that is to take a translation
for an image of its domain; a network that was trained before, and stays as it is, is to see in a translation what it
sees in the image. What later stages get are the translated source images, see `models.translator.translated`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from proda_jax.adaptation import image_pool, losses, translation, views
from proda_jax.adaptation.stages import acts, passes
from proda_jax.adaptation.stages import step as steps
from proda_jax.adaptation.state import TrainState
from proda_jax.models.translator import TO_SOURCE, TO_TARGET

ACTS_BESIDE: tuple[acts.Rule, ...] = (
    (
        ("weights", "reduction", "fourier_beta", "batch_norm", "statistics", "backbone_rate", "layer_decay",
         "backbone_steps", "source_images", "rare_class_sampling", "largest_class"),
        lambda s: False,
        "a stage that labels pixels",
    ),
    (("semantic",), lambda s: s.semantic_weight > 0 or s.semantic_again_weight > 0,
     "semantic_weight or semantic_again_weight above 0"),
    (("window_overlap",), lambda s: len(s.window) > 0, "a window"),
)  # fmt: skip
MADE, REAL = 0.0, 1.0  # what discriminators call translations and images
# each domain's generator to the other domain, and the one back
WAYS = {"source": (TO_TARGET, TO_SOURCE), "target": (TO_SOURCE, TO_TARGET)}
OTHER = {"source": "target", "target": "source"}


def train_step(state: TrainState, batch: steps.Batch, teacher: Any, *, setup: steps.Setup):
    """One step of both generators, then of both discriminators, on one device's share of the images.

    Args:
      state: train state with discriminators and, if the stage has one, a pool.
      batch: 'source' and 'target': {'image' [batch, height, width, 3] uint8}, 'slot' [batch] int32.
      teacher: variables of the frozen network.
      setup: what the step needs besides.

    Returns:
      (state, metrics)
    """
    slots, target = batch["slot"], batch["target"]["image"]
    source, _ = steps.labelled_view(setup, state, batch["source"], slots)
    view = steps.weak_target_view(setup, state, target, slots)
    examples = {
        "source": 2.0 * source - 1.0,
        "target": views.weak_image(target, view, setup.crop_size) / 127.5 - 1.0,
        "draw": None,
    }
    if state.pool is not None:
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), steps.POOL)
        examples["draw"] = image_pool.draw(state.pool, key, slots)

    def gradient_of(pool: Any, part: dict):
        objective, critics = Objective(setup, teacher), state.discriminator.params
        gradient, made, metrics = objective.generators(state.params, critics, part)
        seen = made
        if pool is not None:
            seen = {name: image_pool.shown(state.pool, part["draw"], name, image) for name, image in made.items()}
            pool = image_pool.put(pool, part["draw"], made, setup.axis_name)
        loss, of_critics = jax.value_and_grad(objective.discriminators)(critics, part, seen)
        return (gradient, of_critics), pool, metrics | {"discriminator": loss}

    (gradient, of_critics), pool, metrics = steps.accumulate(setup, gradient_of, state.pool, examples)
    if pool is not None:
        everywhere = steps.reduce(setup, jnp.int32(len(slots)))
        pool = pool.replace(count=jnp.minimum(pool.count + everywhere, setup.stage.pool_size))
    judges = steps.update_discriminators(state.discriminator, of_critics, setup)
    state, metrics = steps.update(setup, state, gradient, state.batch_stats, metrics)
    return state.replace(discriminator=judges, pool=pool), metrics


class Objective:
    """What a step minimises, as shares of the whole batch; G and B are a domain's generator and the one back.

    Generators: the sum over both domains, whose images are x and the other's y, of
    a GAN(D(G(x)), real) + c |B(G(x)) - x| + i |G(y) - y| + s S(x, G(x)) + r S(x, B(G(x))), S being the semantic loss.
    Discriminators: of each domain 1/2 [GAN(D(y), real) + GAN(D(G(x)), made)], some of G(x) made long ago.
    """

    def __init__(self, setup: steps.Setup, teacher: Any):
        self.setup, self.teacher, self.stage = setup, teacher, setup.stage

    def generators(self, params: Any, critics: Any, images: dict) -> tuple[Any, dict[str, jax.Array], steps.Metrics]:
        """Gradient for the generators, translations by whose look they have, and the terms, summed over both ways."""
        found, made, metrics = [], {}, {}
        for domain in WAYS:
            gradient, (image, terms) = jax.grad(self.cycle, has_aux=True)(params, critics, images[domain], domain)
            found.append(gradient)
            made[OTHER[domain]] = jax.lax.stop_gradient(image)
            if self.stage.identity_weight:
                value, gradient = jax.value_and_grad(self.identity)(params, images[OTHER[domain]], domain)
                found.append(gradient)
                terms["identity"] = value
            metrics = {name: metrics.get(name, 0.0) + value for name, value in terms.items()}
        return passes.add(*found), made, metrics

    def cycle(self, params: Any, critics: Any, image: jax.Array, domain: str) -> tuple[jax.Array, tuple]:
        """What one way and back adds, without the identity; (loss, (translation, weighted terms))."""
        c, shares, model = self.stage, self.setup.shares, self.setup.model
        there, back = WAYS[domain]
        made = model.translate(params, there, image)
        again = model.translate(params, back, made)
        scores = self.setup.discriminator.apply({"params": critics[OTHER[domain]]}, made)
        terms = {
            "adversarial": c.adversarial_weight * self.gan_loss(scores, REAL),
            "cycle": c.cycle_weight * translation.absolute_difference(again, image, shares=shares),
        }
        for name, weight, other in (
            ("semantic", c.semantic_weight, made), ("semantic_again", c.semantic_again_weight, again),
        ):  # fmt: skip
            if weight:
                differ = translation.SEMANTIC[c.semantic]
                terms[name] = weight * differ(self.logits_of(image), self.logits_of(other), shares=shares)
        return sum(terms.values()), (made, terms)

    def identity(self, params: Any, image: jax.Array, domain: str) -> jax.Array:
        """What the generator of a domain adds by changing images that already look as it would have them."""
        kept = self.setup.model.translate(params, WAYS[domain][0], image)
        difference = translation.absolute_difference(kept, image, shares=self.setup.shares)
        return self.stage.identity_weight * difference

    def discriminators(self, critics: Any, images: dict, made: dict[str, jax.Array]) -> jax.Array:
        """What both discriminators learn: the domain's images are real, translations that look like it are made."""
        total = 0.0
        for domain in WAYS:
            for image, label in ((images[domain], REAL), (made[domain], MADE)):
                scores = self.setup.discriminator.apply({"params": critics[domain]}, image)
                total += 0.5 * self.gan_loss(scores, label)
        return total

    def gan_loss(self, scores: jax.Array, label: float) -> jax.Array:
        """How far scores are from a label, see `losses.gan_loss`."""
        return losses.gan_loss(scores, label, self.stage.gan, total=jnp.int32(scores.size * self.setup.shares))

    def logits_of(self, images: jax.Array) -> jax.Array:
        """Logits of the frozen network, [batch, h, w, classes]."""
        return self.setup.teacher.apply(self.teacher, (images + 1.0) / 2.0, train=False).logits


def discriminators(setup: steps.Setup, key: jax.Array) -> dict[str, Any]:
    """Parameters of both discriminators before the first step, by domain."""
    image = jnp.zeros((1, *setup.crop_size, 3))
    return {
        domain: setup.discriminator.init(jax.random.fold_in(key, number), image)["params"]
        for number, domain in enumerate(WAYS, start=1)
    }
