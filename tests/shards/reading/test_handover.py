"""Batches from workers through shared memory: what arrives, in any number at once and of any size."""

import copy
import pickle

import pytest
import torch

from shards.manifest import Manifest
from shards.reading import handover
from shards.reading.config import DataConfig, ImageConfig
from shards.reading.detection import BoxedSamples, collate_boxed
from shards.reading.detection_config import BoxedImageConfig
from shards.reading.handover import PLACES
from shards.reading.loader import Batch, Samples, eval_loader, train_loader
from shards.reading.transforms import eval_transform, train_transform

BATCHES = 3 * PLACES  # of each worker, so that every place is written to again and again


def trained(guide: Manifest, workers: int) -> list[Batch]:
    samples = Samples(guide, train_transform(ImageConfig(), 32), seed=3)
    loader = train_loader(
        guide, range(16 * PLACES), samples, seed=3, batch=8, epochs=3, workers=workers, window=4
    )  # fmt: skip
    return list(loader)


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in vars(one))


def same(one: Batch, other: Batch) -> bool:
    """Laid out alike, too."""
    return equal(one, other) and one.images.stride() == other.images.stride()


def test_batches_that_are_all_kept_stay_what_they_were(guide: Manifest):
    here, there = trained(guide, 0), trained(guide, 2)
    assert len(here) == len(there) == 2 * BATCHES
    assert all(same(one, other) for one, other in zip(here, there, strict=True))


def test_two_passes_of_one_loader_at_once(guide: Manifest):
    loader = eval_loader(range(96), Samples(guide, eval_transform(ImageConfig(), 32)), batch=4, workers=1)
    together = list(zip(loader, loader, strict=True))
    assert len(together) == 24
    assert all(same(one, other) for one, other in together)


@pytest.mark.parametrize("largest", [0, 8 * 3 * 32 * 32])
def test_what_is_too_large_goes_the_usual_way(guide: Manifest, monkeypatch: pytest.MonkeyPatch, largest: int):
    """The last batches are smaller than the others, and come to fit."""
    here = trained(guide, 0)
    monkeypatch.setattr(handover, "LARGEST", largest)
    assert all(same(one, other) for one, other in zip(here, trained(guide, 1), strict=True))


def test_without_address_space_it_is_the_usual_way_for_all(guide: Manifest, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(handover, "LARGEST", 1 << 50)
    assert handover.handover_for(2) is None
    assert all(same(one, other) for one, other in zip(trained(guide, 0), trained(guide, 1), strict=True))


@pytest.mark.parametrize("limit", ["address space", "overcommit"])
def test_where_address_space_costs_something_it_is_left_alone(
    guide: Manifest, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    if limit == "overcommit":
        monkeypatch.setattr(handover, "_overcommit", lambda: "2")
    else:
        monkeypatch.setattr(handover.resource, "getrlimit", lambda _: (1 << 40, 1 << 40))
    assert handover.handover_for(2) is None


def test_a_batch_of_an_abandoned_iteration_is_nothing(guide: Manifest) -> None:
    """The thread that pins memory may still unpickle one."""
    made = handover.Handover(1)
    images = made.at(made.next_place((1, 3, 2, 2))).fill_(7)
    images.place = handover.Place(made.number, 0, (1, 3, 2, 2))  # type: ignore[attr-defined]
    none = torch.zeros(0, dtype=torch.int64)
    sent = pickle.dumps(Batch(images, none, none, none))
    assert len(sent) < 1000
    assert pickle.loads(sent).images.unique().tolist() == [7]
    del images, made
    assert pickle.loads(sent).images.numel() == 0


def test_batches_are_copied_and_pickled_elsewhere_too(guide: Manifest) -> None:
    batch = trained(guide, 1)[0]
    batch.labels = batch.labels.to(torch.bfloat16)
    assert equal(pickle.loads(pickle.dumps(batch)), batch)
    assert same(copy.deepcopy(batch), batch)


def test_boxes_of_any_number_arrive_with_their_images(guide: Manifest):
    samples = BoxedSamples(guide, DataConfig(), BoxedImageConfig(size=64), seed=1)

    def batches(workers: int) -> list:
        loader = train_loader(
            guide, range(16), samples, seed=1, batch=2, epochs=4, workers=workers, collate=collate_boxed
        )  # fmt: skip
        return list(loader)

    here, there = batches(0), batches(1)
    assert len(here) == len(there) > PLACES
    for one, other in zip(here, there, strict=True):
        for name, value in vars(one).items():
            theirs = getattr(other, name)
            pairs = zip(value, theirs, strict=True) if isinstance(value, list) else [(value, theirs)]
            assert all(torch.equal(mine, his) and mine.dtype == his.dtype for mine, his in pairs)


def test_memory_is_given_back_with_the_iteration(guide: Manifest):
    before = len(handover.Handover.known)
    loader = eval_loader(range(32), Samples(guide, eval_transform(ImageConfig(), 32)), batch=4, workers=1)
    batches = iter(loader)
    first = next(batches)
    assert len(handover.Handover.known) == before + 1
    kept = first.images.clone()
    del batches
    assert len(handover.Handover.known) == before
    assert torch.equal(first.images, kept)


def test_images_are_stacked_whatever_way_their_channels_lie() -> None:
    draw = torch.Generator().manual_seed(0)
    together = [torch.randint(256, (11, 7, 3), generator=draw, dtype=torch.uint8).permute(2, 0, 1) for _ in range(3)]
    planes = [image.contiguous() for image in together]
    for images in (together, planes, [together[0], planes[1]], [image[:, 1:, 2:] for image in together]):
        found = handover.gathered(images)
        assert torch.equal(found, torch.stack(images))
        assert found.is_contiguous(memory_format=torch.channels_last)
    views = [torch.stack(planes), torch.stack(together)]  # several of an image
    found = handover.gathered(views)
    assert torch.equal(found, torch.stack(views))
    assert found.movedim(-3, -1).is_contiguous()
    with pytest.raises(RuntimeError, match="equal size"):
        handover.gathered([together[0], together[1][:, 1:]])
