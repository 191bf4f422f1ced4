"""What is nearly the same and what is like nothing is told by name."""

from pathlib import Path

import h5py
from atlases import made_up

from layer_atlas import open_atlas
from layer_atlas.presentation.figures.captions import similarity_caption
from layer_atlas.presentation.figures.selection import LayerData, Selection


def test_twins_and_loners_are_named_and_the_dead_are_not(tmp_path: Path) -> None:
    file = made_up(tmp_path, {"a": 20}, status={3: "dead"}, shard_size=1)
    with h5py.File(file, "a") as atlas:
        response = atlas["toy/a/response"]
        response[17] = response[4]
        response[6] = -response[5:20].mean(axis=0)
    shown = LayerData(open_atlas(file)["toy/a"])
    alike, alone = similarity_caption(Selection(shown, tuple(range(20))))
    assert alike.startswith("the most similar pairs are 4 and 17 (1.00), ")
    assert alone.startswith("the channels least similar to any other are 6 (")
    assert " 3 " not in alike + alone
    assert list(similarity_caption(Selection(shown, (1, 2, 3, 4)))) == []  # few: all is seen
