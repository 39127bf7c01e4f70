"""The ranks of a run: who we are, and exchanging values, with or without a process group."""

import datetime
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from shards.errors import UserError

T = TypeVar("T")
BLOCK = 64 << 20  # bytes that a rank hands over at a time, so that a GPU holds no whole split's logits
# How long a rank waits for another before it ends with an error; a cluster's profile may set it (timeout_minutes).
TIMEOUT = datetime.timedelta(minutes=float(os.environ.get("FGVC_TIMEOUT_MINUTES", "30")))


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def ranks_here() -> int:
    """How many of the run's ranks are on this machine, as whoever started them says; without a word all of them."""
    said = os.environ.get("LOCAL_WORLD_SIZE", "")
    return min(int(said) if said.isdecimal() else 0, world_size()) or world_size()


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def end_group(group: Any = None) -> None:
    """Leave a process group (None: the run's own).

    Its destructor waits for gloo's threads and holds the interpreter's lock meanwhile; a thread that has yet to free
    the tensors of the last exchange needs that lock, and both would wait forever. So they are given time for it.
    """
    time.sleep(0.3)
    dist.destroy_process_group(group)


def do_first(work: Callable[[], None]) -> None:
    """Rank 0 does some work, for hours if it must, while the other ranks wait for it.

    Raises UserError on every rank where `work` does; an error that says a rank is gone (`lost_peer`) on the others when
    rank 0 dies. Waiting is not bounded by TIMEOUT: it happens in a process group of its own, whose connections break
    when a rank does, whatever the backend of the run's.
    """
    if not dist.is_initialized():
        work()
        return
    patient = _patient_group()
    problem: list[str | None] = [None]
    if rank() == 0:
        try:
            work()
        except UserError as error:
            problem = [str(error)]
    dist.broadcast_object_list(problem, 0, group=patient)
    end_group(patient)
    if problem[0] is not None:
        raise UserError(problem[0])


@contextmanager
def patiently() -> Iterator[None]:
    """Every rank does some work, for hours if it must; at the end all wait for the last one, as in `do_first`."""
    if not dist.is_initialized():
        yield
        return
    patient = _patient_group()
    yield
    dist.barrier(group=patient)
    end_group(patient)


def _patient_group() -> Any:
    """A group for waiting, whose time-out is out of reach."""
    return dist.new_group(backend="gloo", timeout=datetime.timedelta(days=30))


def gather_objects(value: T) -> list[T]:
    """Every rank's value, in rank order, on every rank."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Every rank's rows, in rank order, on every rank: (N of this rank, ...) -> (N of all, ...), on the CPU.

    A rank may have none; what its rows would look like is then the others' to say.
    """
    if not dist.is_initialized():
        return rows
    kinds = gather_objects((len(rows), tuple(rows.shape[1:]), rows.dtype))
    counts = [count for count, _, _ in kinds]
    _, shape, dtype = next((kind for kind in kinds if kind[0]), kinds[0])
    device = torch.device("cuda", torch.cuda.current_device()) if "nccl" in dist.get_backend() else torch.device("cpu")
    gathered = [torch.empty((count, *shape), dtype=dtype) for count in counts]
    step = max(1, BLOCK // max(1, math.prod(shape) * dtype.itemsize))
    for begin in range(0, max(counts), step):
        mine = rows[begin : begin + step]
        block = torch.zeros((min(step, max(counts) - begin), *shape), dtype=dtype, device=device)
        if len(mine):
            block[: len(mine)] = mine
        blocks = [torch.empty_like(block) for _ in counts]
        dist.all_gather(blocks, block)
        for whole, part in zip(gathered, blocks, strict=True):
            place = whole[begin : begin + step]
            place.copy_(part[: len(place)])
    return torch.cat(gathered)


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
    signs = ("gloo", "Connection closed", "Connection reset", "Connection was likely closed", "Broken pipe",
             "Timed out waiting", "recvValue failed", "sendBytes failed", "remote server", "NCCL")  # fmt: skip
    if not dist.is_initialized() or not isinstance(error, RuntimeError) or not any(sign in text for sign in signs):
        return ""
    return (
        f"rank {rank()} of {world_size()} lost another rank, which died or did not answer within train.timeout_minutes:"
        f" see that rank's log; the same command resumes from the last checkpoint. {text[:160]}"
    )


def broadcast_object(value: T) -> T:
    """Rank 0's value on every rank."""
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values, 0)
    return values[0]
