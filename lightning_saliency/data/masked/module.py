"""Any data module with its images masked by saliency maps: remove and retrain (ROAR), keep and retrain (KAR)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import nn

from lightning_saliency.batches import BatchError, BatchReader, NoImagesError, describe
from lightning_saliency.checks import check_choice, check_fraction, check_minimum
from lightning_saliency.data.masked.channel_mean import channel_mean, is_data_mean
from lightning_saliency.data.masked.loaders import batch_form, leaves, map_batches, map_loaders, with_dataset
from lightning_saliency.data.masked.moving import MODES, MaskedDataset, Masking, Mode
from lightning_saliency.data.masked.online import OnlineMaps, Targets, explainer_or_stores, replace_tensor
from lightning_saliency.data.masked.open_stores import Stores, open_store, stores_of
from lightning_saliency.data.wrapping import AFTER_TRANSFER, LOADER_HOOKS, WrappingDataModule
from lightning_saliency.explainers import Explainer, ExplainerOption
from lightning_saliency.functional.fills import Fill, NamedFill, is_random
from lightning_saliency.lightning_bases import AnyDataModule, is_data_module, overrides
from lightning_saliency.randomness import isolated_rng

__all__ = ["MODES", "Mode", "RoarKarDataModule", "Targets", "is_data_mean"]


class RoarKarDataModule(WrappingDataModule):
    """A data module whose images lose their most salient pixels (ROAR) or keep only these (KAR).

    Retraining on such images tells whether a saliency map points at what the network needs (SMOE paper, Sec. 3.2):
    exactly round(fraction · H·W) of the H·W pixels are chosen, ties in reading order. Training, validation, test and
    prediction images are masked alike, each by its own map. Everything else is the base's: its loaders with their
    samplers, workers and collate functions, its hooks, its state and its attributes, such as ``num_classes``. Of
    several loaders those without images (texts, features) are passed over.

    The maps come from one of two places:

    - *Online*, from an explainer round a frozen network, for each batch as it reached the device, augmented and after
      the base's own ``on_after_batch_transfer``. Except with random explainers, an image gets the same mask in every
      batch.
    - *Stored*, from one `SaliencyStore` per stage, for explainers too expensive to run online. The map, which covers
      the whole image, goes through the same transforms as its image, as a ``tv_tensors.Mask``: the transforms must be
      of ``torchvision.transforms.v2``. Pixels that a transform adds, such as a padding, count as least salient. The
      fraction is of the pixels that are seen, so a cropped map is ranked anew. Images are masked where they are
      transformed, in the loader's workers: what is done to batches later happens to masked images.

    With a ``fraction`` of 0 under ROAR (1 under KAR) the images are the base's own, in the same order, drawn with the
    same random numbers.

    Args:
        base: Any ``LightningDataModule``; only its ``trainer`` is changed.
        saliency: An ``Explainer``; its network must not be part of the one that is trained; it is moved to the batch's
            device once and not saved in checkpoints. With ``model``, also any other form of `ExplainerSpec.parse`, such
            as a name. Or stores, or their paths, by stage: ``{"train": ..., "val": ..., "test": ...}``, and
            ``"predict"`` where that is not the test images; where a stage has several loaders, a list or dictionary of
            them. Or a folder with ``train.npy``, ``val.npy`` and ``test.npy``. Row i of a store is the map of item i of
            the stage's data set.
        mode: ``"roar"`` or ``"kar"``.
        fraction: Share of the pixels, in [0, 1], that are removed or kept.
        fill: Replacement of hidden pixels. ``"data_mean"``: the mean of each channel over the training images as
            they reach the masking, normalised if they are. It is taken once, with all generators isolated, of at most
            5,000 images evenly spread over the first training loader's data set, without torchvision's random steps and
            paddings, and kept in checkpoints. Otherwise any fill of ``fill_images``.
        model: The frozen network for the explainer named by ``saliency``.
        targets: The class an online, class-specific map is made for. ``"predicted"``: the one the frozen network
            predicts. ``"label"``: the true one; then the masks themselves carry the label, into the test images too.
        geometry: With stores: ``"auto"``, or ``"fixed"`` where the base's images are neither cropped, flipped nor
            resized at random, by transforms that cannot be inspected.
        fingerprints: With stores: what their fingerprints must be, such as ``{"weights": weights_fingerprint(net)}``.
            The data set's fingerprint is always compared.
        image_key: Where a batch carries its images, see ``BatchReader``; ``None`` searches.
        label_key: Where a batch carries its labels, with ``targets="label"``; ``None`` searches.
        seed: Seed of ``fill="noise"``. Under stored maps the noise is the same for an image in every epoch.

    Attributes:
        base: The data module whose images are masked.
        data_mean: The mean of each channel, once it is known; ``None`` before, and with another fill.

    Raises:
        TypeError: If ``base`` is not a data module, ``saliency`` is neither an explainer nor stores, or an explainer
            that is not yet built is given without ``model``.
        ValueError: If an option is out of range; from a loader, if a store is missing (`SaliencyStoreError`), of other
            images, or the images' transforms cannot be followed (`SaliencyGeometryError`).

    Example:
        >>> from lightning_saliency.data import DigitScenes
        >>> from lightning_saliency.explainers import SMOE
        >>> from lightning_saliency.networks import small_cnn
        >>> scenes = DigitScenes(train_size=20, val_size=10, test_size=10, batch_size=4)
        >>> masked = RoarKarDataModule(scenes, SMOE(small_cnn()), mode="kar", fraction=0.1, fill=0)
        >>> masked.setup("fit")
        >>> batch = masked.on_after_batch_transfer(next(iter(masked.train_dataloader())), 0)
        >>> round(batch["image"].ne(0).any(1).float().mean().item(), 2), masked.num_classes
        (0.1, 10)
    """

    def __init__(
        self,
        base: AnyDataModule,
        saliency: ExplainerOption | Explainer | Stores,
        mode: Mode = "roar",
        fraction: float = 0.1,
        fill: Fill | Literal["data_mean"] = "data_mean",
        *,
        model: nn.Module | None = None,
        targets: Targets = "predicted",
        geometry: Literal["auto", "fixed"] = "auto",
        fingerprints: Mapping[str, str] | None = None,
        image_key: str | int | None = None,
        label_key: str | int | None = None,
        seed: int = 0,
    ) -> None:
        if not is_data_module(base):
            raise TypeError(
                f"Got base of type {type(base).__name__}. Allowed is a LightningDataModule; put loaders into one with "
                "LightningDataModule.from_datasets."
            )
        maps = explainer_or_stores(saliency, model)
        check_choice("mode", mode, MODES)
        check_choice("targets", targets, get_args(Targets))
        check_choice("geometry", geometry, ("auto", "fixed"))
        check_fraction(fraction)
        check_minimum("seed", seed, 0)
        described = _described(fill)
        if fingerprints is not None and not isinstance(fingerprints, Mapping):
            raise TypeError(
                f"Got fingerprints of type {type(fingerprints).__name__}. Allowed is a mapping from what a store was "
                "made of to its fingerprint, such as {'weights': weights_fingerprint(network)}; give one."
            )
        for stage in maps if isinstance(maps, Mapping) else ():
            # Before training: the stores of a mistyped stage would be missed after it.
            check_choice("a stage of saliency", stage, tuple(LOADER_HOOKS))
        super().__init__(base)
        self.saliency = maps
        self.mode: Mode = mode
        self.fraction = float(fraction)
        self.fill = fill
        self.targets = targets
        self.geometry = geometry
        self.fingerprints = dict(fingerprints or {})
        self.image_key = image_key
        self.seed = seed
        self.data_mean: tuple[float, ...] | None = None
        settings = {"mode": mode, "fraction": self.fraction, "fill": described}
        self.save_hyperparameters({**_own_hyperparameters(base), "roar_kar": settings})
        self._maps = (
            OnlineMaps(maps, targets, BatchReader(image_key, label_key)) if isinstance(maps, Explainer) else None
        )
        self._settled: Masking | None = None
        self._forms: dict[str, Any] = {}
        self._several: dict[str, bool] = {}
        self._generators: dict[torch.device, torch.Generator] = {}
        self._hide_what_the_base_lacks()

    def state_dict(self) -> dict[str, Any]:
        """The base's state and the mean of the training images."""
        return {"base": super().state_dict(), "data_mean": None if self.data_mean is None else list(self.data_mean)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the base's state and the mean of the training images."""
        super().load_state_dict(state_dict["base"])
        if state_dict["data_mean"] is not None:
            self.data_mean = tuple(state_dict["data_mean"])
            self._settled = None

    def train_dataloader(self) -> Any:
        """The base's loaders, with masked images if maps are stored."""
        return self._loaders("train")

    def val_dataloader(self) -> Any:
        """The base's loaders, with masked images if maps are stored."""
        return self._loaders("val")

    def test_dataloader(self) -> Any:
        """The base's loaders, with masked images if maps are stored."""
        return self._loaders("test")

    def predict_dataloader(self) -> Any:
        """The base's loaders, with masked images if maps are stored."""
        return self._loaders("predict")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Run the hook of the base, or else of the module; then mask the images, unless maps are stored."""
        batch = self._after_transfer(batch, dataloader_idx)
        if self._maps is None:
            return batch
        masking = self._masking(None)
        if masking.changes_nothing:
            return batch
        return map_batches(batch, self._forms.get(self._stage()), partial(self._mask, self._maps, masking))

    def _adds(self, hook: str) -> bool:
        """Whether a hook does something of its own: images are masked behind the transfer, unless maps are stored."""
        return hook == AFTER_TRANSFER and self._maps is not None

    def _loaders(self, stage: str) -> Any:
        loaders = getattr(self.base, LOADER_HOOKS[stage])()
        self._forms[stage] = batch_form(loaders, training=stage == "train")
        self._several[stage] = len(leaves(loaders)) > 1
        masking = self._masking((stage, loaders))
        if self._maps is not None or masking.changes_nothing:
            return loaders

        def masked(loader: Any, store: Any) -> Any:
            opened = open_store(store, loader.dataset, self.fingerprints, self.geometry)
            dataset = MaskedDataset(loader.dataset, opened, masking, fixed=self.geometry == "fixed")
            return with_dataset(loader, dataset)

        return map_loaders(loaders, stores_of(self.saliency, stage), masked)  # type: ignore[arg-type]  # no explainer here

    def _mask(self, source: OnlineMaps, masking: Masking, batch: Any) -> Any:
        """The batch of one loader with masked images."""
        context = None if self.trainer is None else self.trainer.precision_plugin.forward_context()
        module = None if self.trainer is None else self.trainer.lightning_module
        try:
            content, maps = source(batch, module, context)
        except NoImagesError:
            if not self._several.get(self._stage()):
                raise
            return batch
        images = content.images
        masked = masking(images, maps, self._generator(images.device))
        replaced = batch
        for old, new in zip(content.held, [masked] if len(content.held) == 1 else masked, strict=True):
            replaced = replace_tensor(replaced, old, new.reshape(old.shape))
        if replaced is batch:
            raise BatchError(
                f"The images of the batch, which is {describe(batch)}, cannot be exchanged. Let the batch hold them in "
                "dictionaries, tuples or lists, or as an attribute."
            )
        return replaced

    def _masking(self, about: tuple[str, Any] | None) -> Masking:
        """The masking of images; the fill is determined when the first loaders are requested."""
        if self._settled is None:
            self._settled = Masking(self.mode, self.fraction, 0.0, self.seed)
            if not self._settled.changes_nothing:
                self._settled = replace(self._settled, fill=self._settle_fill(about))
        return self._settled

    def _settle_fill(self, about: tuple[str, Any] | None) -> Fill:
        if not is_data_mean(self.fill):
            return self.fill  # type: ignore[return-value]  # what remains is a fill
        if self.data_mean is None:
            try:
                with isolated_rng(self.seed):
                    loaders = about[1] if about is not None and about[0] == "train" else self._training_loaders()
            except Exception as error:
                raise RuntimeError(
                    "The mean of the training images is not known in a run without training data "
                    f"({type(error).__name__}: {error}). Train first with this very data module, load a checkpoint of "
                    "such a run, or give fill= as one number per channel."
                ) from error
            self.data_mean = channel_mean(loaders, self._as_masked, self.image_key)
        return self.data_mean

    def _training_loaders(self) -> Any:
        try:
            return self.base.train_dataloader()
        except Exception:  # in a run that only tests, the base may not have set up its training data
            self.base.setup("fit")
            return self.base.train_dataloader()

    def _as_masked(self, batch: Any) -> Any:
        """A batch as it reaches the masking."""
        if self._maps is None:
            return batch
        batch = self._source_of("on_before_batch_transfer").on_before_batch_transfer(batch, 0)
        batch = self._source_of("transfer_batch_to_device").transfer_batch_to_device(batch, torch.device("cpu"), 0)
        return self._after_transfer(batch, 0)

    def _after_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self._source_of(AFTER_TRANSFER).on_after_batch_transfer(batch, dataloader_idx)

    def _source_of(self, hook: str) -> Any:
        """The object whose hook runs: the base, or the module if only the module defines the hook."""
        module = None if self.trainer is None else self.trainer.lightning_module
        return self.base if module is None or overrides(self.base, hook) or not overrides(module, hook) else module

    def _stage(self) -> str:
        if self.trainer is None:
            return ""
        if self.trainer.training:
            return "train"
        return "test" if self.trainer.testing else "predict" if self.trainer.predicting else "val"

    def _generator(self, device: torch.device) -> torch.Generator | None:
        if not is_random(self.fill):
            return None
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self._generators[device]


def _described(fill: object) -> Any:
    """A fill as a hyperparameter.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(fill, (int, float)) or (isinstance(fill, str) and fill in ("data_mean", *get_args(NamedFill))):
        return fill
    try:
        return torch.as_tensor(fill).tolist()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"Got fill={fill!r}. Allowed are 'data_mean', {', '.join(map(repr, get_args(NamedFill)))}, a number, "
            "one number per channel, or a tensor; use one of them."
        ) from error


def _own_hyperparameters(base: Any) -> dict[str, Any]:
    """What a data module was made with; LightningCLI gives one that it makes inside another the other's arguments."""
    given = dict(base.hparams)
    return dict(given["base"].get("init_args") or {}) if {"_instantiator", "base", "saliency"} <= set(given) else given
