"""Every setting once: what it is, its unit, and where it comes from. Other configurations change what differs.

Sources: (Eq n), (Table n), (Section n) are the paper; "released" is the authors' code. Where paper and released code
differ, the default is the code's choice, unless it is a mistake or its authors advise otherwise; `docs/method.md` lists
these places.
"""

from typing import Any

import ml_collections
from ml_collections.config_dict import placeholder


def get_config() -> ml_collections.ConfigDict:
    """The settings that all configurations share; stages are added by `supervised`, `warmup`, `mix`, ... below."""
    c = ml_collections.ConfigDict()
    c.task = "base"  # name of the experiment, in results and tables
    c.init_from = placeholder(str)  # file of a whole network, in any format, for --mode=evaluate, predict and export
    c.seed = 0  # of everything random: initial weights, order, views, dropout
    c.stages = ()  # what is run, in this order; each names a section below
    c.batch_size = 4  # source images and target images in one step, over all devices (released)
    c.micro_batches = 1  # in which a device computes its share of a step, one after another (gradient accumulation)
    c.scan_passes = True  # passes that are alike are turns of a loop: compiled once, see adaptation/stages/passes.py
    c.log_every = 50  # steps between two lines of metrics
    c.summaries = True  # write metrics for TensorBoard (needs TensorFlow)
    c.save_every = 500  # steps between two checkpoints; each evaluation writes one, too
    c.save_minutes = 10.0  # longest time between two checkpoints
    c.compile_ahead = True  # what the next stage needs first, while one trains; not on GPUs nor on several hosts
    c.max_skipped = 20  # steps in a row, left out because a loss or gradient is not finite, that end the run
    c.evaluate_every = 1000  # steps between two evaluations; the best and the last network are kept (released)
    c.handover = "last"  # which network the next stage gets: 'last', or 'best' on the validation set (released)
    c.evaluate_at = "labels"  # where scores are: at the 'labels', which are never resized, or at validation.image_size:
    #                           'image_size' (versions before 0.2). Released: 2048 x 1024, where both are the same
    c.evaluate_batch_size = 1  # whole images at once on each device, in evaluation and where labels are made

    c.data = ml_collections.ConfigDict()
    c.data.loader = "tfds"  # 'tfds': decoded from disk by tf.data; 'memory': the same, held as one array
    c.data.data_dir = placeholder(str)  # where prepared data sets are kept; default: 'data' beside the stages
    c.data.raw_dir = placeholder(str)  # unpacked archives, if source and target come from one folder
    c.data.label_space = "cityscapes19"  # classes: cityscapes19, synthia16, camvid11, loveda7, isprs6, isprs5 (without
    #                                      clutter), or 'custom': those named here
    c.data.classes = ()  # names of a custom label space's classes
    c.data.colors = ()  # their colours (red, green, blue) in pictures; () makes some up
    c.data.strict = False  # whether a label value that is neither mapped nor known to be ignored is an error
    c.data.allow = ()  # what looks wrong with data and is meant to be so, such as ('absent_classes',); docs/data.md
    c.data.store_scale = 1.0  # prepared copies keep images at this share of their width and height; 1: as they came
    c.data.threads = 0  # that decode images; 0: one for each core
    # a data set, or None for no source or no validation images; several by `give` below
    c.data.source = dataset("gta5", "train", (1052, 1914))
    c.data.target = dataset("cityscapes", "train", (1024, 2048))
    c.data.validation = dataset("cityscapes", "val", (1024, 2048))
    c.data.labelled_target = placeholder(str)  # list of target images that are learnt from with their labels, a name a
    #                                            line (docs/data.md); None: of none
    c.data.labelled_target_share = 0.5  # of them among the labelled images of a step, beside a source
    c.data.lock()  # a setting that does not exist is refused where it is written

    c.model = ml_collections.ConfigDict()
    c.model.backbone = "resnet101"  # or resnet50, efficientnet_lite0, mit_b0 and others: docs/backbones.md
    c.model.depths = ()  # blocks of each of its groups; (): its own, others make small networks
    c.model.width = 0  # channels of its stem; 0: its own
    c.model.stride_in = placeholder(str)  # of ResNet's blocks: '1x1' (released) or '3x3', as torchvision's weights want
    c.model.contract_dilation = placeholder(bool)  # True: a dilated group's first block has the dilation of the group
    #                                                before, as in torchvision's and mmsegmentation's DeepLabs
    c.model.ceil_mode = placeholder(bool)  # False: the stem's pooling rounds its size down, as theirs
    c.model.deep_stem = placeholder(bool)  # True: three 3x3 convolutions first, as in mmsegmentation's ResNetV1c
    c.model.scan_blocks = placeholder(bool)  # of ResNet: a loop over like blocks (docs/performance.md)
    c.model.drop_path = placeholder(float)  # share of the last block's branches left out in training; None: its own
    c.model.position_resize = placeholder(str)  # 'offset', 'plain', 'antialias': of DINOv2; None: its authors'
    c.model.head = "released"  # 'released': branches, squeeze and excitation; 'deeplab': sum of dilated convolutions;
    #                            'daformer': several levels, separable branches; 'deeplabv3plus': the last level and
    #                            a finer one; 'light': for plain transformers
    c.model.auxiliary_head = "none"  # a second head of the same kind, that adversarial stages train: 'lower', on the
    #                                  last map but one (AdaptSegNet), or 'parallel', beside the first (CLAN)
    c.model.auxiliary_weight = 0.0  # of its class scores beside the main head's in what the network says (CLAN: 1)
    c.model.detail_size = ()  # height, width, pixels: stages of kind 'mix' see images at half their size, and windows
    #                           of this one at full size (HRDA: (512, 512) of crops of 1024); (): one resolution
    c.model.dilations = (6, 12, 18, 24)  # of the head's 3x3 convolutions; (6, 12) as in AdaptSegNet's code, (6, 12, 18)
    #                                      as in DAFormer's
    c.model.head_channels = 256  # of each branch of the released head and of DAFormer's; of HRDA's attention
    c.model.feature_channels = 256  # of these two heads' feature f, that prototypes live in
    c.model.dropout = 0.1  # share of feature channels dropped in training (released)
    c.model.input_mean = (0.0, 0.0, 0.0)  # subtracted from RGB in [0, 1] by networks that start at random (released: 0)
    c.model.input_std = (1.0, 1.0, 1.0)  # what divides it then
    c.model.initialisation = "released"  # of what no weights are given for; or 'he' (from scratch), 'pytorch'
    c.model.batch_norm_epsilon = "added"  # to the variance; 'clamped': batch variances are at least epsilon (released)
    c.model.recompute = False  # compute the backbone's blocks again in the backward pass: less memory, more time
    c.model.dtype = "float32"  # what convolutions compute in: float32 or bfloat16; all else is float32
    c.model.imagenet_weights = placeholder(str)  # file of the backbone, in any format (docs/weights.md); None: that of
    #                                              the package that brings this backbone's, where there is one
    c.model.self_supervised_weights = placeholder(str)  # the same, SimCLRv2
    c.model.weights_input = ""  # how weights want images, these and whole networks', where their files do not say:
    #                             'rgb01', 'rgb127', 'imagenet', 'bgr_mean', or mean and divisor of RGB in [0, 1] as
    #                             'r,g,b/r,g,b'; '': a guess, which is said
    c.model.lock()

    c.views = ml_collections.ConfigDict()
    c.views.crop_size = (512, 896)  # height, width of what the network trains on (released)
    c.views.base_width = placeholder(int)  # pixels; an image is resized to this width times `scale`, keeping its shape
    #                         (released: 2200 of Cityscapes' 2048); default: the width of data.target.image_size;
    #                         0: each image's own
    c.views.scale = (0.5, 1.5)  # uniform (released); (1, 1) at the default base_width: the paper's random crop
    c.views.target_stride = 4  # crop pixels between two pixels of target losses and labels (released)
    c.views.flip = True  # left-right with probability 1/2 (released)
    c.views.randaugment = True  # Table 7
    c.views.strong_operations = 2  # operations of the FixMatch pool, each with probability 1/2 (released)
    c.views.strong_flip = True  # the strong view is flipped once more with probability 1/2 (released)
    c.views.cutout_fraction = 1 / 3  # side of the cutout over the crop's shorter side; 0 for none (Table 7)
    c.views.lock()

    c.snapshots = ml_collections.ConfigDict()  # what each evaluation keeps for reports; nothing is learnt from it
    c.snapshots.images = 4  # held-out images whose labels and predictions are kept; 0 keeps nothing at all
    c.snapshots.held_out = 32  # images on which the quality of pseudo labels is measured (Figure 3)
    c.snapshots.features = 100  # pixels of each class, among them, whose features are kept (Figure 5)
    c.snapshots.lock()
    return c


def dataset(name: str, split: str, image_size: tuple[int, int]) -> ml_collections.ConfigDict:
    """One split of a prepared data set; images of another size are resized to `image_size` (height, width)."""
    d = ml_collections.ConfigDict()
    d.name, d.split, d.image_size = name, split, image_size
    d.raw_dir = placeholder(str)  # unpacked archives of this data set; default: that of the same data set in
    #                                  another role, or data.raw_dir
    d.images, d.labels = placeholder(object), placeholder(object)  # files of a 'folder' data set, see `folder`; several
    #                                                                as ('a', 'b')
    d.file_list = placeholder(str)  # text file that names those of them that are meant
    d.skip_unlabelled = False  # leave out images without a label, of a split that has labels, instead of refusing them
    d.value_range = ()  # values that are black and white in images of more than 8 bits; (): the upper 8 of 16 bits
    d.label_values = ()  # pairs (raw value or colour, class or 'ignored'); (): the data set's own
    d.share = 1.0  # of the images in a step, beside other data sets of the same role; only proportions count
    d.color_tolerance = 0  # a colour off by this in a channel still means what the nearest in label_values does
    return d.lock()


def give(c: ml_collections.ConfigDict, **roles: Any) -> None:
    """Gives roles of a configuration their data sets: one, several as (dataset(...), dataset(...)), or None.

    By itself, a setting that is a section takes no tuple in its place.
    """
    with c.ignore_type():
        for role, given in roles.items():
            c.data[role] = given


def folder(
    name: str,
    images: str | tuple[str, ...] | None,
    labels: str | tuple[str, ...] | None,
    image_size: tuple[int, int],
    label_values: dict | None = None,
    **settings: Any,
) -> ml_collections.ConfigDict:
    """Your own files as a data set.

    Args:
      name: what its prepared copy is called; letters, digits and underscores.
      images: folder of images, subfolders included, or a pattern: 'photos/*_rgb.png' takes those files only, and
        '*' is what an image and its label share; in folders, too, and '**' is any of them. Or several. None: there is
        no such data set.
      labels: the same for label PNGs: one for all images, or one for each of `images`; None where there are none.
      image_size: (height, width) to which images and labels are resized.
      label_values: {raw value or colour (red, green, blue): class or 'ignored'}; several may share a class. None: the
        values are positions in the list of classes.
      **settings: others of `dataset`, such as file_list.
    """
    d = dataset("folder" if images else "none", name, image_size)
    with d.unlocked():
        d.images, d.labels = images, labels
        d.label_values = tuple((label_values or {}).items())
        d.update(settings)
    return d


def stage(kind: str, init: str, steps: int) -> ml_collections.ConfigDict:
    """What every stage has.

    Args:
      kind: 'pretrain', 'translate', 'supervised', 'warmup', 'denoise', 'anchors', 'distill' or 'mix'.
      init: where its network starts: 'random', 'imagenet', 'self_supervised', or the name of an earlier stage.
      steps: number of steps.
    """
    s = ml_collections.ConfigDict()
    s.kind, s.init, s.steps = kind, init, steps
    s.weights = placeholder(str)  # file, in any format, from which the stage's network is taken instead of training it
    s.random_as = placeholder(str)  # name under which order, views, dropout and initial weights are drawn, so that
    #                                 stages that are compared draw the same; default: the stage's own
    s.source_images = placeholder(str)  # stage whose translations of the source's images are learnt from, with the
    #                                     source's labels; default: the images as they are
    s.views = ml_collections.ConfigDict()  # settings of the section 'views' that are others in this stage
    s.batch_size = placeholder(int)  # images of each domain in a step, over all devices; default: batch_size
    s.schedule = "poly"  # 'poly' (released); 'per_epoch': times `schedule_factor` after each epoch (Section 5.1);
    #                       'linear' to zero (DAFormer); 'flat_then_linear', from half of its steps on (CycleGAN);
    #                       'constant'
    s.schedule_steps = 90_000  # where 'poly' and the linear ones reach zero, steps (released)
    s.schedule_power = 0.9  # of the share of steps that is left, in 'poly' (released)
    s.schedule_factor = 0.9  # after each epoch, in 'per_epoch' (Section 5.1)
    s.schedule_warmup = 0  # steps over which rates rise linearly to what the schedule says
    s.schedule_warmup_start = 1e-6  # share of it that they rise from (DAFormer)
    s.schedule_warmup_to = "schedule"  # what they rise to: what the 'schedule' says meanwhile, or the 'rate' (CLAN)
    s.optimizer = "sgd"  # 'sgd' (released), 'adamw'
    s.adam_betas = (0.9, 0.999)  # of AdamW's running means
    s.backbone_rate = 2.5e-4  # learning rates
    s.head_rate = 2.5e-3  # of all after the backbone; ten times its rate (released)
    s.layer_decay = 1.0  # from each of the backbone's blocks to the one below, its rate falls by this factor
    s.momentum = 0.9  # of SGD
    s.weight_decay = 2e-4
    s.decay_vectors = True  # scales, biases, learnt tokens and their positions decay too (released)
    s.backbone_steps = "once"  # of SGD; 'released': most backbone parameters are stepped three times an iteration
    s.batch_norm = "batch"  # 'frozen': running statistics, fixed scale and bias; 'affine_frozen': the latter alone
    s.statistics = "all"  # whose passes move running statistics: 'all' (released) or the 'target' images' alone; or
    #                       'recomputed': the same, and what is scored and handed on has those of whole target images;
    #                       'averaged': likewise, the mean of those of batches of target crops as they are trained on
    s.statistics_images = 400  # target images from which they are recomputed, at most, or crops
    s.freeze_backbone = False  # its parameters and statistics stay as the stage found them: only the head learns
    s.reduction = "mean"  # of losses over pixels: 'mean' (released), 'sum' (Eq 1, 7, 10), or the mean of each 'image'
    s.jitter = ml_collections.ConfigDict()  # photometric jitter of labelled images, factors within 1 +- x; released: 0
    s.jitter.brightness = s.jitter.contrast = s.jitter.saturation = s.jitter.white_balance = 0.0
    s.fourier_beta = 0.0  # source images have the target's amplitudes of frequencies up to this share of the crop's
    #                       shorter side (FDA: 0.01, 0.05, 0.09); 0: their own
    s.fourier_window = "symmetric"  # 'corners': as FDA's code, without the highest positive frequency of these
    s.rare_class_sampling = False  # source images are drawn by a class that they hold, rare ones more often (DAFormer)
    s.rare_class_temperature = 0.01  # T of softmax((1 - frequency) / T), by which the class is drawn (DAFormer)
    s.rare_class_min_pixels = 3000  # an image of that class has more of its pixels, at its own size (DAFormer)
    s.rare_class_crop_pixels = 1500  # and so has a crop, which is drawn again where not (DAFormer)
    s.largest_class = 1.0  # share of a source crop's labelled pixels that no class reaches; 1: any may (DAFormer: 0.75)
    s.crop_tries = 10  # how often a source crop is drawn at most (DAFormer)
    return s


def pretrain(init: str, steps: int) -> ml_collections.ConfigDict:
    """SimCLR on the images of both domains, labels aside (Chen et al., 2020): later stages take the backbone alone."""
    s = stage("pretrain", init, steps)
    s.projection_channels = 128  # of the projections that are compared (SimCLR)
    s.hidden_channels = 2048  # of the layer before them (SimCLR, for a backbone of 2048)
    s.contrast_temperature = 0.1  # of the softmax over cosine similarities (SimCLR)
    s.grey = 0.2  # probability that a view is without colour (SimCLR)
    s.jitter.brightness = s.jitter.contrast = s.jitter.saturation = 0.8  # (SimCLR)
    s.jitter.white_balance = 0.2  # in place of SimCLR's shift of the hue; its blur is left out
    s.views.scale = (0.5, 2.0)  # wide, as two views of an image are to differ
    return s.lock()


def translate(teacher: str, steps: int) -> ml_collections.ConfigDict:
    """Translation of source images into the target's look, by cycles, as CyCADA has it (Hoffman et al., ICML 2018).

    What BDL (Li et al., CVPR 2019) does otherwise is in the settings. `teacher`: the stage whose network is to see in a
    translation what it sees in the image; it stays as it is.
    """
    s = stage("translate", "random", steps)
    s.teacher = teacher
    s.generator_channels = 64  # of the generators' first convolution (CycleGAN)
    s.generator_blocks = 9  # residual blocks of each generator (CycleGAN)
    s.discriminator_channels = (64, 128, 256, 512)  # of its 4x4 convolutions before the last (CycleGAN)
    s.optimizer, s.adam_betas, s.weight_decay = "adamw", (0.5, 0.999), 0.0  # which is Adam (CycleGAN)
    s.head_rate = s.backbone_rate = 2e-4  # of the generators, which have no backbone (CycleGAN)
    s.discriminator_rate = 2e-4  # of their discriminators (CycleGAN)
    s.schedule, s.schedule_steps = "flat_then_linear", steps
    s.gan = "ls"  # or 'vanilla'
    s.adversarial_weight = 1.0  # of what discriminators say of translations
    s.cycle_weight = 10.0  # of mean |x - what comes back of it|, colours in [-1, 1] (CycleGAN)
    s.identity_weight = 5.0  # of what a generator changes in images that look right already (CycleGAN: half of cycle's)
    s.semantic = "labels"  # cross entropy with teacher's labels of the image (CyCADA); or 'logits', squared difference
    #                        of normalised class scores (BDL)
    s.semantic_weight = 1.0  # of an image and its translation (CyCADA; BDL: 0.1); 0: none
    s.semantic_again_weight = 0.0  # of an image and what comes back of it (BDL: 10)
    s.pool_size = 50  # translations that discriminators may see again (CycleGAN); 0: none
    s.window = ()  # (height, width) of crops in which whole images are translated in the end; (): in one piece
    s.window_overlap = 0.25  # share that neighbouring crops have in common, at least
    return s.lock()


def supervised(init: str, steps: int, *, target_labels: bool = False) -> ml_collections.ConfigDict:
    """Cross entropy on the source; with `target_labels` on the target too, the oracle; or with its entropy (FDA)."""
    s = stage("supervised", init, steps)
    s.target_labels = target_labels
    s.regulariser_weight = 0.0  # of predictions on target images, whose labels are not read (FDA: 0.005)
    s.regulariser = "robust_entropy"  # which; see `denoise`
    return s.lock()


def warmup(init: str, steps: int) -> ml_collections.ConfigDict:
    """Adversarial output-space alignment, with the rate and frozen normalisation that the authors recommend.

    What AdaptSegNet, ADVENT, CLAN and FADA do otherwise is in the settings; configs/adaptsegnet.py and others.
    """
    s = stage("warmup", init, steps)
    s.batch_norm = "frozen"  # the authors' answer to those who could not train it
    s.focus = 0.0  # gamma of the focal loss on the source, in place of cross entropy (CLAN's code: 2)
    s.rare_weight = 1.0  # of source classes with few pixels in a batch, and of often absent ones (Seg-Uncertainty: 7)
    s.rare_pixels = 64 * 64  # fewer pixels are few, times the batch's images (Seg-Uncertainty)
    s.hard_share = 1.0  # of source pixels, of the largest losses, that are learnt from (Seg-Uncertainty: 0.2)
    s.logit_temperature = 1.0  # that class scores are divided by in the source's loss, and in 'classes' (FADA: 1.8)
    s.auxiliary_ce_weight = 0.0  # of the auxiliary head's loss on the source (AdaptSegNet, ADVENT: 0.1; CLAN: 1)
    s.gan = "ls"  # 'ls' least squares (released), 'vanilla'; 'classes': cross entropy over (domain, class) (FADA)
    s.adversarial_on = "probabilities"  # what discriminators see: 'probabilities' (released), their 'information'
    #                                     (ADVENT), or the network's 'features' (FADA)
    s.adversarial_weight = 0.01  # of what the network says; 0: there is no discriminator, but for a perturbation
    s.auxiliary_adversarial_weight = 0.0  # of what its auxiliary head says, with a discriminator of its own
    s.discriminated = "network"  # what the network says (CLAN), or the 'heads' on the target, which are to be like what
    #                              the network says of the source (Seg-Uncertainty)
    s.discriminator = "released"  # 'released', 'fully_convolutional' (AdaptSegNet), 'pixelwise' (FADA), 'multi_scale'
    #                               (Seg-Uncertainty)
    s.gradient_penalty = 0.0  # of discriminators' squared slopes on the source (Seg-Uncertainty: 0.01)
    s.discriminator_channels = (64, 128, 256, 512)  # of its convolutions before the last (released; FADA: 256, 128)
    s.discriminator_rate = 1e-4  # of Adam; follows the schedule too (released)
    s.discriminator_warmup = True  # whether it rises over schedule_warmup, too (CLAN; not in Seg-Uncertainty)
    s.discriminator_weight = 1.0  # of the discriminators' losses (released; AdaptSegNet, ADVENT, FADA: 0.5)
    s.scores_at = "grid"  # where their scores are compared: on their own 'grid' (released), or at the 'image' (CLAN)
    s.soft_label_limit = 0.9  # of the probabilities that 'classes' asks for (FADA)
    s.local_weight = 0.0  # lambda of 1 - cosine of the two heads in a target score's weight (CLAN: 40; SYNTHIA 10)
    s.local_floor = 0.4  # epsilon, what is added to it (CLAN)
    s.local_after = 5000  # steps up to which all scores count alike (CLAN)
    s.patch_modes = 0  # modes of source patches' labels that patches are told apart by (PatchAlign: 50); 0: none
    s.patch_size = (32, 64)  # (height, width) of a patch, pixels of the crop (PatchAlign)
    s.patch_channels = 512  # of the layer between a patch and its mode
    s.patch_weight = 0.01  # of the cross entropy with the modes of the source (PatchAlign)
    s.patch_adversarial_weight = 0.0005  # of a discriminator of patches by their modes
    s.perturbation = 0.0  # how far each of two attacks on features, that the last layer is to withstand, moves them: a
    #                       share of their root mean square (APODA)
    s.perturbation_steps = 1  # that an attack is made in
    s.perturbation_weight = 1.0  # of the loss on what attacks leave
    s.damping_steps = 0  # over which the adversarial weights and weight_divergence fall to zero; 0: never (CLAN: all)
    s.weight_divergence = 0.0  # of cos + 1 of two parallel heads' parameters (CLAN's code: 0.02)
    s.entropy_weight = 0.0  # of the target's normalised entropy (MinEnt: 0.001)
    s.auxiliary_entropy_weight = 0.0  # of that of the auxiliary head (MinEnt: 0.0002)
    s.memory_weight = 0.0  # of the divergence of each head from what the network says (Seg-Uncertainty: 0.1)
    s.memory_after = 15_000  # steps before it acts (Seg-Uncertainty)
    s.label_weight = 0.0  # of the cross entropy with hard labels of the target (BDL: 1); all below acts beside it
    s.labels_from = placeholder(str)  # stage whose network makes them
    s.label_selector = "class_portion"  # which of them are learnt from, see `add_selection`
    s.label_threshold = 0.9  # highest threshold of a class (BDL)
    s.label_scales, s.label_flip = (1.0,), False  # of which predictions they are, as in stages 1 to 3
    add_selection(s)
    s.label_portion, s.label_every = 0.5, 1  # the median, of all pixels (BDL)
    return s.lock()


def denoise(init: str, steps: int, *, labels_from: str | None = None) -> ml_collections.ConfigDict:
    """Stage 1 (Section 4.1 and 4.2). `labels_from`: stage whose network makes p_{t,0}; default: `init`."""
    s = stage("denoise", init, steps)
    s.labels_from = labels_from or init
    s.backbone_rate = s.head_rate = 1e-4  # Section 5.1
    s.label_scales = (1.0,)  # sizes of the image whose predictions p_{t,0} is the mean of (released: one)
    s.label_flip = False  # whether the mirrored image's are among them
    s.soft_label_stride = 8  # pixels between two of p_{t,0} as it is kept (released); 4 takes four times the disk
    s.weighting = "prototypes"  # omega of Eq 3: 'prototypes' (Eq 4), 'network' (Figure 4), 'none' (self-training)
    s.label_source = "fixed"  # 'fixed': p_{t,0}; 'moving': the momentum encoder's p_t (Figure 4)
    s.soft_label_interpolation = "probabilities"  # how p_{t,0} goes from there to the losses' grid (released), or
    #                                               'logits', which keeps what is small: as the network itself is scored
    s.hard_labels = True  # False: soft cross entropy with the weighted labels, times ce_weight + rce_weight (Figure 4)
    s.label_selector = "threshold"  # which rectified labels are learnt from; 'none': no choice is made; by thresholds
    #                                 of each class, and before they are rectified: see `add_selection`
    s.label_threshold = 0.0  # least confidence of a rectified label (Table 4)
    s.label_entropy = 0.25  # alpha of soft labels that are chosen by classes (LRENT of CRST), with hard_labels=False
    s.temperature = 1.0  # tau of Eq 4 and 8 (Table 8), in units of feature distance
    s.ce_weight = 0.1  # alpha of Eq 7 (Table 9)
    s.rce_weight = 1.0  # beta of Eq 7 (Table 9)
    s.consistency_weight = 10.0  # gamma_1 of Eq 11 (Table 10)
    s.consistency_over_classes = "mean"  # of Eq 9 (released), or 'sum', the divergence of each pixel as it is
    s.regulariser_weight = 0.1  # gamma_2 of Eq 11 (Table 10)
    s.regulariser = "mrkld"  # Eq 10; 'mrent': negative entropy; 'robust_entropy': entropy of pixels not sure (FDA)
    add_selection(s)
    add_means(s)
    add_self_labelling(s)
    s.queue_contrast_weight = 0.0  # of the contrast of the network's features with those of the queue (CPSL: 0.001)
    s.cutmix_share = 0.0  # of target images, on whose weak view a box of half a source image is pasted (CPSL: 0.5)
    s.ema_momentum = 0.999  # of the momentum encoder, each step (released)
    s.ema_view = "image"  # what it sees: the whole 'image', cropped afterwards (released), or the 'crop' T(x) (Eq 8)
    s.ema_crop = "released"  # how its output is cropped: by target_stride pixels at a time ('released'), or 'exact',
    #                          which small images need: two pixels are much of what they show
    s.ema_mode = "train"  # 'train': batch statistics and dropout (released); 'eval': running statistics
    add_prototypes(s)
    return s.lock()


def add_selection(s: ml_collections.ConfigDict) -> None:
    """Adds what self-training by classes has to the settings of a stage that learns from pseudo labels.

    Further values of `label_selector`: 'class_balanced', argmax of p over the threshold of each class, above which the
    surest `label_portion` of the pixels predicted as it lie (CBST, CRST); 'all_classes', the same with one threshold,
    which they are compared with; 'class_portion', argmax of p where p is at least that of its class, or label_threshold
    where that is lower (BDL, FDA).
    """
    s.label_portion = 0.2  # share of each class's pixels that labels are kept of (CBST: 0.2 and more; BDL: 0.5)
    s.label_every = 4  # of the pixels of a class in an image, every so manieth is looked at for it (CBST; BDL: 1)


def add_means(s: ml_collections.ConfigDict) -> None:
    """Adds over which pixels the means of a stage with pseudo labels are."""
    s.regulariser_over = "all"  # pixels of the target, or those with 'labels' (CRST)
    s.mean_over = "domain"  # labels of each domain have their mean, or those of 'both' have one (CRST's code, whose
    #                         batches mix images of both), each counting at the size at which it is learnt from


def add_prototypes(s: ml_collections.ConfigDict) -> None:
    """Adds how prototypes start and move to the settings of a stage."""
    s.prototype_momentum = 0.9999  # lambda of Eq 6 (Table 5), for each vector or batch as below
    s.prototype_update = "in_turn"  # every (image, class) vector in turn (released), or once a 'batch' (Eq 6)
    s.prototype_min_pixels = 10  # fewer pixels (on the grid of target losses) make no vector (released)
    s.unseen_prototypes = "replace"  # a class without data is absent and its first vector replaces it; 'released':
    #                                  that vector enters at the usual rate, from zero
    s.prototype_init = "target"  # classes by the 'target' pseudo labels, or 'source' ground truth (Table 6)
    s.prototype_init_by = "vectors"  # mean over (image, class) 'vectors' (released) or over 'pixels' (Eq 5)
    s.prototype_init_min_pixels = 10  # fewer pixels (at an eighth of the image) make no vector (released)
    s.prototype_init_limit = 3000  # vectors after which the running mean's count stops (released)
    s.prototype_init_passes = 1  # over the data; the released tool makes four, which changes little but the time


def add_self_labelling(s: ml_collections.ConfigDict) -> None:
    """Adds how prototypes are compared with features, and learnt, as CPSL has it (Li et al., CVPR 2022)."""
    s.prototype_distance = "euclidean"  # of Eq 4 and 8; 'cosine', one minus it, with a temperature of 0.08 (CPSL)
    s.self_label_weight = 0.0  # of the loss by which prototypes are learnt (CPSL: 0.1), at head_rate: what weighs
    #                            labels is then their average by prototype_momentum (CPSL: 0.999); 0: means of Eq 6
    s.self_label_pixels = 256  # positions of each image that are looked at for it (CPSL)
    s.self_label_queue = 65_536  # positions of steps before that are assigned together with an image's (CPSL)


def anchors(init: str, steps: int) -> ml_collections.ConfigDict:
    """Class anchors (CAG-UDA, Zhang et al., NeurIPS 2019): `init`'s network labels the target, and stays as it was."""
    s = stage("anchors", init, steps)
    s.backbone_rate = s.head_rate = 1e-4
    s.anchor_margin = 2.5  # by which the second-nearest anchor is farther than the one that labels, in feature distance
    s.anchor_weight = 0.5  # of the cross entropy with these labels
    s.label_threshold = 0.95  # confidence above which a pixel has the network's own label
    s.confident_weight = 0.5  # of the cross entropy with those
    s.distance_weight = 0.7  # of the distances of class vectors to their anchors, on source and target
    s.anchor_gradient = "mean"  # how they reach a pixel: by the 'mean' over a class; 'released': times twice the share
    #                             of pixels that are of the class
    add_prototypes(s)  # their pixels are those of the network's output grid; vectors are of the source
    s.prototype_momentum = 1.0  # anchors stay; classes without one get their first vector
    s.prototype_init = "source"
    return s.lock()


def mix(init: str, steps: int) -> ml_collections.ConfigDict:
    """One-stage self-training on mixed images, as DACS has it (Tranheden et al., WACV 2021).

    What else DAFormer (Hoyer et al., CVPR 2022), HRDA (ECCV 2022) and MIC (CVPR 2023) do is in the settings.
    """
    s = stage("mix", init, steps)
    s.ema_momentum = 0.99  # of the teacher, once min(1 - 1 / (step + 1), it) has risen to it (DACS; DAFormer: 0.999)
    s.teacher_statistics = "averaged"  # the teacher's own, which follow like its parameters; 'network': the trained
    #                                    network's; 'batch': those of its target images (released codes)
    s.weighting = "share"  # what pseudo labels count: the 'share' of an image's pixels that are confident (DACS,
    #                        DAFormer); 'pixels', 1 where confident (DACS' variant); 'none', 1; 'prototypes', Eq 4's
    #                        weight of the label that Eq 3 chooses
    s.weight_over = "image"  # what the share is taken over; 'batch', one for all of its images (released codes)
    s.label_threshold = 0.968  # probability from which on a pixel is confident (DACS)
    s.ignored_margins = (0, 0, 0, 0)  # top, bottom, left, right, pixels in which pseudo labels do not count (DAFormer,
    #                                   Cityscapes: 15, 120, 0, 0 of a crop of 512)
    s.margins_of = "crop"  # what they are margins of: the 'crop' (DAFormer), or the whole 'image' (HRDA)
    s.detail_weight = 0.1  # of the class scores of windows at full size alone in each cross entropy, beside those of
    #                        both resolutions, which have the rest; of networks with model.detail_size (HRDA)
    s.mixed_weight = 1.0  # of the mixed images' cross entropy (DACS)
    s.mix_classes = "image"  # half of the classes of each source 'image' is pasted (DACS), or half of those of the
    #                          'batch', of which an image may hold few (DAFormer's code)
    s.strong = ml_collections.ConfigDict()  # what mixed images go through (DACS)
    s.strong.brightness = s.strong.contrast = s.strong.saturation = 0.2  # factors within 1 +- x
    s.strong.hue = 0.2  # shift within +- x turns of the colour circle
    s.strong.jitter_probability = 0.8  # the released parameter, 0.2, is that of none
    s.strong.blur_probability = 0.5
    s.strong.blur_sigma = (0.15, 1.15)  # pixels, uniform
    s.strong_colours = "torchvision"  # what brightness, contrast and saturation are: torchvision's (and kornia's from
    #                                   0.6.4 on), or those of the 'kornia' that the released codes pin, 0.5.8
    s.masked_weight = 0.0  # of the cross entropy of target images with hidden blocks (MIC: 1)
    s.mask_block = 64  # side of a block, pixels of the crop (MIC; 32 for networks that see half the resolution)
    s.mask_ratio = 0.7  # share of blocks that are hidden (MIC)
    s.mask_strong = True  # masked images are jittered and blurred too (MIC; not from clear to adverse weather)
    s.mask_source = False  # every second masked image is the source's, with its labels (MIC: to adverse weather)
    s.feature_distance_weight = 0.0  # of the backbone's features from those that it started with (DAFormer: 0.005)
    s.feature_distance_classes = ()  # names of classes on which they are compared (DAFormer: things); (): everywhere
    s.feature_distance_share = 0.75  # of a feature's part of the image that such a class covers (DAFormer)
    s.contrast_weight = 0.0  # of the contrast of projected features with what is known of classes, on the source and on
    #                          the target as it is jittered (SePiCo: 1)
    s.contrast_with = "distribution"  # mean and variance of each class over all steps, of the teacher's on the source;
    #                                   'prototypes', the mean alone; 'bank', means in the last batches
    s.contrast_temperature = 100.0  # of the similarities (SePiCo)
    s.contrast_channels = 512  # of the projection (SePiCo)
    s.contrast_share = 0.75  # of a feature's part of the image that its class has, or it is left out (SePiCo)
    s.contrast_bank = 200  # batches whose means a bank holds (SePiCo)
    s.contrast_after = 3000  # steps before it acts (SePiCo)
    s.foundation = placeholder(str)  # backbone, such as dinov3_vitl16 (DFUDA): source features, by a 1x1 convolution,
    #                                  are to be near its mean features of their class; None: of none
    s.foundation_file = placeholder(str)  # its weights, in any format (docs/weights.md)
    s.foundation_input = ""  # how they want images, where their file does not say, as model.weights_input
    s.foundation_weight = 0.1  # of the cross entropy of cosines with these over the temperature (DFUDA)
    s.foundation_temperature = 0.07
    s.temperature = 1.0  # tau of Eq 4, in units of feature distance, of weighting 'prototypes', as all below
    add_prototypes(s)  # their pixels are those of the network's output grid
    add_self_labelling(s)
    return s.lock()


def self_training(init: str, steps: int, *, threshold: float = 0.0) -> ml_collections.ConfigDict:
    """Conventional self-training: the same stage with fixed labels and plain cross entropy (Table 3, first row)."""
    s = denoise(init, steps)
    s.weighting = "none"
    s.label_threshold = threshold
    s.ce_weight, s.rce_weight, s.consistency_weight, s.regulariser_weight = 1.0, 0.0, 0.0, 0.0
    return s


def distill(teacher: str, init: str, steps: int) -> ml_collections.ConfigDict:
    """Stages 2 and 3 (Section 4.3): `teacher` is the stage that is distilled and makes the hard pseudo labels."""
    s = stage("distill", init, steps)
    s.teacher = teacher
    s.backbone_rate, s.head_rate = 6e-4, 6e-3  # before and after the extra normalisation (Section 5.1)
    s.init_takes = placeholder(str)  # 'backbone': of the stage it starts from, below a fresh head; default: all of it
    s.extra_norm = True  # batch normalisation after the backbone, for self-supervised weights (Section 5.1)
    s.label_selector = "above_threshold"  # which of the teacher's labels are learnt from, likewise
    s.label_threshold = 0.95  # confidence up to which a pixel has no hard label (Section 5.1)
    s.label_scales = (1.0,)  # sizes of the image whose predictions are averaged for the hard labels (released: one)
    s.label_flip = True  # whether the mirrored image's are among them (released)
    s.source_weight = 1.0  # of the source's cross entropy; 0: the source is not learnt from (FADA)
    s.target_view = "strong"  # what student and teacher see: 'strong' (released) or 'weak' (Eq 12)
    s.ce_weight, s.rce_weight = 1.0, 0.0  # of the hard labels: cross entropy (Eq 12); symmetric as released option
    s.regulariser_weight, s.regulariser = 0.0, "mrkld"  # of the target's predictions, as in stage 1 (CRST)
    add_selection(s)
    add_means(s)
    s.auxiliary_ce_weight = 0.0  # of the auxiliary head's loss on them, if it is trained (Seg-Uncertainty: 0.5)
    s.rectified = False  # cross entropy counts less where two heads diverge, which adds to it (Seg-Uncertainty)
    s.distillation_weight = 1.0  # beta of Eq 12
    s.distillation_form = "equation12"  # divided by the number of classes; 'equation12_per_pixel', 'released' (a bug)
    return s.lock()


STAGES = {  # what the stages of each kind begin with
    "pretrain": lambda: pretrain("", 1),
    "translate": lambda: translate("", 1),
    "supervised": lambda: supervised("", 1),
    "warmup": lambda: warmup("", 1),
    "denoise": lambda: denoise("", 1),
    "anchors": lambda: anchors("", 1),
    "distill": lambda: distill("", "", 1),
    "mix": lambda: mix("", 1),
}


def usual(kind: str) -> ml_collections.ConfigDict:
    """The settings that stages of a kind begin with; of one that is not here those of all."""
    begins = STAGES.get(kind, lambda: {})
    return ml_collections.ConfigDict(dict(stage("", "", 1)) | dict(begins()))
