"""Fault 8: bytes of shards that flipped on the disk, one in each of six shards."""

from pathlib import Path

from runs import atlas_here
from sweeps import SWEEP, assert_nothing_lost, unfinished

PLACES = (0, 20, 60, 511, 3000, -1)
"""In the length, the opening, the digest and the rest of the header, the arrays; the very end."""


def test_they_are_set_aside_and_made_again(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    before = unfinished(undisturbed, folder, n_missing=0)
    flipped = sorted(before)[: len(PLACES)]
    for name, place in zip(flipped, PLACES, strict=True):
        data = bytearray((folder / name).read_bytes())
        data[place] ^= 1
        (folder / name).write_bytes(data)
    code, said = atlas_here("run", tmp_path, *SWEEP)
    assert code == 0, said
    assert len(list(folder.rglob("*.corrupt-*"))) == len(PLACES)
    whole = {name: before[name] for name in before if name not in flipped}
    assert_nothing_lost(undisturbed, folder, whole)
    assert atlas_here("verify", tmp_path)[0] == 0
