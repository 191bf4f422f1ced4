"""Best matches in other networks: the page shows the matched channel, its number and similarity."""

from dataclasses import replace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from compared import CHANNELS, collated, network, permuted, responses, stored
from pages import Visit, check_access
from screens import SHEETS_LAID, Gallery, boxes, crops, distinct, screenshot

from layer_atlas.atlas.comparison import compare_layers, encode_comparison, paired_layers
from layer_atlas.cli.compare import comparison_table
from layer_atlas.config.outputs import ComparisonFigure
from layer_atlas.plan.plan import Plan
from layer_atlas.presentation.figures.comparison import _correlation
from layer_atlas.presentation.figures.make import make_figure
from layer_atlas.presentation.site.layer_data import hundredths
from layer_atlas.presentation.site.make import make_site
from layer_atlas.store.folder import OutputFolder
from tests.pixels.drawings import Figure
from tests.pixels.test_figure_images import below

LAYER = "block.conv"
NETWORKS = ("toy", "shuffled", "half", "other")
ORDER = torch.randperm(CHANNELS, generator=torch.Generator().manual_seed(1)).numpy()
MATCH = np.argsort(ORDER).tolist()
"""The channel of `shuffled` that is each of `toy`: its channel k is channel ORDER[k] of `toy`."""
HAVE = range(0, CHANNELS, 2)
"""Channels of `half`, whose responses are those of `shuffled`, that have an image."""
CONSTANT = 5
"""The channel of `other` that responds alike to all images."""


def _four_models(plan: Plan) -> Plan:
    (model,) = plan.models
    layer = replace(model.layers[0], targets=HAVE)
    layers = {"half": (layer,)}
    return replace(
        plan,
        models=tuple(
            replace(model, label=name, layers=layers.get(name, model.layers)) for name in NETWORKS
        ),
    )


@pytest.fixture(scope="module")
def browsed(tmp_path_factory: pytest.TempPathFactory) -> OutputFolder:
    """A network, twice itself with permuted channels, and an unrelated one."""
    rows = {name: responses(permuted(network(3), torch.as_tensor(ORDER))) for name in NETWORKS[1:3]}
    rows["other"] = responses(network(4))
    rows["other"][:, CONSTANT] = 0.5
    root = tmp_path_factory.mktemp("matches") / "networks"
    folder = collated(stored(root, responses(network(3)), _four_models, rows))
    with h5py.File(folder.atlas, "a") as file:
        for number, name in enumerate(NETWORKS):
            group = file[name][LAYER]
            shape = group["image"].shape
            del group["image"]
            images = distinct(shape[0] * shape[1], (24, 32), 90 + number)
            group["image"] = images.reshape(*shape[:2], 24, 32, 3)
            file[name].attrs["weights_sha256"] = f"{number}" * 64
    make_site(folder)
    return folder


@pytest.fixture(scope="module")
def gallery(browsed: OutputFolder) -> Gallery[tuple[str, int]]:
    """The image of each channel of each network."""
    with h5py.File(browsed.atlas) as file:
        groups = {name: file[name][LAYER] for name in NETWORKS}
        return Gallery(
            {
                (name, int(channel)): group["image"][row, 0]
                for name, group in groups.items()
                for row, channel in enumerate(group["channel"])
            }
        )


@pytest.fixture(params=[360, 1280])
def sized(request: pytest.FixtureRequest, visit: Visit) -> Visit:
    visit.page.set_viewport_size({"width": request.param, "height": 900})
    return visit


def at(channel: int, query: str = "", name: str = "toy") -> str:
    return f"#/{name}/{LAYER}:{channel}{f'?{query}' if query else ''}"


FILLED = f"""document.querySelector(".elsewhere") && {SHEETS_LAID}
  && [...document.querySelectorAll(".networks .picture, .elsewhere .picture")]
    .every((each) => each.role === "img" || each.classList.contains("empty"))"""


def seen(visit: Visit, gallery: Gallery[Any], selector: str = ".elsewhere .picture") -> list[Any]:
    visit.until(FILLED)
    shot = screenshot(visit, whole=True)
    down = visit.page.evaluate("scrollY")
    places = [(a, b + down, c, d + down) for a, b, c, d in boxes(visit, selector)]
    return [gallery.seen(each) for each in crops(shot, places)]


def captions(visit: Visit) -> dict[str, str]:
    names, words = visit.texts(".elsewhere .label"), visit.texts(".elsewhere .quiet")
    return dict(zip(names, words, strict=True))


# --- what is shown --------------------------------------------------------------------------------


def test_the_site_shows_a_permutation_exactly(sized: Visit, gallery: Gallery[Any]) -> None:
    sized.go(at(0, "by=match"))
    for channel in range(CHANNELS):
        sized.go(at(channel, "by=match"))
        match = MATCH[channel]
        has_image = match in HAVE
        shown = seen(sized, gallery)
        assert shown[:2] == [("shuffled", match), ("half", match) if has_image else None]
        found = captions(sized)
        assert (found["shuffled"], found["half"]) == (f"{match}: 1.00",) * 2
        links = sized.page.locator(".elsewhere a.tile").all()
        hrefs = [link.get_attribute("href") for link in links]
        with_image = ["shuffled", *["half"] * has_image]
        assert hrefs[: len(with_image)] == [at(match, "by=match", name) for name in with_image]


def test_matches_lead_back(visit: Visit, gallery: Gallery[Any]) -> None:
    visit.go(at(3, "by=match"))
    visit.page.click(".elsewhere a.tile")
    visit.until(f"location.hash === '{at(MATCH[3], 'by=match', 'shuffled')}'")
    visit.settle()
    assert seen(visit, gallery)[0] == ("toy", 3)
    assert captions(visit)["toy"] == "3: 1.00"


def test_the_way_is_chosen_by_a_button_and_kept_in_the_address(
    sized: Visit, gallery: Gallery[Any]
) -> None:
    sized.go(at(4))
    assert seen(sized, gallery) == [(name, 4) for name in NETWORKS[1:]]
    button = sized.page.get_by_role("button", name="best match")
    button.scroll_into_view_if_needed()
    (before,) = boxes(sized, ".ways")
    button.click()
    sized.until(f"location.hash === '{at(4, 'by=match')}'")
    sized.settle()
    assert seen(sized, gallery)[0] == ("shuffled", MATCH[4])
    # The reader stays where the button is, which keeps the focus.
    assert boxes(sized, ".ways")[0] == pytest.approx(before, abs=1)
    assert sized.focused() == "best match"
    pressed = sized.page.locator(".ways [aria-pressed=true]")
    assert pressed.all_text_contents() == ["best match"]
    for link, channel in (("#next", 5), ("#previous", 4)):
        sized.page.click(link)
        sized.until(f"location.hash === '{at(channel, 'by=match')}'")
        sized.settle()
    sized.page.get_by_role("button", name="same number").click()
    sized.until(f"location.hash === '{at(4)}'")
    sized.settle()
    assert seen(sized, gallery) == [(name, 4) for name in NETWORKS[1:]]
    sized.page.go_back()
    sized.until(f"location.hash === '{at(4, 'by=match')}'")


def test_a_slider_goes_through_matches_and_stays_where_it_is(
    sized: Visit, gallery: Gallery[Any]
) -> None:
    sized.go(at(2, "by=match"))
    sized.page.locator("#network").focus()
    sized.press("ArrowRight")
    assert seen(sized, gallery, ".networks .picture") == [("shuffled", MATCH[2])]
    assert sized.texts("output") == [f"shuffled · channel {MATCH[2]} · similarity 1.00"]
    said = sized.page.locator("#network").get_attribute("aria-valuetext")
    assert said == f"shuffled, channel {MATCH[2]}, similarity 1.00"
    sized.page.get_by_role("button", name="same number").click()
    sized.until(f"location.hash === '{at(2)}'")
    sized.settle()
    assert seen(sized, gallery, ".networks .picture") == [("shuffled", 2)]
    sized.go(at(3))
    assert sized.texts("output") == ["toy · this network"]


def test_what_has_no_match_or_no_image_is_stated(visit: Visit, browsed: OutputFolder) -> None:
    with h5py.File(browsed.atlas) as file:
        group = file["toy"][LAYER]
        others = group["other_model"].asstr()[()].tolist()
        lonely = int(np.flatnonzero(group["match"][:, others.index("other")] < 0)[0])
    visit.go(at(lonely, "by=match"))
    assert captions(visit)["other"] == "no match"
    assert visit.page.locator(".elsewhere li", has_text="other").locator("a").count() == 0
    without = next(k for k in range(CHANNELS) if MATCH[k] not in HAVE)
    visit.go(at(without, "by=match"))
    visit.page.locator("#network").focus()
    visit.press("ArrowRight", "ArrowRight")
    words = f"half · channel {MATCH[without]} · similarity 1.00 · no image"
    assert visit.texts("output") == [words]


@pytest.mark.parametrize(
    ("name", "words"),
    [("similarity", "similarity to other"), ("match_similarity", "best match in other")],
)
def test_a_layer_is_sorted_and_filtered_by_similarity(
    visit: Visit, browsed: OutputFolder, gallery: Gallery[Any], name: str, words: str
) -> None:
    with h5py.File(browsed.atlas) as file:
        group = file["toy"][LAYER]
        others = group["other_model"].asstr()[()].tolist()
        values = hundredths(group[name][:, others.index("other")])
        match = group["match"][:, others.index("other")].tolist()
    known = [k for k, value in enumerate(values) if value is not None]
    wanted = sorted(known, key=lambda k: values[k])
    visit.go(f"#/toy/{LAYER}")
    visit.page.select_option("#choose-sort", label=words)
    visit.until("location.hash.includes('sort=')")
    visit.settle()
    visit.page.click("#direction")
    visit.until("location.hash.includes('up=1')")
    visit.settle()
    assert visit.rows()[: len(wanted)] == wanted
    shown = visit.texts(".wall .quiet")
    numbers = [f"{values[k] / 100:.2f}" for k in wanted]
    if name == "match_similarity":
        numbers = [f"{match[k]}: {number}" for k, number in zip(wanted, numbers, strict=True)]
    assert shown[: len(wanted)] == numbers
    # Beside a tile, its channel in the other network.
    visit.page.locator(".wall .tile").first.focus()
    visit.press("ArrowRight")
    visit.until("!document.querySelector('.glance').hidden")
    visit.until("document.querySelector('.glance .picture[role=img]')")
    visit.until(SHEETS_LAID)
    (picture,) = crops(screenshot(visit), boxes(visit, ".glance .picture"))
    row = wanted[1]
    assert gallery.seen(picture) == ("other", match[row] if name != "similarity" else row)
    visit.go(f"#/toy/{LAYER}?where={name}/other:0.2:")
    assert visit.rows() == [k for k in known if values[k] >= 20]
    # A network of any name can be told from the bounds of a filter.
    assert visit.page.evaluate("decoded(coded('a:b;c%3A%')) + coded('a:;')") == "a:b;c%3A%a%3A%3B"
    visit.page.click(".downloads summary")
    visit.go(f"#/toy/{LAYER}?sort={name}/other")
    visit.page.click(".downloads summary")
    command = visit.page.locator("#figure-command").input_value()
    assert "figure.tell" not in command
    assert f"figure.channels=[{','.join(map(str, visit.rows()))}]" in command


# --- without evidence -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> OutputFolder:
    """The same networks without a dataset."""

    def change(plan: Plan) -> Plan:
        return replace(_four_models(plan), dataset_plan=None)

    root = tmp_path_factory.mktemp("bare") / "networks"
    folder = collated(stored(root, responses(network(3)), change))
    make_site(folder)
    return folder


def test_without_dataset_evidence_there_is_no_choice(browser: Any, bare: OutputFolder) -> None:
    visit = Visit.begin(browser, bare.site / "index.html")
    visit.reset()
    for query in ("", "by=match"):
        visit.go(at(2, query))
        visit.until(FILLED)
        assert visit.page.locator(".ways").count() == 0
        assert captions(visit) == dict.fromkeys(NETWORKS[1:], " same weights")
    assert visit.wrong == []
    visit.end()


# --- numbers --------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_compare_and_of_its_figure(
    visit: Visit, browsed: OutputFolder
) -> None:
    titles = ("toy", "other")
    pairs = paired_layers(browsed, browsed, titles)
    found = dict(compare_layers(pairs))
    similarity = found[LAYER]
    browsed.figures.mkdir()
    file = browsed.figures / "compare-other.h5"
    file.write_bytes(encode_comparison(titles, pairs, found))
    make_figure(browsed, ComparisonFigure(formats=("svg",), dpi=100, most=CHANNELS, least=0))
    page = Figure((browsed.figures / "comparison.svg").read_bytes())
    pictures = sorted(page.pictures, key=lambda p: (round(p.top), p.left))
    drawn = [text for picture in pictures for text in below(picture, page.words)]
    order = np.argsort(similarity.by_index, kind="stable").tolist()
    shown = [k for k in order if np.isfinite(similarity.by_index[k])]
    stated = []
    for channel in shown:
        for query in ("", "by=match"):
            visit.go(at(channel, query))
            words = captions(visit)["other"]
            stated += [words] if words != "no match" else []
    assert drawn == stated
    assert len(stated) >= 2 * CHANNELS - 3
    visit.go(at(shown[0]))
    printed = f"{shown[0]} ({captions(visit)['other']})"
    assert printed in comparison_table(titles, pairs, found)
    with h5py.File(file) as kept, h5py.File(browsed.atlas) as atlas:
        group = atlas["toy"][LAYER]
        column = group["other_model"].asstr()[()].tolist().index("other")
        assert kept[LAYER]["match"][()].tolist() == group["match"][:, column].tolist()


def test_hundredths_are_rounded_as_figures_round_them() -> None:
    some = [0.125, 0.155, 0.375, -0.001, -0.995, 0.005, 1, -1, np.nan]
    values = np.concatenate([some, np.random.default_rng(0).uniform(-1, 1, 2000)])
    values = values.astype(np.float32)
    shown = [None if v is None else f"{v / 100:.2f}" for v in hundredths(values)]
    assert shown == [_correlation(v) if np.isfinite(v) else None for v in values]


# --- for everybody --------------------------------------------------------------------------------


def test_paper_has_the_matches_without_the_choice(visit: Visit, gallery: Gallery[Any]) -> None:
    visit.go(at(3, "by=match"))
    visit.until(FILLED)
    visit.to_paper()
    assert visit.page.locator(".ways, .networks").filter(visible=True).count() == 0
    assert visit.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert seen(visit, gallery)[0] == ("shuffled", MATCH[3])
    assert captions(visit)["shuffled"] == f"{MATCH[3]}: 1.00"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_choice_is_accessible_and_fits(sized: Visit, scheme: str) -> None:
    sized.page.emulate_media(color_scheme=scheme)
    for query in ("", "by=match"):
        sized.go(at(3, query))
        sized.until(FILLED)
        check_access(sized, scheme)
