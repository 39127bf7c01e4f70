"""The smallest runs: the words of commands that train for seconds; shards whose boxes are missing."""

from dataclasses import replace
from pathlib import Path

from shards.manifest import Manifest, read_manifest, write_manifest


def small_run(manifest: Manifest, runs: Path, name: str, *more: str) -> list[str]:
    """The words of a classification run that takes seconds: a tiny network, 3 epochs of 10 steps."""
    return [
        "classify", f"name={name}", f"runs_dir={runs}", f"data.shards={manifest.folder}", "data.workers=0",
        "model.name=test_resnet", "model.weights=none", "image.size=32", "train.batch=8", "train.epochs=3",
        "train.ema=0.9", "train.mixup=0.2", "optim.lr=0.05", "track.wandb=disabled", *more,
    ]  # fmt: skip


def without_boxes(manifest: Manifest, folder: Path, keep: int) -> Manifest:
    """The same shards where only every `keep`-th entry has its boxes (0: none)."""
    folder.mkdir()
    for file in manifest.folder.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "manifest.json").unlink()
    entries = tuple(
        entry if keep and i % keep == 0 else replace(entry, boxes=()) for i, entry in enumerate(manifest.entries)
    )
    changed = replace(manifest, folder=folder, entries=entries)
    write_manifest(changed)
    return read_manifest(folder)
