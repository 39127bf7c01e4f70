"""Reads a folder with one folder per class, split by folders, a CSV or a seed, with boxes where a file has them."""

import logging
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shards.errors import UserError
from shards.options import option
from shards.sample import RawDataset, RawSample
from shards.sources.box_files import read_boxes, read_csv
from shards.sources.class_folders import read_tree
from shards.sources.common import make_keys, note_empty_classes
from shards.sources.problems import Problems, printable
from shards.sources.split import find_duplicates, seeded_split

SPLITS = ("train", "val", "test")
logger = logging.getLogger(__name__)


@dataclass
class Options:
    """What a user may choose when a folder of images is read."""

    split_csv: str = option("", "CSV with the columns file (relative to ROOT) and split (train, val or test)")
    test_fraction: float = option(0.2, "part of each class held out as test where neither folders nor split_csv say")
    seed: int = option(0, "which images test_fraction draws")
    boxes: str = option("", "boxes, if any: folder of VOC .xml files, COCO .json, or .csv with file,x0,y0,x1,y1")
    licence: str = option("unknown", "licence of the images, written into the manifest")
    citation: str = option("", "what to cite, written into the manifest")


def scan(root: Path, options: Options) -> RawDataset:
    """Read and check the images under `root`: root/CLASS/... or root/{train,val,test}/CLASS/..., deeper folders too.

    Any extension that Pillow opens is an image; hidden files are ignored. Exact duplicates stay on one side of a seeded
    split; in different classes, or on different sides of a given split, they are warned of. Their counts are in
    `extra["duplicates"]`: superfluous files, groups across classes, groups across splits.

    Raises UserError, naming everything found: unreadable files, images outside a class folder, classes without
    (training) images, rows and images without each other in the CSV or the boxes, malformed rows and annotations,
    colliding keys; or an option that cannot be.
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
    tree = read_tree(root, boxes_file, problems)
    if options.split_csv and tree.split_of is not None:
        raise UserError(printable(f"{root}: its folders name the split and split_csv does too; leave one of them out"))

    duplicates = find_duplicates(root, list(tree.class_of), problems)
    if options.split_csv:
        split_of = _read_split(Path(options.split_csv), tree.class_of, problems)
    elif tree.split_of is not None:
        split_of = tree.split_of
    else:
        split_of = seeded_split(tree.class_of, duplicates, options.test_fraction, options.seed)
    boxes = read_boxes(boxes_file, tree.class_of, problems) if boxes_file else {}
    label_of = {name: label for label, name in enumerate(tree.classes)}
    keys = make_keys(list(tree.class_of), problems, stem_is_enough=False)
    pairs = [(label_of[name], split_of[path]) for path, name in tree.class_of.items() if path in split_of]
    note_empty_classes(tree.classes, pairs, problems)
    problems.check()

    samples = tuple(
        RawSample(keys[path], root / path, label_of[name], split_of[path], boxes.get(path, ()))
        for path, name in tree.class_of.items()
    )
    extra = {"duplicates": _warn_of(root, duplicates, tree.class_of, split_of)}
    return RawDataset("image_folder", tuple(tree.classes), samples, options.licence, options.citation, extra=extra)


def _read_split(source: Path, class_of: dict[str, str], problems: Problems) -> dict[str, str]:
    """Image -> split by the CSV; every image must have one row."""
    split_of: dict[str, str] = {}
    named: set[str] = set()  # an image whose row is wrong is not reported as missing too
    for where, row in read_csv(source, ["file", "split"], problems):
        path = PurePosixPath(row["file"].replace("\\", "/")).as_posix()
        if path not in class_of:
            problems.add("missing image file", where)
        elif path in named:
            problems.add("listed twice", where)
        elif row["split"] not in SPLITS:
            problems.add("split that is none of train, val, test", f"{where} = '{row['split']}'")
        else:
            split_of[path] = row["split"]
        named.add(path)
    for path in class_of:
        if path not in named:
            problems.add(f"image without a row in {source.name}", path)
    return split_of


def _warn_of(
    root: Path, duplicates: list[list[str]], class_of: dict[str, str], split_of: dict[str, str]
) -> dict[str, int]:
    """Warn of images that have two labels or leak from train to test; return the counts for the manifest."""
    across_classes = [group for group in duplicates if len({class_of[path] for path in group}) > 1]
    across_splits = [group for group in duplicates if len({split_of[path] for path in group}) > 1]
    for groups, where, why in (
        (across_classes, "different classes", "one of the labels is wrong"),
        (across_splits, "different splits", "training sees what it is tested on"),
    ):
        if groups:
            first = " = ".join(groups[0])
            count = f"{len(groups)} {'image is' if len(groups) == 1 else 'images are'}"
            logger.warning(printable(f"{root}: {count} in {where} at once ({why}), first: {first}"))
    return {
        "superfluous_files": sum(len(group) - 1 for group in duplicates),
        "across_classes": len(across_classes),
        "across_splits": len(across_splits),
    }
