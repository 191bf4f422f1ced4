"""When a site is made, when not, and that nothing half-written is ever taken for one."""

import json
import re
import shutil
from pathlib import Path

import h5py
import pytest
from atlases import made_up
from runs import atlas_here, run_here
from toys import composed, fill_store, make_plan

from layer_atlas.errors import EXIT_IO, StorageError, UserError
from layer_atlas.presentation.site import make
from layer_atlas.presentation.site.files import SiteFiles
from layer_atlas.presentation.site.make import make_site
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import write_manifest


@pytest.fixture
def copied(folder: OutputFolder) -> OutputFolder:
    """An atlas without a manifest, as it comes from elsewhere."""
    made_up(folder.root, {"a": 6, "b": 3}, (0, 1))
    shutil.rmtree(folder.store)
    return folder


def state(folder: OutputFolder) -> dict[str, int]:
    """Every file of a site with its inode."""
    files = (path for path in folder.site.rglob("*") if path.is_file())
    return {folder.relative(path): path.stat().st_ino for path in files}


def change(folder: OutputFolder) -> None:
    """Make the atlas one of other content."""
    with h5py.File(folder.atlas, "a") as file:
        file.attrs["content"] = "other"


def shown(folder: OutputFolder) -> Path:
    """The folder that the first page names; everything in it must be there."""
    page = (folder.site / "index.html").read_text()
    found = re.search(r'content="([0-9a-f]{16})"', page)
    assert found
    root = folder.site / found[1]
    for name, size in json.loads((root / "files.json").read_text()).items():
        assert (root / name).stat().st_size == size
    for source in re.findall(r'(?:src|href)="([^"#]+)"', page):
        assert (folder.site / source).is_file()
    return root


def test_what_is_up_to_date_stays(copied: OutputFolder) -> None:
    page = make_site(copied)
    before = state(copied)
    assert page == copied.site / "index.html"
    shown(copied)
    make_site(copied)
    assert state(copied) == before


@pytest.mark.slow
def test_of_another_atlas_it_is_made_again_in_place_of_the_old(copied: OutputFolder) -> None:
    make_site(copied)
    first = shown(copied)
    (copied.site / "CNAME").write_text("a web host's own")
    change(copied)
    make_site(copied)
    assert shown(copied) != first
    assert {path.name for path in copied.site.iterdir()} == {
        *("CNAME", "index.html", shown(copied).name)
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "harm",
    [
        lambda site: next(site.rglob("tiles-*.jpg")).unlink(),
        lambda site: next(site.rglob("layer.js")).write_text(""),
        lambda site: next(site.rglob("files.json")).unlink(),
        lambda site: (site / "index.html").unlink(),
    ],
    ids=["a sheet less", "data cut short", "no listing", "no page"],
)
def test_what_is_damaged_is_made_again(copied: OutputFolder, harm: object) -> None:
    make_site(copied)
    harm(copied.site)  # type: ignore[operator]
    make_site(copied)
    shown(copied)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_who_dies_on_the_way_leaves_the_site_from_before(
    copied: OutputFolder, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_site(copied)
    before = shown(copied)
    change(copied)
    writes = iter(range(int(share * len(list(before.rglob("*.*"))))))
    real = SiteFiles.write

    def write(self: SiteFiles, name: str, data: bytes) -> None:
        if next(writes, None) is None:
            raise OSError(28, "No space left on device")
        real(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(SiteFiles, "write", write)
        with pytest.raises(OSError, match="No space"):
            make_site(copied)
    assert shown(copied) == before
    make_site(copied)
    assert shown(copied) != before
    assert len(list(copied.site.iterdir())) == 2


def test_a_full_disk_is_told(copied: OutputFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("layer_atlas.presentation.site.files.os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        make_site(copied)
    assert not (copied.site / "index.html").exists()


def test_other_code_makes_it_again(copied: OutputFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    make_site(copied)
    first = shown(copied)
    monkeypatch.setattr(make, "_HERE", make._HERE.parent / "collate")
    extras = make._Extras(copied, None, "none", {})
    assert first.name not in make._identity(make.open_atlas(copied.atlas), extras)


def test_own_code_is_small(copied: OutputFolder) -> None:
    assets = [*make._ASSETS.iterdir(), *(make._HERE / "templates").iterdir()]
    assert sum(path.stat().st_size for path in assets) < 300_000


# --- commands -------------------------------------------------------------------------------------


@pytest.fixture
def stored(folder: OutputFolder) -> OutputFolder:
    plan = make_plan(channels=(0, 1), shard_size=1)
    fill_store(folder, plan)
    write_manifest(folder, composed(), plan, ["cpu"])
    return folder


def atlas(command: str, folder: OutputFolder, *overrides: str) -> int:
    return atlas_here(command, folder.root.parent, f"name={folder.root.name}", *overrides)[0]


@pytest.mark.slow
def test_collation_ends_with_the_site_if_one_is_wanted(stored: OutputFolder) -> None:
    assert atlas("collate", stored, "collate.site=false") == 0
    assert not stored.site.exists()
    assert atlas("collate", stored) == 0
    shown(stored)


@pytest.mark.slow
def test_a_run_that_was_cut_short_before_its_site_makes_it_next_time(tmp_path: Path) -> None:
    small = ("optimizer.steps=2", "image_size=16", "layers=[conv2]", "channels='0:6'")
    small += ("collate.site=true",)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SiteFiles, "finish", full)
        with pytest.raises(StorageError, match="No space left"):
            run_here(tmp_path, *small)
    folder = OutputFolder(tmp_path / "demo")
    assert not (folder.site / "index.html").exists()
    before = folder.atlas.stat().st_ino
    assert run_here(tmp_path, *small) == 0
    assert folder.atlas.stat().st_ino == before
    shown(folder)


def full(files: SiteFiles) -> None:
    raise StorageError("cannot write: No space left on device")


@pytest.mark.slow
def test_a_disk_that_is_full_for_the_site_fails_the_command(
    stored: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SiteFiles, "finish", full)
    assert atlas("collate", stored) == EXIT_IO
    monkeypatch.undo()
    assert atlas("site", stored) == 0
    shown(stored)


def test_the_command_collates_what_is_missing_first(stored: OutputFolder) -> None:
    code, said = atlas_here("site", stored.root.parent, f"name={stored.root.name}")
    assert (code, said.strip()) == (0, str(stored.site / "index.html"))
    shown(stored)
    assert stored.atlas.exists()
    assert not list(stored.root.rglob("*.tmp"))


def test_an_atlas_from_elsewhere_has_a_site_too(copied: OutputFolder) -> None:
    assert atlas("site", copied) == 0
    shown(copied)


def test_without_an_atlas_there_is_no_site(folder: OutputFolder) -> None:
    with pytest.raises(UserError, match="there is no"):
        make_site(folder)
