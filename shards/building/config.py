"""What a user may set about the data: how shards are built."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Interval

from shards.options import option

Count = Annotated[int, Ge(0)]
Positive = Annotated[int, Ge(1)]


@dataclass(frozen=True)
class BuildOptions:
    """How raw images become shards. All but `workers` decide the bytes and are part of the build's plan
    (corrections by what they change)."""

    shrink: Count = option(0, "short side at most this many pixels; 0 keeps the bytes as they came")
    quality: Annotated[int, Interval(ge=1, le=100)] = option(92, "JPEG quality where an image has to be encoded again")
    shard_mb: Positive = option(64, "size to aim at for one shard, in MB")
    min_shards: Positive = option(
        8, "shards of a split at least, of 16 images or more, so that a small set is shuffled too"
    )
    classes: Count = option(0, "keep only the first N classes, for a quick look; 0 keeps all")
    seed: int = option(0, "order of samples in a split, which mixes classes (build.seed= where the source has a seed=)")
    corrections: str = option(
        "", "a CSV with columns key,action,label (action: keep | drop | relabel); fgvc audit writes one"
    )
    broken: Count = option(
        0, "leave out images that cannot be used, at most so many, and name each; more end the build"
    )
    workers: Count = option(0, "processes; 0 uses every core", affects_result=False)
