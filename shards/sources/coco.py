"""Reads COCO annotation files with their images: every image with its boxes; the split is the annotation file's."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shards.options import option
from shards.sample import Box, Canvas, Exif, RawDataset, RawSample
from shards.sources.coco_file import CocoBox, CocoFile, CocoImage, Id, read_coco
from shards.sources.coco_layout import Places, find_files, find_images
from shards.sources.common import is_share, make_keys, to_pixels, warn_of_per_cent
from shards.sources.names import Names, nfc, note_ambiguous, split_of_folder
from shards.sources.problems import Problems, printable
from shards.sources.split import find_duplicates, hint_without_test, warn_of_duplicates

Named = tuple[str, Box | None]  # an object's category, and its box where the file has boxes
logger = logging.getLogger(__name__)


@dataclass
class Options:
    """What a user may choose when a COCO data set is read."""

    annotations: str = option(
        "annotations", "folder of the .json files; each one's name, or its folder's, says its split: train, val, test"
    )
    images: str = option("images", "folder of the images, in ROOT; file names are relative to it, or to ROOT")
    several: Literal["refuse", "largest", "one_class"] = option(
        "refuse",
        "images with several categories: refuse them | take the largest object's, leave the others' boxes out | make "
        "every category one class, 'object', and keep images without any object",
    )
    exif: Exif = option("auto", "boxes were drawn on pictures turned by EXIF: applied | not: ignored | auto, by size")
    licence: str = option("unknown", "licence of the images, written into the manifest")
    citation: str = option("", "what to cite, written into the manifest")


@dataclass(frozen=True)
class _Row:
    """One image to be built; `path` is relative to the folder of all images."""

    image: CocoImage
    path: str
    split: str
    name: str
    boxes: tuple[Box, ...]
    canvas: Canvas


def scan(root: Path, options: Options) -> RawDataset:
    """Read and check the annotation files and images under `root`.

    Layouts: COCO's own (annotations/instances_train2017.json, train2017/), Roboflow's (train/_annotations.coco.json,
    valid/), or ROOT/annotations/train.json and ROOT/images.

    An image's class is its annotations' category, or `class_id` where `fgvc shards coco` wrote the file. A crowd's box
    holds no single object and is left out. A file may give classes without any bbox, as iNaturalist's do. Categories
    without annotations are no classes; images without annotations are left out, with several=one_class they stay as
    background. Both are said.
    Raises UserError, naming everything found: files that name no split (unless their images do),
    unknown categories and images, malformed or
    empty boxes, boxes outside their image, images listed twice or in two splits.
    """
    root = Path(root)
    problems = Problems(root, "Correct the annotation files.")
    split_of = find_files(root, options.annotations)
    documents = [read_coco(file) for file in split_of]
    places = find_images(root, options.images)
    categories = _categories(documents, problems)
    rows, left_out, background = [], 0, 0
    seen: dict[str, str] = {}
    for document in documents:
        named = split_of[document.path]
        _check_splits(document, named, problems)
        boxes_of = _boxes(document, categories, problems)
        for image in document.images:
            split = named or split_of_folder(image.split)
            path = _path(document, image, places, split, seen, problems)
            where = f"{document.path.name} {image.file}"
            found = boxes_of.get(image.id)
            if found is None:  # its boxes are malformed, which is noted
                continue
            name, boxes, others = _class_of(image, found, categories, options.several, where, problems)
            left_out += others
            background += name is None and not found
            if name is not None and path is not None:
                boxes, size = to_pixels(boxes, image.size, document.shares)
                rows.append(_Row(image, path, split, name, boxes, Canvas(size, options.exif)))
    classes = ("object",) if options.several == "one_class" else _used(root, categories, rows)
    if not rows and not problems.found:
        problems.add("no image with an annotation", str(options.annotations))
    problems.check()
    _say(root, left_out, background)
    hint_without_test(root, {row.split for row in rows})
    extra: dict = {"boxes_of_other_categories": left_out} | ({"images_without_class": background} if background else {})
    extra |= _duplicates(places, rows)
    samples = _samples(places, rows, classes)
    warn_of_per_cent(root, {places.folder / row.path: row.boxes for row in rows})
    return RawDataset("coco", classes, samples, options.licence, options.citation, extra=extra)


def _samples(places: Places, rows: list[_Row], classes: tuple[str, ...]) -> tuple[RawSample, ...]:
    keys = {row.path: row.image.key for row in rows if row.image.key is not None}
    if len(keys) < len(rows):
        keys = dict(make_keys([row.path for row in rows], stem_is_enough=True))
    label_of = {name: label for label, name in enumerate(classes)}
    return tuple(
        RawSample(
            str(keys[row.path]), places.folder / row.path, label_of[row.name], row.split, row.boxes, row.image.parts,
            row.image.origin, row.canvas,
        )
        for row in rows
    )  # fmt: skip


def _path(
    document: CocoFile, image: CocoImage, places: Places, split: str, seen: dict[str, str], problems: Problems
) -> str | None:
    """The image's path below `places.folder`, where it is one file that no other entry has."""
    where = f"{document.path.name} {image.file}"
    found = places.find(image.file, document.path, split)
    if not found:
        problems.add("missing image file", where)
    elif len(found) > 1:
        problems.add("name that fits several images", f"{where} ({' and '.join(found[:2])})")
    elif seen.setdefault(found[0], split) != split:
        problems.add("image in two splits", f"{found[0]} ({seen[found[0]]} and {split})")
    elif found[0] in places.taken:
        problems.add("image listed twice", where)
    else:
        places.taken.add(found[0])
        return found[0]
    return None


def _check_splits(document: CocoFile, named: str, problems: Problems) -> None:
    """Note images without a split where the file's name says none, and those whose own field contradicts it; warn of
    fields that name no split."""
    said = {image.file: split_of_folder(image.split) for image in document.images}
    if not named and not any(said.values()):
        problems.add("annotation file whose name does not say train, val or test", document.path.name)
        return
    for image in document.images:
        where = f"{document.path.name} {image.file} (split={image.split!r})"
        if not named and not said[image.file]:
            problems.add("image whose split field names no split", where)
        elif named and said[image.file] not in ("", named):
            problems.add("image whose split field contradicts its file's name", where)
    strange = [image.split for image in document.images if image.split and not said[image.file]]
    if named and strange:
        what = f"split fields of {len(strange)} images name no split ({strange[0]}); all are {named}"
        logger.warning(printable(f"{document.path}: {what}"))


def _categories(documents: list[CocoFile], problems: Problems) -> dict[Id, str]:
    """Category id -> class name, in the order of the files; one id must mean the same in all of them."""
    found: dict[Id, str] = {}
    for document in documents:
        for number, name in document.categories.items():
            if not Names([found.setdefault(number, nfc(name).strip())]).find(name):
                problems.add("category with two names", f"{document.path.name} {number}")
    note_ambiguous(found.values(), "categories", problems)
    ids: dict[str, list[Id]] = {}
    for number, name in found.items():
        ids.setdefault(name, []).append(number)
    for name, numbers in ids.items():
        if len(numbers) > 1:
            of = " and ".join(map(str, numbers[:3]))
            logger.warning(printable(f"{documents[0].path.parent}: categories {of} have one name, {name}: one class"))
    return found


def _used(root: Path, categories: Mapping[Id, str], rows: list[_Row]) -> tuple[str, ...]:
    """The categories that are classes, in their order; those without images are said."""
    used = {row.name for row in rows}
    names = list(dict.fromkeys(categories.values()))
    unused = [name for name in names if name not in used]
    if unused and rows:
        what = "category is" if len(unused) == 1 else "categories are"
        some = ", ".join(unused[:3]) + (", ..." if len(unused) > 3 else "")
        logger.warning(printable(f"{root}: {len(unused)} {what} no class, without any image: {some}"))
    return tuple(name for name in names if name in used)


def _boxes(document: CocoFile, categories: Mapping[Id, str], problems: Problems) -> dict[Id, list[Named] | None]:
    """Image id -> (category, box) of its annotations; None where one of them is malformed."""
    sizes: dict[Id, tuple[float, float] | None] = {}
    for image in document.images:
        if image.id in sizes:
            problems.add("image id used twice", f"{document.path.name} {image.id}")
        sizes[image.id] = image.size
    found: dict[Id, list[Named] | None] = {number: [] for number in sizes}
    for index, item in enumerate(document.annotations):
        where = f"{document.path.name} annotations[{index}]"
        if item.image not in sizes:
            problems.add("annotation of no image", f"{where} image_id={item.image}")
        elif item.category is None or item.category not in categories:
            problems.add("unknown category", f"{where} category_id={item.category}")
        elif not item.crowd:
            boxes = found[item.image]
            kind = "" if document.unboxed else _wrong_with(item, sizes[item.image], document.shares)
            if kind:
                problems.add(kind, f"{where} {item.text}")
                found[item.image] = None
            elif boxes is not None:
                boxes.append((categories[item.category], item.box))
    return found


def _wrong_with(item: CocoBox, size: tuple[float, float] | None, shares: bool) -> str:
    """The kind of problem with an annotation's box, or nothing."""
    if item.box is None:
        return "malformed or empty box"
    if shares:
        return ""
    if is_share(item.box):
        return "box of less than a pixel (a share of the image among pixels?)"
    if size is not None and (item.box[0] >= size[0] or item.box[1] >= size[1] or item.box[2] <= 0 or item.box[3] <= 0):
        return "box outside its image"
    return ""


def _class_of(
    image: CocoImage, named: list[Named], categories: Mapping[Id, str], several: str, where: str,
    problems: Problems,
) -> tuple[str | None, tuple[Box, ...], int]:  # fmt: skip
    """An image's class (None: not to be used), its boxes, and how many boxes of other categories are left out."""
    if several == "one_class":
        return "object", tuple(box for _, box in named if box is not None), 0
    own = categories.get(image.class_id) if image.class_id is not None else None
    names = {name for name, _ in named} | ({own} if own else set())
    if not names:
        return None, (), 0
    if len(names) > 1 and several == "refuse":
        problems.add("image with several categories (several=largest or one_class takes it)", where)
        return None, (), 0
    name = own or max(named, key=lambda pair: _area(pair[1]))[0]
    boxes = tuple(box for category, box in named if category == name and box is not None)
    return name, boxes, sum(category != name for category, _ in named)


def _area(box: Box | None) -> float:
    return 0.0 if box is None else (box[2] - box[0]) * (box[3] - box[1])


def _duplicates(places: Places, rows: list[_Row]) -> dict[str, dict[str, int]]:
    """Warn of pictures that are there twice; their counts for the manifest when there are any."""
    unread = Problems(places.folder, "")  # files that cannot be read are named by the build
    groups = find_duplicates(places.folder, [row.path for row in rows], unread)
    if not groups:
        return {}
    class_of, split_of = {row.path: row.name for row in rows}, {row.path: row.split for row in rows}
    return {"duplicates": warn_of_duplicates(places.folder, groups, class_of, split_of)}


def _say(root: Path, left_out: int, background: int) -> None:
    if left_out:
        logger.warning(printable(f"{root}: {left_out} boxes of other categories than their image's are left out"))
    if background:
        what = "image without an annotation is" if background == 1 else "images without an annotation are"
        hint = "they have no class (several=one_class keeps them as background)"
        logger.warning(printable(f"{root}: {background} {what} left out: {hint}"))
