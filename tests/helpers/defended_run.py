"""The words of the smallest run that trains a defence."""

from pathlib import Path

from small_runs import small_run

from shards.manifest import Manifest


def defended_run(manifest: Manifest, runs: Path, name: str, method: str, *more: str) -> list[str]:
    """Two epochs of `small_run` with a defence, deterministic, with a held-out fold and no test."""
    return small_run(
        manifest, runs, name, f"defence.method={method}", "defence.check_images=16", "defence.check_steps=4",
        "defence.steps=2", "train.epochs=2", "train.deterministic=true", "data.folds=4", "evaluate_test=false", *more,
    )  # fmt: skip
