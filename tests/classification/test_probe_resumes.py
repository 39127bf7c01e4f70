"""A probe that was stopped computes no feature twice, and ends as one that was left alone; on two ranks as on one."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from interruptions import finish
from safetensors.torch import load_file
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


def test_two_ranks_probe_one_network(guide: Manifest, fgvc: Callable[..., Any], tmp_path: Path) -> None:
    words = ["train.method=probe", "train.mixup=0", "data.folds=4", "evaluate_test=false"]
    words += ["model.covariance=6", "image.size=64"]
    finish(fgvc(*small_run(guide, tmp_path, "two", *words), "--processes", "2"))
    assert main(small_run(guide, tmp_path, "one", *words)) == 0
    two, one = (load_file(tmp_path / "classify" / name / "model.safetensors") for name in ("two", "one"))
    assert [name for name in one if not torch.allclose(one[name], two[name], atol=1e-4)] == []
    found = [json.loads((tmp_path / "classify" / name / "result.json").read_text())["val"] for name in ("two", "one")]
    assert found[0]["nll"] == pytest.approx(found[1]["nll"], rel=1e-4)  # every rank's images by that network
