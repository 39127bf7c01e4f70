"""Scores of maps against hand-made cases and a made classifier that looks at red only."""

import cv2
import numpy as np
import pytest
import torch
from subjects import RedNetwork, noise_images, subject_of, timm_subject

from fgvc.explanation.cam import signed_cam
from fgvc.explanation.explainers import explainer, noise
from fgvc.explanation.perturbation import STEPS, insertion_deletion, removal_order, road
from fgvc.explanation.sanity import randomised, rank_correlations, sanity
from fgvc.explanation.scores import (
    THRESHOLDS,
    box_of,
    energy_in,
    iou,
    ious_of,
    mask_of,
    max_box_accuracy,
    points_at,
    whole_image_iou,
)
from fgvc.explanation.subject import Subject
from jobs.tasks.explain_tables import sanity_figures


def test_pointing_and_energy_by_hand() -> None:
    map_ = np.zeros((8, 8))
    map_[2, 5], map_[7, 7] = 3, 1
    mask = mask_of([(4, 1, 8, 4)], 8)
    assert mask.sum() == 12
    assert mask[1, 4]
    assert not mask[4, 4]
    assert points_at(map_, mask)
    assert energy_in(map_, mask) == 0.75
    map_[7, 7] = 4
    assert not points_at(map_, mask)
    assert not points_at(np.zeros((8, 8)), np.ones((8, 8), bool))
    assert energy_in(np.zeros((8, 8)), mask) == 0


def test_noise_points_at_any_pixel_alike() -> None:
    """The pointing of `random` is the box's share of the image: with a grid that ends at the edge it was 0.09 less."""
    mask = np.zeros((96, 96), bool)
    mask[12:84, 12:84] = True  # 0.5625
    hits = [points_at(noise((0, seed), 96).numpy(), mask) for seed in range(1000)]
    assert np.mean(hits) == pytest.approx(mask.mean(), abs=0.04)
    assert torch.equal(noise((0, 1), 96), noise((0, 1), 96))
    smooth = noise((0, 1), 96)
    assert 0 <= float(smooth.min()) < float(smooth.max()) <= 1
    assert float((smooth[1:] - smooth[:-1]).abs().max()) < 0.1 < float(smooth.max() - smooth.min())


def test_boxes_by_hand() -> None:
    map_ = np.zeros((10, 10))
    map_[1:3, 1:3] = 1.0  # the strongest
    map_[5:9, 4:8] = 0.5  # the largest
    assert box_of(map_, 0.3) == (4, 5, 8, 9)
    assert box_of(map_, 0.6) == (1, 1, 3, 3)
    assert box_of(map_ + 7, 0.6) == (1, 1, 3, 3)  # of the range, not of the maximum
    assert box_of(np.ones((4, 4)), 0.5) is None
    assert iou((0, 0, 4, 4), (2, 2, 6, 6)) == pytest.approx(4 / 28)
    assert iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0
    largest, any_part = ious_of(map_, [(4, 5, 8, 9), (0, 0, 1, 1)])
    assert largest[THRESHOLDS == 0.3] == 1
    assert largest[THRESHOLDS == 0.5] == 0  # strictly above
    assert largest[0] == 1  # nor is the whole image among the boxes at threshold 0
    # The smaller part is right: it counts in the second version only.
    largest, any_part = ious_of(map_, [(1, 1, 3, 3)])
    assert (largest[0], any_part[0]) == (0, 1)
    assert whole_image_iou([(0, 0, 5, 10), (1, 1, 3, 3)], 10) == 0.5


def test_max_box_accuracy_by_hand() -> None:
    ious = np.zeros((2, 2, 20))
    ious[0, :, 3], ious[1, :, 3] = 0.55, 0.35
    ious[0, :, 9], ious[1, :, 9] = 0.75, 0.2
    found = max_box_accuracy(ious)
    # IoU 0.3: both at the fourth threshold; 0.5 and 0.7: one of two.
    assert found["max_box_acc"] == 0.5
    assert found["max_box_acc_v2"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert found["box_threshold"] == pytest.approx(0.15)
    ious[1, 1] = 0.9  # another part's box is right
    assert max_box_accuracy(ious)["max_box_acc"] == 0.5
    assert max_box_accuracy(ious)["max_box_acc_v2"] == 1


def red_square() -> tuple[Subject, torch.Tensor, torch.Tensor]:
    """The made classifier, a grey image with a red square, and where that is."""
    subject = subject_of(RedNetwork(least=2.6), 48)
    image = torch.full((1, 3, 48, 48), 128, dtype=torch.uint8)
    image[:, :, 8:20, 28:40] = torch.tensor([220, 20, 20], dtype=torch.uint8).view(1, 3, 1, 1)
    where = torch.zeros(48, 48)
    where[8:20, 28:40] = 1
    return subject, subject.normalise(image), where


def test_insertion_and_deletion_of_a_classifier_that_looks_at_red() -> None:
    subject, inputs, where = red_square()
    assert subject.logits(inputs).argmax() == 2
    right, wrong = (insertion_deletion(subject, inputs[0], map_, 2) for map_ in (where, 1 - where))
    # The square is a sixteenth of the image: in at the first of the steps, or out; or at the last.
    assert right[0] == pytest.approx(1 - 0.5 / STEPS, abs=0.03)
    assert right[1] < 0.25
    assert wrong[0] < 0.25
    assert wrong[1] > 0.75
    torch.manual_seed(0)
    assert road(subject, inputs[0], where, 2) > 0.2 > 0 > road(subject, inputs[0], 1 - where, 2)


def test_road_removes_the_share_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a map that is zero but for a corner: by its values everything would go."""
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    removed, impute = list[float](), NoisyLinearImputer.__call__

    def spy(self: NoisyLinearImputer, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        removed.append(float((mask == 0).float().mean()))
        return impute(self, image, mask)

    monkeypatch.setattr(NoisyLinearImputer, "__call__", spy)
    subject, inputs, where = red_square()
    road(subject, inputs[0], where * (torch.arange(48) < 30), 2)
    assert sorted(removed) == pytest.approx([0.2, 0.2, 0.5, 0.5, 0.8, 0.8], abs=0.01)


def test_order_of_removal() -> None:
    map_ = torch.tensor([[0.1, 0.9], [0.5, 0.3]])
    assert removal_order(map_).tolist() == [[3, 0], [1, 2]]
    flat = removal_order(torch.zeros(16, 16)).flatten()
    assert sorted(flat.tolist()) == list(range(256))
    assert not torch.equal(flat, torch.arange(256))  # pixels that are alike do not go from the top left


def test_maps_of_the_made_classifier_point_at_red() -> None:
    subject, inputs, where = red_square()
    red, box = where.numpy() > 0, (28.0, 8.0, 40.0, 20.0)
    for name in ("cam", "gradcam", "hirescam", "layercam", "contrast", "gradients", "occlusion", "scorecam"):
        map_ = explainer(name, subject)(inputs, torch.tensor([2]), [0])[0].numpy()
        assert points_at(map_, red), name
        if name not in ("gradients", "occlusion", "scorecam"):
            assert energy_in(map_, red) > 0.75, name
            assert ious_of(map_, [box]).max() > 0.7, name
    assert not points_at(explainer("centre", subject)(inputs, torch.tensor([2]), [0])[0].numpy(), red)


def test_randomised_weights_destroy_maps_of_what_was_learnt() -> None:
    subject = timm_subject("test_vit", 64, img_size=64)
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    subjects = [subject, *(randomised(subject, share) for share in (0.0, 1.0))]
    changed = [
        {name for name, value in other.model.state_dict().items() if not torch.equal(value, before[name])}
        for other in subjects
    ]
    assert changed[0] == set()
    assert changed[1] == {"model.head.weight"}  # all biases are zero
    assert "model.blocks.0.attn.qkv.weight" in changed[2]
    for name in changed[2]:  # shuffled: the same values elsewhere
        values = subjects[2].model.state_dict()[name]
        torch.testing.assert_close(values.flatten().sort()[0], before[name].flatten().sort()[0])
    inputs = subject.normalise(noise_images(4, 64))
    classes = subject.logits(inputs).argmax(1)
    numbers = [0, 1, 2, 3]
    found = {
        name: np.abs(sanity(name, subjects, inputs, classes, numbers)[name]).mean(0) for name in ("gradcam", "random")
    }
    assert found["random"].tolist() == [1, 1]  # it never looked
    assert found["gradcam"][1] < 0.7


def test_flat_maps_say_nothing_of_sanity() -> None:
    flat, ramp = np.ones((1, 9)), np.arange(9.0)[None]
    assert rank_correlations(ramp, 3 * ramp + 1).tolist() == pytest.approx([1])
    assert rank_correlations(ramp, -ramp).tolist() == pytest.approx([-1])
    assert np.isnan(rank_correlations(ramp, flat)).all()
    figures = sanity_figures(np.array([[0.5, np.nan], [-0.5, -0.8]]), np.stack([ramp[0], -ramp[0]]))
    assert (figures["sanity"], figures["sanity_flat"], figures["sanity_floor"]) == pytest.approx((0.8, 0.5, 1))
    assert figures["sanity_cascade"] == pytest.approx([0.5, 0.8])
    assert figures["sanity_interval"] == pytest.approx([0.8, 0.8])
    dead = sanity_figures(np.full((2, 1), np.nan), np.ones((2, 9)))
    assert dead == {"sanity_flat": 1, "sanity_cascade": [None]}  # not the 0 of a perfect method


def test_sanity_compares_maps_before_their_relu() -> None:
    """A head whose weights change their sign leaves no positive map: the order of its places is the opposite."""
    subject, inputs, _ = red_square()
    other = randomised(subject, 0)
    with torch.no_grad():
        for part, sign in ((subject, 1), (other, -1)):
            part.network.fc.weight[2], part.network.fc.weight[0] = sign * 400.0, 0.0
    assert float(explainer("cam", other)(inputs, torch.tensor([2]), [0]).max()) == 0
    for name in ("cam", "gradcam", "hirescam", "xgradcam", "contrast"):
        assert sanity(name, [subject, other], inputs, torch.tensor([2]), [0])[name] == pytest.approx(-1), name


@pytest.mark.parametrize("name", ["gradcam", "xgradcam", "hirescam"])
def test_signed_maps_are_the_librarys_before_the_relu(name: str) -> None:
    subject = timm_subject("test_resnet", 96)
    inputs, classes = subject.normalise(noise_images(3, 96)), torch.tensor([1, 2, 3])
    signed = signed_cam(name, subject, inputs, classes)
    assert float(signed.min()) < 0
    for ours, theirs in zip(signed.clamp_min(0), explainer(name, subject)(inputs, classes, [0, 1, 2]), strict=True):
        scaled = cv2.resize((ours - ours.min()).numpy(), (96, 96))
        scaled = (scaled - scaled.min()) / (1e-7 + np.ptp(scaled))
        np.testing.assert_allclose(scaled, theirs, atol=1e-3)


def test_randomised_batch_normalisation_is_normal_again() -> None:
    subject, images = timm_subject("test_resnet", 96), noise_images(8, 96)
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in subject.network.modules())

    def spread(other: Subject) -> float:
        """How far from 1 the last normalisation's output is before its weight, in powers of e."""
        norm = [module for module in other.network.modules() if isinstance(module, torch.nn.BatchNorm2d)][-1]
        seen: list[torch.Tensor] = []
        handle = norm.register_forward_hook(lambda module, given, output: seen.append(given[0]))
        other.logits(other.normalise(images))
        handle.remove()
        scaled = (seen[0] - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + norm.eps) ** 0.5
        return abs(float(scaled.std().log()))

    assert spread(randomised(subject, 1.0, images=images)) < 0.1 < spread(randomised(subject, 1.0))
    assert not randomised(subject, 1.0, images=images).model.training
