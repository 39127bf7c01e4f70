"""Reads Stanford Dogs in its official layout: 120 breeds out of ImageNet, a box for every dog of an image.

A model pretrained on ImageNet has seen these images, the test split's among them: accuracy after it flatters.

http://vision.stanford.edu/aditya86/ImageNetDogs/: Images/, Annotation/, and train_list.mat and test_list.mat beside
them or in lists/.
"""

import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from shards.building.encode import EXIF_ORIENTATION
from shards.errors import UserError
from shards.sample import Box, Canvas, RawDataset, RawSample
from shards.sources.common import clean_names, make_keys, note_empty_classes
from shards.sources.download import Archive, Download, download
from shards.sources.listing import is_system_folder, list_images
from shards.sources.problems import Problems, printable, require
from shards.sources.voc import read_voc

LICENCE = "images from ImageNet: for non-commercial research and educational use"
CITATION = (
    "A. Khosla, N. Jayadevaprakash, B. Yao, L. Fei-Fei: Novel Dataset for Fine-Grained Image Categorization. "
    "First Workshop on Fine-Grained Visual Categorization, CVPR 2011. A subset of ImageNet: J. Deng et al.: "
    "ImageNet: A Large-Scale Hierarchical Image Database. CVPR 2009."
)
_BROKEN = (NotImplementedError, zlib.error)  # what scipy raises of damaged lists besides the usual
LAYOUT = (
    "Stanford Dogs (it holds Images/, Annotation/, and train_list.mat and test_list.mat, there or in lists/; "
    "download=true fetches it)"
)


ADDRESS = "http://vision.stanford.edu/aditya86/ImageNetDogs"
# Sizes and sha256 as TensorFlow Datasets pins them (tensorflow_datasets/url_checksums/stanford_dogs.txt).
ARCHIVES = (
    Archive(
        f"{ADDRESS}/images.tar", 793_579_520,
        "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58", 793_579_520, ("Images",),
    ),
    Archive(
        f"{ADDRESS}/annotation.tar", 21_852_160,
        "662ed36f707be6b195c2fda392d8e153e83af28cedc8e2134a649f198def30fd", 21_852_160, ("Annotation",),
    ),
    Archive(
        f"{ADDRESS}/lists.tar", 481_280,
        "34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c", 481_280,
        ("train_list.mat", "test_list.mat"),
    ),
)  # fmt: skip


@dataclass
class Options(Download):
    """Stanford Dogs leaves nothing to choose: classes, split and boxes are official."""


@dataclass(frozen=True)
class _Line:
    """One row of a list: `path` below Images/, `annotation` below Annotation/, `number` from 1 as MATLAB counts."""

    path: str
    annotation: str
    number: int
    split: str


def scan(root: Path, options: Options) -> RawDataset:
    """Read and check the official lists and annotations under `root`. Labels follow the lists, keys are file stems.

    Raises UserError, naming everything found: missing or unreadable lists, images listed twice, missing or unlisted
    image files, missing, malformed or empty annotations, classes without (training) images.
    """
    root = Path(root)
    if options.wanted:
        has_lists = (root / "lists").is_dir()
        download(root, ARCHIVES[:-1] if has_lists else ARCHIVES, options.mirror)
    require(root, ["Images", "Annotation"], LAYOUT)
    lists = root if (root / "train_list.mat").exists() else root / "lists"
    problems = Problems(
        root, "Unpack the official images.tar, annotation.tar and lists.tar again, or correct these files."
    )
    lines = [line for split in ("train", "test") for line in _read_list(lists / f"{split}_list.mat", split, problems)]

    folders = _class_folders(lines, problems)
    label_of = {number: label for label, number in enumerate(folders)}
    _compare_files(root, lines, problems)
    boxes = {line.path: _read_boxes(root, line, problems) for line in lines}  # and the size they were drawn on
    keys = make_keys(sorted(boxes), stem_is_enough=True)
    note_empty_classes(tuple(folders.values()), [(label_of[line.number], line.split) for line in lines], problems)
    for folder in sorted(d.name for d in (root / "Images").iterdir() if d.is_dir() and not is_system_folder(d.name)):
        if folder not in folders.values():
            problems.add("class folder that no list names", f"Images/{folder}")
    problems.check()

    samples = tuple(
        RawSample(keys[line.path], root / "Images" / line.path, label_of[line.number], line.split, *boxes[line.path])
        for line in lines
    )
    classes = clean_names(list(folders.values()), "n[0-9]+-")
    return RawDataset("stanford_dogs", classes, samples, LICENCE, CITATION)


def _read_list(path: Path, split: str, problems: Problems) -> list[_Line]:
    """The rows of one official list: cell arrays file_list and annotation_list and a column of labels, (N, 1) each."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    if not path.is_file():
        raise UserError(printable(f"{path}: no such file; ROOT must be the folder of {LAYOUT}"))
    try:
        matrix = loadmat(path)
        files = [str(cell.item()) for cell in matrix["file_list"].ravel()]
        annotations = [str(cell.item()) for cell in matrix["annotation_list"].ravel()]
        labels = [_whole(label) for label in matrix["labels"].ravel()]
    except (MatReadError, ArithmeticError, ValueError, TypeError, AttributeError, OSError, *_BROKEN) as error:
        raise UserError(
            printable(f"{path}: not a readable MATLAB list ({error}); unpack the official lists.tar again")
        ) from error
    except KeyError as error:
        raise UserError(printable(f"{path}: holds no {error}; it must be a list of the official lists.tar")) from error
    if not len(files) == len(annotations) == len(labels):
        counts = f"{len(files)} files, {len(annotations)} annotations, {len(labels)} labels"
        raise UserError(printable(f"{path}: {counts}; unpack the official lists.tar again"))
    for file in files:
        if "/" not in file:
            problems.add("malformed line", f"{path.name} '{file}' (no class folder)")
    return [_Line(*row, split) for row in zip(files, annotations, labels, strict=True) if "/" in row[0]]


def _whole(label: float) -> int:
    """Raises ValueError or OverflowError where a label is no whole number."""
    if int(label) != label:
        raise ValueError(f"label {label}")
    return int(label)


def _class_folders(lines: list[_Line], problems: Problems) -> dict[int, str]:
    """The lists' class numbers in order -> class folder."""
    folders: dict[int, str] = {}
    numbers: dict[str, int] = {}
    for line in lines:
        folder = line.path.split("/")[0]
        if folders.setdefault(line.number, folder) != folder or numbers.setdefault(folder, line.number) != line.number:
            problems.add(
                "label that contradicts the class folder", f"{line.split}_list.mat {line.path} = {line.number}"
            )
    return dict(sorted(folders.items()))


def _compare_files(root: Path, lines: list[_Line], problems: Problems) -> None:
    there = set(list_images(root / "Images").images)
    seen: set[str] = set()
    for line in lines:
        if line.path in seen:
            problems.add("listed twice", f"{line.split}_list.mat {line.path}")
        elif line.path not in there:
            problems.add("missing image file", f"Images/{line.path}")
        seen.add(line.path)
    for path in sorted(there - seen):
        problems.add("image in neither list", f"Images/{path}")


def _read_boxes(root: Path, line: _Line, problems: Problems) -> tuple[tuple[Box, ...], dict, str, Canvas | None]:
    """What a sample says of its image: all dogs (the annotation of a breed's image marks that breed's dogs only), no
    parts, real, and the picture that the boxes were drawn on where the image is not that one."""
    where = f"Annotation/{line.annotation}"
    if line.annotation != PurePosixPath(line.path).with_suffix("").as_posix():
        problems.add("annotation of another image", f"{line.split}_list.mat {line.path} ({line.annotation})")
        return (), {}, "real", None
    try:
        file = read_voc(root / where)
        boxes = tuple(box for _, box in file.objects)
    except OSError:
        problems.add("missing annotation", where)
    except ValueError as error:
        problems.add("malformed annotation", f"{where} ({error})")
    else:
        if not boxes:
            problems.add("annotation without a dog", where)
        return boxes, {}, "real", _canvas(root / "Images" / line.path, file.size)
    return (), {}, "real", None


def _canvas(image: Path, declared: tuple[float, float] | None) -> Canvas | None:
    """None where the image is the very picture that the annotation declares, as all of the official ones should be."""
    if declared is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(image) as opened:  # its header only
                upright = opened.format != "JPEG" or opened.getexif().get(EXIF_ORIENTATION, 1) == 1
                return None if upright and opened.size == declared else Canvas(declared)
    except Exception:  # missing or damaged, which is named elsewhere; decoders raise nearly anything
        return None
