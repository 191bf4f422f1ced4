"""Pictures of the documentation are of the commands above them."""

import numpy as np
import pytest
from docs_images import DOCS, draw_scene, pictures

KINDS = {"objectives": "images/objectives/", "figures": "images/figures/"}


@pytest.mark.parametrize("page", KINDS)
def test_each_picture_of_a_page_is_there_and_has_a_command(page: str) -> None:
    found = list(pictures(DOCS / f"{page}.md"))
    files = {f"{KINDS[page]}{path.name}" for path in (DOCS / KINDS[page]).iterdir()}
    assert {picture.path for picture in found} == files
    assert all(picture.command for picture in found)


def test_a_picture_is_of_the_command_right_above_it() -> None:
    commands = {picture.name: picture.command for picture in pictures(DOCS / "objectives.md")}
    assert "objective=neuron" in commands["neuron"]
    assert "objective.sign=both" in commands["channel"]
    assert "objective.images=6" in commands["interpolation"]


def test_the_scene_is_the_same_every_time() -> None:
    assert np.array_equal(np.asarray(draw_scene()), np.asarray(draw_scene()))
