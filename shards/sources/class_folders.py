"""Reads what the folders of an image folder say: the class of every image, and its split where folders name one."""

import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from shards.building.pack import WORK
from shards.errors import UserError
from shards.manifest import MANIFEST
from shards.sample import is_printable
from shards.sources.listing import Listing, is_image, is_system_folder, list_images
from shards.sources.names import loose, nfc, note_ambiguous, split_of_folder
from shards.sources.problems import Problems, printable

CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Tree:
    """Classes in order, and per image, by path relative to the root, its class and split (None: no split folders).

    left_out: files that are no images of the dataset, by reason.
    """

    classes: tuple[str, ...]
    class_of: dict[str, str]
    split_of: dict[str, str] | None
    left_out: dict[str, list[str]] = field(default_factory=dict)


def read_tree(root: Path, boxes: Path | None, problems: Problems, deep: bool = False) -> Tree:
    """The classes are the folders of `root`, or of its train/ and val/ or test/ when these hold folders with images.

    A folder of annotations inside `root` is not a class: `boxes` is skipped. Notes images outside any class folder and,
    unless `deep`, class folders that hold nothing but folders. Class names are in the composed Unicode form.
    Raises UserError where the folders make no dataset: fewer than two classes, or train/ alone.
    """
    skipped = {os.path.realpath(boxes)} if boxes else set()
    folders = _folders(root, skipped)
    listings = {name: list_images(root / name) for name in folders}
    for name, listing in listings.items():
        for folder in listing.unreadable:
            problems.add("unreadable folder", f"{name}/{folder}")
    images = {name: listing.images for name, listing in listings.items()}
    for path in sorted(root.iterdir()):
        if is_image(path.name) and path.is_file():
            problems.add("image outside a class folder", path.name)
    splits = _split_folders(images)
    if not splits:
        _refuse_split_names(root, images)
    if len(splits) == 1 and len(folders) == 1 and splits[folders[0]] == "train":
        only = folders[0]
        hint = f"add test/ or val/, or take {root / only} as ROOT to hold a part of it out"
        raise UserError(printable(f"{root}: only {only}/; {hint}"))
    split_of: dict[str, str] | None = None
    if len(splits) > 1:
        classes, class_of, split_of = _split_tree(root, images, splits, problems)
    else:
        classes, class_of = sorted(map(class_name, folders)), {}
        for name in folders:
            class_of |= {f"{name}/{path}": class_name(name) for path in images[name]}
        note_ambiguous(folders, "class folders", problems)
    if not deep:
        _note_folders_of_folders(class_of, 2 if split_of is not None else 1, root, problems)
    _check_names(classes, class_of, problems)
    if len(classes) < 2:
        inner = f"; did you mean {root / folders[0]}?" if len(folders) == 1 else ""
        found = "one class folder" if classes else "no class folders"
        raise UserError(printable(f"{root}: {found}; ROOT must hold one folder per class, two at least{inner}"))
    return Tree(tuple(classes), class_of, split_of, _left_out(root, listings))


def class_name(folder: str) -> str:
    """A class as its folder says it, in the composed Unicode form and without blanks around it."""
    return nfc(folder).strip() or folder


def _split_folders(images: dict[str, list[str]]) -> dict[str, str]:
    """Folder -> split, where a train folder holds folders with images: a class may be called "train", among cars and
    buses."""
    named = {name: split_of_folder(name) for name in images if split_of_folder(name)}
    nested = {name for name in named if any("/" in path for path in images[name])}
    return named if any(named[name] == "train" for name in nested) else {}


def _refuse_split_names(root: Path, images: dict[str, list[str]]) -> None:
    """Raises UserError where folders would become classes that are splits by their names: pictures without class
    folders in test/, or val/ and test/ without train/. A class "train" among cars and buses is one."""
    named = {name: split_of_folder(name) for name in images if split_of_folder(name) and images[name]}
    if set(named.values()) <= {"train"}:
        return
    names = ", ".join(f"{name}/" for name in named)
    if any("/" in path for name in named for path in images[name]):
        hint = "splits by their names, but no train/ with class folders is beside them"
    else:
        hint = "splits by their names, but hold no class folders; sort their images into one folder per class"
    raise UserError(printable(f"{root}: {names}: {hint} (or rename them, if they are classes)"))


def _split_tree(
    root: Path, images: dict[str, list[str]], splits: dict[str, str], problems: Problems
) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """Classes, class of every image, split of every image. train/Robin and test/robin are one class, as train spells
    it; two such folders inside one split are noted."""
    spelled: dict[str, str] = {}
    for name in sorted(splits, key=lambda name: splits[name] != "train"):
        inside = _folders(root / name, set())
        note_ambiguous([f"{name}/{folder}" for folder in inside], "class folders", problems)
        for folder in inside:
            spelled.setdefault(loose(folder), class_name(folder))
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
            class_of[f"{name}/{path}"] = spelled[loose(folder)]
            split_of[f"{name}/{path}"] = splits[name]
    return sorted(set(spelled.values())), class_of, split_of  # the empty classes too: they are reported


def _note_folders_of_folders(class_of: dict[str, str], depth: int, root: Path, problems: Problems) -> None:
    """Note class folders without images of their own but with several folders of them, as one above the classes is.

    depth: folders from `root` to a class.
    """
    inside: dict[str, set[str]] = defaultdict(set)
    for path in class_of:
        parts = path.split("/")
        inside["/".join(parts[:depth])].add(parts[depth] if len(parts) > depth + 1 else "")
    for folder, names in inside.items():
        if "" not in names and len(names) > 1:
            problems.add(
                "class folder that holds only folders (take one of these as ROOT, or set deep=true)",
                f"{root / folder} ({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''})",
            )


def _check_names(classes: list[str], class_of: dict[str, str], problems: Problems) -> None:
    for name in classes:
        if not is_printable(name):
            problems.add("class name with control characters or undecodable bytes", ascii(name))
    for path in class_of:
        if CONTROL.search(path.rpartition("/")[2]):
            problems.add("file name with control characters", ascii(path))


def _left_out(root: Path, listings: dict[str, Listing]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, listing in listings.items():
        for why, paths in listing.left_out.items():
            found.setdefault(why, []).extend(f"{name}/{path}" for path in paths)
    for folder in sorted(root.iterdir()):
        if is_system_folder(folder.name) and folder.is_dir():
            inside = list_images(folder)
            if inside.images:
                found.setdefault(f"pictures in {folder.name}", []).extend(inside.images)
    return found


def _folders(root: Path, skipped: set[str]) -> list[str]:
    """The visible folders of `root`, without system folders, shards built here, and links to `root` or above it."""
    real = Path(os.path.realpath(root))
    above = {str(folder) for folder in (real, *real.parents)} | skipped
    inside = [folder for folder in root.iterdir() if folder.is_dir() and not is_system_folder(folder.name)]
    return sorted(
        folder.name for folder in inside if os.path.realpath(folder) not in above and not _holds_shards(folder)
    )


def _holds_shards(folder: Path) -> bool:
    """Whether shards lie there, finished or being built: people put them beside the classes."""
    try:
        return (folder / WORK).is_dir() or ((folder / MANIFEST).is_file() and any(folder.glob("*-000000.tar")))
    except OSError:
        return False
