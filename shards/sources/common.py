"""What the readers of raw datasets share: image listings, keys, boxes, class names and checks of classes."""

import hashlib
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path, PurePosixPath

from shards.sample import Box
from shards.sources.problems import Problems


@cache
def image_extensions() -> frozenset[str]:
    """The file extensions, with the dot and in lower case, that the installed Pillow can open."""
    from PIL import Image

    return frozenset(ext for ext, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def list_images(folder: Path) -> list[str]:
    """Sorted relative POSIX paths of the images below `folder`; hidden files and folders are ignored.

    Links are followed: people keep class folders of one dataset on several disks.
    """
    found = []
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = Path(where).relative_to(folder)
        found += [(relative / name).as_posix() for name in files if is_image(name)]
    return sorted(found)


def is_image(name: str) -> bool:
    """Whether a file of this name is a visible image that the installed Pillow can open."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in image_extensions()


def make_key(relative: str) -> str:
    """A WebDataset key for a relative path: without extension, of A-Z a-z 0-9 _ - only.

    Two names in a script that has no such letters would become the same underscores, so a path beyond ASCII gets a
    digest of itself at its end.
    """
    stem = PurePosixPath(relative).with_suffix("").as_posix()
    key = re.sub(r"[^A-Za-z0-9_-]", "_", stem.replace("/", "__"))
    if stem.isascii():
        return key
    return f"{key}-{hashlib.sha256(stem.encode('utf-8', 'surrogateescape')).hexdigest()[:10]}"


def make_keys(paths: Sequence[str], problems: Problems, *, stem_is_enough: bool) -> dict[str, str]:
    """Path -> key. With `stem_is_enough` the file's stem alone, its folders only where two files share a stem.

    Notes a problem for every group of paths that end in the same key.
    """
    stems = Counter(PurePosixPath(path).stem for path in paths)
    keys, groups = {}, defaultdict(list)
    for path in paths:
        short = stem_is_enough and stems[PurePosixPath(path).stem] == 1
        keys[path] = make_key(PurePosixPath(path).name if short else path)
        groups[keys[path]].append(path)
    for key, group in groups.items():
        if len(group) > 1:
            problems.add("files with the same key (rename them)", f"{' and '.join(group)} -> {key}")
    return keys


def make_box(corners: Iterable[str | float]) -> Box:
    """The box of x0, y0, x1, y1. Raises ValueError when these are no four finite numbers or hold no area.

    Whether a box lies inside its image is checked where images are opened, when the shards are built.
    """
    x0, y0, x1, y1 = map(float, corners)
    if not all(map(math.isfinite, (x0, y0, x1, y1))) or x1 <= x0 or y1 <= y0:
        raise ValueError("a box without area")
    return x0, y0, x1, y1


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
