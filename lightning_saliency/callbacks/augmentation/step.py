"""One step of the augmentation: which of a batch's images are replaced, by what, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_saliency.batches import BatchContent, BatchError, BatchReader
from lightning_saliency.batches.tree import Path, plain
from lightning_saliency.callbacks._trainer_lookups import has_trained, loaders_form
from lightning_saliency.callbacks.augmentation.actions.basic import Changed
from lightning_saliency.callbacks.augmentation.batch import GroundTruth, labels_at, mixed_labels
from lightning_saliency.callbacks.augmentation.batch_norm import ORIGINAL, TRAINED_ON, SharpStatistics
from lightning_saliency.callbacks.augmentation.cache import MapCache
from lightning_saliency.callbacks.augmentation.guide import Recipe
from lightning_saliency.callbacks.augmentation.options import AugmentationConfigurationError, Failures, batch_generator
from lightning_saliency.callbacks.augmentation.swap import Swap
from lightning_saliency.functional.class_labels import NO_CLASS
from lightning_saliency.functional.class_scores import IGNORED
from lightning_saliency.scales import NoScalesError


@dataclass
class Drawn:
    """The n images of a batch that were drawn, before and after.

    Args:
        images: The images as they were, ``[n, C, H, W]``.
        pixels: The images as the training step sees them, ``[n, C, H, W]``.
        masks: How much of the pixels are the images' own, ``[n, H, W]`` in [0, 1].
        targets: The images' classes, ``[n]`` int64, on the CPU; -1 for none.
        replaced: ``[n]`` bool; an image that was not replaced has no usable map.
        rows: ``[n]`` int64, on the CPU, their places in the batch.
    """

    images: Tensor
    pixels: Tensor
    masks: Tensor
    targets: Tensor
    replaced: Tensor
    rows: Tensor

    def as_they_came(self, count: int, beside: bool) -> Tensor:
        """Which of the images that the training step sees are as the loader gave them, bool.

        Args:
            count: The number of the batch's images.
            beside: Whether the replaced ones are shown beside all of them, not in their place.
        """
        replaced = self.replaced.cpu()
        same = torch.ones(count, dtype=torch.bool)
        if beside:
            return torch.cat([same, ~replaced])
        same[self.rows] = ~replaced
        return same


class BatchStep:
    """Shows the training step other pixels.

    Args:
        recipe: Makes the augmented images.
        truth: Tells the class that each image is explained for.
        reader: Finds the images of batches, their labels and indices.
        reuse_epochs: Number of epochs for which a map is used; ``None``: all.
        seed: Seed of all random numbers.
        failures: Gives the warnings.
        keep_original: Show the images as they came, too, before what became of them.
        batch_norm: Of which images BatchNorms keep statistics, see ``SaliencyAugmentation``.
    """

    def __init__(
        self,
        recipe: Recipe,
        truth: GroundTruth,
        reader: BatchReader,
        reuse_epochs: int | None,
        seed: int,
        failures: Failures,
        keep_original: bool = False,
        batch_norm: str = TRAINED_ON,
    ) -> None:
        self.recipe = recipe
        self.truth = truth
        self.reader = reader
        self.reuse_epochs = reuse_epochs
        self.seed = seed
        self.failures = failures
        self.keep_original = keep_original
        self.statistics = SharpStatistics() if batch_norm == ORIGINAL else None
        self.swap = Swap()
        self._cache: MapCache | None = None
        self._outputs: int | None = None

    def begin(self) -> None:
        """Another run, or none: show the batch its own pixels, and forget the maps."""
        self.end()
        self._cache = None if self.reuse_epochs == 1 else MapCache(self.reuse_epochs)

    def end(self) -> None:
        """The training step is over: show the batch its own pixels and labels, let BatchNorms see whole batches."""
        self.swap.restore()
        if self.statistics is not None:
            self.statistics.close()
            if self.statistics.unknown is not None:
                name, rows, count = self.statistics.unknown
                self.failures.warn_once(
                    "other rows",
                    f"batch_norm={ORIGINAL!r} leaves BatchNorms such as {name!r} out, which keep statistics of all "
                    f"that they see: got {rows} rows for {count} images (patches, frames or views in the batch). "
                    "Allowed is one row an image; to leave changed images out there, too, renew the statistics after "
                    "training with torch.optim.swa_utils.update_bn.",
                )

    def read(self, trainer: pl.Trainer, batch: Any) -> BatchContent:
        """The images of a batch.

        Args:
            trainer: The run.
            batch: The batch.

        Raises:
            BatchError: If it has none.
        """
        return self.reader.read(batch, loaders_form(trainer, "train"))

    def refusal(self, trainer: pl.Trainer, error: Exception | None) -> AugmentationConfigurationError | None:
        """What ends the run for an error of its first batch; ``None`` without one, and once the run has made a step."""
        if error is None or has_trained(trainer):
            return None
        # What the network itself raises on the images says nothing of the callback's options.
        remedy = (
            " If the module's forward takes something else than the images, name the network that takes them with "
            "model=."
            if isinstance(error, (RuntimeError, TypeError, NoScalesError))
            else ""
        )
        said = str(error)
        said += "" if said.endswith((".", "!", "?")) else "."
        refusal = AugmentationConfigurationError(f"{self.failures.owner} cannot augment this run. {said}{remedy}")
        refusal.__cause__ = error
        return refusal

    def augment(self, trainer: pl.Trainer, content: BatchContent, probability: float, number: int) -> Drawn | None:
        """Draw images of the run's batch of this number and replace them; ``None`` where none is drawn."""
        images, count = content.channels_first(), content.count
        generator = batch_generator(self.seed, trainer.global_rank, number)
        draws = torch.rand(count, generator=generator, dtype=torch.float32)
        targets = self._classes_of(content, generator)
        if targets is None:
            return None
        rows = ((draws < probability) & (self._classless | (targets >= 0))).nonzero()[:, 0]
        if not len(rows):
            return None
        whole = len(rows) == count
        on_device = rows.to(images.device)
        chosen, classes = images.detach() if whole else images[on_device].detach(), targets[rows]
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            maps = self._maps(trainer.current_epoch, chosen, classes, generator)
            changed, maps = self.recipe.changed(chosen, maps, classes, generator)
            if not bool(maps.isfinite().all()):
                self.failures.warn_once("not finite", "Some maps were not finite; these images were left as they are.")
        self._show(content, rows, changed)
        drawn = Drawn(chosen, changed.pixels, changed.masks, classes, (changed.masks < 1).any(-1).any(-1), rows)
        if self.statistics is not None:
            network = trainer.lightning_module
            self.statistics.open(network, drawn.as_they_came(count, self.keep_original))
        return drawn

    @property
    def _classes(self) -> int | None:
        """The number of the network's classes: one logit is a yes-no question; ``None`` where it does not matter."""
        return None if self._outputs is None else max(2, self._outputs)

    @property
    def _classless(self) -> bool:
        """Whether images without a class are changed, too."""
        return self.recipe.guide.class_free and not self._asks_for_labels

    @property
    def _asks_for_labels(self) -> bool:
        """Whether classes are needed though the maps may not need them."""
        return self.recipe.changes_labels or self.recipe.guide.needs_labels

    def _show(self, content: BatchContent, rows: Tensor, changed: Changed) -> None:
        """Show the training step what became of these rows of a batch, alone or beside the images as they were."""
        images, pixels = content.channels_first(), changed.pixels
        count, place = images.shape[0], torch.arange(images.shape[0])
        labels = self._mixed(content, rows, changed) if changed.partners is not None else None
        if self.keep_original:
            place = torch.cat([place, rows])
            self.swap.append(content.held[0], pixels, content.rows(), rows)
        else:
            if len(rows) < count:
                pixels = images.detach().clone()
                pixels[rows.to(images.device)] = changed.pixels
            elif pixels.untyped_storage().data_ptr() == images.untyped_storage().data_ptr():
                pixels = pixels.clone()  # so that a step that writes into its images does not write into the data
            self.swap.put(content.held, pixels)
        if labels is not None:
            self.swap.label(content.batch, labels[0], labels[1])

    def _mixed(self, content: BatchContent, rows: Tensor, changed: Changed) -> tuple[Path, Tensor]:
        """Where the labels of a batch are, and what the images are labelled that the training step is shown."""
        assert changed.partners is not None
        assert changed.weights is not None
        truth, path = content.truth_and_place()
        labels = labels_at(content.batch, path, len(truth))
        weights = changed.weights.detach().float().cpu()
        if self.keep_original:
            at = torch.cat([torch.arange(len(truth)), rows])
            labels, truth, count = plain(labels)[at.to(labels.device)], truth[at.to(truth.device)], len(at)
            first = count - len(rows)
            partners, shares = torch.arange(count), torch.ones(count, dtype=torch.float32)
            partners[first:], shares[first:] = first + changed.partners.cpu(), weights
        else:
            partners, shares = torch.arange(len(truth)), torch.ones(len(truth), dtype=torch.float32)
            partners[rows], shares[rows] = rows[changed.partners.cpu()], weights
        mixed = mixed_labels(plain(labels), truth, self._outputs or 0, partners, shares)
        # They meet logits, which are of the images' type.
        return path, mixed if labels.is_floating_point() else mixed.to(changed.pixels.dtype)

    def _classes_of(self, content: BatchContent, generator: torch.Generator) -> Tensor | None:
        """The class of each image, -1 for none; ``None`` where the guide needs them and there are no labels."""
        try:
            return self._known(self.truth.classes(content, generator))
        except BatchError as error:
            if self._classless:
                return torch.full((content.count,), NO_CLASS)
            self.failures.warn_once("no labels", f"Batches without labels stay as they are. {error}")
            return None

    def tried(self, trainer: pl.Trainer, content: BatchContent) -> tuple[Tensor, Tensor]:
        """Try the recipe on an image of a batch, which stays as it is; returns its images and their classes, -1: none.

        Raises:
            Exception: Whatever goes wrong.
        """
        images = content.channels_first()
        if not images.is_floating_point():
            raise ValueError(
                f"Got images of {images.dtype}. Allowed are floating-point images, as the network takes them: "
                "convert them in the data set or in on_after_batch_transfer."
            )
        if self.keep_original and content.held[0].ndim != images.ndim:
            raise ValueError(
                f"Got keep_original=True and a list of {content.count} images. Allowed is one tensor [B, C, H, W], "
                "which can be made longer; stack the images in collate_fn, or leave keep_original out."
            )
        if content.count == 1 and getattr(self.recipe.action, "needs_others", False):
            self.failures.warn_once(
                "alone",
                f"{type(self.recipe.action).__name__} needs another image of the batch, and the first batch has one "
                "alone, which stays as it is. Allowed are batches of two images and more; raise batch_size, or take "
                "another action.",
            )
        guide, generator = self.recipe.guide, batch_generator(self.seed, 0, -1)
        guide.settle(begun=False)
        targets = self._classes_of(content, generator) if self._classless else self.truth.classes(content, generator)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            self._outputs = guide.output_count(images[:1].detach(), always=self._asks_for_labels)
        none = torch.full((len(images),), NO_CLASS)
        if targets is None:
            return images, none
        known = self._known(targets)
        if not (self._classless or bool((known >= 0).any())):
            if not bool(((targets >= 0) & (targets != IGNORED)).any()):
                return images, none
            raise ValueError(
                f"Got labels such as {int(targets.max())}, none of them from 0 to {(self._classes or 0) - 1}, the "
                f"network's {self._classes} classes. Allowed are integer classes, and 0 and 1 for a network with one "
                "output; say with label_key= where the labels are, and with output= where the network's logits are."
            )
        tried = known.argmax()[None]
        generator = batch_generator(self.seed, 0, -1)
        with trainer.precision_plugin.forward_context(), guide.trial():
            first = images[tried.to(images.device)]
            changed, _ = self.recipe.augmented(first, known[tried], generator, self.truth.several)
            self._show(content, tried, changed)
            self.swap.restore()
        return images, known

    def _known(self, targets: Tensor) -> Tensor:
        """The classes, -1 in the place of those that the network does not have."""
        if self._classes is None:
            return targets
        beyond = targets >= self._classes
        if bool((beyond & (targets != IGNORED)).any()):
            self.failures.warn_once(
                "no such class",
                f"Images with labels such as {int(targets.max())} stay as they are: the network has {self._classes} "
                "classes, from 0.",
            )
        return torch.where(beyond, NO_CLASS, targets)

    def _maps(self, epoch: int, images: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        """The guide's maps of the images, kept ones where they can be used again."""

        def made(some: Tensor, classes: Tensor) -> Tensor:
            return self.recipe.guide.maps(some, classes, generator, self.truth.several)

        if self._cache is None or self.recipe.guide.settled:
            return made(images, targets)
        # Where maps need no class there is one an image, whatever its labels say.
        maps = self._cache.maps(images, targets.clamp(max=-1) if self.recipe.guide.class_free else targets, epoch, made)
        if self._cache.useless:
            self._cache = None
            self.failures.warn_once(
                "images change",
                f"reuse_epochs={self.reuse_epochs or 'all'} has no effect: of 100 images that were to come back, none "
                "was the same. The data set seems to change them at random (or has more than the memory for maps "
                "holds), so that their maps cannot be used again.",
            )
        return maps
