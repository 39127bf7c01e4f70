"""Shards in a bucket, on moto's server; without s3fs one line says what is missing."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from shards.errors import UserError
from shards.manifest import Manifest
from shards.reading.config import ImageConfig
from shards.reading.loader import Samples, train_loader
from shards.reading.reader import Reader
from shards.reading.transforms import train_transform
from shards.remote import open_manifest

MISSING = [name for name in ("s3fs", "boto3", "moto", "flask", "flask_cors") if not importlib.util.find_spec(name)]
with_s3 = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (pip install '.[s3-test]')")


@pytest.fixture(scope="module")  # s3fs keeps what it has connected to
def bucket(guide: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the field guide's shards in a bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_DEFAULT_REGION": "us-east-1", "FGVC_CACHE": str(tmp_path_factory.mktemp("cache")),
        }.items():  # fmt: skip
            patch.setenv(key, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="birds")
        for file in guide.folder.iterdir():
            client.upload_file(str(file), "birds", f"small/{file.name}")
        yield "s3://birds/small"
    server.stop()


@with_s3
def test_batches_from_a_bucket_are_those_of_local_shards(guide: Manifest, bucket: str, tmp_path: Path) -> None:
    def batches(manifest: Manifest, workers: int) -> list:
        samples = Samples(manifest, train_transform(ImageConfig(), 32), seed=3)
        indices = manifest.split("train")
        return list(train_loader(manifest, indices, samples, seed=3, batch=8, epochs=1, workers=workers))

    remote = open_manifest(bucket, "data.shards")
    for one, other in zip(batches(remote, 2), batches(guide, 0), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.entries, other.entries)
    name = guide.shards[0].name
    data = (guide.folder / name).read_bytes()
    (tmp_path / "again").mkdir()
    half = open_manifest(bucket, "data.shards", str(tmp_path / "again"))
    (half.folder / f"{name}.part").write_bytes(data[: len(data) // 2])  # taken up from there
    assert Reader(half).read(0) == Reader(guide).read(0)


@with_s3
@pytest.mark.parametrize("where", ["s3://nowhere/small", "s3://birds/large"])
def test_a_missing_bucket_or_path_is_one_line(bucket: str, where: str) -> None:
    with pytest.raises(UserError, match=r"not there; check the bucket and the path") as caught:
        open_manifest(where, "data.shards")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif("s3fs" not in MISSING, reason="s3fs is installed")
def test_without_s3fs_one_line_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the package s3fs is missing; pip install s3fs"):
        open_manifest("s3://birds/small", "data.shards", str(tmp_path))
