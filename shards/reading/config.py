"""Configs of reading: which shards, split and crop, and how an image becomes the model's input."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from shards.options import option

Crop = Literal["whole", "box", "square", "padded", "whole+box", "whole+square"]
Score = Annotated[float, Ge(0), Le(1)]


@dataclass
class DataConfig:
    """Which samples are read, in which order, and which part of each image."""

    shards: str = option(
        "",
        "folder of shards (manifest.json in it), or its address: https://HOST/birds, s3://BUCKET/birds",
        affects_result=False,
    )
    source: str = option("", "raw data set to build the shards from if they are not there: cub200, field_guide, ...")
    root: str = option("", "folder of the raw data set; $NAME and ${NAME} are environment variables", False)
    build: dict = option({}, "settings for that build, as fgvc shards build takes them")
    train_split: str = option("train", "split to train on")
    test_split: str = option("test", "split to test on, once, at the end")
    folds: Annotated[int, Ge(0)] = option(0, "hold out one of this many stratified folds of train (0: train on all)")
    fold: Annotated[int, Ge(0)] = option(0, "which fold is held out, from 0")
    holdout: Annotated[float, Ge(0), Le(0.5)] = option(
        0.0,
        "hold out this share of what is trained on, stratified, to watch training by (0: nothing); with folds a share "
        "of the other folds",
    )
    per_class: Annotated[int, Ge(0)] = option(
        0, "train on at most this many images of each class (0: all); what is held out or tested stays whole"
    )
    imbalance: Annotated[float, Ge(1)] = option(
        1.0, "train on a long tail: the first class keeps all, the last one image for this many of its own, those "
        "between by equal factors (1: as they are)",
    )  # fmt: skip
    crop: Crop = option(
        "whole",
        "part of the image to use: all | the box | a square on the box | the box on black, not enlarged | two views: "
        "in training one of them at random, in evaluation the mean of their logits",
    )
    margin: Annotated[float, Ge(0)] = option(0.1, "enlarge the box by this share of its longer side on every side")
    boxes: str = option("truth", "boxes to crop by: truth | a boxes layer, the file fgvc crop makes", False)
    min_score: Score = option(0.0, "ignore a layer's boxes below this score; an image left without a box stays whole")
    test_crop: Crop | None = option(None, "as crop, for the test split and held-out folds (null: the same)")
    test_margin: Annotated[float, Ge(0)] | None = option(None, "as margin, for what is measured (null: the same)")
    test_boxes: str = option("", "as boxes, for what is measured (empty: the same)", False)
    test_min_score: Score | None = option(None, "as min_score, for what is measured (null: the same)")
    limit: Annotated[int, Ge(0)] = option(0, "use only this many samples of each split (0: all)")
    window: Annotated[int, Gt(0)] = option(16, "samples are shuffled within windows of this many shuffled shards")
    cache: str = option(
        "",
        "local folder to copy shards to before reading (slow stores; for an address, if empty: ~/.cache/fgvc)",
        False,
    )
    workers: Annotated[int, Ge(-1)] = option(-1, "loader processes per rank (-1: by the cores, 0: none)", False)


@dataclass
class ImageConfig:
    """From a decoded image to the model's input. Sizes in pixels."""

    size: Annotated[int, Ge(0)] = option(0, "side of the training input (0: the model's own)")
    sizes: list[Annotated[int, Gt(0)]] = option(
        [], "progressive resizing: sides of the training input, each for an equal part of the epochs, such as [128, "
        "160, 192]; evaluation stays at size (empty: size throughout)",
    )  # fmt: skip
    fit: Literal["random_resized_crop", "random_crop", "squash", "pad"] = option(
        "random_resized_crop",
        "training: random area and shape | random crop after resizing to size / eval_crop | stretch to a square | "
        "shrink and pad with black, never enlarge",
    )
    scale: tuple[float, float] = option((0.35, 1.0), "random_resized_crop: area share, smallest and largest")
    ratio: tuple[float, float] = option((0.75, 4 / 3), "random_resized_crop: width by height, smallest and largest")
    flip: Annotated[float, Ge(0), Le(1)] = option(0.5, "probability of a left-right flip in training")
    color_jitter: Annotated[float, Ge(0), Le(1)] = option(0.0, "brightness, contrast and saturation jitter")
    grayscale: Annotated[float, Ge(0), Le(1)] = option(0.0, "probability of greyscale in training")
    policy: Literal["none", "randaugment", "trivialaugment"] = option("none", "automatic augmentation policy")
    interpolation: Literal["bilinear", "bicubic"] = option("bilinear", "of every resize")
    eval_size: Annotated[int, Ge(0)] = option(0, "side of the evaluation input (0: as in training)")
    eval_fit: Literal["center_crop", "squash", "pad"] = option(
        "center_crop", "evaluation: as `fit`, without randomness"
    )
    crop_fit: Literal["center_crop", "squash", "pad"] | None = option(
        None, "evaluation: eval_fit of views that a box cut out, such as squash (null: the same)"
    )
    eval_crop: Annotated[float, Gt(0), Le(1)] = option(0.875, "center_crop: side of the crop by the resized short side")
    eval_flip: bool = option(False, "evaluation: average the logits of the image and its mirror image")
    eval_crops: Literal[1, 5] = option(
        1, "evaluation, and a probe's features: the image once | and its four corners too, each size / eval_crop cut "
        "to size, the mean of their logits",
    )  # fmt: skip


@dataclass
class SyntheticConfig:
    """Synthetic images that a training run reads beside the real ones."""

    shards: str = option("", "folder of shards that fgvc synthesize made (empty: none)", affects_result=False)
    ratio: Annotated[float, Gt(0)] = option(1.0, "synthetic images for every real one; steps and epochs stay as many")
    classes: Literal["all", "balance", "rare"] = option(
        "all", "all in turns | more of rarer classes, by what they lack of the largest | those below the mean size only"
    )
