"""One rank of several classification runs, one after another in one process: `python strategy_ranks.py WORDS.json`.

A process for each run would spend most of the tests' time importing torch.
"""

import json
import os
import sys
from pathlib import Path

import torch.distributed as dist
from accelerate.state import AcceleratorState

from jobs.classify import Config
from jobs.config import load
from jobs.tasks.classify import run


def main() -> None:
    for words in json.loads(Path(sys.argv[1]).read_text()):
        for key in [key for key in os.environ if key.startswith("ACCELERATE_")]:
            del os.environ[key]  # an Accelerator with DeepSpeed leaves its choice there
        AcceleratorState._reset_state(reset_partial_state=True)
        run(load(Config, None, words[1:]))
    dist.barrier()
    os._exit(0)


if __name__ == "__main__":
    main()
