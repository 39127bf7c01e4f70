"""What a job reads, and the run folder that is identified by it."""

import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fgvc.runtime.distributed import broadcast_object, do_first, rank, ranks_here
from fgvc.runtime.flops import FlopCounter
from fgvc.runtime.run_folder import RESULT, RunFolder, open_run
from jobs.config import identity, to_dict
from jobs.shards import build_from
from shards.boxes_layer import layer_hash
from shards.building.build import BuildRunning
from shards.errors import UserError
from shards.manifest import MANIFEST, Manifest, read_manifest
from shards.paths import expand, is_remote
from shards.reading.config import DataConfig
from shards.reading.views import TRUTH, eval_policy, train_policy
from shards.remote import open_manifest

log = logging.getLogger(__name__)


@contextmanager
def open_job(
    job: str, config: Any, inputs: dict[str, str], main: bool = True, parts: Mapping[str, Any] | None = None
) -> Iterator[RunFolder]:
    """The run folder of a job: its identity is every setting that can change the result, and its inputs' hashes.

    parts: as `jobs.config.identity` takes them.
    A finished run's checkpoints are deleted, unless train.checkpoint_keep_finished.

    Raises UserError as `open_run` does.
    """
    settings, defaults = identity(config, parts)
    settings |= {f"inputs.{key}": value for key, value in inputs.items()}
    with open_run(
        config.runs_dir, job, config.name, to_dict(config), settings, defaults=defaults, main=main
    ) as folder:  # fmt: skip
        yield folder
        train = getattr(config, "train", None)
        if main and train is not None and (folder.path / RESULT).is_file():  # nothing resumes a run that is done
            shutil.rmtree(folder.features, ignore_errors=True)
            if not train.checkpoint_keep_finished:
                shutil.rmtree(folder.checkpoints, ignore_errors=True)


def open_shards(config: DataConfig) -> Manifest:
    """The manifest of `data.shards`; with `data.source`, rank 0 builds missing shards while the others wait for it.

    Of several runs that need the same missing shards, one builds them and the others wait for it. Shards on a server
    are there already: what is needed of them is fetched once per node.
    Raises UserError when the folder is not set, or holds no shards and no source is named.
    """
    if not config.shards:
        raise UserError("data.shards is not set; build shards with fgvc shards build SOURCE ROOT OUT and name OUT")
    if is_remote(config.shards):
        manifest = open_manifest(config.shards, "data.shards", config.cache, compare=rank() == 0)
        if broadcast_object(manifest.fingerprint) != manifest.fingerprint:
            raise UserError(f"{manifest.folder}: holds older shards of {manifest.url} than rank 0 has; delete it")
        return manifest
    folder = expand(config.shards, "data.shards")
    if config.source and broadcast_object(not (folder / MANIFEST).is_file()):
        do_first(lambda: _build(config, folder))
    return read_manifest(folder)


def _build(config: DataConfig, folder: Path) -> None:
    root = expand(config.root, "data.root") if config.root else "-"
    waits = False
    while True:
        try:
            build_from(config.source, root, folder, config.build)
            return
        except BuildRunning:
            if not waits:
                log.warning("%s: another run is building these shards; waiting for it", folder)
            waits = True
            time.sleep(1)


def boxes_hashes(config: DataConfig) -> dict[str, str]:
    """What training and what is measured are cropped by, for a run's inputs: `truth` or a layer's hash; empty when
    nothing is cropped. Raises UserError for a file that is not there."""
    named = {"boxes": train_policy(config), "test_boxes": eval_policy(config)}
    found = {}
    for key, policy in named.items():
        if policy.layer:
            path = expand(policy.layer, f"data.{key}")
            if not path.is_file():
                raise UserError(f"data.{key}={policy.layer}: no such file; fgvc crop makes a boxes layer")
            found[key] = layer_hash(path)
        elif policy.uses_boxes:
            found[key] = TRUTH
    return found


def loader_workers(config: DataConfig) -> int:
    """Loader processes for a rank: what is asked for, or one per core that is left beside the rank, at most 8."""
    if config.workers >= 0:
        return config.workers
    # A task's cores on a cluster, else this rank's share of this machine's.
    given = os.environ.get("SLURM_CPUS_PER_TASK")
    bound = len(os.sched_getaffinity(0))
    cores = min(int(given), bound) if given and "SLURM_PROCID" in os.environ else bound // ranks_here()
    return max(0, min(8, cores - 2))


BUILD_FOR_SIZE = "choose another size, or build the network for it, such as model.kwargs='{img_size: 448}'"


def check_forward(
    network: nn.Module, name: str, *sizes: int, key: str = "image.size", advice: str = BUILD_FOR_SIZE
) -> float:  # fmt: skip
    """Raise UserError when a network does not take square images of these sides, in pixels, as the setting `key` asks.
    Returns the floating-point operations of a forward pass of one image of the last side.

    The forward pass that finds out calculates shapes only, so that a large network costs no time.
    """
    training = network.training
    network.eval()
    try:
        for size in dict.fromkeys(sizes):
            with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), FlopCounter() as counter:
                network(torch.zeros(1, 3, size, size))
        return counter.total
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(f"{key}={size}: {name} does not take it: {reason}; {advice}") from None
    finally:
        network.train(training)
