"""What translation minimises against NumPy, its pool against a list, and what the discriminators see."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from proda_jax.adaptation import image_pool, optim, translation


def test_losses_are_their_formulas():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-1, 1, (2, 2, 5, 7, 3)).astype(np.float32)
    apart = jax.jit(translation.absolute_difference, static_argnames="shares")
    np.testing.assert_allclose(apart(a, b), np.abs(a - b).mean(), rtol=1e-6)
    np.testing.assert_allclose(apart(a, b, shares=4), np.abs(a - b).mean() / 4, rtol=1e-6)

    z, made = 3 * rng.normal(size=(2, 2, 4, 6, 5)).astype(np.float32)
    log_p = made - np.log(np.exp(made.astype(np.float64)).sum(-1, keepdims=True))
    entropy = -np.take_along_axis(log_p, z.argmax(-1)[..., None], -1).mean()

    def normed(x):
        x = x.astype(np.float64)
        return (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)

    square = np.mean((normed(z) - normed(made)) ** 2)
    expected = {"labels": (entropy, {}), "logits": (square / 2, {"shares": 2})}
    for name, loss in translation.SEMANTIC.items():  # what the image is said to be is the truth
        value, settings = expected[name]
        found = jax.jit(jax.value_and_grad(functools.partial(loss, **settings), (0, 1)))
        actual, (gradient, of_made) = found(z, made)
        np.testing.assert_allclose(actual, value, rtol=1e-5)
        assert not np.any(gradient) and np.any(of_made), name


def test_the_rate_is_flat_for_half_of_the_steps():
    rate = optim.flat_then_linear(2.0, 100)
    np.testing.assert_allclose([rate(n) for n in (0, 50, 75, 100, 120)], [2.0, 2.0, 1.0, 0.0, 0.0])


def test_the_pool_keeps_all_until_it_is_full_and_then_exchanges_half():
    size, batch = 6, 4
    pool, held, seen_old = jax.device_get(image_pool.empty(size, (1, 1))), {}, 0
    slots = jnp.arange(batch)
    draw, put = jax.jit(image_pool.draw), jax.jit(image_pool.put, static_argnums=3)
    show = jax.jit(image_pool.shown, static_argnums=2)
    for step in range(100):
        made = {name: np.full((batch, 1, 1, 3), np.float32([[[[1 + number + 10 * step + i]]] for i in range(batch)]))
                for number, name in enumerate(("source", "target"))}  # fmt: skip
        drawn = jax.device_get(draw(pool, jax.random.key(step), slots))
        kept = np.asarray(drawn.place)[np.asarray(drawn.kept)]
        assert len(set(kept)) == len(kept) and (len(kept) == 0 or kept.max() < size)
        for name in made:
            shown = np.asarray(show(pool, drawn, name, made[name]))[:, 0, 0, 0]
            for i in range(batch):
                place, exchanged = int(drawn.place[i]), bool(drawn.exchanged[i])
                assert shown[i] == (held[name, place] if exchanged else made[name][i, 0, 0, 0])
                seen_old += exchanged
        for i in range(batch):
            if drawn.kept[i]:
                held |= {(name, int(drawn.place[i])): made[name][i, 0, 0, 0] for name in made}
        assert step > 1 or not np.any(drawn.exchanged)
        pool = jax.device_get(put(pool, drawn, made, None))
        pool = pool.replace(count=np.minimum(pool.count + batch, size))
        assert all(pool.images[name][place, 0, 0, 0] == value for (name, place), value in held.items())
    assert len(held) == 2 * size and 0.4 < seen_old / (98 * 2 * batch) < 0.6
