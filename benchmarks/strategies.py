"""Memory of a rank and milliseconds a step under every strategy, against ddp, and how far their losses are apart.

    .venv/bin/python benchmarks/strategies.py                                    ViT-B/16, AdamW, EMA, 2 CPU ranks
    .venv/bin/python benchmarks/strategies.py --model vit_small_patch16_224 --precision bf16 --ranks 4

Images are small (--size 32), so that weights, gradients, optimizer state and average are what is measured, not
activations. Memory is a rank's peak, the largest of all ranks, without what it held before the network was made.
"""

import argparse
import json
import os
import subprocess
import sys
import time

STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "fsdp")


def rank_main(options: argparse.Namespace) -> None:
    """One rank: a few steps on the same made-up images; rank 0 prints what was measured."""
    import psutil
    import torch
    from timm import create_model

    from fgvc.classification.config import TrainConfig
    from fgvc.classification.objective import classification
    from fgvc.models.config import ModelConfig
    from fgvc.models.normalised import Normalised
    from fgvc.models.timm import input_statistics
    from fgvc.runtime.device import peak_memory_mb, seed_everything
    from fgvc.runtime.distributed import gather_objects, rank, sum_over_ranks
    from fgvc.training.config import OptimConfig
    from fgvc.training.learner import SupervisedLearner
    from fgvc.training.schedule import Schedule
    from fgvc.training.strategies.create import create_accelerator
    from shards.reading.loader import Batch

    train = TrainConfig(
        batch=options.batch, epochs=1, ema=0.99, precision=options.precision, strategy=options.alone, accumulation=2
    )
    optim = OptimConfig(method="adamw", lr=1e-4, head_multiplier=1, clip=1.0)
    accelerator = create_accelerator(train.precision, False, train.strategy)
    seed_everything(0, 0, False)
    before = psutil.Process().memory_info().rss / 2**20 if accelerator.device.type == "cpu" else 0.0
    network = create_model(options.model, num_classes=50, img_size=options.size)
    whole = Normalised(network, *input_statistics(network, ModelConfig()))
    schedule = Schedule(options.steps, options.steps)
    objective = classification(50, train, 0, accelerator.device)
    learner = SupervisedLearner(network, whole, objective, optim, train, schedule, accelerator)
    micro = options.batch // options.ranks // 2
    draw = torch.Generator().manual_seed(rank())

    def batch() -> Batch:
        images = torch.randint(0, 256, (micro, 3, options.size, options.size), dtype=torch.uint8, generator=draw)
        labels = torch.randint(0, 50, (micro,), generator=draw)
        return Batch(images, labels, torch.arange(micro), torch.zeros(micro, dtype=torch.int64))

    losses, times = [], []
    for _ in range(options.steps):
        began = time.perf_counter()
        loss = learner.learn([batch(), batch()])["loss"]
        losses.append(sum_over_ranks(loss).item() / options.ranks)
        times.append(time.perf_counter() - began)
    memory = max(gather_objects(peak_memory_mb(accelerator.device) - before))
    if rank() == 0:
        print(json.dumps({"memory": memory, "ms": 1e3 * sorted(times)[len(times) // 2], "losses": losses}))
    torch.distributed.barrier()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--alone", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        rank_main(options)
        return
    found = {}
    for strategy in STRATEGIES:
        words = [f"--{key}={value}" for key, value in vars(options).items() if key != "alone"]
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={options.ranks}",
             __file__, *words, f"--alone={strategy}"],
            stdout=subprocess.PIPE, text=True, check=True, env={"OMP_NUM_THREADS": "1"} | os.environ,
        )  # fmt: skip
        found[strategy] = one = json.loads(done.stdout.strip().splitlines()[-1])
        apart = max(abs(a / b - 1) for a, b in zip(one["losses"], found["ddp"]["losses"], strict=True))
        print(
            f"{strategy:6} {one['memory']:7.0f} MB a rank {one['ms']:8.0f} ms a step, losses apart {apart:.1e}",
            flush=True,
        )
    print(f"{options.model}, {options.ranks} ranks, {options.precision}, load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
