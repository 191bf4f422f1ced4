"""Proposed labels on the site: whose they are, by what, and the search by words."""

from typing import Any

import h5py
import numpy as np
import pytest
from atlases import made_up
from pages import Visit, at, check_access

from layer_atlas.atlas.words import LayerWords, add_layer_words, propose
from layer_atlas.presentation.site.make import make_site
from layer_atlas.store.folder import OutputFolder

LAYER, CHANNELS = "conv", 8
WORDS = ("blue", "<b>bird", "light blue", "grass")
FACTS = {"encoder": "mine.clip", "vocabulary": "words.txt", "prompt": "{}"}


def units(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def labelled() -> LayerWords:
    noise = np.random.default_rng(0)
    texts = units(noise.normal(size=(len(WORDS), 6)))
    proposals = {
        source: propose(units(noise.normal(size=(CHANNELS, 6))), texts, 3)
        for source in ("dataset", "optimized")
    }
    return LayerWords(FACTS, np.arange(CHANNELS), WORDS, proposals)


@pytest.fixture(scope="module")
def browsed(tmp_path_factory: pytest.TempPathFactory, labelled: LayerWords) -> OutputFolder:
    root = tmp_path_factory.mktemp("labelled") / "atlas"
    made_up(root, {LAYER: CHANNELS}, shard_size=64)
    folder = OutputFolder(root)
    with h5py.File(folder.atlas, "a") as file:
        add_layer_words(file["toy"][LAYER], labelled, np.arange(CHANNELS))
    make_site(folder)
    return folder


@pytest.mark.slow
def test_a_channel_shows_what_is_proposed_by_whom_and_by_which_images(
    visit: Visit, labelled: LayerWords
) -> None:
    visit.go(at(LAYER, 5))
    section = visit.page.locator("section", has_text="Proposed labels")
    for number, (source, words) in enumerate(
        {"dataset": "strongest photographs", "optimized": "optimized images"}.items()
    ):
        table, found = section.locator("table").nth(number), labelled.proposals[source]
        assert words in table.locator("caption").inner_text()
        assert f"{found.margin[5]:.3g}"[:4] in table.locator("caption").inner_text()
        shown = table.locator("tbody th").all_inner_texts()
        assert shown == [WORDS[i] for i in found.label[5]]
        scores = [float(text) for text in table.locator("tbody td").all_inner_texts()]
        assert scores == pytest.approx(found.score[5].tolist(), abs=1e-3)
    note = section.locator(".note").inner_text()
    assert note.startswith("Proposed by mine.clip from words.txt, not checked by anyone.")


def test_words_of_the_vocabulary_find_channels(visit: Visit, labelled: LayerWords) -> None:
    visit.go("#/")
    visit.page.fill("#search", "blue")
    visit.page.wait_for_selector("#found li:has-text('proposed')")
    lines = visit.page.locator("#found li").all_inner_texts()
    found = labelled.proposals["dataset"]
    best = [f"{LAYER}:{k}" for k in found.channel[0][found.channel_score[0] > 0]]
    assert [line.split("\n")[0].split("“")[0] for line in lines[: len(best)]] == best
    assert f"“blue” {found.channel_score[0, 0]:.3f}, proposed by mine.clip" in lines[0]
    assert "by strongest photographs" in lines[0]
    assert "“light blue”" in lines[len(best)]
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_selector("section:has-text('Proposed labels')")
    assert visit.page.url.endswith(at(LAYER, int(found.channel[0, 0])))


@pytest.mark.slow
@pytest.mark.parametrize(("width", "theme"), [(360, "light"), (1280, "light"), (1280, "dark")])
def test_proposals_keep_nobody_out_and_fit(visit: Visit, width: int, theme: Any) -> None:
    visit.page.set_viewport_size({"width": width, "height": 800})
    visit.page.emulate_media(color_scheme=theme)
    visit.go(at(LAYER, 5))
    assert visit.texts("section table.proposed caption")
    check_access(visit, theme)
    visit.page.fill("#search", "blue")
    visit.page.wait_for_selector("#found li:has-text('proposed')")
    check_access(visit, theme)


def test_a_word_of_no_vocabulary_finds_nothing(visit: Visit) -> None:
    visit.go(at(LAYER, 5))
    visit.page.fill("#search", "zebra")
    assert visit.page.locator("#found li").all_inner_texts() == ["nothing of that name"]
