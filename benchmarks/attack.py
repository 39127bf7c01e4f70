"""Images a second under attack: `fgvc attack`'s evaluation against a bare loop over the same attack.

    .venv/bin/python benchmarks/attack.py                      resnet10t, 64 px, MI-FGSM, 200 birds drawn here
    .venv/bin/python benchmarks/attack.py --repeats 7 --steps 20

Ours reads shards, keeps every chunk on disk and records what became of each image. The bare loop has the images in
memory. Both attack the images that are classified rightly as they are. Runs take turns, one torch thread, images per
second of the process's own CPU time; medians are printed. (PGD does more than its attack: it also looks for
the smallest perturbation that misleads, 8 forward passes more.)
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from timm import create_model

from fgvc.models.normalised import Normalised
from fgvc.robustness.attack_config import AttackConfig, AutoAttackConfig
from fgvc.robustness.attacked import Attacked
from fgvc.robustness.attacks import away_from, pgd
from fgvc.robustness.evaluation import Bench, evaluate
from fgvc.robustness.suite import Victim
from jobs.shards import build_from
from shards.manifest import Manifest
from shards.reading.config import ImageConfig
from shards.reading.loader import Batch, Samples, chunk_loader
from shards.reading.transforms import eval_transform

SIZE, EPSILON, BATCH = 64, 0.5 / 255, 50


def trained(manifest: Manifest, batches: list[Batch]) -> Attacked:
    """A network that knows these images by heart, so that there is something to attack."""
    torch.manual_seed(0)
    network = create_model("resnet10t", num_classes=len(manifest.classes))
    model = Normalised(network, *(torch.full((3, 1, 1), value) for value in (0.5, 0.25)))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(12):
        for batch in batches:
            torch.nn.functional.cross_entropy(model(batch.images), batch.labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    return Attacked(model.eval().requires_grad_(False), flip=False)


def bare(model: Attacked, batches: list[Batch], steps: int) -> int:
    """The loop one would write by hand; how many images withstand it."""
    kept = 0
    for batch in batches:
        pixels = batch.images.contiguous().float() / 255
        with torch.no_grad():
            right = model(pixels).argmax(1) == batch.labels
        x, labels = pixels[right], batch.labels[right]
        found = pgd(
            model, x, away_from(labels), EPSILON, norm="linf", steps=steps, step_size=EPSILON / steps, momentum=1
        )
        with torch.no_grad():
            kept += int((model(found).argmax(1) == labels).sum())
    return kept


def ours(model: Attacked, manifest: Manifest, entries: list[int], steps: int, folder: Path) -> int:
    config = AttackConfig(attacks=["mi_fgsm"], steps=steps, curve=[], checks=False, corruptions=False)
    samples = Samples(manifest, eval_transform(ImageConfig(size=SIZE), SIZE))
    bench = Bench(
        folder, Victim(model, model, None, len(manifest.classes)), config, AutoAttackConfig(),
        lambda chunks: chunk_loader(chunks, samples), manifest.entries.key, torch.device("cpu"), BATCH, EPSILON,
        (EPSILON,),
    )  # fmt: skip
    return int(evaluate(bench, entries).survives("mi_fgsm", EPSILON).sum())


def timed(work: Callable[[], int]) -> tuple[float, int]:
    began = time.process_time()
    kept = work()
    return time.process_time() - began, kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--images", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rates: dict[str, list[float]] = {"ours": [], "bare": []}
    with tempfile.TemporaryDirectory() as folder:
        manifest = build_from("field_guide", "-", Path(folder) / "shards", ["size=96"])
        entries = list(manifest.split("train"))[: options.images]
        samples = Samples(manifest, eval_transform(ImageConfig(size=SIZE), SIZE))
        chunks = [entries[at : at + BATCH] for at in range(0, len(entries), BATCH)]
        batches = list(chunk_loader(chunks, samples))
        model = trained(manifest, batches)
        for number in range(options.repeats):
            seconds, kept = timed(lambda: bare(model, batches, options.steps))
            rates["bare"].append(len(entries) / seconds)
            place = Path(folder) / str(number)
            seconds, also = timed(lambda place=place: ours(model, manifest, entries, options.steps, place))  # type: ignore[misc]
            rates["ours"].append(len(entries) / seconds)
            assert kept == also, f"{kept} images withstand the bare loop, {also} ours"
    middle = {name: statistics.median(values) for name, values in rates.items()}
    print(f"resnet10t, {SIZE} px, MI-FGSM of {options.steps} steps, {len(entries)} images, {kept} withstand both")
    print(
        f"  bare {middle['bare']:7.1f} img/s\n  ours {middle['ours']:7.1f} img/s, {middle['ours'] / middle['bare']:.3f}"
    )
    load = os.getloadavg()[0]
    print(f"medians of {options.repeats}; {os.cpu_count()} cores, load {load:.1f}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
