"""What a sweep needs of the files in its output folder."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from layer_atlas.atlas.gather import LayerView, layer_views
from layer_atlas.datasets.listing import Listing
from layer_atlas.datasets.tasks import all_statistics, blocks_of, examples_of
from layer_atlas.plan.plan import Plan
from layer_atlas.presentation.site.files import folder_of
from layer_atlas.store.checksummed_file import CorruptFile
from layer_atlas.store.failures import read_failure
from layer_atlas.store.folder import OutputFolder, safe_name
from layer_atlas.store.manifest import plan_of
from layer_atlas.store.shards import read_header, read_shard
from layer_atlas.sweep.inspection.failed_tasks import is_done


class Wanted:
    """Which files a sweep needs."""

    def __init__(self, folder: OutputFolder, manifest: dict[str, Any]) -> None:
        plan = plan_of(manifest)
        views = list(layer_views(folder, plan))
        self.skipped_models = {safe_name(model.model) for model in plan.skipped_models}
        """Their files are not for anybody to judge."""
        self.layers = {folder.layer(v.model.label, v.layer.info.name): v for v in views}
        self.paths = {folder.atlas, folder.summary, folder.manifest, folder.lock}
        for view in views:
            self.paths.update(*(located for _, _, located in view.located()))
            self.paths.update(_pictures(view))
        self.paths.update(_about_photographs(folder, plan), _records(folder))
        self.paths.update(map(folder.input, plan.inputs))
        # Whatever was drawn is kept; half-written files have names with a dot.
        self.paths.update(folder.figures.glob("[!.]*"))
        self.paths.update(_site(folder))
        self._sound: dict[Path, bool] = {}

    def has(self, path: Path, model: str | None) -> bool:
        """Whether a file is needed, which is of a model or of none."""
        if path in self.paths or model in self.skipped_models:
            return True
        view = self.layers.get(path.parent)
        return view is not None and self._stands_in(view, path)

    def _stands_in(self, view: LayerView, path: Path) -> bool:
        """Whether it is a shard with jobs of which the file that should hold them is damaged.

        Or is yet to be made, with the environment that is wanted now.
        """
        try:
            header = read_header(path)
        except (CorruptFile, OSError):
            return False
        left = (shard for _, shard in view.left() if shard.series.key == header.series)
        if any(not set(shard.targets).isdisjoint(header.targets) for shard in left):
            return True
        return not all(
            self._is_sound(view, file)
            for _, shard, located in view.located()
            if shard.series.key == header.series
            for file, channels in located.items()
            if not set(channels).isdisjoint(header.targets)
        )

    def _is_sound(self, view: LayerView, path: Path) -> bool:
        if path not in self._sound:
            self._sound[path] = False
            with contextlib.suppress(CorruptFile, OSError):
                read_shard(path, view.model, view.layer)
                self._sound[path] = True
        return self._sound[path]


def _site(folder: OutputFolder) -> Iterator[Path]:
    yield folder.site / "index.html"
    if name := folder_of(folder.site):
        yield from (folder.site / name).rglob("*")


def _pictures(view: LayerView) -> Iterable[Path]:
    names = view.model.label, view.layer.info.name
    folder = view.folder
    return (folder.montage(*names), *folder.sheets(*names), *folder.animations(*names))


def _about_photographs(folder: OutputFolder, plan: Plan) -> Iterator[Path]:
    if plan.dataset_plan is None:
        return
    listing = folder.listing(plan.dataset_plan.listing)
    yield listing
    for model in plan.models:
        statistics_tasks = all_statistics(model, plan.dataset_plan)
        for block in blocks_of(statistics_tasks, Listing(listing)):
            yield from map(folder.product, block.products)
        for dataset_stats in statistics_tasks:
            yield from map(folder.product, (dataset_stats.product, dataset_stats.field))
    for task in examples_of(plan, plan.dataset_plan):
        yield from map(folder.product, task.products)


def _records(folder: OutputFolder) -> Iterator[Path]:
    """Records of tasks that are not done, or that nobody can read; and the logs they name."""
    for path in (*folder.failures.glob("*.json"), *folder.retried.glob("*.json")):
        record = read_failure(path)
        if record is None or not is_done(folder, record):
            yield path
            yield from () if record is None else [folder.root / record.log]
