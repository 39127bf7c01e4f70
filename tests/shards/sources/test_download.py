"""Archives of data sets from a real local web server: fetched, unpacked aside, and refused in one line."""

import io
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from file_server import FileServer, serve_files
from PIL import Image

from jobs.classify import Config
from jobs.config import hashed, load
from jobs.shards import main
from shards import fetch as fetching
from shards.errors import UserError
from shards.files import sha256_of
from shards.sources import cub200
from shards.sources.download import UNPACKING, Archive, download


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(fetching, "BACKOFF", 0.0)
    (tmp_path / "there").mkdir()
    with serve_files(tmp_path / "there") as server:
        yield server


def birds(folder: Path) -> None:
    """Two classes of two birds in CUB's layout, with a file beside it as the official archive has one."""
    root = folder / "CUB_200_2011"
    lists: dict[str, list[str]] = {name: [] for name in cub200.LISTS}
    for number in range(1, 5):
        label = (number + 1) // 2
        name = f"{label:03d}.Wren_{label}/bird_{number}.jpg"
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((32, 32), 60 + number).save(root / "images" / name)
        lists["images.txt"].append(f"{number} {name}")
        lists["image_class_labels.txt"].append(f"{number} {label}")
        lists["train_test_split.txt"].append(f"{number} {number % 2}")
        lists["bounding_boxes.txt"].append(f"{number} 4 4 20 20")
    lists["classes.txt"] = ["1 001.Wren_1", "2 002.Wren_2"]
    for name, lines in lists.items():
        (root / name).write_text("\n".join(lines) + "\n")
    (folder / "attributes.txt").write_text("1 has_bill_shape::curved\n")


def packed(server: FileServer, made: Path, name: str = "CUB_200_2011.tgz") -> Archive:
    """The files in `made` as an archive on the server."""
    file = server.folder / name
    with tarfile.open(file, "w:gz") as tar:
        for path in sorted(made.iterdir()):
            tar.add(path, path.name)
    return described(server, file)


def described(server: FileServer, file: Path) -> Archive:
    holds = ("CUB_200_2011/images.txt", "CUB_200_2011/images")
    return Archive(f"{server.url}/{file.name}", file.stat().st_size, sha256_of(file), 1 << 20, holds)


def test_an_archive_is_fetched_unpacked_and_read_once(server: FileServer, tmp_path: Path) -> None:
    birds(tmp_path / "made")
    archive, root = packed(server, tmp_path / "made"), tmp_path / "root"
    for _ in range(2):
        download(root, [archive])
    raw = cub200.scan(root / "CUB_200_2011", cub200.Options())
    assert (len(raw.samples), raw.classes) == (4, ("Wren 1", "Wren 2"))
    assert len(server.asked) == 1
    assert {path.name for path in root.iterdir() if not path.name.startswith(".")} == {
        "CUB_200_2011", "CUB_200_2011.tgz", "attributes.txt",
    }  # fmt: skip
    shutil.rmtree(root / "CUB_200_2011")  # from the archive that is still there, or was put there by hand
    download(root, [archive])
    assert len(server.asked) == 1
    assert (root / "CUB_200_2011" / "images.txt").is_file()


def test_a_mirror_serves_the_same_bytes(server: FileServer, tmp_path: Path) -> None:
    birds(tmp_path / "made")
    archive = replace(packed(server, tmp_path / "made"), url="http://127.0.0.1:9/CUB_200_2011.tgz")
    download(tmp_path / "root", [archive], mirror=f"{server.url}/")
    assert (tmp_path / "root" / "CUB_200_2011" / "images.txt").is_file()


def test_a_kill_while_unpacking_leaves_nothing_half(server: FileServer, tmp_path: Path) -> None:
    birds(tmp_path / "made")
    for number in range(1000):
        (tmp_path / "made" / "CUB_200_2011" / f"{number}.txt").write_bytes(b"x")
    archive, root = packed(server, tmp_path / "made"), tmp_path / "root"
    code = "import sys; from pathlib import Path; from shards.sources.download import Archive, download; "
    code += f"download(Path(sys.argv[1]), [{archive!r}])"
    process = subprocess.Popen([sys.executable, "-c", code, str(root)], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 20
    while not (root / UNPACKING / "CUB_200_2011").is_dir():
        assert time.monotonic() < until
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (root / "CUB_200_2011").exists()
    download(root, [archive])
    assert len(list((root / "CUB_200_2011").glob("[0-9]*.txt"))) == 1000
    assert not (root / UNPACKING).exists()
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("../outside.txt", tarfile.REGTYPE, "leads out of the folder"),
        ("/../../outside.txt", tarfile.REGTYPE, "leads out of the folder"),
        ("CUB_200_2011/away", tarfile.SYMTYPE, "is a link or a device"),
        ("CUB_200_2011/hard", tarfile.LNKTYPE, "is a link or a device"),
        ("CUB_200_2011/pipe", tarfile.FIFOTYPE, "is a link or a device"),
    ],
)
def test_hostile_members_are_refused(server: FileServer, tmp_path: Path, name: str, kind: bytes, message: str) -> None:
    file = server.folder / "a.tar"
    with tarfile.open(file, "w") as tar:
        add(tar, "CUB_200_2011/images.txt", b"1 a.jpg\n")
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member, io.BytesIO())
    _refused(tmp_path / "root", described(server, file), message)
    assert not (tmp_path / "outside.txt").exists()


def test_larger_damaged_and_other_archives_are_refused(server: FileServer, tmp_path: Path) -> None:
    birds(tmp_path / "made")
    good, root = packed(server, tmp_path / "made"), tmp_path / "root"
    _refused(root, replace(good, unpacked=1000), "1,000 bytes it may have; not unpacked")
    _refused(root, replace(good, unpacked=1 << 60), "GB needed")
    _refused(root, replace(good, holds=("CUB_200_2011/else",)), "holds no CUB_200_2011/else")
    (root / "CUB_200_2011.tgz").write_bytes(b"by hand")
    _refused(root, good, "not the official archive (another sha256); delete it")
    (root / "CUB_200_2011.tgz").unlink()
    _refused(root, replace(good, sha256="0" * 64), "wrong checksum")
    _refused(root, replace(good, url=f"{server.url}/else.tgz"), "not there (404)")
    torn = server.folder / "torn.tgz"
    torn.write_bytes((server.folder / "CUB_200_2011.tgz").read_bytes()[:900])
    _refused(root, described(server, torn), "not a whole archive")
    (root / "CUB_200_2011").mkdir()
    with pytest.raises(UserError, match=r"is there without CUB_200_2011/images.txt; move it away"):
        download(root, [good])


@pytest.mark.parametrize("words", [["--download"], ["download=true"], []])
def test_the_command_line_takes_both_spellings(server: FileServer, tmp_path: Path, words: list[str]) -> None:
    """From a mirror, whose archive is another than the official one."""
    birds(tmp_path / "made")
    packed(server, tmp_path / "made")
    root = str(tmp_path / "root")
    for source, size in (("cub200", "1,150,585,339"), ("stanford_dogs", "793,579,520")):
        shutil.copy(server.folder / "CUB_200_2011.tgz", server.folder / "images.tar")
        with pytest.raises(UserError) as caught:
            main(["build", source, root, str(tmp_path / "out"), *words, f"mirror={server.url}"])
        assert f"{size} expected; it is another file" in str(caught.value)
    with pytest.raises(UserError, match="unknown key 'download'"):
        main(["build", "image_folder", root, str(tmp_path / "out"), "--download"])


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _refused(root: Path, archive: Archive, message: str) -> None:
    with pytest.raises(UserError) as caught:
        download(root, [archive])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (root / "CUB_200_2011").exists()
    assert not (root / UNPACKING).exists()


def test_where_raw_data_come_from_is_no_part_of_a_runs_identity() -> None:
    words = ["data.shards=x", "data.source=cub200", "data.root=raw"]
    plain, fetched, other = (
        hashed(load(Config, None, [*words, f"data.build={build}"]))
        for build in ("{classes: 5}", "{classes: 5, download: true, source.mirror: 'https://host/cub'}", "{classes: 6}")
    )
    assert plain == fetched != other
