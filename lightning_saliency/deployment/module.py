"""A network and its saliency map as one module: output and map from a single pass, ready to be exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lightning_saliency.explainers import SMOE
from lightning_saliency.explainers.base import Layer, check_images, stretched
from lightning_saliency.functional.statistics import Statistic
from lightning_saliency.scales.maps import ScaleMaps
from lightning_saliency.scales.taps import ScaleTaps


class SaliencyModule(nn.Module):
    """``images -> (output, map)``: what the network returns, and where it found information, from one pass.

    The map is the one of the explainer `SMOE`: class-free, the weighted mean of the maps of all scales (SMOE paper,
    Eq. 3), stretched to [0, 1]. The scales are found once, in the constructor, and read at the same places as
    everywhere in this package, also behind BatchNorm and ReLU. The network's code is not touched, and its output is
    bit for bit what it is without the map.

    The module goes through ``torch.compile``, ``torch.export``, ``torch.onnx`` and AOTInductor, see `export_network`;
    each convolution is in the exported graph once. No gradient flows back from the map. The network keeps hooks, which
    do nothing in passes other than this module's; `close` takes them off. A copy of the module, or one that was
    pickled, has hooks of its own.

    Args:
        network: The network, in whatever mode it is to run: call ``.eval()`` for production. Wrappers of
            ``torch.compile`` and ``DistributedDataParallel`` are taken off.
        images: ``[B, C, H, W]``, an example of what it will be given, on which the scales are found by a pass that
            leaves no trace.
        statistic: A name in ``STATISTICS`` or a ``Statistic``.
        weights: Weights of the scales, see `SMOE`.
        layers: ``"auto"``, or the layers to read, see `SMOE`.

    Attributes:
        scales: The scales that are read.

    Raises:
        TypeError: If ``network`` is no module, or ``images`` no floating-point tensor.
        ValueError: If the network has no scales, or a layer, the statistic or the weights do not fit.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3), nn.ReLU())
        >>> module = SaliencyModule(network.eval(), torch.rand(1, 3, 16, 16))
        >>> output, map_ = module(torch.rand(2, 3, 16, 16))
        >>> output.shape, map_.shape
        (torch.Size([2, 8, 5, 5]), torch.Size([2, 16, 16]))
    """

    def __init__(
        self,
        network: nn.Module,
        images: Tensor,
        statistic: str | Statistic = "smoe_scale",
        weights: str | Sequence[float] = "equal",
        layers: str | Sequence[Layer] = "auto",
    ) -> None:
        super().__init__()
        explainer = SMOE(network, statistic, weights, layers)
        # Once before it is needed: what cannot be read is said here.
        self.weights = explainer.scales(images).weights
        with explainer.taps(images) as taps:
            self.scales = taps.scales
        self.network = explainer.model
        self.statistic = explainer.statistic
        self._taps = ScaleTaps(self.network, self.scales, self.statistic)

    def forward(self, images: Tensor) -> tuple[Any, Tensor]:
        """Run the network once.

        Args:
            images: ``[B, C, H, W]``; of another size than the constructor's only where the scales allow it (tokens do
                not).

        Returns:
            What the network returns, and the map ``[B, H, W]`` float32 in [0, 1].

        Raises:
            TapError: If a scale was not reached or cannot be read.
            ValueError: If the images have another shape.
        """
        check_images(images, volumes=True)
        self._taps.start()
        output = self.network(images)
        names = [scale.module for scale in self.scales]
        maps = ScaleMaps.from_statistics(self._taps.take(), names, self.weights, images.shape[2:])
        return output, stretched(maps.combined()).float()

    def close(self) -> None:
        """Take the hooks off the network. A second call does nothing."""
        self._taps.close()

    def __getstate__(self) -> dict[str, Any]:
        """Without the hooks, which belong to this network alone."""
        return {name: value for name, value in self.__dict__.items() if name != "_taps"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """With hooks on the network of the copy."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._taps = ScaleTaps(self.network, self.scales, self.statistic)
