"""What `status`, `plan` and `verify` say of the versions and devices that images were made with."""

from collections import Counter
from collections.abc import Iterable

from layer_atlas.atlas.gather import LayerView
from layer_atlas.plan.environment import Environment
from layer_atlas.plan.labels import count_images, mixture, remedy
from layer_atlas.plan.plan import Plan
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.shards import DoneIndex


def mixture_in_store(plan: Plan, views: Iterable[LayerView]) -> list[str]:
    """A sentence if the images that count were made with several environments, else nothing."""
    models: dict[str, Counter[Environment | None]] = {}
    for view in views:
        models.setdefault(view.model.label, Counter()).update(view.environments())
    return [text for text in [mixture(models.values(), remedy(plan))] if text]


def not_counted(folder: OutputFolder, plan: Plan) -> list[str]:
    """How many images are there and count as missing because of what they were made with."""
    if not plan.environments:
        return []
    strict, lenient = DoneIndex(folder, plan.environments), DoneIndex(folder)
    jobs = sum(
        sum(shard.units for shard in strict.missing([shard]))
        - sum(shard.units for shard in lenient.missing([shard]))
        for shard in plan.shards()
    )
    if not jobs:
        return []
    told = f"{count_images(plan, jobs)} made with other versions or devices"
    return [f"versions  {told}: they count as missing (versions=strict)"]
