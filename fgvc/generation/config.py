"""Configs of GANs and of how their images are measured. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from fgvc.training.config import LoopConfig, PlayerOptimConfig
from shards.options import option


@dataclass
class GanModelConfig:
    """Generator and discriminator."""

    name: Literal["projected", "dcgan", "biggan", "biggan_deep"] = option(
        "projected",
        "projected: a light generator against heads on a frozen pretrained backbone, for few images | dcgan | biggan, "
        "biggan_deep: residual, with self-attention, for many images",
    )
    size: Literal[32, 64, 128, 256] = option(64, "side of the images in pixels")
    latent: Annotated[int, Gt(0)] = option(128, "numbers that an image is made from")
    width: Annotated[int, Ge(4)] = option(32, "channels at full resolution; those below have multiples (BigGAN: 96)")
    conditional: bool = option(True, "images by class; false: of all classes alike")
    norm: Literal["spectral", "batch", "none"] = option("spectral", "dcgan: of the discriminator's layers")
    bn_eps: Annotated[float, Gt(0)] = option(1e-5, "dcgan: epsilon of BatchNorm")
    bn_per_image: bool = option(
        False,
        "dcgan: the generator's BatchNorm has statistics of each image alone, where images are made too: what a "
        "generator is trained with at train.batch=1",
    )
    backbone: str = option("tf_efficientnet_lite0", "projected: timm network whose features tell real from generated")
    backbone_weights: str = option("hub", "projected: hub | none | a local .safetensors, .pth or .bin file")
    backbone_size: Annotated[int, Ge(0)] = option(
        0, "projected: side to which images are enlarged for the backbone (0: as they are)"
    )
    mean: list[float] = option([0.5, 0.5, 0.5], "an image x, 0-1, is (x - mean) / std to both networks")
    std: list[float] = option([0.5, 0.5, 0.5], "the same; 0.5 fills the range of tanh, -1 to 1")


@dataclass
class GanImageConfig:
    """From a decoded image to what the discriminator sees."""

    fit: Literal["crop", "squash", "pad"] = option(
        "crop", "square of the shorter side, at random along the longer | stretch | shrink and pad with black"
    )
    flip: Annotated[float, Ge(0), Le(1)] = option(0.5, "probability of a left-right flip")
    interpolation: Literal["bilinear", "bicubic"] = option("bilinear", "of every resize")


@dataclass
class GanOptimConfig(PlayerOptimConfig):
    """One player's optimizer."""

    lr: Annotated[float, Gt(0)] = option(2e-4, "learning rate")
    weight_decay: Annotated[float, Ge(0)] = option(0.0, "not applied to biases and norms")
    schedule: Literal["cosine", "step", "constant"] = option("constant", "after the warm-up")
    warmup_epochs: Annotated[float, Ge(0)] = option(0.0, "linear rise from 0")


@dataclass
class GanTrainConfig(LoopConfig):
    """Losses and how the game is played."""

    epochs: Annotated[int, Gt(0)] = option(100, "passes over the training images")
    batch: Annotated[int, Gt(0)] = option(32, "global batch: images a step over all ranks")
    ema: Annotated[float, Ge(0), Lt(1)] = option(0.999, "decay of the generator's moving average (0: off)")
    loss: Literal["hinge", "softplus", "relativistic"] = option(
        "hinge", "hinge (projected, BigGAN) | softplus: non-saturating, as DCGAN | relativistic softplus (R3GAN)"
    )
    r1: Annotated[float, Ge(0)] = option(0.0, "weight of the discriminator's squared gradient at real images")
    r2: Annotated[float, Ge(0)] = option(0.0, "the same at generated images (R3GAN)")
    penalty_every: Annotated[int, Gt(0)] = option(1, "r1 and r2 in every so many steps, as much larger (StyleGAN2: 16)")
    augment: list[Literal["color", "translation", "cutout"]] = option(
        ["color", "translation", "cutout"], "DiffAugment: of all that the discriminator sees; []: nothing"
    )
    unconditional_epochs: Annotated[float, Ge(0)] = option(0.0, "classes are unknown for so many epochs")
    ramp_epochs: Annotated[float, Ge(0)] = option(0.0, "and come in over so many more")
    collapse_steps: Annotated[int, Ge(0)] = option(
        500,
        "end when images of a class were all alike, or the discriminator always right, for so many steps, or a third "
        "of a shorter run (0: never)",
        False,
    )


@dataclass
class MeasureConfig:
    """How generated images are compared with real ones."""

    features: str = option("tf_efficientnet_lite0", "inception (FID, KID) | a timm network, whose name figures bear")
    weights: str = option("hub", "of that network: hub | a local file (inception: its usual .pth)")
    size: Annotated[int, Ge(0)] = option(0, "side to which images are resized for it (0: its own); not for inception")
    images: Annotated[int, Ge(2)] = option(2000, "how many images are generated, at most as many as there are real")
    every: Annotated[int, Ge(0)] = option(0, "measure at every so many epochs' end too (0: at the run's end)", False)
    pictures: Annotated[int, Ge(0)] = option(10, "draw a grid of images every so many epochs (0: at the end)", False)
    cache: str = option("", "folder where real images' features are kept for other runs (empty: the run's own)", False)
    batch: Annotated[int, Gt(0)] = option(64, "images at a time", False)
