"""Official archives of data sets: fetched into a folder, compared with what they must be, and unpacked there."""

import errno
import shutil
import sys
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock
from tqdm import tqdm

from shards.errors import UserError
from shards.fetch import check_space, fetch
from shards.files import sha256_of, sync_folder
from shards.options import option
from shards.paths import address
from shards.sources.problems import printable

MEMBERS = 100_000  # files and folders of an archive, at most
UNPACKING = ".unpacking"
DAMAGED = (tarfile.TarError, EOFError, zlib.error)


@dataclass(frozen=True)
class Archive:
    """A tar file that `url` serves: `size` in bytes, `sha256`; unpacked it takes `unpacked` bytes at most. `holds`:
    paths in it by which it is known to be unpacked."""

    url: str
    size: int
    sha256: str
    unpacked: int
    holds: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


@dataclass
class Download:
    """Settings of a source whose archives have an official address."""

    download: bool = option(False, "fetch the official archives into ROOT and unpack them there, unless that is done")
    mirror: str = option("", "download from this address of a folder with the same archives, such as https://HOST/cub")

    @property
    def wanted(self) -> bool:
        return self.download or bool(self.mirror)


def download(root: Path, archives: Sequence[Archive], mirror: str = "") -> None:
    """Fetch what `root` does not hold yet and unpack it there; the archives stay, and may be put there by hand.

    mirror: address of a folder that holds the same archives. Raises UserError in one line: as `fetch` does, for too
    little space, for something in the way, for an archive that leaves its folder or is larger than it may be.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".download.lock"):
            missing = [archive for archive in archives if not _is_there(root, archive)]
            if missing:
                check_space(root, sum(archive.unpacked + _still_to_come(root, archive) for archive in missing))
            for archive in missing:
                file = root / archive.name
                if file.is_file():
                    _compare(file, archive)
                else:
                    base = address(mirror, "mirror") if mirror else archive.url.rsplit("/", 1)[0]
                    fetch(f"{base}/{archive.name}", file, archive.size, archive.sha256, show=True)
                unpack(file, root, archive)
    except OSError as error:
        raise UserError(f"{root}: cannot be written ({error.strerror or error}); choose another ROOT") from None


def _is_there(root: Path, archive: Archive) -> bool:
    """Raises UserError where a folder is in the way of what would be unpacked."""
    lacking = [name for name in archive.holds if not (root / name).exists()]
    if lacking and (tops := [top for top in _tops(archive) if (root / top).is_dir()]):
        raise UserError(f"{root / tops[0]}: is there without {lacking[0]}; move it away, and it is downloaded")
    return not lacking


def _tops(archive: Archive) -> list[str]:
    return list(dict.fromkeys(PurePosixPath(name).parts[0] for name in archive.holds))


def _still_to_come(root: Path, archive: Archive) -> int:
    """Bytes of an archive that are to be fetched."""
    here = [file.stat().st_size for end in ("", ".part") if (file := root / f"{archive.name}{end}").is_file()]
    return max(0, archive.size - max(here, default=0))


def _compare(file: Path, archive: Archive) -> None:
    if sha256_of(file) != archive.sha256:
        raise UserError(f"{file}: not the official archive (another sha256); delete it, and it is downloaded")


def unpack(file: Path, root: Path, archive: Archive) -> None:
    """Unpack a tar file into `root`: aside first, then what it holds is put in its place.

    Raises UserError, leaving nothing, for members that lead out of the folder, links and devices, more bytes or members
    than the archive may have, and for damaged archives; OSError where `root` cannot be written.
    """
    aside = root / UNPACKING
    shutil.rmtree(aside, ignore_errors=True)  # of a kill
    aside.mkdir()
    try:
        _unpack_aside(file, aside, archive)
        if lacking := [name for name in archive.holds if not (aside / name).exists()]:
            raise UserError(f"{file}: holds no {lacking[0]}; delete it and download it again")
        tops = _tops(archive)
        for path in sorted(aside.iterdir(), key=lambda path: path.name in tops):  # last what it is known by
            if path.name in tops or not (root / path.name).exists():
                path.replace(root / path.name)
        sync_folder(root)
    except DAMAGED as error:
        raise UserError(printable(f"{file}: not a whole archive ({error}); delete it and download it again")) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{root}: no space left to unpack {file.name}; free some and start again") from None
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _unpack_aside(file: Path, aside: Path, archive: Archive) -> None:
    count = size = 0
    interval = 0.5 if sys.stderr.isatty() else 15
    with (
        file.open("rb") as stream,
        tarfile.open(fileobj=stream, mode="r|*") as tar,
        tqdm(
            total=file.stat().st_size, desc=f"unpack {file.name}", unit="B", unit_scale=True, delay=1, leave=False,
            mininterval=interval, file=sys.stderr,
        ) as bar,
    ):  # fmt: skip
        for member in tar:
            count, size = count + 1, size + member.size
            if count > MEMBERS or size > archive.unpacked:
                raise UserError(
                    f"{file}: more than the {MEMBERS:,} members or {archive.unpacked:,} bytes it may have; not unpacked"
                )
            if not (member.isfile() or member.isdir()):
                raise UserError(printable(f"{file}: '{member.name}' is a link or a device; not unpacked"))
            try:
                tar.extract(member, aside, filter="data")
            except tarfile.FilterError:
                raise UserError(printable(f"{file}: '{member.name}' leads out of the folder; not unpacked")) from None
            bar.update(stream.tell() - bar.n)
