"""Config of training a classifier. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from fgvc.training.config import LoopConfig
from shards.options import option


@dataclass
class TrainConfig(LoopConfig):
    """What a classifier is trained with, beside the loop's own settings."""

    method: Literal["finetune", "probe", "attentive", "lora"] = option(
        "finetune", "all weights | only a linear head on cached features | a vision transformer's head and attention "
        "that pools its frozen patches | the head and low-rank changes of a vision transformer's layers: no gradients "
        "and optimizer state of the rest, about 10 times finetune's optim.lr, plain weights exported",
    )  # fmt: skip
    lora_rank: Annotated[int, Gt(0)] = option(16, "lora: rank of the changes")
    head_start: Literal["random", "probe"] = option(
        "random", "finetune, lora: begin with a random head | a probe's head"
    )
    probe_penalty: Annotated[float, Ge(0)] = option(0.2, "probe: L2 penalty, on features scaled to a mean square of 1")
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = option(0.1, "share of the target spread over all classes")
    mixup: Annotated[float, Ge(0)] = option(0.0, "alpha of mixup's Beta between neighbours of a batch (0: off)")
    cutmix: Annotated[float, Ge(0)] = option(0.0, "alpha of cutmix's Beta (0: off); with mixup: one or the other")
    teacher: str = option(
        "", "finetune, lora: a model.safetensors of fgvc classify (an ensemble's too) whose softened answers are "
        "learnt beside the labels (empty: none)", affects_result=False,
    )  # fmt: skip
    teacher_weight: Annotated[float, Gt(0), Le(1)] = option(0.5, "teacher: share of its answers in the loss")
    teacher_temperature: Annotated[float, Gt(0)] = option(2.0, "teacher: divides both networks' logits")
    attention_crops: bool = option(
        False, "finetune, lora: learn of every image also the part that its class is seen by, enlarged, and the rest "
        "without that part: three passes a step, no cost when measuring",
    )  # fmt: skip
    class_weights: Annotated[float, Ge(0), Le(1)] = option(
        0.0,
        "what images of rare classes count more in the loss: beta of Cui et al. 2019, such as 0.999 (0: all alike, 1: "
        "one over the class's number of images)",
    )
    balanced_sampling: Annotated[float, Ge(0), Le(1)] = option(
        0.0,
        "finetune: draw rare classes more often and frequent ones less (0: every image once an epoch, 0.5: classes by "
        "the square root of their images, 1: all classes alike)",
    )
    keep: Literal["last", "best"] = option(
        "last", "finetune: weights to keep: the last epoch's | those of the epoch with the best top-1 on data.holdout"
    )
    patience: Annotated[int, Ge(0)] = option(
        0, "keep=best: stop after so many epochs without a better one (0: train to the end)"
    )
    temperature_from: str = option(
        "",
        "finetune: folder of a finished run of the same recipe with a held-out fold, whose held-out answers calibrate "
        "this one's (empty: uncalibrated; a probe calibrates itself)",
        affects_result=False,
    )
