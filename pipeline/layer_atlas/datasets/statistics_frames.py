"""What the files of a study hold: the frames of their arrays."""

from layer_atlas.datasets.tasks import Examples, Study, StudyBlock
from layer_atlas.store.frames import Frame, UpTo

_JPEG_BYTES = 8
"""Per pixel; what is larger is no photograph as it is kept."""


def field_frames(study: Study) -> dict[str, Frame]:
    """Receptive fields, in pixels of the view."""
    pixels = range(study.image_size + 1)
    return {"box": Frame("i8", (study.info.positions, 4), pixels)}


def block_frames(study: Study, block: StudyBlock) -> dict[str, Frame]:
    """The summary of a block, as `study.summarise` makes it, and the photographs' sizes."""
    n, n_channels = block.units, study.info.n_channels
    return {
        **_told(study, n, range(block.start, block.stop)),
        "M2": Frame("f8", (n_channels,)),
        "size": Frame("i4", (n, 2), range(2**31)),
    }


def study_frames(study: Study) -> dict[str, Frame]:
    """A whole study, with what the photographs' peaks see."""
    count, n_channels = study.plan.count, study.info.n_channels
    boxes = {
        f"{name}_{what}": Frame("i4", (n_channels, most, 4))
        for name, most in _rankings(study).items()
        for what in ("view", "photograph")
    }
    return {**_told(study, count, range(count)), "std": Frame("f8", (n_channels,)), **boxes}


def example_frames(task: Examples) -> dict[str, Frame]:
    """The photographs of some channels, as JPEG files one behind the other, and their saliency."""
    plan, n, size = task.study.plan, len(task.channels), task.study.image_size
    pictures = UpTo(2 * n * plan.examples, "pictures")
    maps = min(task.saliency.photographs if task.saliency else 0, plan.examples)
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


def _told(study: Study, n: int, photographs: range) -> dict[str, Frame]:
    """What is told of some photographs: moments, rankings, and what is kept of single ones."""
    n_channels = study.info.n_channels
    kept, unreadable = UpTo(n, "kept"), UpTo(n, "unreadable")
    frames = {
        "count": Frame("i8", (), range(n + 1)),
        "mean": Frame("f8", (n_channels,)),
        "min": Frame("f4", (n_channels,)),
        "max": Frame("f4", (n_channels,)),
        "responding": Frame("i8", (n_channels,), range(n + 1)),
        "rows": Frame("f4", (kept, n_channels)),
        "row_index": Frame("i8", (kept,), photographs),
        "unreadable": Frame("i8", (unreadable,), photographs),
    }
    for name, most in _rankings(study).items():
        shape = (n_channels, most)
        frames[f"{name}_index"] = Frame("i8", shape, range(-1, photographs.stop))
        frames[f"{name}_score"] = Frame("f4", shape)
        frames[f"{name}_place"] = Frame("i4", shape, range(-1, study.info.positions))
    return frames


def _rankings(study: Study) -> dict[str, int]:
    return {"top": study.plan.top, "bottom": study.plan.bottom}
