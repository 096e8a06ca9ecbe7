"""Saliency maps of whole data sets, written by ``Trainer.predict`` under any strategy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from lightning_saliency.batches import BatchReader, NoImagesError
from lightning_saliency.callbacks._trainer_lookups import WHOLE_STRATEGIES, is_sharded, watched_module
from lightning_saliency.callbacks._warnings import warn
from lightning_saliency.data.masked.loaders import leaves
from lightning_saliency.data.masked.online import OnlineMaps, Targets
from lightning_saliency.data.masked.store import SaliencyStore
from lightning_saliency.data.masked.store_files import maps_path, sidecar_path
from lightning_saliency.data.masked.transforms import SaliencyGeometryError, image_size, split_image
from lightning_saliency.data.masked.whole_images import WholeImages, check_whole, data_fingerprint
from lightning_saliency.explainers import Explainer, ExplainerOption, ExplainerSpec
from lightning_saliency.files import file_of_this_machine, safe_names
from lightning_saliency.lightning_bases import Callback, LightningModule
from lightning_saliency.networks import weights_fingerprint

# Options that change how fast a map is made, not what it is.
_IRRELEVANT = ("model", "batch_size", "progress")


class SaliencyWriter(Callback):
    """Writes the map of each image that ``Trainer.predict`` goes through into a `SaliencyStore`.

    Row i of a store is the map of item i of the loader's data set, whatever the order. Of several loaders those without
    images, of texts for instance, are passed over. Each process writes the rows of
    its own batches, under any strategy that leaves the network whole in each process. A run that was killed goes on
    where it stopped: batches whose maps are all there are not explained again. A store begun with other weights,
    another explainer or other images is refused.

    The data set must show its images whole, not cropped or flipped; `whole_images` makes one of any data set::

        loaders = whole_image_loaders(data, size=224)
        writer = SaliencyWriter("maps", "integrated_gradients")
        Trainer(callbacks=[writer]).predict(module, list(loaders.values()), return_predictions=False)

    The module's ``predict_step`` runs as well, since it is Lightning that asks for it; `write_maps` does without.

    Args:
        path: File of the store, ``.npy`` being added; where there are several loaders, a folder for all stores.
        explainer: An ``Explainer``; or its name, ``{"class_path": name, "init_args": {...}}``, or a class or function
            that makes one of a network: it is then built round the module's network when prediction starts.
        size: ``(h, w)`` of the stored maps, or the side of a square; maps are averaged down to it, and stay as they are
            where they are smaller. ``None``: the images' size.
        stages: With several loaders, the name of each loader's store; ``None``: the keys, where the loaders are a
            dictionary, else ``"train"``, ``"val"``, ``"test"`` for three of them.
        targets: The class of each map: ``"predicted"`` or, from the batch, ``"label"``. Maps of the true class carry
            the label, into the test images too.
        model: Dotted path of the network that the explainer explains; ``None`` takes the module itself if it
            defines ``forward``, else its only child with parameters.
        image_key: Where a batch carries its images, see ``BatchReader``; ``None`` searches.
        label_key: Where a batch carries its labels, with ``targets="label"``; ``None`` searches.
        fingerprints: Further parts of the stores' fingerprints, besides ``weights``, ``explainer`` and ``data``.

    Attributes:
        paths: Files of the stores that the latest prediction wrote, one for each loader.

    Raises:
        ValueError: If an option is unknown; when prediction starts, if a store holds other maps
            (`SaliencyStoreError`), a data set does not show whole images (`SaliencyGeometryError`), or no process holds
            the whole network.

    Example:
        >>> SaliencyWriter("maps/val", {"class_path": "group_cam", "init_args": {"groups": 16}}, size=28).size
        (28, 28)
    """

    def __init__(
        self,
        path: str | Path,
        explainer: ExplainerOption | Explainer = "smoe",
        *,
        size: int | tuple[int, int] | None = 56,
        stages: Sequence[str] | None = None,
        targets: Targets = "predicted",
        model: str | None = None,
        image_key: str | int | None = None,
        label_key: str | int | None = None,
        fingerprints: Mapping[str, str] | None = None,
    ) -> None:
        if isinstance(explainer, Explainer) and model:
            raise ValueError(
                f"Got model={model!r} with a {type(explainer).__name__} that already has a network. Leave "
                "model out, or give the explainer's name or class."
            )
        if targets not in get_args(Targets):
            raise ValueError(f"Got targets={targets!r}. Allowed are 'predicted' and 'label'.")
        self.path = file_of_this_machine(path, "store")
        self.explainer = explainer if isinstance(explainer, Explainer) else ExplainerSpec.parse(explainer)
        self.size = (size, size) if isinstance(size, int) else size
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ValueError(f"Got size={size}. Allowed are a side from 1, (h, w) and None, the images' own size.")
        self.stages = None if stages is None else tuple(stages)
        self.targets: Targets = targets
        self.model = model
        self._reader = BatchReader(image_key, label_key)
        self.fingerprints = dict(fingerprints or {})
        self.stores: list[SaliencyStore | None] = []
        self.paths: list[Path] = []
        self._maps: OnlineMaps | None = None

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Create the stores, or take up those that were begun."""
        explainer = self.explainer
        if not isinstance(explainer, Explainer):
            explainer = explainer(watched_module(pl_module, self.model))
        if is_sharded(trainer, pl_module) and any(each is explainer.model for each in pl_module.modules()):
            raise ValueError(
                f"{type(trainer.strategy).__name__} spreads the parameters over processes, so that none can explain "
                f"its images by itself. {WHOLE_STRATEGIES}, or load the weights into a whole network."
            )
        self._maps = OnlineMaps(explainer, self.targets, self._reader)
        shared = {
            "weights": weights_fingerprint(explainer.model),
            "explainer": f"{describe_explainer(explainer)}, targets={self.targets}, precision={trainer.precision}",
            **self.fingerprints,
        }
        plans: list[tuple[Path, int, tuple[int, int], dict[str, str]] | None] = []
        loaders = self._loaders(trainer)
        seen = [self._shows_images(loader) for loader in loaders]
        for path, loader, shows in zip(self.files(trainer.predict_dataloaders), loaders, seen, strict=True):
            if any(seen) and not shows:
                rank_zero_info(f"SaliencyWriter passes over a loader of {type(loader.dataset).__name__}: no images.")
                plans.append(None)
                continue
            dataset = loader.dataset
            check_whole(dataset)
            data = dataset.fingerprint() if isinstance(dataset, WholeImages) else data_fingerprint(dataset)
            plans.append((path, len(dataset), self._map_size(dataset), {**shared, "data": data}))
        if trainer.is_global_zero:
            self.stores = [None if plan is None else SaliencyStore.create(*plan) for plan in plans]
        trainer.strategy.barrier("saliency stores are created")
        if not trainer.is_global_zero:
            self.stores = [None if plan is None else SaliencyStore.create(*plan) for plan in plans]
        stores = [store for store in self.stores if store is not None]
        self.paths = [store.path for store in stores]
        for store in stores:
            there = len(store) - len(store.missing())
            if there:
                rank_zero_info(f"SaliencyWriter goes on with {store.path}: {there} of its {len(store)} maps are there.")

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Explain the batch and write its maps."""
        store = self.stores[dataloader_idx] if self._maps is not None else None
        if self._maps is None or store is None:
            return
        rows = _rows(self._loaders(trainer)[dataloader_idx], batch_idx)
        # A batch that was cut short is explained whole again: maps may differ in their last bits in another batch.
        if store.has(rows):
            return
        content, maps = self._maps(batch, context=trainer.precision_plugin.forward_context())
        if len(rows) != content.count:
            raise ValueError(
                f"Got {content.count} images in a batch of {len(rows)} samples. Allowed is one image for each "
                "sample; let the loader neither repeat nor drop any when it collates them."
            )
        store.write(rows, reduced(maps, store.size))

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Mark the finished stores, and say which are not."""
        trainer.strategy.barrier("saliency maps are written")
        for store in self.stores if trainer.is_global_zero else []:
            if store is not None and not store.finish():
                warn(
                    f"SaliencyWriter leaves {store.path} incomplete: {len(store.missing())} of its {len(store)} maps "
                    "are missing. Predict all batches (limit_predict_batches=1.0) to finish it."
                )
        trainer.strategy.barrier("saliency stores are finished")
        self._maps, self.stores = None, []

    def _shows_images(self, loader: Any) -> bool:
        """Whether there are images in a batch of the first item; true where that cannot be told."""
        try:
            sample = loader.dataset[0]
            split_image(sample)
            self._reader.read(loader.collate_fn([sample]))
        except (SaliencyGeometryError, NoImagesError):
            return False
        except Exception:  # what is wrong is found out, and said, where the data are used
            return True
        return True

    def _loaders(self, trainer: pl.Trainer) -> list[Any]:
        return leaves(trainer.predict_dataloaders)

    def files(self, loaders: Any) -> list[Path]:
        """The file of each loader's store, whether or not it is written.

        Args:
            loaders: One loader or several, as they are given to ``Trainer.predict``.
        """
        count = len(leaves(loaders))
        stages = self.stages
        if stages is None and isinstance(loaders, Mapping):
            stages = tuple(map(str, loaders))
        if stages is None and count == 3:
            stages = ("train", "val", "test")
        if stages is None and count == 1:
            return [self.path]
        if stages is None or len(stages) != count:
            raise ValueError(
                f"Got {count} loaders and stages={self.stages}. Allowed is a name for each loader's store; give stages="
                "('train', 'val', ...)."
            )
        names = safe_names(stages)
        return [self.path / f"{names[stage]}.npy" for stage in stages]

    def _map_size(self, dataset: Any) -> tuple[int, int]:
        height, width = image_size(split_image(dataset[0])[0])
        return (height, width) if self.size is None else (min(self.size[0], height), min(self.size[1], width))


def write_maps(
    path: str | Path,
    explainer: ExplainerOption | Explainer,
    loaders: Any,
    trainer: pl.Trainer | None = None,
    *,
    model: nn.Module | None = None,
    **options: Any,
) -> list[Path]:
    """Make and store the maps of whole data sets with ``Trainer.predict``, without a forward pass of a trained module.

    Args:
        path: File or folder of the stores, see `SaliencyWriter`.
        explainer: An ``Explainer``, or with ``model`` any form of `ExplainerSpec.parse`, such as its name.
        loaders: One loader or several, such as `whole_image_loaders` makes.
        trainer: The trainer that predicts, with its devices and precision; ``None``: Lightning's defaults, no logs.
        model: The network that the explainer is built round, unless it is built already.
        **options: Other arguments of `SaliencyWriter`.

    Returns:
        The files of the stores, one for each loader.

    Raises:
        ValueError: As `SaliencyWriter` does; or if there is no network for the explainer, or two.

    Example:
        >>> import tempfile
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from lightning_saliency.data import SaliencyStore, whole_images
        >>> from lightning_saliency.explainers import SMOE
        >>> smoe = SMOE(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), layers=["1"])
        >>> images = TensorDataset(torch.rand(6, 3, 8, 8))
        >>> quiet = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path] = write_maps(folder + "/train", smoe, DataLoader(whole_images(images, 8), batch_size=4), quiet)
        ...     path.name, SaliencyStore.open(path)[:].shape
        ('train.npy', torch.Size([6, 8, 8]))
    """
    if isinstance(explainer, Explainer) != (model is None):
        raise ValueError(
            f"Got explainer={explainer!r} and model={None if model is None else type(model).__name__}. Allowed are an "
            "Explainer alone, and an explainer's name, class or mapping with model=network; give one of them."
        )
    if not isinstance(explainer, Explainer) and model is not None:
        explainer = ExplainerSpec.parse(explainer)(model)
    writer = SaliencyWriter(path, explainer, **options)
    if trainer is None:
        trainer = pl.Trainer(logger=False, enable_checkpointing=False, enable_model_summary=False)
    trainer.callbacks.append(writer)  # type: ignore[attr-defined]  # Lightning sets it without declaring it
    try:
        trainer.predict(_Silent(), loaders, return_predictions=False)
    finally:
        trainer.callbacks.remove(writer)  # type: ignore[attr-defined]
    # What other processes have noted of their own, as under strategy="ddp_spawn", does not come back.
    files = map(maps_path, writer.files(loaders))
    return writer.paths or [path for path in files if sidecar_path(path).exists()]


def describe_explainer(explainer: Explainer) -> str:
    """An explainer's class and options; explainers with equal descriptions make equal maps of a network.

    Example:
        >>> from lightning_saliency.explainers import GradCAM
        >>> describe_explainer(GradCAM(nn.Identity(), layer="layer4"))
        "GradCAM(layer='layer4', layers=['layer4'], output=None)"
    """
    options = {name: value for name, value in vars(explainer).items() if name[0] != "_" and name not in _IRRELEVANT}
    listed = ", ".join(f"{name}={_described(value)}" for name, value in sorted(options.items()))
    return f"{type(explainer).__qualname__}({listed})"


def reduced(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps ``[B, H, W]`` averaged down to ``[B, h, w]``."""
    return maps if maps.shape[1:] == torch.Size(size) else adaptive_avg_pool2d(maps[:, None], size)[:, 0]


class _Silent(LightningModule):
    """Has nothing to predict."""

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Literal[True]:
        return True


def _rows(loader: Any, batch_idx: int) -> list[int]:
    """Where in its data set the images of a batch are."""
    seen = getattr(getattr(loader, "batch_sampler", None), "seen_batch_indices", None)
    if not seen:
        raise ValueError(
            f"Got {type(loader).__name__}, which does not say which images it loads. Allowed is a "
            "torch.utils.data.DataLoader with a batch size over a data set with indices; give one."
        )
    return [int(row) for row in seen[batch_idx]]


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(value.tolist())
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_described, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_described(item)}' for key, item in value.items())}}}"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    # An address differs in every process.
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
