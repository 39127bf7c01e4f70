"""Joining the ranks, and the strategy that a config asks for."""

import datetime
import os
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs

from fgvc.runtime.device import tune_cpu_memory
from fgvc.runtime.distributed import TIMEOUT, check_world, world_size
from fgvc.training.config import LoopConfig, OptimConfig
from fgvc.training.strategies.base import Strategy
from fgvc.training.strategies.ddp import Ddp
from fgvc.training.strategies.fsdp import FullyShard
from shards.errors import UserError


def create_strategy(accelerator: Accelerator, config: LoopConfig, optim: OptimConfig) -> Strategy:
    """The strategy a config asks for. One rank has nothing to share out: it trains as ddp does."""
    kind: type[Strategy] = Ddp
    if world_size() > 1 and config.strategy != "ddp":
        for setting, bad in (("precision", "fp16"), ("compile", True)):
            if getattr(config, setting) == bad:
                raise UserError(f"train.{setting}={str(bad).lower()} works with train.strategy=ddp only")
        if config.strategy == "fsdp":
            kind = FullyShard
        else:
            from fgvc.training.strategies.zero import Zero as kind
    return kind(accelerator, config, optim)


def create_accelerator(
    precision: str, deterministic: bool, strategy: str = "ddp", timeout_minutes: float = 0
) -> Accelerator:
    """Join the ranks that the environment announces (RANK, WORLD_SIZE, ...) or run alone.

    Raises UserError where ranks, their numbers or the strategy came out otherwise than asked for: accelerate and
    DeepSpeed fall back to one rank, or to ddp, without a word.
    """
    timeout = datetime.timedelta(minutes=timeout_minutes) if timeout_minutes else TIMEOUT
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    on_cpu = not torch.cuda.is_available()
    arguments: dict[str, Any] = {"cpu": on_cpu, "mixed_precision": {"fp32": "no"}.get(precision, precision)}
    # Without a backend, every DeepSpeed rank on a CPU is rank 0 of 1; with cpu=True, DeepSpeed is ddp.
    backend = {"backend": "gloo"} if on_cpu and not alone else {}
    if strategy.startswith("zero") and not alone:
        from fgvc.training.strategies.zero import create_plugin

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
        raise UserError(
            f"train.strategy={strategy} came out as {accelerator.distributed_type.value} on "
            f"{accelerator.num_processes} rank(s); unset the ACCELERATE_ variables of the environment"
        )
    if on_cpu:
        tune_cpu_memory()
    return accelerator
