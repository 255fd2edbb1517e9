"""Two resolutions of HRDA, amplitudes and selection of FDA: they agree with the released codes."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from comparators import K, agree, golden, nchw, nhwc, same, thinned

from proda_jax.adaptation import class_thresholds as ct
from proda_jax.adaptation import losses
from proda_jax.adaptation.stages import mix
from proda_jax.adaptation.views import fourier
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models import two_resolutions
from proda_jax.models.heads import Output
from proda_jax.models.interpolation import resize


def test_two_resolutions_of_hrda():
    g = golden("hrda")
    hh, ww = (4 * n for n in g.cells)
    full, box = (8 * hh, 8 * ww), tuple(map(int, g["crop_box"]))
    y1, y2, x1, x2 = box
    places, size = np.array([[y1, x1]] * 2), (y2 - y1, x2 - x1)
    setup = SimpleNamespace(stage=SimpleNamespace(detail_weight=0.1), model=SimpleNamespace(detail_size=size))
    context, detail, attention = (nhwc(n * g.normal(f"hrda_{name}", (2, K, hh, ww)))
                                  for name, n in (("lr", 2), ("hr", 2), ("att", 1)))  # fmt: skip
    label = g.integers("hrda_gt", (2, 1, *full), 0, K)
    label = np.where(g.uniform("hrda_gt_ignore", (2, 1, *full)) < 0.1, IGNORE, label)[:, 0]
    weight = g.uniform("hrda_pw", (2, *full))

    def objective(context, detail, attention):
        inside = two_resolutions.attention_inside(jax.nn.sigmoid(attention), places // 8, tuple(n // 8 for n in size))
        fused = two_resolutions.fuse(context, two_resolutions.placed(detail, places // 4, (2 * hh, 2 * ww)), inside)
        own = [two_resolutions.crop(jnp.asarray(values), places, size) for values in (label, weight)]
        losses_ = [
            0.9 * losses.weighted_cross_entropy(fused, label, weight, resize=resize),
            0.1 * losses.weighted_cross_entropy(detail, *own, resize=resize),
        ]
        output = Output(None, fused, detail=detail)
        whole = mix.at_both(setup, output, places, (jnp.asarray(label), jnp.asarray(weight)), (None, None),
                            functools.partial(losses.weighted_cross_entropy, resize=resize))  # fmt: skip
        return whole, (losses_, fused, (1 - inside) * context)

    step = jax.jit(jax.value_and_grad(objective, (0, 1, 2), has_aux=True))
    (_, (parts, fused, scaled)), gradients = step(context, detail, attention)
    agree(nchw(fused)[:, ::3, ::2, ::2], g["fused"])
    agree(nchw(scaled)[:, ::6], g["lr_scaled"])
    for part, name in zip(parts, ("fused", "hr"), strict=True):
        agree(part, g[f"loss_{name}_weighted"])
    for gradient, name in zip(gradients, ("lr", "hr", "att"), strict=True):
        agree(thinned(gradient), g[f"{name}_grad"])
    whole = nhwc(2 * g.normal("hrda_hr_full", (2, K, 2 * hh, 2 * ww)))
    fused = jax.jit(lambda z: two_resolutions.fuse(context, whole, jax.nn.sigmoid(z)))(attention)
    agree(nchw(fused)[:, ::6, ::2, ::2], g["fused_no_crop"])


def test_sliding_windows_of_hrda():
    g = golden("hrda")
    hh, ww = (4 * n for n in g.cells)
    windows = nhwc(g.normal("hrda_slide", (18, K, hh // 2, ww // 2)))
    places = [(i * (hh // 4), j * (ww // 4)) for i in range(3) for j in range(3)]
    mean = jax.jit(lambda windows: two_resolutions.average_windows(windows, places, (hh, ww)))(np.split(windows, 9))
    agree(nchw(mean)[:, ::6], g["slide"])


def test_amplitudes_of_fda():
    g = golden("fda")
    for tag, size, betas in (("small", g.size, (0.01, 0.05, 0.09)), ("wide", (104, 2 * g.w + 8), (0.01,))):
        source, target = (np.moveaxis(x, 0, -1) for x in (
            255 * g.uniform(f"fda_src_{tag}", (3, *size)), (255 * g.uniform(f"fda_trg_{tag}", (3, *size))) ** 1.2 / 3
        ))  # fmt: skip
        exchange = jax.jit(fourier.exchange_amplitudes)
        for beta in betas:
            mixed = exchange(source, target, fourier.low_frequencies(size, beta))
            expected = g[f"{tag}_L{beta}"]
            agree(np.moveaxis(np.asarray(mixed), -1, 0)[: len(expected)], expected)
        beta = betas[-1]
        same(fourier.corner_window(size, beta), g[f"{tag}_torch_window_L{beta}"].astype(bool))
    assert fourier.corner_window(g.size, 0.01).sum() == g["small_torch_window_count_L0.01"]


def test_selection_of_fda():
    g = golden("fda")
    p = g.probabilities()
    thresholds = ct.all_but_portion(ct.by_class(p.max(-1), p.argmax(-1), K), 0.66)
    agree(thresholds, g["select_thresholds"])
    same(jax.jit(ct.confident_labels)(p, thresholds), g["select_labels"])


def test_entropy_of_fda():
    g = golden("fda")
    for power in (2, 1):

        def mean(logits, power=power):
            return jnp.mean(losses.robust_entropy(jax.nn.log_softmax(logits), "mean", power))

        value, gradient = jax.jit(jax.value_and_grad(mean))(g.logits("trg_main"))
        agree(value, g[f"entropy_ita{power}"])
        agree(thinned(gradient), g[f"entropy_ita{power}_grad"])
