"""FunnyBirds' protocol on birds of the field guide, with a made classifier that looks at the red crest only."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from subjects import RedNetwork, subject_of

from fgvc.explanation.birds import Bird, Darkroom, Guide, Scored, open_guide, oracle_map, validation_birds
from fgvc.explanation.explainers import explainer, versus
from fgvc.explanation.funnybirds import (
    AREA,
    CHECKS,
    SHARES,
    Pair,
    Protocol,
    background_independence,
    best_share,
    candidate_pairs,
    completeness_of,
    importances,
    protocol_rows,
)
from fgvc.explanation.measure import Examiner
from jobs.shards import build_from
from jobs.tasks.explain_tables import protocol_figures
from shards.manifest import Manifest, read_manifest
from shards.reading.config import ImageConfig
from shards.reading.decode import decode
from shards.reading.reader import Reader


@pytest.fixture(scope="module")
def darkroom(guide: Manifest) -> Darkroom:
    """The session's four species, seen by the made classifier; class 2 has the red crest."""
    found = open_guide(guide)
    assert found is not None
    assert guide.classes[2].startswith("Red-crested")
    return Darkroom(found, subject_of(RedNetwork(), 64), ImageConfig(eval_fit="squash"))


@pytest.fixture(scope="module")
def protocol(darkroom: Darkroom) -> Protocol:
    """A crested bird that is recognised with its crest and not without."""
    for index in range(40):
        bird = Bird("val", 2, index)
        scored = darkroom.score(bird)
        if int(scored.logits.argmax()) == 2 and "crown" in scored.masks and len(scored.masks) > 8:
            found = Protocol(darkroom, scored)
            if found.answer(frozenset({"crown"})) == 0:
                return found
    raise AssertionError("no such bird")


def on(protocol: Protocol, *names: str) -> np.ndarray:
    """A map that is one on these parts."""
    return np.any([protocol.scored.masks[name] for name in names], axis=0).astype(np.float32)


def test_a_guide_redraws_its_shards_byte_for_byte(guide: Manifest, tmp_path: Path) -> None:
    found = open_guide(guide)
    assert isinstance(found, Guide)
    assert (found.seed, found.size) == (0, 64)
    for index in (0, 5, 99):
        stored = decode(Reader(guide).read(index))
        assert torch.equal(found.image(found.bird(guide.entries[index])), stored)
    options = ["species=3", "train_per_class=1", "test_per_class=1", "size=48", "seed=7"]
    build_from("field_guide", "-", tmp_path / "x", options)
    other = open_guide(read_manifest(tmp_path / "x"))
    assert other is not None
    assert (other.seed, other.size, len(other.species)) == (7, 48, 3)
    birds = validation_birds(3, 2)
    assert len(set(birds)) == 6
    assert {bird.split for bird in birds} == {"val"}


def test_the_right_explanation_passes_and_a_wrong_one_fails(protocol: Protocol) -> None:
    falls = protocol.scored.falls(2)
    assert max(falls, key=lambda name: falls[name]) == "crown"
    assert protocol.irrelevant() == set(protocol.scored.masks) - {"crown"}
    right = protocol.completeness(on(protocol, "crown"))
    assert right.shape == (len(CHECKS), len(SHARES))
    assert right[:, 10:].tolist() == np.ones((4, len(SHARES) - 10)).tolist()  # whatever share but the smallest
    assert completeness_of(right[None])[15] == 1
    wrong = protocol.completeness(on(protocol, "tail"))[:, 15]
    idle = len(protocol.irrelevant())
    # Crown is enough and is not named; without all but the tail there is no crest; without the tail there is.
    assert wrong.tolist() == [0, 0, 0, pytest.approx(1 - 1 / idle)]
    both = protocol.completeness(on(protocol, "crown", "wing", "tail"))[:, 0]
    assert both[:3].tolist() == [1, 1, 1]
    assert both[3] < 1


def test_correctness_is_the_rank_correlation_with_the_falls(protocol: Protocol) -> None:
    oracle = protocol.correctness(oracle_map(protocol.scored, 2).numpy())
    assert oracle > 0.8
    order = {name: fall for name, fall in protocol.scored.falls(2).items() if name in protocol.parts}
    opposite = np.zeros((64, 64), np.float32)
    for name, fall in order.items():
        mask = protocol.scored.masks[name]
        opposite[mask] = (max(order.values()) - fall) / mask.sum()
    assert protocol.correctness(opposite) < 0.5 < oracle
    assert np.isnan(protocol.correctness(np.zeros((64, 64), np.float32)))


def test_contrastivity_asks_whether_the_map_moves(protocol: Protocol) -> None:
    protocol.pair = Pair(0, 1, {"wing"}, {"tail"})  # as if a shared the wing and b the tail
    wing, tail = on(protocol, "wing"), on(protocol, "tail")
    assert protocol.contrastivity({0: wing, 1: tail}) == 1
    assert protocol.contrastivity({0: 100 * wing, 1: wing + tail}) == 1  # shares of a map, not its units
    assert protocol.contrastivity({0: tail, 1: wing}) == 0
    assert protocol.contrastivity({0: wing, 1: wing}) == 0  # a map that knows no class does not move
    assert protocol.contrastivity({0: wing, 1: wing + on(protocol, "beak")}) == 0.5
    protocol.pair = None
    assert np.isnan(protocol.contrastivity({}))


def test_methods_of_pairs_are_asked_about_the_pair(
    protocol: Protocol, darkroom: Darkroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a bird of class 2: the map of 0 against 1 and of 1 against 0, not of either against the bird's own class."""
    monkeypatch.setattr(Protocol, "pair", Pair(0, 1, {"wing"}, {"tail"}))
    seen: list[Any] = []
    monkeypatch.setattr(Protocol, "asked", lambda self, maps, only: (seen.append(maps), (np.zeros(1), 0, 0))[1])
    for name in ("contrast", "finercam"):
        methods = {name: explainer(name, darkroom.subject)}
        protocol_rows(darkroom, methods, [protocol.scored.bird], [0])
        maps, _oracle = seen[-2:]
        inputs = darkroom.subject.normalise(protocol.scored.image[None])
        for label, other in ((0, 1), (1, 0)):
            labels, others = torch.tensor([label]), torch.tensor([other])
            expected = versus(name, darkroom.subject)(inputs, labels, others, [0])[0].numpy()
            np.testing.assert_allclose(maps[label], expected, atol=1e-6)
        own = methods[name](inputs, torch.tensor([2]), [0])[0].numpy()
        np.testing.assert_allclose(maps[2], own, atol=1e-6)


def test_the_oracle_of_telling_is_of_the_lead_over_the_runner_up() -> None:
    """Without the wing both logits fall, without the crown the lead only."""
    masks = {name: np.zeros((4, 4), bool) for name in ("wing", "crown")}
    masks["wing"][0, :2], masks["crown"][3, :2] = True, True
    without = {"wing": torch.tensor([1.0, 1.0]), "crown": torch.tensor([4.0, 5.0])}
    scored = Scored(Bird("val", 0, 0), torch.zeros(3, 4, 4), masks, torch.tensor([6.0, 5.0]), without)
    assert scored.falls(0) == {"wing": 5, "crown": 2}
    assert scored.falls(0, 1) == {"wing": 1, "crown": 2}
    assert int(oracle_map(scored, 0).argmax()) in (0, 1)
    assert int(oracle_map(scored, 0, 1).argmax()) in (12, 13)


def test_pairs_share_different_parts_with_the_bird(darkroom: Darkroom) -> None:
    """Of siblings that differ from class 0 in the wing, the tail, and wing and beak."""
    telling = {"0-1": ["wing"], "0-2": ["tail"], "0-3": ["wing", "beak"], "1-2": [], "1-3": [], "2-3": []}
    guide = replace(darkroom.guide, telling=telling)
    parts = ["wing", "tail", "beak"]
    assert candidate_pairs(guide, 0, parts) == [
        Pair(1, 2, {"tail"}, {"wing"}), Pair(2, 3, {"wing", "beak"}, {"tail"}),
    ]  # fmt: skip
    assert candidate_pairs(guide, 0, ["wing", "beak"]) == []  # no tail is seen
    assert candidate_pairs(guide, 1, parts) == []


def test_importances_sum_over_a_part_and_its_edge(protocol: Protocol) -> None:
    found = importances(np.ones((64, 64), np.float32), protocol.scored.masks)
    assert found["wing"] == protocol.scored.masks["wing"].sum()  # at 64 pixels nothing is added around
    large = np.zeros((192, 192), bool)
    large[50:60, 50:60] = True
    assert importances(np.ones((192, 192), np.float32), {"a": large}) == {"a": 14 * 14}


def test_background_independence(protocol: Protocol) -> None:
    assert background_independence(protocol.scored, 2) == 1
    things = [name for name in protocol.scored.masks if name not in protocol.parts]
    assert things
    changed = protocol.scored.without | {things[0]: protocol.scored.logits - 5}
    object.__setattr__(protocol.scored, "without", changed)
    assert background_independence(protocol.scored, 2) == pytest.approx(1 - 1 / len(things))


def test_rows_of_birds_and_the_threshold_from_others(darkroom: Darkroom) -> None:
    names = ("cam", "random", "centre")
    methods = {name: explainer(name, darkroom.subject) for name in names}
    birds = [Bird("val", label, index) for index in range(6) for label in (0, 2, 3)]
    rows = protocol_rows(darkroom, methods, birds, range(len(birds)))
    right = rows["right"] > 0
    assert not rows["right"][2::3].any()  # class 3 is never said
    assert right.any()
    for name in (*names, "oracle"):
        assert rows[f"{name}/completeness"].shape == (18, 4, len(SHARES))
        assert np.isnan(rows[f"{name}/completeness"][~right]).all()
    assert 0 < np.nanmin(rows[AREA][right]) < np.nanmax(rows[AREA][right]) < 1
    assert np.isnan(rows[AREA][~right]).all()
    few = protocol_rows(darkroom, methods, birds[:6], range(6), pairs_only=True)
    np.testing.assert_array_equal(few["oracle/contrastivity"], rows["oracle/contrastivity"][:6])
    assert np.isnan(few["cam/correctness"]).all()
    figures = protocol_figures(rows, rows, few, "cam")
    assert figures["asked"]["correctness"] == (~np.isnan(rows["cam/correctness"])).sum()
    assert figures["asked"]["contrastivity"] == sum(
        (~np.isnan(part["cam/contrastivity"])).sum() for part in (rows, few)
    )
    crested = right & (np.arange(18) % 3 == 1)
    means = {name: completeness_of(rows[f"{name}/completeness"][crested]) for name in (*names, "oracle")}
    chosen = {name: best_share(rows[f"{name}/completeness"][crested]) for name in means}
    best = {name: means[name][chosen[name]] for name in means}
    assert best["oracle"] > 0.95
    assert best["cam"] > 0.8 > best["random"]


def test_the_telling_part_is_hit_by_what_looks_at_it(guide: Manifest, darkroom: Darkroom) -> None:
    test = [i for i in guide.split("test") if guide.entries[i].label == 2 and "crown" in guide.entries[i].parts]
    entries = {index: guide.entries[index] for index in test}
    bird = darkroom.guide.bird(guide.entries[test[0]])
    places = {index: darkroom.placement(darkroom.guide.bird(entry)) for index, entry in entries.items()}
    examiner = Examiner(darkroom.subject, ["cam", "centre"], entries, places, guide=darkroom.guide)
    images = torch.cat([darkroom.images(darkroom.guide.bird(entry), [()]) for entry in entries.values()])

    class Batch:
        entries = torch.tensor(test)
        labels = torch.full((len(test),), 2)

    Batch.images = images
    rows = examiner(Batch)
    right = rows["predicted"] == 2
    assert bird.label == 2
    assert right.sum() >= 2
    # Against the runner-up, class 0, the crown tells; where the classifier is wrong nothing is asked.
    assert rows["cam/telling"][right].mean() == 1
    assert rows["centre/telling"][right].mean() < 0.5
    assert np.isnan(rows["cam/telling"][~right]).all()
    assert rows["cam/pointing"][right].mean() > 0.9
    assert rows["cam/map"].shape == (len(test), 56, 56)
