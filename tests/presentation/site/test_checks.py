"""An atlas that is none: told in one message, before anything is shown."""

from collections.abc import Callable

import h5py
import numpy as np
import pytest
from atlases import add_photographs, made_up

from layer_atlas.errors import UserError
from layer_atlas.presentation.site.make import make_site
from layer_atlas.store.folder import OutputFolder


@pytest.fixture
def foreign(folder: OutputFolder) -> OutputFolder:
    add_photographs(made_up(folder.root, {"a": 3}))
    return folder


def instead(name: str, **how: object) -> Callable[[h5py.Group], None]:
    def change(group: h5py.Group) -> None:
        del group[name]
        group.create_dataset(name, **how)

    return change


def no_photograph(group: h5py.Group) -> None:
    group["dataset/top_jpeg"][1, 0] = np.zeros(9, np.uint8)


ODD = {
    "no images": lambda group: group.__delitem__("image"),
    "huge images": instead("image", shape=(3, 1, 10**6, 10**6, 3), dtype="u1", chunks=True),
    "flat images": instead("image", shape=(3, 1, 16), dtype="u1"),
    "images of numbers": instead("image", shape=(3, 1, 16, 16, 3), dtype="f4"),
    "status of texts": instead("status", data=[["a"]] * 3, dtype=h5py.string_dtype()),
    "too few": instead("response", shape=(2, 1, 3), dtype="f4"),
    "huge curves": instead("trace", shape=(3, 10**9, 10), dtype="f4", chunks=(1, 1, 10)),
    "photographs of numbers": instead("dataset/top_jpeg", shape=(3, 2), dtype="f4"),
    "no photograph": no_photograph,
    "a file of another": lambda group: (
        group.__delitem__("status"),
        group.create_dataset("status", (3, 1), "u1", external="/etc/hostname"),
    ),
}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_what_no_atlas_holds_is_told(
    foreign: OutputFolder, change: Callable[[h5py.Group], None]
) -> None:
    with h5py.File(foreign.atlas, "a") as file:
        change(file["toy/a"])
    with pytest.raises(UserError):
        make_site(foreign)
    assert not (foreign.site / "index.html").exists()


def test_attributes_that_mean_nothing_do_no_harm(foreign: OutputFolder) -> None:
    with h5py.File(foreign.atlas, "a") as file:
        odd = {"n_channels": "many", "activation_shape": "wide", "flops_share": [1, 2]}
        file["toy/a"].attrs.update({**odd, "recipe": "{}", "module_type": [1.5]})
        file["toy"].attrs["input_size"] = "large"
        file["toy/a/status"][0] = 77
    assert make_site(foreign).exists()
