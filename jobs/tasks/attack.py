"""Attack a trained classifier: the work of `fgvc attack`."""

import shutil
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from fgvc.models.timm import load_classifier
from fgvc.robustness.attacked import Attacked, full_precision
from fgvc.robustness.epsilon import read_epsilon
from fgvc.robustness.evaluation import Bench, evaluate
from fgvc.robustness.figures import figures, robust_under, survivors
from fgvc.robustness.suite import Victim
from fgvc.runtime.distributed import barrier, rank
from fgvc.runtime.run_folder import RunFolder, finish
from fgvc.study.headline import write_headline
from fgvc.training.strategies.create import create_accelerator
from jobs.attack import Config, check
from jobs.config import nearest
from jobs.hashes import file_hash
from jobs.inputs import loader_workers, open_job
from jobs.tasks.attack_card import show
from jobs.tasks.measured import Measured, drawn, open_measured
from shards.errors import UserError
from shards.paths import expand
from shards.reading.loader import Batch, Samples, chunk_loader
from shards.reading.transforms import eval_transform


def run(config: Config) -> dict[str, Any]:
    """Attack and write the run folder. Raises UserError for unfit weights, other classes, outputs not finite."""
    began = time.monotonic()
    check(config)
    accelerator = create_accelerator("fp32", deterministic=False)
    full_precision()
    measured = open_measured(config)
    inputs = measured.inputs | ({"transfer": file_hash(config.transfer, "transfer")} if config.transfer else {})
    with open_job("attack", config, inputs, rank() == 0) as folder:
        if folder.result is not None:
            return folder.result
        workers = loader_workers(config.data)
        bench = _bench(config, measured, folder, accelerator.device, workers)
        found = evaluate(bench, drawn(measured.indices, config.images, config.seed))
        split = "val" if config.split == "held_out" else config.split
        told = figures(found, bench, measured.manifest.classes)
        parameters = sum(parameter.numel() for parameter in bench.victim.model.parameters())
        result = {split: told, "parameters": parameters} | measured.marks
        if rank() == 0:
            robust = survivors(found, bench.epsilon, robust_under(found, bench.epsilon))
            write_headline(folder.path, split, found.entries, robust.astype(float))
            show(config, bench, measured, found, told, folder.path)
            result = finish(folder, result, inputs, time.monotonic() - began)
            shutil.rmtree(bench.folder)
        barrier()
        return result


def _bench(config: Config, measured: Measured, folder: RunFolder, device: torch.device, workers: int) -> Bench:
    """The model under attack, and how its images are read."""
    model, about = load_classifier(expand(config.weights, "weights"))
    views = measured.views()
    if len(views) > 1 or measured.image.eval_crops > 1:
        raise UserError(
            f"weights={config.weights}: measured on several views of every image, which cannot be attacked as one; "
            "attack a classifier of one view (data.crop=whole, square or box; image.eval_crops=1)"
        )
    samples = Samples(
        measured.manifest, eval_transform(measured.image, about["size"], cut=bool(views[0].regions)), views,
        cache=measured.data.cache,
    )  # fmt: skip

    def load(chunks: Sequence[Sequence[int]]) -> Iterable[Batch]:
        return chunk_loader(chunks, samples, workers=workers if len(chunks) > 1 else 0)

    settings: dict[str, Any] = {"preprocess": config.preprocess, "strength": config.preprocess_strength}
    deployed = Attacked(model, flip=about["eval_flip"], **settings).to(device)
    adaptive = Attacked(model, flip=about["eval_flip"], straight_through=True, **settings).to(device)
    classes, epsilon = measured.manifest.classes, read_epsilon(config.epsilon, config.norm)
    if config.target and config.target not in classes:
        raise UserError(f"target={config.target}: no such class{nearest(config.target, list(classes))}")
    return Bench(
        folder.checkpoints / "chunks",
        Victim(deployed, adaptive, _surrogate(config, about, device), len(classes)), config, config.autoattack, load,
        measured.manifest.entries.key, device, config.batch, epsilon,
        tuple(sorted({epsilon, *(_times(epsilon, factor, config) for factor in config.curve)})),
        classes.index(config.target) if config.target else None,
    )  # fmt: skip


def _times(epsilon: float, factor: float, config: Config) -> float:
    return min(epsilon * factor, 1.0) if config.norm == "linf" else epsilon * factor


def _surrogate(config: Config, about: dict[str, Any], device: torch.device) -> Attacked | None:
    if not config.transfer:
        return None
    model, other = load_classifier(expand(config.transfer, "transfer"))
    if other["classes"] != about["classes"]:
        raise UserError(f"transfer={config.transfer}: trained for other classes than weights={config.weights}")
    return Attacked(model, size=other["size"] if other["size"] != about["size"] else 0).to(device)
