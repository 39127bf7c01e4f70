"""Lists the images below a folder, and counts what is left out: system folders, hidden files, unreadable formats."""

import os
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from shards.sources.names import loose

# Kept by network drives, photo managers and operating systems beside people's files; with copies of their pictures.
SYSTEM_FOLDERS = {
    "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin",
    "system volume information", "lost+found", "macosx", "thumbnails", "thumbs", "thumbnail", "vti cnf",
}  # fmt: skip
_FORMATS = (
    ".heic .heif .hif .avif .jxl .svg .raw .dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .orf .rw2 .raf .pef .srw .x3f "
    ".3fr .fff .iiq .kdc .dcr .mrw .erf .mef .mos .rwl .webm .mp4 .m4v .mov .avi .mkv .mpg .mpeg .wmv .3gp .mts"
)
# Pillow knows these by their names, but reads them with other programs or not at all, or they hold no pictures.
_NAMED_ONLY = frozenset(
    (".h5", ".hdf", ".fits", ".fit", ".eps", ".ps", ".mpg", ".mpeg", ".bufr", ".grib", ".wmf", ".emf")
)
UNREADABLE = frozenset(_FORMATS.split()) | _NAMED_ONLY
STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"BM")
FIRST = 2  # names shown for each thing left out


@dataclass
class Listing:
    """images: sorted paths, POSIX, relative to the folder. left_out: what is not listed and why -> paths.
    unreadable: folders that could not be opened."""

    images: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    def leave_out(self, why: str, path: str) -> None:
        """Count one file that is not listed."""
        self.left_out.setdefault(why, []).append(path)


@cache
def image_extensions() -> frozenset[str]:
    """The file extensions, with the dot and in lower case, that the installed Pillow can open."""
    from PIL import Image

    known = frozenset(ext for ext, kind in Image.registered_extensions().items() if kind in Image.OPEN)
    return known - _NAMED_ONLY


def is_image(name: str) -> bool:
    """Whether a file of this name is a visible image that the installed Pillow can open."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in image_extensions()


def is_system_folder(name: str) -> bool:
    """Whether a folder of this name is hidden, or kept by a system for its own purposes."""
    return name.startswith(".") or loose(name) in SYSTEM_FOLDERS or name.lower().endswith(".lrdata")


def list_images(folder: Path, extensions: frozenset[str] | None = None) -> Listing:
    """The images below `folder` (files of other `extensions` on request); hidden and system ones are left out.

    Links are followed: people keep class folders of one dataset on several disks. Every folder is listed once, under
    its own name rather than a link's, so that links in circles end; a link to a folder above `folder` leads nowhere: it
    would put every other class into this one.
    """
    found = Listing()
    seen = _identities(Path(os.path.realpath(folder)).parents)
    folders: deque[tuple[str, str]] = deque([(str(folder), "")])
    links: deque[tuple[str, str]] = deque()
    while folders or links:
        path, prefix = folders.popleft() if folders else links.popleft()
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as stream:
                entries = sorted(stream, key=lambda entry: entry.name)
        except OSError as error:
            found.unreadable.append(f"{prefix or '.'} ({error.strerror})")
            continue
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if not _is_folder(entry):
                _add_file(found, entry, name, extensions or image_extensions())
            elif is_system_folder(entry.name):
                _count_inside(found, entry)
            else:
                (links if entry.is_symlink() else folders).append((entry.path, f"{name}/"))
    found.images.sort()
    return found


def _identities(folders: Iterable[Path]) -> set[tuple[int, int]]:
    found = set()
    for folder in folders:
        with suppress(OSError):
            status = folder.stat()
            found.add((status.st_dev, status.st_ino))
    return found


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _add_file(found: Listing, entry: os.DirEntry, name: str, extensions: frozenset[str]) -> None:
    extension = os.path.splitext(entry.name)[1].lower()
    if entry.name.startswith("."):
        if extension in extensions:
            found.leave_out("hidden files", name)
    elif not entry.is_symlink() and not entry.is_file():  # a pipe would be waited for; a dangling link is reported
        found.leave_out("special files", name)
    elif extension in extensions:
        found.images.append(name)
    elif extensions == image_extensions() and (extension in UNREADABLE or _looks_like_a_picture(entry)):
        found.leave_out(f"{extension or 'files without an extension'}", name)


def _looks_like_a_picture(entry: os.DirEntry) -> bool:
    """Whether a file of an unknown extension starts as pictures do."""
    if os.path.splitext(entry.name)[1].lower() in (".txt", ".xml", ".json", ".csv", ".md", ".db", ".ini", ".html"):
        return False
    try:
        with open(entry.path, "rb") as stream:
            start = stream.read(12)
    except OSError:
        return False
    return start.startswith(STARTS) or start[4:8] == b"ftyp" or start[:4] + start[8:] == b"RIFFWEBP"


def _count_inside(found: Listing, folder: os.DirEntry) -> None:
    """Count the pictures of a system folder by their names alone."""
    for where, _, files in os.walk(folder.path):
        for name in files:
            if os.path.splitext(name)[1].lower() in image_extensions():
                found.leave_out(f"pictures in {folder.name}", os.path.join(where, name))


def describe_left_out(left_out: dict[str, list[str]]) -> str:
    """`4 .heic (robin/1.HEIC, robin/2.HEIC, ...), 12 pictures in @eaDir`, and what to do about it."""
    parts = []
    for why, paths in left_out.items():
        names = (
            ""
            if why.startswith(("pictures in", "hidden"))
            else f" ({', '.join(paths[:FIRST])}" + (", ...)" if len(paths) > FIRST else ")")
        )
        parts.append(f"{len(paths)} {why}{names}")
    hint = (
        "; convert pictures of such formats to JPEG" if any(why.startswith((".", "files")) for why in left_out) else ""
    )
    return ", ".join(parts) + hint


def count_left_out(left_out: dict[str, list[str]]) -> dict[str, int]:
    """Why -> how many files, for the manifest."""
    return dict(Counter({why: len(paths) for why, paths in left_out.items()}))
