"""A probe that was stopped computes no feature twice, and ends as one that was left alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_runs import small_run

from fgvc.classification import probe
from jobs.cli import main
from shards.manifest import Manifest


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
