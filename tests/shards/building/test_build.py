"""Builds: valid shards, one-line errors before anything is final, and the same bytes whatever happened on the way."""

import dataclasses
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import webdataset
from filelock import FileLock
from PIL import Image
from places import HELPERS
from tiny_images import CLASSES, encoded, make_raw, picture

from shards.building.build import LOCK, WORK, build
from shards.building.config import BuildOptions
from shards.errors import UserError
from shards.manifest import COLUMNS, MANIFEST, read_manifest
from shards.sample import RawDataset, RawSample
from shards.verify import verify

HERE = BuildOptions(workers=1)  # in this process: starting others costs seconds


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def change(raw: RawDataset, position: int, **values) -> RawDataset:
    samples = list(raw.samples)
    samples[position] = dataclasses.replace(samples[position], **values)
    return dataclasses.replace(raw, samples=tuple(samples))


@pytest.fixture
def raw(tmp_path) -> RawDataset:
    return make_raw(tmp_path / "raw")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[RawDataset, Path]:
    folder = tmp_path_factory.mktemp("built")
    raw = make_raw(folder / "raw")
    build(raw, folder / "out", HERE)
    return raw, folder / "out"


def test_shards_hold_every_sample_with_its_bytes(built):
    raw, out = built
    manifest = read_manifest(out)
    assert manifest.counts == {"train": 96, "test": 48}
    assert (manifest.classes, manifest.licence, manifest.notes) == (CLASSES, "CC0-1.0", {})
    assert [shard.count for shard in manifest.shards if shard.split == "train"] == [16] * 6  # not 8 shards of 12
    assert {path.name for path in out.iterdir()} == {shard.name for shard in manifest.shards} | {MANIFEST, COLUMNS}
    samples = {sample.key: sample for sample in raw.samples}
    for entry in manifest.entries:
        sample = samples.pop(entry.key)
        with (out / manifest.shards[entry.shard].name).open("rb") as stream:
            stream.seek(entry.offset)
            assert stream.read(entry.length) == sample.path.read_bytes()
        assert (entry.label, entry.split, entry.boxes) == (sample.label, sample.split, sample.boxes)
        assert (entry.width, entry.height, entry.parts["eye"]) == (60, 40, (20.0, 10.5))
    assert not samples
    assert len({entry.label for entry in manifest.entries if entry.shard == 0}) == 3  # every shard mixes classes


def test_plain_webdataset_reads_the_shards(built):
    raw, out = built
    urls = [str(path) for path in sorted(out.glob("train-*.tar"))]
    pipeline = webdataset.WebDataset(urls, shardshuffle=False)
    expected = {sample.key: sample for sample in raw.samples if sample.split == "train"}
    for sample in pipeline:
        known = expected.pop(sample["__key__"])
        assert sample["jpg"] == known.path.read_bytes()
        about = json.loads(sample["json"])
        expected_about = {"boxes": [[5, 4, 50, 36]], "parts": {"eye": [20.0, 10.5]}, "origin": "real", "split": "train"}
        assert about == expected_about | {"class": CLASSES[known.label]}
    assert not expected
    decoded = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("jpg", "cls"))
    entries = [entry for entry in read_manifest(out).entries if entry.split == "train"]
    assert [label for _, label in decoded] == [entry.label for entry in entries]
    first = next(sample for sample in raw.samples if sample.key == entries[0].key)
    assert decoded[0][0].tobytes() == Image.open(first.path).convert("RGB").tobytes()


def test_the_same_build_again_is_there_already(built, capsys):
    raw, out = built
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    manifest = build(raw, out, BuildOptions(workers=3))  # workers do not change the result
    assert manifest == read_manifest(out)
    assert "already built" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}


def test_another_plan_in_the_same_folder_is_refused(built):
    raw, out = built
    with pytest.raises(UserError, match=r"shrink=0 there, shrink=20 asked; seed=0 there, seed=1 asked; build into"):
        build(raw, out, BuildOptions(shrink=20, seed=1, workers=1))
    with pytest.raises(UserError, match="144 images there, 143 asked"):
        build(dataclasses.replace(raw, samples=raw.samples[1:]), out, HERE)
    with pytest.raises(UserError, match="the sample list"):
        build(change(raw, 0, boxes=()), out, HERE)
    with pytest.raises(UserError, match="source tiny there, other asked"):
        build(dataclasses.replace(raw, source="other"), out, HERE)


def test_processes_write_the_same_bytes_as_one(built, tmp_path):
    raw, out = built
    build(raw, tmp_path / "out", BuildOptions(workers=2))
    assert contents(tmp_path / "out") == contents(out)


def test_options(raw, tmp_path):
    manifest = build(raw, tmp_path / "out", BuildOptions(shrink=20, classes=2, min_shards=1, workers=1))
    assert manifest.classes == CLASSES[:2]
    assert manifest.counts == {"train": 64, "test": 32}
    assert len(manifest.shards) == 2
    assert manifest.notes == {"shrunk": 96}
    assert {(entry.width, entry.height) for entry in manifest.entries} == {(30, 20)}
    assert manifest.entries[0].boxes == ((2.5, 2.0, 25.0, 18.0),)
    assert manifest.entries[0].parts["eye"] == (10.0, 5.25)
    assert verify(tmp_path / "out", workers=1) == []


def test_odd_images_are_converted_and_counted(raw, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    raw.samples[0].path.write_bytes(encoded(picture(0, mode="CMYK")))
    raw.samples[1].path.write_bytes(encoded(picture(1), exif=exif))
    raw.samples[2].path.write_bytes(encoded(picture(2), "PNG"))
    raw = change(change(raw, 1, boxes=((0.0, 50.0, 40.0, 60.0),)), 3, boxes=((-3.0, 0.0, 10.0, 10.0),))
    manifest = build(raw, tmp_path / "out", HERE)
    assert manifest.notes == {
        "boxes clipped": 1,
        "re-encoded: CMYK": 1,
        "re-encoded: EXIF rotation": 1,
        "re-encoded: PNG": 1,
    }
    turned = next(entry for entry in manifest.entries if entry.key == "bird_1")
    assert (turned.width, turned.height, turned.boxes) == (40, 60, ((0.0, 50.0, 40.0, 60.0),))
    assert verify(tmp_path / "out", workers=1) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"key": "bird_1"}, r"tiny: duplicate key: bird_1 \(2 times\)"),
        ({"key": "bird.1"}, r"tiny: key that is not .*: 'bird.1'"),
        ({"label": 3}, r"tiny: unknown label: bird_0 \(3\)"),
        ({"split": "dev"}, r"tiny: unknown split: bird_0 \(dev\)"),
        ({"boxes": ((5.0, 5.0, 5.0, 9.0),)}, r"tiny: empty or endless box: bird_0 \(5.0, 5.0, 5.0, 9.0\)"),
        ({"path": Path("nowhere/bird.jpg")}, r"tiny: missing file: nowhere/bird.jpg"),
        ({"boxes": ((60.0, 5.0, 64.0, 9.0),)}, r"1 of 144 images cannot be used: .*bird 0.jpg \(box .* lies outside"),
    ],
)
def test_invalid_datasets_are_refused_and_nothing_becomes_final(raw, tmp_path, values, message):
    with pytest.raises(UserError, match=message):
        build(change(raw, 0, **values), tmp_path / "out", HERE)
    assert not (tmp_path / "out" / MANIFEST).exists()
    assert not list((tmp_path / "out").glob("*.tar"))


def test_a_class_without_training_images_is_refused(raw, tmp_path):
    tests = tuple(dataclasses.replace(s, split="test") if s.label == 2 else s for s in raw.samples)
    with pytest.raises(UserError, match="class without training images: wren"):
        build(dataclasses.replace(raw, samples=tests), tmp_path / "out", HERE)
    assert not (tmp_path / "out").exists()


def test_all_broken_images_are_named_and_the_rest_is_not_read_twice(raw, tmp_path):
    names = []
    for position in (0, 50, 143):
        path = raw.samples[position].path
        names.append(path.name)
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="3 of 144 images cannot be used") as caught:
        build(raw, tmp_path / "out", HERE)
    assert all(name in str(caught.value) for name in names)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {WORK, LOCK}
    finished = len(list((tmp_path / "out" / WORK).glob("*.tar")))
    assert finished >= 6

    make_raw(tmp_path / "repaired")
    for position in (0, 50, 143):
        raw.samples[position].path.write_bytes((tmp_path / "repaired" / f"bird {position}.jpg").read_bytes())
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / WORK).glob("*.tar")}
    build(raw, tmp_path / "out", HERE)
    assert kept.items() <= {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}.items()
    assert verify(tmp_path / "out", workers=1) == []


def test_a_few_broken_images_may_be_left_out_and_are_named(raw, tmp_path, capsys):
    names = []
    for position in (0, 50, 143):
        path = raw.samples[position].path
        names.append(f"{raw.classes[raw.samples[position].label]}/{path.name}")
        path.write_bytes(path.read_bytes()[:300])
    out, few = tmp_path / "out", dataclasses.replace(HERE, broken=2)
    for _ in range(2):  # the finished shards of the first start still know theirs
        with pytest.raises(
            UserError, match=r"3 of 144 images cannot be used: .* \(broken=N leaves out up to N; it is 2\)"
        ):
            build(raw, out, few)
    manifest = build(raw, out, dataclasses.replace(HERE, broken=3))
    assert len(manifest.entries) == 141
    notes = [note for note in manifest.notes if note.startswith("left out: ")]
    assert sorted(note.removeprefix("left out: ").partition(" (")[0] for note in notes) == sorted(names)
    assert str(tmp_path) not in str(manifest.notes)
    assert all(name in capsys.readouterr().err for name in names[:1])
    assert verify(out, workers=1) == []
    with pytest.raises(UserError, match="holds other shards"):
        build(raw, out, HERE)


def test_sigkill_then_the_same_command_gives_the_same_bytes(built, tmp_path):
    raw, out = built
    again, source = tmp_path / "out", raw.samples[0].path.parent
    script = HELPERS / "tiny_images.py"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(script.parents[2]), str(script.parent)])}
    process = subprocess.Popen([sys.executable, script, source, again], env=environment, stderr=subprocess.PIPE)
    work = again / WORK
    while len(list(work.glob("*.json"))) < 3 or not list(work.glob("*.tmp")):
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not psutil.wait_procs(children, timeout=5)[1]  # no orphan keeps writing
    kept = {path.name for path in work.glob("*.tar")}
    assert 3 <= len(kept) < 9
    first = sorted(kept)[0]
    (work / first).replace(again / first)  # as if killed while moving the finished shards to their place
    build(raw, again, HERE)
    assert contents(again) == contents(out)


def test_what_another_plan_left_unfinished_is_removed(raw, tmp_path):
    raw.samples[0].path.write_bytes(b"broken")
    out = tmp_path / "out"
    with pytest.raises(UserError, match="cannot be used"):
        build(raw, out, BuildOptions(shrink=10, workers=1))
    (out / WORK / "train-000000.tar.123.tmp").write_bytes(b"half")
    fewer = dataclasses.replace(raw, samples=raw.samples[3:])
    build(fewer, out, HERE)
    assert verify(out, workers=1) == []
    assert not (out / WORK).exists()


def test_a_second_build_at_the_same_time_is_refused(raw, tmp_path):
    out = tmp_path / "out"
    (out / WORK).mkdir(parents=True)
    with FileLock(out / LOCK), pytest.raises(UserError, match="another build is running in this folder"):
        build(raw, out, HERE)
    build(raw, out, HERE)


def test_a_folder_with_other_files_is_left_alone(raw, tmp_path):
    with pytest.raises(UserError, match=r"holds other files \(bird 0.jpg.*choose a new or empty folder"):
        build(raw, tmp_path / "raw", HERE)
    with pytest.raises(UserError, match="is a file"):
        build(raw, raw.samples[0].path, HERE)


def test_full_disk(raw, tmp_path):
    out = tmp_path / "disk"
    out.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", out], capture_output=True).returncode
    ):
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        with pytest.raises(UserError, match=r"the disk is full: about [1-9]\d* more bytes are needed, \d+ are free"):
            build(raw, out / "shards", HERE)
        assert not list(out.rglob("*.tmp"))
        assert not (out / "shards" / MANIFEST).exists()
        kept = len(list((out / "shards" / WORK).glob("*.tar")))
        assert kept >= 1
        subprocess.run(["mount", "-o", "remount,size=4m", out], check=True)
        build(raw, out / "shards", HERE)
        assert verify(out / "shards", workers=1) == []
    finally:
        subprocess.run(["umount", out], check=True)


def rendered(sample: RawSample, size: int) -> bytes:
    return encoded(picture(int(sample.key), (size, size)))


def test_rendered_images_are_told_apart_by_their_pixels(tmp_path):
    from functools import partial

    samples = tuple(RawSample(str(number), None, 0, "train") for number in range(20))
    raw = RawDataset("drawn", ("one",), samples, read=partial(rendered, size=30))
    build(raw, tmp_path / "out", HERE)
    with pytest.raises(UserError, match="the pixels of the rendered images"):
        build(dataclasses.replace(raw, read=partial(rendered, size=31)), tmp_path / "out", HERE)


@pytest.mark.skipif(not os.environ.get("FGVC_REAL_DATA"), reason="FGVC_REAL_DATA is not set")
def test_real_birds(tmp_path, capsys):
    from jobs.shards import build_from, main

    real, out = Path(os.environ["FGVC_REAL_DATA"]) / "cub50", tmp_path / "out"
    manifest = build_from("cub200", real, out, {"classes": 5})
    assert len(manifest.classes) == 5
    assert manifest.counts["train"] > 100
    samples = {path.stem: path for path in real.glob("images/*/*.jpg")}
    for entry in random.Random(0).sample(manifest.entries, 20):
        with (out / manifest.shards[entry.shard].name).open("rb") as stream:
            stream.seek(entry.offset)
            data = stream.read(entry.length)
        assert data == samples[entry.key].read_bytes()
        assert Image.open(io.BytesIO(data)).size == (entry.width, entry.height)
    assert main(["verify", str(out)]) == 0
    assert "no problems" in capsys.readouterr().out
