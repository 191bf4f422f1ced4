"""The atlas of an output folder as a whole: `atlas.h5`, pictures, and the site made of them."""

from layer_atlas.atlas.gather import layer_views
from layer_atlas.config.config import CollateSettings
from layer_atlas.config.records import build
from layer_atlas.presentation.montages.collate import collate, content_of
from layer_atlas.presentation.montages.summary import is_current, read_summary
from layer_atlas.presentation.site.make import make_site
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.lock import locked
from layer_atlas.store.manifest import plan_of, read_manifest


def make_atlas(folder: OutputFolder, settings: CollateSettings, content: str | None = None) -> None:
    """Collate, and make the site if it is asked for.

    Args:
        folder: what to collate; locked by the caller.
        settings: how the pictures look, and whether there is a site.
        content: digest of what is to be in the atlas; one that is of this, with such pictures,
            stays as it is.
    Raises:
        StorageError: the disk is full or fails.
        UserError: the list of dataset images is gone or unreadable, or animations are requested
            of a sweep without snapshots.
    """
    if content is None or not is_current(folder, content, settings):
        collate(folder, settings)
    if settings.site:
        make_site(folder)


def ensure_atlas(folder: OutputFolder) -> None:
    """Make the atlas as it was made before, unless it is of the shards that are there.

    An atlas without a manifest comes from elsewhere and is taken as it is.

    Raises:
        UserError: there is no run in the folder, or somebody is at work on it.
        StorageError: the disk is full or fails.
    """
    if folder.atlas.exists() and not folder.manifest.exists():
        return
    manifest, summary = read_manifest(folder), read_summary(folder)
    plan = plan_of(manifest)
    if summary is None or summary.content != content_of(plan, list(layer_views(folder, plan))):
        how = build(CollateSettings, manifest["config"]["collate"], "collate")
        with locked(folder):
            make_atlas(folder, summary.settings if summary else how)
