"""The photographs of a sweep, looked through."""

from pipeline.errors import UserError
from pipeline.photographs.datasets import Photographs, open_dataset
from pipeline.photographs.listing import look_through
from pipeline.photographs.views import read_view
from pipeline.plan import StudyPlan
from pipeline.settings.config import Config
from pipeline.settings.photographs import FolderDataset
from pipeline.studies.saliency import check_available
from pipeline.survey.networks import SMALLEST_IMAGE


def plan_study(config: Config) -> StudyPlan | None:
    """Look through the photographs, if there are any; raises UserError."""
    check_available(config.saliency)
    settings = config.dataset
    if settings is None:
        return None
    photographs = open_dataset(settings)
    source = settings.path if isinstance(settings, FolderDataset) else settings.dataset
    _check_readable(photographs, source)
    listing, count = look_through(photographs.entries())
    return StudyPlan(
        source=f"{settings.name} {source}",
        listing=listing,
        count=count,
        top=settings.top,
        bottom=settings.bottom,
        reference=settings.reference,
        examples=min(settings.examples, max(settings.top, settings.bottom)),
        saliency=config.saliency,
    )


def _check_readable(photographs: Photographs, source: str) -> None:
    """Make sure that one photograph can be read, mostly the first; raises UserError."""
    first = None
    for index, entry in enumerate(photographs.entries()):
        reason = read_view(photographs, index, entry, SMALLEST_IMAGE).reason
        if reason is None:
            return
        first = first or f"of {entry.path!r}, {reason}"
    raise UserError(
        f"none of the photographs of {source!r} can be read: {first}. Give JPEG, PNG or WebP files."
    )
