"""Whether two run folders hold the same training: bits, history, figures."""

import json
from pathlib import Path

from safetensors.torch import load_file

TIMES = {"images_per_second", "data_wait", "mfu", "memory_mb"}  # what may differ between two equal runs


def history(run: Path) -> list[dict]:
    """The lines of metrics.jsonl without what depends on the machine's speed."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def same_end(one: Path, other: Path, steps: int) -> None:
    """Weights bit for bit, every metric of every one of `steps` steps, and the test figures."""
    left, right = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert left.keys() == right.keys()
    assert [key for key in left if not left[key].equal(right[key])] == []
    assert [row["step"] for row in history(other)] == list(range(1, steps + 1))
    assert history(one) == history(other)
    results = [json.loads((run / "result.json").read_text())["test"] for run in (one, other)]
    assert results[0] == results[1]
