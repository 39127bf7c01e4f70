"""What the readers of raw datasets share: keys, boxes, class names and checks of classes."""

import hashlib
import logging
import math
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from PIL import Image

from shards.building.canvas import BEYOND
from shards.sample import Box
from shards.sources.names import nfc
from shards.sources.problems import Problems, printable

logger = logging.getLogger(__name__)
LARGE = 200  # pixels: boxes all in the first 100 of each side of such images are no photographer's choice
KEY_LENGTH = 90  # a tar name has 100 characters


def make_key(relative: str) -> str:
    """A WebDataset key for a relative path: without extension, of A-Z a-z 0-9 _ - only, at most 90 of them.

    Two names in a script that has no such letters would become the same underscores, so a path beyond ASCII gets a
    digest of itself at its end; a long one keeps its end, which has the file's own name, and gets a digest too.
    """
    stem = nfc(PurePosixPath(relative).with_suffix("").as_posix())
    key = re.sub(r"[^A-Za-z0-9_-]", "_", stem.replace("/", "__"))
    if stem.isascii() and len(key) <= KEY_LENGTH:
        return key
    return _with_digest(key, stem)


def _with_digest(key: str, text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:10]
    return f"{key[-(KEY_LENGTH - 11) :].lstrip('_-')}-{digest}"


def make_keys(paths: Sequence[str], *, stem_is_enough: bool) -> dict[str, str]:
    """Path -> key. With `stem_is_enough` the file's stem alone, its folders only where two files share a stem.

    Paths that would share a key (1.jpg and 1.png, "a b.jpg" and a_b.jpg) get a digest of their whole name each.
    """
    stems = Counter(PurePosixPath(path).stem for path in paths)
    groups: dict[str, list[str]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        short = stem_is_enough and stems[PurePosixPath(path).stem] == 1
        groups[make_key(PurePosixPath(path).name if short else path)].append(path)
    keys = {}
    for key, group in groups.items():
        for path in group:
            keys[path] = key if len(group) == 1 else _with_digest(key, path)
    return keys


def possible_keys(path: str) -> Iterator[str]:
    """The keys that shards may have for a file, whichever of its folders the data set began in: with all its folders
    first, the bare name last."""
    parts = PurePosixPath(path).parts
    for begin in range(len(parts)):
        end = "/".join(parts[begin:])
        yield make_key(end)
        yield from (_with_digest(make_key(name), end) for name in (end, parts[-1]))  # of names that shared a key


def make_box(corners: Iterable[str | float]) -> Box:
    """The box of x0, y0, x1, y1. Raises ValueError when these are not four finite numbers or hold no area.

    Whether a box lies inside its image is checked where images are opened, when the shards are built.
    """
    try:
        x0, y0, x1, y1 = map(float, corners)
    except (TypeError, OverflowError) as error:
        raise ValueError("not four numbers") from error
    if not all(map(math.isfinite, (x0, y0, x1, y1))) or x1 <= x0 or y1 <= y0:
        raise ValueError("a box without area")
    return x0, y0, x1, y1


def is_share(box: Box) -> bool:
    """Whether a box lies within 0 to 1, where one of pixels would hold about one, or reaches over that as far as boxes
    may reach over their images."""
    return min(box) >= -BEYOND and max(box) <= 1 + BEYOND


def are_shares(boxes: Iterable[Box]) -> bool:
    """Whether the boxes of a file are shares of their images."""
    found = list(boxes)
    return bool(found) and all(map(is_share, found))


def warn_of_per_cent(where: Path, boxes_of: Mapping[Path, Sequence[Box]]) -> None:
    """Warn where every corner of a data set is at most 100 on far larger images: these may be per cent. By image."""
    boxes = [box for found in boxes_of.values() for box in found]
    if not boxes or max(map(max, boxes)) > 100 or are_shares(boxes):
        return
    sides = [side for path, found in boxes_of.items() if found for side in image_size(path)]
    if sides and min(sides) >= LARGE:
        what = f"every box lies within 0 to 100, on images of at least {min(sides)} pixels a side"
        logger.warning(printable(f"{where}: {what}: are these per cent? They are taken as pixels"))


def image_size(path: Path) -> tuple[int, ...]:
    """Width and height by the file's header, EXIF unheeded; nothing where it cannot be read, which the build names."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return image.size
    except Exception:  # decoders raise nearly anything on damaged files
        return ()


def to_pixels(
    boxes: Iterable[Box], size: tuple[float, float] | None, shares: bool
) -> tuple[tuple[Box, ...], tuple[float, float] | None]:
    """Boxes and the size of the picture they were drawn on: of shares, that picture is 1 x 1 where nothing else is
    known."""
    if not shares:
        return tuple(boxes), size
    wide, high = size or (1.0, 1.0)
    return tuple((x0 * wide, y0 * high, x1 * wide, y1 * high) for x0, y0, x1, y1 in boxes), (wide, high)


def note_empty_classes(classes: Sequence[str], found: Iterable[tuple[int, str]], problems: Problems) -> None:
    """Note classes without any image and classes without training images; `found` is (label, split) per image."""
    pairs = set(found)
    labels = {label for label, _ in pairs}
    for label, name in enumerate(classes):
        if label not in labels:
            problems.add("class without images", name)
        elif (label, "train") not in pairs:
            problems.add("class without training images", name)


def clean_names(folders: Sequence[str], prefix: str) -> tuple[str, ...]:
    """Folder names without what matches `prefix`, underscores as blanks; as they are where that would join two."""
    cleaned = tuple(re.sub(f"^{prefix}", "", name).replace("_", " ").strip() for name in folders)
    return cleaned if len(set(cleaned)) == len(cleaned) and all(cleaned) else tuple(folders)
