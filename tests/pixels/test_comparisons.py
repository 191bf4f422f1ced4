"""Figures of comparisons as they lie on disk: each picture and number is that of its channel."""

import h5py
import numpy as np
import pytest
import torch
from compared import CHANNELS, collated, network, permuted, responses, stored
from screens import Gallery, distinct

from layer_atlas.atlas.comparison import (
    Similarity,
    compare_layers,
    encode_comparison,
    paired_layers,
)
from layer_atlas.config.outputs import ComparisonFigure
from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.make import make_figure
from layer_atlas.store.folder import OutputFolder
from tests.pixels.drawings import Figure, Pixels
from tests.pixels.test_figure_images import below

ORDER = torch.randperm(CHANNELS, generator=torch.Generator().manual_seed(1))
NAMES = ("base", "shuffled")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[OutputFolder]:
    """A network, and the same with permuted channels; every image differs from all others."""
    root = tmp_path_factory.mktemp("comparisons")
    rows = responses(network(3)), responses(permuted(network(3), ORDER))
    made = [collated(stored(root / n, r)) for n, r in zip(NAMES, rows, strict=True)]
    for number, folder in enumerate(made):
        with h5py.File(folder.atlas, "a") as file:
            file["toy/block.conv/image"][:, 0] = distinct(CHANNELS, (16, 16), 70 + number)
    return made


@pytest.fixture(scope="module")
def similarity(folders: list[OutputFolder]) -> Similarity:
    """The similarity, and its file in the folder of the first."""
    pairs = paired_layers(*folders)
    found = dict(compare_layers(pairs))
    folders[0].figures.mkdir()
    (folders[0].figures / "compare-shuffled.h5").write_bytes(
        encode_comparison(("base", "shuffled"), pairs, found)
    )
    return found["block.conv"]


def test_channels_stand_beside_their_counterpart_and_their_match(
    folders: list[OutputFolder], similarity: Similarity
) -> None:
    make_figure(folders[0], ComparisonFigure(formats=("svg",), dpi=100, most=4, least=2))
    page = Figure((folders[0].figures / "comparison.svg").read_bytes())
    images: dict[tuple[str, int], Pixels] = {}
    for name, folder in zip(NAMES, folders, strict=True):
        with h5py.File(folder.atlas) as file:
            stored_images = file["toy/block.conv/image"][:, 0]
        images |= {(name, k): pixels for k, pixels in enumerate(stored_images)}
    pictures = sorted(page.pictures, key=lambda p: (round(p.top), p.left))
    gallery = Gallery(images)
    seen = [gallery.seen(picture.pixels) for picture in pictures]
    order = np.argsort(similarity.by_index, kind="stable").tolist()
    shown = [*order[:4], *order[4:][::-1][:2]]
    assert seen == [
        image
        for k in shown
        for image in (("base", k), ("shuffled", k), ("shuffled", int(similarity.match[k])))
    ]
    methods = (folders[0].figures / "comparison.methods.md").read_text()
    with h5py.File(folders[1].atlas) as file:
        assert file["toy"].attrs["weights_sha256"][:12] in methods.partition("shuffled: ")[2]
    written = [below(picture, page.words) for picture in pictures]
    assert written == [
        text
        for k in shown
        for text in ([], [f"{similarity.by_index[k]:.2f}"], [f"{similarity.match[k]}: 1.00"])
    ]


def test_what_is_no_comparison_is_refused(
    folders: list[OutputFolder], similarity: Similarity
) -> None:
    with pytest.raises(UserError, match=r"'nowhere\.h5' is no file; `atlas compare A B` makes one"):
        make_figure(folders[0], ComparisonFigure(path="nowhere.h5"))
    with pytest.raises(UserError, match="is no comparison of schema"):
        make_figure(folders[0], ComparisonFigure(path=str(folders[0].atlas)))
    with pytest.raises(UserError, match=r"there is no comparison in .*`atlas compare A B` makes"):
        make_figure(folders[1], ComparisonFigure())
