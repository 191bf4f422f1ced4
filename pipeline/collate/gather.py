"""Find the committed jobs of a layer and read them shard by shard, in flat memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.jobs import STATUS, Product, Shard, ShardResult
from pipeline.plan import LayerPlan, ModelPlan, Plan
from pipeline.sealed_file import CorruptFile
from pipeline.shard_file import decode, packed_pictures
from pipeline.store import DoneIndex, OutputFolder, safe_name, set_aside
from pipeline.study_store import Arrays, Findings, read_arrays, read_findings
from pipeline.study_tasks import Study, examples_of_layer, study_of

PackedPicture = tuple[tuple[int, ...], bytes]
"""Where a picture begins in an array, row first, and its bytes."""


@dataclass(frozen=True)
class Piece:
    """Some jobs of a layer, read from one file."""

    rows: NDArray[np.intp]
    """Where the jobs lie among the layer's wanted channels."""
    seed_index: int
    result: ShardResult
    packed: Callable[[str], list[PackedPicture]]
    """The same pictures as `result` has under a name, as they lie in the file."""


@dataclass
class LayerView:
    """The wanted jobs of one layer: what is there, and what had to be set aside."""

    folder: OutputFolder
    plan: Plan
    model: ModelPlan
    layer: LayerPlan
    index: DoneIndex
    corrupt: list[Path] = field(default_factory=list)

    @property
    def channels(self) -> NDArray[np.int64]:
        """The wanted channels (C,)."""
        return np.asarray(self.layer.channels, dtype=np.int64)

    @property
    def group(self) -> str:
        """Path of the layer's group in the atlas."""
        return f"{safe_name(self.model.label)}/{safe_name(self.layer.info.name)}"

    @property
    def titles(self) -> list[tuple[str, str]]:
        """Label of the model and name of each layer that the images are for."""
        others = [(tap.model, tap.info.name) for tap in self.layer.others]
        return [(self.model.label, self.layer.info.name), *others]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.model.recipe.image_size

    @property
    def colours(self) -> int:
        """How many colours the images have."""
        return len(self.model.network.mean)

    @property
    def variants(self) -> tuple[int, ...]:
        """The axis of variants in the shape of an array: none if a job has one image."""
        count = self.model.recipe.variants
        return () if count == 1 else (count,)

    def located(self) -> Iterator[tuple[int, Shard, dict[int, Path]]]:
        """Every shard with its seed's index and the files that hold its channels."""
        for seed_index, seed in enumerate(self.plan.seeds):
            for shard in self.plan.layer_shards(self.model, self.layer, seed):
                yield seed_index, shard, self.index.locate(shard)

    def pieces(self) -> Iterator[Piece]:
        """Read the layer file by file; corrupt files are set aside and reported in `corrupt`."""
        place = {channel: row for row, channel in enumerate(self.layer.channels)}
        for seed_index, _, located in self.located():
            for path in dict.fromkeys(located.values()):
                wanted = {channel for channel, where in located.items() if where == path}
                data, result = self._read(path)
                if result is None:
                    continue
                channels = result.arrays["channel"].tolist()
                inside = np.asarray([i for i, c in enumerate(channels) if c in wanted])
                rows = np.asarray([place[channels[i]] for i in inside])
                chosen = ShardResult(result.rows(inside), result.facts)
                yield Piece(rows, seed_index, chosen, partial(_packed, data, inside.tolist()))

    def _read(self, path: Path) -> tuple[bytes, ShardResult | None]:
        if path in self.corrupt:
            return b"", None
        try:
            data = path.read_bytes()
            return data, decode(data)[1]
        except (CorruptFile, FileNotFoundError):
            self.corrupt.append(path)
            set_aside(path)
            return b"", None

    @cached_property
    def study(self) -> Study | None:
        """The study of this layer, if photographs belong to the sweep."""
        plan = self.plan.study
        return study_of(self.model, self.layer.info.name, plan) if plan else None

    def findings(self) -> Findings | None:
        """What the photographs told; None if that is not complete."""
        if self.study is None:
            return None
        try:
            return read_findings(self.folder, self.study)
        except FileNotFoundError:
            return None
        except CorruptFile:
            self.corrupt.append(self.folder.product(self.study.product))
            return None

    def judged(self, status: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The status (C, S) of jobs in the light of the photographs.

        `dead` is left to channels that no photograph moves either. Other jobs without a response
        are `silent`: it is the image that fails, not the channel.
        """
        dead = status == STATUS["dead"]
        found = self.findings() if dead.any() else None
        if found is None:
            return status
        moved = (found.study.max > found.study.min)[self.channels]
        return np.where(dead & moved[:, None], STATUS["silent"], status).astype(np.uint8)

    def photographs_done(self) -> list[str]:
        """The keys of the committed files about photographs: study and examples."""
        products = [*([self.study.product] if self.study else []), *self._examples()]
        return [product.key for product in products if self.folder.exists(product)]

    def examples(self) -> Iterator[Arrays]:
        """The photographs of the wanted channels that are committed, block by block."""
        for product in self._examples():
            try:
                yield read_arrays(self.folder.product(product))
            except FileNotFoundError:
                continue
            except CorruptFile:
                self.corrupt.append(self.folder.product(product))

    def _examples(self) -> Iterator[Product]:
        if self.study is not None:
            for task in examples_of_layer(self.study, self.layer, self.plan.shard_size):
                yield from task.products

    def rows_of(self, channels: NDArray[np.int64]) -> NDArray[np.intp]:
        """Where channels lie among the layer's wanted ones."""
        return np.searchsorted(self.channels, channels)

    def initial_status(self) -> NDArray[np.uint8]:
        """Status (C, S) before any shard is read: `failed` where attempts were given up on."""
        status = np.full((len(self.channels), len(self.plan.seeds)), STATUS["missing"], np.uint8)
        place = {channel: row for row, channel in enumerate(self.layer.channels)}
        for seed_index, shard, located in self.located():
            rows = [place[c] for c in shard.channels if c not in located]
            if rows and self.index.has_failed(shard, located):
                status[rows, seed_index] = STATUS["failed"]
        return status


def _packed(data: bytes, inside: list[int], name: str) -> list[PackedPicture]:
    """Packed pictures of some jobs, numbered anew."""
    place = {row: number for number, row in enumerate(inside)}
    found = packed_pictures(data, name)
    return [((place[r], *corner), chunk) for (r, *corner), chunk in found if r in place]


def layer_views(folder: OutputFolder, plan: Plan) -> Iterator[LayerView]:
    """A view of every layer of the plan."""
    index = DoneIndex(folder)
    for model in plan.models:
        for layer in model.layers:
            yield LayerView(folder, plan, model, layer, index)
