"""What a step needs besides its state and its batch."""

from dataclasses import dataclass

import jax
import ml_collections
import optax

from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.models.discriminator import Discriminator
from proda_jax.models.translator import PatchDiscriminator, Translator


@dataclass(frozen=True)
class Setup:
    """What a step needs and never changes.

    Attributes:
      model: the trained network; `teacher`: the network that distillation learns from.
      optimizer: of the trained network.
      stage: the stage's section of the configuration.
      views: the configuration's section on views.
      axis_name: mapped axis over the devices, or None on one.
      micro_batches: number of them in which a device computes its share of the batch.
      scan_passes: whether passes that are alike are iterations of one loop, see `passes.gradients`.
      discriminator, discriminator_optimizer: of the adversarial warm-up, or of translation.
      prototype_optimizer: of prototypes that are learnt.
    """

    model: SegmentationNetwork | Translator
    optimizer: optax.GradientTransformation
    stage: ml_collections.FrozenConfigDict
    views: ml_collections.FrozenConfigDict
    axis_name: str | None = None
    micro_batches: int = 1
    scan_passes: bool = True
    teacher: SegmentationNetwork | None = None
    discriminator: Discriminator | PatchDiscriminator | None = None
    discriminator_optimizer: optax.GradientTransformation | None = None
    prototype_optimizer: optax.GradientTransformation | None = None

    @property
    def crop_size(self) -> tuple[int, int]:
        return tuple(self.views.crop_size)

    @property
    def target_size(self) -> tuple[int, int]:
        """Height and width at which target losses are computed: a quarter of the crop in the released code."""
        return self.on_target_grid(self.crop_size)

    def on_target_grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width, on the grid of target losses, of an image of this size in pixels."""
        stride = self.views.target_stride
        return size[0] // stride, size[1] // stride

    @property
    def shares(self) -> int:
        """Micro-batches of all devices; each has as many examples."""
        return self.micro_batches * (1 if self.axis_name is None else jax.lax.axis_size(self.axis_name))
