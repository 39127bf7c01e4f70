"""Two small classifiers of the session's birds, and their test images as files."""

from pathlib import Path

import pytest
from small_runs import small_run

from jobs.cli import main
from shards.manifest import Manifest
from shards.reading.reader import Reader


@pytest.fixture(scope="session")
def runs(guide: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs_dir of `whole`, a classifier of whole images, and `crops`, of two views and mirror images."""
    folder = tmp_path_factory.mktemp("runs")
    quick = ["train.epochs=1", "train.mixup=0", "train.ema=0"]
    assert main(small_run(guide, folder, "whole", *quick)) == 0
    views = ["data.crop=whole+square", "image.crop_fit=squash", "image.eval_flip=true", "evaluate_test=false"]
    assert main(small_run(guide, folder, "crops", *quick, *views)) == 0
    return folder


@pytest.fixture(scope="session")
def photos(guide: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the test images, named by their keys."""
    folder = tmp_path_factory.mktemp("photos")
    reader = Reader(guide)
    for index in guide.split("test"):
        (folder / f"{guide.entries.key(index)}.jpg").write_bytes(reader.read(index))
    return folder
