"""One rank of several runs, `fgvc WORDS` each, one after another in one process: `python many_runs.py WORDS.json`.

A process for each run would spend most of the tests' time importing torch.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from accelerate.state import AcceleratorState

from jobs.config import load_job
from jobs.registry import task_module


def main(after: Callable[[Any], None] | None = None) -> None:
    """after: called with each run's config when it is done."""
    for job, *words in json.loads(Path(sys.argv[1]).read_text()):
        for key in [key for key in os.environ if key.startswith("ACCELERATE_")]:
            del os.environ[key]  # an Accelerator with DeepSpeed leaves its choice there
        AcceleratorState._reset_state(reset_partial_state=True)
        config = load_job(job, None, words)
        task_module(job).run(config)
        if after is not None:
            after(config)
    dist.barrier()
    os._exit(0)


if __name__ == "__main__":
    main()
