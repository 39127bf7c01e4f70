"""Config of how an image with boxes becomes a detector's input."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from shards.options import option


@dataclass
class BoxedImageConfig:
    """Every image is scaled into a square and padded, its shape kept; in training at random. Sizes in pixels."""

    size: Annotated[int, Gt(0)] = option(640, "side of the square input, a multiple of 32")
    scale: tuple[float, float] = option((0.8, 1.25), "training: longer side by size, smallest and largest")
    keep: Annotated[float, Gt(0), Le(1)] = option(0.5, "training: a box stays while this share of it is in view")
    flip: Annotated[float, Ge(0), Le(1)] = option(0.5, "training: probability of a left-right flip")
    color_jitter: Annotated[float, Ge(0), Le(1)] = option(0.0, "training: brightness, contrast, saturation jitter")
    eval_size: Annotated[int, Ge(0)] = option(0, "side of the evaluation input (0: as in training)")
