"""Reads a folder with one folder per class, split by folders, a CSV or a seed, with boxes where a file has them."""

import logging
from dataclasses import dataclass
from pathlib import Path

from shards.errors import UserError
from shards.options import option
from shards.sample import Box, Canvas, Exif, RawDataset, RawSample
from shards.sources.box_files import Finder, read_boxes
from shards.sources.class_folders import read_tree
from shards.sources.common import make_keys, note_empty_classes, warn_of_per_cent
from shards.sources.decodable import note_undecodable
from shards.sources.listing import count_left_out, describe_left_out
from shards.sources.names import split_of_folder
from shards.sources.problems import Problems, printable
from shards.sources.split import find_duplicates, hint_without_test, seeded_split, warn_of_duplicates
from shards.sources.tables import read_csv

logger = logging.getLogger(__name__)


@dataclass
class Options:
    """What a user may choose when a folder of images is read."""

    split_csv: str = option("", "CSV with the columns file (relative to ROOT) and split (train, val or test)")
    test_fraction: float = option(0.2, "part of each class held out as test where neither folders nor split_csv say")
    seed: int = option(0, "which images test_fraction draws")
    boxes: str = option("", "boxes, if any: folder of VOC .xml files, COCO .json, or .csv with file,x0,y0,x1,y1")
    exif: Exif = option("auto", "boxes were drawn on pictures turned by EXIF: applied | not: ignored | auto, by size")
    deep: bool = option(False, "class folders hold folders only, all of the one class")
    licence: str = option("unknown", "licence of the images, written into the manifest")
    citation: str = option("", "what to cite, written into the manifest")


def scan(root: Path, options: Options) -> RawDataset:
    """Read and check the images under `root`: root/CLASS/... or root/{train,val,test}/CLASS/..., deeper folders too.

    Any extension that Pillow opens is an image; hidden files, system folders and pictures in other formats are left out
    and counted (`extra["left_out"]`). Exact duplicates stay on one side of a seeded
    split; in different classes, or on different sides of a given split, they are warned of. Their counts are in
    `extra["duplicates"]`: superfluous files, groups across classes, groups across splits.

    Raises UserError, naming everything found: unreadable files, images outside a class folder, classes without
    (training) images, rows and images without each other in the CSV or the boxes, malformed rows and annotations, and
    then damaged images too; or an impossible option.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(printable(f"{root}: no such folder; ROOT must hold one folder per class"))
    if not 0 <= options.test_fraction < 1:
        raise UserError(f"test_fraction={options.test_fraction}: must be at least 0 and below 1")
    problems = Problems(
        root, "Correct or remove these; the layout is ROOT/CLASS/image or ROOT/train|val|test/CLASS/image."
    )
    boxes_file = Path(options.boxes) if options.boxes else None
    tree = read_tree(root, boxes_file, problems, options.deep)
    if tree.left_out:
        what = describe_left_out(tree.left_out)
        logger.warning(printable(f"{root}: left out: {what}"))
    if options.split_csv and tree.split_of is not None:
        raise UserError(printable(f"{root}: its folders name the split and split_csv does too; leave one of them out"))

    duplicates = find_duplicates(root, list(tree.class_of), problems)
    if options.split_csv:
        split_of = _read_split(Path(options.split_csv), tree.class_of, problems)
    elif tree.split_of is not None:
        split_of = tree.split_of
    else:
        split_of = seeded_split(tree.class_of, duplicates, options.test_fraction, options.seed)
    boxes = read_boxes(boxes_file, tree.class_of, problems, options.exif) if boxes_file else {}
    label_of = {name: label for label, name in enumerate(tree.classes)}
    keys = make_keys(list(tree.class_of), stem_is_enough=False)
    pairs = [(label_of[name], split_of[path]) for path, name in tree.class_of.items() if path in split_of]
    note_empty_classes(tree.classes, pairs, problems)
    if problems.found:
        note_undecodable(root, list(tree.class_of), problems)
    problems.check()
    hint_without_test(root, set(split_of.values()))

    samples = tuple(
        _sample(keys[path], root / path, label_of[name], split_of[path], boxes.get(path))
        for path, name in tree.class_of.items()
    )
    warn_of_per_cent(root, {sample.path: sample.boxes for sample in samples if sample.path is not None})
    extra = {"duplicates": warn_of_duplicates(root, duplicates, tree.class_of, split_of)}
    if tree.left_out:
        extra["left_out"] = count_left_out(tree.left_out)
    return RawDataset("image_folder", tuple(tree.classes), samples, options.licence, options.citation, extra=extra)


def _sample(key: str, path: Path, label: int, split: str, found: tuple[tuple[Box, ...], Canvas] | None) -> RawSample:
    boxes, canvas = found or ((), None)
    return RawSample(key, path, label, split, boxes, canvas=canvas if boxes else None)


def _read_split(source: Path, class_of: dict[str, str], problems: Problems) -> dict[str, str]:
    """Image -> split by the CSV; every image must have one row."""
    finder = Finder(class_of, extension=True)
    split_of: dict[str, str] = {}
    named: set[str] = set()  # an image whose row is wrong is not reported as missing too
    for where, row in read_csv(source, ["file", "split"], problems):
        path = finder.find_one(row["file"], where, problems, missing="missing image file")
        if path is None:
            continue
        split = split_of_folder(row["split"])
        if path in named:
            other = f" ({split_of[path]} and {split})" if split_of.get(path, split) != split else ""
            problems.add("listed twice", f"{where}{other}")
        elif not split:
            problems.add("split that is none of train, val, test", f"{where} = '{row['split']}'")
        else:
            split_of[path] = split
        named.add(path)
    for path in class_of:
        if path not in named:
            problems.add(f"image without a row in {source.name}", path)
    return split_of
