"""Does this working tree compute what another commit computed? Tensors, metrics, figures and identities, bit for bit.

    python benchmarks/same_bits.py 29721d2              every case; about 4 minutes on two cores
    python benchmarks/same_bits.py HEAD~1 classify      only the cases whose name begins so

Both sides build the same shards and make the same short runs, deterministic, on one thread a rank: 20 steps of
classify and of detect and a probe, on 1 and on 2 ranks, and classify under fsdp and zero2. Exit code 1 on a difference.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from shards.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[1]
TIMES = {"images_per_second", "data_wait", "mfu", "memory_mb"}  # of metrics.jsonl: what the machine decides
FIGURES = ("val", "test", "steps", "train_count", "parameters", "inputs", "boxes")  # of result.json
BUILD = ["field_guide", "-", "shards", "species=4", "train_per_class=20", "test_per_class=7", "size=64", "min_shards=3"]
EVERY = [
    "data.shards=shards",
    "data.workers=2",
    "train.deterministic=true",
    "train.max_steps=20",
    "track.wandb=disabled",
]
CLASSIFY = [
    "classify", *EVERY, "model.name=test_resnet", "model.weights=none", "image.size=32", "train.batch=8",
    "train.epochs=3", "train.ema=0.9", "train.mixup=0.2", "train.cutmix=0.5", "train.accumulation=2", "optim.lr=0.05",
    "optim.clip=1", "data.folds=2", "data.crop=square",
]  # fmt: skip
DETECT = [
    "detect", *EVERY, "model.backbone=test_efficientnet", "model.weights=none", "model.channels=16",
    "model.fc_channels=32", "model.proposals=50", "model.samples=32", "model.frozen_stages=0", "model.norm_eval=false",
    "model.class_agnostic=true", "image.size=64", "train.batch=4", "train.epochs=2", "train.ema=0.9", "optim.lr=0.02",
    "optim.head_multiplier=1",
]  # fmt: skip
VIT = ["model.name=test_vit", "image.size=64", "train.mixup=0", "train.cutmix=0", "train.accumulation=1"]
CASES = {
    "classify-1": CLASSIFY,
    "classify-2": [*CLASSIFY, "--processes", "2"],
    "probe-1": [*CLASSIFY, "train.method=probe"],
    "probe-2": [*CLASSIFY, "train.method=probe", "--processes", "2"],
    "detect-1": DETECT,
    "detect-2": [*DETECT, "--processes", "2"],
    "vit-1": [*CLASSIFY, *VIT, "optim.method=adamw", "optim.layer_decay=0.7", "optim.lr=0.001"],
    "vit-fsdp-2": [*CLASSIFY, *VIT, "optim.method=adamw", "train.strategy=fsdp", "--processes", "2"],
    "vit-zero2-2": [*CLASSIFY, *VIT, "optim.method=adamw", "train.strategy=zero2", "--processes", "2"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="a commit to compare with")
    parser.add_argument("cases", nargs="*", help="beginnings of cases' names: " + ", ".join(CASES))
    words = parser.parse_args()
    chosen = [name for name in CASES if not words.cases or name.startswith(tuple(words.cases))]
    differences = 0
    with tempfile.TemporaryDirectory() as scratch:
        old = Path(scratch) / "old"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(old), words.old], cwd=ROOT, check=True)
        try:
            sides = {"old": old, "new": ROOT}
            for side, tree in sides.items():
                (Path(scratch) / f"work-{side}").mkdir()
                _fgvc(tree, Path(scratch) / f"work-{side}", ["shards", "build", *BUILD])
            differences += _report("shards", *(_shards(Path(scratch) / f"work-{side}") for side in sides))
            for name in chosen:
                began = time.monotonic()
                found = []
                for side, tree in sides.items():
                    work = Path(scratch) / f"work-{side}"
                    _fgvc(tree, work, [*CASES[name], f"name={name}"])
                    found.append(_run(work / "runs" / CASES[name][0] / name))
                differences += _report(f"{name} ({time.monotonic() - began:.0f} s)", *found)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(old)], cwd=ROOT, check=True)
    print("equal" if not differences else f"{differences} differences")
    return 1 if differences else 0


def _fgvc(tree: Path, work: Path, words: list[str]) -> None:
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *words], cwd=work, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{tree.name}: fgvc {' '.join(words)}\n{done.stderr[-3000:]}")


def _shards(work: Path) -> dict[str, Any]:
    manifest = dict(vars(read_manifest(work / "shards")))  # of format 1 or 2
    del manifest["folder"], manifest["citation"]  # the citation names a file of the code
    manifest["entries"] = [*manifest["entries"]]
    tars = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (work / "shards").glob("*.tar")}
    return tars | {f"manifest {key}": value for key, value in manifest.items()}


def _run(folder: Path) -> dict[str, Any]:
    """All of a run that has to be equal, as name -> value or hash."""
    found: dict[str, Any] = {"identity": json.loads((folder / "identity.json").read_text())}
    found |= {f"weights {key}": _hash(value) for key, value in load_file(folder / "model.safetensors").items()}
    result = json.loads((folder / "result.json").read_text())
    found |= {f"result {key}": result[key] for key in FIGURES if key in result}
    metrics = folder / "metrics.jsonl"
    for line in metrics.read_text().splitlines() if metrics.is_file() else []:
        row = json.loads(line)
        found[f"metrics of step {row['step']}"] = {key: value for key, value in row.items() if key not in TIMES}
    for file in folder.glob("predictions_*.npz"):
        with np.load(file, allow_pickle=False) as arrays:
            found |= {f"{file.name} {key}": hashlib.sha256(arrays[key].tobytes()).hexdigest() for key in arrays}
    for file in folder.glob("boxes_*.json"):
        found[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    for file in sorted((folder / "checkpoints").glob("step-*/shared.pt"))[-1:]:
        found |= {
            f"checkpoint {key}": value for key, value in _flat(_named(torch.load(file, weights_only=True))).items()
        }
    return found


def _named(state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's state as it is named now; until 29721d2 a run had one network, at the top."""
    if "networks" in state:
        return state
    model = {"weights": state.pop("network"), "average": state.pop("ema"), "optimizer": state.pop("optimizer")}
    return state | {"networks": {"model": model}}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {key: leaf for name, one in value.items() for key, leaf in _flat(one, f"{prefix}{name}.").items()}
    return {prefix: _hash(value) if torch.is_tensor(value) else value}


def _hash(tensor: torch.Tensor) -> str:
    plain = tensor.detach().contiguous().reshape(-1)
    return hashlib.sha256(plain.view(torch.uint8).numpy().tobytes()).hexdigest() + str(tuple(tensor.shape))


def _report(name: str, old: dict[str, Any], new: dict[str, Any]) -> int:
    different = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    print(f"{name}: {len(old)} values, " + (f"{len(different)} differ: {different[:5]}" if different else "equal"))
    return len(different)


if __name__ == "__main__":
    sys.exit(main())
