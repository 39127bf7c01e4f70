"""Verification names what is wrong with shards, whatever was done to them."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from tiny_images import make_raw

from jobs.shards import main
from shards.building.build import build
from shards.building.config import BuildOptions
from shards.building.pack import sha256_of
from shards.errors import UserError
from shards.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from shards.verify import verify


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("valid")
    build(make_raw(folder / "raw", train=48, test=16), folder / "out", BuildOptions(workers=1))
    return folder / "out"


@pytest.fixture
def folder(valid, tmp_path) -> Path:
    shutil.copytree(valid, tmp_path / "out")
    return tmp_path / "out"


def problems(folder: Path) -> str:
    return "\n".join(verify(folder, workers=1))


def trust(folder: Path, name: str) -> Manifest:
    """Write a shard's present size and checksum into the manifest, so that only its inside is wrong."""
    manifest, path = read_manifest(folder), folder / name
    new = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    shards = tuple(dataclasses.replace(s, **new) if s.name == name else s for s in manifest.shards)
    write_manifest(dataclasses.replace(manifest, shards=shards))
    return manifest


def test_valid_shards_have_no_problems(valid, capsys):
    assert main(["verify", str(valid)]) == 0
    assert "64 images in 4 shards: no problems" in capsys.readouterr().out


def test_missing_shard(folder, capsys):
    (folder / "train-000001.tar").unlink()
    assert problems(folder) == "train-000001.tar: missing"
    assert main(["verify", str(folder)]) == 1
    assert "1 problems" in capsys.readouterr().out


def test_wrong_checksum(folder):
    path = folder / "train-000000.tar"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # in the padding: only the checksum can tell
    path.write_bytes(data)
    assert problems(folder) == "train-000000.tar: wrong sha256, its bytes were changed"


def test_truncated_tar(folder):
    path = folder / "test-000000.tar"
    path.write_bytes(path.read_bytes()[:20000])
    found = problems(folder)
    assert "test-000000.tar: 20000 bytes, the manifest says" in found
    assert "has no" in found or "not a whole tar" in found


def test_damaged_image_and_wrong_label_inside_a_trusted_shard(folder):
    entry = read_manifest(folder).entries[0]
    path = folder / read_manifest(folder).shards[0].name
    data = bytearray(path.read_bytes())
    half = entry.offset + entry.length // 2
    data[half : entry.offset + entry.length] = b"\xff\xd9" + bytes(entry.offset + entry.length - half - 2)
    path.write_bytes(data)
    trust(folder, path.name)
    assert problems(folder) == f"{path.name}: {entry.key}: image truncated"

    manifest = read_manifest(folder)
    wrong = dataclasses.replace(manifest.entries[1], label=(manifest.entries[1].label + 1) % 3)
    write_manifest(dataclasses.replace(manifest, entries=(manifest.entries[0], wrong, *manifest.entries[2:])))
    assert "its cls member says" in problems(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": 0}, "its JPEG is at"),
        ({"width": 61}, "60 x 40 pixels, the manifest says 61 x 40"),
        ({"key": "nobody"}, "nobody has no jpg, cls, json"),
        ({"split": "val"}, "differs from the manifest in split"),
        ({"shard": 9}, "shard 9, which it does not have"),
    ],
)
def test_manifest_that_does_not_fit(folder, change, message):
    manifest = read_manifest(folder)
    entries = (dataclasses.replace(manifest.entries[0], **change), *manifest.entries[1:])
    write_manifest(dataclasses.replace(manifest, entries=entries))
    assert message in problems(folder)


def test_lost_entries_are_counted(folder):
    manifest = read_manifest(folder)
    write_manifest(dataclasses.replace(manifest, entries=manifest.entries[1:]))
    assert "the manifest counts 16 samples and lists 15" in problems(folder)


def test_no_manifest_and_a_damaged_one(folder):
    (folder / MANIFEST).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        verify(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(UserError, match=r"no manifest\.json there"):
        verify(folder)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"boxes": ((1.0, 1.0, 2.0, 2.0),)}, "boxes"), ({"boxes": ()}, "boxes"),
        ({"parts": {"eye": (1.0, 2.0)}}, "parts"), ({"origin": "gan:run"}, "origin"), ({"split": "val"}, "split"),
    ],
)  # fmt: skip
def test_what_the_manifest_says_of_a_sample_is_compared_with_the_tar(folder, change, name):
    manifest = read_manifest(folder)
    first = dataclasses.replace(manifest.entries[0], **change)
    write_manifest(dataclasses.replace(manifest, entries=(first, *manifest.entries[1:])))
    shard = manifest.shards[first.shard].name
    assert problems(folder) == f"{shard}: {first.key}: its json member differs from the manifest in {name}"
