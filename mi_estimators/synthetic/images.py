"""Images whose mutual information is known: drawn from latent variables in an invertible way, or picked by class."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.image_sets import load
from mi_estimators.synthetic.gaussian import correlated_gaussian
from mi_estimators.synthetic.maps import NORMAL_CDF, Reparametrization, reparametrize
from mi_estimators.synthetic.task import Task

_BUTAKOV = "after Butakov et al. 2024 (arXiv 2305.08013), synthetic images"


def blob(size: int, width: float) -> Reparametrization:
    """Draws a round blob whose centre tells two standard normal latents.

    The normal CDF takes the latents to the square from pixel 2 to pixel ``size - 3``, where the centre lies; pixel
    (i, j) is ``exp(-|(i, j) - centre|^2 / (2 width^2))``, not rounded to grey levels. The logarithms of neighbouring
    pixels give the centre back, so nothing is lost.

    Args:
        size: height and width of the image, >= 6.
        width: standard deviation of the blob in pixels, from 0.5 to ``size``.

    Raises:
        ValueError: an argument is out of range.
    """
    _checks.count("size", size, 6)
    if not 0.5 <= width <= size:
        raise ValueError(f"width: want between 0.5 and {size} pixels, got {width!r}")
    first, extent = 2.0, size - 5.0

    def draw(z: Tensor) -> Tensor:
        centre = first + extent * NORMAL_CDF.forward(z)
        pixels = torch.arange(size, dtype=z.dtype, device=z.device)
        rows, columns = torch.exp(-((pixels - centre[:, :, None]) ** 2) / (2 * width**2)).unbind(dim=1)
        return (rows[:, :, None] * columns[:, None, :]).flatten(1)

    def locate(image: Tensor) -> Tensor:
        grid = image.unflatten(1, (size, size))
        centre = []
        for dim in (2, 1):  # sums over columns leave the profile of the rows
            profile = grid.sum(dim=dim)
            peak = profile.argmax(dim=1, keepdim=True).clamp(1, size - 2)
            log_ratio = profile.gather(1, peak + 1).log() - profile.gather(1, peak - 1).log()
            centre.append(peak + width**2 / 2 * log_ratio)
        return NORMAL_CDF.inverse((torch.cat(centre, dim=1) - first) / extent)

    return Reparametrization(draw, locate, shape=(1, size, size))


def rectangle(size: int) -> Reparametrization:
    """Draws a filled rectangle whose four edges tell four standard normal latents.

    The normal CDF takes the latents to the places of the edges: top and left between 1 and ``size/2 - 1``, bottom and
    right between ``size/2 + 1`` and ``size - 1``. A pixel's grey is the share of it that is covered, not rounded, so
    the sums of the middle row and column give the edges back.

    Args:
        size: height and width of the image, even and >= 6.

    Raises:
        ValueError: ``size`` is odd or too small.
    """
    _checks.count("size", size, 6)
    if size % 2:
        raise ValueError(f"size: want an even number, got {size}")
    half, extent = size // 2, size / 2 - 2

    def draw(z: Tensor) -> Tensor:
        edges = 1 + extent * NORMAL_CDF.forward(z)
        low, high = edges[:, :2, None], half + edges[:, 2:, None]
        pixels = torch.arange(size, dtype=z.dtype, device=z.device)
        rows, columns = (torch.minimum(high, pixels + 1) - torch.maximum(low, pixels)).clamp(0, 1).unbind(dim=1)
        return (rows[:, :, None] * columns[:, None, :]).flatten(1)

    def measure(image: Tensor) -> Tensor:
        grid = image.unflatten(1, (size, size))
        # The middle is covered by every rectangle, so its row and column are the profiles themselves.
        profiles = torch.stack([grid[:, :, half], grid[:, half, :]], dim=1)
        low = half - profiles[:, :, :half].sum(dim=2)
        high = profiles[:, :, half:].sum(dim=2)
        return NORMAL_CDF.inverse((torch.cat([low, high], dim=1) - 1) / extent)

    return Reparametrization(draw, measure, shape=(1, size, size))


def blob_images(size: int, mutual_information: float, width: float = 2.0) -> Task:
    """Two images of a blob whose positions are dependent; ``I`` is that of the positions, two correlated pairs.

    Args:
        size: height and width, >= 6.
        mutual_information: in nats, >= 0.
        width: of the blob, in pixels.

    Raises:
        ValueError: an argument is out of range.

    Source:
        After Butakov et al. 2024 (arXiv 2305.08013), synthetic images.
    """
    latents = correlated_gaussian(2, mutual_information)
    draw = blob(size, width)
    name = f"image-blob-{size}-{mutual_information:g}nats"
    return reparametrize(latents, name, x=draw, y=draw, source=_BUTAKOV)


def rectangle_images(size: int, mutual_information: float) -> Task:
    """Two images of a rectangle whose edges are dependent; ``I`` is that of the edges, four correlated pairs.

    Args:
        size: height and width, even and >= 6.
        mutual_information: in nats, >= 0.

    Raises:
        ValueError: an argument is out of range.

    Source:
        After Butakov et al. 2024 (arXiv 2305.08013), synthetic images.
    """
    latents = correlated_gaussian(4, mutual_information)
    draw = rectangle(size)
    name = f"image-rectangle-{size}-{mutual_information:g}nats"
    return reparametrize(latents, name, x=draw, y=draw, source=_BUTAKOV)


def class_images(
    name: str, images: Tensor, labels: Tensor, error: float, *, classes: tuple[int, int] = (0, 1), n_sources: int = 1
) -> Task:
    """Pictures of one class of two for x, and for y of the same class, or of the other with probability ``error``.

    An image tells its class, and given the classes x and y are independent, so ``I`` is that of the classes through a
    binary symmetric channel, ``log 2 - h(error)`` for each source, whatever the images look like.

    Args:
        name: name of the task.
        images: ``[N, ...]``, of any numeric dtype; pixels are used as they stand.
        labels: their classes, integers, ``[N]``.
        error: probability that the classes differ, inside [0, 1].
        classes: the two labels that are used.
        n_sources: independent pairs of images side by side in x and y; they add up.

    Raises:
        TypeError: ``labels`` are not integers.
        ValueError: sizes do not fit, a class has no image, an image stands in both classes, or an option is out of
            range.

    Source:
        Lee and Rhee 2024 (arXiv 2410.10924).
    """
    if not isinstance(images, Tensor) or images.ndim < 2 or images.numel() == 0:
        raise ValueError(f"images: want a tensor [N, ...] with at least one image, got {_checks.describe(images)}")
    _checks.integer("labels", labels, ndim=1)
    if len(labels) != len(images):
        raise ValueError(f"labels: want one for each of the {len(images)} images, got {len(labels)}")
    if not 0 <= error <= 1:
        raise ValueError(f"error: want a probability, got {error!r}")
    _checks.count("n_sources", n_sources)
    if len(set(classes)) != 2:
        raise ValueError(f"classes: want two labels, got {classes}")
    flat = images.flatten(1).float()
    members = [torch.nonzero(labels == label)[:, 0] for label in classes]
    for label, rows in zip(classes, members, strict=True):
        if len(rows) == 0:
            raise ValueError(f"labels: want images of class {label}, got none")
    first_class, second_class = ({row.tobytes() for row in flat[rows].numpy()} for rows in members)
    if first_class & second_class:
        raise ValueError(f"images: want images that tell their class, got one that stands in both of {classes}")
    pool, sizes = flat[torch.cat(members)], [len(rows) for rows in members]

    def pick(bits: Tensor, generator: torch.Generator) -> Tensor:
        u = torch.rand(bits.shape, generator=generator, dtype=torch.float64)
        return pool[torch.where(bits, sizes[0] + (u * sizes[1]).long(), (u * sizes[0]).long())].flatten(1).double()

    def sampler(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        first, flip = torch.rand(2, n, n_sources, generator=generator, dtype=torch.float64)
        bits = first < 0.5
        return pick(bits, generator), pick(bits ^ (flip < error), generator)

    dim = n_sources * flat.shape[1]
    # Sources are stacked as channels.
    shape = (n_sources * images.shape[1], *images.shape[2:]) if images.ndim == 4 else ()
    entropy = 0.0 if error in (0, 1) else -error * math.log(error) - (1 - error) * math.log1p(-error)
    return Task(
        name,
        dim,
        dim,
        n_sources * (math.log(2) - entropy),
        sampler,
        shape_x=shape,
        shape_y=shape,
        source="Lee and Rhee 2024 (arXiv 2410.10924)",
    )


def image_channel(
    images: str,
    error: float,
    *,
    data_dir: str | Path | None = None,
    classes: tuple[int, int] = (0, 1),
    n_sources: int = 1,
) -> Task:
    """:func:`class_images` of an image set: its training images of two classes, with pixels in [0, 1].

    Args:
        images: ``"digits"`` (bundled with scikit-learn), ``"mnist"`` or ``"fashion-mnist"``.
        error: probability that the classes of x and y differ, inside [0, 1].
        data_dir: folder of the set's official IDX files; not used by ``"digits"``. Nothing is downloaded.
        classes: the two labels that are used.
        n_sources: independent pairs of images side by side.

    Raises:
        FileNotFoundError: a file is not in ``data_dir``.
        ValueError: an unknown set, ``data_dir`` missing or not wanted, a damaged file, or as :func:`class_images`.
    """
    split = load(images, data_dir).train
    name = f"{images}-channel-{n_sources}-{error}"
    return class_images(name, split.pixels(), split.labels, error, classes=classes, n_sources=n_sources)
