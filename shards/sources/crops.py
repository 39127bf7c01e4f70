"""Cropped pictures of other shards as a data set of their own: for other programs, or to read smaller files.

    fgvc shards build crops data/cub200 data/cub200_crops crop=square margin=0.1 boxes=data/cub200/boxes-cub200.jsonl

Runs do not need it: `data.crop=square data.boxes=FILE` cuts the same parts while reading, from the bytes as they came.
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from shards.boxes_layer import layer_hash
from shards.entries import Entry
from shards.manifest import Manifest, read_manifest
from shards.options import option
from shards.paths import expand
from shards.reading.config import Score
from shards.reading.decode import decode
from shards.reading.reader import Reader
from shards.reading.views import TRUTH, Policy, View, open_views
from shards.sample import Box, RawDataset, RawSample


@dataclass
class Options:
    """Which part of every picture is kept, and how it is stored."""

    crop: Literal["box", "square", "padded"] = option("square", "the box | a square on it | the box, not enlarged")
    margin: Annotated[float, Ge(0)] = option(0.1, "enlarge the box by this share of its longer side on every side")
    boxes: str = option(TRUTH, "boxes to crop by: truth | a boxes layer, the file fgvc crop makes")
    min_score: Score = option(0.0, "ignore a layer's boxes below this score; a picture left without a box stays whole")
    jpeg: Annotated[int, Interval(ge=1, le=100)] = option(95, "JPEG quality of the crops, 4:4:4")


def scan(root: Path, options: Options) -> RawDataset:
    """The crops of all samples of the shards in `root`, with what they show of the boxes and parts.

    A picture that stays whole, for lack of a box or because its box fills it, keeps its bytes; a crop is encoded once.
    Raises UserError when `root` holds no shards, or as `shards.reading.views.open_views` does.
    """
    policy = Policy(options.crop, options.margin, options.boxes, options.min_score)
    manifest, view, _ = _opened(root, policy)
    samples = []
    for index, entry in enumerate(manifest.entries):
        boxes = tuple(box for box in (_moved(box, view, entry, index) for box in entry.boxes) if _has_pixels(box))
        parts = {
            name: view.moved(*point, entry, index) for name, point in entry.parts.items() if _shown(point, view, index)
        }
        samples.append(RawSample(entry.key, None, entry.label, entry.split, boxes, parts, entry.origin))
    about = {
        "crops_of": manifest.fingerprint, "crop": options.crop, "margin": options.margin, "jpeg": options.jpeg,
        "boxes": layer_hash(expand(policy.layer, "boxes")) if policy.layer else TRUTH, "min_score": options.min_score,
    }  # fmt: skip
    return RawDataset(
        source=f"crops of {manifest.source}",
        classes=manifest.classes,
        samples=tuple(samples),
        licence=manifest.licence,
        citation=manifest.citation,
        read=partial(read_crop, root=root, policy=policy, quality=options.jpeg),
        extra=manifest.extra | about,
    )


def read_crop(sample: RawSample, root: Path, policy: Policy, quality: int) -> bytes:
    """The JPEG bytes of a sample's crop."""
    import simplejpeg

    manifest, view, reader = _opened(root, policy)
    index = manifest.entries.position[sample.key]
    data, entry = reader.read(index), manifest.entries[index]
    whole = (0, 0, entry.width, entry.height)
    if index not in view.regions or (view.regions[index] == whole and not view.padded):
        return data
    pixels = view.cut(decode(data, sample.key), index).permute(1, 2, 0).contiguous().numpy()
    return simplejpeg.encode_jpeg(pixels, quality, "RGB", "444", fastdct=False)


@lru_cache(maxsize=1)  # a build calls read_crop in several processes, once a sample
def _opened(root: Path, policy: Policy) -> tuple[Manifest, View, Reader]:
    manifest = read_manifest(root)
    (view,) = open_views(policy, manifest, range(len(manifest.entries)))
    return manifest, view, Reader(manifest)


def _moved(box: Box, view: View, entry: Entry, index: int) -> Box:
    return (*view.moved(box[0], box[1], entry, index), *view.moved(box[2], box[3], entry, index))


def _has_pixels(box: Box) -> bool:
    return box[2] - box[0] >= 1 and box[3] - box[1] >= 1


def _shown(point: tuple[float, float], view: View, index: int) -> bool:
    region = view.regions.get(index)
    return region is None or (region[0] <= point[0] <= region[2] and region[1] <= point[1] <= region[3])
