"""What a sweep needs of the files in its output folder."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.cases import is_done
from pipeline.collate.gather import LayerView, layer_views
from pipeline.config import Config
from pipeline.failures import read_failure
from pipeline.listing import Listing
from pipeline.manifest import plan_of
from pipeline.plan import Plan
from pipeline.records import build
from pipeline.sealed_file import CorruptFile, check
from pipeline.shard_file import SCHEMA
from pipeline.store import OutputFolder, read_header, safe_name
from pipeline.study_tasks import blocks_of, examples_of, studies_of


class Wanted:
    """Which files a sweep needs."""

    def __init__(self, folder: OutputFolder, manifest: dict[str, Any]) -> None:
        plan = plan_of(manifest)
        views = list(layer_views(folder, plan))
        self.folder = folder
        self.holders: dict[tuple[Path, str], dict[int, Path]] = {}
        """The file of each job, by the folder and the series of its shard."""
        for view in views:
            for _, shard, located in view.located():
                series = folder.shard(shard).parent, shard.series.key
                self.holders.setdefault(series, {}).update(located)
        self.left_out = _left_out(manifest, plan)
        self.paths = {folder.atlas, folder.manifest, folder.lock}
        self.paths |= {path for files in self.holders.values() for path in files.values()}
        self.paths |= {path for view in views for path in _pictures(view)}
        self.paths |= {*_about_photographs(folder, plan), *_records(folder)}
        self.paths |= {folder.input(reference) for reference in plan.inputs}
        self._sound: dict[Path, bool] = {}

    def has(self, path: Path, model: str | None) -> bool:
        """Whether a file is needed, which is of a model or of none."""
        if path in self.paths or model in self.left_out:
            return True
        return path.suffix == ".h5" and self._stands_in(path)

    def _stands_in(self, path: Path) -> bool:
        """Whether it is a shard with jobs of which the file that should hold them is damaged."""
        try:
            header = read_header(path)
        except (CorruptFile, OSError):
            return False
        files = self.holders.get((path.parent, header.series), {})
        return not all(self._is_sound(files[c]) for c in header.channels if c in files)

    def _is_sound(self, path: Path) -> bool:
        if path not in self._sound:
            self._sound[path] = False
            with contextlib.suppress(CorruptFile, OSError):
                check(path.read_bytes(), SCHEMA)
                self._sound[path] = True
        return self._sound[path]


def _left_out(manifest: dict[str, Any], plan: Plan) -> set[str]:
    """Models that were asked for and could not be planned: theirs is not for anybody to judge."""
    titles = {model.title for model in build(Config, manifest["config"]).models}
    return {safe_name(title) for title in titles - {model.label for model in plan.models}}


def _pictures(view: LayerView) -> Iterable[Path]:
    names = view.model.label, view.layer.info.name
    folder = view.folder
    return (folder.montage(*names), *folder.sheets(*names), *folder.films(*names))


def _about_photographs(folder: OutputFolder, plan: Plan) -> Iterator[Path]:
    if plan.study is None:
        return
    listing = folder.listing(plan.study.listing)
    yield listing
    for model in plan.models:
        studies = studies_of(model, plan.study)
        for block in blocks_of(studies, Listing(listing)):
            yield from map(folder.product, block.products)
        for study in studies:
            yield from map(folder.product, (study.product, study.field))
    for task in examples_of(plan, plan.study):
        yield from map(folder.product, task.products)


def _records(folder: OutputFolder) -> Iterator[Path]:
    """Records of tasks that are not done, or that nobody can read; and the logs they name."""
    for path in (*folder.failures.glob("*.json"), *folder.retried.glob("*.json")):
        record = read_failure(path)
        if record is None or not is_done(folder, record):
            yield path
            yield from () if record is None else [folder.root / record.log]
