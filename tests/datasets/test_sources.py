"""Datasets of photographs: every image is found, in one order; listings survive odd names."""

import hashlib
import os
import random
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from layer_atlas.config.datasets import FolderDataset, TorchvisionDataset
from layer_atlas.datasets.sources import Entry, FolderImages, Listing, open_dataset, write_listing
from layer_atlas.errors import StorageError, UserError

ODD = [Entry("a\nb\u2028.png", 1), Entry("\udcff\u00e9\U0001f600.jpg", 2), Entry('"\\\r\t.png', 0)]


def entries(n: int) -> list[Entry]:
    return [Entry(f"{'x' * (i % 97)}/{i}.jpg", i * 31) for i in range(n)]


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 128, 1000, 40_000])
def test_every_block_is_what_was_written(tmp_path: Path, n: int) -> None:
    path, written = tmp_path / "listing", entries(n)
    write_listing(written, path)
    listing = Listing(path)
    assert listing.count == n
    assert listing.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    draw = random.Random(n)
    starts = [draw.randrange(n + 1) for _ in range(50)]
    for start, length in [(0, n), (n, 5), *((start, draw.randrange(200)) for start in starts)]:
        assert listing.block(start, start + length) == written[start : start + length]


def test_odd_names_come_back(tmp_path: Path) -> None:
    write_listing(ODD, tmp_path / "listing")
    assert Listing(tmp_path / "listing").block(0, 3) == ODD
    assert len((tmp_path / "listing").read_bytes().splitlines()) == 3


def test_path_and_size_decide_the_digest(tmp_path: Path) -> None:
    digests = set()
    for number, dataset_images in enumerate(
        [[("a", 1)], [("a", 2)], [("b", 1)], [("a", 1), ("b", 1)]]
    ):
        path = tmp_path / str(number)
        write_listing([Entry(*entry) for entry in dataset_images], path)
        digests.add(Listing(path).digest)
    assert len(digests) == 4


def test_a_listing_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "listing"
    write_listing(entries(3), path)

    def breaks() -> Iterator[Entry]:
        yield Entry("first", 1)
        raise UserError("a folder cannot be read")

    with pytest.raises(UserError, match="a folder"):
        write_listing(breaks(), path)
    assert Listing(path).count == 3
    assert [p.name for p in tmp_path.iterdir()] == ["listing"]


def test_faults_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the listing"):
        Listing(tmp_path / "none")
    (tmp_path / "other").write_text("no\nlisting\n")
    with pytest.raises(UserError, match="not a readable listing"):
        Listing(tmp_path / "other").block(0, 2)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_listing(entries(1), tmp_path / "file" / "listing")


# --- datasets -------------------------------------------------------------------------------------


def picture(path: Path, size: tuple[int, int] = (20, 16), seed: int = 0) -> Path:
    """An image of noise in a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def listed(root: Path) -> list[str]:
    return [entry.path for entry in FolderImages(root).entries()]


# --- folders -------------------------------------------------------------------------------------


def test_images_are_found_at_any_nesting_in_order_of_names(tmp_path: Path) -> None:
    names = ["b/2.PNG", "b/10.jpg", "a.webp", "Z.JpEg", "b.png", "c/d/e/f.jpg"]
    for name in names:
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "jpg").write_text("no suffix")
    expected = ["Z.JpEg", "a.webp", "b/10.jpg", "b/2.PNG", "b.png", "c/d/e/f.jpg"]
    assert listed(tmp_path) == expected
    sizes = [entry.size for entry in FolderImages(tmp_path).entries()]
    assert sizes == [(tmp_path / name).stat().st_size for name in expected]


def test_order_is_not_that_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1.png", "a/2.png", "b.png", "c/1.png"):
        picture(tmp_path / name)
    before, listdir = listed(tmp_path), os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: sorted(listdir(path), reverse=True))
    assert listed(tmp_path) == before


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    picture(root / "real" / "1.png")
    picture(tmp_path / "elsewhere" / "2.png")
    (root / "up").symlink_to(root)
    (root / "real" / "self").symlink_to(root / "real")
    (root / "away").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(root / "real")
    (root / "knot.png").symlink_to(root / "knot.png")
    found = listed(root)
    assert sorted(Path(path).name for path in found) == ["1.png", "2.png", "knot.png"]


def test_many_links_to_each_other_do_not_multiply(tmp_path: Path) -> None:
    for i in range(30):
        (tmp_path / f"{i:02}").mkdir()
        for side in ("l", "r"):
            (tmp_path / f"{i:02}" / side).symlink_to(tmp_path / f"{i + 1:02}")
    picture(tmp_path / "30" / "1.png")
    assert len(listed(tmp_path)) == 1


def test_folders_pipes_and_broken_links_named_like_images(tmp_path: Path) -> None:
    picture(tmp_path / "folder.jpg" / "in.png")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    entries = list(FolderImages(tmp_path).entries())
    assert [entry.path for entry in entries] == ["broken.jpg", "folder.jpg/in.png"]
    assert entries[0].size == 0


def test_odd_names_are_listed(tmp_path: Path) -> None:
    names = {"a\nb.png", "\u00e9.png", unicodedata.normalize("NFD", "\u00f6.png"), "\udcff.png"}
    for name in names:
        picture(tmp_path / "x.png").rename(tmp_path / name)
    assert set(listed(tmp_path)) == names


def test_a_changed_file_does_not_pass_for_the_listed_one(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    dataset_images = FolderImages(tmp_path)
    (entry,) = dataset_images.entries()
    dataset_images.image(0, entry).close()
    picture(tmp_path / "1.png", (40, 40))
    with pytest.raises(OSError, match="when it was listed"):
        dataset_images.image(0, entry)


def test_mistakes_with_folders(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "file").write_text("")
    told = {
        "phots": ["does not exist", "beside it: photos"],
        "photos": ["contains no images", ".jpeg, .jpg, .png, .webp"],
        "file": ["is a file"],
    }
    for name, words in told.items():
        with pytest.raises(UserError) as caught:
            open_dataset(FolderDataset(path=str(tmp_path / name)))
        for word in (name, *words):
            assert word in str(caught.value)


def test_an_unreadable_folder_is_a_mistake_and_not_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "closed" / "1.png")
    listdir = os.listdir

    def refuse(path: Any) -> list[str]:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)  # root may read everything
    with pytest.raises(UserError, match=r"closed.*Permission denied"):
        open_dataset(FolderDataset(path=str(tmp_path)))


# --- torchvision ---------------------------------------------------------------------------------


def test_images_of_a_torchvision_dataset() -> None:
    args = {"size": 3, "image_size": [3, 8, 6]}
    dataset_images = open_dataset(TorchvisionDataset(dataset="FakeData", args=args))
    entries = list(dataset_images.entries())
    title = "FakeData(image_size=[3, 8, 6], size=3)"
    assert entries == [Entry(f"{title}[{i}]", 0) for i in range(3)]
    images = [np.asarray(dataset_images.image(i, entry)) for i, entry in enumerate(entries)]
    assert images[0].shape == (8, 6, 3)
    assert (images[0] != images[1]).any()


def test_folders_of_classes(tmp_path: Path) -> None:
    file = picture(tmp_path / "cat" / "1.png")
    settings = TorchvisionDataset(dataset="ImageFolder", args={"root": str(tmp_path)})
    dataset_images = open_dataset(settings)
    (entry,) = dataset_images.entries()
    assert entry == Entry("cat/1.png", file.stat().st_size)
    assert dataset_images.image(0, entry).size == (20, 16)
    with pytest.raises(OSError, match="has changed since it was listed"):
        dataset_images.image(0, Entry("cat/2.png", entry.size))


def test_what_chooses_other_images_makes_another_listing(tmp_path: Path) -> None:
    def first(**args: Any) -> Entry:
        return next(open_dataset(TorchvisionDataset(dataset="FakeData", args=args)).entries())

    small = first(size=9, image_size=[3, 8, 8])
    assert first(size=9, image_size=[3, 9, 9]) != small
    assert first(size=9, image_size=[3, 8, 8], random_offset=1) != small
    assert first(image_size=[3, 8, 8], size=9) == small
    for name in ("a", "b"):
        picture(tmp_path / name / "cat" / f"{name}.png")
    folders = [
        TorchvisionDataset(dataset="ImageFolder", args={"root": str(tmp_path / n)})
        for n in ("a", "b")
    ]
    one, other = (list(open_dataset(settings).entries()) for settings in folders)
    assert one != other


MISTAKES: list[tuple[str, dict[str, Any] | None, list[str]]] = [
    ("CIFAR11", None, ["unknown dataset.dataset 'CIFAR11'", "choose from: CIFAR10"]),
    ("Kinetics", None, ["unknown dataset.dataset", "dataset=folder"]),
    ("Sintel", None, ["unknown dataset.dataset"]),
    ("CIFAR10", None, ["root", "Its signature is"]),
    ("CIFAR10", {"rot": "data"}, ["'rot'", "root"]),
    ("CIFAR10", {"root": "nowhere"}, ["cannot be opened", "download: true"]),
    ("STL10", {"root": "nowhere", "split": "tset"}, ["cannot be opened", "tset"]),
    ("ImageFolder", {"root": "nowhere"}, ["cannot be opened", "nowhere"]),
    ("FakeData", {"size": 0}, ["holds no images"]),
    ("FakeData", {"transform": "text"}, ["first image", "FakeData"]),
]


@pytest.mark.parametrize(("dataset", "args", "told"), MISTAKES)
def test_mistakes_with_torchvision(
    dataset: str, args: dict[str, Any] | None, told: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        open_dataset(TorchvisionDataset(dataset=dataset, args=args))
    for words in told:
        assert words in str(caught.value)
