"""Reading the maps of a batch in the module's own passes over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_saliency.batches import find_classes, find_images, find_objects, find_predictions
from lightning_saliency.callbacks.monitor.options import check_layers
from lightning_saliency.callbacks.monitor.sample import FixedSample, SampleRecord
from lightning_saliency.functional.statistics import Statistic
from lightning_saliency.scales.reader import CompiledReader, PassMaps, ScaleReader


@dataclass(frozen=True)
class _Pending:
    """A batch whose step is running.

    Attributes:
        shown: The images to show, on the CPU.
        pairs: Their rows in the batch and slots in the sample.
        objects: ``[B, H, W]`` bool, where every image is to be scored.
        batch_size: The number of images B.
    """

    shown: Tensor
    pairs: list[tuple[int, int]]
    objects: Tensor | None
    batch_size: int


class BatchReading:
    """Finds the scales of the watched network in its first pass over a batch, and reads them from then on.

    Args:
        statistic: Read at each scale.
        layers: ``"auto"`` or the layers that are the scales.
        image_key: Where a batch carries its images.

    Attributes:
        names: The scales' names; empty until they are found.
        network: The network whose scales they are; ``None`` before the first pass.
    """

    def __init__(self, statistic: Statistic, layers: str | Sequence[str], image_key: str | int | None) -> None:
        self.statistic = statistic
        self.layers = layers
        self.image_key = image_key
        self.names: tuple[str, ...] = ()
        self._reader: ScaleReader | CompiledReader | None = None
        self._pending: _Pending | None = None

    @property
    def network(self) -> nn.Module | None:
        """The network that is read."""
        return None if self._reader is None else self._reader.model

    def open(self, network: nn.Module, batch: Any, *, compiled: bool, sharded: bool) -> None:
        """Begin with a network, or with another one; one that is known is kept.

        Args:
            network: The watched submodule.
            batch: A batch of images, for a network that is compiled: it is probed before it is compiled.
            compiled: Whether it is compiled, so that its hooks must be there before its first pass.
            sharded: Whether its parameters are spread over processes.

        Raises:
            ValueError: If a layer is unknown; if a compiled network has no scales, or is sharded.
        """
        if self.network is network:
            return
        self.close()
        check_layers(network, self.layers)
        if not compiled:
            self._reader = ScaleReader(network, self.statistic, self.layers)
        elif sharded:
            raise ValueError(
                "The network is compiled and its parameters are spread over processes, so that it cannot be run by "
                "itself to find its scales before it is compiled. Leave out the compilation, or the monitor."
            )
        else:
            images = find_images(batch, self.image_key)
            self._reader = CompiledReader(network, images, self.statistic, self.layers)

    def start(self, batch: Any, sample: FixedSample | None) -> None:
        """Watch the passes to come, where something of this batch is wanted.

        Args:
            batch: On its device; its step has not run.
            sample: The images to show; ``None``: none of this batch.
        """
        if self._reader is None:
            return
        images = find_images(batch, self.image_key)
        pairs = [] if sample is None else sample.place(images)
        objects = find_objects(batch, (images.shape[-2], images.shape[-1]))
        if objects is None and not pairs:
            return
        # The rows shown are copied now: a network may change its input in place.
        shown = images[[row for row, _ in pairs]].detach().cpu() if pairs else images[:0].cpu()
        self._pending = _Pending(shown, pairs, objects, images.shape[0])
        self._reader.start(images, None if objects is not None else [row for row, _ in pairs])

    def take(self) -> tuple[_Pending, PassMaps] | None:
        """The maps that the step yielded, and what they are for; ``None`` where nothing was wanted.

        Raises:
            ValueError: If the network has no scales.
            TapError: If the images passed through no module of the network, or an activation could not be read.
        """
        pending, self._pending = self._pending, None
        if pending is None or self._reader is None:
            return None
        found = self._reader.take()
        scales = self._reader.scales or ()
        if not self.names:
            listing = ", ".join(f"{scale.module or 'output'} {scale.grid[0]}×{scale.grid[1]}" for scale in scales)
            rank_zero_info(f"SaliencyMonitor watches {len(scales)} scales: {listing}")
        self.names = tuple(scale.module or "output" for scale in scales)
        return pending, found

    def close(self) -> None:
        """Take off the hooks and forget the network."""
        if self._reader is not None:
            self._reader.close()
        self._reader, self._pending, self.names = None, None, ()

    def failed(self) -> None:
        """Take off the hooks after an error; the scales of a network that is not compiled are found anew."""
        self._pending = None
        if isinstance(self._reader, CompiledReader):
            self._reader.stop()
        else:
            self.close()


def sample_records(found: PassMaps, pending: _Pending, outputs: Any, batch: Any) -> dict[int, SampleRecord]:
    """The records of the images to show, by their slots in the sample; images without maps are left out.

    Args:
        found: Maps of images of the batch.
        pending: What of the batch was wanted.
        outputs: What the step returned, searched for logits.
        batch: Searched for labels.
    """
    place = {image: position for position, image in enumerate(found.images)}
    labels, predictions = find_classes(batch, pending.batch_size), find_predictions(outputs, pending.batch_size)
    return {
        slot: SampleRecord(
            image=pending.shown[position],
            statistics=[map_[place[row]].float().cpu() for map_ in found.maps],
            label=None if labels is None else int(labels[row]),
            prediction=None if predictions is None else int(predictions[row]),
        )
        for position, (row, slot) in enumerate(pending.pairs)
        if row in place
    }
