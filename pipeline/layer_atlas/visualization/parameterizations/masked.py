"""Images within a mask over a fixed picture."""

from torch import Tensor

from layer_atlas.config.inputs import Find
from layer_atlas.config.parameterizations import Mask
from layer_atlas.visualization.parameterizations.base import Parameterization, Shape
from layer_atlas.visualization.parameterizations.given import given_picture


class MaskedImages(Parameterization):
    """mask * image + (1 - mask) * picture, for images of any parameterization.

    The score's gradient reaches an image only where the mask is not black. Values and starts are
    those of the whole image, of which the mask shows a part.
    """

    mask: Tensor
    around: Tensor

    def __init__(
        self, config: Mask, images: Parameterization, shape: Shape, keys: Tensor, find: Find
    ) -> None:
        super().__init__()
        self.images = images
        mask = given_picture(config.area, (1, *shape[1:]), keys.device, find)
        picture = given_picture(config.picture, shape, keys.device, find)
        self.register_buffer("mask", mask)
        self.register_buffer("around", (1.0 - mask) * picture)

    def forward(self) -> Tensor:
        """Render: images (B, C, H, W) in [0, 1]."""
        rendered: Tensor = self.mask * self.images() + self.around
        return rendered

    def values(self) -> Tensor:
        """The values of the whole images: (B, C, H, W)."""
        return self.images.values()

    def encode(self, values: Tensor) -> None:
        """Set the parameters to those of given values (B, C, H, W) of whole images."""
        self.images.encode(values)

    def blur_(self, transfer: Tensor) -> None:
        """Multiply the spectrum of the whole images' values by `transfer`, in place."""
        self.images.blur_(transfer)

    def constrain_(self) -> None:
        """After a step, bring parameters back to where they may be, in place."""
        self.images.constrain_()
