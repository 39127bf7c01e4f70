"""What ranks do together, for tests: `python rank_exchange.py KIND`, started by ranks.start_ranks; writes rank-N.json.

rows     tensors of other lengths on every rank are gathered
slow     rank 0 builds shards for longer than collectives may take
fails    its source is no data set
dies     rank 0 is killed while it builds
"""

import datetime
import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

import jobs.inputs
from fgvc.runtime import distributed
from jobs.shards import build_from
from shards.errors import UserError
from shards.reading.config import DataConfig

TIMEOUT, SLOW = 10, 14  # seconds: of a collective, of the build
SMALL = {"species": 2, "train_per_class": 4, "test_per_class": 2, "size": 32, "workers": 1}


def rows(rank: int) -> dict:
    """Of 0, 1 or 5 rows a rank, of more than one block, of none anywhere; their dtype and shape come through."""
    distributed.BLOCK = 100  # a few rows of 3 float32 at a time
    found = {}
    for name, counts in {"some": (5, 1), "first none": (0, 5), "last none": (40, 0), "none": (0, 0)}.items():
        whole = torch.arange(sum(counts) * 3, dtype=torch.float32).reshape(-1, 3)
        mine = whole[: counts[0]] if rank == 0 else whole[counts[0] :]
        mine = mine if len(mine) else torch.zeros(0, 1)
        found[name] = bool(torch.equal(distributed.gather_rows(mine), whole if sum(counts) else torch.zeros(0, 1)))
    labels = distributed.gather_rows(torch.tensor([2**62, rank], dtype=torch.int64))
    found["int64"] = labels.tolist() == [2**62, 0, 2**62, 1]
    return found | {"object": distributed.broadcast_object(f"of rank {rank}")}


def build(kind: str) -> dict:
    def slowly(source, root, folder, settings):
        if kind == "dies":
            os._exit(9)
        time.sleep(SLOW)
        return build_from(source, root, folder, settings)

    jobs.inputs.build_from = slowly
    source = "field_guide" if kind != "fails" else "no_such_source"
    began = time.monotonic()
    try:
        manifest = jobs.inputs.open_shards(DataConfig(shards="made", source=source, build=SMALL))
        found: dict = {"images": len(manifest.entries)}
    except UserError as error:
        found = {"error": str(error)}
    except RuntimeError as error:
        found = {"lost": distributed.lost_peer(error)}
    return found | {"seconds": time.monotonic() - began}


if __name__ == "__main__":
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=TIMEOUT))
    rank = dist.get_rank()
    answer = rows(rank) if sys.argv[1] == "rows" else build(sys.argv[1])
    Path(f"rank-{rank}.json").write_text(json.dumps(answer))
    if "lost" in answer:
        os._exit(0)  # nobody is there to end the group with
    dist.barrier()
    distributed.end_group()  # as a job does (jobs/job.py): an interpreter that ends under gloo's threads may abort
