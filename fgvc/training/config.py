"""Configs of optimisation and of the training loop. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from shards.options import option


@dataclass
class OptimConfig:
    """Optimizer, learning rates and schedule."""

    method: Literal["sgd", "adamw"] = option("sgd", "SGD with Nesterov momentum | AdamW")
    lr: Annotated[float, Gt(0)] = option(0.01, "peak learning rate of the backbone, before layer_decay")
    lr_batch: Annotated[int, Ge(0)] = option(
        0, "the train.batch that lr is meant for: lr follows another one, sgd's in proportion, adamw's by the square "
        "root (0: lr as it stands)",
    )  # fmt: skip
    head_multiplier: Annotated[float, Gt(0)] = option(10.0, "the classifier's learning rate is this times lr")
    layer_decay: Annotated[float, Gt(0), Le(1)] = option(1.0, "learning rate factor per layer towards the input")
    weight_decay: Annotated[float, Ge(0)] = option(1e-4, "not applied to biases, norms, positions and tokens")
    momentum: Annotated[float, Ge(0), Lt(1)] = option(0.9, "SGD's")
    schedule: Literal["cosine", "step", "constant"] = option("cosine", "after the warm-up")
    warmup_epochs: Annotated[float, Ge(0)] = option(0.5, "linear rise from 0")
    step_epochs: Annotated[int, Gt(0)] = option(10, "step: epochs between cuts")
    step_factor: Annotated[float, Gt(0), Lt(1)] = option(0.1, "step: factor of every cut")
    clip: Annotated[float, Ge(0)] = option(0.0, "largest gradient norm (0: no clipping)")


@dataclass
class PlayerOptimConfig(OptimConfig):
    """Optimizer of one of two networks that play against each other; Adam's betas matter there."""

    method: Literal["sgd", "adamw"] = option("adamw", "SGD with Nesterov momentum | AdamW")
    beta1: Annotated[float, Ge(0), Lt(1)] = option(0.0, "AdamW's decay of gradient means")
    beta2: Annotated[float, Ge(0), Lt(1)] = option(0.99, "AdamW's decay of squared gradients")


@dataclass
class LoopConfig:
    """How the training loop runs, whatever it trains (fgvc/training/loop.py)."""

    epochs: Annotated[int, Gt(0)] = option(10, "passes over the training images")
    max_steps: Annotated[int, Ge(0)] = option(0, "stop after this many steps (0: after the last epoch)")
    batch: Annotated[int, Gt(0)] = option(32, "global batch: images a step over all ranks")
    accumulation: Annotated[int, Gt(0)] = option(1, "micro-batches a step; changes no sample's place")
    ema: Annotated[float, Ge(0), Lt(1)] = option(0.0, "decay of the weights' moving average (0: off)")
    freeze_bn: Literal["none", "statistics", "all"] = option("none", "keep BatchNorm's statistics | scale and bias too")
    freeze_layers: Annotated[int, Ge(0)] = option(0, "leave the first so many layers (stem, stages) as they are")
    precision: Literal["fp32", "bf16", "fp16"] = option("fp32", "of the forward pass")
    grad_checkpointing: bool = option(
        False, "keep only every block's input for the backward pass: the same results, a third slower, far less memory",
        False,
    )  # fmt: skip
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
    checkpoint_minutes: Annotated[float, Ge(0)] = option(5.0, "save this often, too (0: after every step)", False)
    checkpoint_epochs: Annotated[int, Gt(0)] = option(1, "save at the end of every so many epochs", False)
    rewinds: Annotated[int, Ge(0)] = option(
        3, "training that breaks (a loss that is not finite) returns to the last checkpoint at half the learning rate, "
        "so often at most", False,
    )  # fmt: skip
    guard: bool = option(
        True, "a loss that leaps counts as breaking; training accuracy that falls by 5 points and does not recover, or "
        "held-out accuracy 5 points below the probe that the run began with (p < 0.001, two epochs running after the "
        "warm-up), ends the run", False,
    )  # fmt: skip
    checkpoint_keep: Annotated[int, Gt(1)] = option(2, "how many checkpoints to keep", False)
    checkpoint_keep_finished: bool = option(False, "keep them once the run is done, too", False)
    profile: Annotated[int, Ge(0)] = option(0, "trace this many steps with torch's profiler", False)
