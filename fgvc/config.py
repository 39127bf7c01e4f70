"""Configs of models, optimisation, training and tracking. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from shards.options import option


@dataclass
class ModelConfig:
    """Which network, from which weights. Any timm classification model."""

    name: str = option("resnet50", "timm model name; see python -c 'import timm; print(timm.list_models())'")
    weights: str = option("hub", "hub (timm's pretrained) | none | a local .safetensors, .pth or .bin file")
    kwargs: dict = option({}, "more arguments of timm.create_model, e.g. {img_size: 448}")
    drop_rate: Annotated[float, Ge(0), Lt(1)] = option(0.0, "dropout before the classifier")
    drop_path: Annotated[float, Ge(0), Lt(1)] = option(0.0, "stochastic depth")
    mean: list[float] = option([], "input mean, 0-1 (empty: the model's own)")
    std: list[float] = option([], "input standard deviation, 0-1 (empty: the model's own)")
    caffe_stride: bool = option(False, "ResNets: stride on the first 1x1 convolution of a block (Caffe weights)")


@dataclass
class OptimConfig:
    """Optimizer, learning rates and schedule."""

    method: Literal["sgd", "adamw"] = option("sgd", "SGD with Nesterov momentum | AdamW")
    lr: Annotated[float, Gt(0)] = option(0.01, "peak learning rate of the last backbone layer")
    head_multiplier: Annotated[float, Gt(0)] = option(10.0, "the classifier's learning rate is this times lr")
    layer_decay: Annotated[float, Gt(0), Le(1)] = option(1.0, "learning rate factor per layer towards the input")
    weight_decay: Annotated[float, Ge(0)] = option(1e-4, "not applied to biases and norms")
    momentum: Annotated[float, Ge(0), Lt(1)] = option(0.9, "SGD's")
    schedule: Literal["cosine", "step", "constant"] = option("cosine", "after the warm-up")
    warmup_epochs: Annotated[float, Ge(0)] = option(0.5, "linear rise from 0")
    step_epochs: Annotated[int, Gt(0)] = option(10, "step: epochs between cuts")
    step_factor: Annotated[float, Gt(0), Lt(1)] = option(0.1, "step: factor of every cut")
    clip: Annotated[float, Ge(0)] = option(0.0, "largest gradient norm (0: no clipping)")


@dataclass
class LoopConfig:
    """How the training loop runs, whatever it trains (fgvc/train.py)."""

    epochs: Annotated[int, Gt(0)] = option(10, "passes over the training images")
    max_steps: Annotated[int, Ge(0)] = option(0, "stop after this many steps (0: after the last epoch)")
    batch: Annotated[int, Gt(0)] = option(32, "global batch: images a step over all ranks")
    accumulation: Annotated[int, Gt(0)] = option(1, "micro-batches a step; changes no sample's place")
    ema: Annotated[float, Ge(0), Lt(1)] = option(0.0, "decay of the weights' moving average (0: off)")
    freeze_bn: Literal["none", "statistics", "all"] = option("none", "keep BatchNorm's statistics | scale and bias too")
    freeze_layers: Annotated[int, Ge(0)] = option(0, "leave the first so many layers (stem, stages) as they are")
    precision: Literal["fp32", "bf16", "fp16"] = option("fp32", "of the forward pass")
    channels_last: bool = option(True, "memory layout of convolutions", affects_result=False)
    compile: bool = option(False, "torch.compile the model", affects_result=False)
    strategy: Literal["ddp", "fsdp", "zero1", "zero2", "zero3"] = option(
        "ddp", "several ranks hold: everything each | all in parts (FSDP2) | the optimizer's state in parts, gradients "
        "too, weights too (DeepSpeed's ZeRO); a resumed run may take another", False,
    )  # fmt: skip
    timeout_minutes: Annotated[float, Ge(0)] = option(
        0.0,
        "a rank that waits so long for another ends the run with an error (0: FGVC_TIMEOUT_MINUTES, or 30)",
        False,
    )
    deterministic: bool = option(False, "same bits every time on the same hardware, ranks and threads; slower")
    checkpoint_minutes: Annotated[float, Ge(0)] = option(5.0, "save at every epoch's end and this often", False)
    checkpoint_keep: Annotated[int, Gt(1)] = option(2, "how many checkpoints to keep", False)
    profile: Annotated[int, Ge(0)] = option(0, "trace this many steps with torch's profiler", False)


@dataclass
class TrainConfig(LoopConfig):
    """What a classifier is trained with, beside the loop's own settings."""

    method: Literal["finetune", "probe"] = option("finetune", "all weights | only a linear head on cached features")
    head_start: Literal["random", "probe"] = option("random", "finetune: begin with a random head | a probe's head")
    probe_penalty: Annotated[float, Ge(0)] = option(0.2, "probe: L2 penalty, on features scaled to a mean square of 1")
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = option(0.1, "share of the target spread over all classes")
    mixup: Annotated[float, Ge(0)] = option(0.0, "alpha of mixup's Beta between neighbours of a batch (0: off)")
    cutmix: Annotated[float, Ge(0)] = option(0.0, "alpha of cutmix's Beta (0: off); with mixup: one or the other")


@dataclass
class TrackConfig:
    """Weights & Biases; metrics.jsonl is always written."""

    wandb: Literal["auto", "online", "offline", "disabled"] = option("auto", "auto: online with a key, else offline")
    project: str = option("fgvc", "W&B project")
    group: str = option("", "W&B group, e.g. one pipeline")
    tags: list[str] = option([], "W&B tags")
    every: Annotated[int, Gt(0)] = option(1, "log every so many steps")
