"""Reads boxes that a user has beside a folder of images: a folder of VOC files, a COCO json, or a CSV."""

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from shards.errors import UserError
from shards.sample import Box
from shards.sources.common import make_box
from shards.sources.problems import Problems, printable
from shards.sources.voc import read_voc

Named = tuple[str, Box]  # the object's class as the file names it ("" in a CSV), and its box
CSV_COLUMNS = ["file", "x0", "y0", "x1", "y1"]


def read_boxes(source: Path, class_of: Mapping[str, str], problems: Problems) -> dict[str, tuple[Box, ...]]:
    """Image path -> its boxes. `class_of` maps every image, by path relative to the root, to its class name.

    An image must be there, with boxes or expressly without (VOC file without objects, COCO image without annotations,
    CSV row with empty corners); the others are noted as problems. Files name an image by its path relative to the root,
    which other folders may precede, or by its mere name where only one image has it. When the files' object names are
    the classes' names, only the objects of the image's own class are kept; other names ("bird") keep all.

    Raises UserError when `source` is none of the three.
    """
    if source.is_dir():
        named = _from_voc(source, class_of, problems)
    elif source.suffix.lower() == ".json" and source.is_file():
        named = _from_coco(source, class_of, problems)
    elif source.suffix.lower() == ".csv" and source.is_file():
        named = _from_csv(source, class_of, problems)
    else:
        reason = (
            "neither a folder of VOC .xml files, nor a COCO .json, nor a .csv" if source.exists() else "no such file"
        )
        raise UserError(printable(f"boxes={source}: {reason}"))
    for path in class_of:
        if path not in named:
            problems.add(f"image without boxes in {source.name}", path)
    classes = set(class_of.values())
    per_class = any(name in classes for items in named.values() for name, _ in items)
    return {
        path: tuple(box for name, box in items if not per_class or name == class_of[path])
        for path, items in named.items()
    }


class _Finder:
    """Finds the image that a file names; `extension` says whether the file's names have one."""

    def __init__(self, paths: Mapping[str, str], *, extension: bool) -> None:
        whole = {path if extension else PurePosixPath(path).with_suffix("").as_posix(): path for path in paths}
        names = Counter(PurePosixPath(name).name for name in whole)
        last = {PurePosixPath(name).name: path for name, path in whole.items()}
        self.whole = whole
        self.bare = {name: path for name, path in last.items() if names[name] == 1}

    def find(self, name: str) -> str | None:
        """The image's path relative to the root, None when there is no such image."""
        parts = PurePosixPath(name.replace("\\", "/")).parts
        for first in range(len(parts)):
            if path := self.whole.get("/".join(parts[first:])):
                return path
        # A name that came with a folder is not looked up without it: it would find another folder's image.
        return self.bare.get(parts[0]) if len(parts) == 1 else None


def _from_voc(folder: Path, class_of: Mapping[str, str], problems: Problems) -> dict[str, list[Named]]:
    finder = _Finder(class_of, extension=False)
    found: dict[str, list[Named]] = {}
    for file in sorted(folder.rglob("*.xml")):
        name = file.relative_to(folder).as_posix()
        path = finder.find(name.removesuffix(".xml"))
        if path is None:
            problems.add("annotation of no image", name)
            continue
        if path in found:
            problems.add("image annotated twice", f"{path} (again in {name})")
            continue
        found[path] = []
        try:
            found[path] = read_voc(file)
        except ValueError as error:
            problems.add("malformed annotation", f"{name} ({error})")
    return found


def _from_coco(source: Path, class_of: Mapping[str, str], problems: Problems) -> dict[str, list[Named]]:
    """COCO detection format: boxes are x, y, width, height; a crowd's box holds no single object and is left out."""
    finder = _Finder(class_of, extension=True)
    try:
        document = json.loads(source.read_text(encoding="utf-8-sig"))
        images = {image["id"]: str(image["file_name"]) for image in document["images"]}
        categories = {category["id"]: str(category["name"]) for category in document.get("categories", [])}
        annotations = [(item["image_id"], item.get("category_id"), item) for item in document["annotations"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(printable(f"boxes={source}: not a COCO annotation file ({error!r})")) from error
    found: dict[str, list[Named]] = {}
    path_of: dict[object, str] = {}
    for number, name in images.items():
        path = finder.find(name)
        if path is None:
            problems.add("annotation of no image", f"{source.name} {name}")
        elif path in found:
            problems.add("image annotated twice", f"{source.name} {name}")
        else:
            path_of[number] = path
            found[path] = []
    for index, (image_id, category, item) in enumerate(annotations):
        if image_id not in images:
            problems.add("annotation of no image", f"{source.name} annotations[{index}] image_id={image_id}")
        elif image_id in path_of and not item.get("iscrowd"):
            try:
                x, y, width, height = map(float, item["bbox"])
                box = make_box((x, y, x + width, y + height))
                found[path_of[image_id]].append((categories.get(category, ""), box))
            except (KeyError, ValueError, TypeError):
                problems.add("malformed annotation", f"{source.name} annotations[{index}] bbox={item.get('bbox')}")
    return found


def _from_csv(source: Path, class_of: Mapping[str, str], problems: Problems) -> dict[str, list[Named]]:
    finder = _Finder(class_of, extension=True)
    found: dict[str, list[Named]] = defaultdict(list)
    for where, row in read_csv(source, CSV_COLUMNS, problems):
        path = finder.find(row["file"])
        if path is None:
            problems.add("annotation of no image", where)
            continue
        items = found[path]  # an image named here has its say, even with empty corners
        corners = [row[column] for column in CSV_COLUMNS[1:]]
        if any(corners):
            try:
                items.append(("", make_box(corners)))
            except ValueError:
                problems.add("malformed line", where)
    return dict(found)


def read_csv(source: Path, columns: list[str], problems: Problems) -> list[tuple[str, dict[str, str]]]:
    """The rows of a CSV with a header, each as ("file.csv:17 '<first column>'", {column: stripped text}).

    Rows with too few fields are noted as malformed. Raises UserError when the file or one of `columns` is missing.
    """
    if not source.is_file():
        raise UserError(printable(f"{source}: no such file; it must be a CSV with the columns {','.join(columns)}"))
    rows = []
    try:
        with source.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            missing = [name for name in columns if name not in header]
            if missing:
                has = ",".join(header)[:80]
                raise UserError(
                    printable(
                        f"{source}: no column {', '.join(missing)} in '{has}'; line 1 must name {','.join(columns)}"
                    )
                )
            for row in reader:
                where = f"{source.name}:{reader.line_num} '{row[columns[0]]}'"
                if any(row[column] is None for column in columns):
                    problems.add("malformed line", where)
                else:
                    rows.append((where, {column: row[column].strip() for column in columns}))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(printable(f"{source}: not a readable CSV ({error}); save it as CSV in UTF-8")) from error
    return rows
