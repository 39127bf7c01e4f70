"""Reads COCO annotation files with their images: every image with its boxes; the split is the annotation file's."""

import json
import logging
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shards.errors import UserError
from shards.options import option
from shards.sample import Box, RawDataset, RawSample
from shards.sources.common import make_box, make_keys
from shards.sources.problems import Problems, printable, require

SPLITS = ("train", "val", "test")
logger = logging.getLogger(__name__)


@dataclass
class Options:
    """What a user may choose when a COCO data set is read."""

    annotations: str = option(
        "annotations", "folder of the .json files; each one's name says its split: train, val, test"
    )
    images: str = option("images", "folder of the images, in ROOT; file names are relative to it")
    several: Literal["refuse", "largest", "one_class"] = option(
        "refuse",
        "images with several categories: refuse them | take the largest object's, leave the others' boxes out | make "
        "every category one class, 'object'",
    )
    licence: str = option("unknown", "licence of the images, written into the manifest")
    citation: str = option("", "what to cite, written into the manifest")


def scan(root: Path, options: Options) -> RawDataset:
    """Read and check the annotation files and images under `root`.

    An image's class is its annotations' category, or `class_id` where `fgvc shards coco` wrote the file. A crowd's box
    holds no single object and is left out. Raises UserError, naming everything found: files that name no split,
    unknown categories and images, malformed or empty boxes, boxes outside their image, images without any class.
    """
    root = Path(root)
    require(root, [options.annotations, options.images], "a COCO data set (ROOT/annotations/*.json, ROOT/images)")
    problems = Problems(root, "Correct the annotation files.")
    files = sorted((root / options.annotations).glob("*.json"))
    documents = {file: _read(file) for file in files}
    split_of = {file: _split(file.stem) for file in files}
    for file in files:
        if not split_of[file]:
            problems.add("annotation file whose name says none of train, val, test", file.name)
    if not files:
        raise UserError(printable(f"{root / options.annotations}: no .json files"))
    categories = _categories(documents, problems)
    names = list(dict.fromkeys(categories.values()))
    one_class = options.several == "one_class"
    classes = ("object",) if one_class else tuple(names)

    rows, left_out = [], 0
    for file, document in documents.items():
        boxes_of = _boxes(file, document, categories, problems)
        for image in document["images"]:
            where = f"{file.name} {image['file_name']}"
            name, boxes, others = _class_of(image, boxes_of[image["id"]], categories, options.several, where, problems)
            left_out += others
            if name is not None:
                rows.append((image, split_of[file], 0 if one_class else names.index(name), boxes))
    keys = {image["file_name"]: image["key"] for image, *_ in rows if "key" in image}
    if len(keys) < len(rows):
        keys = make_keys([image["file_name"] for image, *_ in rows], problems, stem_is_enough=True)
    problems.check()
    if left_out:
        logger.warning(printable(f"{root}: {left_out} boxes of other categories than their image's are left out"))
    samples = tuple(
        RawSample(
            keys[image["file_name"]], root / options.images / image["file_name"], label, split, boxes,
            {part: tuple(point) for part, point in image.get("parts", {}).items()}, image.get("origin", "real"),
        )
        for image, split, label, boxes in rows
    )  # fmt: skip
    extra = {"boxes_of_other_categories": left_out}
    return RawDataset("coco", classes, samples, options.licence, options.citation, extra=extra)


def _read(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8-sig"))
        for image in document["images"]:
            image["id"], image["file_name"], int(image["width"]), int(image["height"])
        for item in document["annotations"]:
            item["image_id"], item["category_id"]
        for category in document["categories"]:
            category["id"], category["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(printable(f"{file}: not a COCO annotation file ({error!r})")) from None
    return document


def _split(stem: str) -> str:
    """train of instances_train2017; "" where the name says no split, or two."""
    words = re.split(r"[^a-z]+", stem.lower())
    found = {split for split in SPLITS if split in words}
    return found.pop() if len(found) == 1 else ""


def _categories(documents: dict[Path, dict[str, Any]], problems: Problems) -> dict[int, str]:
    """Category id -> name, in the order of the files; one id must mean the same in all of them."""
    found: dict[int, str] = {}
    for file, document in documents.items():
        for category in document["categories"]:
            if found.setdefault(category["id"], str(category["name"])) != str(category["name"]):
                problems.add("category with two names", f"{file.name} {category['id']}")
    return found


def _boxes(
    file: Path, document: dict[str, Any], categories: dict[int, str], problems: Problems
) -> dict[Any, list[tuple[str, Box]]]:
    """Image id -> (category, box) of its annotations."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in document["images"]}
    for number, count in Counter(image["id"] for image in document["images"]).items():
        if count > 1:
            problems.add("image id used twice", f"{file.name} {number}")
    found: dict[Any, list[tuple[str, Box]]] = defaultdict(list)
    for index, item in enumerate(document["annotations"]):
        where = f"{file.name} annotations[{index}]"
        if item["image_id"] not in sizes:
            problems.add("annotation of no image", f"{where} image_id={item['image_id']}")
        elif item["category_id"] not in categories:
            problems.add("unknown category", f"{where} category_id={item['category_id']}")
        elif not item.get("iscrowd"):
            try:
                x, y, width, height = map(float, item["bbox"])
                box = make_box((x, y, x + width, y + height))
            except (KeyError, ValueError, TypeError):
                problems.add("malformed or empty box", f"{where} bbox={item.get('bbox')}")
                continue
            wide, high = sizes[item["image_id"]]
            if box[0] >= wide or box[1] >= high or box[2] <= 0 or box[3] <= 0:
                problems.add("box outside its image", f"{where} bbox={item['bbox']} of {wide} x {high}")
            else:
                found[item["image_id"]].append((categories[item["category_id"]], box))
    return found


def _class_of(
    image: dict[str, Any], named: list[tuple[str, Box]], categories: dict[int, str], several: str, where: str,
    problems: Problems,
) -> tuple[str | None, tuple[Box, ...], int]:  # fmt: skip
    """An image's class (None: not to be used), its boxes, and how many boxes of other categories are left out."""
    own = categories.get(image.get("class_id"))  # type: ignore[arg-type]
    names = {name for name, _ in named} | ({own} if own else set())
    if not names:
        problems.add("image without an annotation, so without a class", where)
        return None, (), 0
    if several == "one_class":
        return "object", tuple(box for _, box in named), 0
    if len(names) > 1 and several == "refuse":
        problems.add("image with several categories (several=largest or one_class takes it)", where)
        return None, (), 0
    name = own or max(named, key=lambda pair: (pair[1][2] - pair[1][0]) * (pair[1][3] - pair[1][1]))[0]
    boxes = tuple(box for one, box in named if one == name)
    return name, boxes, len(named) - len(boxes)
