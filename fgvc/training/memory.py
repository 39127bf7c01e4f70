"""A step that does not fit the memory ends in one line that says what would fit."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from typing import Any

import torch

from fgvc.runtime.distributed import world_size
from fgvc.training.config import LoopConfig
from shards.errors import UserError


@contextmanager
def memory_is_named(learner: Any, config: LoopConfig, micro_batches: list[Any]) -> Iterator[None]:
    """Turn "out of memory" in a step on these micro-batches into a UserError with the largest micro-batch that fits:
    tried out where the learner can `rehearse` a pass on this rank alone, else half of what did not fit."""
    try:
        yield
        return
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # Past the handler: the error's frames, and the tensors they hold, are gone.
    images = config.batch // (world_size() * config.accumulation)
    rehearse = getattr(learner, "rehearse", None)
    if rehearse is None:
        fits, how = images // 2, "half of that may fit"
    else:
        fits = largest_that_fits(lambda count: rehearse(first_of(micro_batches[0], images, count)), images // 2)
        how = f"{fits} fit" if fits else "not even one fits"
    raise UserError(_advice(config, images, fits, how))


@contextmanager
def memory_is_named_outside_steps() -> Iterator[None]:
    """Turn "out of memory" while a network is built, measured or exported into a UserError."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        where, reason = _where(), str(error).splitlines()[0]
        raise UserError(
            f"out of memory outside a training step, on {where}: {reason}; take train.precision=bf16, or a smaller "
            "image.size or model.name"
        ) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU (torch.OutOfMemoryError) or the host (a plain RuntimeError) had too little memory."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def largest_that_fits(rehearse: Callable[[int], None], most: int) -> int:
    """The first of `most`, its half, its quarter, ... images with which `rehearse` has memory enough; 0 if none."""
    gc.collect()  # what hangs on the failed pass
    count = most
    while count:
        count -= count % 2 if count > 1 else 0  # mixing pairs images
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            rehearse(count)
            return count
        except UserError:  # a single image cannot be mixed
            return 0
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        count //= 2
    return 0


def first_of(batch: Any, images: int, count: int) -> Any:
    """The first `count` of a batch's images: a dataclass of tensors and lists with an entry for each."""
    cut = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        with suppress(TypeError):  # of what has no length
            if len(value) == images:
                cut[field.name] = value[:count]
    return replace(batch, **cut)


def _advice(config: LoopConfig, images: int, fits: int, how: str) -> str:
    said = f"out of memory: {_where()} holds no micro-batch of {images} images; {how}"
    share = config.batch // world_size()
    fitting = [n for n in range(config.accumulation + 1, share + 1) if share % n == 0 and share // n <= fits]
    parts = next((n for n in fitting if share // n % 2 == 0), next(iter(fitting), 0))
    if parts:
        return f"{said}: set train.accumulation={parts} ({share // parts} images at a time), or lower train.batch"
    ways = ["a smaller image.size or model.name"]
    if config.precision == "fp32":
        ways.insert(0, "train.precision=bf16")
    if config.strategy == "ddp":
        ways.insert(0, "train.strategy=fsdp on several ranks, which share out the weights")
    return f"{said}: take {', or '.join(ways)}"


def _where() -> str:
    return "this GPU" if torch.cuda.is_available() else "this machine"
