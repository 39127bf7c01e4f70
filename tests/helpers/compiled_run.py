"""`many_runs.py` that writes how many graphs a rank compiled for each run: graphs-<name>-<rank>, beside WORDS.json."""

from pathlib import Path
from typing import Any

import many_runs
import torch

from fgvc.runtime.distributed import rank


def count(config: Any) -> None:
    stats = torch._dynamo.utils.counters["stats"]
    Path(f"graphs-{config.name}-{rank()}").write_text(str(stats["unique_graphs"]))
    stats.clear()


if __name__ == "__main__":
    many_runs.main(count)
