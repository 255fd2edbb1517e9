"""Self-labelling of CPSL and the contrasts of SePiCo agree with the released codes."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from comparators import K, agree, golden, nchw, nhwc, same, thinned

from proda_jax.adaptation import class_statistics as cs
from proda_jax.adaptation import feature_distance, self_labelling
from proda_jax.adaptation.stages import contrast, learnt_prototypes
from proda_jax.adaptation.state import ClassBank, ContrastState, Sampled
from proda_jax.data.label_spaces import IGNORE

CHANNELS = 256

unit = jax.jit(self_labelling.unit)


def shares() -> np.ndarray:
    shares = np.exp(-0.2 * np.arange(K))
    return shares / shares.sum()


def cpsl_features(g) -> tuple[np.ndarray, np.ndarray]:
    """Prototypes and features of the momentum encoder."""
    vectors = g.normal("cpsl_proto", (K, CHANNELS))
    hidden = g.integers("cpsl_hidden", (2, *g.grid), 0, K)
    return vectors, nhwc(g.normal("cpsl_feat", (2, CHANNELS, *g.grid))) + 0.5 * vectors[hidden]


def test_self_labelling_of_cpsl():
    g = golden("cpsl")
    agree(shares(), g["class_distribution"])
    agree(jax.jit(self_labelling.sinkhorn)(0.3 * g.normal("cpsl_scores", (96, K)), shares()), g["sinkhorn"])
    vectors, features = cpsl_features(g)
    agree(nchw(jax.jit(self_labelling.cosine_weights)(features, vectors)), g["proto_weight"])
    chosen = g.permutation("cpsl_perm", int(np.prod(g.grid)))[:96]
    logits = nhwc(3 * g.normal("cpsl_out", (2, K, *g.grid)))
    features, logits = (x.reshape(2, -1, x.shape[-1])[:, chosen] for x in (features, logits))
    targets = jax.vmap(lambda scores: self_labelling.sinkhorn(scores, shares()))

    def loss(vectors, both: bool):
        kinds = [unit(logits)] + [self_labelling.cosines(features, vectors)] * both
        return sum(self_labelling.self_labelling(features, vectors, targets(scores)) for scores in kinds)

    agree(jax.jit(loss, static_argnums=1)(vectors, False), g["self_label_out_part"])
    value, gradient = jax.jit(jax.value_and_grad(loss), static_argnums=1)(vectors, True)
    agree(value, g["self_label_loss"])
    agree(gradient, g["self_label_proto_grad"])
    compare_step(g, vectors, Sampled(*map(unit, (features, logits)), np.ones(features.shape[:2], bool)))


def compare_step(g, vectors: np.ndarray, sampled: Sampled) -> None:
    """The step's own objective, without a queue; and with one of positions that do not count."""
    for queue in (None, Sampled(np.ones((7, CHANNELS)), np.ones((7, K)), np.zeros(7, bool))):
        objective = jax.jit(jax.value_and_grad(learnt_prototypes.objective), static_argnums=(4, 5))
        value, gradient = objective(vectors, sampled, queue, shares(), 0.08, sampled.counted.size)
        agree(value, g["self_label_loss"])
        agree(gradient, g["self_label_proto_grad"])


def test_contrast_of_cpsl():
    g = golden("cpsl")
    queue = unit(g.normal("cpsl_queue", (128, CHANNELS)))
    labels = g.integers("cpsl_queue_label", (128, 1), 0, K - 1)[:, 0]
    own = g.integers("cpsl_clabel", (96,), 0, K)
    step = jax.jit(jax.value_and_grad(self_labelling.contrast_with_queue))
    value, gradient = step(g.normal("cpsl_cfeat", (96, CHANNELS)), own, queue, labels)
    agree(value, g["contrast_loss"])
    agree(gradient, g["contrast_grad"])
    compare_contrast_of_a_step(g, own, queue, labels)


def compare_contrast_of_a_step(g, own: np.ndarray, queue: np.ndarray, labels: np.ndarray) -> None:
    """The step's own term, of a map and with a queue that is not full; features without a label do not count."""
    setup = SimpleNamespace(stage=SimpleNamespace(temperature=0.08))
    there = np.arange(150) < 128
    outputs = np.eye(K)[np.pad(labels, (0, 22))]
    held = Sampled(np.pad(queue, ((0, 22), (0, 0)), constant_values=1.0), outputs, there)
    places = np.stack([np.random.default_rng(image).permutation(60) for image in range(2)])
    contrasted = learnt_prototypes.Contrasted(places, np.pad(own, (0, 24), constant_values=IGNORE).reshape(2, 60))
    rows = np.concatenate([g.normal("cpsl_cfeat", (96, CHANNELS)), np.ones((24, CHANNELS))])
    of = jax.jit(jax.value_and_grad(lambda x: learnt_prototypes.contrast(x, contrasted, held, 96, setup)))
    grid = np.zeros((2, 60, CHANNELS))
    for image, at in enumerate(places):
        grid[image, at] = rows.reshape(2, 60, -1)[image]
    value, gradient = of(grid.reshape(2, 6, 10, -1))
    agree(value, g["contrast_loss"])
    taken = np.take_along_axis(np.asarray(gradient).reshape(2, 60, -1), places[..., None], 1).reshape(120, -1)
    agree(taken[:96], g["contrast_grad"])
    np.testing.assert_array_equal(taken[96:], 0.0)


@functools.cache
def sepico_statistics(g) -> tuple[list, np.ndarray, np.ndarray]:
    """Statistics after each batch; the bank [K, 3, 32] and which of it is held."""
    centres, current, after = 2 * g.normal("sepico_centres", (K, 32)), cs.empty(K, 32), []
    bank = [[np.zeros(32)] for _ in range(K)]
    add, batch_means = jax.jit(cs.add), jax.jit(cs.batch_means, static_argnums=2)
    for s in range(5):
        labels = g.skewed(f"sepico_lab{s}", (400,), 3)
        vectors = unit(g.normal(f"sepico_src{s}", (400, 32)) + centres[labels])
        current = add(current, vectors, labels)
        after.append(current)
        mean, _, number = map(np.asarray, batch_means(vectors, labels, K))
        for k in np.flatnonzero(number):
            bank[k] = [*bank[k], mean[k]][-3:]
    held = np.array([[i < len(rows) for i in range(3)] for rows in bank])
    return after, np.array([rows + [np.zeros(32)] * (3 - len(rows)) for rows in bank], np.float32), held


def test_statistics_of_sepico():
    g = golden("sepico")
    after, bank, held = sepico_statistics(g)
    for number in (1, 5):
        found = after[number - 1]
        for name, values in (("mean", found.mean), ("cov", found.variance), ("amount", found.amount)):
            agree(values, g[f"{name}_after{number}"])
    same(held.sum(1), g["bank_size"])
    agree(bank[held], g["bank"])


def test_contrasts_of_sepico():
    g = golden("sepico")
    after, bank, held = sepico_statistics(g)
    mean, variance = after[-1].mean, after[-1].variance
    cells = tuple(2 * n for n in g.cells)
    pixels = tuple(8 * n for n in cells)

    def repeated(values: np.ndarray) -> np.ndarray:
        return values.repeat(8, axis=1).repeat(8, axis=2)

    noisy = g.uniform("sepico_u", (2, *pixels)) < repeated(0.45 * g.uniform("sepico_p", (2, *cells)))
    coarse = repeated(g.skewed("sepico_coarse", (2, *cells), 2))
    label = np.where(noisy, g.integers("sepico_noise", (2, *pixels), 0, K), coarse)
    label[g.uniform("sepico_ignore", (2, *pixels)) < 0.03] = IGNORE
    of_cells = np.asarray(jax.jit(feature_distance.dominant_label, static_argnums=(1, 2))(label, cells, K))
    features = unit(nhwc(g.normal("sepico_feat", (2, 32, *cells))))
    terms = {
        "proto": lambda f, y, t: cs.prototype_contrast(f, y, mean, t),
        "dist": lambda f, y, t: cs.distribution_contrast(f, y, mean, variance, t),
        "bank": lambda f, y, t: cs.bank_contrast(f, y, jnp.asarray(bank), held, t),
    }

    def loss(features, labels, name, t, weight):
        kept = labels != IGNORE
        f, y = features[kept], labels[kept]
        return terms[name](f, y, t).mean() + weight * cs.mean_feature_spread(f, mean, t)

    forms = {"proto": contrast.PROTOTYPES, "dist": contrast.DISTRIBUTION, "bank": contrast.BANK}
    known = ContrastState(after[-1], ClassBank(jnp.asarray(bank), held))
    for name in terms:
        stage = SimpleNamespace(contrast_with=forms[name], contrast_temperature=100.0)
        setup, total = SimpleNamespace(stage=stage), np.sum(of_cells != IGNORE)
        of_step = jax.jit(lambda f, known, setup=setup, total=total: contrast.loss(f, of_cells, known, total, setup))
        agree(of_step(features, known), g[f"{name}_loss"])
        step = jax.jit(jax.value_and_grad(lambda f, t, weight, name=name: loss(f, of_cells, name, t, weight)))
        for tag, t, weight in (("", 100.0, 0.0), ("_reg", 100.0, 0.01), ("_tau0.5", 0.5, 1.0)):
            value, gradient = step(features, t, weight)
            agree(value, g[f"{name}{tag}_loss"])
            if tag != "_reg":
                agree(thinned(gradient), g[f"{name}{tag}_grad"])
    nearest = jax.jit(lambda f: loss(f, label[:, ::8, ::8], "proto", 100.0, 0.0))
    agree(nearest(features), g["proto_nearest_loss"])
