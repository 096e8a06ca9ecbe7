"""Training on images of which a saliency map has blurred the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_saliency.batches import find_images
from lightning_saliency.callbacks._augment_batch import Swap, draw_classes, find_ground_truth, find_indices
from lightning_saliency.callbacks._augment_cache import MapCache
from lightning_saliency.callbacks._augment_frame import AugmentationFilm
from lightning_saliency.callbacks._augment_guide import Guide
from lightning_saliency.callbacks._augment_options import (
    AugmentationConfigurationError,
    batch_generator,
    parse_schedule,
    probability_at,
    whole_number,
)
from lightning_saliency.callbacks._means import EpochMeans
from lightning_saliency.callbacks._watched import watched_module
from lightning_saliency.explainers.fast_forward import Precision
from lightning_saliency.functional.masking import Fill, blend, fill_images

#: So many steps in a row may fail before the augmentation gives up.
_MOST_FAILURES = 10
#: What the run's metrics are called, behind the callback's name.
_SCALARS = ("mask_fraction", "confidence_gain", "augmented")

_Explained = tuple[Tensor, torch.Generator, bool]


class SaliencyAugmentation(pl.Callback):
    """Replaces training images by ones of which only the pixels that speak for their class are sharp.

    The steps of the Group-CAM paper's Sec. 5, with any class-specific explainer as the guide. For an image I of the
    ground-truth class c, before the training step:

    1. M: the guide's map of I for c, min-maxed to [0, 1] (the network in eval mode, as it is at this step).
    2. B = 1 where M is greater than the mean of this very map, 0 elsewhere (``soft=True``: B = M).
    3. Ĩ = I ⊙ B + blur(I) ⊙ (1 − B) (Eq. 5).
    4. The training step gets Ĩ in the place of I.

    Nothing else changes: the queries leave training flags, buffers, gradients, hooks and the global random number
    generators as they were, the callback draws from a generator of its own, and the data set's own tensors are never
    written to. With ``probability=0`` a run is bit for bit what it would be without the callback.

    An image stays as it is if its map is constant or not finite, or if it has no class (a negative label, or no
    positive one). A mistake in the options ends the run before its first step. Later, an error is a warning, and the
    step goes on unaugmented; after ten in a row the callback is off.

    Two controls tell whether the map matters. Both cost the guide's queries and keep exactly as many pixels:
    ``control="random_blobs"`` cuts the mask out of a random map with the same values and the same autocorrelation,
    ``control="other_image"`` takes the map of another image of the batch. ``explainer="random_blobs"`` is a third, of
    fixed area, that costs no query: what the same time buys without a map.

    Logs, each epoch: ``<name>/augmented``, the share of the epoch's training images that were replaced;
    ``<name>/mask_fraction``, the mean of B over the replaced images; ``<name>/confidence_gain``, by how much the
    network is surer of the class of Ĩ than of that of I, over the first augmented batch; and as a picture and a film
    under ``<run>/<name>/``, ``<name>/augmentation``: the same few images, their maps, and what became of them.

    In the list of callbacks, one that reads training images (``SaliencyMonitor(stage="train")``) goes behind this one
    to show what the network was given.

    Args:
        explainer: The guide: a key of ``EXPLAINERS`` other than ``"smoe"``, or ``"random_blobs"``.
        probability: That an image is replaced, in [0, 1]; or a schedule of points (epoch, probability), linear between
            them: ``[[0, 0.0], [10, 1.0]]``.
        options: The explainer's own, such as ``{"groups": 16, "gradients": False}``.
        control: ``None``, ``"random_blobs"`` or ``"other_image"``.
        soft: Blend with the map itself, not with the binary mask.
        baseline: What shows where the mask is zero, see ``fill_images``; ``"blur"`` is the paper's.
        start_epoch: The first epoch, from 0, in which images are replaced.
        every_n_steps: Only every so many training batches is looked at.
        model: Dotted path of the network within the module; ``None`` takes the module itself if it defines
            ``forward``, else its only child with parameters.
        layer: The layer the guide looks at; ``None``: the explainer's default, the last scale.
        output: Takes the logits ``[B, N]`` out of what the network returns; ``None``: ``logits_of``.
        precision: ``"bf16"`` or ``"fp16"``: autocast the queries. ``None``: the trainer's own precision.
        fast: Score masked images with a faster copy of the network, see ``fast_inference``; ``"compiled"``: and compile
            it, which takes up to a minute at the run's start.
        batch_size: Masked images in one pass, see ``score_masks``.
        resolution: Side of the images that the guide sees, as a share of the training images', in (0, 1].
        reuse_epochs: For how many epochs a map is used, the one it was made in included. Takes a data set that hands
            out indices, and images that come back unchanged: an image that looks different gets a map of its own. The
            kept maps are not part of a checkpoint.
        index: Where a batch carries the images' indices, with ``reuse_epochs``.
        images: Where a batch carries its images, see ``find_images``; ``None`` searches.
        labels: Where it carries their classes: integers ``[B]``, or weights ``[B, N]`` in [0, 1] of which a class is
            drawn (multi-label, soft labels). ``None`` searches.
        seed: Of the choice of images and of everything else that is random here.
        log: Whether scalars and pictures are logged.
        num_images: How many images the picture shows: the first ones of the run.
        denormalize: How images are shown, see ``SaliencyMonitor``.
        name: The prefix of every key and the film's folder; ``None``: the explainer's name.
        picture_width: The largest width of a picture in pixels.
        film_megabytes: The largest size of the film on disk.

    Raises:
        AugmentationConfigurationError: For options that make no sense; in ``setup``, for options that are not the
            explainer's or a strategy that shards parameters; at the first batch, for a batch without images or classes,
            or a network that the explainer cannot explain.

    Example:
        >>> augmentation = SaliencyAugmentation("grad_cam", probability=[[0, 0.0], [5, 0.5]], start_epoch=1)
        >>> augmentation.probability(epoch=3)
        0.3
        >>> SaliencyAugmentation("smoe")
        Traceback (most recent call last):
        ...
        lightning_saliency.callbacks._augment_options.AugmentationConfigurationError: Got explainer='smoe'. smoe has ...
    """

    def __init__(
        self,
        explainer: str = "group_cam",
        probability: float | list[list[float]] = 1.0,
        *,
        options: dict[str, Any] | None = None,
        control: Literal["random_blobs", "other_image"] | None = None,
        soft: bool = False,
        baseline: Fill = "blur",
        start_epoch: int = 0,
        every_n_steps: int = 1,
        model: str | None = None,
        layer: str | None = None,
        output: Callable[[Any], Tensor] | None = None,
        precision: Precision | None = None,
        fast: bool | Literal["compiled"] = False,
        batch_size: int | Literal["auto"] = "auto",
        resolution: float = 1.0,
        reuse_epochs: int = 1,
        index: str | int = "index",
        images: str | int | None = None,
        labels: str | int | None = None,
        seed: int = 0,
        log: bool = True,
        num_images: int = 4,
        denormalize: str | Sequence[Sequence[float]] = "auto",
        name: str | None = None,
        picture_width: int = 512,
        film_megabytes: float = 64.0,
    ) -> None:
        self._points = parse_schedule(probability)
        self.guide = Guide(
            explainer,
            options,
            control,
            layer=layer,
            output=output,
            precision=precision,
            fast=fast,
            batch_size=batch_size,
            resolution=resolution,
        )
        self.soft = soft
        self.baseline = baseline
        self.start_epoch = whole_number("start_epoch", start_epoch, 0)
        self.every_n_steps = whole_number("every_n_steps", every_n_steps, 1)
        self.model = model
        self.reuse_epochs = whole_number("reuse_epochs", reuse_epochs, 1)
        self.index = index
        self.images = images
        self.labels = labels
        self.seed = whole_number("seed", seed, 0)
        # Not `self.log`: Lightning puts a function of that name on every callback.
        self.logs = log
        self.num_images = whole_number("num_images", num_images, 1)
        self.name = explainer if name is None else name
        self._film = AugmentationFilm(self.name, denormalize, picture_width, film_megabytes)
        self._swap = Swap()
        self._cache: MapCache | None = None
        self._means = EpochMeans(_SCALARS)
        self._measured = False
        self._sample: tuple[Tensor, Tensor, bool] | None = None
        self._batches = 0
        self._begun = False
        self._off = False
        self._failures = 0
        self._warned: set[str] = set()

    @property
    def state_key(self) -> str:
        """Several augmentations in one trainer keep their states apart."""
        return self._generate_state_key(name=self.name, model=self.model)

    def probability(self, epoch: int) -> float:
        """The probability that an image is replaced in an epoch, from 0."""
        return probability_at(self._points, epoch) if epoch >= self.start_epoch else 0.0

    def epoch_means(self) -> dict[str, float]:
        """The scalars of the epoch so far, of this process alone; those without a value are left out."""
        return self._means.local()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check what can be checked without data; nothing is touched yet."""
        if stage != "fit":
            return
        self._swap.restore()
        self._begun = self._off = False
        self._failures = 0
        if any(shards in type(trainer.strategy).__name__ for shards in ("FSDP", "DeepSpeed", "ModelParallel")):
            raise AugmentationConfigurationError(
                f"{type(trainer.strategy).__name__} shards the parameters, so that the network cannot be queried by "
                "itself. Use strategy='ddp', or leave the augmentation out."
            )
        self.guide.bind(watched_module(pl_module, self.model, AugmentationConfigurationError))
        self._cache = MapCache(self.reuse_epochs) if self.reuse_epochs > 1 else None
        if self.logs and trainer.is_global_zero:
            self._film.open(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let go of everything."""
        self._swap.restore()
        self.guide.release()
        self._cache = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let go of everything; ``teardown`` is not called after an exception."""
        self.teardown(trainer, pl_module, "fit")

    def state_dict(self) -> dict[str, Any]:
        """The count of batches, on which all that is random depends, and the images of the film."""
        sample = None
        if self._sample is not None:
            images, targets, multi_label = self._sample
            sample = {"images": images, "targets": targets, "multi_label": multi_label}
        return {"batches": self._batches, "sample": sample}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was made."""
        self._batches = int(state_dict["batches"])
        sample = state_dict["sample"]
        if sample is not None:
            self._sample = (sample["images"], sample["targets"], bool(sample["multi_label"]))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the epoch's means."""
        self._means = EpochMeans(_SCALARS)
        self._measured = False

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Show the training step augmented images."""
        self._swap.restore()
        number, self._batches = self._batches, self._batches + 1
        if self._off:
            return
        try:
            if not self._begun:
                self._begun = True
                self._begin(trainer, batch)
            probability = self.probability(trainer.current_epoch)
            if probability > 0 and batch_idx % self.every_n_steps == 0:
                self._augment(trainer, batch, probability, number)
            self._failures = 0
        except AugmentationConfigurationError:
            raise
        except Exception as error:  # said aloud, by _fail
            self._fail(error)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the batch's own images again."""
        self._swap.restore()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the epoch."""
        self._swap.restore()
        if not self.logs:
            return
        # Every process takes part, also one whose augmentation is off: the others wait for it.
        for name, value in self._means.reduced(trainer).items():
            pl_module.log(f"{self.name}/{name}", value, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
        if trainer.is_global_zero and not self._off and self._sample is not None:
            try:
                self._show(trainer)
            except Exception as error:  # said aloud, by _fail
                self._fail(error)

    def augmented(
        self, images: Tensor, targets: Tensor, generator: torch.Generator, multi_label: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What becomes of some images: steps 1 to 3.

        Args:
            images: ``[n, C, H, W]``, floating point, on the network's device.
            targets: ``[n]`` int64, their classes.
            generator: On the CPU.
            multi_label: Whether classes do not exclude each other: confidences are then sigmoids.

        Returns:
            The augmented images; the maps M ``[n, H, W]`` that were used; the masks B ``[n, H, W]`` in [0, 1], of ones
            where an image stays as it is.
        """
        return self._blended(images, self.guide.maps(images, targets, generator, multi_label), generator)

    def _blended(self, images: Tensor, maps: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        maps = self.guide.controlled(maps, generator)
        masks = maps if self.soft else (maps > maps.mean((-2, -1), keepdim=True)).float()
        usable = maps.isfinite().all(-1).all(-1) & (maps.amax((-2, -1)) > maps.amin((-2, -1)))
        masks = torch.where(usable[:, None, None], masks, 1.0)
        noise = batch_generator(int(torch.randint(2**31, (), generator=generator)), 0, 0, images.device)
        return blend(images, fill_images(images, self.baseline, generator=noise), masks), maps, masks

    def _begin(self, trainer: pl.Trainer, batch: Any) -> None:
        """Try the guide on the run's first batch, before anything can be lost, and show the film's first frame."""
        if max(value for _, value in self._points) == 0:
            return
        try:
            images = find_images(batch, self.images)
            if not images.is_floating_point():
                raise ValueError(
                    f"Got images of {images.dtype}. Allowed are floating-point images, as the network takes them: "
                    "convert them in the data set or in on_after_batch_transfer."
                )
            targets, multi_label = self._classes(batch, images, batch_generator(self.seed, 0, -1))
            rows = (targets >= 0).nonzero()[:, 0][: self.num_images]
            if self._sample is None and trainer.is_global_zero and len(rows):
                self._sample = (images[rows.to(images.device)].detach().cpu().clone(), targets[rows], multi_label)
            if self.reuse_epochs > 1:
                find_indices(batch, images.shape[0], self.index)
            if len(rows):
                # The highest class: a label beyond the network's classes is then found out here.
                tried = targets.argmax()[None]
                with trainer.precision_plugin.forward_context():
                    first = images[tried.to(images.device)]
                    self.augmented(first, targets[tried], batch_generator(self.seed, 0, -1), multi_label)
        except Exception as error:
            if trainer.global_step == 0 and trainer.fit_loop.total_batch_idx <= 0:
                raise AugmentationConfigurationError(
                    f"{type(self).__name__} cannot augment this run. {error}"
                ) from error
            raise
        rank_zero_info(f"{type(self).__name__} guides training by {self.guide.name}.")
        if self.logs and trainer.is_global_zero and self._sample is not None and trainer.global_step == 0:
            self._show(trainer)

    def _augment(self, trainer: pl.Trainer, batch: Any, probability: float, number: int) -> None:
        images = find_images(batch, self.images)
        generator = batch_generator(self.seed, trainer.global_rank, number)
        draws = torch.rand(images.shape[0], generator=generator)
        targets, multi_label = self._classes(batch, images, generator)
        rows = ((draws < probability) & (targets >= 0)).nonzero()[:, 0]
        self._means.add("augmented", torch.zeros(images.shape[0] - len(rows)))
        if not len(rows):
            return
        on_device = rows.to(images.device)
        chosen, classes = images[on_device].detach(), targets[rows]
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            indices = None if self._cache is None else find_indices(batch, images.shape[0], self.index)[rows]
            maps = self._maps(trainer, indices, chosen, (classes, generator, multi_label))
            pixels, maps, masks = self._blended(chosen, maps, generator)
            replaced = (masks < 1).any(-1).any(-1)
            if not bool(maps.isfinite().all()):
                self._warn_once("not finite", "Some maps were not finite; these images were left as they are.")
            self._means.add("augmented", replaced)
            self._means.add("mask_fraction", masks[replaced].mean((-2, -1)))
            if self.logs and not self._measured and bool(replaced.any()):
                self._measured = True
                before, after = (
                    self.guide.confidence(part[replaced], classes[replaced.cpu()], multi_label)
                    for part in (chosen, pixels)
                )
                self._means.add("confidence_gain", after - before)
        whole = images.detach().clone()
        whole[on_device] = pixels.to(whole.dtype)
        self._swap.put(images, whole)

    def _maps(self, trainer: pl.Trainer, indices: Tensor | None, images: Tensor, explained: _Explained) -> Tensor:
        """The guide's maps of the chosen images, kept ones where they can be used again."""
        targets, generator, multi_label = explained
        if self._cache is None or indices is None:
            return self.guide.maps(images, targets, generator, multi_label)
        maps = self._cache.maps(
            indices,
            images,
            targets,
            trainer.current_epoch,
            lambda some, classes: self.guide.maps(some, classes, generator, multi_label),
        )
        if self._cache.changed >= 100 and self._cache.same == 0:
            self._warn_once(
                "images change",
                f"reuse_epochs={self.reuse_epochs} has no effect: of 100 images that came back, none was the same. The "
                "data set seems to change them at random, so that their maps cannot be used again.",
            )
        return maps

    def _classes(self, batch: Any, images: Tensor, generator: torch.Generator) -> tuple[Tensor, bool]:
        """A class for each image, on the CPU, -1 for none; and whether classes do not exclude each other."""
        truth = find_ground_truth(batch, images.shape[0], self.labels)
        multi_label = truth.ndim == 2 and bool(((truth == 0) | (truth == 1)).all())
        return draw_classes(truth, generator), multi_label

    def _show(self, trainer: pl.Trainer) -> None:
        """Log the sample as it is augmented now."""
        if self._sample is None:
            return
        images, targets, multi_label = self._sample
        generator = batch_generator(self.seed, 0, -1)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            pixels, maps, masks = self.augmented(
                images.to(trainer.strategy.root_device), targets, generator, multi_label
            )
        if self._film.show(trainer, images, maps, pixels, masks, targets):
            self._warn_once(
                "display range",
                "It is not known how the images were normalised, and each is stretched to its own range for display: "
                "give denormalize='imagenet' or denormalize=(mean, std).",
            )

    def _fail(self, error: Exception) -> None:
        self._swap.restore()
        self._failures += 1
        kind = type(error).__name__
        self._warn_once(kind, f"A training step goes on unaugmented. {kind}: {error}")
        if self._failures >= _MOST_FAILURES:
            self._off = True
            self._warn_once("off", f"After {_MOST_FAILURES} failures in a row it is off for the rest of the run.")

    def _warn_once(self, what: str, message: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            rank_zero_warn(f"{type(self).__name__}: {message}")
