"""Weights on a channel's page: numbers, pictures and kernels are those of the atlas."""

import h5py
import numpy as np
import pytest
from atlases import made_up
from numpy.typing import NDArray
from pages import Visit, at
from screens import SHEETS_LAID, Gallery, boxes, crop, distinct, screenshot

from layer_atlas.atlas.dataset_group import write_connections
from layer_atlas.atlas.layers import Layer
from layer_atlas.atlas.reader import open_atlas
from layer_atlas.errors import UserError
from layer_atlas.presentation.site.make import make_site
from layer_atlas.store.connections import Connections
from layer_atlas.store.folder import OutputFolder

FIRST, BESIDE, LAST, GATED = "first", "beside", "last", "gated"
COUNTS = {FIRST: 12, BESIDE: 6, LAST: 10, GATED: 4}
ELSEWHERE = 40
"""A channel of `beside` without an image in the atlas."""
MOST = 3


def _connections() -> Connections:
    """Channel k of `last`: k and k + 1 of `first` excite it, two of `beside` inhibit it."""
    n, width = COUNTS[LAST], 2 * MOST
    source, channel = np.full((2, n, width), -1, np.int32)
    share, kernel = np.zeros((n, width), np.float32), np.zeros((n, width, 3, 3), np.float32)
    for k in range(n):
        source[k, [0, 1]], channel[k, [0, 1]] = 0, (k, k + 1)
        source[k, [MOST, MOST + 1]], channel[k, [MOST, MOST + 1]] = 1, (k % 6, ELSEWHERE)
        share[k, [0, 1, MOST, MOST + 1]] = (0.4, 0.1, 0.25, 0.2)
        kernel[k, 0, 0, 0], kernel[k, 0, 2, 1] = 1.0, -0.5
        kernel[k, 1, 1, 1] = 0.25
        kernel[k, MOST], kernel[k, MOST + 1, 2, 2] = -0.1, -0.75
    weight = kernel.sum(axis=(2, 3))
    return Connections((FIRST, BESIDE), source, channel, weight, share, kernel)


@pytest.fixture(scope="module")
def browsed(tmp_path_factory: pytest.TempPathFactory) -> OutputFolder:
    folder = OutputFolder(tmp_path_factory.mktemp("connected") / "atlas")
    made_up(folder.root, COUNTS)
    with h5py.File(folder.atlas, "a") as file:
        for number, (name, count) in enumerate(COUNTS.items()):
            group = file["toy"][name]
            del group["image"]
            group["image"] = distinct(count, (32, 32), number)[:, None]
        write_connections(file["toy"][LAST], _connections())
        nothing = np.zeros((COUNTS[GATED], 2, 1, 1), np.float32)
        none = np.full(nothing.shape[:2], -1, np.int32)
        zeros, why = nothing[..., 0, 0], {LAST: "a product of two responses"}
        gated = Connections((), none, none, zeros, zeros, nothing, refused=why)
        write_connections(file["toy"][GATED], gated)
    make_site(folder)
    return folder


@pytest.fixture(scope="module")
def gallery(browsed: OutputFolder) -> Gallery[tuple[str, int]]:
    with h5py.File(browsed.atlas) as file:
        return Gallery(
            {
                (name, channel): file["toy"][name]["image"][channel, 0]
                for name, count in COUNTS.items()
                for channel in range(count)
            }
        )


# --- in Python ------------------------------------------------------------------------------------


@pytest.fixture
def layers(browsed: OutputFolder) -> dict[str, Layer]:
    return open_atlas(browsed.atlas).models["toy"].layers


def test_inputs_come_by_share_with_their_kernels(layers: dict[str, Layer]) -> None:
    found = layers[LAST].connections.incoming(4)
    assert [(c.layer, c.channel) for c in found] == [
        *((FIRST, 4), (BESIDE, 4), (BESIDE, ELSEWHERE), (FIRST, 5))
    ]
    assert [c.weight for c in found] == pytest.approx([0.5, -0.9, -0.75, 0.25])
    assert found[0].kernel[0, 0] == 1
    assert layers[FIRST].connections.incoming(4) == []


def test_outputs_are_inputs_the_other_way_round(layers: dict[str, Layer]) -> None:
    found = layers[FIRST].connections.outgoing(4)
    assert [(c.layer, c.channel, c.share) for c in found] == [
        (LAST, 4, pytest.approx(0.4)),
        (LAST, 3, pytest.approx(0.1)),
    ]
    assert layers[LAST].connections.outgoing(4) == []
    with pytest.raises(UserError, match="channel"):
        layers[LAST].connections.outgoing(400)


def test_all_pairs_as_a_table(layers: dict[str, Layer]) -> None:
    pytest.importorskip("pandas")
    table = layers[LAST].connections.to_frame()
    assert len(table) == 4 * COUNTS[LAST]
    assert set(table["source_layer"]) == {FIRST, BESIDE}
    assert table["share"].groupby(table["channel"]).sum().tolist() == pytest.approx([0.95] * 10)


def test_weights_are_no_statistics_of_images(layers: dict[str, Layer]) -> None:
    assert not any(name.startswith("connections") for name in layers[LAST].statistics)


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("source", np.full((10, 6), 7, np.int32)),
        ("share", np.zeros((10, 5), np.float32)),
        ("kernel", np.zeros((10, 6, 99, 3), np.float32)),
        ("weight", np.zeros((10, 6), np.int32)),
    ],
)
def test_impossible_weights_are_refused(
    browsed: OutputFolder, name: str, made: NDArray[np.float32]
) -> None:
    copy = browsed.root / f"{name}.h5"
    copy.write_bytes(browsed.atlas.read_bytes())
    with h5py.File(copy, "a") as file:
        group = file["toy"][LAST]["connections"]
        del group[name]
        group[name] = made
    with open_atlas(copy) as atlas, pytest.raises(UserError, match="impossible"):
        atlas[LAST].connections.incoming(0)
    copy.unlink()


# --- in a browser ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_picture_is_that_of_the_channel_it_names(
    visit: Visit, gallery: Gallery[tuple[str, int]]
) -> None:
    visit.go(at(LAST, 4))
    visit.until(f"document.querySelectorAll('a.tile .picture').length > 2 && {SHEETS_LAID}")
    assert visit.texts(".connections .label") == [
        *("first 4", "first 5", "beside 4", f"beside {ELSEWHERE}")
    ]
    assert visit.texts(".connections .quiet") == [
        *("+0.500 · 40.0 %", "+0.250 · 10.0 %", "−0.900 · 25.0 %", "−0.750 · 20.0 %")
    ]
    shot = screenshot(visit, whole=True)
    seen = [gallery.seen(crop(shot, box)) for box in boxes(visit, ".connections .picture")]
    assert seen == [(FIRST, 4), (FIRST, 5), (BESIDE, 4), None]
    links = visit.page.eval_on_selector_all(".connections a", "(all) => all.map((a) => a.hash)")
    assert links == [at(FIRST, 4), at(FIRST, 5), at(BESIDE, 4)]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_kernel_has_the_colours_of_its_signs(visit: Visit, scheme: str) -> None:
    visit.page.emulate_media(color_scheme=scheme)
    visit.go(at(LAST, 4))
    shot = screenshot(visit, whole=True)
    kernel = crop(shot, boxes(visit, ".connections .kernel")[0]).astype(int)
    side = len(kernel) // 3

    def at_position(row: int, column: int) -> NDArray[np.int64]:
        middle = side // 2
        return kernel[row * side + middle, column * side + middle]

    positive, negative, nothing = at_position(0, 0), at_position(2, 1), at_position(1, 1)
    assert positive[2] - positive[0] > 100  # blue
    assert negative[0] - negative[2] > 40  # orange, of half the strength
    assert np.ptp(nothing) < 12
    assert np.abs(positive - nothing).sum() > np.abs(negative - nothing).sum()


def test_outputs_are_shown_on_the_page_of_an_input(visit: Visit) -> None:
    visit.go(at(FIRST, 4))
    assert visit.texts(".connections .label") == ["last 4", "last 3"]
    visit.page.locator(".connections a").first.click()
    visit.settle()
    assert visit.hash == at(LAST, 4)


def test_what_has_no_weights_says_why(visit: Visit) -> None:
    visit.go(at(GATED, 1))
    (note,) = (text for text in visit.texts(".note") if "No weights" in text)
    assert note.startswith("No weights from last (a product of two responses)")


def test_the_section_fits_a_narrow_window(visit: Visit) -> None:
    visit.page.set_viewport_size({"width": 360, "height": 800})
    visit.go(at(LAST, 4))
    assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert all(box[2] <= 360 for box in boxes(visit, ".connections li"))
