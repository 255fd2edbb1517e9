"""Contrast of projected features with what is known of each class, for stages that mix images (SePiCo).

Xie et al., TPAMI 2023. The teacher's features of source images, by true labels, make up the statistics; the network's,
of source and target, are to be near those of their own class and far from those of others.
"""

import jax
import jax.numpy as jnp

from proda_jax.adaptation import class_statistics, feature_distance, losses
from proda_jax.adaptation.prototypes import unit
from proda_jax.adaptation.stages import step as steps
from proda_jax.adaptation.state import ClassBank, ContrastState
from proda_jax.data.label_spaces import IGNORE

FORMS = PROTOTYPES, BANK, DISTRIBUTION = ("prototypes", "bank", "distribution")


def begin(classes: int, channels: int, batches: int) -> ContrastState:
    """Before any step; the bank has room for so many `batches`, or none."""
    bank = None
    if batches:  # checkpoints hold no empty arrays
        bank = ClassBank(jnp.zeros((classes, batches, channels)), jnp.zeros((classes, batches), bool))
    return ContrastState(class_statistics.empty(classes, channels), bank)


def cell_labels(labels: jax.Array, setup: steps.Setup) -> jax.Array:
    """Labels [batch, height, width] on the grid of projected features; IGNORE where no class has most of a cell."""
    grid = setup.model.backbone.output_size(setup.model.context_size(labels.shape[1:3]))
    return feature_distance.dominant_label(labels, grid, setup.model.classes, setup.stage.contrast_share)


def remember(current: ContrastState, projected: jax.Array, labels: jax.Array, setup: steps.Setup) -> ContrastState:
    """The statistics with the batch's features of every device.

    Args:
      current: before.
      projected: the teacher's, [batch, h, w, channels].
      labels: of source images on their grid, [batch, h, w].
      setup: of the step.
    """
    features = unit(projected).reshape(-1, projected.shape[-1])
    labels = labels.reshape(-1)
    if setup.axis_name is not None:
        features, labels = jax.lax.all_gather((features, labels), setup.axis_name, tiled=True)
    bank = current.bank
    if bank is not None:
        mean, _, number = class_statistics.batch_means(features, labels, len(bank.held))
        there = number > 0
        vectors = jnp.concatenate([bank.vectors[:, 1:], mean[:, None]], axis=1)
        held = jnp.concatenate([bank.held[:, 1:], there[:, None]], axis=1)
        bank = ClassBank(
            jnp.where(there[:, None, None], vectors, bank.vectors), jnp.where(there[:, None], held, bank.held)
        )
    return ContrastState(class_statistics.add(current.statistics, features, labels), bank)


def loss(
    projected: jax.Array, labels: jax.Array, current: ContrastState, total: jax.Array, setup: steps.Setup
) -> jax.Array:
    """The share of the mean contrast of features whose class is known.

    Args:
      projected: the network's, [batch, h, w, channels].
      labels: on their grid, [batch, h, w].
      current: statistics of the classes.
      total: features of the whole batch whose class is known.
      setup: of the step.
    """
    features, labels = unit(projected).reshape(-1, projected.shape[-1]), labels.reshape(-1)
    of, temperature = current.statistics, setup.stage.contrast_temperature
    if setup.stage.contrast_with == BANK:
        terms = class_statistics.bank_contrast(features, labels, current.bank.vectors, current.bank.held, temperature)
    elif setup.stage.contrast_with == PROTOTYPES:
        terms = class_statistics.prototype_contrast(features, labels, of.mean, temperature)
    else:
        terms = class_statistics.distribution_contrast(features, labels, of.mean, of.variance, temperature)
    return losses.share_of_mean(terms, labels != IGNORE, total)
