"""What a checkpoint of a run holds: every network's state, and each rank's random draws."""

import copy
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from fgvc.runtime.distributed import rank, world_size
from fgvc.training import checkpoint
from fgvc.training.player import Player


def state_of(
    step: int, players: Mapping[str, Player], accelerator: Accelerator, memory: dict[str, Any] | None = None
) -> dict[str, Any]:
    """This rank's parts of checkpoint `step` (file stem -> state), copied to the CPU. All ranks call it.

    memory: plain values, the same on every rank, that come back with it.
    """
    networks = {name: player.state(keep=rank() == 0) for name, player in players.items()}
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    kind, keys, *place = np.random.get_state()
    draws: dict[str, Any] = {"torch": torch.get_rng_state(), "cuda": cuda, "python": random.getstate()}
    draws |= {"numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *place]}
    parts: dict[str, Any] = {f"rank-{rank()}": draws}
    if rank() == 0:
        scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
        parts["shared"] = {"networks": networks, "scaler": scaler, "step": step, "ranks": world_size()}
        parts["shared"]["memory"] = copy.deepcopy(memory or {})  # a thread writes it
    if accelerator.device.type == "cuda":
        torch.cuda.synchronize(accelerator.device)  # the copies are under way
    return parts


@contextmanager
def unchanged_draws() -> Iterator[None]:
    """Leave every generator of random numbers as it was before; of several GPUs, this rank's."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
        yield
    np.random.set_state(numpy_state)
    random.setstate(python_state)


def load_state(found: Path | None) -> dict[str, Any] | None:
    """What `state_of` gave for all ranks; None where there is no checkpoint."""
    if found is None:
        return None
    state = checkpoint.load(found, "shared")
    if "networks" not in state:  # written when a run had one network
        model = {"weights": state.pop("network"), "average": state.pop("ema"), "optimizer": state.pop("optimizer")}
        state["networks"] = {"model": model | {"moves": state["step"]}}
    return state


def restore_rank(found: Path, state: dict[str, Any], accelerator: Accelerator) -> None:
    """Take over the gradient scaler and, with as many ranks as then, this rank's random draws; call it last."""
    if accelerator.scaler is not None and state["scaler"]:
        accelerator.scaler.load_state_dict(state["scaler"])
    if state["ranks"] == world_size():
        draws = checkpoint.load(found, f"rank-{rank()}")
        torch.set_rng_state(draws["torch"])
        if "python" in draws:
            random.setstate(draws["python"])
            kind, keys, *place = draws["numpy"]
            np.random.set_state((kind, keys.numpy().astype(np.uint32), *place))
        if draws["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(draws["cuda"])
