"""The ranks of a run: who we are, and exchanging values, with or without a process group."""

import datetime
import os
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from shards.errors import UserError

T = TypeVar("T")
# How long a rank waits for another before it ends with an error; a cluster's profile may set it (timeout_minutes).
TIMEOUT = datetime.timedelta(minutes=float(os.environ.get("FGVC_TIMEOUT_MINUTES", "30")))


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def gather_objects(value: T) -> list[T]:
    """Every rank's value, in rank order, on every rank."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def sync_buffers(module: torch.nn.Module) -> None:
    """Give every rank rank 0's buffers (BatchNorm's statistics are each rank's own between forward passes)."""
    if dist.is_initialized():
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def sync_module(module: torch.nn.Module) -> None:
    """Give every rank rank 0's parameters and buffers (ddp does it by itself)."""
    if dist.is_initialized():
        for parameter in module.parameters():
            dist.broadcast(parameter.data, 0)
    sync_buffers(module)


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The elementwise sum of every rank's tensor, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def check_world() -> None:
    """Raise UserError when the environment promises other ranks than were started (a silent failure otherwise)."""
    promised, number = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if (promised, number) != (world_size(), rank()):
        raise UserError(
            f"WORLD_SIZE={promised} RANK={number}, but this is rank {rank()} of {world_size()}; start ranks with "
            "fgvc ... --processes N or --on"
        )


def lost_peer(error: Exception) -> str:
    """One line for an error that says that another rank is gone or answers no more; empty for any other error."""
    text = " ".join(str(error).split())
    signs = ("gloo", "Connection closed by peer", "Timed out waiting", "NCCL")
    if not dist.is_initialized() or not isinstance(error, RuntimeError) or not any(sign in text for sign in signs):
        return ""
    return (
        f"rank {rank()} of {world_size()} lost another rank, which died or did not answer within train.timeout_minutes:"
        f" see that rank's log; the same command resumes from the last checkpoint. {text[:160]}"
    )


def broadcast_object(value: T) -> T:
    """Rank 0's value on every rank."""
    return gather_objects(value)[0]
