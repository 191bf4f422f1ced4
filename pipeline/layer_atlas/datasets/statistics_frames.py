"""What the files of a study hold: the frames of their arrays."""

from layer_atlas.datasets.tasks import Examples, LayerStatistics, StatisticsBlock
from layer_atlas.store.frames import Frame, UpTo

_JPEG_BYTES = 8
"""Per pixel; what is larger is no photograph as it is kept."""


def field_frames(dataset_stats: LayerStatistics) -> dict[str, Frame]:
    """Receptive fields, in pixels of the view."""
    pixels = range(dataset_stats.image_size + 1)
    return {"box": Frame("i8", (dataset_stats.info.positions, 4), pixels)}


def block_frames(dataset_stats: LayerStatistics, block: StatisticsBlock) -> dict[str, Frame]:
    """The summary of a block, as `study.summarise` makes it, and the photographs' sizes."""
    n, n_channels = block.units, dataset_stats.info.n_channels
    return {
        **_told(dataset_stats, n, range(block.start, block.stop)),
        "M2": Frame("f8", (n_channels,)),
        "size": Frame("i4", (n, 2), range(2**31)),
    }


def statistics_frames(dataset_stats: LayerStatistics) -> dict[str, Frame]:
    """A whole study, with what the photographs' peaks see."""
    count, n_channels = dataset_stats.plan.count, dataset_stats.info.n_channels
    boxes = {
        f"{name}_{what}": Frame("i4", (n_channels, most, 4))
        for name, most in _rankings(dataset_stats).items()
        for what in ("view", "photograph")
    }
    return {**_told(dataset_stats, count, range(count)), "std": Frame("f8", (n_channels,)), **boxes}


def example_frames(task: Examples) -> dict[str, Frame]:
    """The photographs of some channels, as JPEG files one behind the other, and their saliency."""
    plan, n, size = task.dataset_stats.plan, len(task.targets), task.dataset_stats.image_size
    pictures = UpTo(2 * n * plan.examples, "pictures")
    maps = min(task.saliency.dataset_images if task.saliency else 0, plan.examples)
    numbers = range(-1, plan.count)
    return {
        "channel": Frame("i8", (n,)),
        "strongest_index": Frame("i8", (n, UpTo(plan.examples, "strongest")), numbers),
        "weakest_index": Frame("i8", (n, UpTo(plan.examples, "weakest")), numbers),
        "picture_index": Frame("i8", (pictures,), numbers),
        "picture_end": Frame("i8", (pictures,)),
        "picture": Frame("u1", (UpTo(pictures.most * _JPEG_BYTES * size**2, "bytes"),)),
        "saliency": Frame("u1", (n, UpTo(maps, "maps"), size, size), packed=True, needed=False),
    }


def _told(dataset_stats: LayerStatistics, n: int, dataset_images: range) -> dict[str, Frame]:
    """What is told of some photographs: moments, rankings, and what is kept of single ones."""
    n_channels = dataset_stats.info.n_channels
    kept, unreadable = UpTo(n, "kept"), UpTo(n, "unreadable")
    frames = {
        "count": Frame("i8", (), range(n + 1)),
        "mean": Frame("f8", (n_channels,)),
        "min": Frame("f4", (n_channels,)),
        "max": Frame("f4", (n_channels,)),
        "responding": Frame("i8", (n_channels,), range(n + 1)),
        "rows": Frame("f4", (kept, n_channels)),
        "row_index": Frame("i8", (kept,), dataset_images),
        "unreadable": Frame("i8", (unreadable,), dataset_images),
    }
    for name, most in _rankings(dataset_stats).items():
        shape = (n_channels, most)
        frames[f"{name}_index"] = Frame("i8", shape, range(-1, dataset_images.stop))
        frames[f"{name}_score"] = Frame("f4", shape)
        frames[f"{name}_place"] = Frame("i4", shape, range(-1, dataset_stats.info.positions))
    return frames


def _rankings(dataset_stats: LayerStatistics) -> dict[str, int]:
    return {"top": dataset_stats.plan.top, "bottom": dataset_stats.plan.bottom}
