"""The machine: determinism, precision, memory allocation, and what it can do at most."""

import ctypes
import os
import random
import time

import numpy as np
import torch


def seed_everything(seed: int, rank: int, deterministic: bool) -> None:
    """Seed the generators that models draw from (dropout and the like); data has its own (shards.reading.order)."""
    seed_generators(seed + rank)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(deterministic)  # imports the compiler: 2 s that most runs need not wait
    torch.backends.cudnn.benchmark = not deterministic
    # TF32: fp32 products in tensor cores, with 10 bits of mantissa.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not deterministic


def seed_generators(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


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
    """FLOP/s of a large matrix product on this device at this precision: the limit that MFU refers to.

    On a CPU the product grows until one takes 4 ms: a size that keeps many cores busy takes seconds on one that has no
    instructions for bf16.
    """
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    best = 0.0
    for side in (4096,) if device.type == "cuda" else (256, 512, 1024, 2048):
        left = torch.randn(side, side, generator=torch.Generator().manual_seed(0)).to(device, dtype)
        seconds = min(_seconds_a_product(left) for _ in range(5))
        best = max(best, 2 * side**3 / seconds)
        if seconds > 4e-3:
            break
    return best


def _seconds_a_product(matrix: torch.Tensor) -> float:
    """Seconds of a matrix times itself: of four, one after another, on a GPU, which is asked and then waited for."""
    products = 4 if matrix.is_cuda else 1
    if matrix.is_cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(products):
        matrix @ matrix
    if matrix.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / products


def emulated_on_cpu(precision: str) -> bool:
    """Whether this machine's CPU has no instructions for a precision: every product is then put together from others,
    5 to 17 times as slowly as in fp32 (docs/platforms.md)."""
    known = {"bf16": "_is_mkldnn_bf16_supported", "fp16": "_is_mkldnn_fp16_supported"}
    if precision not in known or not torch.backends.mkldnn.is_available():
        return False
    return not getattr(torch.ops.mkldnn, known[precision])()


def peak_memory_mb(device: torch.device) -> float:
    """The largest memory in use so far: the GPU's, or the process's resident set without one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision for a forward pass; fp32 switches it off."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.bfloat16)
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")
