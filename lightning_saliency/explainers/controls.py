"""Control maps, which do not depend on the network: what an explainer has to beat."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_saliency.checks import check_minimum
from lightning_saliency.explainers.base import Explainer, Output
from lightning_saliency.functional.masking import resize_maps, top_fraction


class RandomMap(Explainer):
    """Every pixel uniform on [0, 1], independent of its neighbours.

    The noise has its own generator, seeded by the image and ``seed``: it depends neither on the rest of the batch nor
    on the target. The network is not run.

    Args:
        model: Not used.
        seed: Seed of the noise, combined with the image.

    Example:
        >>> noise = RandomMap(nn.Identity())(torch.rand(2, 3, 8, 8), 0)
        >>> noise.shape, bool((noise[0] != noise[1]).any())
        (torch.Size([2, 8, 8]), True)
    """

    class_specific = False

    def __init__(self, model: nn.Module, seed: int = 0) -> None:
        super().__init__(model)
        self.seed = seed

    def _explain(self, images: Tensor, targets: Tensor) -> Tensor:
        return self._explain_predicted(images)

    def _explain_predicted(self, images: Tensor) -> Tensor:
        generator = torch.Generator()
        maps = []
        for pixels in images.cpu().float():
            generator.manual_seed(zlib.crc32(str(self.seed).encode(), zlib.crc32(pixels.numpy().tobytes())))
            maps.append(torch.rand(pixels.shape[1:], generator=generator, dtype=torch.float32))
        return torch.stack(maps).to(images.device)


class CenterGaussian(Explainer):
    """A Gaussian at the centre, the same for all images: photographers put objects there.

    Args:
        model: Not used.
        sigma: Standard deviation along each axis as a share of that side.

    Raises:
        ValueError: If ``sigma`` is not positive.

    Example:
        >>> CenterGaussian(nn.Identity())(torch.rand(1, 3, 5, 5), 0)[0].argmax().item()
        12
    """

    class_specific = False

    def __init__(self, model: nn.Module, sigma: float = 0.25) -> None:
        super().__init__(model)
        if not sigma > 0:
            raise ValueError(f"Got sigma={sigma}. Allowed are positive shares of the image's side, for example 0.25.")
        self.sigma = sigma

    def _explain(self, images: Tensor, targets: Tensor) -> Tensor:
        return self._explain_predicted(images)

    def _explain_predicted(self, images: Tensor) -> Tensor:
        rows, columns = (
            torch.exp(-0.5 * (((torch.arange(side) + 0.5) / side - 0.5) / self.sigma) ** 2) for side in images.shape[2:]
        )
        return (rows[:, None] * columns).expand(len(images), -1, -1).to(images.device)


#: Iterations that make a surrogate; further ones change its autocorrelation by about a hundredth.
_ITERATIONS = 5


def shuffled_blobs(maps: Tensor, generator: torch.Generator) -> Tensor:
    """Random maps with the same values as the given ones, and blobs like theirs in other places.

    The phases of each map's Fourier transform are drawn anew, which keeps its power spectrum, that is its
    autocorrelation: how large the blobs are and how far apart. The map's own values are then laid over the result in
    the order of its ranks. Both steps are repeated, since the second undoes a little of the first (iterated
    amplitude-adjusted surrogates, Schreiber and Schmitz 1996). A mask cut out of the result at any threshold has
    exactly the area that the same threshold cuts out of the map itself.

    Args:
        maps: ``[n, H, W]``, finite.
        generator: Source of the random phases, on the CPU.

    Returns:
        ``[n, H, W]``, each map a rearrangement of the given one's values.

    Example:
        >>> maps = torch.rand(2, 8, 8)
        >>> blobs = shuffled_blobs(maps, torch.Generator().manual_seed(0))
        >>> torch.equal(blobs.flatten(1).sort().values, maps.flatten(1).sort().values), torch.equal(blobs, maps)
        (True, False)
    """
    if maps.shape[0] == 0:
        return maps.clone()
    size = (maps.shape[-2], maps.shape[-1])
    amplitudes = torch.fft.rfft2(maps.float()).abs()
    values = maps.flatten(1).sort(dim=1).values
    # Real noise has phases with the symmetry of a real image's; drawn on the CPU, it is the same on every device.
    surrogate = torch.randn(maps.shape, generator=generator, dtype=torch.float32).to(maps.device)
    for _ in range(_ITERATIONS):
        phases = torch.fft.rfft2(surrogate)
        smooth = torch.fft.irfft2(amplitudes * phases / phases.abs().clamp_min(1e-12), s=size)
        order = smooth.flatten(1).argsort(dim=1, stable=True)
        surrogate = torch.empty_like(values).scatter_(1, order, values).view(maps.shape).float()
    return surrogate.to(maps.dtype)


class OtherImage:
    """Gives each image the map of another image, from the same batch or, for a single image, from the previous one.

    Example:
        >>> other = OtherImage()
        >>> other(torch.tensor([[[1.0]], [[2.0]]]), torch.Generator()).flatten().tolist()
        [2.0, 1.0]
        >>> other(torch.tensor([[[3.0]]]), torch.Generator()).item()
        2.0
    """

    def __init__(self) -> None:
        #: The last map there was, for an image that comes alone.
        self.last: Tensor | None = None

    def __call__(self, maps: Tensor, generator: torch.Generator) -> Tensor:
        """Maps ``[n, H, W]`` turned round by a random number of places; constant, and so of no use, where none fits."""
        count = maps.shape[0]
        if count == 0:
            return maps.clone()
        before, self.last = self.last, maps[-1:].clone()
        if count > 1:
            return maps.roll(int(torch.randint(1, count, (), generator=generator)), 0)
        if before is None or before.shape != maps.shape:
            return torch.zeros_like(maps)
        return before.to(maps.device)


class RandomBlobs(Explainer):
    """Random smooth blobs, new ones at each call, for which the network is not run.

    Normal noise on a coarse grid is upsampled bilinearly; its highest pixels are one, all others zero.

    Args:
        model: The network; run only where its logits are asked for.
        grid: Cells of the noise along each axis; 7 is the grid of a ResNet's last scale.
        area: Share of the image's pixels that are one, in (0, 1).
        seed: Seed of the noise.
        output: Takes the logits out of what the network returns, see ``Explainer``.

    Raises:
        ValueError: If the grid or the area are out of range.

    Example:
        >>> maps = RandomBlobs(nn.Identity(), area=0.25)(torch.rand(2, 3, 16, 16), 0)
        >>> maps.shape, maps.mean((1, 2)).tolist()
        (torch.Size([2, 16, 16]), [0.25, 0.25])
    """

    class_specific = False

    def __init__(
        self,
        model: nn.Module,
        *,
        grid: int = 7,
        area: float = 0.4,
        seed: int = 0,
        output: Output = None,
    ) -> None:
        super().__init__(model, output=output)
        check_minimum("grid", grid, 2)
        if not 0 < area < 1:
            raise ValueError(f"Got area={area}. Allowed are shares of the image in (0, 1); give one.")
        self.grid, self.area = grid, area
        #: Source of the noise; may be replaced.
        self.generator = torch.Generator().manual_seed(seed)

    def _explain(self, images: Tensor, targets: Tensor) -> Tensor:
        noise = torch.randn(images.shape[0], self.grid, self.grid, generator=self.generator, dtype=torch.float32)
        smooth = resize_maps(noise, (images.shape[2], images.shape[3]))
        return top_fraction(smooth, self.area).float().to(images.device)


class EdgeDetector(Explainer):
    """The magnitude of the image's Sobel gradient: it looks like an explanation and ignores the network.

    In a sanity check its similarity to itself is 1 whatever is randomised, which every measure has to find.

    Args:
        model: The network, run only to predict a class; see ``Explainer``.

    Example:
        >>> EdgeDetector(nn.Flatten())(torch.rand(2, 3, 8, 8), targets=0).shape
        torch.Size([2, 8, 8])
    """

    class_specific = False

    def _explain(self, images: Tensor, targets: Tensor) -> Tensor:
        kernel = images.new_tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
        grey = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        gradient = F.conv2d(grey, torch.stack([kernel, kernel.T])[:, None])
        return torch.hypot(gradient[:, 0], gradient[:, 1])
