"""A machine dealt out to commands that run side by side on it."""

import os
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """A part of this machine; empty: all of it."""

    cores: tuple[int, ...] = ()
    gpus: tuple[str, ...] = ()  # as CUDA_VISIBLE_DEVICES names them


def shares_of_machine(parts: int) -> list[Share]:
    """So many parts, of equally many cores, fewer where there are fewer cores; and of equally many GPUs, which are
    shared where there are fewer. Equal, so that a command's threads do not depend on which part is free."""
    cores = sorted(os.sched_getaffinity(0))
    parts = min(parts, len(cores))
    if parts == 1:
        return [Share()]
    visible = gpus()
    each, of_gpus = len(cores) // parts, len(visible) // parts
    shares = []
    for part in range(parts):
        own = visible[part * of_gpus : (part + 1) * of_gpus] if of_gpus else visible[part % max(1, len(visible)) :][:1]
        shares.append(Share(tuple(cores[part * each : (part + 1) * each]), tuple(own)))
    return shares


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu and gpu != "-1"]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(i) for i, _ in enumerate(line for line in listed.stdout.splitlines() if line.startswith("GPU "))]
