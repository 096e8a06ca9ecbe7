"""Reading the maps of a batch in the module's own passes over it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_saliency.batches import BatchContent, BatchReader, NoImagesError, find_losses, find_predictions
from lightning_saliency.callbacks._trainer_lookups import loaders_form, several_loaders
from lightning_saliency.callbacks.monitor.options import check_layers
from lightning_saliency.callbacks.monitor.reading.sample import WORST, FixedSample, SampleRecord
from lightning_saliency.callbacks.monitor.shortcuts.positions import EpochPositions
from lightning_saliency.functional.class_labels import NO_CLASS
from lightning_saliency.functional.position_bias import cell_features
from lightning_saliency.functional.statistics import Statistic
from lightning_saliency.scales.reader import CompiledReader, Layers, PassMaps, ScaleReader


@dataclass(frozen=True)
class Pending:
    """A batch whose step is running.

    Attributes:
        shown: The images to show, on the CPU.
        pairs: Their rows in the batch and slots in the sample.
        objects: ``[B, H, W]`` bool, or ``[B, T, H, W]`` of volumes, where every image is to be scored.
        count: The number of the batch's images.
        classes: Their classes ``[B]``, ``None`` where there are no labels. Read before the step, which may change
            the batch.
        cells: What lies in the cells of every image, ``[B, 5, 16, 16]``, where it is to be known; see `cell_features`.
            Of volumes, in those of the mean over T.
    """

    shown: Tensor
    pairs: list[tuple[int, int]]
    objects: Tensor | None
    count: int
    classes: Tensor | None
    cells: Tensor | None


class BatchReading:
    """Finds the scales of the watched network in its first pass over a batch, and reads them from then on.

    Args:
        statistic: Read at each scale.
        layers: ``"auto"`` or the modules whose outputs are the scales, by name or themselves.
        batches: Finds the images of batches and what belongs to them.

    Attributes:
        loader: The loader of the images to show, the first that had images; ``None`` before.
        names: The scales' names; empty until they are found.
        network: The network whose scales they are; ``None`` before the first pass.
    """

    def __init__(self, statistic: Statistic, layers: Layers, batches: BatchReader) -> None:
        self.statistic = statistic
        self.layers = layers
        self.batches = batches
        self.loader: int | None = None
        self.names: tuple[str, ...] = ()
        self._reader: ScaleReader | CompiledReader | None = None
        self._pending: Pending | None = None
        self._passed_over = False
        self._written = False
        self._latest: int | None = None  # the loader of the latest batch

    @property
    def network(self) -> nn.Module | None:
        """The network that is read."""
        return None if self._reader is None else self._reader.model

    @property
    def entrance(self) -> nn.Module | None:
        """Where the images enter it; ``None`` before the first pass, and of a compiled network."""
        return self._reader.entrance if isinstance(self._reader, ScaleReader) else None

    @property
    def shows(self) -> bool:
        """Whether images of the present batch may be shown."""
        return self._pending is not None and bool(self._pending.pairs)

    @property
    def waits(self) -> bool:
        """Whether it waits for the step of a batch."""
        return self._pending is not None

    def read(self, trainer: pl.Trainer, batch: Any, stage: str) -> BatchContent | None:
        """The images of a batch; ``None`` where it has none, but other batches or loaders may.

        Raises:
            NoImagesError: If there have been none, and the stage has no other loader.
        """
        try:
            return self.batches.read(batch, loaders_form(trainer, stage))
        except NoImagesError as error:
            if self.loader is None and not several_loaders(trainer, stage):
                raise
            if not self._passed_over:
                rank_zero_info(f"SaliencyMonitor passes over batches without images. {error}")
            self._passed_over = True
            return None

    def open(self, network: nn.Module, content: BatchContent, *, compiled: bool, sharded: bool) -> None:
        """Begin with a network, or with another one; one that is known is kept.

        Args:
            network: The watched submodule.
            content: Images, for a network that is compiled: it is probed before it is compiled.
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
            self._reader = CompiledReader(network, content.images, self.statistic, self.layers)

    def start(
        self, content: BatchContent, loader: int, sample: FixedSample | None, positions: EpochPositions | None = None
    ) -> None:
        """Watch the passes to come, where something of this batch is wanted.

        Args:
            content: The images of the batch, on their device; its step has not run.
            loader: The loader that made it.
            sample: The images to show; ``None``: none of this batch.
            positions: Says whether it is to be known where all of its maps point; ``None``: no.

        Raises:
            BatchError: If the images are of different sizes.
            ValueError: If one image of each class, or the worst, are to be shown, and there are no classes.
        """
        if self._reader is None:
            return
        self.loader = loader if self.loader is None else self.loader
        if loader != self._latest:
            self.batches.begin()
        self._latest = loader
        images, pictures = content.images, content.pictures
        pairs = [] if sample is None or loader != self.loader else _place(sample, content)
        objects = content.objects()
        located = positions is not None and loader == self.loader and positions.wants(content.count)
        if objects is None and not pairs and not located:
            return
        # The rows shown are copied now: a network may change its input in place.
        shown = pictures[[row for row, _ in pairs]].detach().cpu() if pairs else torch.zeros(0, *pictures.shape[1:])
        cells = None
        if located:
            cells = cell_features(pictures.float().mean(2) if pictures.ndim == 5 else pictures)
        classes = content.classes() if pairs or located else None
        classes = None if classes is None else classes.clone()
        self._pending = Pending(shown, pairs, objects, content.count, classes, cells)
        rows = None if objects is not None or located else [row for row, _ in pairs]
        # What is shown has to be known at once; numbers can be left out later.
        self._reader.start(images, rows, defer=not pairs and not self._written and not self._reader.written)

    def take(self) -> tuple[Pending, PassMaps] | None:
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
            listing = ", ".join(f"{scale.name} {'×'.join(map(str, scale.grid))}" for scale in scales)
            rank_zero_info(f"SaliencyMonitor watches {len(scales)} scales: {listing}")
        self.names = tuple(scale.name for scale in scales)
        return pending, found

    def mind_written(self) -> None:
        """Steps write to their batches in place: from now on each batch is looked at before it is read."""
        self._written = True

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
            # What was read before in this frame can still be drawn.
            names = self.names
            self.close()
            self.names = names


def _place(sample: FixedSample, content: BatchContent) -> list[tuple[int, int]]:
    """The rows of a batch that are shown, with their slots; classes are looked for only where they are asked for."""
    classes = content.classes() if sample.one_per_class or sample.chooses else None
    return sample.place(content.pictures, None if classes is None else classes.tolist())


def worst_of(pending: Pending, sample: FixedSample, outputs: Any, seen: Tensor | None) -> Pending:
    """The batch with those images to show that are among the worst so far.

    Args:
        pending: A batch all of whose images may be shown.
        sample: Chooses.
        outputs: What the step returned, searched for logits.
        seen: The losses ``[B]`` by the network's own outputs, taken where the step returned no logits.

    Raises:
        ValueError: If nothing tells the losses.
    """
    labels = pending.classes
    losses = None if labels is None else find_losses(outputs, labels)
    losses = seen if losses is None else losses
    if losses is None:
        raise ValueError(
            f"Got indices={WORST!r}, but no logits: the step returned none, and none were seen at the network's end. "
            'Allowed are logits [B, classes]; return them from the step, as {"logits": logits}, or give the images\' '
            "numbers with indices=[...]."
        )
    pairs = sample.choose(pending.shown, losses.tolist())
    return replace(pending, shown=pending.shown[[row for row, _ in pairs]], pairs=pairs)


def sample_records(
    found: PassMaps, pending: Pending, outputs: Any, predicted: Tensor | None = None
) -> dict[int, SampleRecord]:
    """The records of the images to show, by their slots in the sample; images without maps are left out.

    Where the step has made something else of the images, what the network was given is shown: the maps are of that.

    Args:
        found: Maps of images of the batch.
        pending: What of the batch was wanted.
        outputs: What the step returned, searched for logits.
        predicted: The classes ``[B]`` that the network's own outputs tell, -1 for none, taken where the step's do not.
            What a regression finds is no class.
    """
    if not pending.pairs:
        return {}
    place = {image: position for position, image in enumerate(found.images)}
    labels, predictions = pending.classes, find_predictions(outputs, pending.count)
    predictions = predicted if predictions is None else predictions
    numbers = labels is not None and bool((labels < NO_CLASS).any())
    classes = [
        None if numbers or class_ < 0 else class_
        for class_ in ([-1] * pending.count if predictions is None else predictions.tolist())
    ]
    return {
        slot: SampleRecord(
            image=pending.shown[position] if found.seen is None else found.seen[place[row]].cpu(),
            statistics=[map_[place[row]].float().cpu() for map_ in found.maps],
            label=None if labels is None else int(labels[row]),
            prediction=classes[row],
        )
        for position, (row, slot) in enumerate(pending.pairs)
        if row in place
    }
