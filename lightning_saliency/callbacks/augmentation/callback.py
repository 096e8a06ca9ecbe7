"""Training on images that saliency maps have changed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_saliency.batches import BatchContent, BatchReader
from lightning_saliency.callbacks._run_film import FilmingCallback
from lightning_saliency.callbacks._trainer_lookups import has_trained, watched_module
from lightning_saliency.callbacks.augmentation.actions.basic import Action
from lightning_saliency.callbacks.augmentation.actions.options import ActionOption, ActionSpec
from lightning_saliency.callbacks.augmentation.batch import GroundTruth
from lightning_saliency.callbacks.augmentation.batch_norm import ORIGINAL, TRAINED_ON
from lightning_saliency.callbacks.augmentation.first_images import FirstImages
from lightning_saliency.callbacks.augmentation.frame import AugmentationFilm, FilmConfig
from lightning_saliency.callbacks.augmentation.guide import Guide, Recipe
from lightning_saliency.callbacks.augmentation.one_map.mean_map import SHORTCUT
from lightning_saliency.callbacks.augmentation.options import (
    AugmentationConfigurationError,
    Failures,
    batch_generator,
    parse_reuse,
    parse_schedule,
    probability_at,
    refuse_shards,
    whole_number,
)
from lightning_saliency.callbacks.augmentation.scalars import AugmentationScalars
from lightning_saliency.callbacks.augmentation.step import BatchStep, Drawn
from lightning_saliency.explainers import ExplainerOption
from lightning_saliency.explainers.base import Output


class SaliencyAugmentation(FilmingCallback):
    """Replaces training images by ones that an action makes of them and their saliency maps.

    For an image I, before the training step:

    1. M: the guide's map of I, min-maxed to [0, 1], made in eval mode. Of a class-specific explainer it is the map of
       I's ground-truth class; a class-free one (``"smoe"``, one forward pass) needs no labels.
    2. Ĩ: what the action makes of I and M.
    3. The training step gets Ĩ in the place of I.

    The actions, each with options of its own (``action={"class_path": "hide", "init_args": {"share": 0.05}}``, or the
    object):

    - ``"keep"`` (`Keep`): what is salient stays, the rest is blurred: the steps of the Group-CAM paper's Sec. 5.
    - ``"hide"`` (`Hide`): the most salient pixels are filled, a tenth by default, so that a network that leans on a
      shortcut must look elsewhere (MaskTune).
    - ``"protect"`` (`Protect`): a transform acts everywhere but on the salient region (KeepAugment).
    - ``"swap"`` (`Swap`): the salient region on another image's background.
    - ``"mix"`` (`Mix`): another image's salient patch, and labels mixed by what shows of both (SaliencyMix).

    Nothing else changes: the queries leave training flags, buffers, gradients, hooks and the global random number
    generators as they were, the callback draws from a generator of its own, and the data set's own tensors are never
    written to. With ``probability=0`` a run is bit for bit what it would be without the callback.

    An image stays as it is if its map is constant or not finite, or if the guide needs its class and it has none (a
    label that is negative, NaN, 255 or otherwise beyond the network's classes, or no positive one of several). An error
    in the options ends the run before its first step. Later, an error is a warning, and the step goes on unaugmented;
    after ten in a row, not counting steps that were to stay as they are, the callback is off.

    Controls test whether the map matters. They cost the guide's queries, and change exactly as many pixels of each
    image or of the batch: ``control="random_blobs"`` cuts the mask out of a random map with the same values and the
    same autocorrelation; ``control="other_image"`` takes the map of another image of the batch;
    ``guide_network="untrained"`` the map of the network with random weights. ``explainer="random_blobs"`` costs no
    query: what the same time buys without a map.

    Logs, each epoch: ``<name>/augmented``, the share of all of the epoch's training images that were replaced;
    ``<name>/kept_share``, the share of these images' pixels that are still their own; ``<name>/confidence_gain``, by
    how much the network is surer of the class of Ĩ than of that of I, over the first augmented batch; and as a picture
    and a film under ``<run>/<name>/``, ``<name>/augmentation``: the same few images, their maps, and what became of
    them.

    In the list of callbacks, one that reads training images (``SaliencyMonitor(stage="train")``) goes after this one
    to show what the network was given.

    Args:
        explainer: The guide, an explainer or ``"random_blobs"``: its name; ``{"class_path": name,
            "init_args": {...}}`` with arguments of its own, such as ``layer``, ``output``, ``batch_size`` and ``fast``;
            or a class or function that makes one of a network.
        probability: Probability that an image is replaced, in [0, 1]; or points (epoch, probability), linear between
            them: ``[[0, 0.0], [10, 1.0]]``.
        action: What becomes of an image: a name, a mapping of ``class_path`` and ``init_args``, or an object of your
            own that is called as an `Action` is.
        control: ``None``, ``"random_blobs"`` or ``"other_image"``.
        maps: ``"own"``: each image is changed by its own map. ``"mean"``: by the mean of all maps so far, for a mark
            that lies at one place in all images; objects that lie elsewhere in each are averaged away.
            ``"shortcut"``: by the place, one for all images, to which most maps point and where what lies there tells
            the class, as far as it does, see `ShortcutPlace`; for ``"hide"``, whose ``share`` and ``sigmas``
            are left out. Needs labels. Where there is no such place, no image is changed, and a warning says so. Each
            process goes by its own images.
        guide_network: Whose maps they are: ``"present"``, the network as it is at each step; ``"start"``, a copy of it
            as it is when images are first replaced (in ``start_epoch``), kept in checkpoints; ``"untrained"``, a copy
            with random weights; or the path of a checkpoint that fits the network.
        start_epoch: The first epoch, from 0, in which images are replaced.
        keep_original: Show the training step each image as it came, too: the batch is made longer by what became of the
            images, and what belongs to them (labels, boxes, ...) with it. With ``probability=1`` a step sees twice as
            many images and takes twice as long: with half the loader's ``batch_size`` it is a batch of pairs at the
            price of a plain step.
        batch_norm: Of which images BatchNorms keep running statistics: ``"trained_on"``, of all that the training step
            sees; ``"original"``, of those alone that are as they came (with ``keep_original`` all of the loader's).
            A batch without any then leaves the statistics as they are.
        model: Dotted path of the network within the module; ``None`` takes the module itself if it defines
            ``forward``, else its only child with parameters.
        reuse_epochs: Number of epochs for which a map is used, the one it was made in included; ``"all"``: with a
            ``guide_network`` that does not change, each image is then asked for once. Needs images that come back
            unchanged: one that looks different gets a new map. The kept maps are not part of a checkpoint.
        image_key: Where a batch carries its images, see ``BatchReader``; ``None`` searches. Of several loaders' images
            those with labels are taken; after the first batch, batches without images are passed over.
        label_key: Where a batch carries its classes: integers ``[B]``; 0 and 1 of any dtype, ``[B]`` or ``[B, 1]``, for
            a network with one output; weights ``[B, N]`` in [0, 1] of which a class is drawn (multi-label, soft
            labels); or masks ``[B, H, W]``, of which the most frequent class but 0 counts. ``None`` searches.
        multi_label: Whether the classes do not exclude each other, so that confidences are sigmoids in place of a
            softmax. ``None``: the run's first batch tells, and a checkpoint keeps it: zeros and ones ``[B, N]`` of
            which not every row has a single one.
        output: What takes the logits out of what the network returns, where it returns more than one thing: a function,
            a key, the name of an attribute, a position, or a dotted path of these, see ``Explainer``.
        seed: Seed of the choice of images and of everything else that is random here.
        film: Settings of the pictures, see `FilmConfig`; ``True``: with its defaults. ``False``: neither pictures
            nor scalars are logged, which saves their forward passes.
        name: Prefix of every key and the film's folder; ``None``: the explainer's name.

    Raises:
        AugmentationConfigurationError: For options that make no sense; in ``setup``, for a strategy that shards
            parameters or an explainer that cannot be built; at the first batch, for a batch without images or without
            the classes that the guide needs, a checkpoint that cannot be read or does not fit, or a network that the
            explainer cannot explain.

    Example:
        >>> augmentation = SaliencyAugmentation("grad_cam", probability=[[0, 0.0], [5, 0.5]], start_epoch=1)
        >>> augmentation.probability(epoch=3)
        0.3
        >>> SaliencyAugmentation({"class_path": "group_cam", "init_args": {"groups": 8, "fast": True}}).name
        'group_cam'
        >>> cure = SaliencyAugmentation("smoe", action="hide", guide_network="start", reuse_epochs="all", start_epoch=8)
        >>> cure.action
        Hide(share=None, sigmas=None, fill='zero', softness=0.0)
    """

    def __init__(
        self,
        explainer: ExplainerOption = "group_cam",
        probability: float | list[list[float]] = 1.0,
        *,
        action: ActionOption = "keep",
        control: Literal["random_blobs", "other_image"] | None = None,
        maps: Literal["own", "mean", "shortcut"] = "own",
        guide_network: str | Path = "present",
        start_epoch: int = 0,
        keep_original: bool = False,
        batch_norm: Literal["trained_on", "original"] = "trained_on",
        model: str | None = None,
        reuse_epochs: int | Literal["all"] = 1,
        image_key: str | int | None = None,
        label_key: str | int | None = None,
        multi_label: bool | None = None,
        output: Output = None,
        seed: int = 0,
        film: FilmConfig | bool = True,
        name: str | None = None,
    ) -> None:
        self._points = parse_schedule(probability)
        chosen = ActionSpec.parse(action)
        self.seed = whole_number("seed", seed, 0)
        self.guide = Guide(
            explainer,
            control,
            maps=maps,
            network=guide_network,
            share=chosen.fixed_share,
            output=output,
            seed=self.seed,
        )
        self.recipe = Recipe(self.guide, chosen.whole_region() if maps == SHORTCUT else chosen.action)
        self.start_epoch = whole_number("start_epoch", start_epoch, 0)
        self.reuse_epochs = parse_reuse(reuse_epochs)
        self.model = model
        self.name = _key(self.guide.spec.name) if name is None else name
        shown = FilmConfig.parse(film)
        self.shown = shown is not None
        self._film = AugmentationFilm(self.name, shown or FilmConfig())
        self._truth = GroundTruth(multi_label)
        self._failures = Failures(type(self).__name__)
        if batch_norm not in (TRAINED_ON, ORIGINAL):
            raise AugmentationConfigurationError(
                f"Got batch_norm={batch_norm!r}. Allowed are {TRAINED_ON!r} and {ORIGINAL!r}; use one of them."
            )
        self._step = BatchStep(
            self.recipe,
            self._truth,
            BatchReader(image_key, label_key),
            self.reuse_epochs,
            self.seed,
            self._failures,
            keep_original,
            batch_norm,
        )
        self._scalars = AugmentationScalars(self.recipe)
        self._batches = 0
        self._first = FirstImages(
            self.guide,
            self._step,
            self._film if self.shown else None,
            self._failures,
            acts=max(value for _, value in self._points) > 0,
        )

    @property
    def state_key(self) -> str:
        """Several augmentations in one trainer keep their states apart."""
        return self._generate_state_key(name=self.name, model=self.model)

    @property
    def action(self) -> Action:
        """What becomes of an image."""
        return self.recipe.action

    def probability(self, epoch: int) -> float:
        """The probability that an image is replaced in an epoch, from 0."""
        return probability_at(self._points, epoch) if epoch >= self.start_epoch else 0.0

    def end_on_failure(self) -> None:
        """Let a step that cannot be augmented end the run; else it goes on as a plain one, with a warning."""
        self._failures.strict = True

    def epoch_means(self) -> dict[str, float]:
        """The scalars of the epoch so far, of this process alone; those without a value are left out."""
        return self._scalars.means.local()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check what can be checked without data; nothing is touched yet."""
        if stage != "fit":
            return
        for part in (self._step, self._truth, self._failures, self._first):
            part.begin()
        refuse_shards(trainer, pl_module)
        if not has_trained(trainer):  # else the same fit goes on
            self._batches = 0
            self._film.sample = None
            self.guide.begin()
        self.guide.bind(watched_module(pl_module, self.model, AugmentationConfigurationError))
        if self._step.statistics is not None:
            self._step.statistics.check(pl_module)
        if self.shown:
            self._film.open(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let go of the run; what a checkpoint holds stays, as one may be made after an exception or a fit."""
        self._step.begin()
        self.guide.release()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """The same; ``teardown`` is not called after an exception."""
        self.teardown(trainer, pl_module, "fit")

    def state_dict(self) -> dict[str, Any]:
        """The count of batches, on which all that is random depends, what labels mean, and the images of the film."""
        return {
            "batches": self._batches,
            "multi_label": self._truth.multi_label,
            "sample": self._film.state_dict(),
            "guide": self.guide.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was made."""
        self._batches = int(state_dict["batches"])
        self._truth.load(state_dict["multi_label"])
        self._film.load_state_dict(state_dict["sample"])
        self.guide.load_state_dict(state_dict.get("guide"))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the epoch's means."""
        self._scalars.begin()
        self.guide.begin_epoch()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Show the training step augmented images."""
        self._step.end()
        content = drawn = None
        count = 0
        try:
            content = self._first.read(trainer, batch)
            if self._first.shows and not has_trained(trainer):
                self._show(trainer)
            count = 0 if content is None else content.count
            probability = self.probability(trainer.current_epoch)
            if probability > 0 and self._first.begun and not self._failures.off:
                # In every process at the same step, whether or not it has images.
                self.guide.settle(begun=True)
                if content is not None:
                    drawn = self._augment(trainer, content, probability, self._batches)
        except AugmentationConfigurationError:
            raise
        except Exception as error:  # warned of by Failures
            self._step.end()
            self._failures.failed(error)
        if content is not None:
            self._scalars.count(count, drawn)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the batch's own images again."""
        self._step.end()
        self._batches += 1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the epoch."""
        self._step.end()
        reason = self.guide.no_place
        if reason is not None:
            self._failures.warn_once(f"no place: {reason}", reason)
        if not self.shown:
            return
        self._scalars.log(trainer, pl_module, self.name)
        if trainer.is_global_zero and not self._failures.off:
            self._show(trainer)

    def augmented(
        self, images: Tensor, targets: Tensor, generator: torch.Generator, multi_label: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What becomes of some images: steps 1 and 2.

        Args:
            images: ``[n, C, H, W]``, floating point, on the network's device.
            targets: The images' classes, ``[n]`` int64.
            generator: Source of random numbers, on the CPU.
            multi_label: Whether classes do not exclude each other: confidences are then sigmoids.

        Returns:
            The augmented images; the maps M ``[n, H, W]`` that were used; the masks ``[n, H, W]`` in [0, 1], how much
            of the pixels are the image's own, of ones where an image stays as it is.
        """
        changed, maps = self.recipe.augmented(images, targets, generator, multi_label)
        return changed.pixels, maps, changed.masks

    def _augment(self, trainer: pl.Trainer, content: BatchContent, probability: float, number: int) -> Drawn | None:
        drawn = self._step.augment(trainer, content, probability, number)
        if drawn is not None:
            if self.shown:
                with self._failures.apart("measure confidence_gain", "output= says where the network's logits are."):
                    self._scalars.measure(trainer, drawn, self._truth.several)
            self._failures.succeeded()
        return drawn

    def _show(self, trainer: pl.Trainer) -> None:
        """Log the sample as it is augmented now."""
        guessed = False
        with self._failures.apart("draw its pictures"):
            guessed = self._film.show(trainer, self.recipe, batch_generator(self.seed, 0, -1), self._truth.several)
        if guessed:
            self._failures.warn_once(
                "display range",
                "It is not known how the images were normalised, and each is stretched to its own range for display: "
                "give film=FilmConfig(denormalize='imagenet') or its mean and std.",
            )


def _key(name: str) -> str:
    """An explainer's name as the prefix of keys and the name of a folder: of a class path, the class alone."""
    return re.sub(r"[^\w-]+", "_", name.rpartition(".")[2]).strip("_")
