"""AdaptSegNet, ADVENT, CLAN and FADA, by our configurations, agree with the released codes in whole objectives."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from comparators import B, K, agree, first_of, golden, nchw, nhwc, same, thinned

from proda_jax.adaptation import adversary, losses, optim
from proda_jax.adaptation.stages import step as steps
from proda_jax.adaptation.stages import warmup
from proda_jax.adaptation.stages.warmup import Objective
from proda_jax.adaptation.state import TrainState
from proda_jax.configs import adaptsegnet, advent, clan, fada, seg_uncertainty
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models.convolution import Conv
from proda_jax.models.discriminator import DISCRIMINATORS
from proda_jax.models.heads import Output
from proda_jax.models.heads.deeplab import DeepLabHead
from proda_jax.models.heads.released import ReleasedHead
from proda_jax.models.resizing import resize_align_corners

MAIN, AUXILIARY = adversary.MAIN, adversary.AUXILIARY
CHANNELS = (64, 128, 256, 512)
LAYERS = ("conv1", "conv2", "conv3", "conv4", "classifier")


def discriminator_weights(g, prefix: str, names=LAYERS) -> dict:
    """Parameters of the output-space discriminator; `names`: of its layers there."""
    sizes = zip((K, *CHANNELS), (*CHANNELS, 1), LAYERS, names, strict=True)
    return {layer: g.conv(f"{prefix}.{name}", out, into, 4) for into, out, layer, name in sizes}


def head_weights(g, prefix: str, classes: int = K, times: float = 1.0, branches: int = 4) -> dict:
    """Parameters of the four-branch head, or of fewer branches."""
    made = {f"branch{i}_conv": g.conv(f"{prefix}.conv2d_list.{i}", classes, 32, 3) for i in range(branches)}
    return jax.tree.map(lambda leaf: np.float32(times * leaf), made)


def head(branches: int = 4, classes: int = K) -> DeepLabHead:
    return DeepLabHead(classes, (6, 12, 18, 24)[:branches], functools.partial(Conv, dtype=jnp.float32))


def large(g) -> tuple[int, int]:
    return 2 * g.h, 2 * g.w


def objective_of(stage: ml_collections.ConfigDict, labels: np.ndarray, step: int = 0, classes: int = K) -> Objective:
    """The objective of a stage on images of the size of these labels, which are the whole batch."""
    outputs = 2 * classes if stage.gan == adversary.CLASSES else 1
    critic = DISCRIMINATORS[stage.discriminator](tuple(stage.discriminator_channels), outputs=outputs)
    setup = steps.Setup(None, None, stage, None, discriminator=critic)
    counted = losses.count(labels != IGNORE, stage.reduction), jnp.int32(labels.size)
    return Objective(setup, labels.shape[1:], jnp.int32(step), *counted)


def output_of(main: jax.Array, auxiliary: jax.Array | None = None, weight: float = 0.0) -> Output:
    heads = (main,) if auxiliary is None else (main, auxiliary)
    return Output(main, main if auxiliary is None else main + weight * auxiliary, heads)


def logits_of(g, rows: slice = slice(None)) -> dict[str, np.ndarray]:
    return {name: g.logits(name)[rows] for name in ("src_main", "src_aux", "trg_main", "trg_aux")}


def stepped(stage, logits: dict, labels, critics, heads=None, *, step: int = 0, weight: float = 0.0) -> dict:
    """Terms of a step, gradients of the whole objective by logits, and of that of the discriminators.

    `heads`: parameters of two heads whose likeness is asked for, too, with its gradient.
    """
    objective = objective_of(stage, labels, step)

    def outputs(logits):
        return [output_of(logits[f"{d}_main"], logits[f"{d}_aux"], weight) for d in ("src", "trg")]

    @jax.jit
    def run(logits, critics, heads):
        def network(logits):
            source, target = outputs(logits)
            source, metrics = objective.source(source, labels)
            target, more = objective.target(target, critics)
            return source + target, metrics | more

        gradient, terms = jax.grad(network, has_aux=True)(logits)
        found = {"terms": terms, "logits": gradient}
        if heads is not None:
            found["likeness"], found["heads"] = jax.value_and_grad(objective.weight_similarity)(heads)
        if critics is not None:
            source, target = outputs(logits)
            found["critics"] = jax.grad(objective.discriminators)(critics, source, target)
            for which in objective.weights(critics):
                loss = functools.partial(objective.adversarial_loss, critics)
                found[f"fooled{which}"] = loss(target, which, adversary.SOURCE, local=True)
                found[f"source{which}"] = loss(source, which, adversary.SOURCE)
                found[f"target{which}"] = loss(target, which, adversary.TARGET, local=True)
        return found

    return jax.device_get(run(logits, critics, heads))


def probabilities(logits, size: tuple[int, int]):
    return jax.nn.softmax(resize_align_corners(logits, size))


def self_informations(logits, size: tuple[int, int]):
    return losses.self_information(probabilities(logits, size))


@functools.partial(jax.jit, static_argnums=(2, 3))
def scores_of(critic: dict, logits, size: tuple[int, int], shown: Callable = probabilities):
    """What the output-space discriminator says of `shown`(logits, size)."""
    return DISCRIMINATORS["fully_convolutional"]().apply({"params": critic}, shown(logits, size))


# AdaptSegNet


@pytest.mark.parametrize("tag", ["multi_vanilla", "multi_ls", "single_ls"])
def test_adaptsegnet(tag):
    g = golden("adaptseg")
    stage = adaptsegnet.get_config("gta5_multi").adaptsegnet
    if tag.endswith("ls"):
        stage.gan = "ls"
    if tag.startswith("single"):
        stage = adaptsegnet.get_config("gta5_ls").adaptsegnet
    critics = discriminator_weights(g, "D.main38") | {"auxiliary": discriminator_weights(g, "D.aux6")}
    found = stepped(stage, logits_of(g), g.labels("labels_large"), critics)
    terms = found["terms"]
    for i, ce in {1: "auxiliary_ce", 2: "source_ce"}.items():
        which = (AUXILIARY, MAIN)[i - 1]
        agree(terms[ce], g[f"{tag}_loss_seg{i}"])
        agree(found[f"fooled{which}"], g[f"{tag}_loss_adv_target{i}"])
        agree(stage.discriminator_weight * (found[f"source{which}"] + found[f"target{which}"]), g[f"{tag}_loss_D{i}"])
        params, gradient = (tree if which == MAIN else tree["auxiliary"] for tree in (critics, found["critics"]))
        for layer, leaf in (("conv1", "weight"), ("conv4", "bias"), ("classifier", "weight"), ("classifier", "bias")):
            ours = gradient[layer]["kernel" if leaf == "weight" else "bias"]
            agree(first_of(ours), g[f"{tag}_D{i}.{layer}.{leaf}_grad"])
        domain = ("trg_aux", "src_main")[i - 1]
        own = {layer: params[layer] for layer in LAYERS}
        agree(nchw(scores_of(own, g.logits(domain), large(g))), g[f"{tag}_D{i}_out_{domain[:3]}"])
    for name, gradient in found["logits"].items():
        if f"{tag}_{name}_grad" in g.arrays:
            agree_or_nothing(thinned(gradient), g[f"{tag}_{name}_grad"])


def agree_or_nothing(actual: np.ndarray, expected: np.ndarray) -> None:
    """`agree`, also where there is to be no gradient at all."""
    if np.any(expected):
        agree(actual, expected)
    else:
        assert not np.any(actual)


test_adaptsegnet.cases = [("multi_vanilla",), ("multi_ls",), ("single_ls",)]


def test_adaptsegnets_head_sums_two_branches_and_its_cross_entropy_is_at_the_labels():
    g = golden("adaptseg")
    features = nhwc(g.normal("feat_src", (B, 32, *g.grid)))
    said = jax.jit(head(2).apply)({"params": head_weights(g, "head", branches=2)}, features, None)
    agree(nchw(said.logits), g["head_two_branches"])
    loss, gradient = jax.jit(jax.value_and_grad(losses.upsampled_cross_entropy))(g.logits("src_main"), g.labels())
    agree(loss, g["ce"])
    agree(thinned(gradient), g["ce_grad"])


# ADVENT


@pytest.mark.parametrize("classes", [19, 16])
def test_entropy_of_advent(classes):
    g = golden("advent")

    @jax.jit
    def run(logits):
        parts = self_informations(logits, g.grid), self_informations(logits, g.size).sum(-1)
        return *parts, *jax.value_and_grad(losses.entropy)(logits, g.size)

    small, whole, loss, gradient = run(g.logits("trg_main", classes))
    agree(nchw(small), g[f"selfinfo_{classes}_lowres"])
    agree(whole, g[f"selfinfo_{classes}_sum"])
    agree(loss, g[f"minent_{classes}"])
    agree(thinned(gradient), g[f"minent_{classes}_grad"])
    sure = np.asarray(jax.jit(losses.self_information)(np.float32([1.0, 0.0])))
    np.testing.assert_allclose(nchw(sure[None, None, None]), g["selfinfo_zero"], atol=1e-12)


test_entropy_of_advent.cases = [(19,), (16,)]


def test_advent():
    g = golden("advent")
    stage, layers = advent.get_config("gta5").advent, ("0", "2", "4", "6", "8")
    critics = discriminator_weights(g, "D.main15", layers)
    critics |= {"auxiliary": discriminator_weights(g, "D.aux37", layers)}
    found = stepped(stage, logits_of(g), g.labels("labels_large"), critics)
    for ours, name in {"source_ce": "main", "auxiliary_ce": "aux"}.items():
        agree(found["terms"][ours], g[f"advent_loss_seg_src_{name}"])
    for name, gradient in found["logits"].items():
        agree(thinned(gradient), g[f"advent_{name}_grad"])
    for which, name, number in ((MAIN, "main", 2), (AUXILIARY, "aux", 1)):
        agree(found[f"fooled{which}"], g[f"advent_loss_adv_trg_{name}"])
        agree(0.5 * (found[f"source{which}"] + found[f"target{which}"]), g[f"advent_loss_d_{name}"])
        gradient = found["critics"] if which == MAIN else found["critics"]["auxiliary"]
        for layer, place, leaf in (("conv1", 0, "weight"), ("conv4", 6, "bias"), ("classifier", 8, "weight"),
                                   ("classifier", 8, "bias")):  # fmt: skip
            ours = gradient[layer]["kernel" if leaf == "weight" else "bias"]
            agree(first_of(ours), g[f"advent_D{number}.{place}.{leaf}_grad"])
    own = {layer: critics[layer] for layer in LAYERS}
    agree(nchw(scores_of(own, g.logits("trg_main"), large(g), self_informations)), g["advent_D2_out_trg"])


def test_minent():
    g = golden("advent")
    stage = advent.get_config("gta5").minent
    found = stepped(stage, logits_of(g), g.labels("labels_large"), None)
    agree(found["terms"]["entropy"], g["minent_step_loss_target_entp_main"])
    agree(found["terms"]["auxiliary_entropy"], g["minent_step_loss_target_entp_aux"])
    for name in ("trg_main", "trg_aux"):
        agree(thinned(found["logits"][name]), g[f"minent_step_{name}_grad"])


# CLAN


@functools.cache
def clan_step(form: str, step: int, image: int | None, reduction: str = "mean") -> dict:
    """A step on one of the images, or on both."""
    g, rows = golden("clan"), slice(None) if image is None else slice(image, image + 1)
    c = clan.get_config(form)
    c.clan.reduction = reduction
    labels = g.labels("labels_large")[rows]
    heads = {"head": head_weights(g, "C2"), "auxiliary_head": head_weights(g, "C1")}
    return stepped(c.clan, logits_of(g, rows), labels, discriminator_weights(g, "D.clan42"), heads, step=step,
                   weight=c.model.auxiliary_weight)  # fmt: skip


@pytest.mark.parametrize(("tag", "form", "step", "image"), [
    ("gta", "gta5", 50000, 0), ("synthia", "synthia", 50000, 1), ("preheat", "gta5", 5000, 0),
])  # fmt: skip
def test_clan(tag, form, step, image):
    g, found = golden("clan"), clan_step(form, step, image)
    agree(found["terms"]["source_ce"] + found["terms"]["auxiliary_ce"], g[f"{tag}_loss_seg"])
    agree(found["terms"]["adversarial"], g[f"{tag}_loss_adv"])
    agree(found["likeness"], g[f"{tag}_loss_weight"])
    agree(found["source0"], g[f"{tag}_loss_D_s"])
    agree(found["target0"], g[f"{tag}_loss_D_t"])
    for name, gradient in found["logits"].items():
        agree(thinned(gradient), g[f"{tag}_{name}_grad"])
    for layer, leaf in (("conv1", "weight"), ("conv4", "bias"), ("classifier", "weight"), ("classifier", "bias")):
        ours = found["critics"][layer]["kernel" if leaf == "weight" else "bias"]
        agree(first_of(ours), g[f"{tag}_D.{layer}.{leaf}_grad"])
    agree(first_of(found["heads"]["auxiliary_head"]["branch0_conv"]["kernel"]),
          g[f"{tag}_C1.conv2d_list.0.weight_grad"])  # fmt: skip
    agree(first_of(found["heads"]["head"]["branch3_conv"]["bias"]), g[f"{tag}_C2.conv2d_list.3.bias_grad"])
    # what the discriminator says, and how much it counts
    first, second = (g.logits(name)[image : image + 1] for name in ("trg_main", "trg_aux"))
    scores = scores_of(discriminator_weights(g, "D.clan42"), first + second, large(g))
    agree(nchw(jax.jit(resize_align_corners, static_argnums=1)(scores, large(g))), g[f"{tag}_D_out"])
    if tag == "gta":
        apart = jax.jit(lambda *two: losses.disagreement(*(probabilities(logits, large(g)) for logits in two)))
        agree(np.asarray(apart(first, second))[:, None], g[f"{tag}_weight_map"])


test_clan.cases = [("gta", "gta5", 50000, 0), ("synthia", "synthia", 50000, 1), ("preheat", "gta5", 5000, 0)]


def test_clan_on_two_images_is_the_mean_over_them():
    both = clan_step("gta5", 50000, None, "image")
    alone = [clan_step("gta5", 50000, image, "image") for image in (0, 1)]
    for name, gradient in both["logits"].items():
        agree(gradient, np.concatenate([one["logits"][name] for one in alone]) / 2)
    agree(both["terms"]["adversarial"], np.mean([one["terms"]["adversarial"] for one in alone]))
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *(one["critics"] for one in alone))
    jax.tree.map(functools.partial(agree, tolerance=1e-4), both["critics"], mean)


def test_weighted_and_focal_losses_of_clan():
    g = golden("clan")
    scores = nhwc(3 * g.normal("clan_bce_x", (1, 1, *g.size)))
    weights = 0.4 + 40 * nhwc(g.uniform("clan_bce_w", (1, 1, *g.size)))
    weighted = jax.jit(jax.value_and_grad(functools.partial(losses.gan_loss, kind="vanilla")))
    for label in (0, 1):
        loss, gradient = weighted(scores, label, weights=weights)
        agree(loss, g[f"wbce_{label}"])
        agree(thinned(gradient), g[f"wbce_{label}_grad"])
    focal = jax.jit(jax.value_and_grad(functools.partial(losses.upsampled_cross_entropy, focus=2.0)))
    loss, gradient = focal(g.logits("src_main")[:1], g.labels()[:1])
    agree(loss, g["focal_ce"])
    agree(thinned(gradient), g["focal_ce_grad"])


# FADA


@pytest.mark.parametrize("classes", [19, 16])
def test_fada(classes):
    g, tag = golden("fada"), f"K{classes}"
    stage = fada.get_config("gta5").fada
    stage.discriminator_channels = (64, 32)
    classifier = head_weights(g, f"cls{classes}", classes, times=6.0)
    parts = [g.conv(f"PD{classes}.cls{i}", classes, 32, 3) for i in (1, 2)]
    critics = {
        "conv1": g.conv(f"PD{classes}.D.0", 64, 32, 3),
        "conv2": g.conv(f"PD{classes}.D.2", 32, 64, 3),
        "classifier": jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=-1), *parts),
    }
    labels = g.labels(classes=classes)
    objective = objective_of(stage, labels, classes=classes)
    maps = {name: nhwc(g.normal(name, (B, 32, *g.grid))) for name in ("feat_src", "feat_trg")}

    def output(features, classifier):
        logits = head(classes=classes).apply({"params": classifier}, features, None).logits
        return Output(features, logits, (logits,))

    @jax.jit
    def run(maps, classifier, critics):
        def segmentation(features, classifier):
            return objective.source(output(features, classifier), labels)[0]

        def adversarial(features):
            return objective.target(output(features, classifier), critics)[0]

        source, target = (output(maps[name], classifier) for name in ("feat_src", "feat_trg"))
        soft = adversary.soft_labels(resize_align_corners(target.logits, g.size), stage)
        return {
            "seg": jax.value_and_grad(segmentation, (0, 1))(maps["feat_src"], classifier),
            "adv": jax.value_and_grad(adversarial)(maps["feat_trg"]),
            "critics": jax.grad(objective.discriminators)(critics, source, target),
            "D_src": objective.adversarial_loss(critics, source, MAIN, adversary.SOURCE),
            "D_tgt": objective.adversarial_loss(critics, target, MAIN, adversary.TARGET),
            "scores": objective.setup.discriminator.apply({"params": critics}, maps["feat_trg"]),
            "logits": target.logits,
            "soft": soft,
        }

    found = jax.device_get(run(maps, classifier, critics))
    loss, (features, of_classifier) = found["seg"]
    agree(loss, g[f"{tag}_loss_seg"])
    agree(thinned(features), g[f"{tag}_feat_src_grad"])
    agree(first_of(of_classifier["branch1_conv"]["kernel"]), g[f"{tag}_cls.conv2d_list.1.weight_grad"])
    agree(found["adv"][0], g[f"{tag}_loss_adv_tgt"])
    agree(thinned(found["adv"][1]), g[f"{tag}_feat_trg_grad"])
    for domain in ("src", "tgt"):
        agree(stage.discriminator_weight * found[f"D_{domain}"], g[f"{tag}_loss_D_{domain}"])
    gradient = found["critics"]
    agree(first_of(gradient["conv1"]["kernel"]), g[f"{tag}_PD.D.0.weight_grad"])
    agree(gradient["conv2"]["bias"], g[f"{tag}_PD.D.2.bias_grad"])
    for i, half in ((1, slice(classes)), (2, slice(classes, None))):
        agree(first_of(gradient["classifier"]["kernel"][..., half]), g[f"{tag}_PD.cls{i}.weight_grad"])
        agree(gradient["classifier"]["bias"][half], g[f"{tag}_PD.cls{i}.bias_grad"])
    agree(nchw(found["scores"]), g[f"{tag}_D_lowres_trg"])
    agree(nchw(found["logits"]), g[f"{tag}_head_lowres_trg"])
    agree(found["soft"].max(-1), g[f"{tag}_soft_max_trg"])
    agree(found["soft"].sum(-1), g[f"{tag}_soft_sum_trg"])
    if f"{tag}_soft_trg_sub" in g.arrays:
        agree(nchw(found["soft"])[:, :, ::4, ::4], g[f"{tag}_soft_trg_sub"])


test_fada.cases = [(19,), (16,)]


# Seg-Uncertainty


def uncertain_labels(g) -> np.ndarray:
    shape = (B, *large(g))
    labels = g.skewed("segunc_labels", shape, 8)
    labels[labels == 17] = 0
    labels[g.uniform("segunc_labels_ignore", shape) < 0.05] = IGNORE
    same(labels[:, ::8, ::8], g["labels_check"])
    return labels


@pytest.mark.parametrize("step", [14_999, 15_000])
def test_memory_of_seg_uncertainty(step):
    g = golden("segunc")
    stage = seg_uncertainty.memory("imagenet", 25_000)
    stage.rare_weight = stage.hard_share = 1.0
    found = stepped(stage, logits_of(g), uncertain_labels(g), None, step=step, weight=0.5)
    agree(found["terms"]["memory"], g["kl_only_loss_kl"])
    for name in ("trg_main", "trg_aux"):
        if step < 15_000:
            assert not np.any(found["logits"][name])
        else:
            agree(thinned(found["logits"][name]), g[f"kl_only_{name}_grad"])


def test_rare_classes_and_hard_pixels_of_seg_uncertainty():
    g, stage = golden("segunc"), seg_uncertainty.memory("imagenet", 25_000)
    labels = uncertain_labels(g)
    setup = steps.Setup(None, None, stage, None)
    state = TrainState(jnp.int32(0), None, None, None, None, class_presence=jnp.ones(K))
    weights, presence = jax.jit(lambda labels: warmup.class_weights(state, labels, setup))(labels)
    agree(weights, g["stage1_class_weight"])
    agree(weights, g["rectify_class_weight"])
    assert np.allclose(presence, np.where(np.isin(np.arange(K), labels), 1.0, 1.6))
    objective = dataclasses.replace(objective_of(stage, labels), class_weights=weights)
    logits = {name: g.logits(name) for name in ("src_main", "src_aux")}

    def loss(logits):
        return objective.source(output_of(logits["src_main"], logits["src_aux"]), labels)

    gradient, found = jax.jit(jax.grad(loss, has_aux=True))(logits)
    agree(found["source_ce"], g["stage1_loss_seg2"])
    agree(found["auxiliary_ce"], g["stage1_loss_seg1"])
    for name in logits:
        agree(thinned(gradient[name]), g[f"stage1_{name}_grad"])
    weight = np.append(weights, 0.0)[np.minimum(labels, K)]

    @jax.jit
    def kept(logits):
        log_p = jax.nn.log_softmax(resize_align_corners(logits, large(g)))
        values = -jnp.sum(log_p * jax.nn.one_hot(labels, K), -1) * weight
        return losses.hard_pixels(values, stage.hard_share) & (labels != IGNORE)

    same(np.where(kept(logits["src_main"]), labels, IGNORE), g["stage1_hard_labels_main"])


def scales_weights(g, prefix: str) -> dict:
    """Parameters of the discriminator at three scales, whose scores are 1 - theirs: there, 1 is the source."""
    made, sizes = {}, (K, 32, 32, 32, 32, 64)
    for scale in range(3):
        name = f"{prefix}.cnns.{scale}"
        for i, (into, out) in enumerate(zip(sizes, sizes[1:], strict=False)):
            made[f"scale{scale}_conv{i + 1}"] = g.conv(f"{name}.{i}.conv", out, into, 3)
        for block in range(4):
            for i in range(2):
                there = f"{name}.{5 + block}.model.{i}.conv"
                made[f"scale{scale}_block{block + 1}_conv{i + 1}"] = g.conv(there, 64, 64, 3)
        last = g.conv(f"{name}.9", 1, 64, 1)
        made[f"scale{scale}_classifier"] = {"kernel": -last["kernel"], "bias": 1 - last["bias"]}
    return made


def test_adversaries_of_seg_uncertainty():
    g, stage = golden("segunc"), seg_uncertainty.memory("imagenet", 25_000)
    labels, logits = uncertain_labels(g), logits_of(g)
    critics = scales_weights(g, "MD.seg2.24") | {"auxiliary": scales_weights(g, "MD.seg1.38")}
    outputs = [output_of(logits[f"{d}_main"], logits[f"{d}_aux"], 0.5) for d in ("src", "trg")]

    @jax.jit
    def run(logits, critics, step):
        def loss(logits):
            target = output_of(logits["trg_main"], logits["trg_aux"], 0.5)
            return objective_of(stage, labels, step).target(target, critics)

        return jax.grad(loss, has_aux=True)(logits)

    for tag, step in (("before_15000", 14_999), ("stage1", 15_000)):
        gradient, terms = run(logits, critics, step)
        for i, name, weight in ((1, "auxiliary_adversarial", 0.0002), (2, "adversarial", 0.001)):
            agree(terms[name] / weight, g[f"{tag}_loss_adv{i}"])
        for name in ("trg_aux", "trg_main"):
            if f"{tag}_{name}_grad" in g.arrays:
                agree(thinned(gradient[name]), g[f"{tag}_{name}_grad"])
    agree(terms["memory"], g["stage1_loss_kl"])
    assert g["before_15000_loss_kl"] == 0

    # one program: the auxiliary head's discriminator looks at outputs with their heads exchanged
    judge = jax.jit(jax.value_and_grad(lambda critic, *seen: objective_of(stage, labels).discriminators(critic, *seen)))
    for i, critic, order in ((1, critics["auxiliary"], slice(None, None, -1)), (2, critics, slice(None))):
        own = {name: value for name, value in critic.items() if name != "auxiliary"}
        loss, gradient = judge(own, *(dataclasses.replace(output, heads=output.heads[order]) for output in outputs))
        agree(loss, g[f"stage1_loss_D{i}"])
        for ours, theirs, sign in (
            (gradient["scale0_conv1"]["kernel"], "0.0.conv.weight", 1),
            (gradient["scale2_conv4"]["bias"], "2.3.conv.bias", 1),
            (gradient["scale1_classifier"]["kernel"], "1.9.weight", -1),
            (gradient["scale0_block1_conv1"]["bias"], "0.5.model.0.conv.bias", 1),
        ):  # fmt: skip
            agree(sign * first_of(ours), g[f"stage1_MD{i}.cnns.{theirs}_grad"])

    @jax.jit
    def scores(output, critics):
        shown = adversary.MAPS["probabilities"](output, adversary.MAIN_HEAD, large(g))
        return adversary.apply(DISCRIMINATORS["multi_scale"](), critics, MAIN, shown)

    for i, one in enumerate(scores(outputs[1], critics)):
        agree(1 - nchw(one), g[f"stage1_MD2_out{i}"])


def test_plain_source_losses_of_seg_uncertainty():
    g, labels = golden("segunc"), uncertain_labels(golden("segunc"))
    entropy = jax.jit(losses.upsampled_cross_entropy)
    for i, name in ((1, "src_aux"), (2, "src_main")):
        agree(entropy(g.logits(name), labels), g[f"before_15000_loss_seg{i}"])


test_memory_of_seg_uncertainty.cases = [(14_999,), (15_000,)]


@pytest.mark.parametrize("tag", ["rectify", "rectify_plain"])
def test_rectification_of_seg_uncertainty(tag):
    g = golden("segunc")
    labels = uncertain_labels(g)
    weights = np.append(g["rectify_class_weight"], 0.0)[np.minimum(labels, K)] if tag == "rectify" else None

    def objective(logits):
        main, auxiliary = (resize_align_corners(logits[name], large(g)) for name in ("src_main", "src_aux"))
        losses_of = [losses.rectified_cross_entropy(*heads, labels, weights)
                     for heads in ((auxiliary, main), (main, auxiliary))]  # fmt: skip
        return 0.5 * losses_of[0] + losses_of[1], losses_of

    logits = {name: g.logits(name) for name in ("src_main", "src_aux")}
    gradient, found = jax.jit(jax.grad(objective, has_aux=True))(logits)
    for i in (1, 2):
        agree(found[i - 1], g[f"{tag}_loss_seg{i}"])
    for name in logits:
        agree(thinned(gradient[name]), g[f"{tag}_{name}_grad"])


test_rectification_of_seg_uncertainty.cases = [("rectify",), ("rectify_plain",)]


def test_head_of_seg_uncertainty():
    """ProDA's, with 512 channels in its feature."""
    g, groups = golden("segunc"), {}
    for i in range(5):
        name = f"SH.conv2d_list.{i}"
        groups[f"branch{i}_conv"] = g.conv(f"{name}.0", 256, 32, 3 if i else 1)
        groups[f"branch{i}_norm"] = {"scale": g.weight(f"{name}.1.weight", (256,)),
                                     "bias": g.weight(f"{name}.1.bias", (256,))}  # fmt: skip
    for ours, theirs, out, into in (("squeeze", "se.0", 80, 1280), ("excite", "se.2", 1280, 80)):
        kernel = g.weight(f"SH.bottleneck.0.{theirs}.weight", (out, into)).T[None, None]
        groups[ours] = {"kernel": kernel, "bias": g.weight(f"SH.bottleneck.0.{theirs}.bias", (out,))}
    groups["bottleneck_conv"] = g.conv("SH.bottleneck.1", 512, 1280, 3)
    groups["bottleneck_norm"] = {"scale": g.weight("SH.bottleneck.2.weight", (512,)),
                                 "bias": g.weight("SH.bottleneck.2.bias", (512,))}  # fmt: skip
    groups["classifier"] = {"kernel": g.weight("SH.head.1.weight", (K, 512, 1, 1)).transpose(2, 3, 1, 0)}
    released = ReleasedHead(
        K, (6, 12, 18, 24), 256, 512, 0.1, functools.partial(Conv, dtype=jnp.float32), "released", jnp.float32
    )
    said = jax.jit(released.apply)({"params": groups}, nhwc(g.normal("feat_src", (B, 32, *g.grid))), None)
    agree(nchw(said.logits), g["head_out"])


# Rates


def rates(stage: ml_collections.ConfigDict, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of backbone and head [steps, 2], and of the discriminator [steps]."""
    network = [optim.schedule(stage, rate, 1) for rate in (stage.backbone_rate, stage.head_rate)]
    critic = optim.schedule(stage, stage.discriminator_rate, 1, stage.discriminator_warmup)
    return np.stack([[rate(i) for rate in network] for i in steps]), np.array([critic(i) for i in steps])


def test_rates():
    g, steps = golden("schedules"), golden("schedules")["iterations"].astype(int)
    for name, stage in {
        "adaptseg": adaptsegnet.get_config("gta5").adaptsegnet, "clan": clan.get_config("gta5").clan,
        "segunc": seg_uncertainty.get_config("gta5").memory,
    }.items():  # fmt: skip
        network, critic = rates(stage, steps)
        agree(network, g[f"{name}_G"])
        agree(critic, g[f"{name}_D"])
        if name == "adaptseg":
            agree(network, g["dacs_G"])
    feature_level = fada.get_config("gta5").fada
    agree(rates(feature_level, steps[:-1])[0][:, 0], g["fada_fea"])
    agree([optim.poly(1e-4, 90_000)(step) for step in (1, 2, 101)], g["cag_first_steps"])
