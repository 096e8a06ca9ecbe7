"""Images of the user's own in the film: the network runs on them once a frame."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from lightning_saliency.callbacks.monitor.options import MonitorConfigurationError
from lightning_saliency.callbacks.monitor.reading.sample import SampleRecord
from lightning_saliency.data.image_files import image_files, read_picture
from lightning_saliency.explainers import SMOE
from lightning_saliency.explainers.base import Output
from lightning_saliency.functional.class_scores import predicted_classes
from lightning_saliency.functional.statistics import Statistic
from lightning_saliency.scales.reader import Layers

#: What the monitor takes as ``images``.
Images = Tensor | str | Path | Sequence[str | Path]


class OwnImages:
    """Runs the watched network on images that belong to no data set, and reads their maps.

    Args:
        images: ``[N, C, H, W]``, or volumes ``[N, C, T, H, W]``, floating point as the network takes them; or files and
            folders, whose images are brought to the size of the batches' images (shorter side, then centre) and
            normalised like them.

    Raises:
        MonitorConfigurationError: If they are something else, or a file is missing or no image.
    """

    def __init__(self, images: Images) -> None:
        self._tensor: Tensor | None = None
        self._files: list[Path] = []
        if isinstance(images, Tensor):
            if images.ndim not in (4, 5) or not len(images) or not images.is_floating_point():
                raise MonitorConfigurationError(
                    f"Got images of shape {list(images.shape)} and {images.dtype}. Allowed are [N, C, H, W] "
                    "and volumes [N, C, T, H, W] in floating point, normalised as the network takes them, files and "
                    "folders; give these."
                )
            self._tensor = images.detach().cpu().clone()
            return
        try:
            self._files = image_files([images] if isinstance(images, (str, Path)) else list(images))
            for file in self._files:
                read_picture(file)
        except (OSError, TypeError, ValueError) as error:
            raise MonitorConfigurationError(f"SaliencyMonitor cannot read images=. {error}") from None
        if not self._files:
            raise MonitorConfigurationError("Got images=[]. Allowed are files, folders and tensors; give some.")

    def __len__(self) -> int:
        return len(self._files) if self._tensor is None else len(self._tensor)

    @property
    def digest(self) -> str:
        """A text that is another for other images, or for the same ones in another order."""
        if self._tensor is None:
            parts = [file.read_bytes() for file in self._files]
        else:
            parts = [f"{self._tensor.dtype} {list(self._tensor.shape)}".encode()]
            parts.append(self._tensor.contiguous().view(torch.uint8).numpy().tobytes())
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]

    @property
    def are_files(self) -> bool:
        """Whether they have to be normalised."""
        return self._tensor is None

    def records(
        self,
        trainer: pl.Trainer,
        network: nn.Module,
        like: tuple[int, ...],
        normalization: tuple[Sequence[float], Sequence[float]] | None,
        statistic: Statistic,
        layers: Layers,
        output: Output,
    ) -> tuple[dict[int, SampleRecord], tuple[str, ...]]:
        """One forward pass for the maps and one for the predictions, in eval mode and without a trace.

        Args:
            trainer: The run.
            network: The watched network.
            like: The shape ``(C, H, W)``, or ``(C, T, H, W)``, of the batches' images.
            normalization: ``(mean, std)`` of the network's images; ``None``: they are in [0, 1].
            statistic: Read at each scale.
            layers: The scales, see ``SaliencyMonitor``.
            output: What takes the logits out of what the network returns.

        Returns:
            The records by their places, and the names of the scales.
        """
        images = self._read(like, normalization) if self._tensor is None else self._tensor
        on_device = images.to(trainer.strategy.root_device)
        named = [layers] if isinstance(layers, nn.Module) else layers
        explainer = SMOE(network, statistic, layers=named, output=output)
        with trainer.precision_plugin.forward_context():
            statistics, names = explainer.statistics(on_device)
            predicted = _predictions(explainer, on_device)
        records = {
            place: SampleRecord(
                image=image,
                statistics=[map_[place].float().cpu() for map_ in statistics],
                prediction=None if predicted is None else predicted[place],
            )
            for place, image in enumerate(images)
        }
        return records, tuple(names)

    def _read(self, like: tuple[int, ...], normalization: tuple[Sequence[float], Sequence[float]] | None) -> Tensor:
        if len(like) != 3:
            raise ValueError(
                f"Got files for images= beside volumes {list(like)}. Allowed are volumes [N, C, T, H, W] in one "
                "tensor; give these."
            )
        channels, height, width = like
        images = []
        for file in self._files:
            picture = v2.functional.to_image(read_picture(file))
            scale = max(height / picture.shape[-2], width / picture.shape[-1])
            size = [max(height, round(picture.shape[-2] * scale)), max(width, round(picture.shape[-1] * scale))]
            picture = v2.functional.center_crop(v2.functional.resize(picture, size, antialias=True), [height, width])
            picture = v2.functional.to_dtype(picture, torch.float32, scale=True)
            picture = picture.mean(0, keepdim=True) if channels == 1 else picture
            if normalization is not None:
                mean, std = normalization
                picture = v2.functional.normalize(picture, list(mean), list(std))
            images.append(torch.as_tensor(picture))
        return torch.stack(images)


def _predictions(explainer: SMOE, images: Tensor) -> list[int] | None:
    """The predicted classes; ``None`` where the network's output has none: its maps need none."""
    try:
        return [int(class_) for class_ in predicted_classes(explainer.logits(images))]
    except (TypeError, ValueError):
        return None
