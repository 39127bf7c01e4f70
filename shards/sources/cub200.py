"""Reads CUB-200-2011 in its official layout: bird species, one box an image, part positions where there.

http://www.vision.caltech.edu/datasets/cub_200_2011/, for research use. Some of its images are also in ImageNet.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from shards.sample import Box, RawDataset, RawSample
from shards.sources.common import clean_names, is_share, make_box, make_keys, note_empty_classes
from shards.sources.download import Archive, Download, download
from shards.sources.listing import list_images
from shards.sources.problems import Problems, read_lines, require

LISTS = ["images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt"]
PART_LISTS = ["parts/parts.txt", "parts/part_locs.txt"]
LICENCE = "for research use; the photographs are from Flickr and belong to their authors"
CITATION = (
    "C. Wah, S. Branson, P. Welinder, P. Perona, S. Belongie: The Caltech-UCSD Birds-200-2011 Dataset. "
    "California Institute of Technology, technical report CNS-TR-2011-001, 2011."
)
SPLITS = {"1": "train", "0": "test"}

Parts = dict[str, tuple[float, float]]
T = TypeVar("T")


# The sha256 as torchvision pins it (torchvision/prototype/datasets/_builtin/cub200.py); its md5, as others do, is
# 97eceeb196236b17998738112f37df78.
ARCHIVES = (
    Archive(
        "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz", 1_150_585_339,
        "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081", 2_000_000_000,
        ("CUB_200_2011/images.txt", "CUB_200_2011/images"),
    ),
)  # fmt: skip


@dataclass
class Options(Download):
    """CUB-200-2011 leaves nothing to choose: classes, split and boxes are official."""


def scan(root: Path, options: Options) -> RawDataset:
    """Read and check the official lists under `root` (CUB_200_2011; where that is downloaded, the folder it is put
    into). Labels follow classes.txt, keys are file stems.

    Raises UserError, naming everything found: missing lists, malformed or missing lines, images listed twice, missing
    or unlisted image files, labels that contradict their class folder, boxes that are no pixels, classes without
    (training) images.
    """
    root = Path(root)
    if options.wanted and not (root / LISTS[0]).exists():
        download(root, ARCHIVES, options.mirror)
        root /= "CUB_200_2011"
    require(
        root, [*LISTS, "images"], f"CUB-200-2011 (it holds {', '.join(LISTS)} and images/; download=true fetches it)"
    )
    if (root / "parts").is_dir():
        require(root, PART_LISTS, "CUB-200-2011")
    problems = Problems(root, "Unpack the official archive again, or correct these lists and files.")

    folders = _read(root / "classes.txt", 2, _text, problems)
    index = {class_id: label for label, class_id in enumerate(folders)}
    paths = _read(root / "images.txt", 2, _text, problems)
    labels = _read(root / "image_class_labels.txt", 2, lambda values: index[values[0]], problems)
    splits = _read(root / "train_test_split.txt", 2, lambda values: SPLITS[values[0]], problems)
    boxes = _read(root / "bounding_boxes.txt", 5, _box, problems)
    _compare_classes(paths, labels, list(folders.values()), problems)
    for i, box in boxes.items():
        if is_share(box):
            problems.add("box of less than a pixel (a share of its image?)", f"bounding_boxes.txt {i}")
    tables: dict[str, dict] = {
        "images.txt": paths,
        "image_class_labels.txt": labels,
        "train_test_split.txt": splits,
        "bounding_boxes.txt": boxes,
    }
    parts: dict[str, Parts] = {}
    if (root / "parts").is_dir():
        tables["parts/part_locs.txt"] = parts = _read_parts(root, problems)
    _compare_ids(tables, problems)
    _compare_files(root, list(paths.values()), problems)
    keys = make_keys(sorted(set(paths.values())), stem_is_enough=True)
    note_empty_classes(
        tuple(folders.values()), [(labels[i], splits[i]) for i in paths if i in labels and i in splits], problems
    )
    problems.check()

    samples = tuple(
        RawSample(keys[path], root / "images" / path, labels[i], splits[i], (boxes[i],), parts.get(i, {}))
        for i, path in paths.items()
    )
    classes = clean_names(list(folders.values()), r"\d+\.")
    return RawDataset("cub200", classes, samples, LICENCE, CITATION)


def _read(path: Path, columns: int, convert: Callable[[list[str]], T], problems: Problems) -> dict[str, T]:
    """First column -> the converted others. Ids stay text: relatives of CUB with the same lists use other ids."""
    table: dict[str, T] = {}
    for where, (key, *values) in read_lines(path, columns, problems):
        if key in table:
            problems.add("listed twice", where)
            continue
        try:
            table[key] = convert(values)
        except (ValueError, KeyError):
            problems.add("malformed line", where)
    return table


def _text(values: list[str]) -> str:
    return values[0]


def _box(values: list[str]) -> Box:
    x, y, width, height = map(float, values)
    return make_box((x, y, x + width, y + height))


def _read_parts(root: Path, problems: Problems) -> dict[str, Parts]:
    """Image id -> the visible parts' positions; the lists give every part of every image, seen or not."""
    names = _read(root / PART_LISTS[0], 2, _text, problems)
    found: dict[str, Parts] = {}
    for where, (image, part, x, y, visible) in read_lines(root / PART_LISTS[1], 5, problems):
        parts = found.setdefault(image, {})
        try:
            if {"0": False, "1": True}[visible]:
                parts[names[part]] = (float(x), float(y))
        except (ValueError, KeyError):
            problems.add("malformed line", where)
    return found


def _compare_ids(tables: dict[str, dict], problems: Problems) -> None:
    every_id = dict.fromkeys(key for table in tables.values() for key in table)
    for name, table in tables.items():
        for key in every_id:
            if key not in table:
                problems.add(f"no usable line in {name} for image", key)


def _compare_classes(paths: dict[str, str], labels: dict[str, int], folders: list[str], problems: Problems) -> None:
    """Note images in a folder that is named after another class than their label's."""
    names = set(folders)
    for i, path in paths.items():
        folder = path.partition("/")[0]
        if i in labels and folder in names and folder != folders[labels[i]]:
            problems.add("label that contradicts the class folder", f"images.txt {path} = {folders[labels[i]]}")


def _compare_files(root: Path, listed: list[str], problems: Problems) -> None:
    # One listing of the folder instead of a stat per image: on a network disk the difference is minutes.
    there = set(list_images(root / "images").images)
    seen: set[str] = set()
    for path in listed:
        if path in seen:
            problems.add("listed twice", f"images.txt {path}")
        elif path not in there:
            problems.add("missing image file", f"images/{path}")
        seen.add(path)
    for path in sorted(there - seen):
        problems.add("image not listed in images.txt", f"images/{path}")
