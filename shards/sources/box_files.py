"""Reads boxes that a user has beside a folder of images: a folder of VOC files, a COCO json, or a CSV."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from shards.errors import UserError
from shards.sample import Box, Canvas, Exif
from shards.sources.coco_file import read_coco
from shards.sources.common import are_shares, is_share, make_box, to_pixels
from shards.sources.listing import list_images
from shards.sources.names import Names, loose
from shards.sources.problems import Problems, printable
from shards.sources.tables import read_csv
from shards.sources.voc import read_voc

CSV_COLUMNS = ["file", "x0", "y0", "x1", "y1"]
DEEPEST = 64  # folders of a name that are looked at


@dataclass
class _Found:
    """What a file says about one image: objects as (class, "" in a CSV; box), and the size it declares."""

    objects: list[tuple[str, Box]] = field(default_factory=list)
    size: tuple[float, float] | None = None


def read_boxes(
    source: Path, class_of: Mapping[str, str], problems: Problems, exif: Exif = "auto"
) -> dict[str, tuple[tuple[Box, ...], Canvas]]:
    """Image path -> its boxes, and what is said about the picture they were drawn on. `class_of` maps every image, by
    path relative to the root, to its class name.

    Every image must be listed, with boxes or expressly without (VOC file without objects, COCO image without
    annotations, CSV row with empty corners); the others are noted as problems. Files name an image by its path relative
    to the root, which other folders may precede, or by its mere name where only one image has it. When the objects'
    names are the classes' names, only the objects of the image's own class are kept; other names ("bird") keep all.
    Names are found under another case, other blanks and another Unicode form too. Boxes that all lie within 0 to 1 are
    shares of their images.

    Raises UserError when `source` is none of the three.
    """
    if source.is_dir():
        found = _from_voc(source, class_of, problems)
    elif source.suffix.lower() == ".json" and source.is_file():
        found = _from_coco(source, class_of, problems)
    elif source.suffix.lower() in (".csv", ".tsv") and source.is_file():
        found = _from_csv(source, class_of, problems)
    else:
        reason = (
            "neither a folder of VOC .xml files, nor a COCO .json, nor a .csv" if source.exists() else "no such file"
        )
        raise UserError(printable(f"boxes={source}: {reason}"))
    for path in class_of:
        if path not in found:
            problems.add(f"image without boxes in {source.name}", path)
    shares = are_shares(box for image in found.values() for _, box in image.objects)
    result = {}
    for path, boxes in _of_own_class(found, class_of, problems).items():
        if not shares and any(map(is_share, boxes)):
            problems.add("box of less than a pixel (a share of the image among pixels?)", path)
        boxes, size = to_pixels(boxes, found[path].size, shares)
        result[path] = boxes, Canvas(size, exif)
    return result


def _of_own_class(
    found: Mapping[str, _Found], class_of: Mapping[str, str], problems: Problems
) -> dict[str, tuple[Box, ...]]:
    """The boxes of every image's own class; all of them where no object has the name of a class."""
    classes = Names(class_of.values())
    meant = {name: classes.find(name) for name in {name for image in found.values() for name, _ in image.objects}}
    per_class = any(meant.values())
    boxes = {}
    for path, image in found.items():
        own = [box for name, box in image.objects if not per_class or class_of[path] in meant[name]]
        boxes[path] = tuple(own)
        if image.objects and not own:
            names = ", ".join(sorted({name for name, _ in image.objects})[:3])
            problems.add("image whose boxes all have other names than its class", f"{path} ({names})")
    return boxes


class Finder:
    """Finds the image that a file names; `extension` says whether the file's names have one."""

    def __init__(self, paths: Iterable[str], *, extension: bool) -> None:
        self.whole: dict[str, list[str]] = defaultdict(list)
        self.bare: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            name = path if extension else PurePosixPath(path).with_suffix("").as_posix()
            self.whole[name].append(path)
            self.bare[PurePosixPath(name).name].append(path)
        self.whole_names, self.bare_names = Names(self.whole), Names(self.bare)
        self.folders = {loose(folder) for path in self.whole for folder in path.split("/")[:-1]}

    def find(self, name: str) -> list[str]:
        """The images it may mean, by paths relative to the root: none, one, or several."""
        parts = PurePosixPath(name.replace("\\", "/")).parts[-DEEPEST:]
        for first in range(len(parts)):
            if first and loose(parts[first - 1]) in self.folders:
                break  # the image of that very folder is meant, and it is not there
            if known := self.whole_names.find("/".join(parts[first:])):
                return [path for spelling in known for path in self.whole[spelling]]
        # A name that came with a folder is not looked up without it: it would find another folder's image.
        known = self.bare_names.find(parts[0]) if len(parts) == 1 else []
        return [path for spelling in known for path in self.bare[spelling]]

    def find_one(
        self, name: str, where: str, problems: Problems, missing: str = "annotation of no image"
    ) -> str | None:
        """The one image it means; None, with a problem noted, where there is none or more than one."""
        found = self.find(name)
        if len(found) == 1:
            return found[0]
        if found:
            problems.add("name that fits several images", f"{where} ({' and '.join(found[:2])})")
        else:
            problems.add(missing, where)
        return None


def _from_voc(folder: Path, class_of: Mapping[str, str], problems: Problems) -> dict[str, _Found]:
    finder, whole = Finder(class_of, extension=False), Finder(class_of, extension=True)
    found: dict[str, _Found] = {}
    names = list_images(folder, frozenset([".xml"])).images
    if not names:
        _refuse_other_files(folder)
    for name in names:
        try:
            file, error = read_voc(folder / name), None
        except ValueError as reason:
            file, error = None, f"{name} ({reason})"
        except OSError as reason:
            file, error = None, f"{name} ({reason.strerror})"
        paths = finder.find(name[: -len(".xml")])
        if len(paths) > 1 and file is not None:  # 1.jpg beside 1.png: the file says which one it is about
            named = whole.find(PurePosixPath(name).parent.joinpath(Path(file.filename).name).as_posix())
            paths = [path for path in paths if path in named] or paths
        if len(paths) != 1:
            kind = "annotation of several images" if paths else "annotation of no image"
            problems.add(kind, f"{name} ({' and '.join(paths[:2])})" if paths else name)
        elif paths[0] in found:
            problems.add("image annotated twice", f"{paths[0]} (again in {name})")
        else:
            found[paths[0]] = _Found()
            if error is not None or file is None:
                problems.add("malformed annotation", error or name)
            else:
                found[paths[0]] = _Found(list(file.objects), file.size)
    return found


def _refuse_other_files(folder: Path) -> None:
    """Raises UserError that says what a folder without any .xml holds instead."""
    for kind, tool in ((".txt", "YOLO"), (".json", "labelme")):
        found = list_images(folder, frozenset([kind])).images
        if found:
            what = f"{len(found)} {kind} files as {tool} writes them ({found[0]}), no VOC .xml"
            raise UserError(printable(f"boxes={folder}: {what}; convert them to VOC or to one COCO .json"))
    raise UserError(printable(f"boxes={folder}: no .xml files there; a folder must hold VOC annotations"))


def _from_coco(source: Path, class_of: Mapping[str, str], problems: Problems) -> dict[str, _Found]:
    """COCO detection format: boxes are x, y, width, height; a crowd's box holds no single object and is left out."""
    finder = Finder(class_of, extension=True)
    document = read_coco(source)
    found: dict[str, _Found] = {}
    image_ids = {image.id for image in document.images}
    path_of: dict[object, str] = {}
    for image in document.images:
        where = f"{source.name} {image.file}"
        if image.id in path_of:
            problems.add("image id used twice", f"{where} id={image.id}")
        path = finder.find_one(image.file, where, problems)
        if path is not None and path in found:
            problems.add("image annotated twice", where)
        elif path is not None:
            path_of[image.id] = path
            found[path] = _Found(size=image.size)
    for index, item in enumerate(document.annotations):
        where = f"{source.name} annotations[{index}]"
        if item.image not in image_ids:
            problems.add("annotation of no image", f"{where} image_id={item.image}")
        elif item.image in path_of and not item.crowd:
            if item.box is None:
                problems.add("malformed annotation", f"{where} {item.text}")
            else:
                name = document.categories.get(item.category, "") if item.category is not None else ""
                found[path_of[item.image]].objects.append((name, item.box))
    return found


def _from_csv(source: Path, class_of: Mapping[str, str], problems: Problems) -> dict[str, _Found]:
    finder = Finder(class_of, extension=True)
    found: dict[str, _Found] = {}
    for where, row in read_csv(source, CSV_COLUMNS, problems):
        path = finder.find_one(row["file"], where, problems)
        if path is None:
            continue
        image = found.setdefault(path, _Found())  # listed here, so its boxes are known, even with empty corners
        corners = [row[column] for column in CSV_COLUMNS[1:]]
        if any(corners):
            try:
                image.objects.append(("", make_box(corners)))
            except ValueError:
                problems.add("malformed line", where)
    return found
