"""What the files of a study hold: the specs of their arrays."""

from layer_atlas.datasets.tasks import Examples, LayerStatistics, StatisticsBlock
from layer_atlas.store.checksummed_file import ArraySpec, AtMost

_JPEG_BYTES = 8
"""Per pixel; what is larger is no photograph as it is kept."""


def field_specs(dataset_stats: LayerStatistics) -> dict[str, ArraySpec]:
    """Receptive fields, in pixels of the view."""
    pixels = range(dataset_stats.image_size + 1)
    return {"box": ArraySpec("i8", (dataset_stats.info.positions, 4), pixels)}


def block_specs(dataset_stats: LayerStatistics, block: StatisticsBlock) -> dict[str, ArraySpec]:
    """The summary of a block, as `study.summarise` makes it, and the photographs' sizes."""
    n, n_channels = block.units, dataset_stats.info.n_channels
    return {
        **_told(dataset_stats, n, range(block.start, block.stop)),
        "M2": ArraySpec("f8", (n_channels,)),
        "size": ArraySpec("i4", (n, 2), range(2**31)),
    }


def statistics_specs(dataset_stats: LayerStatistics) -> dict[str, ArraySpec]:
    """A whole study, with what the photographs' peaks see."""
    count, n_channels = dataset_stats.plan.count, dataset_stats.info.n_channels
    boxes = {
        f"{name}_{what}": ArraySpec("i4", (n_channels, most, 4))
        for name, most in _rankings(dataset_stats).items()
        for what in ("view", "photograph")
    }
    return {
        **_told(dataset_stats, count, range(count)),
        "std": ArraySpec("f8", (n_channels,)),
        **boxes,
    }


def example_specs(task: Examples) -> dict[str, ArraySpec]:
    """The photographs of some channels, as JPEG files one behind the other, and their saliency."""
    plan, n, size = task.dataset_stats.plan, len(task.targets), task.dataset_stats.image_size
    pictures = AtMost(2 * n * plan.examples, "pictures")
    maps = min(task.saliency.dataset_images if task.saliency else 0, plan.examples)
    numbers = range(-1, plan.count)
    return {
        "target": ArraySpec("i8", (n,)),
        "strongest_index": ArraySpec("i8", (n, AtMost(plan.examples, "strongest")), numbers),
        "weakest_index": ArraySpec("i8", (n, AtMost(plan.examples, "weakest")), numbers),
        "picture_index": ArraySpec("i8", (pictures,), numbers),
        "picture_end": ArraySpec("i8", (pictures,)),
        "picture": ArraySpec("u1", (AtMost(pictures.length * _JPEG_BYTES * size**2, "bytes"),)),
        "saliency": ArraySpec("u1", (n, AtMost(maps, "maps"), size, size), required=False),
    }


def _told(dataset_stats: LayerStatistics, n: int, dataset_images: range) -> dict[str, ArraySpec]:
    """What is told of some photographs: moments, rankings, and what is kept of single ones."""
    n_channels = dataset_stats.info.n_channels
    kept, unreadable = AtMost(n, "kept"), AtMost(n, "unreadable")
    specs = {
        "count": ArraySpec("i8", (), range(n + 1)),
        "mean": ArraySpec("f8", (n_channels,)),
        "min": ArraySpec("f4", (n_channels,)),
        "max": ArraySpec("f4", (n_channels,)),
        "responding": ArraySpec("i8", (n_channels,), range(n + 1)),
        "rows": ArraySpec("f4", (kept, n_channels)),
        "row_index": ArraySpec("i8", (kept,), dataset_images),
        "unreadable": ArraySpec("i8", (unreadable,), dataset_images),
    }
    for name, most in _rankings(dataset_stats).items():
        shape = (n_channels, most)
        specs[f"{name}_index"] = ArraySpec("i8", shape, range(-1, dataset_images.stop))
        specs[f"{name}_score"] = ArraySpec("f4", shape)
        specs[f"{name}_place"] = ArraySpec("i4", shape, range(-1, dataset_stats.info.positions))
    return specs


def _rankings(dataset_stats: LayerStatistics) -> dict[str, int]:
    return {"top": dataset_stats.plan.top, "bottom": dataset_stats.plan.bottom}
