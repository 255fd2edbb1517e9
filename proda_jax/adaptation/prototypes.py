"""Class prototypes: distances to them, the labels they rectify, and how they start and move (Equations 3 to 6, 8)."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from proda_jax.adaptation import selectors
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models.resizing import transposed_resize_align_corners

HIGHEST = jax.lax.Precision.HIGHEST
NEGLIGIBLE = -1e9  # a logit whose softmax is zero in float32, and which stays finite in sums and gradients
SMALLEST_SQUARE = 1e-12  # squared distances below this are rounding; the root's slope there would amplify it


@flax.struct.dataclass
class Prototypes:
    """One centroid a class in feature space.

    Attributes:
      vectors: [classes, channels] float32, eta of Equation 5.
      counts: [classes] float32, how much data each has taken in; 0 means never seen.
    """

    vectors: jax.Array
    counts: jax.Array

    @property
    def seen(self) -> jax.Array:
        """[classes] bool: whether a class has a prototype at all."""
        return self.counts > 0


def empty(classes: int, channels: int) -> Prototypes:
    """Prototypes before any data: zero vectors, none of them seen."""
    return Prototypes(jnp.zeros((classes, channels), jnp.float32), jnp.zeros((classes,), jnp.float32))


def distances(features: jax.Array, vectors: jax.Array) -> jax.Array:
    """Euclidean distance of every feature to every prototype (the norm in Equations 4 and 8).

    Computed from |f|^2 - 2 f.v + |v|^2, so that nothing of shape [..., classes, channels] is formed.

    Args:
      features: [..., channels].
      vectors: [classes, channels].

    Returns:
      float32 [..., classes]. The gradient is zero, rather than undefined, where the distance is zero.
    """
    features, vectors = features.astype(jnp.float32), vectors.astype(jnp.float32)
    products = jnp.einsum("...c,kc->...k", features, vectors, precision=HIGHEST)
    squares = jnp.sum(features**2, axis=-1, keepdims=True) - 2.0 * products + jnp.sum(vectors**2, axis=-1)
    apart = squares > SMALLEST_SQUARE
    # two selections: the inner keeps the root's infinite slope out of the backward pass, where 0 * inf would be nan
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1.0)), 0.0)


def unit(vectors: jax.Array) -> jax.Array:
    """Vectors [..., channels] of length one."""
    vectors = vectors.astype(jnp.float32)
    return vectors * jax.lax.rsqrt(jnp.maximum(jnp.sum(vectors**2, axis=-1, keepdims=True), 1e-24))


def cosines(features: jax.Array, prototypes: jax.Array) -> jax.Array:
    """Cosine of each feature [..., channels] to each prototype [classes, channels]: [..., classes]."""
    return jnp.einsum("...c,kc->...k", unit(features), unit(prototypes), precision=HIGHEST)


def cosine_distances(features: jax.Array, vectors: jax.Array) -> jax.Array:
    """One minus the cosine of every feature to every prototype, as `distances` (CPSL)."""
    return 1.0 - cosines(features, vectors)


DISTANCES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "euclidean": distances,
    "cosine": cosine_distances,
}


def _assignment_logits(distances: jax.Array, temperature: float, seen: jax.Array | None) -> jax.Array:
    logits = -distances.astype(jnp.float32) / temperature
    if seen is not None:
        logits = jnp.where(seen, logits, NEGLIGIBLE)  # an empty prototype sits at the origin and would attract all
    return logits


def assignment_weights(distances: jax.Array, temperature: float = 1.0, seen: jax.Array | None = None) -> jax.Array:
    """Trust in each class for each pixel: softmax over negative prototype distances (Equations 4 and 8).

    Args:
      distances: Euclidean distances to the prototypes, [..., classes].
      temperature: tau of Equation 4 (Table 8); small values trust the nearest prototype alone.
      seen: [classes] bool; classes whose prototype has no data yet get weight zero (all weigh the same where no
        class has any).

    Returns:
      float32, the shape of `distances`; sums to one over classes.
    """
    return jax.nn.softmax(_assignment_logits(distances, temperature, seen), axis=-1)


def log_assignment_weights(distances: jax.Array, temperature: float = 1.0, seen: jax.Array | None = None) -> jax.Array:
    """Logarithm of `assignment_weights`, without taking the logarithm of a rounded zero."""
    return jax.nn.log_softmax(_assignment_logits(distances, temperature, seen), axis=-1)


def rectify(
    soft: jax.Array, weights: jax.Array, threshold: float = 0.0, selector: Callable = selectors.threshold
) -> tuple[jax.Array, jax.Array]:
    """Pseudo labels that follow the fixed soft prediction and the prototypes together (Equation 3).

    Args:
      soft: p_{t,0}, the warm-up network's probabilities, [..., classes].
      weights: omega_t of Equation 4, [..., classes].
      threshold: least confidence that makes a label; 0 keeps every pixel (released code).
      selector: one of `selectors`, given confidence and threshold.

    Returns:
      labels int32 [...], IGNORE where the selector drops it or every product is zero (of soft labels
      kept as float16), and confidence float32 [...], the product's largest value after normalising it over classes.
    """
    products = weights.astype(jnp.float32) * soft.astype(jnp.float32)
    total = jnp.sum(products, axis=-1)
    confidence = jnp.max(products, axis=-1) / jnp.where(total > 0, total, 1.0)
    labels = jnp.argmax(products, axis=-1).astype(jnp.int32)
    return jnp.where(selector(confidence, threshold) & (total > 0), labels, IGNORE), confidence


def class_means(
    features: jax.Array,
    assigned: jax.Array,
    classes: int,
    *,
    min_pixels: int,
    size: tuple[int, int] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Mean feature of each class in each image (the centroids of Equations 5 and 6).

    With `size`, the means are those of the features resized to `size`, corners aligned. A mean is linear in the
    features, so the class map is brought down to the features' grid by the transposed weights instead: `classes`
    channels travel rather than `channels`, and the resized features never exist.

    Args:
      features: [batch, height, width, channels].
      assigned: integer class of each pixel, [batch, height, width], or [batch, *size] where `size` is given; IGNORE
        (and anything else outside 0 .. classes - 1) belongs to no class.
      classes: number of classes.
      min_pixels: classes with fewer pixels than this in an image have no mean there (released code: 10).
      size: (height, width) of the grid that the means are over; None for the features' own.

    Returns:
      means float32 [batch, classes, channels], and pixels float32 [batch, classes], 0 where there is no mean.

    Raises:
      ValueError: `assigned` is not on the grid that it should be on.
    """
    grid = tuple(features.shape[1:3]) if size is None else tuple(size)
    if assigned.shape != (features.shape[0], *grid):
        raise ValueError(
            f"class_means: `assigned` has shape {assigned.shape}, expected {(features.shape[0], *grid)}; pass "
            "`size` where the classes are on another grid than the features"
        )
    members = jax.nn.one_hot(assigned, classes, dtype=jnp.float32)
    pixels = jnp.sum(members, axis=(1, 2))
    if size is not None:
        members = transposed_resize_align_corners(members, features.shape[1:3])
    sums = jnp.einsum("bhwk,bhwc->bkc", members, features.astype(jnp.float32), precision=HIGHEST)
    pixels = jnp.where(pixels >= min_pixels, pixels, 0.0)
    means = jnp.where(pixels[..., None] > 0, sums / jnp.maximum(pixels, 1.0)[..., None], 0.0)
    return means, pixels


def _moved(prototypes: Prototypes, means: jax.Array, present: jax.Array, rate: float, unseen: str) -> Prototypes:
    """One application of Equation 6 to the classes that are `present`; means [classes, channels]."""
    if unseen not in ("replace", "released"):
        raise ValueError(f"unseen prototypes: expected 'replace' or 'released', got {unseen!r}")
    moved = (1.0 - rate) * prototypes.vectors + rate * means
    if unseen == "replace":
        moved = jnp.where(prototypes.seen[:, None], moved, means)
    vectors = jnp.where(present[:, None], moved, prototypes.vectors)
    return Prototypes(vectors, prototypes.counts + present.astype(jnp.float32))


def update_in_turn(
    prototypes: Prototypes, means: jax.Array, pixels: jax.Array, *, rate: float, unseen: str = "replace"
) -> Prototypes:
    """Equation 6 as the released code applies it: by every (image, class) mean, one image after the other.

    Args:
      prototypes: the prototypes before this batch.
      means: [images, classes, channels] from `class_means`, in the global order of the images.
      pixels: [images, classes]; 0 where a class has no mean.
      rate: 1 - lambda of Equation 6 for each vector.
      unseen: 'replace' lets the first vector of a class never seen become its prototype; 'released' lets it enter
        at `rate`, from zero.

    Returns:
      The prototypes after this batch; counts grow by one for each vector.
    """
    def one_image(carry: Prototypes, image: tuple[jax.Array, jax.Array]) -> tuple[Prototypes, None]:
        return _moved(carry, image[0], image[1] > 0, rate, unseen), None

    return jax.lax.scan(one_image, prototypes, (means, pixels))[0]


def update_by_batch(
    prototypes: Prototypes, means: jax.Array, pixels: jax.Array, *, rate: float, unseen: str = "replace"
) -> Prototypes:
    """Equation 6 as the paper words it: once a batch, by the mean over all of a class's pixels in the batch.

    Args and returns as in `update_in_turn`; counts grow by one for each class in the batch.
    """
    total = jnp.sum(pixels, axis=0)
    return _moved(prototypes, _mean_over_images(means, pixels), total > 0, rate, unseen)


def _mean_over_images(means: jax.Array, pixels: jax.Array) -> jax.Array:
    shares = pixels / jnp.maximum(jnp.sum(pixels, axis=0), 1.0)
    return jnp.einsum("nk,nkc->kc", shares, means, precision=HIGHEST)


def accumulate(
    prototypes: Prototypes, means: jax.Array, pixels: jax.Array, *, by: str = "vectors", count_limit: int = 3000
) -> Prototypes:
    """Adds a batch to the running mean that initialises the prototypes (Equation 5); start from `empty`.

    Args:
      prototypes: the running mean so far.
      means: [images, classes, channels] from `class_means`, in the global order of the images.
      pixels: [images, classes]; 0 where a class has no mean.
      by: 'pixels' is Equation 5, the mean over all pixels of a class; 'vectors' (released code) the mean over its
        (image, class) means, small and large regions alike.
      count_limit: with 'vectors', the count stops here, from where on the running mean forgets (released code).

    Returns:
      The running mean with this batch in it; counts are vectors (up to `count_limit`) or pixels.

    Raises:
      ValueError: `by` is neither.
    """
    if by == "pixels":
        new = jnp.sum(pixels, axis=0)
        share = new / jnp.maximum(prototypes.counts + new, 1.0)
        step = share[:, None] * (_mean_over_images(means, pixels) - prototypes.vectors)
        return Prototypes(prototypes.vectors + step, prototypes.counts + new)
    if by != "vectors":
        raise ValueError(f"prototype initialisation: expected by='vectors' or by='pixels', got {by!r}")

    def one_image(carry: Prototypes, image: tuple[jax.Array, jax.Array]) -> tuple[Prototypes, None]:
        mean, present = image[0], image[1] > 0
        step = (mean - carry.vectors) / (carry.counts[:, None] + 1.0)
        vectors = jnp.where(present[:, None], carry.vectors + step, carry.vectors)
        counts = jnp.minimum(carry.counts + present, float(count_limit))
        return Prototypes(vectors, counts), None

    return jax.lax.scan(one_image, prototypes, (means, pixels))[0]
