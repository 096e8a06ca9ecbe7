"""Maps of a batch's images from a frozen network, and replacing the images in a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from lightning_saliency.batches import BatchContent, BatchError, BatchReader, describe
from lightning_saliency.data.masked.open_stores import Stores
from lightning_saliency.explainers import CONTROL_MAPS, EXPLAINERS, Explainer, ExplainerSpec
from lightning_saliency.explainers.labelled import explain_labels
from lightning_saliency.functional.class_labels import NO_CLASS

Targets = Literal["predicted", "label"]


class OnlineMaps:
    """Computes the maps of each batch with an explainer and its frozen network.

    Args:
        explainer: Makes the maps; its network is moved to the images' device, once.
        targets: The class each map is for: ``"predicted"``, or from the batch, ``"label"``.
        reader: Finds the images and labels of batches.
    """

    def __init__(self, explainer: Explainer, targets: Targets, reader: BatchReader) -> None:
        self.explainer = explainer
        self.targets = targets
        self.reader = reader
        self._known_apart: object = None

    def __call__(
        self, batch: Any, module: nn.Module | None = None, context: AbstractContextManager[Any] | None = None
    ) -> tuple[BatchContent, Tensor]:
        """The images of a batch and their maps ``[B, H, W]``.

        Args:
            batch: A batch in any form that ``BatchReader`` knows.
            module: The module that is trained; it must not share a weight with the frozen network.
            context: The autocast of the run.

        Raises:
            BatchError: If there are no images, or with ``targets="label"`` no labels.
            ValueError: If the network is part of the module.
        """
        content = self.reader.read(batch)
        images = content.channels_first()
        self._check_apart(module)
        network = self.explainer.model
        parameter = next(network.parameters(), None)
        if parameter is not None and parameter.device != images.device:
            network.to(images.device)
        seen = images
        if parameter is not None and images.is_floating_point() and parameter.is_floating_point():
            seen = images.to(parameter.dtype)  # "true" half precision gives half-precision images
        labels = self._labels(content)
        with nullcontext() if context is None else context:
            return content, explain_labels(self.explainer, seen, labels)

    def _labels(self, content: BatchContent) -> Tensor | None:
        if self.targets == "predicted":
            return None
        labels = content.classes()
        if labels is None or bool((labels < NO_CLASS).any()):
            raise BatchError(
                f"Found no integer labels [{content.count}] in the batch, which is {describe(content.batch)}. "
                "targets='label' needs them; say where they are with label_key=, or use targets='predicted'."
            )
        return labels

    def _check_apart(self, module: nn.Module | None) -> None:
        if module is None or module is self._known_apart:
            return
        own = {id(parameter) for parameter in self.explainer.model.parameters()}
        if any(id(parameter) in own for parameter in module.parameters()):
            raise ValueError(
                f"The explainer's {type(self.explainer.model).__name__} is part of the {type(module).__name__} that is "
                "trained, so that the maps would change with it. Build the explainer on a copy: copy.deepcopy(network)."
            )
        self._known_apart = module


def explainer_or_stores(saliency: Any, model: nn.Module | None) -> Explainer | Stores:
    """The source of the maps: an explainer, built here unless it is already built, or stores.

    Args:
        saliency: An ``Explainer``; with ``model`` any form of `ExplainerSpec.parse`; or stores, see
            `RoarKarDataModule`.
        model: The network of an explainer that is not yet built.

    Raises:
        TypeError: If ``saliency`` has another type, or a network is missing or given twice.

    Example:
        >>> type(explainer_or_stores("grad_cam", nn.Conv2d(3, 2, 1))).__name__, explainer_or_stores("maps/", None)
        ('GradCAM', 'maps/')
    """
    if model is not None:
        if isinstance(saliency, Explainer):
            raise TypeError(
                f"Got model of type {type(model).__name__} with a {type(saliency).__name__} that is already built "
                "round a network. Leave model out, or give the explainer's name or class."
            )
        return ExplainerSpec.parse(saliency)(model)
    if not isinstance(saliency, (Explainer, Mapping, str, Path)) or (
        isinstance(saliency, Mapping) and "class_path" in saliency
    ):
        raise TypeError(
            f"Got saliency of type {type(saliency).__name__} without model. Allowed are an Explainer, stores by stage "
            "({'train': ..., 'val': ..., 'test': ...}), a folder of stores, and with model=network an explainer's "
            "name, class or mapping; give one of them."
        )
    if isinstance(saliency, str) and saliency in (*EXPLAINERS, *CONTROL_MAPS) and not Path(saliency).exists():
        raise TypeError(
            f"Got saliency={saliency!r}, the name of an explainer, without model. Allowed are an Explainer and stores; "
            "give model=network as well, or the path of a folder."
        )
    return saliency


def replace_tensor(value: Any, old: Tensor, new: Tensor) -> Any:
    """A copy of a batch in which one tensor is replaced; the batch itself is not changed.

    Example:
        >>> import torch
        >>> old = torch.zeros(1)
        >>> batch = {"image": old, "more": (old, 3)}
        >>> replace_tensor(batch, old, torch.ones(1))
        {'image': tensor([1.]), 'more': (tensor([1.]), 3)}
        >>> batch["image"]
        tensor([0.])
    """
    if value is old:
        return new
    if isinstance(value, (Tensor, str, bytes)):
        return value
    if isinstance(value, Mapping):
        return _with_changes(value, dict(value), old, new, lambda copied, key, item: copied.__setitem__(key, item))
    if isinstance(value, (tuple, list)):
        items = [replace_tensor(item, old, new) for item in value]
        if all(item is before for item, before in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if hasattr(value, "__dict__") and not isinstance(value, (type, nn.Module)):
        return _with_changes(value, vars(value), old, new, object.__setattr__)
    return value


def _with_changes(
    container: Any, items: Mapping[Any, Any], old: Tensor, new: Tensor, put: Callable[[Any, Any, Any], Any]
) -> Any:
    changes = {}
    for key, item in items.items():
        changed = replace_tensor(item, old, new)
        if changed is not item:
            changes[key] = changed
    if not changes:
        return container
    copied = copy(container)
    for key, item in changes.items():
        put(copied, key, item)
    return copied
