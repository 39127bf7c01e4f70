"""A probe that was stopped computes no feature twice, and ends as one that was left alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from small_runs import small_run
from torch.utils.data import DataLoader

from fgvc.classification import probe
from fgvc.classification.evaluation import split_loader
from fgvc.models.normalised import Normalised
from jobs.cli import main
from shards.manifest import Manifest
from shards.reading.config import DataConfig, ImageConfig
from shards.reading.views import WHOLE


def test_features_are_kept_and_used_again(guide: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["train.method=probe", "train.mixup=0", "data.crop=whole+square", "evaluate_test=false", "data.folds=5"]
    alone, stopped = tmp_path / "classify/alone", tmp_path / "classify/stopped"
    assert main(small_run(guide, tmp_path, "alone", *words)) == 0  # 64 images: one chunk for each of two views

    computed: list[str] = []
    real = probe.features_of

    def stopping(*args: Any, **kwargs: Any) -> Any:
        if len(computed) == 3:
            raise KeyboardInterrupt
        computed.append(kwargs["title"])
        return real(*args, **kwargs)

    monkeypatch.setattr(probe, "CHUNK", 32)
    monkeypatch.setattr(probe, "features_of", stopping)
    assert main(small_run(guide, tmp_path, "stopped", *words)) == 130
    assert computed == ["features 1 to 32 of 64", "features 33 to 64 of 64", "features 1 to 32 of 64"]
    assert len(list((stopped / "features").iterdir())) == 3
    computed.clear()
    assert main(small_run(guide, tmp_path, "stopped", *words)) == 0
    assert computed == ["features 33 to 64 of 64"]
    one, other = (json.loads((folder / "result.json").read_text()) for folder in (alone, stopped))
    assert one["val"]["top1"] == other["val"]["top1"]
    assert not (stopped / "features").exists()  # done: nothing will need them
    [row] = (stopped / "metrics.jsonl").read_text().splitlines()
    assert json.loads(row)["val_top1"] == one["val"]["top1"]


def test_features_of_another_number_of_ranks_are_computed_again(
    guide: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = timm.create_model("test_resnet", num_classes=4).eval()
    model = Normalised(network, torch.full((1, 3, 1, 1), 0.5), torch.full((1, 3, 1, 1), 0.5), channels_last=False)
    indices = guide.split("train")[:24]

    def loader_of(chunk: Sequence[int]) -> DataLoader:
        return split_loader(guide, chunk, DataConfig(), ImageConfig(), 32, WHOLE, 8, 0)

    def stored(folder: str, chunk: int) -> list[torch.Tensor]:
        monkeypatch.setattr(probe, "CHUNK", chunk)
        cpu = torch.device("cpu")
        return list(probe.stored_features(model, network, loader_of, indices, cpu, "fp32", tmp_path / folder, "view0"))

    expected = stored("calm", 8)
    stored("moved", 16)  # as two ranks keep them
    found = stored("moved", 8)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
