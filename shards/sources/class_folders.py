"""Reads what the folders of an image folder say: the class of every image, and its split where folders name one."""

from dataclasses import dataclass
from pathlib import Path

from shards.errors import UserError
from shards.sources.common import is_image, list_images
from shards.sources.problems import Problems, printable

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Tree:
    """Classes in order, and per image, by path relative to the root, its class and split (None: no split folders)."""

    classes: tuple[str, ...]
    class_of: dict[str, str]
    split_of: dict[str, str] | None


def read_tree(root: Path, boxes: Path | None, problems: Problems) -> Tree:
    """The classes are the folders of `root`, or of its train/ and val/ or test/ when these hold folders with images.

    A folder of annotations inside `root` is no class: `boxes` is passed over. Notes images outside any class folder.
    Raises UserError where the folders make no dataset: fewer than two classes, or train/ alone.
    """
    skip = boxes.resolve() if boxes else None
    folders = [name for name in _folders(root) if (root / name).resolve() != skip]
    images = {name: list_images(root / name) for name in folders}
    # A class may be called "train", among cars and buses; as a split it holds folders and has a test beside it.
    splits = [name for name in folders if name in SPLIT_FOLDERS and any("/" in path for path in images[name])]
    for path in sorted(root.iterdir()):
        if is_image(path.name) and path.is_file():
            problems.add("image outside a class folder", path.name)
    if folders == splits == ["train"]:
        raise UserError(
            printable(
                f"{root}: only train/; add test/ or val/, or take {root / 'train'} as ROOT to hold a part of it out"
            )
        )
    tree = _split_tree(root, images, splits, problems) if "train" in splits and len(splits) > 1 else None
    if tree is None:
        class_of = {f"{name}/{path}": name for name in folders for path in images[name]}
        tree = Tree(tuple(folders), class_of, None)
    if len(tree.classes) < 2:
        inner = f"; did you mean {root / folders[0]}?" if len(folders) == 1 else ""
        found = "one class folder" if tree.classes else "no class folders"
        raise UserError(printable(f"{root}: {found}; ROOT must hold one folder per class, two at least{inner}"))
    return tree


def _split_tree(root: Path, images: dict[str, list[str]], splits: list[str], problems: Problems) -> Tree:
    class_of, split_of = {}, {}
    for name, paths in images.items():
        if name not in splits:
            if paths:
                problems.add("folder with images beside the split folders", f"{name}/")
            continue
        for path in paths:
            folder, _, rest = path.partition("/")
            if not rest:
                problems.add("image outside a class folder", f"{name}/{path}")
                continue
            class_of[f"{name}/{path}"] = folder
            split_of[f"{name}/{path}"] = SPLIT_FOLDERS[name]
    classes = sorted({folder for name in splits for folder in _folders(root / name)})  # the empty ones too: reported
    return Tree(tuple(classes), class_of, split_of)


def _folders(root: Path) -> list[str]:
    return sorted(d.name for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))
