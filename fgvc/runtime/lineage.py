"""What a run made and what it was made from, as W&B artifacts named by content: equal names are the same bytes.

`shards-<fingerprint>` are shards, `weights-<sha256>` a weights file, whoever made or reads it, so that W&B's graph
joins the runs; other inputs are `<key>-<hash>`. Hashes are those of result.json, which is the record.
"""

import re
from pathlib import Path
from typing import Any

from fgvc.runtime.run_folder import RESULT, RunFolder
from shards.files import sha256_of

DIGEST = re.compile(r"[0-9a-f]{16}")
KINDS = {"shards": ("shards", "dataset"), "synthetic": ("shards", "dataset"), "boxes": ("boxes", "boxes")}
KINDS |= {"test_boxes": KINDS["boxes"]}
KINDS |= dict.fromkeys(("weights", "also", "start", "teacher", "features", "backbone"), ("weights", "model"))


def made(folder: RunFolder, name: str, inputs: dict[str, str], with_weights: bool) -> Any:
    """The artifact of a finished run: result.json, and its weights, which are read where they are, not copied first."""
    import wandb

    weights = folder.weights
    there = weights.is_file()
    title = f"weights-{sha256_of(weights)[:16]}" if there else f"result-{sha256_of(folder.path / RESULT)[:16]}"
    about = {"run": name, "inputs": inputs}
    artifact = wandb.Artifact(title, type="model" if there else "result", metadata=about)
    for file in (folder.path / RESULT, *([weights] if there and with_weights else [])):
        artifact.add_file(str(Path(file).absolute()), policy="immutable", skip_cache=True)
    return artifact


def declare(run: Any, inputs: dict[str, str]) -> None:
    """Declare what an online run read: the artifact that W&B has of that name, or else one of our own.

    Raises many errors where the server fails.
    """
    import wandb

    for artifact in used(inputs):
        try:
            run.use_artifact(f"{artifact.name}:latest")
        except (wandb.errors.Error, ValueError):  # no such artifact
            run.use_artifact(artifact)


def used(inputs: dict[str, str]) -> list[Any]:
    """An artifact for every input that has a hash; it holds that hash, and none of the input's bytes."""
    import wandb

    artifacts = []
    for key, digest in inputs.items():
        if DIGEST.fullmatch(digest):
            word, kind = KINDS.get(key.partition(".")[0], (key, "input"))  # also.1: an ensemble's second network
            artifact = wandb.Artifact(f"{word}-{digest}", type=kind)
            with artifact.new_file("hash.txt") as stream:
                stream.write(digest)
            artifacts.append(artifact)
    return artifacts
