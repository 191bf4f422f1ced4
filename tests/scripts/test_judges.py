"""The judges of fidelity, on cases whose numbers are known."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from judges.agreement import agreement_judge
from judges.naming import count_right, read_answers, shuffled, wilson_interval
from judges.photographs import read_classes
from judges.recognition import own_photograph_rank, recognised
from judges.reproducibility import seed_similarity
from judges.spectrum import OCTAVES, octave_ratios
from numpy.typing import NDArray

from layer_atlas.datasets.evidence import feature_space
from layer_atlas.errors import UserError

DRAW = np.random.default_rng(0)

# --- agreement -----------------------------------------------------------------------------------


def groups(seed: int = 0, noise: float = 0.2) -> NDArray[np.float32]:
    """Responses (60, 6) of channels to photographs: channels 2k and 2k + 1 share theirs."""
    draw = np.random.default_rng(seed)
    responses = noise * draw.random((60, 6))
    for channel in range(6):
        responses[channel // 2 * 20 : channel // 2 * 20 + 20, channel] += 1.0
    return responses.astype(np.float32)


def test_the_ceiling_leaves_the_strongest_photograph_out() -> None:
    responses = np.zeros((30, 4), np.float32)
    # Channel 0: one outlier that excites channel 1, and nine photographs that excite channel 2.
    responses[0], responses[1:10] = [9, 5, 0, 0], [5, 0, 5, 0]
    responses[10:20, 3] = 5
    judge = agreement_judge(responses)
    ceiling = judge.ceiling(np.array([0]))
    assert judge.strongest_photograph(np.array([0])).tolist() == [0]
    assert ceiling["agreement_next"] < 0 < ceiling["agreement"]
    image = judge.judge(np.array([[0, 0, 5, 0]], np.float32), np.array([0]))
    assert image["agreement_next"] > 0.99
    assert image["agreement_next"] > image["agreement"]


def test_photographs_that_agree_set_a_high_ceiling() -> None:
    ceiling = agreement_judge(groups()).ceiling(np.arange(6))
    assert ceiling["agreement_next"].min() > 0.9
    assert ceiling["rank_next"].max() <= 2  # its twin has the same photographs


# --- recognition ---------------------------------------------------------------------------------


def test_a_class_is_recognised_by_the_largest_output() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]], np.float32))
    top, probability = recognised(logits, np.array([0, 1]))
    assert top.tolist() == [True, False]
    assert probability == pytest.approx([0.7, 0.3], abs=1e-6)


def test_large_outputs_have_a_probability() -> None:
    _, probability = recognised(np.array([[1e4, 0.0]], np.float32), np.array([0]))
    assert probability.tolist() == [1.0]


def test_the_own_photograph_is_ranked_among_those_of_other_classes() -> None:
    photographs = np.array([[1, 0], [0.9, 0.1], [0, 1], [-1, 0], [0, -1]])
    space = feature_space(photographs)
    classes = np.array([7, 8, 9, 10, 11])
    images = np.array([[1, 0], [0, 1], [-1, 0]]).astype(np.float32)
    percentile, rank = own_photograph_rank(space, images, np.array([7, 9, 7]), classes)
    cosines = space.cosines(images)
    for row, own in enumerate((0, 2, 0)):
        others = np.delete(cosines[row], own)
        assert percentile[row] == (others < cosines[row, own]).mean()
        assert rank[row] == 1 + (others > cosines[row, own]).sum()
    assert rank[1] == 1
    assert percentile[1] == 1
    assert percentile[2] == 0


def test_chance_is_a_half_and_a_class_without_photographs_has_no_rank() -> None:
    space = feature_space(DRAW.normal(size=(40, 8)))
    grey = np.repeat(space.mean[None], 2, axis=0)
    percentile, _ = own_photograph_rank(space, grey, np.array([3, 99]), np.arange(40))
    assert percentile[0] == 0.5
    assert math.isnan(percentile[1])


def test_photographs_of_the_own_class_do_not_compete() -> None:
    space = feature_space(np.array([[1.0, 0], [0.8, 0.1], [0, 1], [-1, 0]]))
    image = np.array([[1.0, 0]], np.float32)
    percentile, rank = own_photograph_rank(space, image, np.array([1]), np.array([1, 1, 2, 3]))
    assert (percentile[0], rank[0]) == (1, 1)


# --- spectrum ------------------------------------------------------------------------------------


def wave(cycles: int, size: int = 128, amplitude: float = 40.0) -> torch.Tensor:
    line = 127.5 + amplitude * torch.cos(2 * math.pi * cycles * torch.arange(size) / size)
    return line.expand(size, size)[:, :, None].repeat(1, 1, 3).round().to(torch.uint8)[None]


def test_energy_is_counted_in_its_octave_alone() -> None:
    # Upper borders belong to an octave, lower ones do not.
    bases = [wave(round(high * 128)) for _, high in OCTAVES]
    photographs = torch.cat(bases)
    for octave, image in enumerate(bases):
        ratios = octave_ratios(image, photographs)
        assert ratios[octave] == pytest.approx(len(OCTAVES), rel=0.01)
        others = [float(r) for i, r in enumerate(ratios) if i != octave]
        assert max(others) < 0.02


def test_energy_is_two_sided_and_quadratic() -> None:
    ratios = octave_ratios(wave(20, amplitude=80.0), wave(20, amplitude=40.0))
    assert ratios[3] == pytest.approx(4.0, rel=0.03)
    ratios = octave_ratios(wave(20, amplitude=20.0), wave(20, amplitude=40.0))
    assert ratios[3] == pytest.approx(0.25, rel=0.03)


def test_brightness_has_no_energy_and_sizes_must_agree() -> None:
    brighter = octave_ratios(wave(20) + 40, wave(20))
    assert brighter[3] == pytest.approx(1.0, rel=1e-3)
    with pytest.raises(ValueError, match="differs between images"):
        octave_ratios(wave(20), wave(20, size=64))


# --- reproducibility -----------------------------------------------------------------------------


def test_two_seeds_are_compared_without_the_targets() -> None:
    # (seeds, targets, channels): beyond the targets 0 and 1, seeds agree and targets are opposite.
    one = np.array([[9.0, 0, 1, 2], [0, 9.0, -1, -2]])
    two = np.array([[-9.0, 5, 2, 4], [5, -9.0, -2, -4]])
    same, different = seed_similarity(np.stack([one, two]), np.array([0, 1]))
    # The image of target 1 still has its response to channel 0 where the control excludes both.
    assert different == pytest.approx([-1, -1])
    left, right = np.array([0.0, 1, 2]), np.array([5.0, 2, 4])
    expected = left @ right / np.linalg.norm(left) / np.linalg.norm(right)
    assert same == pytest.approx([expected, expected])


def test_one_seed_has_nothing_to_compare() -> None:
    same, different = seed_similarity(np.ones((1, 3, 5)), np.arange(3))
    assert np.isnan(same).all()
    assert np.isnan(different).all()
    _, alone = seed_similarity(np.ones((2, 1, 5)), np.arange(1))
    assert np.isnan(alone).all()


# --- naming --------------------------------------------------------------------------------------

NAMES = ["tench", "goldfish", "great white shark", "hen"]


def test_tiles_and_names_are_shuffled_apart() -> None:
    names = [f"class {number}" for number in range(20)]
    order, listed = shuffled(names, 3)
    assert sorted(order) == list(range(20))
    assert sorted(listed) == sorted(names)
    assert [names[number] for number in order] != listed != names
    assert shuffled(names, 3) == (order, listed) != shuffled(names, 4)


def test_answers_are_read_as_people_write_them() -> None:
    text = "1 tench\n2: Goldfish\n\n3, great white shark\n 4. ?\n"
    answers = read_answers(text, NAMES)
    assert answers == {1: "tench", 2: "goldfish", 3: "great white shark", 4: ""}


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("tench", "'tench' is not understood"),
        ("1 tench\n1 hen", "tile 1 is answered twice"),
        ("1 goldfsh", "choose from: goldfish"),
    ],
)
def test_a_mistake_in_the_answers_is_reported(text: str, reported: str) -> None:
    with pytest.raises(UserError, match=reported):
        read_answers(text, NAMES)


def test_right_answers_are_counted_and_missing_ones_are_wrong() -> None:
    key = dict(enumerate(NAMES, 1))
    assert count_right(key, {1: "tench", 2: "hen", 4: ""}) == 1
    with pytest.raises(UserError, match="unknown tile 5"):
        count_right(key, {5: "hen"})


def test_the_interval_is_wilsons() -> None:
    # By hand for 8 of 10 and z = 1.96: (0.8 + 0.19208) / 1.38416 -+ 0.2265...
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    low, high = wilson_interval(16, 16)
    assert high == 1
    assert 0.8 < low < 0.81
    assert wilson_interval(0, 16)[0] == 0


# --- classes of photographs ----------------------------------------------------------------------


def test_classes_are_read_from_json_and_csv(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"x.jpg": 4, "y.jpg": 2, "z.jpg": 9}')
    (tmp_path / "a.csv").write_text("file,class\nx.jpg,4\ny.jpg,2\n")
    (tmp_path / "b.csv").write_text("x.jpg,4\ny.jpg,2\n")
    for name in ("a.json", "a.csv", "b.csv"):
        assert read_classes(tmp_path / name, ("y.jpg", "x.jpg")).tolist() == [2, 4]


@pytest.mark.parametrize(
    ("name", "text", "reported"),
    [
        ("a.csv", "x.jpg,4\n", "has no class for 1 of 2 photographs, 'y.jpg'"),
        ("a.csv", "x.jpg,4,5\n", "has 3 values instead of 2"),
        ("a.csv", "x.jpg,4\ny.jpg,two\n", "invalid literal"),
        ("a.json", "[1, 2]", "Give a JSON object"),
        ("b.json", None, "No such file"),
    ],
)
def test_a_mistake_in_the_classes_is_reported(
    tmp_path: Path, name: str, text: str | None, reported: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=reported):
        read_classes(tmp_path / name, ("x.jpg", "y.jpg"))
