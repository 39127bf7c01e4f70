"""A pipeline that takes seconds."""

from pathlib import Path

import pytest
import yaml

BUILD = {"species": 4, "train_per_class": 20, "test_per_class": 7, "size": 64, "min_shards": 3}
TINY = {
    "model": {"name": "test_resnet", "weights": "none"}, "image": {"size": 32}, "optim": {"lr": 0.05},
    "train": {"batch": 8, "epochs": 3, "ema": 0.9, "deterministic": True, "checkpoint_minutes": 0},
}  # fmt: skip
ATTACK = {
    "images": 12, "batch": 6, "attacks": ["fgsm", "pgd"], "steps": 2, "curve": [], "checks": False,
    "corruptions": False, "weights": "${classifier}/model.safetensors",
}  # fmt: skip


def write_pipeline(folder: Path) -> None:
    """birds.yaml: shards, two classifiers and an attack; the last two side by side."""
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    stages = {
        "classifier": {"job": "classify", "config": "tiny.yaml", "minutes": 3},
        "other": {"job": "classify", "config": "tiny.yaml", "set": {"seed": 1}, "after": ["classifier"]},
        "attack": {"job": "attack", "set": ATTACK, "minutes": 1.5},
    }
    data = {"shards": "data/birds", "source": "field_guide", "build": BUILD, "workers": 0}
    (folder / "birds.yaml").write_text(yaml.safe_dump({"at_once": 2, "data": data, "stages": stages}, sort_keys=False))


def begin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of its runs, of which none is there; birds.yaml in the current folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    write_pipeline(folder)
    return folder / "runs/pipeline/birds"


def weights(home: Path) -> list[bytes]:
    return [(home / f"classify/{name}/model.safetensors").read_bytes() for name in ("classifier", "other")]
