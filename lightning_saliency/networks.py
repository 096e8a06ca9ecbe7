"""Building networks by name, with random weights or weights from a file; nothing is downloaded."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision
from torch import Tensor, nn

from lightning_saliency.checks import close_names, did_you_mean
from lightning_saliency.files import file_of_this_machine, reading

# Entries of a checkpoint that hold the network's state, and what wrappers put before its keys, the plainest first.
_STATE_KEYS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("", "module.", "model.", "_orig_mod.", "model._orig_mod.", "model.module.")


def small_cnn(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> nn.Sequential:
    """A compact plain network for small images: four grids, each half as fine as the one before.

    Convolutions of 3×3 with BatchNorm and ReLU; a maximum over 2×2 between the grids; 292,954 parameters and 44 million
    multiplications for an image of 64×64 at the default width.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.
        width: Channels on the first grid; 2, 4 and 8 times as many on the next ones.

    Returns:
        A network from `[B, in_channels, H, W]`, H and W at least 8, to logits `[B, num_classes]`.

    Example:
        >>> small_cnn()(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """

    def stage(before: int, after: int, convolutions: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for number in range(convolutions):
            layers.append(nn.Conv2d(after if number else before, after, kernel_size=3, padding=1, bias=False))
            layers += [nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers)

    network = nn.Sequential()
    channels = in_channels
    for number, (after, convolutions) in enumerate(
        zip((width, 2 * width, 4 * width, 8 * width), (1, 2, 2, 2), strict=True)
    ):
        if number:
            network.add_module(f"pool{number}", nn.MaxPool2d(2))
        network.add_module(f"stage{number + 1}", stage(channels, after, convolutions))
        channels = after
    network.add_module("pool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("head", nn.Linear(channels, num_classes))
    # A quarter less CPU time in training; the convolutions pass the layout on.
    return network.to(memory_format=torch.channels_last)


def build_network(
    name: str,
    num_classes: int,
    in_channels: int = 3,
    library: Literal["torchvision", "timm"] = "torchvision",
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A network by name, with random weights: nothing is ever downloaded.

    Args:
        name: "small_cnn", a classification network of torchvision ("resnet18"), one of timm ("timm/resnet18"), or a
            function or class in a Python file ("networks/mine.py:resnet20"), which is run: it is called with `options`,
            and with `num_classes` and `in_channels` where it has arguments of these names.
        num_classes: Number of logits.
        in_channels: Channels of the images.
        library: Library in which a name without "timm/" is looked up.
        options: Further arguments of the network's builder, such as `{"image_size": 64}`.

    Returns:
        The network, in training mode.

    Raises:
        FileNotFoundError: If there is no such Python file.
        ImportError: If timm is asked for and not installed.
        ValueError: If the name is unknown, or a Python file does not define it.
    """
    arguments = dict(options or {})
    if name == "small_cnn":
        return small_cnn(num_classes, in_channels, **arguments)
    file, _, function = name.rpartition(":")
    if file.endswith(".py"):
        return _network_of_file(Path(file), function, num_classes, in_channels, arguments)
    if library == "timm" or name.startswith("timm/"):
        return _timm_network(name.removeprefix("timm/"), num_classes=num_classes, in_chans=in_channels, **arguments)
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise ValueError(
            f"Got model={name!r}. Allowed are 'small_cnn', "
            "'timm/' and a name of timm's, 'path/file.py:function', and "
            f"torchvision's classification networks; use one of them. torchvision has: {', '.join(names)}."
            f"{did_you_mean(name, ['small_cnn', *names])}"
        )
    if name in ("googlenet", "inception_v3"):
        arguments.setdefault("init_weights", True)  # left open, torchvision warns and then does this
    network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **arguments)
    if in_channels != 3:
        _replace_input_channels(network, in_channels)
    return network


def load_weights(
    network: nn.Module,
    checkpoint: str | Path,
    reset_head: bool = False,
    advice: str = "Check `model` and `num_classes`, or keep all but the last layer with `reset_head=True`.",
) -> None:
    """Load a file of weights into a network.

    Args:
        network: The network, changed in place.
        checkpoint: A state dict, or a dictionary that holds one as "state_dict" (Lightning's checkpoints do), "model"
            or "model_state_dict". Prefixes of wrappers ("module.", Lightning's "model.", the compiler's "_orig_mod.")
            are taken off, and so is any other ("net.") under which alone it holds all of the network's keys. Only
            tensors and plain values are unpickled (`weights_only=True`).
        reset_head: Leave the network's last layer as it is, so that it may tell other classes apart, and so each layer
            of as many outputs that does not fit the file (the last ones of auxiliary heads).
        advice: What an error says to do if the file does not fit.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds no state dict, one that does not fit the network, or several that do.
    """
    path = file_of_this_machine(checkpoint, "checkpoint")
    if not path.is_file():
        raise FileNotFoundError(f"Got the checkpoint {path}, where there is no file. Give the path of a state dict.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    # A file that is cut short, of another kind or not to be read raises anything: EOFError, OSError, KeyError, ...
    except Exception as error:
        raise ValueError(
            f"Got the checkpoint {path}, which is damaged or holds more than tensors and plain values "
            f"({type(error).__name__}: {next(iter(str(error).splitlines()), '')}). Save the network's state_dict() by "
            "itself with torch.save."
        ) from error
    own = network.state_dict()
    state = _state_of(content, own, path)
    misfits = [key for key, value in state.items() if key in own and value.shape != own[key].shape]
    if reset_head:
        head = _head(network, misfits)
        misfits = [key for key in misfits if key not in head]
        state = {**state, **{key: own[key] for key in head}}
    # Networks saved before BatchNorm counted its batches lack the counters, which nothing but momentum=None reads.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    shapes = [f"{key} {list(state[key].shape)} for {list(own[key].shape)}" for key in misfits]
    if missing or unexpected or shapes:
        raise ValueError(
            f"Got the checkpoint {path} of another network. Missing keys: {_few(missing)}. Unexpected keys: "
            f"{_few(unexpected)}. Of another shape: {_few(shapes)}. {advice}"
        )
    network.load_state_dict({**own, **state})


def weights_fingerprint(model: nn.Module) -> str:
    """A hash of a network's classes of modules, parameters and buffers.

    Example:
        >>> first, second = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> weights_fingerprint(first) == weights_fingerprint(second)
        False
        >>> _ = second.load_state_dict(first.state_dict())
        >>> weights_fingerprint(first) == weights_fingerprint(second)
        True
    """
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        digest.update(f"{name}:{type(module).__qualname__};".encode())
    for name, tensor in model.state_dict().items():
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name}:{values.dtype}:{list(values.shape)};".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _timm_network(name: str, **arguments: Any) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f"Got model='timm/{name}', but timm is not installed. Install it: pip install 'lightning-saliency[timm]'."
        ) from error
    if not timm.is_model(name):
        like = close_names(name, timm.list_models(), 8)
        raise ValueError(
            f"Got model='timm/{name}', which timm does not have. Similar names: "
            f"{', '.join(like) or 'none'}; use one that timm.list_models() lists.{did_you_mean(name, like)}"
        )
    network: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    return network


def _network_of_file(
    path: Path, function: str, num_classes: int, in_channels: int, options: Mapping[str, Any]
) -> nn.Module:
    """Build a network with a function or class from a Python file."""
    if not path.is_file():
        raise FileNotFoundError(f"Got {path}, where there is no Python file. Give its path from the current folder.")
    # Under a name of its own, so that it hides no module that is installed.
    name = f"{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise ValueError(f"Got {path}, which cannot be loaded. Allowed are Python files; give one.")
    module = sys.modules[name] = importlib.util.module_from_spec(specification)
    with reading(path, "Python file", "Correct it; importing it by itself shows where it fails."):
        specification.loader.exec_module(module)
    build: Callable[..., nn.Module] | None = getattr(module, function, None)
    if not callable(build):
        raise ValueError(f"Got {function!r}, which {path} does not define. Name a function or class of that file.")
    parameters = inspect.signature(build).parameters
    given = {"num_classes": num_classes, "in_channels": in_channels}
    network = build(**{key: value for key, value in given.items() if key in parameters}, **options)
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"Got {type(network).__name__} from {function} of {path}. Allowed is an nn.Module; return one."
        )
    return network


def _replace_input_channels(network: nn.Module, in_channels: int) -> None:
    """Give the first convolution of a network another number of input channels."""
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            parent, _, name = path.rpartition(".")
            new = nn.Conv2d(
                in_channels,
                module.out_channels,
                module.kernel_size,  # type: ignore[arg-type]
                module.stride,  # type: ignore[arg-type]
                module.padding,  # type: ignore[arg-type]
                bias=module.bias is not None,
            )
            setattr(network.get_submodule(parent), name, new)
            return


def _state_of(content: object, own: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint's content, under the prefix that fits the network best, without that prefix."""
    for key in _STATE_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not any(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise ValueError(
            f"Got the checkpoint {path} without a state dict. Allowed are a mapping of names to tensors, and one that "
            f"holds it under one of {_STATE_KEYS}; save the network's state_dict()."
        )
    stripped: dict[str, dict[str, Tensor]] = {
        prefix: {
            key.removeprefix(prefix): value
            for key, value in content.items()
            if isinstance(key, str) and key.startswith(prefix) and isinstance(value, Tensor)
        }
        for prefix in (*_PREFIXES, *_other_prefixes(content, own))
    }
    best = max(stripped, key=lambda prefix: len(own.keys() & stripped[prefix].keys()))
    if best not in _PREFIXES:
        count = len(own.keys() & stripped[best].keys())
        alike = [prefix for prefix, state in stripped.items() if len(own.keys() & state.keys()) == count]
        if len(alike) > 1:
            raise ValueError(
                f"Got the checkpoint {path}, which holds the network under each of {', '.join(map(repr, alike))}. "
                "Allowed is one; save the state_dict() of the one you mean by itself with torch.save."
            )
    return stripped[best]


def _other_prefixes(content: Mapping[Any, object], own: Mapping[str, Tensor]) -> list[str]:
    """What stands before the network's keys in a file, wherever it is the same for all of them."""
    found: dict[str, set[str]] = {}
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, Tensor):
            places = [place for place, letter in enumerate(key) if letter == "."]
            for place in places:
                if key[place + 1 :] in own:
                    found.setdefault(key[: place + 1], set()).add(key[place + 1 :])
    needed = {key for key in own if not key.endswith("num_batches_tracked")}
    return [prefix for prefix, keys in found.items() if prefix not in _PREFIXES and needed <= keys]


def _head(network: nn.Module, misfits: list[str]) -> list[str]:
    """The keys of the last layer with weights, and those among the misfits that have as many outputs."""
    own = network.state_dict()
    last = [name for name, module in network.named_modules() if list(module.parameters(recurse=False))][-1]
    head = [key for key in own if key.rpartition(".")[0] == last]
    outputs = own[head[-1]].shape[0]
    return head + [key for key in misfits if key not in head and own[key].shape[:1] == (outputs,)]


def _few(items: list[str], limit: int = 8) -> str:
    """A list for an error message, cut short."""
    if not items:
        return "none"
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")
