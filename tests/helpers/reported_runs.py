"""The smallest runs of every job that fgvc report shows, on birds whose classes have hostile names.

    cd EMPTY_FOLDER; FGVC_WEIGHTS=... python ROOT/tests/helpers/reported_runs.py

makes them anew and keeps their text in tests/reporting/runs/, without what belongs to a machine. `recorded` gives them
to a test, with pictures.
"""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

from gan_runs import gan_words
from PIL import Image
from places import ROOT, weights_file
from small_runs import small_run

from jobs.cli import main
from jobs.shards import build_from
from shards.manifest import Manifest, read_manifest, write_manifest

RECORDED = ROOT / "tests/reporting/runs"
TEXT = ("result.json", "config.yaml", "metrics.jsonl", "starts.json", "explanations.jsonl")
PICTURES = {  # run -> what it leaves, of which small stand-ins are drawn
    "classify/ours": ["confused_pairs.png"],
    "classify/old": ["confused_pairs.png"],
    "explain/why": ["classes.png", "confused.png", "overlays/test_000_00000.png", "contrasts/test_002_00002.png"],
    "attack/worst": ["flip_matrix.png", "perturbed_images.png"],
    "detect/found": ["best.png", "worst.png", "missed.png"],
    "crop/cut": ["boxes.png", "crops.png"],
    "gan/made": ["grid-00001.png", "grid-00002.png", "grid.png", "nearest.png", "interpolations.png"],
    "synthesize/kept": ["sheet.png"],
    "compare/versus": ["comparison.png"],
}
HOSTILE = ("</script><script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "=1+1", "[31mred $x$ {{7*7}}")


def hostile(manifest: Manifest, folder: Path) -> Manifest:
    """The same four species by other names."""
    folder.mkdir()
    for file in manifest.folder.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "manifest.json").unlink()
    write_manifest(replace(manifest, folder=folder, classes=HOSTILE, entries=tuple(manifest.entries)))
    return read_manifest(folder)


def measured(job: str, manifest: Manifest, runs: Path, *more: str) -> list[str]:
    """Words of a job that measures the first classifier."""
    return [
        job, f"runs_dir={runs}", f"weights={runs}/classify/ours/model.safetensors", f"data.shards={manifest.folder}",
        "data.workers=0", "track.wandb=disabled", *more,
    ]  # fmt: skip


def commands(manifest: Manifest, runs: Path) -> dict[str, list[str]]:
    """What is run, by the key that it has in a report."""
    folds = ["data.folds=4", "data.fold=0"]
    origin = [
        "image.fit=pad", "image.eval_fit=pad", "image.flip=0", "optim.lr=0.001", "optim.head_multiplier=1",
        "train.label_smoothing=0",
    ]  # fmt: skip
    rows = [{"config": f"{runs}/configs/origin/old.yaml"}, {"config": f"{runs}/configs/ours.yaml", "label": HOSTILE[1]}]
    for row, settings in zip(rows, (origin, ["optim.lr=0.05"]), strict=True):
        file = Path(row["config"])
        file.parent.mkdir(parents=True, exist_ok=True)
        words = [word for word in small_run(manifest, runs, "x")[1:] if not word.startswith(("name=", "runs_dir="))]
        nested: dict = {}
        for key, _, value in (word.partition("=") for word in [*words, *settings, "train.epochs=1"]):
            section, _, name = key.rpartition(".")
            nested.setdefault(section, {})[name] = value
        file.write_text("\n".join(
            f"{section}:\n" + "\n".join(f"  {name}: {value}" for name, value in values.items())
            for section, values in nested.items()
        ))  # fmt: skip
    comparison = runs / "configs/versus.yaml"
    comparison.write_text(json.dumps({"rows": rows, "folds": 2, "use_folds": 1}))
    lite0 = weights_file("tf_efficientnet_lite0.safetensors")
    detector = [
        "model.architecture=rtmdet", "model.backbone=test_efficientnet", "model.weights=none", "model.channels=16",
        "model.frozen_stages=0", "model.norm_eval=false", "model.class_agnostic=true",
    ]  # fmt: skip
    return {
        "classify/ours": small_run(manifest, runs, "ours", "image.size=64", *folds),
        "classify/old": small_run(manifest, runs, "old", *folds, *origin),
        "evaluate/again": [*measured("evaluate", manifest, runs)[:-1], "name=again"],
        "explain/why": measured(
            "explain", manifest, runs, "name=why", "methods=[cam]", "images=8", "slow_images=2", "sanity_images=2",
            "birds=0", "contrasts=2",
        ),
        "attack/worst": measured(
            "attack", manifest, runs, "name=worst", "attacks=[fgsm,pgd]", "steps=2", "images=12", "epsilon=8/255",
            "check_images=4", "check_queries=5",
        ),
        "detect/found": [
            "detect", "name=found", f"runs_dir={runs}", f"data.shards={manifest.folder}", "data.workers=0", *detector,
            "image.size=64", "data.limit=16", "train.batch=4", "train.epochs=2", "optim.lr=0.01", *folds,
            "track.wandb=disabled",
        ],
        "crop/cut": [
            "crop", "name=cut", f"runs_dir={runs}", f"detector={runs}/detect/found/model.safetensors",
            f"data.shards={manifest.folder}", "data.workers=0", "data.limit=16", f"layer={runs}/boxes.jsonl",
            "track.wandb=disabled", "min_score=0",
        ],
        "gan/made": gan_words(manifest, runs, "made", "measure.every=1"),
        "synthesize/kept": [
            "synthesize", "name=kept", f"runs_dir={runs}", f"weights={runs}/gan/made/model.safetensors",
            f"data.shards={manifest.folder}", "data.workers=0", f"out={runs}/synthetic", "per_class=4", "copies=true",
            f"measure.weights={lite0}", "measure.size=32", "measure.batch=8",
        ],
        "compare/versus": ["compare", str(comparison), "name=versus", f"runs_dir={runs}"],
    }  # fmt: skip


def record(shards: Path, runs: Path, out: Path) -> None:
    """Make everything and keep its text in `out`."""
    for key, words in commands(read_manifest(shards), runs).items():
        print(key, flush=True)
        if main(words):
            raise SystemExit(f"{key}: failed")
        for name in TEXT:
            file = runs / key / name
            if file.is_file():
                (out / key).mkdir(parents=True, exist_ok=True)
                (out / key / name).write_text(re.sub(r'"host": "[^"]*"', '"host": "node1"', file.read_text()))


def recorded(runs: Path) -> Path:
    """A copy of the recorded runs in the folder `runs`, with small pictures under the names of the real ones."""
    shutil.copytree(RECORDED, runs, dirs_exist_ok=True)
    for at, (key, names) in enumerate(PICTURES.items()):
        for number, name in enumerate(names):
            file = runs / key / name
            file.parent.mkdir(exist_ok=True)
            Image.new("RGB", (60 + number, 40), (40 * at % 256, 90, 160)).save(file)
    return runs


if __name__ == "__main__":
    build_from("field_guide", "-", "guide", ["species=4", "train_per_class=20", "test_per_class=7", "size=64"])
    record(hostile(read_manifest(Path("guide")), Path("birds")).folder, Path("runs"), RECORDED)
