"""The photographs of a sweep, looked through."""

from layer_atlas.config.config import Config
from layer_atlas.datasets.listing import look_through
from layer_atlas.datasets.sources import DatasetImages, open_dataset
from layer_atlas.datasets.views import read_view
from layer_atlas.errors import UserError
from layer_atlas.plan.plan import DatasetPlan
from layer_atlas.sweep.planning.inspection import SMALLEST_IMAGE
from layer_atlas.visualization.saliency import check_available


def plan_dataset(config: Config) -> DatasetPlan | None:
    """Look through the photographs, if there are any; raises UserError."""
    check_available(config.saliency)
    settings = config.dataset
    if settings is None:
        return None
    dataset_images = open_dataset(settings)
    _check_readable(dataset_images, settings.source)
    listing, count = look_through(dataset_images.entries())
    return DatasetPlan(
        source=f"{settings.name} {settings.source}",
        listing=listing,
        count=count,
        top=settings.top,
        bottom=settings.bottom,
        reference=settings.reference,
        examples=min(settings.examples, max(settings.top, settings.bottom)),
        saliency=config.saliency,
    )


def _check_readable(dataset_images: DatasetImages, source: str) -> None:
    """Make sure that one photograph can be read, mostly the first; raises UserError."""
    first = None
    for index, entry in enumerate(dataset_images.entries()):
        reason = read_view(dataset_images, index, entry, SMALLEST_IMAGE).reason
        if reason is None:
            return
        first = first or f"of {entry.path!r}, {reason}"
    raise UserError(
        f"none of the photographs of {source!r} can be read: {first}. Give JPEG, PNG or WebP files."
    )
