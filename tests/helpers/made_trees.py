"""Makes small raw datasets in the official layouts, of pictures a model can distinguish: a colour per class, noise."""

import colorsys
import csv
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
from PIL import Image, ImageDraw

from shards.errors import UserError
from shards.sample import RawDataset

BIRDS = ("Black_footed_Albatross", "Indigo_Bunting", "Scarlet_Tanager", "Green_Jay", "Yellow_Warbler", "Gray_Catbird")
DOGS = ("Chihuahua", "Shetland_sheepdog", "curly-coated_retriever", "Irish_setter", "dingo", "Great_Dane")
PARTS = ("beak", "left eye", "tail")

Corners = tuple[int, int, int, int]


@dataclass
class Picture:
    """A made picture and what is in it: boxes (x0, y0, x1, y1) of the animals, the first one's parts."""

    image: Image.Image
    boxes: list[Corners]
    parts: dict[str, tuple[int, int]]


def make_picture(label: int, classes: int, rng: np.random.Generator, animals: int = 1) -> Picture:
    """An animal in the class's colour on grey, 64 to 128 pixels a side, with noise all over; two stand side by side."""
    width, height = (int(side) for side in rng.integers(64, 129, size=2))
    image = Image.new("RGB", (width, height), (int(rng.integers(90, 160)),) * 3)
    draw = ImageDraw.Draw(image)
    colour = tuple(round(255 * c) for c in colorsys.hsv_to_rgb(label / classes, 0.9, 0.9))
    boxes = []
    for i in range(animals):
        x0, x1 = width * i // animals + int(rng.integers(2, 8)), width * (i + 1) // animals - int(rng.integers(2, 8))
        y0, y1 = int(rng.integers(4, 16)), height - int(rng.integers(4, 16))
        draw.ellipse((x0, y0, x1 - 1, y1 - 1), fill=colour)
        boxes.append((x0, y0, x1, y1))
    x0, y0, x1, y1 = boxes[0]
    middle = (y0 + y1) // 2
    parts = {"beak": (x0 + 3, middle), "left eye": (x0 + 9, middle - 5), "tail": (x1 - 3, middle)}
    noisy = np.asarray(image, dtype=np.int16) + rng.integers(-25, 26, size=(height, width, 3))  # (H, W, 3)
    return Picture(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), boxes, parts)


def make_cub(root: Path, classes: int = 4, per_class: int = 6, *, parts: bool = False, seed: int = 0) -> Path:
    """A tree in CUB-200-2011's layout; every third image of a class is a test image. Returns `root`."""
    rng = np.random.default_rng(seed)
    folders = [f"{label + 1:03d}.{BIRDS[label]}" for label in range(classes)]
    lists: dict[str, list[str]] = {"classes": [f"{i} {name}" for i, name in enumerate(folders, start=1)]}
    locations = []
    number = 0
    for label, folder in enumerate(folders):
        (root / "images" / folder).mkdir(parents=True)
        for i in range(per_class):
            number += 1
            name = f"{folder}/{BIRDS[label]}_{i:04d}_{1000 + number}.jpg"
            picture = make_picture(label, classes, rng)
            picture.image.save(root / "images" / name, quality=92)
            x0, y0, x1, y1 = picture.boxes[0]
            lists.setdefault("images", []).append(f"{number} {name}")
            lists.setdefault("image_class_labels", []).append(f"{number} {label + 1}")
            lists.setdefault("train_test_split", []).append(f"{number} {int(i % 3 != 2)}")
            lists.setdefault("bounding_boxes", []).append(f"{number} {x0}.0 {y0}.0 {x1 - x0}.0 {y1 - y0}.0")
            for part, (x, y) in enumerate(picture.parts.values(), start=1):
                # As in the original, a part out of sight has a line of zeros; here the first bird's tail is.
                seen = not (number == 1 and PARTS[part - 1] == "tail")
                locations.append(f"{number} {part} {x}.0 {y}.0 1" if seen else f"{number} {part} 0.0 0.0 0")
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    if parts:
        (root / "parts").mkdir()
        (root / "parts/parts.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(PARTS, start=1)))
        (root / "parts/part_locs.txt").write_text("\n".join(locations) + "\n")
    return root


def make_dogs(root: Path, classes: int = 4, per_class: int = 6, *, lists: str = ".", seed: int = 0) -> Path:
    """A tree in Stanford Dogs' layout; the first image of every class shows two dogs, every third one is a test image.

    `lists` is where the .mat files go, below `root`. Returns `root`.
    """
    rng = np.random.default_rng(seed)
    rows: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for label in range(classes):
        wordnet_id = f"n0208{5620 + 100 * label}"
        folder = f"{wordnet_id}-{DOGS[label]}"
        (root / "Images" / folder).mkdir(parents=True)
        (root / "Annotation" / folder).mkdir(parents=True)
        for i in range(per_class):
            name = f"{wordnet_id}_{10 + 7 * i}"
            picture = make_picture(label, classes, rng, animals=2 if i == 0 else 1)
            picture.image.save(root / "Images" / folder / f"{name}.jpg", quality=92)
            annotation = voc(name, DOGS[label], picture.image.size, picture.boxes)
            (root / "Annotation" / folder / name).write_text(annotation)  # the original's have no extension
            rows["test" if i % 3 == 2 else "train"].append((f"{folder}/{name}", label + 1))
    (root / lists).mkdir(exist_ok=True)
    for split, listed in rows.items():
        write_dogs_list(root / lists / f"{split}_list.mat", listed)
    return root


def write_dogs_list(path: Path, rows: list[tuple[str, int]]) -> None:
    """An official list of (annotation, label) rows: two (N, 1) cell arrays of text, an (N, 1) column of numbers."""
    from scipy.io import savemat

    files, annotations = np.empty((2, len(rows), 1), dtype=object)
    files[:, 0] = [f"{name}.jpg" for name, _ in rows]
    annotations[:, 0] = [name for name, _ in rows]
    labels = np.array([[label] for _, label in rows], dtype=np.uint8)
    savemat(path, {"file_list": files, "annotation_list": annotations, "labels": labels})


def voc(filename: str, name: str, size: tuple[int, int], boxes: list[Corners]) -> str:
    """A Pascal VOC annotation, every object of the one name."""
    objects = "".join(
        f"<object><name>{escape(name)}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"
        f"<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>\n"
        for x0, y0, x1, y1 in boxes
    )
    return (
        f"<annotation>\n<folder>made</folder><filename>{escape(filename)}</filename>\n"
        f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size><segmented>0</segmented>\n"
        f"{objects}</annotation>\n"
    )


def make_folder(
    root: Path, classes: int = 3, per_class: int = 5, *, split: bool = False, extension: str = "jpg", seed: int = 0
) -> dict[str, list[Corners]]:
    """One folder per class, below train/ and test/ for `split` (every third image is a test image).

    Returns the boxes by image path relative to `root`.
    """
    rng = np.random.default_rng(seed)
    boxes = {}
    for label in range(classes):
        for i in range(per_class):
            side = ("test/" if i % 3 == 2 else "train/") if split else ""
            name = f"{side}{BIRDS[label]}/{i}.{extension}"
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            picture = make_picture(label, classes, rng)
            picture.image.save(root / name)
            boxes[name] = picture.boxes
    return boxes


def write_csv(path: Path, header: list[str], rows: list[list]) -> Path:
    """A CSV with a header. Returns `path`."""
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def refused(scan, root: Path, options) -> str:
    """The one line with which `scan` refuses what is at `root`."""
    with pytest.raises(UserError) as caught:
        scan(root, options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def check_valid(dataset: RawDataset) -> None:
    """What holds for every raw dataset: its keys, labels, and boxes inside the images, which are JPEG files."""
    keys = [sample.key for sample in dataset.samples]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", key) for key in keys)
    assert len(set(dataset.classes)) == len(dataset.classes)
    assert {sample.label for sample in dataset.samples} == set(range(len(dataset.classes)))
    assert pickle.loads(pickle.dumps(dataset.read))(dataset.samples[0])[:2] == b"\xff\xd8"
    for sample in dataset.samples:
        width, height = Image.open(sample.path).size
        assert all(0 <= x0 < x1 <= width + 0.01 and 0 <= y0 < y1 <= height + 0.01 for x0, y0, x1, y1 in sample.boxes)
