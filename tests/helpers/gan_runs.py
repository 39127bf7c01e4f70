"""Small runs of fgvc gan and fgvc synthesize, as words of the command line."""

import json
from pathlib import Path

from places import weights_file

from shards.manifest import Manifest


def gan_words(guide: Manifest, folder: Path, name: str, *more: str) -> list[str]:
    """10 steps of a tiny DCGAN at 32 px on 80 birds, measured on random features of a small network."""
    lite0 = weights_file("tf_efficientnet_lite0.safetensors")
    return [
        "gan", f"name={name}", f"runs_dir={folder}", f"data.shards={guide.folder}", "data.workers=0",
        "model.name=dcgan", "model.size=32", "model.width=8", "model.latent=8", "train.loss=softplus",
        "train.epochs=2", "train.batch=16", "train.checkpoint_minutes=0", "train.deterministic=true",
        "track.wandb=disabled", "measure.images=40", f"measure.weights={lite0}", "measure.size=32",
        "measure.pictures=1", "train.collapse_steps=0", *more,
    ]  # fmt: skip


def result_of(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())
