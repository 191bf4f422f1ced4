"""The map of an activation atlas in a browser: each cell shows its image, and what is in it."""

import io
from itertools import count
from typing import Any

import h5py
import numpy as np
import pytest
from atlases import made_up
from pages import Visit, at, check_access, check_paper
from PIL import Image
from screens import SHEETS_LAID, Box, Gallery, boxes, crop, distinct, screenshot

from layer_atlas.presentation.site.make import make_site
from layer_atlas.store.folder import OutputFolder

GRIDS = (4, 12)
CELLS = 80
"""Populated ones: 12 of the coarse grid, the others of the fine one."""
COARSE = 12
SAMPLES, MEMBERS = 30, 4
VIEW, POSITIONS, FIELD = 128, (4, 8), 48
"""Pixels of the view, positions of the layer, and the side of what each depends on; those of even
rows depend on the whole view."""
LAYER = "mapped"
CLASSES = ("cat", "dog", "<b>tree")


@pytest.fixture(scope="module")
def browsed(tmp_path_factory: pytest.TempPathFactory) -> OutputFolder:
    root = tmp_path_factory.mktemp("mapped") / "atlas"
    made_up(root, {LAYER: CELLS}, shard_size=64)
    folder = OutputFolder(root)
    with h5py.File(folder.atlas, "a") as file:
        _make_map(file["toy"][LAYER])
    make_site(folder)
    return folder


def _make_map(group: h5py.Group) -> None:
    rng = np.random.default_rng(0)
    cells = [
        start + np.sort(rng.choice(side * side, n, replace=False))
        for start, side, n in zip((0, 16), GRIDS, (COARSE, CELLS - COARSE), strict=True)
    ]
    target = np.concatenate(cells)
    side = np.repeat(GRIDS, [COARSE, CELLS - COARSE])
    group["channel"][...] = target
    del group["image"]
    group["image"] = distinct(CELLS, (32, 32), 1)[:, None]
    group["grid"] = np.asarray(GRIDS)
    place = target - np.where(side == GRIDS[1], 16, 0)
    group["cell_grid"], group["cell_row"] = side.astype(np.int32), (place // side).astype(np.int32)
    group["cell_column"] = (place % side).astype(np.int32)
    group["cell_count"] = rng.integers(1, 30, CELLS).astype(np.int32)
    group["cell_channel"] = rng.integers(0, 64, (CELLS, 3)).astype(np.int32)
    group["cell_channel_value"] = np.sort(rng.uniform(1, 9, (CELLS, 3)))[:, ::-1].astype(np.float32)
    group["cell_class"] = np.stack([rng.permutation(3)[:2] for _ in range(CELLS)])
    group["cell_class_attribution"] = np.asarray([[2.5, 0.5]] * CELLS, np.float32)
    names = np.asarray(CLASSES, object)
    group.create_dataset("class_name", data=names, dtype=h5py.string_dtype())
    member = np.stack([rng.permutation(SAMPLES)[:MEMBERS] for _ in range(CELLS)])
    member[::2, 3] = -1
    group["cell_member"] = member
    paths = np.asarray([f"photo {n}.jpg" for n in range(SAMPLES)], object)
    group.create_dataset("sample_path", data=paths, dtype=h5py.string_dtype())
    files = group.create_dataset("cell_jpeg", member.shape, h5py.vlen_dtype(np.uint8))
    pictures = photographs()
    for (row, rank), sample in np.ndenumerate(member):
        if sample >= 0:
            buffer = io.BytesIO()
            Image.fromarray(pictures[sample]).save(buffer, "JPEG", quality=95)
            files[row, rank] = np.frombuffer(buffer.getvalue(), np.uint8)
    group.attrs["photographs"], group.attrs["dataset_source"] = SAMPLES, "made up"
    group.attrs["view_size"], group.attrs["map_size"] = VIEW, POSITIONS
    for name, length in zip(("row", "column"), POSITIONS, strict=True):
        group[f"sample_{name}"] = np.arange(SAMPLES, dtype=np.int32) * 3 % length
    corner = rng.integers(0, VIEW - FIELD, (SAMPLES, 2)).astype(np.int32)
    group["sample_view_box"] = np.concatenate([corner, corner + FIELD], axis=1)
    group["sample_view_box"][::2] = (0, 0, VIEW, VIEW)


def photographs() -> Any:
    return distinct(SAMPLES, (64, 64), 2)


@pytest.fixture(scope="module")
def arrays(browsed: OutputFolder) -> dict[str, Any]:
    with h5py.File(browsed.atlas) as file:
        group = file["toy"][LAYER]
        names = [name for name in group if name.startswith(("cell_", "sample_"))]
        return {name: group[name][()] for name in (*names, "channel", "image")}


@pytest.fixture(scope="module")
def gallery(arrays: dict[str, Any]) -> Gallery[int]:
    return Gallery({row: arrays["image"][row, 0] for row in range(CELLS)})


@pytest.fixture(params=["1280x800", "390x844"])
def sized(request: pytest.FixtureRequest, visit: Visit) -> Visit:
    width, height = map(int, request.param.split("x"))
    visit.page.set_viewport_size({"width": width, "height": height})
    return visit


def seen_cells(visit: Visit, gallery: Gallery[int]) -> dict[str, int | None]:
    """What is seen in each cell that lies wholly in the frame, by its words."""
    visit.until(SHEETS_LAID)
    visit.page.evaluate("document.querySelector('.plane').scrollIntoView({block: 'center'})")
    # Labels lie over pictures.
    visit.page.eval_on_selector_all(
        ".cell .label", "(all) => all.forEach((each) => (each.style.visibility = 'hidden'))"
    )
    shot = screenshot(visit)
    (frame,) = boxes(visit, ".plane")
    words = visit.page.eval_on_selector_all(".cell", "(all) => all.map((each) => each.ariaLabel)")
    pictures = boxes(visit, ".cell .picture")
    return {
        name: gallery.seen(crop(shot, box), 0.6)
        for name, box in zip(words, pictures, strict=True)
        if within(box, frame)
    }


def within(box: Box, frame: Box) -> bool:
    starts = all(a >= b + 1 for a, b in zip(box[:2], frame[:2], strict=True))
    return starts and all(a <= b - 1 for a, b in zip(box[2:], frame[2:], strict=True))


def expected(arrays: dict[str, Any], side: int) -> dict[str, int]:
    """The row of every cell of a grid, by the words that name its place."""
    rows = np.flatnonzero(arrays["cell_grid"] == side)
    return {
        f"{side}:r{down}c{right}, row {down} and column {right} of {side} × {side}": int(row)
        for row, down, right in zip(
            rows, arrays["cell_row"][rows], arrays["cell_column"][rows], strict=True
        )
    }


def places(seen: dict[str, int | None]) -> dict[str, int | None]:
    return {",".join(words.split(",")[:2]): row for words, row in seen.items()}


@pytest.mark.parametrize("side", GRIDS)
def test_every_cell_of_a_grid_shows_the_image_of_its_target(
    sized: Visit, arrays: dict[str, Any], gallery: Gallery[int], side: int
) -> None:
    sized.go(at(LAYER, query=f"grid={side}"))
    assert places(seen_cells(sized, gallery)) == expected(arrays, side)


def test_cells_lie_where_they_are_on_the_map_and_thin_ones_are_smaller(
    visit: Visit, arrays: dict[str, Any]
) -> None:
    visit.go(at(LAYER, query="grid=4"))
    cells, pictures = boxes(visit, ".cell"), boxes(visit, ".cell .picture")
    rows = np.flatnonzero(arrays["cell_grid"] == 4)
    width = cells[0][2] - cells[0][0]
    left = min(
        box[0] - width * c for box, c in zip(cells, arrays["cell_column"][rows], strict=True)
    )
    top = min(box[1] - width * r for box, r in zip(cells, arrays["cell_row"][rows], strict=True))
    for box, row in zip(cells, rows, strict=True):
        assert box[0] == pytest.approx(left + width * arrays["cell_column"][row], abs=4)
        assert box[1] == pytest.approx(top + width * arrays["cell_row"][row], abs=4)
    sizes = [box[2] - box[0] for box in pictures]
    counts = arrays["cell_count"][rows]
    assert sizes[int(np.argmax(counts))] == pytest.approx(width, abs=1)
    order = np.argsort(counts, kind="stable")
    assert np.all(np.diff(np.asarray(sizes)[order]) >= -1)


@pytest.mark.slow
def test_closer_is_finer_and_the_address_shows_the_same_again(
    visit: Visit, arrays: dict[str, Any], gallery: Gallery[int]
) -> None:
    visit.go(at(LAYER))
    assert "4 × 4 cells" in visit.texts(".toolbar [role=status]")[0]
    visit.page.focus(".cell[tabindex='0']")
    for _ in count():
        visit.page.keyboard.press("+")
        if "12 × 12 cells" in visit.texts(".toolbar [role=status]")[0]:
            break
    close = seen_cells(visit, gallery)
    assert close
    assert places(close).items() <= expected(arrays, 12).items()
    address = visit.hash
    visit.reset()
    visit.go(address)
    assert seen_cells(visit, gallery) == close
    visit.page.keyboard.press("Escape")


def test_dragging_moves_the_map_and_chooses_nothing(
    visit: Visit, arrays: dict[str, Any], gallery: Gallery[int]
) -> None:
    visit.go(at(LAYER, query="at=0.5,0.5,3&grid=12"))
    before = seen_cells(visit, gallery)
    (frame,) = boxes(visit, ".plane")
    middle = (frame[0] + frame[2]) / 2, (frame[1] + frame[3]) / 2
    visit.page.mouse.move(*middle)
    visit.page.mouse.down()
    visit.page.mouse.move(middle[0] + 150, middle[1] + 150, steps=5)
    visit.page.mouse.up()
    after = seen_cells(visit, gallery)
    assert after != before
    assert places(after).items() <= expected(arrays, 12).items()
    assert "chosen=" not in visit.hash
    assert visit.texts(".cellinfo") == ["Choose a cell to see what is in it."]


@pytest.mark.parametrize("row", [3, 40])
@pytest.mark.parametrize("where", ["panel", "page"])
def test_a_cell_tells_its_photographs_classes_and_channels(
    sized: Visit, arrays: dict[str, Any], gallery: Gallery[int], row: int, where: str
) -> None:
    number = int(arrays["channel"][row])
    if where == "panel":
        sized.go(at(LAYER, query=f"grid={arrays['cell_grid'][row]}"))
        sized.page.click(f'.cell[data-row="{row}"]')
        sized.until("document.querySelector('.cellinfo h2')")
        assert f"chosen={number}" in sized.hash
        picture, within_ = ".cellinfo > .picture", ".cellinfo"
    else:
        sized.go(at(LAYER, number))
        picture, within_ = ".portrait", ".context"
    sized.until(SHEETS_LAID)
    shot = screenshot(sized, whole=True)
    offset = sized.page.evaluate("scrollY")

    def shown(selector: str) -> list[Any]:
        moved = [(a, b + offset, c, d + offset) for a, b, c, d in boxes(sized, selector)]
        return [crop(shot, box) for box in moved]

    assert [gallery.seen(each) for each in shown(picture)] == [row]
    samples = Gallery(dict(enumerate(photographs())))
    members = [int(sample) for sample in arrays["cell_member"][row] if sample >= 0]
    assert [samples.seen(each) for each in shown(f"{within_} .photograph")] == members
    titles = sized.page.eval_on_selector_all(
        f"{within_} .photograph", "(all) => all.map((each) => each.title)"
    )
    assert titles == [f"photo {sample}.jpg" for sample in members]
    names = [CLASSES[k] for k in arrays["cell_class"][row]]
    channels = [f"channel {k}" for k in arrays["cell_channel"][row]]
    assert sized.texts(f"{within_} .bars .label") == [*names, *channels]
    values = [float(text) for text in sized.texts(f"{within_} .bars .quiet")]
    kept = [2.5, 0.5, *arrays["cell_channel_value"][row].tolist()]
    assert values == pytest.approx(kept, rel=0.005)


@pytest.mark.parametrize("where", ["panel", "page"])
def test_photographs_of_a_cell_are_enlarged_and_frame_what_the_activation_is_of(
    sized: Visit, arrays: dict[str, Any], where: str
) -> None:
    # The first cell with a photograph of either kind of frame.
    both = [set(row[row >= 0] % 2) == {0, 1} for row in arrays["cell_member"]]
    row, found = both.index(True), Gallery(dict(enumerate(photographs())))
    number, side = int(arrays["channel"][row]), arrays["cell_grid"][row]
    members = [int(sample) for sample in arrays["cell_member"][row] if sample >= 0]
    panel = where == "panel"
    sized.go(at(LAYER, query=f"grid={side}&chosen={number}") if panel else at(LAYER, number))
    sized.page.wait_for_selector(".photograph img")
    page = sized.hash
    for rank, sample in enumerate(members):
        sized.page.locator("a.photograph").nth(rank).click()
        sized.until(f"document.querySelector('.viewer').dataset.shown === 'sample{rank + 1}.'")
        assert sized.hash == f"{page}{'&' if panel else '?'}open=sample{rank + 1}"
        (image,), (box,) = boxes(sized, ".viewer .ground img"), boxes(sized, ".viewer .box")
        y, x = (int(arrays[f"sample_{name}"][sample]) for name in ("row", "column"))
        height, width = POSITIONS
        place = np.multiply((x / width, y / height, (x + 1) / width, (y + 1) / height), VIEW)
        field = sample % 2 == 1
        expected = arrays["sample_view_box"][sample] if field else place
        scale = (image[2] - image[0]) / VIEW
        inside = [(edge - image[n % 2]) / scale for n, edge in enumerate(box)]
        assert inside == pytest.approx(expected.tolist(), abs=1.5)
        (note,) = sized.texts(".viewer > .note")
        assert note.startswith("Frame: the receptive field" if field else "Frame: the position")
        said = sized.texts(".viewer .called .quiet")[0]
        assert said == f"activation at row {y + 1}, column {x + 1} of 4 × 8 · photo {sample}.jpg"
        sized.page.evaluate("document.querySelector('.viewer .box').hidden = true")
        assert found.seen(crop(screenshot(sized), image), 0.7) == sample
        assert sized.page.get_by_role("button", name="crop").count() == field
        sized.press("Escape")
        assert sized.hash == page
        assert sized.page.evaluate("document.activeElement.title") == f"photo {sample}.jpg"
    # The address opens it again, at first sight of the page.
    sized.reset()
    sized.go(f"{page}{'&' if panel else '?'}open=sample2")
    sized.until("document.querySelector('.viewer')?.dataset.shown === 'sample2.'")


def test_arrows_go_to_the_nearest_cell_that_way(visit: Visit, arrays: dict[str, Any]) -> None:
    visit.go(at(LAYER, query="grid=4"))
    visit.page.focus(".cell[tabindex='0']")

    def focused() -> int:
        return int(visit.page.evaluate("document.activeElement.dataset.row"))

    here = focused()
    for key, axis, sign in (
        ("ArrowRight", "cell_column", 1),
        ("ArrowDown", "cell_row", 1),
        ("ArrowLeft", "cell_column", -1),
        ("ArrowUp", "cell_row", -1),
    ):
        visit.page.keyboard.press(key)
        there = focused()
        assert there == here or sign * (arrays[axis][there] - arrays[axis][here]) > 0
        here = there
    visit.page.keyboard.press("Enter")
    visit.until("document.querySelector('.cellinfo h2')")
    assert f"chosen={arrays['channel'][here]}" in visit.hash


def test_cells_are_also_tiles(visit: Visit) -> None:
    visit.go(at(LAYER))
    visit.page.click(".switch")
    visit.settle()
    assert visit.texts(".count") == [f"{CELLS} cells"] or "80" in visit.texts(".count")[0]
    visit.page.click(".switch")
    visit.settle()
    assert boxes(visit, ".plane")


# --- paper ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", GRIDS)
def test_a_page_has_the_whole_map_with_whole_labels(
    sized: Visit, arrays: dict[str, Any], gallery: Gallery[int], side: int
) -> None:
    sized.go(at(LAYER, query=f"grid={side}"))
    sized.to_paper()
    check_paper(sized)
    (frame,) = boxes(sized, ".plane")
    assert frame[2] - frame[0] == pytest.approx(frame[3] - frame[1], abs=1)
    assert frame[2] - frame[0] > 690
    if side == GRIDS[0]:
        assert sized.page.locator(".cell.labelled").count() == COARSE
    assert sized.page.evaluate(CUT_LABELS) == []
    shown = sized.page.eval_on_selector_all(
        ".cell", "(all) => all.map((each) => +each.dataset.row)"
    )
    assert sorted(shown) == np.flatnonzero(arrays["cell_grid"] == side).tolist()
    seen = places(seen_cells(sized, gallery))
    # Those at the edge of the map touch the frame.
    assert seen.items() <= expected(arrays, side).items()
    assert len(seen) >= COARSE // 2
    status = sized.page.locator(".toolbar [role=status]")
    assert status.is_visible()
    assert f"{side} × {side} cells" in status.inner_text()
    assert sized.printed_pages() == 1
    assert sized.page.locator(".plane.paper").count() == 0


CUT_LABELS = """[...document.querySelectorAll(".cell.labelled .label")]
  .filter((each) => each.scrollWidth > each.clientWidth)
  .map((each) => each.textContent)"""


def test_paper_shows_what_was_seen_of_a_map(
    visit: Visit, arrays: dict[str, Any], gallery: Gallery[int]
) -> None:
    visit.go(at(LAYER, query="at=0.4,0.4,2.1"))
    rows = "[...document.querySelectorAll('.cell')].map((each) => +each.dataset.row).sort()"
    before = visit.page.evaluate(rows)
    (frame,) = boxes(visit, ".plane")
    visit.to_paper()
    # As wide as the page, of the grid and the part that were on the screen.
    assert visit.page.evaluate(rows) == before
    (there,) = boxes(visit, ".plane")
    ratio = [(box[2] - box[0]) / (box[3] - box[1]) for box in (frame, there)]
    assert ratio[0] == pytest.approx(ratio[1], rel=0.01)
    seen = places(seen_cells(visit, gallery))
    assert len(seen) > 5
    assert seen.items() <= expected(arrays, 12).items()
    visit.page.evaluate("dispatchEvent(new Event('afterprint'))")
    visit.page.emulate_media(media="screen")
    visit.page.set_viewport_size({"width": 1280, "height": 800})
    visit.page.evaluate("new Promise((done) => setTimeout(done, 50))")
    assert boxes(visit, ".plane") == [frame]


def test_a_chosen_cell_is_on_the_same_page_as_its_map(visit: Visit, arrays: dict[str, Any]) -> None:
    visit.go(at(LAYER, query=f"chosen={arrays['channel'][3]}"))
    visit.page.wait_for_selector(".cellinfo h2")
    assert visit.printed_pages() == 1
    visit.to_paper()
    check_paper(visit)
    (picture,), (title,) = boxes(visit, ".cellinfo > .picture"), boxes(visit, ".cellinfo > h2")
    assert picture[1] >= title[3]
    for section in boxes(visit, ".cellinfo > section"):
        assert section[0] >= picture[2]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(360, 740), (1280, 800), (3840, 2160)])
def test_axe_finds_nothing_and_nothing_sticks_out(
    visit: Visit, width: int, height: int, scheme: Any
) -> None:
    visit.page.set_viewport_size({"width": width, "height": height})
    visit.page.emulate_media(color_scheme=scheme)
    visit.go(at(LAYER))
    visit.page.click(".cell")
    visit.until("document.querySelector('.cellinfo h2')")
    check_access(visit, scheme)
