"""One rank of a classification run: `python compiled_run.py OUT WORDS...`; OUT-<rank> gets the number of graphs."""

import os
import sys
from pathlib import Path

import torch

from fgvc.runtime.distributed import barrier, rank
from jobs.classify import Config
from jobs.config import load
from jobs.tasks.classify import run

if __name__ == "__main__":
    run(load(Config, None, sys.argv[2:]))
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    Path(f"{sys.argv[1]}-{rank()}").write_text(str(compiled))
    barrier()
    os._exit(0)
