"""From an image to what the energy sees, and back: pose, resizing, exposure, tiles.

    image (C, H, W)                              map in the image (H, W)
      | 1. frame: rotated or shifted to            ^ 5. bilinear, back from the frame
      |    one pose (ebmlib.view.pose,             |
      |    ebmlib.view.registration)               |
      | 2. averaged to multiples of 16 px,         | 4. tiles joined
      |    or 4. cut into tiles                    |
      v 3. one exposure (ebmlib.view.exposure)     |
    view (C, h, w)  --- energy, its gradient -->  map of the view (h, w)

The numbers are the order of the steps, see chapters 11 and 12.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.functional import interpolate

from ebmlib.estimator import Estimator
from ebmlib.view.chunks import by_chunks
from ebmlib.view.exposure import Exposure, MatchedExposure
from ebmlib.view.frame import Frame
from ebmlib.view.geometry import (
    MULTIPLE,
    Size,
    area_resize,
    check_grid,
    resize_maps,
    view_size,
)
from ebmlib.view.pose import Layout, PartFrame, choose_layout
from ebmlib.view.registration import Registration
from ebmlib.view.tiling import Tiling

LEAST_SIDE = 8  # px; a smaller image holds no picture
logger = logging.getLogger(__name__)


class Seen(NamedTuple):
    """What the energy sees of some images.

    Attributes:
        images: `(N, C, h, w)`, or `(N * tiles, C, h, w)`, image by image.
        poses: `(N, 3)`, where the frame lies on each image, see `ebmlib.view.frame`;
            None without a frame. `View.inverse` needs them.
    """

    images: Tensor
    poses: Tensor | None


class View(Estimator):
    """What the energy sees of an image, and how a map of it returns to the image.

    `fit` decides from normal training images; `__call__` makes the views of any images
    of the same size; `inverse` brings maps of the views back. Everything runs on the
    device of its input, a few images at a time; only the connected regions of
    `PartFrame` are found on the CPU. The view of an image does not depend on the other
    images of its batch. None of it is differentiable with respect to the images.

    Size. The sides of a view are multiples of 16 px, so that every stride divides them;
    it has at most `max_pixels` pixels. An image of more pixels is averaged over areas,
    see `ebmlib.view.geometry.view_size`: 256 x 256 px are seen as 128 x 128, 600 x 600
    as 176 x 176, 300 x 500 as 144 x 224. Averaging by more than the size of a defect
    hides it. `scale_` says how much was averaged, and the log says it at level INFO
    (`logging.getLogger("ebmlib")`). To keep every pixel, raise `max_pixels` or give
    `tile`. An image of less than 16 px a side is enlarged to 16 px. What has at most
    `double_below` pixels is enlarged to twice its sides: a network that learned from
    larger pictures tells more from a small part when it sees it larger.

    Cost of tiles. Neighboring tiles overlap by at least a quarter of their side, so an
    image of H x W px costs as much as (16/9) H W / (h w) views of h x w px. Each tile
    is judged alone, and a method learns from all tiles alike: where the tile lay is
    not known to it. Near the edges of a tile less of the surroundings is seen; the
    joined maps give those places to the neighboring tile.

    Args:
        aligned: True if objects always lie in the same place, so that position carries
            information; False for textures and for parts that lie in any direction.
            "auto" decides from the training images, and rotates a part that lies in
            any direction to a canonical pose, see `ebmlib.view.pose`; what lies outside
            the part's frame is then not inspected. With tiles "auto" is False.
        register: shift aligned parts to the pixel, see `ebmlib.view.registration`. The
            exposure is then taken from the pixels that fit the mean part.
        normalize_exposure: bring every view to the mean and contrast of the training
            images, so that illumination is not taken for a defect, see
            `ebmlib.view.exposure`.
        max_pixels: most pixels of a view, at least 256.
        double_below: views of at most so many pixels are doubled (bicubic, clamped to
            [0, 1]); at most a quarter of `max_pixels`. 0: none are.
        tile: side of square tiles, or (height, width), in px: multiples of 16 with at
            most `max_pixels` pixels. The image is then not averaged. With aligned=True
            a position is one in the tile, and means little. None for no tiles.

    Attributes:
        aligned_: whether position in the view carries information.
        layout_: what `choose_layout` found; None unless it was asked.
        frame_: `PartFrame`, `Registration` or None.
        image_shape_: (C, H, W) of the training images.
        size_: height and width of the view in px.
        doubled_: whether the view was enlarged, see `double_below`.
        scale_: pixels of the image per pixel of the view along height and width.
        tiling_: where the tiles lie, a `Tiling`; None without tiles.
        tiles_: views of one image; 1 without tiles.
        exposure_: `Exposure`, `MatchedExposure` or None.

    Raises:
        ValueError: an argument of the wrong kind or out of range.

    Example:
        view = View().fit(normal_images)
        seen = view(images)  # images (N, C, h, w)
        maps = view.inverse(seen.images.mean(1), seen.poses)  # (N, H, W)
    """

    aligned_: bool
    layout_: Layout | None
    frame_: Frame | None
    image_shape_: tuple[int, int, int]
    size_: Size
    doubled_: bool
    scale_: tuple[float, float]
    tiling_: Tiling | None
    tiles_: int
    exposure_: Exposure | MatchedExposure | None

    def __init__(
        self,
        aligned: bool | str = "auto",
        register: bool = True,
        normalize_exposure: bool = True,
        max_pixels: int = 2**15,
        tile: int | Size | None = None,
        double_below: int = 0,
    ):
        if not (isinstance(aligned, bool) or aligned == "auto"):
            raise ValueError(f'aligned must be True, False or "auto", got {aligned!r}')
        for name, value in (
            ("register", register),
            ("normalize_exposure", normalize_exposure),
        ):
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be True or False, got {value!r}")
        if not _is_whole(max_pixels) or max_pixels < MULTIPLE**2:
            raise ValueError(
                f"max_pixels must be a whole number, at least {MULTIPLE**2}, got "
                f"{max_pixels!r}"
            )
        if not _is_whole(double_below) or not 0 <= double_below <= max_pixels // 4:
            raise ValueError(
                "double_below must be a whole number from 0 to a quarter of "
                f"max_pixels, {max_pixels // 4}; got {double_below!r}"
            )
        self.double_below = double_below
        self.aligned = aligned
        self.register = register
        self.normalize_exposure = normalize_exposure
        self.max_pixels = max_pixels
        self.tile = tile
        if tile is not None:
            _check_tile(tile, max_pixels)

    def fit(self, images: Tensor) -> View:
        """The view itself, fitted to normal images `(N, C, H, W)` in [0, 1].

        An earlier fit is replaced, at the end and as a whole.

        Raises:
            ValueError: the images are not a float tensor of four axes, of at least 8 px
                a side; fewer than two of them with aligned="auto"; a tile that is
                larger than an image.
        """
        if images.ndim != 4 or not images.is_floating_point() or not len(images):
            raise ValueError(
                "images must be a float tensor (N, C, H, W), got "
                f"{tuple(images.shape)} of {images.dtype}"
            )
        if min(images.shape[-2:]) < LEAST_SIDE:
            raise ValueError(
                f"images must have at least {LEAST_SIDE} px a side, got "
                f"{tuple(images.shape[-2:])}"
            )
        fresh = View(**self.get_params(deep=False))
        fresh._fit(images.detach())
        found = vars(fresh).items()
        self._set_fitted(**{name: v for name, v in found if name.endswith("_")})
        if max(self.scale_) > 1:
            height, width = self._source
            logger.info(
                "the energy sees %d x %d px averaged to %d x %d px; "
                "max_pixels=%d, or a tile, would keep all of them",
                *(height, width, *self.size_, height * width),
            )
        return self

    def __call__(self, images: Tensor) -> Seen:
        """The views of images `(N, C, H, W)`, and where the frame lies on them.

        Raises:
            NotFittedError: `fit` has not been called.
            ValueError: the images have another shape than those of `fit`.
        """
        self.check_fitted()
        c, height, width = self.image_shape_
        if images.ndim != 4 or images.shape[1:] != self.image_shape_:
            raise ValueError(
                f"the view is fitted to images (N, {c}, {height}, {width}), got "
                f"{tuple(images.shape)}"
            )
        images = images.detach()
        poses = None if self.frame_ is None else self.frame_.pose(images)
        given = (images,) if poses is None else (images, poses)
        return Seen(by_chunks(self._view, *given), poses)

    def inverse(
        self,
        maps: Tensor,
        poses: Tensor | None = None,
        size: Size | None = None,
        outside: float = 0.0,
    ) -> Tensor:
        """Maps of the views in image coordinates: `(N, *size)`.

        Bilinear between the centers of values and pixels; near a border the outermost
        values are repeated.

        Args:
            maps: `(N * tiles, a, b)`. The grid of a x b values covers the view: a
                divides the view's height or is a multiple of it, and so for b.
            poses: those that `__call__` returned.
            size: height and width of the result, by default those of the images; with
                another size the result covers the same image with more or fewer
                values, such as the pixels of the photograph before it was resized.
            outside: value of pixels that a part's frame does not cover.

        Raises:
            NotFittedError: `fit` has not been called.
            ValueError: the maps do not cover the view, or their number is not that of
                the poses, times the tiles of an image.
        """
        self.check_fitted()
        check_grid(maps, self.size_)
        n = len(maps) // self.tiles_
        if (poses is None) != (self.frame_ is None):
            expected = "no poses" if poses is not None else "the poses of the images"
            raise ValueError(f"this view needs {expected}, as __call__ returns them")
        if n * self.tiles_ != len(maps) or (poses is not None and len(poses) != n):
            raise ValueError(
                f"{len(maps)} maps of {self.tiles_} tiles of an image each do not fit "
                f"{'whole images' if poses is None else f'{len(poses)} poses'}"
            )
        height, width = size or self.image_shape_[1:]
        back = partial(self._back, size=(height, width), outside=outside)
        given = (maps.unflatten(0, (n, self.tiles_)),)
        given += () if poses is None else (poses,)
        return by_chunks(back, *given, numbers=4 * height * width)

    def config(self) -> dict[str, Any]:
        """What `from_state` needs beside the tensors: for JSON, floats are exact.

        Raises:
            NotFittedError: `fit` has not been called.
        """
        self.check_fitted()
        frame: dict[str, Any] | None = None
        if self.frame_ is not None:
            frame = {"kind": type(self.frame_).__name__}
            if isinstance(self.frame_, Registration):
                frame["max_shift"] = self.frame_.max_shift
        exposure: dict[str, Any] | None = None
        if self.exposure_ is not None:
            exposure = {"kind": type(self.exposure_).__name__}
            if isinstance(self.exposure_, Exposure):
                exposure |= {"mean": self.exposure_.mean, "std": self.exposure_.std}
        layout = self.layout_
        tile = self.tile
        return {
            "parameters": {
                **self.get_params(deep=False),
                "tile": list(tile) if isinstance(tile, tuple) else tile,
            },
            "aligned": self.aligned_,
            "layout": layout and [layout.explained, layout.explained_in_frame],
            "image_shape": list(self.image_shape_),
            "size": list(self.size_),
            "tiled": self.tiling_ is not None,
            "doubled": self.doubled_,
            "frame": frame,
            "exposure": exposure,
        }

    def state_dict(self) -> dict[str, Tensor]:
        """The fitted tensors by name: the mean parts of frame and exposure, if any.

        Raises:
            NotFittedError: `fit` has not been called.
        """
        self.check_fitted()
        tensors = {}
        if self.frame_ is not None:
            tensors["frame.template"] = self.frame_.template
        if isinstance(self.exposure_, MatchedExposure):
            tensors["exposure.template"] = self.exposure_.template
        return tensors

    @classmethod
    def from_state(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> View:
        """The fitted view of which these are `config()` and `state_dict()`, exactly.

        Raises:
            ValueError: they are not those of a view.
        """
        try:
            parameters = dict(config["parameters"])
            if isinstance(parameters["tile"], list):
                parameters["tile"] = tuple(parameters["tile"])
            view = cls(**parameters)
            frame = _frame(config["frame"], tensors)
            c, height, width = map(int, config["image_shape"])
            h, w = map(int, config["size"])
            layout = None
            if config["layout"] is not None:
                part = frame if isinstance(frame, PartFrame) else None
                layout = Layout(bool(config["aligned"]), part, *config["layout"])
            view.layout_, view.aligned_ = layout, bool(config["aligned"])
            tiled = config.get("tiled", view.tile is not None)
            doubled = bool(config.get("doubled", False))
            view._set_geometry(frame, (c, height, width), (h, w), bool(tiled), doubled)
            view.exposure_ = _exposure(config["exposure"], tensors)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"not the state of a View: {type(error).__name__}: {error}"
            ) from error
        return view

    def _fit(self, images: Tensor) -> None:
        """Set what `fit` finds, one after the other."""
        self.layout_ = None
        frame: Frame | None = None
        if self.aligned == "auto" and self.tile is None:
            self.layout_ = choose_layout(images)
            self.aligned_, frame = self.layout_.aligned, self.layout_.frame
        else:
            self.aligned_ = self.aligned is True
        if self.aligned_ and self.register and frame is None:
            frame = Registration.fit(images)
        c, height, width = images.shape[1:]
        h, w = (height, width) if frame is None else frame.template.shape
        size = view_size((h, w), self.max_pixels)
        doubled = self.tile is None and size[0] * size[1] <= self.double_below
        if self.tile is not None:
            size = _pair(self.tile)
        elif doubled:
            size = (2 * size[0], 2 * size[1])
        tiled = self.tile is not None
        self._set_geometry(frame, (c, height, width), size, tiled, doubled)
        self.exposure_ = None
        if self.normalize_exposure:
            poses = () if frame is None else (frame.pose(images),)
            seen = by_chunks(self._resized, images, *poses)
            registered = isinstance(frame, Registration)
            self.exposure_ = (MatchedExposure if registered else Exposure).fit(seen)

    def _set_geometry(
        self,
        frame: Frame | None,
        shape: tuple[int, int, int],
        size: Size,
        tiled: bool,
        doubled: bool,
    ) -> None:
        self.frame_, self.image_shape_, self.size_ = frame, shape, size
        self.doubled_ = doubled
        self.tiling_ = Tiling(self._source, size) if tiled else None
        self.tiles_, self.scale_ = 1, (1.0, 1.0)
        if self.tiling_ is None:
            height, width = self._source
            self.scale_ = height / size[0], width / size[1]
        else:
            self.tiles_ = len(self.tiling_)

    @property
    def _source(self) -> Size:
        """Height and width in px of what is resized, or cut into tiles."""
        if self.frame_ is None:
            return self.image_shape_[1:]
        h, w = self.frame_.template.shape
        return h, w

    def _resized(self, images: Tensor, poses: Tensor | None = None) -> Tensor:
        """What the frame holds, averaged to the size of the view; tiles still whole."""
        if self.frame_ is not None and poses is not None:
            images = self.frame_.align(images, poses)
        if self.tiling_ is not None:
            return images
        if not self.doubled_:
            return area_resize(images, self.size_)
        images = area_resize(images, (self.size_[0] // 2, self.size_[1] // 2))
        return interpolate(images, scale_factor=2, mode="bicubic").clamp(0, 1)

    def _view(self, images: Tensor, poses: Tensor | None = None) -> Tensor:
        images = self._resized(images, poses)
        if self.exposure_ is not None:
            images = self.exposure_(images)
        return images if self.tiling_ is None else self.tiling_.cut(images)

    def _back(
        self,
        maps: Tensor,
        poses: Tensor | None = None,
        *,
        size: Size,
        outside: float,
    ) -> Tensor:
        """Maps `(N, tiles, a, b)` of the views in the image: `(N, *size)`."""
        maps = maps[:, 0] if self.tiling_ is None else self.tiling_.join(maps)
        if self.frame_ is None or poses is None:
            return resize_maps(maps, size)
        return self.frame_.inverse(
            maps, poses, self.image_shape_[1:], outside, grid=size
        )


def _frame(config: dict[str, Any] | None, tensors: dict[str, Tensor]) -> Frame | None:
    """The frame that `View.config` and `View.state_dict` describe."""
    if config is None:
        return None
    template = tensors["frame.template"]
    if config["kind"] == "Registration":
        return Registration(template, config["max_shift"])
    if config["kind"] == "PartFrame":
        return PartFrame(template)
    raise ValueError(f"unknown frame {config['kind']!r}")


def _exposure(
    config: dict[str, Any] | None, tensors: dict[str, Tensor]
) -> Exposure | MatchedExposure | None:
    """The exposure that `View.config` and `View.state_dict` describe."""
    if config is None:
        return None
    if config["kind"] == "MatchedExposure":
        return MatchedExposure(tensors["exposure.template"])
    if config["kind"] == "Exposure":
        return Exposure(float(config["mean"]), float(config["std"]))
    raise ValueError(f"unknown exposure {config['kind']!r}")


def _pair(tile: int | Size) -> Size:
    return tile if isinstance(tile, tuple) else (tile, tile)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_tile(tile: Any, max_pixels: int) -> None:
    sides = tile if isinstance(tile, tuple) else (tile, tile)
    if (
        len(sides) != 2
        or not all(_is_whole(side) and side > 0 for side in sides)
        or any(side % MULTIPLE for side in sides)
    ):
        raise ValueError(
            "tile must be the side of a square or (height, width) in px, multiples of "
            f"{MULTIPLE}; got {tile!r}"
        )
    if sides[0] * sides[1] > max_pixels:
        raise ValueError(
            f"a tile of {sides[0]} x {sides[1]} px has more than max_pixels="
            f"{max_pixels} pixels; give a smaller tile or raise max_pixels"
        )
