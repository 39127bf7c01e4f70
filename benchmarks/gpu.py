"""Training speed on one device: FGVC's loop against a bare loop and one in the style of timm's train.py.

    python benchmarks/gpu.py                             ResNet-50, ViT-L/16 at 224 and 448, Swin-L; under 8 minutes
    python benchmarks/gpu.py --ranks 8 --strategies ddp,fsdp      and the memory of a rank by strategy, on 8 GPUs
    python benchmarks/gpu.py --device cpu --tiny         the same code with tiny networks, to try it: under a minute

Needs torch, timm, accelerate and this checkout (PYTHONPATH is not needed); annotated_types is done without, and without
simplejpeg the loader is not measured. DeepSpeed only for --strategies zero1 to zero3. Prints a Markdown table: images a
second; MFU (of the matrix-product rate measured here, at this precision); peak memory; then per network the seconds
that a checkpoint stops training and those it is written in beside it, waits for the device in a step, and the loader's
share of the time. All loops: bf16 autocast (fp32 on a CPU that has no bf16), AdamW, channels_last, uint8 images from
pinned memory, no mixing.
"""

# ruff: noqa: E402 (what is imported needs what is set up first)
import argparse
import copy
import importlib.util
import itertools
import json
import os
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
if importlib.util.find_spec("annotated_types") is None:  # limits of settings, which nothing checks here
    limits = types.ModuleType("annotated_types")
    vars(limits).update(dict.fromkeys(("Ge", "Gt", "Le", "Lt", "Interval", "Len"), lambda *_, **__: None))
    sys.modules["annotated_types"] = limits

from fgvc.models.normalised import Normalised
from fgvc.runtime.config import TrackConfig
from fgvc.runtime.device import autocast, emulated_on_cpu, matmul_rate, peak_memory_mb
from fgvc.runtime.distributed import broadcast_object, rank, world_size
from fgvc.runtime.ranks import run_ranks
from fgvc.runtime.tracking import Tracker
from fgvc.training.checkpoint import Writer
from fgvc.training.config import LoopConfig, OptimConfig
from fgvc.training.learner import SupervisedLearner
from fgvc.training.loop import fit
from fgvc.training.optim import create_optimizer
from fgvc.training.schedule import Schedule
from fgvc.training.strategies.create import create_accelerator

CLASSES, WARM_UP = 200, 5
PRECISION = "bf16" if torch.cuda.is_available() or not emulated_on_cpu("bf16") else "fp32"  # CPUs are for its test
OPTIM = OptimConfig(method="adamw", lr=1e-4, schedule="constant", warmup_epochs=0)


@dataclass(frozen=True)
class Case:
    name: str
    model: str
    size: int
    batch: int  # images a rank and step
    compiles: bool = True


CASES = [
    Case("ResNet-50, 224", "resnet50", 224, 256),
    Case("ViT-L/16, 448", "vit_large_patch16_224", 448, 32),
    Case("ViT-L/16, 224", "vit_large_patch16_224", 224, 128),
    Case("Swin-L, 224", "swin_large_patch4_window7_224", 224, 64, compiles=False),
]
TINY = [Case("test_resnet, 64", "test_resnet", 64, 4), Case("test_vit, 64", "test_vit", 64, 4)]


@dataclass
class Images:
    """images: (N, 3, H, W) uint8; labels: (N,)."""

    images: torch.Tensor
    labels: torch.Tensor


def objective(device: torch.device) -> Callable[..., Any]:
    def loss(model: nn.Module, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        images, labels = (one.to(device, non_blocking=True) for one in (batch.images, batch.labels))
        logits = model(images).float()
        return functional.cross_entropy(logits, labels), {"top1": (logits.argmax(1) == labels).float().mean()}

    return loss


class Bench:
    """One case on one device: its network, its batch, and the time of steps in a loop."""

    def __init__(self, case: Case, device: torch.device, steps: int, folder: Path) -> None:
        self.case, self.device, self.steps, self.folder = case, device, steps, folder
        draw = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (case.batch, 3, case.size, case.size), dtype=torch.uint8, generator=draw)
        labels = torch.randint(0, CLASSES, (case.batch,), generator=draw)
        if device.type == "cuda":
            images, labels = images.pin_memory(), labels.pin_memory()
        self.batch = Images(images, labels)

    def network(self) -> nn.Module:
        torch.manual_seed(0)
        sized = {} if "resnet" in self.case.model else {"img_size": self.case.size}
        return timm.create_model(self.case.model, num_classes=CLASSES, **sized)

    def whole(self, network: nn.Module) -> nn.Module:
        statistics = (torch.full((1, 3, 1, 1), value) for value in (0.45, 0.22))
        return Normalised(network, *statistics).to(self.device).train()

    def clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def seconds(self, step: Callable[[], None]) -> float:
        """Of one of `steps` steps, after a warm-up."""
        for _ in range(WARM_UP):
            step()
        began = self.clock()
        for _ in range(self.steps):
            step()
        return (self.clock() - began) / self.steps

    def bare(self, timm_style: bool = False) -> float:
        """The loop one writes by hand; timm's reads the loss back and clips in each step, and keeps a meter."""
        network = self.network()
        whole, loss_of = self.whole(network), objective(self.device)
        optimizer = create_optimizer(network, OPTIM)
        meter = timm.utils.AverageMeter()

        def step() -> None:
            with autocast(self.device, PRECISION):
                loss, _ = loss_of(whole, self.batch)
            loss.backward()
            if timm_style:
                timm.utils.dispatch_clip_grad(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if timm_style:
                meter.update(loss.item(), self.case.batch)

        return self.seconds(step)

    def learner(self, config: LoopConfig) -> tuple[SupervisedLearner, Schedule]:
        accelerator = create_accelerator(PRECISION, False, config.strategy)
        network, schedule = self.network(), Schedule(config.max_steps, config.max_steps)
        return SupervisedLearner(
            network, self.whole(network), objective(self.device), OPTIM, config, schedule, accelerator
        ), schedule

    def ours(self, batches: Iterator[Any] | None = None, **settings: Any) -> tuple[float, SupervisedLearner]:
        """Seconds of a step of `fit`; of the steps between the warm-up and the last, which ends with a checkpoint."""
        total = WARM_UP + self.steps + 2
        config = LoopConfig(
            batch=self.case.batch * world_size(), epochs=1, max_steps=total, precision=PRECISION, checkpoint_minutes=1e9
        )
        learner, schedule = self.learner(replace(config, **settings))
        moments: list[float] = []

        def timed() -> Iterator[Any]:
            for number in range(total):
                if number in (WARM_UP + 1, total - 1):
                    moments.append(self.clock())
                yield copy.copy(self.batch) if batches is None else next(batches)

        run = Path(broadcast_object(tempfile.mkdtemp(dir=self.folder)))  # of rank 0, for all ranks
        tracker = Tracker(TrackConfig(wandb="disabled"), run, "bench", "gpu", {}, main=rank() == 0)
        fit(learner, timed(), replace(config, **settings), schedule, run, tracker)
        tracker.close()
        self.record = run / "metrics.jsonl"
        return (moments[1] - moments[0]) / self.steps, learner

    def checkpoint(self, learner: SupervisedLearner) -> str:
        """How long one stops training, and how long it is written."""
        writer, best = Writer(self.folder / "checkpoints", 2), (1e9, 0.0)
        for step in (1, 2):  # the first time memory is pinned for it
            began = self.clock()
            writer.begin(step, learner.state())
            stalled = time.perf_counter() - began
            writer.finish()
            best = min(best, (stalled, time.perf_counter() - began))
        size = sum(file.stat().st_size for file in (self.folder / "checkpoints/step-00000002").iterdir())
        return f"checkpoint of {size / 1e9:.2f} GB: stops training {best[0]:.2f} s, written after {best[1]:.2f} s"

    def waits(self, learner: SupervisedLearner) -> str:
        """How often a step waits for the device (torch warns of it)."""
        if self.device.type != "cuda":
            return "waits in a step: only a GPU has any"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            learner.learn([copy.copy(self.batch)])
            torch.cuda.set_sync_debug_mode("default")
        return f"waits in a step: {sum('synchroniz' in str(one.message) for one in caught)}"

    def loading(self, tiny: bool) -> str:
        """The loader's share of the time, with JPEGs of the field guide at this size, cropped and flipped."""
        if importlib.util.find_spec("simplejpeg") is None:
            return "loader: not measured without simplejpeg"
        from jobs.shards import build_from
        from shards.manifest import read_manifest
        from shards.reading.config import ImageConfig
        from shards.reading.loader import Samples, train_loader
        from shards.reading.transforms import train_transform

        shards = self.folder / "shards"
        if not shards.exists():
            few = ["train_per_class=4", "test_per_class=4", "size=64"] if tiny else ["train_per_class=64", "size=512"]
            build_from("field_guide", "-", shards, ["species=4", *few])
        manifest = read_manifest(shards)
        samples = Samples(manifest, train_transform(ImageConfig(), self.case.size))
        workers = 0 if tiny else max(1, len(os.sched_getaffinity(0)) - 2)
        indices = list(itertools.islice(itertools.cycle(manifest.split("train")), 4 * self.case.batch))
        batches = train_loader(
            manifest, indices, samples, seed=0, batch=self.case.batch, epochs=1000, workers=workers
        )  # fmt: skip
        seconds, _ = self.ours(batches)
        wait = json.loads(self.record.read_text().splitlines()[-1])["data_wait"]
        return f"with a loader of {workers} workers: {self.case.batch / seconds:.1f} images/s, waits {wait:.0%}"


def measure(case: Case, options: argparse.Namespace, left: Callable[[], float]) -> None:
    device, steps = torch.device(options.device), 3 if options.tiny else options.steps
    with tempfile.TemporaryDirectory() as folder:
        bench, learners = Bench(case, device, steps, Path(folder)), []

        def ours(compile: bool) -> float:
            seconds, learner = bench.ours(compile=compile)
            learners.append(learner)
            return seconds

        rows = {"bare": bench.bare, "timm's style": lambda: bench.bare(timm_style=True), "FGVC": lambda: ours(False)}
        if case.compiles and not options.no_compile:
            rows["FGVC, compiled"] = lambda: ours(True)
        rate, found = matmul_rate(device, PRECISION), dict[str, tuple[float, float]]()
        for name, run in rows.items():
            if left() < 0:
                print(f"| {case.name} | {name} | no time left | | | |", flush=True)
                continue
            learners.clear()
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            found[name] = run(), peak_memory_mb(device)
            if learners:
                flops = learners[0].flops
        for name, (seconds, memory) in found.items():
            print(
                f"| {case.name}, batch {case.batch} | {name} | {case.batch / seconds:.1f} | {seconds * 1e3:.1f} | "
                f"{flops / seconds / rate:.1%} | {memory / 1024:.1f} |", flush=True,
            )  # fmt: skip
        if learners and left() > 0:
            said = [bench.waits(learners[0]), bench.checkpoint(learners[0])]
            learners.clear()
            print(f"{case.name}: {'; '.join([*said, bench.loading(options.tiny)])}", file=sys.stderr, flush=True)


def by_strategy(options: argparse.Namespace, cases: list[Case]) -> None:
    """Called in every rank of --ranks: a rank's memory and speed under --strategy."""
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            device = torch.device(options.device, int(os.environ["LOCAL_RANK"]) if options.device == "cuda" else None)
            bench = Bench(case, device, 3 if options.tiny else options.steps, Path(folder))
            seconds, _ = bench.ours(strategy=options.strategy)
            if rank() == 0:
                print(
                    f"| {case.name}, {world_size()} x {case.batch} | {options.strategy} | "
                    f"{case.batch * world_size() / seconds:.1f} | {seconds * 1e3:.1f} | | "
                    f"{peak_memory_mb(device) / 1024:.1f} |", flush=True,
                )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="tiny networks, three steps")
    parser.add_argument("--only", default="", help="networks whose name begins so")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=8.0, help="nothing is begun after so long")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--strategies", default="ddp,fsdp")
    parser.add_argument("--strategy", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    began = time.monotonic()
    cases = [case for case in (TINY if options.tiny else CASES) if case.name.startswith(options.only)]
    if options.tiny:
        os.environ.setdefault("FGVC_COMPILE_BACKEND", "eager")  # inductor's minute on a CPU shows nothing more
    if options.strategy:
        by_strategy(options, cases)
        return 0
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, timm {timm.__version__}, {PRECISION}\n")
    print("| network | loop | images/s | ms a step | MFU | GB |\n|---|---|---|---|---|---|", flush=True)
    for case in cases:
        measure(case, options, lambda: options.minutes * 60 - (time.monotonic() - began))
    codes = [
        run_ranks([sys.executable, __file__, *sys.argv[1:], f"--strategy={strategy}"], options.ranks)
        for strategy in options.strategies.split(",") if options.ranks > 1
    ]  # fmt: skip
    return max(codes, default=0)


if __name__ == "__main__":
    sys.exit(main())
