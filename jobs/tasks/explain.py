"""Explain a trained classifier and score the explanations: the work of `fgvc explain`."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fgvc.explanation.birds import Bird, Darkroom, open_guide, oracle_map, validation_birds
from fgvc.explanation.config import ALWAYS, BASELINES, SLOW
from fgvc.explanation.explainers import Explainer, applicable, explainer
from fgvc.explanation.funnybirds import protocol_rows
from fgvc.explanation.gallery import Gallery, of_photos, of_shards
from fgvc.explanation.measure import Examiner
from fgvc.explanation.sanity import SHARES, randomised, sanity
from fgvc.explanation.subject import Subject
from fgvc.models.record import read_classifier
from fgvc.models.timm import load_classifier
from fgvc.runtime.chunks import Arrays, in_chunks
from fgvc.runtime.distributed import barrier, rank
from fgvc.runtime.run_folder import RunFolder, finish
from fgvc.training.strategies.create import create_accelerator
from jobs.config import nearest
from jobs.explain import Config, check
from jobs.inputs import file_hash, loader_workers, open_job
from jobs.tasks.explain_outputs import write_outputs
from jobs.tasks.explain_tables import Found, figures_of
from jobs.tasks.measured import Measured, drawn, open_measured
from shards.errors import UserError
from shards.paths import expand
from shards.reading.config import ImageConfig

CHUNK, FEW = 16, 4  # images of a chunk, of one of slow work: what a kill costs at most
EACH = 3  # birds of a species that thresholds are chosen by


@dataclass
class Opened:
    """What is explained. measured: None for photos. darkroom: where the images are field guide birds, seen whole."""

    about: dict[str, Any]
    gallery: Gallery
    numbers: list[int]
    subject: Subject
    inputs: dict[str, str]
    measured: Measured | None = None
    darkroom: Darkroom | None = None


def run(config: Config) -> dict[str, Any]:
    """Explain, score, draw; what result.json holds. Raises UserError for unfit weights, classes, methods or images."""
    began = time.monotonic()
    check(config)
    accelerator = create_accelerator("fp32", deterministic=True)
    opened = _open(config, accelerator.device, accelerator.num_processes)
    classes = opened.about["classes"]
    for name in config.pair:
        if name not in classes:
            raise UserError(f"pair: {name!a}: no such class{nearest(name, classes)}")
    with open_job("explain", config, opened.inputs, rank() == 0) as folder:
        if folder.result is not None:
            return folder.result
        found = _explain(config, opened, folder)
        figures: dict[str, Any] = {}
        if rank() == 0:
            split = "photos" if config.photos else config.split
            figures = {split: figures_of(found, classes)}
            figures |= opened.measured.marks if opened.measured else {}
            write_outputs(config, opened, found, figures[split], folder)
            figures = finish(folder, figures, opened.inputs, time.monotonic() - began)
            shutil.rmtree(folder.path / "chunks", ignore_errors=True)
        barrier()
        return figures


def _open(config: Config, device: torch.device, ranks: int) -> Opened:
    weights = expand(config.weights, "weights")
    if config.photos:
        path, about = expand(config.photos, "photos"), read_classifier(weights)
        if not path.exists():
            raise UserError(f"photos={config.photos}: no such file or folder")
        image = ImageConfig(eval_fit=about["fit"], eval_crop=about["eval_crop"], interpolation=about["interpolation"])
        gallery = of_photos(path, image, about["size"])
        files = [path] if path.is_file() else sorted(path.iterdir())
        inputs = {"weights": file_hash(config.weights, "weights")}
        inputs |= {f"photos.{file.name}": file_hash(str(file), "photos") for file in files if file.is_file()}
        subject = Subject(load_classifier(weights)[0], about["size"], device)
        return Opened(about, gallery, drawn(list(gallery.entries), config.images, config.seed), subject, inputs)
    measured = open_measured(config)
    about, numbers = measured.about, drawn(measured.indices, config.images, config.seed)
    view = measured.views(numbers)[-1]  # of whole+box the part that was cut out
    gallery = of_shards(
        measured.manifest, numbers, view, measured.image, about["size"], cache=config.data.cache,
        workers=loader_workers(measured.data, ranks),
    )  # fmt: skip
    subject = Subject(load_classifier(weights)[0], about["size"], device)
    guide = open_guide(measured.manifest)
    darkroom = Darkroom(guide, subject, measured.image) if guide and gallery.whole else None
    return Opened(about, gallery, numbers, subject, measured.inputs, measured, darkroom)


def _explain(config: Config, opened: Opened, folder: RunFolder) -> Found:
    """Maps and scores of all images, over all ranks."""
    chunks, subject, gallery = folder.path / "chunks", opened.subject, opened.gallery
    methods = _methods(config, opened)
    fast = [name for name in methods if name not in SLOW]
    few = drawn(opened.numbers, config.slow_images or len(opened.numbers), config.seed + 1)
    oracle = _oracle(opened) if opened.darkroom else None

    def examined(title: str, numbers: Sequence[int], names: list[str], size: int, perturbs: bool) -> Arrays:
        guide = opened.darkroom.guide if opened.darkroom else None
        examiner = Examiner(
            subject, names, gallery.entries, gallery.placements, config.seed, config.box_threshold, perturbs, guide,
            oracle,
        )  # fmt: skip
        work = in_chunks(chunks / title, numbers, size, gallery.load, examiner, seed=config.seed, title=title)
        if not work["finite"].all():
            key = gallery.entries[int(work["entries"][~work["finite"]][0])].key
            raise UserError(f"weights={config.weights}: outputs are not finite, first for '{key}'")
        return work

    found = Found(methods, examined("maps", opened.numbers, fast, CHUNK, False))
    if config.slow_images:
        found.few = examined("perturbed", few, methods, FEW, True)
    if config.sanity_images:
        found.sanity = _sanity(config, opened, [name for name in methods if name not in (*SLOW, "oracle")], chunks)
    if opened.darkroom and config.birds:
        _redraw(config, opened, [name for name in fast if name != "oracle"], chunks, found)
    return found


def _methods(config: Config, opened: Opened) -> list[str]:
    """Those that are named, or apply; then the baselines. Raises UserError for one that the network has nothing for."""
    named = config.methods or [name for name in applicable(opened.subject) if config.slow_images or name not in SLOW]
    for name in (*named, config.boxes_by or "cam", config.sheet or "cam"):
        if name != "oracle" and (config.methods or name in (config.boxes_by, config.sheet)):
            explainer(name, opened.subject)
    extra = [name for name in (config.boxes_by, config.sheet) if name]
    baselines = [*ALWAYS, *(["oracle"] if opened.darkroom else [])]
    if "oracle" in named and not opened.darkroom:
        raise UserError("methods: oracle is for whole images of the field guide, which can be drawn without a part")
    return list(dict.fromkeys([*(name for name in (*named, *extra) if name not in BASELINES), *baselines]))


def _oracle(opened: Opened) -> Explainer:
    darkroom = opened.darkroom
    assert darkroom is not None

    def explain(inputs: torch.Tensor, classes: torch.Tensor, numbers: list[int]) -> torch.Tensor:
        birds = [darkroom.guide.bird(opened.gallery.entries[number]) for number in numbers]
        pairs = zip(birds, classes.tolist(), strict=True)
        return torch.stack([oracle_map(darkroom.score(bird), label) for bird, label in pairs])

    return explain


def _sanity(config: Config, opened: Opened, names: list[str], chunks: Any) -> Arrays:
    subjects = [opened.subject, *(randomised(opened.subject, share, config.seed) for share in SHARES)]

    def work(batch: Any) -> Arrays:
        inputs = opened.subject.normalise(batch.images)
        classes, numbers = opened.subject.logits(inputs).argmax(1), [int(entry) for entry in batch.entries]
        return {name: sanity(name, subjects, inputs, classes, numbers) for name in names}

    few = drawn(opened.numbers, config.sanity_images, config.seed + 2)
    return in_chunks(chunks / "sanity", few, FEW, opened.gallery.load, work, seed=config.seed, title="sanity")


def _redraw(config: Config, opened: Opened, names: list[str], chunks: Any, found: Found) -> None:
    """FunnyBirds' protocol: on birds that thresholds are chosen by, then on those that are measured."""
    darkroom = opened.darkroom
    assert darkroom is not None
    methods = {name: explainer(name, opened.subject, config.seed) for name in names}
    few = drawn(opened.numbers, config.birds, config.seed + 3)
    measured = {number: darkroom.guide.bird(opened.gallery.entries[number]) for number in few}
    aside = validation_birds(len(darkroom.guide.species), EACH)[: config.birds]
    chosen: dict[int, Bird] = {10**9 + place: bird for place, bird in enumerate(aside)}

    def rows(title: str, birds: dict[int, Bird]) -> Arrays:
        return in_chunks(
            chunks / title, list(birds), FEW, list, seed=config.seed, title=title,
            work=lambda numbers: protocol_rows(darkroom, methods, [birds[number] for number in numbers], numbers),
        )  # fmt: skip

    found.validation, found.birds = rows("validation birds", chosen), rows("birds", measured)
