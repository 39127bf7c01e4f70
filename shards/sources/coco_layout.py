"""Finds the annotation files and images of a COCO dataset in the layouts in which people have them."""

import logging
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from shards.errors import UserError
from shards.sources.listing import describe_left_out, list_images
from shards.sources.names import Names, loose, split_in_name, split_of_folder
from shards.sources.problems import printable

LAYOUT = "a COCO data set (ROOT/annotations/*.json with images beside it, or ROOT/train/*.json, ROOT/valid/*.json)"
DEEPEST = 64  # folders of a file name that are looked at
logger = logging.getLogger(__name__)


def find_files(root: Path, annotations: str) -> dict[Path, str]:
    """Annotation file -> split, by the file's name or its folder's. Of COCO's own files only instances_*.json are read.

    "" where neither says one. Raises UserError where there are no annotation files.
    """
    if not root.is_dir():
        raise UserError(printable(f"{root}: no such folder; ROOT must be the folder of {LAYOUT}"))
    if (root / annotations).is_dir():
        files = _json_files(root / annotations)
        if not files:
            raise UserError(printable(f"{root / annotations}: no .json files"))
    else:
        folders = sorted(folder for folder in root.iterdir() if folder.is_dir() and split_of_folder(folder.name))
        files = [file for folder in folders for file in _json_files(folder)] or _json_files(root)
        if not files:
            raise UserError(printable(f"{root}: {annotations} missing; ROOT must be the folder of {LAYOUT}"))
    instances = [file for file in files if file.name.lower().startswith("instances_")]
    if instances and len(instances) < len(files):
        others = ", ".join(file.name for file in files if file not in instances)
        logger.warning(printable(f"{root}: instances_*.json are read, not {others}"))
    return {file: split_in_name(file.stem) or split_of_folder(file.parent.name) for file in instances or files}


def _json_files(folder: Path) -> list[Path]:
    files = (file for file in folder.iterdir() if file.suffix.lower() == ".json" and not file.name.startswith("."))
    return sorted(file for file in files if file.is_file())


@dataclass
class Places:
    """The images below `folder`: only these can be named, so that no file name leads elsewhere. taken: those used."""

    folder: Path
    paths: Names
    of_name: dict[str, list[str]]  # a file's mere name -> paths
    names: Names  # of `of_name`
    folders: set[str]  # names of the folders in it, as `loose` has them
    taken: set[str] = field(default_factory=set)

    def find(self, file: str, annotations: Path, split: str) -> list[str]:
        """The paths that `file` may mean: relative to the annotation file's folder or to `folder`, which folders of
        another machine may precede; or in any folder, the split's own where several have it.

        A folder in `file` that is there is meant: wren/3.jpg is never another 3.jpg. Nor is an image of another split's
        folder taken where `split` has one, unless `file` names that folder.
        """
        parts = PurePosixPath(file).parts[-DEEPEST:]
        inside = annotations.is_relative_to(self.folder)
        beside = annotations.parent.relative_to(self.folder).as_posix() if inside else "."
        for first in range(len(parts)):
            if first and self._is_meant(parts, first):
                continue
            for folder in dict.fromkeys((beside, ".")):
                found = self.paths.find(PurePosixPath(folder, *parts[first:]).as_posix())
                if found and first + 1 == len(parts) > 1:
                    found = self._of_split(found, split)
                if found:
                    return found
        same_name = [path for name in self.names.find(parts[-1]) for path in self.of_name[name]] if parts else []
        ending = loose("/".join(parts))
        ends = [path for path in same_name if loose("/".join(path.split("/")[-len(parts) :])) == ending]
        own = [path for path in ends if split in map(split_of_folder, path.split("/")[:-1])]
        exact = [path for path in own if set(path.split("/")[:-1]) & set(annotations.stem.split("_"))]
        return exact or own or self._of_split(ends, split)

    def _is_meant(self, parts: tuple[str, ...], first: int) -> bool:
        """Whether the folders before parts[first] are some of ours: of a whole path, which may have such a name far up,
        the last one alone."""
        whole = parts[0].startswith("/") or parts[0].endswith(":")
        dropped = parts[first - 1 : first] if whole else parts[:first]
        return any(loose(part) in self.folders for part in dropped)

    def _of_split(self, paths: list[str], split: str) -> list[str]:
        """`paths` without those in another split's folder, where `split` has a folder of its own."""
        if split not in map(split_of_folder, self.folders):
            return paths
        return [path for path in paths if {*map(split_of_folder, path.split("/")[:-1])} <= {"", split}]


def find_images(root: Path, images: str) -> Places:
    """The images of ROOT/`images`, or of all of ROOT where the default folder is not there. Raises UserError where
    another one is asked for and is not there."""
    folder = root / images
    if not folder.is_dir():
        if images != "images":
            raise UserError(printable(f"images={images}: no such folder in {root}"))
        folder = root
    listing = list_images(folder)
    if not listing.images:
        raise UserError(printable(f"{folder}: no images there; images= names their folder, in ROOT"))
    if listing.left_out:
        what = describe_left_out(listing.left_out)
        logger.warning(printable(f"{folder}: left out: {what}"))
    of_name: dict[str, list[str]] = defaultdict(list)
    for path in listing.images:
        of_name[path.rpartition("/")[2]].append(path)
    folders = {loose(name) for path in listing.images for name in path.split("/")[:-1]}
    return Places(folder, Names(listing.images), of_name, Names(of_name), folders)
