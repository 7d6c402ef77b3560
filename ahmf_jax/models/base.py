"""What every model is to the rest of the library."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from ahmf_jax.errors import InputError
from ahmf_jax.sharding import MIN_ROWS


class Model(nn.Module):
    """A network, or an algorithm, that super-resolves depth, mostly by a guide.

        depth_hr, aux = model.apply({"params": params}, depth_lr, guide, mask_lr=mask_lr, train=False)

    `depth_lr` is (B, h, w, 1), `guide` (B, scale * h, scale * w, C) in [0, 1], `mask_lr` (B, h, w, 1) bool, True where
    the depth is known (everywhere by default); `depth_hr` is (B, scale * h, scale * w, 1) float32, and `aux` a dict of
    named intermediates. A model that is not `guided` may be given no guide, or one of 0 channels. With `train=True` a
    model may draw random numbers, of the stream "sample", and renew its running statistics, of the collection
    "batch_stats".

    The fields of a subclass are the model's configuration. What it depends on beyond them stands here.
    """

    # Whether it reads the guide.
    guided: ClassVar[bool] = True
    # Whether it can be told how much of an image is padding: the argument `size` of `AHMF`.
    paddable: ClassVar[bool] = False
    # Whether unknown samples have no say in it: it reads `mask_lr`.
    reads_mask: ClassVar[bool] = False
    # Whether the result's mean over a known sample's block is that sample.
    keeps_means: ClassVar[bool] = False
    # Whether it ends in a loop of cheap steps, which are no work of a network's: `flops` leaves them out.
    iterates: ClassVar[bool] = False
    scale: int

    @property
    def corrections(self) -> tuple[tuple[str, ...], ...]:
        """The convolutions whose result is added to up-sampled depth, by paths in the parameters; of most one, or none.

        `state.init_params` can begin with less of them.
        """
        return ()

    @property
    def pools(self) -> int:
        """How many times statistics of the whole map are gathered from its tiles, each with those before it given.

        The argument `pooled` and `aux["pooled"]`, in that order; a tree of `tiles.Moments` each.
        """
        return 0

    @property
    def reach(self) -> int:
        """The margin of a tile, in low-resolution samples: what lies further away changes nothing, or hardly anything.

        A model says which of the two.
        """
        raise NotImplementedError

    @property
    def pooled_reach(self) -> int:
        """How many low-resolution samples away an input can be that those statistics at a place depend on."""
        return 0

    @property
    def sees_whole(self) -> bool:
        """Whether a part of an image is as it is in the image only where all of it is computed."""
        return self.pools > 0

    @property
    def least_rows(self) -> int:
        """Rows of low-resolution depth that a device has at the least, where several share an image."""
        return MIN_ROWS

    @property
    def bytes_per_sample(self) -> float:
        """About the memory that a low-resolution sample takes while it is computed, as `memory_analysis` tells it."""
        raise NotImplementedError

    @property
    def least_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of a few parameters, by path, that bound the size of the rest: looked at before anything is traced."""
        return {}

    @property
    def stride(self) -> int:
        """What windows of an image begin at multiples of, in pixels of the guide."""
        return 1

    def output_size(self, depth_lr: Float[Array, "*any"]) -> tuple[Any, Any]:
        """Height and width of what is made of depth (B, h, w, 1), symbols of symbols; InputError for other shapes."""
        if len(depth_lr.shape) != 4 or depth_lr.shape[-1] != 1:
            raise InputError(
                f"depth_lr is of shape {depth_lr.shape}: (batch, height, width, 1) is needed, as "
                "depth[None, :, :, None] of one map"
            )
        return self.scale * depth_lr.shape[1], self.scale * depth_lr.shape[2]

    def check(
        self,
        depth_lr: Float[np.ndarray, "b h w 1"],
        mask_lr: Bool[np.ndarray, "b h w 1"],
        given: Float[np.ndarray, "b h w 1"] | None = None,
    ) -> None:
        """Refuses depth, in the scale that the model works in, that it can make nothing of: an InputError says why.

        `given` is the same depth in the unit of who reads the error, if that is another.
        """

    def of_whole(
        self, depth_lr: Float[np.ndarray, "b h w 1"], mask_lr: Bool[np.ndarray, "b h w 1"]
    ) -> Mapping[str, np.ndarray]:
        """What every tile is told of the image that it is of: arguments of `__call__`, some numbers of each image.

        Of images that are computed together or not, these are to be the same: all of a batch are given at once.
        """
        return {}

    def images_of_whole(
        self, depth_lr: Float[np.ndarray, "b h w 1"], mask_lr: Bool[np.ndarray, "b h w 1"]
    ) -> Mapping[str, np.ndarray]:
        """Images of which every tile is given its part: arguments of `__call__`, as large as the depth or the guide."""
        return {}

    def summary(self) -> str:
        """In a few words, for a line."""
        raise NotImplementedError
