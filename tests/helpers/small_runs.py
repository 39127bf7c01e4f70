"""The smallest runs: the words of commands that train for seconds."""

from pathlib import Path

from shards.manifest import Manifest


def small_run(manifest: Manifest, runs: Path, name: str, *more: str) -> list[str]:
    """The words of a classification run that takes seconds: a tiny network, 3 epochs of 10 steps."""
    return [
        "classify", f"name={name}", f"runs_dir={runs}", f"data.shards={manifest.folder}", "data.workers=0",
        "model.name=test_resnet", "model.weights=none", "image.size=32", "train.batch=8", "train.epochs=3",
        "train.ema=0.9", "train.mixup=0.2", "optim.lr=0.05", "track.wandb=disabled", *more,
    ]  # fmt: skip
