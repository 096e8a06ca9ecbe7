"""Installed networks: one small member of each family of timm, torchvision, Hugging Face and segmentation models.

No weights are downloaded: each network is built with random ones.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

LIBRARIES = {
    "timm": "timm",
    "torchvision": "torchvision",
    "transformers": "transformers",
    "segmentation-models-pytorch": "segmentation_models_pytorch",
}
#: Words by which the smallest members of a family are called, the smallest first.
_SMALL = (
    "atto",
    "femto",
    "pico",
    "nano",
    "xxt",
    "xxs",
    "micro",
    "tiny",
    "_ti",
    "xs",
    "mini",
    "small",
    "_s",
    "_xt",
    "lite",
)
#: The architectures of segmentation-models-pytorch.
_ARCHITECTURES = (
    *("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet"),
    *("PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet", "Segformer", "DPT"),
)
_CLASSES = 7
#: Members of a family that are built, without memory, to find the smallest.
_TRIED = 4
#: What a Hugging Face configuration is made small by, where it has such a field.
_TINY = {
    "num_hidden_layers": 4,
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 96,
    "head_dim": 12,
}


@dataclass(frozen=True)
class Member:
    """A network to try.

    Attributes:
        library: Its package.
        family: The package's module, or the configuration, that it stands for.
        name: Its own name.
        build: Makes it; may raise whatever the package raises.
        size: (C, H, W) of its images.
    """

    library: str
    family: str
    name: str
    build: Callable[[], nn.Module]
    size: tuple[int, int, int] = (3, 224, 224)


def members(library: str) -> Iterator[Member]:
    """One member of each family of an installed library; none of a library that is not installed."""
    if importlib.util.find_spec(LIBRARIES[library]) is not None:
        yield from _FINDERS[library]()


def _timm() -> Iterator[Member]:
    timm = importlib.import_module("timm")
    for family in timm.list_modules():
        names = timm.list_models(module=family)
        name = _smallest(names, lambda name: timm.create_model(name, num_classes=_CLASSES))
        if name is not None:
            config = timm.get_pretrained_cfg(name)
            size = tuple(config.input_size) if config is not None else (3, 224, 224)
            yield Member("timm", family, name, lambda name=name: timm.create_model(name, num_classes=_CLASSES), size)


def _torchvision() -> Iterator[Member]:
    models = importlib.import_module("torchvision.models")
    families: dict[str, list[str]] = {}
    for name in models.list_models():
        module = models.get_model_builder(name).__module__.removeprefix("torchvision.models.")
        # Detectors return boxes, and have no class view; the others take no single images.
        if not re.search(r"detection|video|optical_flow", module):
            families.setdefault(module, []).append(name)

    def build(name: str) -> nn.Module:
        known = inspect.signature(models.get_model_builder(name)).parameters
        options: dict[str, Any] = {"weights": None}
        if "weights_backbone" in known:
            options["weights_backbone"] = None
        if name in ("googlenet", "inception_v3"):
            options["init_weights"] = False
        return models.get_model(name, **options)

    for family, names in sorted(families.items()):
        name = _smallest(names, build)
        if name is not None:
            yield Member("torchvision", family, name, lambda name=name: build(name))


def _transformers() -> Iterator[Member]:
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    for view in ("IMAGE_CLASSIFICATION", "SEMANTIC_SEGMENTATION"):
        mapping = getattr(auto, f"MODEL_FOR_{view}_MAPPING")
        for config_class, classes in sorted(mapping.items(), key=lambda pair: pair[0].__name__):
            chosen = classes[0] if isinstance(classes, tuple) else classes
            config = _tiny_config(config_class)
            side = getattr(config, "image_size", 224)
            height, width = side if isinstance(side, (list, tuple)) else (side, side)
            size = (getattr(config, "num_channels", 3), height, width)
            name = chosen.__name__
            yield Member("transformers", name, name, lambda chosen=chosen, config=config: chosen(config), size)


def _segmentation() -> Iterator[Member]:
    package = importlib.import_module("segmentation_models_pytorch")
    for name in _ARCHITECTURES:
        encoder = "tu-vit_tiny_patch16_224" if name == "DPT" else "resnet18"

        def build(name: str = name, encoder: str = encoder) -> nn.Module:
            network: nn.Module = getattr(package, name)(encoder_name=encoder, encoder_weights=None, classes=_CLASSES)
            return network

        yield Member("segmentation-models-pytorch", name, f"{name} with {encoder}", build)


_FINDERS: dict[str, Callable[[], Iterator[Member]]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "transformers": _transformers,
    "segmentation-models-pytorch": _segmentation,
}


def _smallest(names: list[str], build: Callable[[str], nn.Module]) -> str | None:
    """The name of the network with the fewest parameters among those that are called small, or come first."""
    rank = {word: place for place, word in enumerate(_SMALL)}

    def order(name: str) -> tuple[int, int]:
        return min((rank[word] for word in _SMALL if word in name), default=len(rank)), len(name)

    ordered = sorted(names, key=order)
    sizes = {}
    for name in ordered[:_TRIED]:
        try:
            with torch.device("meta"):
                sizes[name] = sum(parameter.numel() for parameter in build(name).parameters())
        except Exception:  # whatever a package raises: another member of the family is tried
            continue
    return min(sizes, key=sizes.__getitem__) if sizes else (ordered[0] if ordered else None)


def _tiny_config(config_class: Any) -> Any:
    """A configuration with few and small layers, where the class has such fields and accepts them; else as it is."""
    default = config_class()
    tiny = {name: value for name, value in _TINY.items() if isinstance(getattr(default, name, None), int)}
    try:
        return config_class(**tiny, num_labels=_CLASSES)
    except Exception:  # a configuration that checks its fields against one another
        return config_class(num_labels=_CLASSES)
