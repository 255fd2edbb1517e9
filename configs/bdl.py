"""BDL (Li et al., CVPR 2019), GTA5 -> Cityscapes: translation and segmentation help each other, in turns.

    python main.py --config=configs/bdl.py --workdir=... --config.model.imagenet_weights=<file> \
        --config.data.source.raw_dir=<GTA5> --config.data.target.raw_dir=<Cityscapes>

`--config=configs/bdl.py:synthia` begins with SYNTHIA. Published: 48.5 mIoU on GTA5 (Table 1), 51.4 over 13 classes on
SYNTHIA (Table 2). This configuration itself has not been run in full. To learn from a folder of images that somebody
has translated already, name it as the source's `raw_dir`, in the layout of the data set, and leave out the stages
`translation1` and `translation2` and what names them, `source_images`.

K = 2 times: two generators learn to translate the source, while the network of before is to see the same in an image
and its translation (class scores, normalised), and even more so in what comes back of it; a network learns the
translated source, and to look to a discriminator on the target as on these; and N = 2 times, so does one that starts
from the same weights and learns from labels of the one before, too: those that are surer than the median of their
class, or than 0.9. The first translation is by what a network that was trained on the source sees.
"""

import ml_collections

from proda_jax.configs import base, cbst, deeplabv2

TRANSLATIONS, ROUNDS = 2, 2  # K, N
PASSES = 20  # over the target's 2975 images, of each translation, 4 images in a step
BATCH = 4


def get_config(form: str = "gta5") -> ml_collections.ConfigDict:
    """The configuration that begins with one of `cbst.FORMS`."""
    c = cbst.task(form)
    c.task = f"bdl_{form}"
    c.batch_size = 1
    c.data.source.image_size = (720, 1280)
    c.data.target.image_size = c.data.validation.image_size = (512, 1024)  # scored at the labels' size
    c.views.crop_size, c.views.scale, c.views.flip = (512, 1024), (1.0, 1.0), False

    c.source = base.supervised("imagenet", 80_000)
    c.source.weight_decay, c.source.schedule_steps, c.source.batch_norm = 5e-4, 250_000, "affine_frozen"
    stages = ["source"]
    for k in range(1, 1 + TRANSLATIONS):
        translated = f"translation{k}"
        c[translated] = translation(stages[-1], PASSES * 2975 // BATCH)
        stages.append(translated)
        for number in range(ROUNDS + 1):
            name = f"round{k}_{number}" if number else f"aligned{k}"
            c[name] = aligned("imagenet", 120_000 if number else 80_000)
            c[name].source_images = translated
            if number:
                c[name].labels_from, c[name].label_weight = stages[-1], 1.0
            stages.append(name)
    c.stages = tuple(stages)
    return c


def translation(teacher: str, steps: int) -> ml_collections.ConfigDict:
    """Translation by what `teacher` sees, of crops of images as they come."""
    stage = base.translate(teacher, steps)
    stage.batch_size = BATCH
    stage.semantic, stage.semantic_weight, stage.semantic_again_weight = "logits", 0.1, 10.0
    with stage.unlocked():
        stage.views.base_width, stage.views.crop_size, stage.views.flip = 1024, (452, 452), True
    return stage


def aligned(init: str, steps: int) -> ml_collections.ConfigDict:
    """The adversarial stage as AdaptSegNet has it, with one head and the warm-up's rates."""
    stage = deeplabv2.adversarial(init, steps)
    stage.weight_decay, stage.schedule_steps = 5e-4, 250_000
    stage.batch_norm = "affine_frozen"
    return stage
