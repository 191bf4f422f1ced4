"""An atlas from somebody else, given to `verify`: nothing beyond it is read, and nothing hangs."""

import contextlib
import io
import json
import os
import signal
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from toys import composed, fill_store, make_plan, make_recipe

from layer_atlas.atlas import hdf5 as compare_module
from layer_atlas.atlas.gather import layer_views
from layer_atlas.atlas.hdf5 import compare, write_atlas
from layer_atlas.config.config import CollateSettings
from layer_atlas.config.records import plain
from layer_atlas.presentation.collate import AtlasSummary, changes
from layer_atlas.store.files import write_json
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import write_manifest

PLAN = make_plan(channels=(0, 1), shard_size=2, recipe=make_recipe(image_size=16))
LAYER = "toy/block.conv"


@pytest.fixture
def made(tmp_path: Path) -> OutputFolder:
    """An output folder with an atlas as it should be."""
    folder = OutputFolder(tmp_path / "atlas")
    fill_store(folder, PLAN)
    write_manifest(folder, composed(), PLAN, ["cpu"])
    write_atlas(folder, list(layer_views(folder, PLAN)), {}, "content")
    return folder


def changed(folder: OutputFolder, change: Callable[[h5py.Group], None]) -> list[str]:
    """What is wrong with the atlas once it was changed."""
    with h5py.File(folder.atlas, "r+") as atlas:
        change(atlas[LAYER])
    return here(folder)


def here(folder: OutputFolder, patience: int = 60) -> list[str]:
    """What the child finds, in this process."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            assert compare_module.main([str(folder.root), str(patience)]) == 0
    finally:
        signal.alarm(0)
    return list(json.loads(said.getvalue()))


def test_an_atlas_as_it_should_be_has_no_problems(made: OutputFolder) -> None:
    assert compare(made) == []


# --- what leads out of the file ------------------------------------------------------------------


def other_file(folder: OutputFolder) -> Path:
    """A file of the user's that holds what the atlas should."""
    path = folder.root.parent / "private.h5"
    path.write_bytes(folder.atlas.read_bytes())
    return path


def linked(name: str) -> Callable[[h5py.Group], None]:
    def change(group: h5py.Group) -> None:
        other = Path(group.file.filename).parent.parent / "private.h5"
        del group[name]
        group[name] = h5py.ExternalLink(str(other), f"{LAYER}/{name}")

    return change


def softly_linked(name: str) -> Callable[[h5py.Group], None]:
    def change(group: h5py.Group) -> None:
        group.move(name, "elsewhere")
        group[name] = h5py.SoftLink(f"/{LAYER}/elsewhere")

    return change


def virtual(name: str) -> Callable[[h5py.Group], None]:
    def change(group: h5py.Group) -> None:
        other = Path(group.file.filename).parent.parent / "private.h5"
        shape, dtype = group[name].shape, group[name].dtype
        layout = h5py.VirtualLayout(shape, dtype)
        layout[...] = h5py.VirtualSource(str(other), f"{LAYER}/{name}", shape, dtype)
        del group[name]
        group.create_virtual_dataset(name, layout)

    return change


def outside(name: str) -> Callable[[h5py.Group], None]:
    def change(group: h5py.Group) -> None:
        shape, dtype = group[name].shape, group[name].dtype
        del group[name]
        where = [("/etc/hostname", 0, h5py.h5f.UNLIMITED)]
        group.create_dataset(name, shape, dtype, external=where)

    return change


LEADING_OUT = {
    f"{kind.__name__} {name}": kind(name)
    for kind in (linked, softly_linked, virtual, outside)
    for name in ("activation", "image", "status", "channel")
    if not (kind is outside and name == "image")
}


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("change", LEADING_OUT.values(), ids=LEADING_OUT)
def test_what_leads_out_of_the_atlas_is_not_followed(
    made: OutputFolder, change: Callable[[h5py.Group], None]
) -> None:
    # What lies there is as it should be: whoever followed would find nothing wrong.
    other_file(made)
    assert changed(made, change)


def test_a_group_that_leads_out_is_not_followed(made: OutputFolder) -> None:
    private = other_file(made)
    with h5py.File(made.atlas, "r+") as atlas:
        del atlas["toy"]
        atlas["toy"] = h5py.ExternalLink(str(private), "toy")
    assert "is a link to something else" in here(made)[0]


# --- shapes, types and what is packed ------------------------------------------------------------


def instead(name: str, **how: object) -> Callable[[h5py.Group], None]:
    def change(group: h5py.Group) -> None:
        del group[name]
        group.create_dataset(name, **how)

    return change


def put(group: h5py.Group, job: tuple[int, int], data: bytes, filter_mask: int = 0) -> None:
    """Put any bytes in the place of an image."""
    group["image"].id.write_direct_chunk((*job, 0, 0, 0), data, filter_mask)


def compressed(group: h5py.Group, size: int) -> None:
    """Images in gzip, all as they should be but the first, which unpacks to `size` bytes."""
    images = group["image"][()]
    del group["image"]
    group.create_dataset("image", data=images, chunks=(1, 1, 16, 16, 3), compression="gzip")
    put(group, (0, 0), zlib.compress(bytes(size), 9))


def bomb(group: h5py.Group) -> None:
    """An image of the right shape that unpacks to a hundred megabytes."""
    compressed(group, 10**8)


def small_bomb(group: h5py.Group) -> None:
    """One that is as small as an image, and unpacks to more than one."""
    compressed(group, 500_000)
    assert group["image"].id.get_chunk_info_by_coord((0, 0, 0, 0, 0)).size < 1500


def other_pixels(group: h5py.Group) -> None:
    group["image"][1, 0] = 7


def unchanged_pixels_written_anew(group: h5py.Group) -> None:
    group["image"][1, 0] = group["image"][1, 0]


SHAPES: dict[str, Callable[[h5py.Group], None]] = {
    "a huge dataset of nothing": instead(
        "activation", shape=(10**12, 10**6), dtype="f4", chunks=True
    ),
    "huge rows": instead("trace", shape=(2, 1, 10**12), dtype="f4", chunks=(1, 1, 10**6)),
    "huge images": instead("image", shape=(2, 1, 10**6, 10**6, 3), dtype="u1", chunks=True),
    "packed numbers": instead("activation", shape=(2, 1), dtype="f4", compression="gzip"),
    "texts": instead("activation", data=[["a"], ["b"]], dtype=h5py.string_dtype()),
    "lists": instead("activation", shape=(2, 1), dtype=h5py.vlen_dtype("f4")),
    "references": instead("activation", shape=(2, 1), dtype=h5py.ref_dtype),
    "records": instead("activation", shape=(2, 1), dtype=[("a", "f4", (10**6,))]),
    "a group": lambda group: (group.__delitem__("activation"), group.create_group("activation")),
    "nothing": lambda group: group.__delitem__("activation"),
    "no images": lambda group: group.__delitem__("image"),
    "a bomb": bomb,
    "a small bomb": small_bomb,
    "other pixels": other_pixels,
    "an image without a checksum": lambda group: put(group, (0, 0), bytes(768), filter_mask=1),
    "an image with a wrong checksum": lambda group: put(group, (0, 0), bytes(768) + b"abcd"),
    "an image that is too small": lambda group: put(group, (0, 0), bytes(9)),
    "an image that is too large": lambda group: put(group, (0, 0), bytes(10**6)),
}


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("change", SHAPES.values(), ids=SHAPES)
def test_what_no_atlas_of_this_plan_holds_is_told(
    made: OutputFolder, change: Callable[[h5py.Group], None]
) -> None:
    assert len(changed(made, change)) == 1


def test_pictures_that_are_too_large_are_not_even_read(made: OutputFolder) -> None:
    (problem,) = changed(made, SHAPES["an image that is too large"])
    assert "cannot be read: an image of 1000000 bytes" in problem
    (problem,) = changed(made, bomb)
    assert "another plan or layout" in problem


def test_an_atlas_that_was_written_anew_is_the_same(made: OutputFolder) -> None:
    assert changed(made, unchanged_pixels_written_anew) == []


# --- files that take the library down ------------------------------------------------------------


@pytest.mark.slow
def test_a_reader_that_dies_is_told(made: OutputFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    # As one that the HDF5 library takes down; the alarm comes while the child still starts.
    monkeypatch.setattr(compare_module, "TIME_LIMIT", 1)
    made.atlas.unlink()
    os.mkfifo(made.atlas)  # opening it waits for ever
    (problem,) = compare(made)
    assert "it took the reader down: SIGALRM" in problem
    assert "collate it" in problem


@pytest.mark.parametrize("n", [0, 2_000])
def test_damaged_atlases_are_told(made: OutputFolder, n: int) -> None:
    data = bytearray(made.atlas.read_bytes())
    if n:
        rng = np.random.default_rng(n)
        for place in rng.integers(0, len(data), n):
            data[place] ^= 0x55
    made.atlas.write_bytes(data if n else b"")
    problems = compare(made)
    assert problems
    assert all("Traceback" not in problem for problem in problems)


def test_a_pipe_in_the_place_of_an_atlas_is_not_read_for_its_digest(made: OutputFolder) -> None:
    settings = CollateSettings()
    summary = AtlasSummary("content", settings, 0, (), {}, None, 0, (), atlas_sha256="0" * 64)
    write_json(made.summary, plain(summary))
    made.atlas.unlink()
    os.mkfifo(made.atlas)
    assert changes(made) == [f"{made.atlas} is not the file that was written"]
