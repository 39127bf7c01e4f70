"""The machine: device and ranks through accelerate, determinism, memory allocation, and what it can do at most."""

import ctypes
import datetime
import os
import random
import time
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs

from fgvc.distributed import TIMEOUT, check_world, world_size
from shards.errors import DataError


def create_accelerator(
    precision: str, deterministic: bool, strategy: str = "ddp", timeout_minutes: float = 0
) -> Accelerator:
    """Join the ranks that the environment announces (RANK, WORLD_SIZE, ...) or run alone.

    Raises DataError where ranks, their numbers or the strategy came out otherwise than asked for: accelerate and
    DeepSpeed fall back to one rank, or to ddp, without a word.
    """
    timeout = datetime.timedelta(minutes=timeout_minutes) if timeout_minutes else TIMEOUT
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    on_cpu = not torch.cuda.is_available()
    arguments: dict[str, Any] = {"cpu": on_cpu, "mixed_precision": {"fp32": "no"}.get(precision, precision)}
    # Without a backend, every DeepSpeed rank on a CPU is rank 0 of 1; with cpu=True, DeepSpeed is ddp.
    backend = {"backend": "gloo"} if on_cpu and not alone else {}
    if strategy.startswith("zero") and not alone:
        from fgvc.zero import create_plugin

        os.environ.pop("ACCELERATE_USE_CPU", None)
        arguments = {"deepspeed_plugin": create_plugin(int(strategy[-1]))}
    arguments["kwargs_handlers"] = [
        # DDP rebuilds its buckets after the first step, which changes the order of summation; with
        # find_unused_parameters it never does, so that a resumed run adds in the same order.
        DistributedDataParallelKwargs(find_unused_parameters=deterministic),
        InitProcessGroupKwargs(timeout=timeout, **backend),
    ]
    accelerator = Accelerator(**arguments)
    check_world()
    is_zero = accelerator.distributed_type == DistributedType.DEEPSPEED
    if is_zero != ("deepspeed_plugin" in arguments) or accelerator.num_processes != world_size():
        raise DataError(
            f"train.strategy={strategy} came out as {accelerator.distributed_type.value} on "
            f"{accelerator.num_processes} rank(s); unset the ACCELERATE_ variables of the environment"
        )
    if on_cpu:
        tune_cpu_memory()
    return accelerator


def seed_everything(seed: int, rank: int, deterministic: bool) -> None:
    """Seed the generators that models draw from (dropout and the like); data has its own (shards.order)."""
    random.seed(seed + rank)
    np.random.seed((seed + rank) % 2**32)
    torch.manual_seed(seed + rank)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(deterministic)  # imports the compiler: 2 s that most runs need not wait
    torch.backends.cudnn.benchmark = not deterministic


def tune_cpu_memory() -> None:
    """Keep glibc from giving every large tensor back to the kernel, for the page faults that follow.

    They cost a CPU training step 5 % in benchmarks/step.py, and more with larger activations (docs/log.md). Does
    nothing with another C library.
    """
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)
    mallopt(m_top_pad, 2**26)


def matmul_rate(device: torch.device, precision: str) -> float:
    """FLOP/s of a large matrix product on this device at this precision: the limit that MFU refers to."""
    side = 4096 if device.type == "cuda" else 768
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    left = torch.randn(side, side, generator=torch.Generator().manual_seed(0)).to(device, dtype)

    def seconds() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(4):
            left @ left
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / 4

    return 2 * side**3 / min(seconds() for _ in range(5))


def peak_memory_mb(device: torch.device) -> float:
    """The largest memory in use so far: the GPU's, or the process's resident set without one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
