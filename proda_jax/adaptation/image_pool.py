"""Translations that were made before, which discriminators see beside new ones (Shrivastava et al., CVPR 2017).

CycleGAN's buffer of 50 images. Its examples take their turns one after another; here those of a step draw places of
their own, so that a step does not depend on how its batch is spread over devices and micro-batches.
"""

import flax
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class ImagePool:
    """Images that were translated before.

    Attributes:
      images: by domain whose look they have, {'source', 'target'}: [size, height, width, 3]; zeros where none is yet.
      count: how many there are, int32 scalar.
    """

    images: dict[str, jax.Array]
    count: jax.Array


@flax.struct.dataclass
class Draw:
    """What becomes of a step's examples, [batch] each.

    Attributes:
      place: of each in the pool; examples of a batch have different ones.
      kept: whether the pool keeps its translation there.
      exchanged: whether the discriminator sees what was there instead.
    """

    place: jax.Array
    kept: jax.Array
    exchanged: jax.Array


def empty(size: int, image_size: tuple[int, int]) -> ImagePool:
    """A pool without images."""
    return ImagePool({name: jnp.zeros((size, *image_size, 3)) for name in ("source", "target")}, jnp.int32(0))


def draw(pool: ImagePool, key: jax.Array, slots: jax.Array) -> Draw:
    """Draws for a step: while it is filling, a pool keeps all; then each translation is exchanged with probability 1/2.

    Args:
      pool: before the step, of at least as many images as the batch.
      key: of the step.
      slots: place of each example in the global batch, int32 [batch].
    """
    size = len(pool.images["target"])
    order, coin = jax.random.split(key)
    full = pool.count >= size
    place = jnp.where(full, jax.random.permutation(order, size)[slots], pool.count + slots)
    exchanged = full & jax.random.bernoulli(coin, shape=(size,))[slots]
    return Draw(place, jnp.where(full, exchanged, place < size), exchanged)


def shown(pool: ImagePool, drawn: Draw, domain: str, made: jax.Array) -> jax.Array:
    """What a discriminator sees: translations `made` [batch, height, width, 3], or older ones in their place."""
    older = pool.images[domain][jnp.minimum(drawn.place, len(pool.images[domain]) - 1)]
    return jnp.where(drawn.exchanged[:, None, None, None], older, made)


def put(pool: ImagePool, drawn: Draw, made: dict[str, jax.Array], axis_name: str | None) -> ImagePool:
    """The pool with the translations of all devices; its count stays."""
    size, (place, kept) = len(pool.images["target"]), (drawn.place, drawn.kept)
    if axis_name is not None:
        made, place, kept = jax.lax.all_gather((made, place, kept), axis_name, tiled=True)
    place = jnp.where(kept, place, size)  # where there is no place, so that nothing is written
    return pool.replace(
        images={name: old.at[place].set(made[name], mode="drop") for name, old in pool.images.items()}
    )
