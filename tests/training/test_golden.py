"""Losses of the first 20 steps against committed ones: a change of the loop must not change what is learnt.

Where a change is meant to alter them: FGVC_WRITE_GOLDEN=1 pytest tests/training/test_golden.py writes new ones.
"""

import json
import os
from pathlib import Path

import pytest
from small_runs import small_run

from jobs.cli import main
from shards.manifest import Manifest

GOLDEN = Path(__file__).parent / "golden"


def compare_with_golden(job: str, run: Path) -> None:
    """Compare the losses in a run folder with tests/golden/<job>.json, within what kernels of other CPUs may change."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows]
    assert len(losses) == 20
    file = GOLDEN / f"{job}.json"
    if os.environ.get("FGVC_WRITE_GOLDEN"):
        file.write_text(json.dumps(losses, indent=1) + "\n")
    assert losses == pytest.approx(json.loads(file.read_text()), rel=1e-4)


def test_classify(guide: Manifest, tmp_path: Path) -> None:
    words = ["train.deterministic=true", "train.max_steps=20", "optim.lr=0.002", "optim.clip=1", "evaluate_test=false"]
    assert main(small_run(guide, tmp_path, "golden", *words, "train.accumulation=2")) == 0
    compare_with_golden("classify", tmp_path / "classify/golden")
