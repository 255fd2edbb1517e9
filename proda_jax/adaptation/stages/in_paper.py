"""What the paper says of its stages: which of its networks one is, and the settings that it names.

Each kind of stage points here (`kinds.KINDS`), and reports ask it; scores stand in `report/paper.py`.
"""

from collections.abc import Mapping
from typing import Any

Settings = Mapping[str, Any]  # of a stage, {'setting': value}
Kinds = Mapping[str, str]  # kind of each stage of a run, by name
Named = dict[str, tuple[Any, str]]  # {setting: (the paper's value, where it stands)}

NONE_NAMED = "Section 5.1 names none"
JITTER = {f"jitter.{name}": (0.0, NONE_NAMED) for name in ("brightness", "contrast", "saturation", "white_balance")}

DENOISE: Named = {
    "backbone_rate": (1e-4, "Section 5.1"),
    "head_rate": (1e-4, "Section 5.1"),
    "schedule": ("per_epoch", "Section 5.1"),
    "schedule_factor": (0.9, "Section 5.1"),
    "reduction": ("sum", "Equations 1, 7, 10"),
    "weighting": ("prototypes", "Equation 4"),
    "label_source": ("fixed", "Equation 3"),
    "hard_labels": (True, "Equation 3"),
    "label_threshold": (0.0, "Equation 3, Table 4"),
    "temperature": (1.0, "Equation 4, Table 8"),
    "ce_weight": (0.1, "Equation 7, Table 9"),
    "rce_weight": (1.0, "Equation 7, Table 9"),
    "consistency_weight": (10.0, "Equation 11, Table 10"),
    "regulariser_weight": (0.1, "Equation 11, Table 10"),
    "regulariser": ("mrkld", "Equation 10"),
    "ema_view": ("crop", "Equation 8"),
    "prototype_momentum": (0.9999, "Equation 6, Table 5"),
    "prototype_update": ("batch", "Equation 6"),
    "prototype_init": ("target", "Equation 5, Table 6"),
    "prototype_init_by": ("pixels", "Equation 5"),
    **JITTER,
}
DISTILL: Named = {
    "init": ("self_supervised", "Section 4.3"),
    "backbone_rate": (6e-4, "Section 5.1"),
    "head_rate": (6e-3, "Section 5.1"),
    "extra_norm": (True, "Section 5.1"),
    "label_threshold": (0.95, "Section 5.1"),
    "target_view": ("weak", "Equation 12"),
    "ce_weight": (1.0, "Equation 12"),
    "rce_weight": (0.0, "Equation 12"),
    "distillation_weight": (1.0, "Equation 12"),
    "distillation_form": ("equation12", "Equation 12"),
    **JITTER,
}
# conventional self-training learns from fixed labels by plain cross entropy (Equation 1)
SELF_TRAINING = {
    "weighting": ("none", "Equation 2"),
    "ce_weight": (1.0, "Equation 1"),
    "rce_weight": (0.0, "Equation 1"),
    "consistency_weight": (0.0, "Equation 1"),
    "regulariser_weight": (0.0, "Equation 1"),
}
BY_CONFIDENCE = ("threshold", "above_threshold")  # selectors of labels; by classes it is another system's (CBST, BDL)
NOT_OF_SELF_TRAINING = ("label_threshold", "temperature", "prototype_momentum", "prototype_update", "prototype_init",
                         "prototype_init_by", "ema_view", "regulariser")  # fmt: skip


def warmup_row(stage: Settings, kinds: Kinds) -> str | None:
    """Of other adversarial systems nothing is known here."""
    usual = {"adversarial_on": "probabilities", "discriminator": "released", "auxiliary_ce_weight": 0.0,
             "entropy_weight": 0.0, "label_weight": 0.0, "source_images": None}  # fmt: skip
    own = all(stage.get(key, value) == value for key, value in usual.items())
    return "warm-up" if own and stage.get("adversarial_weight", 1.0) > 0 else None


def denoise_row(stage: Settings, kinds: Kinds) -> str | None:
    if stage.get("label_source") == "moving" or stage.get("weighting") == "network":
        return None  # Figure 4 shows these as curves, without numbers
    if not _usual_labels(stage):
        return None
    structure, symmetric = stage.get("consistency_weight", 0) > 0, stage.get("rce_weight", 0) > 0
    if stage.get("weighting") == "none":
        if structure:
            return "structure learning alone"
        return "self-training, symmetric loss" if symmetric else "self-training"
    return "stage 1" if structure else "denoising alone"


def distill_row(stage: Settings, kinds: Kinds) -> str | None:
    if stage.get("rectified") or not stage.get("source_weight", 1.0) or not _usual_labels(stage):
        return None  # other systems' (Seg-Uncertainty, FADA, CBST)
    init, third = stage.get("init"), kinds.get(stage.get("teacher", "")) == stage["kind"]
    if third:
        return "stage 3" if init == "self_supervised" else None
    if init == "self_supervised":
        return "stage 2" if stage.get("distillation_weight") else "stage 2, not distilled"
    return "stage 2 from stage 1" if init == stage.get("teacher") else None


def _usual_labels(stage: Settings) -> bool:
    """Whether labels are chosen, and regularised, as the paper's are."""
    return stage.get("label_selector", BY_CONFIDENCE[0]) in BY_CONFIDENCE and not (
        stage.get("regulariser_weight") and stage.get("regulariser_over") == "labels"
    )


def denoise_settings(stage: Settings, source: str | None) -> Named:
    """The paper's settings for a stage 1 like this one, learning from that source data set."""
    if stage.get("weighting") == "none" and not stage.get("consistency_weight"):
        return {key: value for key, value in DENOISE.items() if key not in NOT_OF_SELF_TRAINING} | SELF_TRAINING
    return DENOISE | ({"regulariser_weight": (0.0, "Appendix A")} if source == "synthia" else {})
