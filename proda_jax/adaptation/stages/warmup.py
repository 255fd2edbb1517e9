"""Adversarial stages: alignment of the predictions for both domains, or of the features, and entropy.

The warm-up (AdaptSegNet, single level; Section 5.1, Algorithm 1, line 1), and with other settings AdaptSegNet of two
levels (arXiv:1802.10349), MinEnt and AdvEnt (ADVENT, arXiv:1811.12833), CLAN (arXiv:1809.09478), FADA
(arXiv:2007.09222) and the memory of Seg-Uncertainty (arXiv:1912.11164). With `label_weight` it is self-training, too,
by hard labels of the target images (BDL, arXiv:1904.10620). With `patch_modes` patches of what it says are aligned, too
(PatchAlign, arXiv:1901.05427); with `perturbation` the last layer learns to withstand attacks (APODA,
arXiv:1912.08954).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax
import jax
import jax.numpy as jnp

from proda_jax.adaptation import adversary, losses, patch_modes, perturbation, views
from proda_jax.adaptation.adversary import SOURCE, TARGET
from proda_jax.adaptation.stages import acts, passes
from proda_jax.adaptation.stages import step as steps
from proda_jax.adaptation.state import TrainState
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models.heads import HEADS, Output
from proda_jax.models.resizing import resize_align_corners

ACTS_BESIDE: tuple[acts.Rule, ...] = (
    (
        ("gan", "adversarial_on", "discriminator", "discriminator_channels", "discriminator_rate",
         "discriminator_weight", "scores_at", "gradient_penalty"),
        lambda s: s.adversarial_weight > 0 or s.perturbation > 0,
        "adversarial_weight or perturbation above 0",
    ),
    (("local_weight", "auxiliary_adversarial_weight", "discriminated", "patch_modes"),
     lambda s: s.adversarial_weight > 0, "adversarial_weight above 0"),
    (("perturbation_steps", "perturbation_weight"), lambda s: s.perturbation > 0, "perturbation above 0"),
    (("discriminator_warmup",), lambda s: (s.adversarial_weight > 0 or s.perturbation > 0) and s.schedule_warmup > 0,
     "adversarial_weight or perturbation, and schedule_warmup, above 0"),
    (("patch_size", "patch_channels", "patch_weight", "patch_adversarial_weight"), lambda s: s.patch_modes > 0,
     "patch_modes above 0"),
    (("soft_label_limit",), lambda s: s.adversarial_weight > 0 and s.gan == "classes", "gan 'classes'"),
    (("local_floor", "local_after"), lambda s: s.local_weight > 0, "local_weight above 0"),
    (("rare_pixels",), lambda s: s.rare_weight != 1, "a rare_weight other than 1"),
    (("focus", "reduction"), lambda s: s.rare_weight == 1 and s.hard_share == 1, "rare_weight 1 and hard_share 1"),
    (("memory_after",), lambda s: s.memory_weight > 0, "memory_weight above 0"),
    (("damping_steps",), lambda s: s.adversarial_weight > 0 or s.weight_divergence > 0,
     "adversarial_weight or weight_divergence above 0"),
    (
        ("labels_from", "label_selector", "label_threshold", "label_scales", "label_flip", "label_portion",
         "label_every"),
        lambda s: s.label_weight > 0,
        "label_weight above 0",
    ),
    *acts.OF_SELECTION,
)  # fmt: skip
# metrics of each discriminator, and of each head
ADVERSARIAL = {adversary.MAIN: "adversarial", adversary.AUXILIARY: "auxiliary_adversarial"}
ENTROPY = ("entropy", "auxiliary_entropy")


@flax.struct.dataclass
class Inputs:
    """Images as the network sees them, RGB in [0, 1] [batch, h, w, 3], and labels [batch, h, w]; those of the target,
    and modes of the source's patches [batch, rows, columns], or None."""

    source_image: jax.Array
    source_label: jax.Array
    target_image: jax.Array
    target_label: jax.Array | None = None
    source_keys: jax.Array | None = None
    target_keys: jax.Array | None = None
    source_modes: jax.Array | None = None


def train_step(state: TrainState, batch: steps.Batch, teacher: Any, *, setup: steps.Setup):
    """One step: source cross entropy, adversarial loss and entropy, then the discriminators.

    Args:
      state: train state with discriminators, if the stage has any.
      batch: 'source': {'image', 'label'}, 'target': {'image'} and with `label_weight` 'hard_label', 'slot' [batch]
        int32; images and labels uint8.
      teacher: with `patch_modes` the modes, [number, 4 * classes].
      setup: what the step needs besides.

    Returns:
      (state, metrics)
    """
    source_image, source_label = steps.labelled_view(
        setup, state, batch["source"], batch["slot"], target=batch["target"]["image"]
    )
    target = batch["target"]["image"]
    view = steps.weak_target_view(setup, state, target, batch["slot"])
    label = None
    if setup.stage.label_weight:
        label = views.weak_label(batch["target"]["hard_label"], view, setup.crop_size)
    inputs = Inputs(
        source_image,
        source_label,
        views.weak_image(target, view, setup.crop_size) / 255.0,
        label,
        steps.example_keys(state, batch["slot"], steps.SOURCE_PASS),
        steps.example_keys(state, batch["slot"], steps.WEAK_PASS),
    )
    return update(state, inputs, setup=setup, modes=teacher)


@dataclass(frozen=True)
class Objective:
    """What a step minimises, as shares of the whole batch.

    G = sum_h c_h CE_h(source) + d sum_h a_h GAN(D_h(target), source) + sum_h e_h E_h(target) + m sum_h KL(q || p_h)
    over heads h, with the stage's weights, q being the network's prediction; the discriminators' is
    w sum_h [GAN(D_h(source), source) + GAN(D_h(target), target)]. The last layer's has `perturbed_loss` besides.

    Attributes:
      setup: holds the settings.
      size: height and width of the images.
      step: number of steps taken.
      labels, pixels: source labels that count, and target pixels, in the whole batch.
      class_weights: of the source's classes, [classes], or None.
      patches: source patches with a label in the whole batch, or None.
    """

    setup: steps.Setup
    size: tuple[int, int]
    step: jax.Array
    labels: jax.Array
    pixels: jax.Array
    class_weights: jax.Array | None = None
    patches: jax.Array | None = None

    @property
    def damping(self) -> jax.Array | float:
        """d, which falls from 1 to 0 over `damping_steps` (CLAN)."""
        over = self.setup.stage.damping_steps
        return jnp.maximum(1.0 - self.step / over, 0.0) if over else 1.0

    def source(
        self, output: Output, label: jax.Array, critics: Any = None, modes: jax.Array | None = None
    ) -> tuple[jax.Array, steps.Metrics]:
        """Cross entropy of each head on labelled images; label [batch, h, w], modes of its patches or None."""
        c, fit = self.setup.stage, partial(losses.upsampled_cross_entropy, total=self.labels)
        fit = partial(fit, reduction=c.reduction, focus=c.focus)
        if self.class_weights is not None:
            fit = partial(losses.selective_cross_entropy, weights=self.class_weights, share=c.hard_share)
            fit = partial(fit, parts=self.setup.micro_batches, axis_name=self.setup.axis_name)
        fits = [fit(logits / c.logit_temperature, label) for logits in output.heads]
        loss = sum(weight * fit for weight, fit in zip((1.0, c.auxiliary_ce_weight), fits, strict=False))
        metrics = dict(zip(("source_ce", "auxiliary_ce"), fits, strict=False))
        if modes is not None:
            metrics["patch_ce"] = self.patch_classification(critics, output, modes)
            loss = loss + c.patch_weight * metrics["patch_ce"]
        return loss, metrics

    def target(self, output: Output, critics: Any) -> tuple[jax.Array, steps.Metrics]:
        """What target images add; `critics` are the discriminators' parameters, or None."""
        c, loss, metrics = self.setup.stage, 0.0, {}
        for which, weight in self.weights(critics).items():
            fooled = self.damping * weight * self.adversarial_loss(critics, output, which, SOURCE, local=True)
            loss, metrics[ADVERSARIAL[which]] = loss + fooled, fooled
        if c.patch_modes:
            fooled = self.patch_adversarial_loss(critics, output, SOURCE)
            metrics["patch_adversarial"] = c.patch_adversarial_weight * fooled
            loss = loss + metrics["patch_adversarial"]
        weights = (c.entropy_weight, c.auxiliary_entropy_weight)
        for name, weight, logits in zip(ENTROPY, weights, output.heads, strict=False):
            if weight:
                metrics[name] = losses.entropy(logits, self.size, total=self.pixels)
                loss = loss + weight * metrics[name]
        if c.memory_weight:
            metrics["memory"] = self.memory(output)
            loss = loss + jnp.where(self.step >= c.memory_after, c.memory_weight, 0.0) * metrics["memory"]
        return loss, metrics

    def memory(self, output: Output) -> jax.Array:
        """Sum over heads of KL(q || p_h), q being the network's prediction (Seg-Uncertainty, Equation 4)."""
        said, *heads = (resize_align_corners(logits, self.size) for logits in (output.logits, *output.heads))
        everywhere = jnp.ones(said.shape[:-1], bool)
        compare = partial(losses.distillation, valid=everywhere, form="equation12_per_pixel", total=self.pixels)
        return sum(compare(logits, said) for logits in heads)

    def perturbed_loss(
        self, params: Any, critics: Any, source: Output, target: Output, label: jax.Array
    ) -> tuple[jax.Array, steps.Metrics]:
        """What the head's last layer learns of attacked features, on which no other layer depends (APODA).

        Features of both domains move to where their own classes are less certain and where the discriminator takes them
        for the other domain's. The loss is CE of the source's and KL(p || p') of the target's, p being what is said of
        features as they were.

        Args:
          params: of the network.
          critics: of the discriminators.
          source, target: the network's outputs for both domains.
          label: of the source's images, [batch, h, w].
        """
        c, model = self.setup.stage, self.setup.model
        score = partial(HEADS[model.head].score, model, params["head"])
        attacked = partial(perturbation.perturb, radius=c.perturbation, steps=c.perturbation_steps)
        fit = partial(losses.upsampled_cross_entropy, labels=label, total=self.labels, reduction=c.reduction)

        def other(output: Output, domain: float) -> Callable[[jax.Array], jax.Array]:
            judge = partial(self.adversarial_loss, critics)
            return lambda features: judge(output.replace(features=features), adversary.MAIN, domain)

        def doubt(features: jax.Array) -> jax.Array:
            return losses.entropy(score(features), self.size, total=self.pixels)

        moved = attacked(source.features, (lambda features: fit(score(features)), other(source, SOURCE)))
        metrics = {"perturbed_ce": fit(score(moved))}
        moved = score(attacked(target.features, (doubt, other(target, TARGET))))
        everywhere = jnp.ones(moved.shape[:-1], bool)
        metrics["perturbed_kl"] = losses.distillation(
            moved, target.heads[0], everywhere, form="equation12_per_pixel",
            total=jnp.int32(everywhere.size * self.setup.shares),
        )  # fmt: skip
        return c.perturbation_weight * (metrics["perturbed_ce"] + metrics["perturbed_kl"]), metrics

    def patch_scores(self, critics: Any, output: Output) -> jax.Array:
        """Which mode each patch of a prediction is of, scores [batch, rows, columns, modes] (PatchAlign)."""
        layers, _ = adversary.patch_networks(self.setup.stage, self.setup.discriminator.dtype)
        p = adversary.probabilities(output, adversary.MAIN, self.size)
        return layers.apply({"params": critics["patches"]["modes"]}, p)

    def patch_classification(self, critics: Any, output: Output, modes: jax.Array) -> jax.Array:
        """Cross entropy of these scores with the modes of labels (PatchAlign)."""
        return losses.cross_entropy(self.patch_scores(critics, output), modes, total=self.patches)

    def patch_adversarial_loss(self, critics: Any, output: Output, domain: float) -> jax.Array:
        """How far a discriminator is from taking patches for those of a domain, by their modes (Equation 3)."""
        _, critic = adversary.patch_networks(self.setup.stage, self.setup.discriminator.dtype)
        shown = jax.nn.softmax(self.patch_scores(critics, output), axis=-1)
        scores = critic.apply({"params": critics["patches"]["critic"]}, shown)
        total = jnp.int32(scores.size * self.setup.shares)
        return losses.gan_loss(scores, domain, self.setup.stage.gan, total=total)

    def discriminators(
        self, critics: Any, source: Output, target: Output, modes: jax.Array | None = None
    ) -> jax.Array:
        """What the discriminators learn from the network's outputs, and with them what says of which mode a patch is.

        The latter is on the network's side: it learns the source's modes, and to make patches of the target look like
        the source's; the discriminator of patches does not move by that.
        """
        c, found, penalty = self.setup.stage, 0.0, 0.0
        for which in self.weights(critics):
            shown = adversary.MAIN if c.discriminated == "heads" else None
            found += self.adversarial_loss(critics, source, which, SOURCE, shown=shown)
            found += self.adversarial_loss(critics, target, which, TARGET, local=True)
            if c.gradient_penalty:
                images = self.pixels // (self.size[0] * self.size[1])
                penalty += adversary.gradient_penalty(
                    self.setup.discriminator, critics, source, which, c, size=self.size, images=images
                )
        if c.patch_modes:
            fixed = jax.lax.stop_gradient(critics["patches"])
            judging = critics | {"patches": critics["patches"] | {"modes": fixed["modes"]}}
            sorting = critics | {"patches": critics["patches"] | {"critic": fixed["critic"]}}
            found += self.patch_adversarial_loss(judging, source, SOURCE)
            found += self.patch_adversarial_loss(judging, target, TARGET)
            sorted_ = c.patch_weight * self.patch_classification(sorting, source, modes)
            sorted_ += c.patch_adversarial_weight * self.patch_adversarial_loss(sorting, target, SOURCE)
            return c.discriminator_weight * found + c.gradient_penalty * penalty + sorted_
        return c.discriminator_weight * found + c.gradient_penalty * penalty

    def weights(self, critics: Any) -> dict[int, Any]:
        """The weight of each discriminator's term in the network's objective, of those that there are."""
        if critics is None:
            return {}
        c = self.setup.stage
        auxiliary = {adversary.AUXILIARY: c.auxiliary_adversarial_weight} if "auxiliary" in critics else {}
        return {adversary.MAIN: c.adversarial_weight} | auxiliary

    def adversarial_loss(
        self, critics: Any, output: Output, which: int, domain: float, *, local: bool = False, shown: int | None = None
    ) -> jax.Array:
        """See `adversary.adversarial_loss`; `local`: of target images, whose scores may have weights of their own."""
        c = self.setup.stage
        if shown is None and which == adversary.MAIN and c.discriminated == "heads":
            shown = adversary.MAIN_HEAD
        weigh = partial(adversary.local_weight, output, step=self.step, stage=c) if local and c.local_weight else None
        return adversary.adversarial_loss(
            self.setup.discriminator, critics, output, which, domain, c,
            size=self.size, shares=self.setup.shares, shown=shown, weigh=weigh,
        )  # fmt: skip

    def weight_similarity(self, params: Any) -> jax.Array:
        """What likeness of the two heads adds, cos(W_1, W_2) + 1 of all their numbers (CLAN, Equation 5)."""
        first, second = (
            jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(params[head])])
            for head in ("head", "auxiliary_head")
        )
        return self.damping * self.setup.stage.weight_divergence * (losses.cosine(first, second) + 1.0)


def update(state: TrainState, inputs: Inputs, *, setup: steps.Setup, modes: jax.Array | None = None):
    """The step on images whose views are drawn already: the network's, then the discriminators'.

    `modes`: of patches, see `patch_modes`, where the stage has any.
    """
    c, critics = setup.stage, state.discriminator and state.discriminator.params
    of_target = inputs.target_label
    if c.patch_modes:
        found = patch_modes.histograms(inputs.source_label, setup.model.classes, tuple(c.patch_size))
        inputs = inputs.replace(source_modes=patch_modes.nearest(*found, modes))
    labels, target_labels, pixels, patches = steps.reduce(
        setup,
        (
            losses.count(inputs.source_label != IGNORE, c.reduction),
            None if of_target is None else losses.count(of_target != IGNORE, c.reduction),
            losses.count(jnp.ones(inputs.target_image.shape[:3], bool)),
            None if inputs.source_modes is None else losses.count(inputs.source_modes != IGNORE),
        ),
    )
    weights, presence = class_weights(state, inputs.source_label, setup)
    objective = Objective(setup, inputs.source_image.shape[1:3], state.step, labels, pixels, weights, patches)

    def gradient_of(stats: Any, part: Inputs):
        def source_loss(output: Output):
            loss, metrics = objective.source(output, part.source_label, critics, part.source_modes)
            return loss, metrics | {"output": output}

        def target_loss(output: Output):
            loss, metrics = objective.target(output, critics)
            if part.target_label is not None:
                metrics["target_fit"] = losses.upsampled_cross_entropy(
                    output.logits, part.target_label, total=target_labels, reduction=c.reduction
                )
                loss = loss + c.label_weight * metrics["target_fit"]
            return loss, metrics | {"output": output}

        taken = [
            passes.Pass(part.source_image, part.source_keys, source_loss, "source"),
            passes.Pass(part.target_image, part.target_keys, target_loss),
        ]
        gradient, stats, (source, target) = passes.gradients(setup, state, stats, taken)
        outputs, metrics = (source.pop("output"), target.pop("output")), source | target
        if c.perturbation:
            withstand = jax.grad(objective.perturbed_loss, has_aux=True)
            of_last_layer, found = withstand(state.params, critics, *outputs, part.source_label)
            gradient, metrics = passes.add(gradient, of_last_layer), metrics | found
        if critics is None:
            return (gradient, None), stats, metrics
        loss, critics_gradient = jax.value_and_grad(objective.discriminators)(critics, *outputs, part.source_modes)
        return (gradient, critics_gradient), stats, metrics | {"discriminator": loss}

    (gradient, critics_gradient), stats, metrics = steps.accumulate(setup, gradient_of, state.batch_stats, inputs)
    if c.weight_divergence:
        metrics["weight_likeness"], apart = jax.value_and_grad(objective.weight_similarity)(state.params)
        gradient = passes.add(gradient, apart)
    judges = steps.update_discriminators(state.discriminator, critics_gradient, setup)
    state, metrics = steps.update(setup, state, gradient, stats, metrics)
    return state.replace(discriminator=judges, class_presence=presence), metrics


def class_weights(state: TrainState, label: jax.Array, setup: steps.Setup) -> tuple[Any, Any]:
    """Weights of the source's classes in this batch, and `TrainState.class_presence` after it; None where all are 1."""
    c, presence = setup.stage, state.class_presence
    if presence is None:
        return None, None
    pixels = steps.reduce(setup, jnp.sum(jax.nn.one_hot(label, len(presence)), axis=(0, 1, 2)))
    images = len(label) * (setup.shares // setup.micro_batches)
    return losses.class_weights(pixels, presence, weight=c.rare_weight, fewer_than=c.rare_pixels * images)
