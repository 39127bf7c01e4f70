"""Images and boxes move together: a marked object is where its box says, whatever the transform."""

import torch

from shards.manifest import Manifest
from shards.reading.config import DataConfig
from shards.reading.detection import FILL, BoxedSamples, collate_boxed, letterbox, random_letterbox, unletterbox
from shards.reading.detection_config import BoxedImageConfig
from shards.reading.transforms import seeded

BOX = (40.0, 30.0, 100.0, 60.0)


def marked(height: int = 120, width: int = 200) -> torch.Tensor:
    """Black, with a red box and a green pixel block at the box's left end."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    x0, y0, x1, y1 = map(int, BOX)
    image[0, y0:y1, x0:x1] = 255
    image[1, y0:y1, x0 : x0 + 15] = 255
    return image


def bounds(plane: torch.Tensor) -> list[float]:
    """The box of the pixels above half."""
    rows, columns = (plane > 127).nonzero(as_tuple=True)
    corners = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return [float(corner) for corner in corners]


def test_whole_image_by_hand() -> None:
    boxed = letterbox(marked(), [BOX], 160)  # 200 x 120 at 0.8: 160 x 96
    assert boxed.boxes.tolist() == [[32, 24, 80, 48]]
    assert bounds(boxed.image[0, :96]) == [32, 24, 80, 48]
    assert (boxed.image[:, 96:] == FILL).all()
    assert unletterbox(boxed.boxes, boxed.place, 200, 120).tolist() == [list(BOX)]


def test_boxes_follow_the_pixels() -> None:
    config = BoxedImageConfig(size=160, scale=(0.4, 1.6), keep=0.3, flip=0.5)
    flips = lost = cut = 0
    for seed in range(300):
        boxed = seeded(lambda pixels: random_letterbox(pixels, [BOX], config), marked(), seed)
        assert boxed.image.shape == (3, 160, 160)
        inside = boxed.image.float() - 255 * (boxed.image == FILL).all(0)  # the padding is grey, not red
        if not len(boxed.boxes):
            lost += 1
            continue
        assert torch.allclose(torch.tensor(bounds(inside[0])), boxed.boxes[0], atol=1.01)
        back = unletterbox(boxed.boxes, boxed.place, 200, 120)[0]
        whole = boxed.boxes[0, 0] > 0 and boxed.boxes[0, 2] < 160 and boxed.boxes[0, 1] > 0 and boxed.boxes[0, 3] < 160
        if whole:
            assert torch.allclose(back, torch.tensor(BOX), atol=1e-3)
            flipped = bool(boxed.place[0] < 0)
            green = bounds(inside[1])
            assert (abs(green[2] - boxed.boxes[0, 2]) < 2) == flipped
            flips += flipped
        else:
            cut += 1
    assert 100 < flips < 200
    assert lost == 0  # ten tries are enough here
    assert cut > 10


def test_a_box_out_of_view_is_left_out() -> None:
    config = BoxedImageConfig(size=64, scale=(4.0, 4.0), keep=1.0, flip=0.0)
    corners = [(20.0, 20.0, 30.0, 30.0), (150.0, 80.0, 165.0, 95.0)]  # never both in view
    kept = set()
    for seed in range(40):
        boxed = seeded(lambda pixels: random_letterbox(pixels, corners, config), marked(), seed)
        assert len(boxed.boxes) == len(boxed.kept) <= 1
        kept |= set(boxed.kept.tolist())
    assert kept == {0, 1}


def test_samples_are_a_function_of_seed_epoch_and_entry(guide: Manifest) -> None:
    config = BoxedImageConfig(size=64)
    samples, other = (BoxedSamples(guide, DataConfig(), config, seed=5) for _ in range(2))
    torch.manual_seed(1)
    first = samples[(3, 7)]
    before = torch.get_rng_state()
    again = other[(3, 7)]
    assert torch.equal(first[0].image, again[0].image)
    assert torch.equal(first[0].boxes, again[0].boxes)
    assert torch.equal(before, torch.get_rng_state())  # training's own draws are left alone
    assert not torch.equal(first[0].image, samples[(4, 7)][0].image)
    assert not torch.equal(first[0].image, BoxedSamples(guide, DataConfig(), config, seed=6)[(3, 7)][0].image)
    batch = collate_boxed([samples[(0, 3)], samples[(0, 9)]])
    assert batch.images.shape == (2, 3, 64, 64)
    assert [label.tolist() for label in batch.labels] == [[guide.entries[3].label], [guide.entries[9].label]]
    merged = BoxedSamples(guide, DataConfig(), config, one_class=True)
    assert {merged[(-1, index)][1] for index in range(20)} == {0}
