"""Similarity maps: targets of similar response lie together, and each place shows its own image."""

from typing import Any

import h5py
import numpy as np
import pytest
from atlases import FAMILIES, made_up
from pages import Visit, at, check_access, check_paper
from screens import SHEETS_LAID, Gallery, boxes, crop, distinct, screenshot

from layer_atlas.atlas.reader import open_atlas
from layer_atlas.presentation.similarity import lay_out
from layer_atlas.presentation.site.make import make_site
from layer_atlas.store.folder import OutputFolder

MANY, SPREAD, FEW = "many", "spread", "few"
COUNTS = {MANY: 100, SPREAD: 600, FEW: 12}
MISSING = 7


@pytest.fixture(scope="module")
def browsed(tmp_path_factory: pytest.TempPathFactory) -> OutputFolder:
    root = tmp_path_factory.mktemp("points") / "atlas"
    made_up(root, COUNTS, (0,), {MISSING: "missing"}, shard_size=1)
    folder = OutputFolder(root)
    with h5py.File(folder.atlas, "a") as file:
        for number, (name, count) in enumerate(COUNTS.items()):
            group = file["toy"][name]
            del group["image"]
            group["image"] = distinct(count, (32, 32), number)[:, None]
            if name != MANY:
                _spread(group)
    make_site(folder, None, "pca")
    return folder


def _spread(group: h5py.Group) -> None:
    """Make responses that no target shares with another, so that the targets lie apart."""
    responses = group["response"][:]
    noise = np.random.default_rng(0).normal(size=responses.shape)
    group["response"][...] = np.where(np.isfinite(responses), noise, np.nan)


@pytest.fixture(scope="module")
def galleries(browsed: OutputFolder) -> dict[str, Gallery[int]]:
    with h5py.File(browsed.atlas) as file:
        images = {name: file["toy"][name]["image"][:, 0] for name in COUNTS}
    return {name: Gallery(dict(enumerate(shown))) for name, shown in images.items()}


def places(browsed: OutputFolder, name: str) -> Any:
    with open_atlas(browsed.atlas) as atlas:
        layer = atlas[name]
        return lay_out(layer, layer.leads(), "pca")


# --- where they lie -------------------------------------------------------------------------------


@pytest.mark.slow
def test_principal_components_are_those_of_standardized_responses(browsed: OutputFolder) -> None:
    with h5py.File(browsed.atlas) as file:
        responses = file["toy"][FEW]["response"][:, 0].astype(float)
    made = np.isfinite(responses).all(axis=1)
    rows = responses[made] - responses[made].mean(axis=0)
    rows /= rows.std(axis=0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    centred = rows - rows.mean(axis=0)
    found = places(browsed, FEW)
    assert np.isnan(found[~made]).all()
    for axis, direction in enumerate(np.linalg.svd(centred)[2][:2]):
        along = np.corrcoef(centred @ direction, found[made, axis])[0, 1]
        # Points beyond the outermost hundredth are moved to the edge.
        assert abs(along) > 0.99


@pytest.mark.parametrize(
    "projection", ["pca", "tsne", pytest.param("umap", marks=pytest.mark.slow)]
)
def test_targets_of_similar_response_lie_together(browsed: OutputFolder, projection: Any) -> None:
    with open_atlas(browsed.atlas) as atlas:
        layer = atlas[MANY]
        found = lay_out(layer, layer.leads(), projection)
    made = np.isfinite(found).all(axis=1)
    assert made.sum() == COUNTS[MANY] - 1
    assert found[made].min() >= 0
    assert found[made].max() <= 1
    family = np.arange(len(found)) % FAMILIES
    middles = np.stack([found[made & (family == k)].mean(axis=0) for k in range(FAMILIES)])
    apart = np.linalg.norm(found[:, None] - middles, axis=2)
    assert np.mean(apart[made].argmin(axis=1) == family[made]) > 0.9


# --- in a browser ---------------------------------------------------------------------------------


def elements(visit: Visit, gallery: Gallery[int]) -> dict[int, int | None]:
    """What is seen in each element that no other one covers, by its row."""
    visit.until(SHEETS_LAID)
    shot = screenshot(visit)
    (frame,) = boxes(visit, ".plane")
    rows = visit.page.eval_on_selector_all(".cell", "(all) => all.map((a) => +a.dataset.row)")
    found = dict(zip(rows, boxes(visit, ".cell .picture"), strict=True))
    return {
        row: gallery.seen(crop(shot, box), 0.7)
        for row, box in found.items()
        if inside(box, frame) and not any(overlap(box, b) for r, b in found.items() if r != row)
    }


def inside(box: Any, frame: Any) -> bool:
    return bool(box[0] > frame[0] and box[1] > frame[1] and box[2] < frame[2] and box[3] < frame[3])


def overlap(a: Any, b: Any) -> bool:
    return bool(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])


@pytest.mark.slow
def test_close_by_every_element_shows_the_image_of_its_row(
    visit: Visit, galleries: dict[str, Gallery[int]]
) -> None:
    visit.page.set_viewport_size({"width": 2400, "height": 1700})
    visit.go(at(FEW, query="view=map&at=0.5,0.5,1.1"))
    visit.page.evaluate("document.activeElement.blur()")
    seen = elements(visit, galleries[FEW])
    assert len(seen) >= 5
    assert all(shown == row for row, shown in seen.items())
    assert MISSING not in seen


@pytest.mark.slow
def test_far_away_the_canvas_shows_each_image_at_its_place(
    visit: Visit, browsed: OutputFolder, galleries: dict[str, Gallery[int]]
) -> None:
    visit.go(at(SPREAD, query="view=map&at=0.5,0.5,2"))
    visit.until("now.wall.small.complete && now.wall.small.naturalWidth")
    visit.page.evaluate("now.wall.draw()")
    check_canvas(visit, places(browsed, SPREAD), galleries[SPREAD], 2)


def check_canvas(visit: Visit, found: Any, gallery: Gallery[int], zoom: int) -> None:
    """Check that points that nothing covers show their images at their places."""
    assert len(boxes(visit, ".cell")) <= 2, "these are not drawn on the canvas"
    shot = screenshot(visit)
    (frame,) = boxes(visit, ".plane")
    size = visit.page.evaluate("now.wall.size")
    side = zoom * min(frame[2] - frame[0] - 2, frame[3] - frame[1] - 2)
    middle = [(frame[0] + frame[2]) / 2, (frame[1] + frame[3]) / 2]
    centres = middle + (size / 2 + found * (side - size) - side / 2)
    seen = {}
    for row, centre in enumerate(centres):
        box = (*(centre - size / 2), *(centre + size / 2))
        # What is drawn later lies on top.
        later = np.abs(centres[row + 1 :] - centre).max(axis=1) < size
        if np.isfinite(centre).all() and inside(box, frame) and not later.any():
            seen[row] = gallery.seen(crop(shot, box), 0.6)
    assert len(seen) > 30
    wrong = {row: shown for row, shown in seen.items() if shown != row}
    assert len(wrong) <= 1, wrong  # the one with the focus is an element


def test_a_page_has_the_whole_map_of_channels(
    visit: Visit, browsed: OutputFolder, galleries: dict[str, Gallery[int]]
) -> None:
    visit.go(at(SPREAD, query="view=map"))
    visit.until("now.wall.small.complete && now.wall.small.naturalWidth")
    visit.to_paper()
    check_paper(visit)
    (frame,), (canvas,) = boxes(visit, ".plane"), boxes(visit, ".plane canvas")
    assert frame[2] - frame[0] > 690
    assert canvas == pytest.approx((frame[0] + 1, frame[1] + 1, frame[2] - 1, frame[3] - 1), abs=1)
    # Fine enough for paper.
    assert visit.page.evaluate("now.wall.canvas.width") > 2000
    assert visit.printed_pages() == 1
    assert visit.page.locator(".plane.paper").count() == 0
    visit.reset()
    visit.go(at(SPREAD, query="view=map&at=0.5,0.5,2"))
    visit.until("now.wall.small.complete && now.wall.small.naturalWidth")
    visit.to_paper()
    check_canvas(visit, places(browsed, SPREAD), galleries[SPREAD], 2)


def test_elements_of_a_map_of_channels_print_with_what_was_chosen(
    visit: Visit, galleries: dict[str, Gallery[int]]
) -> None:
    visit.go(at(FEW, query="view=map&chosen=3"))
    visit.page.wait_for_selector(".cellinfo h2")
    visit.until(SHEETS_LAID)
    visit.to_paper()
    check_paper(visit)
    (frame,) = boxes(visit, ".plane")
    for box in boxes(visit, ".cell"):
        assert box[0] >= frame[0] - 1
        assert box[1] >= frame[1] - 1
        assert box[2] <= frame[2] + 1
        assert box[3] <= frame[3] + 1
    assert elements(visit, galleries[FEW]).items() <= {k: k for k in range(12)}.items()
    (picture,) = boxes(visit, ".cellinfo > .picture")
    assert galleries[FEW].seen(crop(screenshot(visit), picture)) == 3
    assert visit.printed_pages() == 1


def test_a_click_on_the_canvas_chooses_what_lies_there(
    visit: Visit, browsed: OutputFolder, galleries: dict[str, Gallery[int]]
) -> None:
    visit.go(at(SPREAD, query="view=map&at=0.5,0.5,2"))
    (frame,) = boxes(visit, ".plane")
    middle = (frame[0] + frame[2]) / 2, (frame[1] + frame[3]) / 2
    found = places(browsed, SPREAD)
    row = int(np.nanargmin(np.linalg.norm(found - 0.5, axis=1)))
    side = visit.page.evaluate("now.wall.side") - visit.page.evaluate("now.wall.size")
    where = np.asarray(middle) + (found[row] - 0.5) * side
    visit.page.mouse.click(*where.tolist())
    visit.until("document.querySelector('.cellinfo h2')")
    chosen = int(visit.texts(".cellinfo h2")[0])
    assert np.abs(found[chosen] - found[row]).max() * side <= visit.page.evaluate("now.wall.size")
    assert f"chosen={chosen}" in visit.hash
    visit.until(SHEETS_LAID)
    (picture,) = boxes(visit, ".cellinfo > .picture")
    assert galleries[SPREAD].seen(crop(screenshot(visit), picture)) == chosen


@pytest.mark.slow
def test_the_address_of_a_map_shows_it_again_and_tiles_lead_to_it(visit: Visit) -> None:
    visit.go(at(FEW))
    visit.page.click(".switch")
    visit.settle()
    assert "view=map" in visit.hash
    visit.page.focus(".cell[tabindex='0']")
    visit.page.keyboard.press("ArrowRight")
    visit.page.keyboard.press("+")
    visit.page.keyboard.press("Enter")
    visit.until("document.querySelector('.cellinfo h2')")
    address, chosen = visit.hash, visit.texts(".cellinfo h2")
    visit.reset()
    visit.go(address)
    visit.until("document.querySelector('.cellinfo h2')")
    assert visit.texts(".cellinfo h2") == chosen


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(360, 740), (1280, 800), (3840, 2160)])
def test_axe_finds_nothing_and_nothing_sticks_out(
    visit: Visit, width: int, height: int, scheme: Any
) -> None:
    visit.page.set_viewport_size({"width": width, "height": height})
    visit.page.emulate_media(color_scheme=scheme)
    visit.go(at(FEW, query="view=map&chosen=3"))
    visit.until("document.querySelector('.cellinfo h2')")
    check_access(visit, scheme)
