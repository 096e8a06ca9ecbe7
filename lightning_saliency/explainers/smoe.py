"""SMOE Scale saliency: the statistics of all scales from one forward pass, class-free."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_saliency.checks import check_choice
from lightning_saliency.explainers.base import (
    Explainer,
    Layer,
    Output,
    as_taken,
    check_images,
    named_layer,
    undisturbed,
)
from lightning_saliency.functional.statistics import Statistic, get_statistic
from lightning_saliency.scales.maps import NORMALIZATIONS, Normalization, ScaleMaps, combined_statistics
from lightning_saliency.scales.scale import Scale
from lightning_saliency.scales.taps import ScaleTaps


class SMOE(Explainer):
    """The combined SMOE Scale map of a network's scales (SMOE paper, Sec. 2, Eq. 2 and 3).

    Each scale's activation is reduced over its channels by a statistic, normalised by the normal CDF at the scale's own
    resolution, interpolated to the images' size and averaged with weights. It costs one forward pass and no backward.

    The map shows where the network finds information for any class: ``targets`` are checked and otherwise ignored.
    Like every explainer's, the map is stretched to [0, 1]; ``scales(images).combined()`` is Eq. 3 as it stands.

    Args:
        model: The network, see ``Explainer``. Its output is not used.
        statistic: A name, with a rectifier if wanted, such as ``"smoe_scale:abs"``, or a ``Statistic``, see
            ``get_statistic``.
        weights: ``"equal"``, ``"prior"`` (of the SMOE paper, for five scales), ``"ramp"`` or one number per scale.
        layers: ``"auto"``: the scales that ``find_scales`` finds; or modules' names and ``Scale`` objects, shallow to
            deep.
        normalization: ``"normal"`` or ``"gamma"``: the distribution whose CDF brings each scale's map to [0, 1].
        output: Accepted so that all explainers are built alike; only ``logits`` uses it.

    Raises:
        TypeError: If ``layers`` is of another type.
        ValueError: If the statistic or the normalization is unknown, or no layer is given.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3), nn.ReLU())
        >>> smoe = SMOE(model, layers=["1", "4"], weights=[1, 2])
        >>> smoe(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 16, 16])
        >>> smoe.scales(torch.rand(2, 3, 16, 16)).maps.shape
        torch.Size([2, 2, 16, 16])
    """

    class_specific = False
    takes_volumes = True
    takes_integers = True

    def __init__(
        self,
        model: nn.Module,
        statistic: str | Statistic = "smoe_scale",
        weights: str | Sequence[float] = "equal",
        layers: str | Sequence[Layer] = "auto",
        *,
        normalization: Normalization = "normal",
        output: Output = None,
    ) -> None:
        super().__init__(model, output=output)
        check_choice("normalization", normalization, NORMALIZATIONS)
        self.normalization: Normalization = normalization
        self.statistic = get_statistic(statistic)
        self.weights = weights
        given = (layers,) if isinstance(layers, (str, nn.Module)) else tuple(layers)
        if not given or not all(isinstance(layer, (str, nn.Module, Scale)) for layer in given):
            raise (TypeError if given else ValueError)(
                f"Got layers={layers!r}. Allowed are 'auto' and at least one module, its name or a Scale; use one of "
                "them."
            )
        self.layers = tuple(named_layer(self.model, layer) for layer in given)

    def scales(self, images: Tensor) -> ScaleMaps:
        """The maps of all scales.

        Args:
            images: ``[B, C, H, W]`` or ``[B, C, T, H, W]``, see ``Explainer``.

        Returns:
            Their normalised maps ``[B, K, H, W]`` (``[B, K, T, H, W]``) at the images' size, names and weights.

        Raises:
            ValueError: If the images have another shape, or the weights do not fit the number of scales.
            TapError: If a layer cannot be read.
        """
        check_images(images, self.takes_volumes, self.takes_integers)
        with undisturbed(self.model):
            return self._scales(as_taken(images, self.model))

    def statistics(self, images: Tensor) -> tuple[tuple[Tensor, ...], list[str]]:
        """The raw map ``[B, h, w]`` (``[B, t, h, w]``) of each scale, and the scales' names; as ``scales``."""
        check_images(images, self.takes_volumes, self.takes_integers)
        with undisturbed(self.model):
            return self._statistics(as_taken(images, self.model))

    def taps(self, images: Tensor) -> ScaleTaps:
        """Taps on the scales for images of this size, to be closed by the caller."""
        return ScaleTaps(self.model, self._chosen(images), self.statistic)

    def collect(self, taps: ScaleTaps, images: Tensor) -> ScaleMaps:
        """What the taps recorded while the network ran on the images."""
        names = [scale.name for scale in taps.scales]
        return ScaleMaps.from_statistics(taps.take(), names, self.weights, images.shape[2:], self.normalization)

    def _explain(self, images: Tensor, targets: Tensor) -> Tensor:
        return self._explain_predicted(images)

    def _explain_predicted(self, images: Tensor) -> Tensor:
        statistics, _ = self._statistics(images)
        with torch.inference_mode(False), torch.no_grad():
            return combined_statistics(statistics, self.weights, images.shape[2:], self.normalization)

    def _scales(self, images: Tensor) -> ScaleMaps:
        """The maps of all scales, below ``undisturbed``."""
        statistics, names = self._statistics(images)
        # Ordinary tensors also below inference mode, as in the pass itself.
        with torch.inference_mode(False), torch.no_grad():
            return ScaleMaps.from_statistics(statistics, names, self.weights, images.shape[2:], self.normalization)

    def _statistics(self, images: Tensor) -> tuple[tuple[Tensor, ...], list[str]]:
        with torch.no_grad(), self.taps(images) as taps:
            taps.start()
            self.model(images.clone())
            return tuple(taps.take()), [scale.name for scale in taps.scales]

    def _chosen(self, images: Tensor) -> tuple[Scale, ...]:
        if self.layers == ("auto",):
            return self._all_scales(images)
        return tuple(self._scale(images, layer) for layer in self.layers)
