"""An atlas with everything that can go wrong in it, its site, and one browser for all tests."""

import shutil
from collections.abc import Iterator

import h5py
import numpy as np
import pytest
from atlases import add_photographs, made_up
from pages import HOSTILE, PHOTOGRAPH, Visit

from layer_atlas.atlas.reader import Atlas, open_atlas
from layer_atlas.presentation.site.make import make_site
from layer_atlas.store.folder import OutputFolder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="session")
def browsed(tmp_path_factory: pytest.TempPathFactory) -> OutputFolder:
    """An output folder with an atlas and its site.

    Of `block.a` two channels are dead, and from 128 on all are missing; `block.b` and the layer
    with the hostile name have photographs of hostile names.
    """
    root = tmp_path_factory.mktemp("browsed")
    layers = {"block.a": 150, "block.b": 12, HOSTILE: 5}
    fates = {3: "dead", 70: "dead", 128: "missing"}
    atlas = made_up(root / "<b>atlas", layers, (0, 7), fates, shard_size=64)
    add_photographs(atlas)
    with h5py.File(atlas, "a") as file:
        for group in file["toy"].values():
            _name_hostile_things(group)
        _spread(file["toy"]["block.a"])
    folder = OutputFolder(atlas.parent)
    make_site(folder)
    return folder


def _name_hostile_things(group: h5py.Group) -> None:
    count = len(group["channel"])
    paths = np.full((count, 3), PHOTOGRAPH, object)
    group["dataset"].create_dataset("top_path", data=paths, dtype=h5py.string_dtype())
    if group.attrs["name"] == HOSTILE:
        names = [f"{HOSTILE} {k}" for k in range(count)]
        group.create_dataset("channel_name", data=names, dtype=h5py.string_dtype())


def _spread(group: h5py.Group) -> None:
    """Make numbers that JavaScript could sort wrongly: tiny, huge, equal and missing ones."""
    rng = np.random.default_rng(5)
    values = (10.0 ** rng.uniform(-30, 30, group["activation"].shape)).astype(np.float32)
    values[::7] = np.float32(0.1)
    values[1::7] = np.nextafter(np.float32(0.1), np.float32(1))
    values[5::11] *= -1
    values[20:24] = [[np.nan, 1], [np.inf, 2], [3, np.nan], [-np.inf, np.inf]]
    group["activation_robust"][...] = values


@pytest.fixture(scope="session")
def atlas(browsed: OutputFolder) -> Iterator[Atlas]:
    with open_atlas(browsed.atlas) as opened:
        yield opened


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="NOT TESTED: no playwright")
    if CHROMIUM is None:
        pytest.skip("NOT TESTED in a browser: there is no chromium")
    with sync_api.sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
            )
        except sync_api.Error as error:
            pytest.skip(f"NOT TESTED in a browser: chromium does not start ({error})")
        yield started
        started.close()


@pytest.fixture(scope="module")
def window(browser: object, browsed: OutputFolder) -> Iterator[Visit]:
    """One page that all tests of a module look at; a module may have a `browsed` of its own."""
    visit = Visit.begin(browser, browsed.site / "index.html")
    yield visit
    visit.end()


@pytest.fixture
def visit(window: Visit) -> Iterator[Visit]:
    """The page at its start; nothing may have gone wrong on it in the end."""
    window.reset()
    yield window
    assert window.wrong == []
