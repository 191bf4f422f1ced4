"""Networks whose similarity is known, and output folders that hold their responses to images."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from toys import fill_store, fill_study, layer_info, make_listing, make_plan

from layer_atlas.atlas.gather import layer_views
from layer_atlas.atlas.hdf5 import write_atlas
from layer_atlas.config.records import plain
from layer_atlas.datasets.sources import Listing
from layer_atlas.datasets.statistics_files import merge_statistics
from layer_atlas.datasets.tasks import all_statistics, blocks_of
from layer_atlas.plan.plan import Plan
from layer_atlas.store.files import write_json
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import SCHEMA as MANIFEST
from layer_atlas.store.manifest import plan_of, read_manifest

IMAGES, CHANNELS = 60, 12


def network(seed: int) -> nn.Sequential:
    """Two random convolutions, of which the second has twelve channels."""
    torch.manual_seed(seed)
    chain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, CHANNELS, 3))
    return chain.eval().requires_grad_(False)


def permuted(chain: nn.Sequential, order: Tensor) -> nn.Sequential:
    """The same network with the channels of its last convolution in another order."""
    other = network(0)
    other.load_state_dict(chain.state_dict())
    other[2].weight.copy_(chain[2].weight[order])
    other[2].bias.copy_(chain[2].bias[order])
    return other


def responses(chain: nn.Sequential) -> NDArray[np.float32]:
    """Mean responses (R, K) to fixed images, read by a plain hook, one image at a time."""
    images = torch.rand(IMAGES, 3, 12, 12, generator=torch.Generator().manual_seed(9))
    seen: list[NDArray[np.float32]] = []
    hook = chain[2].register_forward_hook(
        lambda module, args, output: seen.append(output.mean((2, 3)).numpy()[0])
    )
    for image in images:
        chain(image[None])
    hook.remove()
    return np.stack(seen)


def stored(
    root: Path,
    rows: NDArray[Any],
    change: Callable[[Plan], Plan] = lambda p: p,
    others: Mapping[str, NDArray[Any]] | None = None,
) -> Path:
    """An output folder whose one layer has responded to images with these rows.

    The layers of further models may have rows of their own, by the models' labels.
    """
    folder = OutputFolder(root)
    names = (f"{k}.png" for k in range(len(rows)))
    plan = make_plan(layer_info(n_channels=rows.shape[1]))
    plan = change(replace(plan, dataset_plan=make_listing(folder, names, reference=1000)))
    folder.root.mkdir(exist_ok=True)
    parts: dict[str, Any] = {"config": {}, "versions": {}, "timings": {}}
    write_json(folder.manifest, {"schema": MANIFEST, "plan": plain(plan), **parts})
    if plan.dataset_plan is None:
        return root
    listing = Listing(folder.listing(plan.dataset_plan.listing))
    for model in plan.models:
        for statistics in all_statistics(model, plan.dataset_plan):
            own = (others or {}).get(model.label, rows)
            wide = np.zeros((len(own), statistics.info.n_channels), np.float32)
            wide[:, : own.shape[1]] = own[:, : wide.shape[1]]
            boxes = np.zeros((16, 4), np.int64)
            fill_study(folder, statistics, wide, np.zeros(wide.shape, np.int64), boxes)
            merge_statistics(folder, statistics, blocks_of((statistics,), listing))
    return root


def two_models(plan: Plan) -> Plan:
    return replace(plan, models=(*plan.models, replace(plan.models[0], label="twin")))


def collated(root: Path) -> OutputFolder:
    """Make up images for what `stored` has left, and write the atlas."""
    folder = OutputFolder(root)
    plan = plan_of(read_manifest(folder))
    fill_store(folder, plan)
    attributes = {"config": "", "versions": "{}"}
    write_atlas(folder, list(layer_views(folder, plan)), attributes, "digest")
    return folder
