"""Listings: what was written comes back, from any place, also where names are odd."""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from layer_atlas.datasets.listing import Entry, Listing, write_listing
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
