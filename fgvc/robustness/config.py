"""Config of training a classifier to withstand attacks. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from shards.options import option


@dataclass
class DefenceConfig:
    """What `fgvc classify` trains against (docs/defence.md). Pixels are in [0, 1], perturbations L-inf."""

    method: Literal["none", "fgsm", "pgd", "trades", "distillation", "noise"] = option(
        "none",
        "train on: images as they are | moved by one gradient step from a random start | by several steps | the image "
        "and its moved self, with like answers | a teacher's softened answers | images with Gaussian noise",
    )
    epsilon: float | str = option("4/255", "largest change of a pixel, such as 4/255 or 0.0157")
    steps: Annotated[int, Gt(0)] = option(7, "pgd, trades: gradient steps of the attack in training")
    step: Annotated[float, Ge(0)] = option(
        0.0, "length of a step as a share of epsilon (0: 1.25 for a single step, 2.5 / steps for several)"
    )
    ramp_epochs: Annotated[int, Ge(0)] = option(
        0, "let epsilon rise, epoch by epoch, over the first so many (for ordinary pretrained weights)"
    )
    beta: Annotated[float, Gt(0)] = option(6.0, "trades: weight of like answers beside the loss on clean images")
    temperature: Annotated[float, Gt(0)] = option(20.0, "distillation: divides the logits in training")
    teacher: str = option(
        "", "distillation: weights that were trained with this temperature and no teacher (empty: train those)", False
    )
    noise: Annotated[float, Gt(0), Le(1)] = option(0.1, "noise: its standard deviation, with pixels in [0, 1]")
    check_epochs: Annotated[int, Gt(0)] = option(1, "measure robust accuracy after every so many epochs")
    check_images: Annotated[int, Gt(0)] = option(256, "on so many images held out, and so many of train, at most")
    check_steps: Annotated[int, Gt(0)] = option(10, "with PGD of so many steps")
