"""Shards on a real local web server: the batches of local ones, every file fetched once, one line for what is wrong."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from file_server import FileServer, serve_files
from interruptions import finish, kill_when, steps_done
from same_run import same_end
from small_runs import small_run

from jobs.cli import main
from shards import fetch as fetching
from shards.errors import UserError
from shards.manifest import COLUMNS, MANIFEST, Manifest, read_manifest
from shards.reading.config import ImageConfig
from shards.reading.loader import Batch, Samples, train_loader
from shards.reading.reader import Reader
from shards.reading.transforms import train_transform
from shards.remote import folder_of, open_manifest


@pytest.fixture
def server(guide: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """The field guide's shards at URL/birds; what is fetched of them goes into an empty folder of this test."""
    monkeypatch.setattr(fetching, "BACKOFF", 0.0)
    monkeypatch.setenv("FGVC_CACHE", str(tmp_path / "cache"))
    shutil.copytree(guide.folder, tmp_path / "there" / "birds")
    with serve_files(tmp_path / "there") as server:
        yield server


def batches(manifest: Manifest, workers: int) -> list[Batch]:
    """Two epochs of training batches, augmented."""
    samples = Samples(manifest, train_transform(ImageConfig(color_jitter=0.2), 32), seed=3)
    return list(train_loader(manifest, manifest.split("train"), samples, seed=3, batch=8, epochs=2, workers=workers))


def test_batches_are_those_of_local_shards_and_every_file_is_fetched_once(guide: Manifest, server: FileServer) -> None:
    remote = open_manifest(f"{server.url}/birds/", "data.shards")
    assert [path for path, _ in server.asked] == [f"/birds/{MANIFEST}", f"/birds/{COLUMNS}"]
    found, wanted = batches(remote, workers=2), batches(guide, workers=0)
    assert len(found) == len(wanted) == 20
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.entries, other.entries)
    read = [shard.name for shard in guide.shards if shard.split == "train"]
    assert [server.count(name) for name in read] == [1] * len(read)
    assert [server.count(shard.name) for shard in guide.shards if shard.split == "test"] == [0]
    assert remote.fingerprint == guide.fingerprint


@pytest.mark.slow
def test_a_run_is_the_same_wherever_its_shards_are(
    guide: Manifest, server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["train.deterministic=true", "train.epochs=1"]
    at = replace(guide, folder=Path("data.shards"))
    words = small_run(at, tmp_path / "runs", "far", *more, "data.workers=2", f"data.shards={server.url}/birds")
    assert main(small_run(guide, tmp_path / "runs", "near", *more)) == 0
    assert main(words) == 0
    same_end(tmp_path / "runs/classify/near", tmp_path / "runs/classify/far", 10)
    capsys.readouterr()
    assert main([*words, f"data.shards={guide.folder}"]) == 0  # the same run: the address is no part of its identity
    assert "far: this run was done at 20" in capsys.readouterr().out
    weights = tmp_path / "runs/classify/far/model.safetensors"
    evaluate = ["evaluate", f"weights={weights}", f"runs_dir={tmp_path}", f"data.shards={server.url}/birds"]
    assert main([*evaluate, f"data.cache={tmp_path / 'elsewhere'}"]) == 0
    assert (folder_of(f"{server.url}/birds", str(tmp_path / "elsewhere")) / MANIFEST).is_file()
    result = json.loads((tmp_path / "evaluate/far-test/result.json").read_text())
    assert result["inputs"]["shards"] == guide.fingerprint


@pytest.mark.slow
def test_two_ranks_with_workers_that_are_killed_resume(
    guide: Manifest, server: FileServer, tmp_path: Path, fgvc: Callable
) -> None:
    more = ["train.deterministic=true", "train.checkpoint_minutes=0", "train.epochs=1", "--processes", "2"]
    near = small_run(guide, tmp_path / "runs", "near", *more)
    far = small_run(guide, tmp_path / "runs", "far", f"data.shards={server.url}/birds", "data.workers=1", *more)
    finish(fgvc(*near))
    kill_when(fgvc(*far), lambda: steps_done(tmp_path / "runs/classify/far") >= 4)
    finish(fgvc(*far))
    same_end(tmp_path / "runs/classify/near", tmp_path / "runs/classify/far", 10)
    assert {server.count(shard.name) for shard in guide.shards} == {1}


def test_what_was_fetched_is_used_without_the_server(
    guide: Manifest, server: FileServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"{server.url}/birds"
    first = Reader(open_manifest(url, "data.shards")).read(0)
    server.statuses = [500] * 9
    assert Reader(open_manifest(url, "data.shards")).read(0) == first == Reader(guide).read(0)
    assert "the server answers 500" in caplog.text
    assert "using the shards as they were fetched into" in caplog.text


def test_shards_that_changed_on_the_server_are_refused(server: FileServer) -> None:
    url = f"{server.url}/birds"
    folder = open_manifest(url, "data.shards").folder
    manifest = server.folder / "birds" / MANIFEST
    document = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(document | {"licence": "another"}))
    with pytest.raises(UserError, match="other shards than those fetched before; to use the new ones, delete"):
        open_manifest(url, "data.shards")
    assert open_manifest(url, "data.shards", compare=False).licence == document["licence"]
    shutil.rmtree(folder)
    assert open_manifest(url, "data.shards").licence == "another"


def test_shards_whose_manifest_was_deleted_are_fetched_again(guide: Manifest, server: FileServer) -> None:
    url = f"{server.url}/birds"
    manifest = open_manifest(url, "data.shards")
    first = Reader(manifest).read(0)
    kept = manifest.folder / guide.shards[int(guide.entries.shard[0])].name
    kept.write_bytes(bytes(kept.stat().st_size))  # of other shards, of the same size
    (manifest.folder / MANIFEST).unlink()
    assert Reader(open_manifest(url, "data.shards")).read(0) == first


def test_a_cache_that_cannot_be_written_is_read(
    guide: Manifest, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{server.url}/birds"
    first = Reader(open_manifest(url, "data.shards")).read(0)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr("shards.remote.FileLock", refuse)
    assert Reader(open_manifest(url, "data.shards")).read(0) == first


def test_a_login_is_neither_shown_nor_submitted(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = ["classify", "model.name=test_resnet", "model.weights=none", f"runs_dir={tmp_path}", "name=a"]
    login = "https://me:secret@host/birds"
    for words in (
        [*job, f"data.shards={login}", "--on", "h100", "--dry-run"],
        [*job, f"data.shards={login}", "--print-config"],
        [*job, "data.shards=x", f"synthetic.shards={login}", "--print-config"],
        [*job, "data.shards=x", "data.source=cub200", f"data.build={{mirror: '{login}'}}", "--print-config"],
        ["shards", "build", "cub200", str(tmp_path), str(tmp_path / "out"), f"mirror={login}"],
    ):
        assert main(words) == 2, words
        shown = capsys.readouterr()
        assert "secret" not in shown.out + shown.err
        assert "expected the plain address of a folder" in shown.err


def test_damage_on_the_server_is_named(guide: Manifest, server: FileServer) -> None:
    birds, reader = server.folder / "birds", Reader(open_manifest(f"{server.url}/birds", "data.shards"))
    name = guide.shards[int(guide.entries.shard[0])].name
    data = bytearray((birds / name).read_bytes())
    data[2000] ^= 1
    (birds / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{name}: wrong checksum"):
        reader.read(0)
    (birds / name).unlink()
    with pytest.raises(UserError, match=rf"{name}: not there \(404\)"):
        reader.read(0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_is_gone_is_one_line_from_a_worker_too(guide: Manifest, server: FileServer, workers: int) -> None:
    remote = open_manifest(f"{server.url}/birds", "data.shards")
    for file in (server.folder / "birds").glob("*.tar"):
        file.unlink()
    with pytest.raises(UserError) as caught:
        batches(remote, workers)
    assert re.fullmatch(r"http://\S+/birds/train-00000\d\.tar: not there \(404\); check the address", str(caught.value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"<html>please log in</html>", "no manifest of shards"),
        (b'{"entries": {"size": 1e9, "sha256": ""}}', "no manifest of shards"),
        (b'{"format": 9, "entries": []}', "another format than this version's"),
    ],
)
def test_what_is_no_manifest_is_refused_and_not_kept(server: FileServer, text: bytes, message: str) -> None:
    file = server.folder / "birds" / MANIFEST
    good = file.read_bytes()
    file.write_bytes(text)
    with pytest.raises(UserError, match=message):
        open_manifest(f"{server.url}/birds", "data.shards")
    file.write_bytes(good)
    open_manifest(f"{server.url}/birds", "data.shards")


def test_a_manifest_names_no_server(guide: Manifest, tmp_path: Path) -> None:
    shutil.copytree(guide.folder, tmp_path / "birds")
    file = tmp_path / "birds" / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | {"url": "http://127.0.0.1:9"}))
    with pytest.raises(UserError, match="damaged"):
        read_manifest(tmp_path / "birds")


def test_verify_show_and_list_take_addresses(
    guide: Manifest, server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{server.url}/birds"
    assert main(["shards", "list", url]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(guide.entries)
    assert main(["shards", "show", url, "-"]) == 0
    assert f"not fetched yet   {len(guide.shards)} shards" in capsys.readouterr().out
    (server.folder / "birds" / guide.shards[0].name).unlink()
    assert main(["shards", "verify", url]) == 1
    assert f"{guide.shards[0].name}: not there (404)" in capsys.readouterr().out
    shutil.copy(guide.folder / guide.shards[0].name, server.folder / "birds")
    assert main(["shards", "verify", url]) == 0
    assert "no problems" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        (
            "ftp://me:secret@host/birds",
            "data.shards: an address of 'ftp://'; expected a folder, or an address that begins",
        ),
        ("https://me:secret@host/birds", "data.shards: expected the plain address of a folder"),
        ("https://host/birds?token=secret", "a login belongs in ~/.netrc (https) or in AWS_* variables (s3)"),
        ("http://[::1/birds", "data.shards: not an address that can be read"),
        ("http://127.0.0.1:9/birds", "http://127.0.0.1:9/birds/manifest.json: no connection (Connection refused)"),
    ],
)
def test_mistakes_are_one_line(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], shards: str, message: str
) -> None:
    words = ["classify", "name=a", f"runs_dir={tmp_path}", "model.name=test_resnet", "model.weights=none"]
    nobody = 1 if "127.0.0.1" in shards else 2  # perhaps the next time: a Slurm job is started again
    assert main([*words, "track.wandb=disabled", f"data.shards={shards}"]) == nobody
    said = capsys.readouterr().err
    assert message in said
    assert "secret" not in said or "token" in message
    assert len(said.splitlines()) == 1
