"""A channel in several networks: each picture is that network's, and so is its similarity."""

from typing import Any

import h5py
import numpy as np
import pytest
from atlases import made_up
from pages import Visit, at, check_access
from screens import SHEETS_LAID, Gallery, boxes, crops, distinct, screenshot

from layer_atlas.presentation.site.make import make_site
from layer_atlas.store.folder import OutputFolder

LAYER, COUNT = "conv", 9
NETWORKS = ("step_1", "toy", "step_20")
SEEDS = (0, 7)


@pytest.fixture(scope="module")
def browsed(tmp_path_factory: pytest.TempPathFactory) -> OutputFolder:
    """Three checkpoints, the second of which is `toy`; channel 2 of the last is constant."""
    folder = OutputFolder(tmp_path_factory.mktemp("networks") / "atlas")
    made_up(folder.root, {LAYER: COUNT}, SEEDS)
    with h5py.File(folder.atlas, "a") as file:
        file.move("toy", "whole")
        for name in NETWORKS:
            file.copy("whole", name)
        del file["whole"]
        for number, name in enumerate(NETWORKS):
            file[name].attrs.update({"name": name, "weights_sha256": f"{number}" * 64})
            _paint(file[name][LAYER], number)
    make_site(folder)
    return folder


def _paint(group: h5py.Group, number: int) -> None:
    images = distinct(COUNT * len(SEEDS), (24, 32), 50 + number)
    del group["image"]
    group["image"] = images.reshape(COUNT, len(SEEDS), 24, 32, 3)
    rng = np.random.default_rng(number)
    group["best_seed_index"] = rng.integers(0, len(SEEDS), COUNT)
    others = [name for name in NETWORKS if name != NETWORKS[number]]
    group.create_dataset("other_model", data=others, dtype=h5py.string_dtype())
    similarity = rng.uniform(-1, 1, (COUNT, len(others))).astype(np.float32)
    similarity[2, others.index("step_20") if "step_20" in others else slice(None)] = np.nan
    group["similarity"] = similarity
    group["similarity"].dims[1].label = "other_model"


@pytest.fixture(scope="module")
def gallery(browsed: OutputFolder) -> Gallery[tuple[str, int, int]]:
    """All images by network, channel and seed."""
    with h5py.File(browsed.atlas) as file:
        return Gallery(
            {
                (name, k, s): file[name][LAYER]["image"][k, s]
                for name in NETWORKS
                for k, s in np.ndindex(COUNT, len(SEEDS))
            }
        )


@pytest.fixture(scope="module")
def arrays(browsed: OutputFolder) -> dict[str, dict[str, Any]]:
    with h5py.File(browsed.atlas) as file:
        names = ("similarity", "best_seed_index")
        return {model: {n: file[model][LAYER][n][()] for n in names} for model in NETWORKS}


@pytest.fixture(params=[360, 1280])
def sized(request: pytest.FixtureRequest, visit: Visit) -> Visit:
    visit.page.set_viewport_size({"width": request.param, "height": 900})
    return visit


FILLED = f"""document.querySelectorAll(".networks .picture, .elsewhere .picture").length === 3
  && document.querySelectorAll(".networks [role=img], .elsewhere [role=img]").length === 3
  && {SHEETS_LAID}"""


def seen(visit: Visit, gallery: Gallery[Any], selector: str) -> list[Any]:
    visit.until(FILLED)
    shot = screenshot(visit, whole=True)
    visit.page.evaluate("scrollTo(0, 0)")
    return [gallery.seen(each) for each in crops(shot, boxes(visit, selector))]


def lead(arrays: dict[str, dict[str, Any]], name: str, channel: int) -> tuple[str, int, int]:
    """The image that stands for a channel of a network."""
    return name, channel, int(arrays[name]["best_seed_index"][channel])


def test_the_other_networks_stand_beside_a_channel_with_their_similarity(
    sized: Visit, arrays: dict[str, Any], gallery: Gallery[Any]
) -> None:
    for channel in (0, 2, 8):
        sized.go(at(LAYER, channel))
        found = seen(sized, gallery, ".elsewhere .picture")
        assert found == [lead(arrays, name, channel) for name in ("step_1", "step_20")]
        assert sized.texts(".elsewhere .label") == ["step_1", "step_20"]
        similarity = arrays["toy"]["similarity"][channel]
        wanted = [f"{v:.2f}" if np.isfinite(v) else " other weights" for v in similarity]
        assert sized.texts(".elsewhere .quiet") == wanted


@pytest.mark.slow
def test_a_slider_goes_through_the_networks_by_keys(
    sized: Visit, arrays: dict[str, Any], gallery: Gallery[Any]
) -> None:
    sized.go(at(LAYER, 3))
    slider = sized.page.locator("#network")
    assert sized.page.get_by_label("Network, of 3").count() == 1
    slider.focus()
    similarity = dict(zip(("step_1", "step_20"), arrays["toy"]["similarity"][3], strict=True))
    for key, name in ((None, "toy"), ("ArrowLeft", "step_1"), ("End", "step_20")):
        if key:
            sized.press(key)
        assert seen(sized, gallery, ".networks .picture") == [lead(arrays, name, 3)]
        words = "this network" if name == "toy" else f"similarity {similarity[name]:.2f}"
        assert sized.texts("output") == [f"{name} · {words}"]
        assert slider.get_attribute("aria-valuetext") == f"{name}, {words}"
        assert sized.hash == at(LAYER, 3)
    sized.page.click(".networks output a")
    sized.until("location.hash === '#/step_20/conv:3'")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_view_is_accessible_and_fits(sized: Visit, scheme: str) -> None:
    sized.page.emulate_media(color_scheme=scheme)
    sized.go(at(LAYER, 3))
    sized.until(FILLED)
    check_access(sized, scheme)
