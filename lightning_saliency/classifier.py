"""An image classifier as a Lightning module: any torchvision or timm network by name, for configs and studies."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_saliency.batches import describe, find_images, find_labels

# Of each auxiliary head's loss during training: Szegedy et al., "Going deeper with convolutions", section 5.
AUXILIARY_WEIGHT = 0.3
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
        name: "small_cnn", a classification network of torchvision ("resnet18"), or one of timm ("timm/resnet18").
        num_classes: Number of logits.
        in_channels: Channels of the images.
        library: Where a name without "timm/" is looked up.
        options: Further arguments of the network's builder, such as `{"image_size": 64}`.

    Returns:
        The network, in training mode.

    Raises:
        ValueError: If there is no network of that name.
        ImportError: If timm is asked for and not installed.
    """
    arguments = dict(options or {})
    if name == "small_cnn":
        return small_cnn(num_classes, in_channels, **arguments)
    if library == "timm" or name.startswith("timm/"):
        return _timm_network(name.removeprefix("timm/"), num_classes=num_classes, in_chans=in_channels, **arguments)
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise ValueError(
            f"Expected `model` to be 'small_cnn', a classification network of torchvision, or 'timm/' and one of timm, "
            f"but got {name!r}. torchvision has: {', '.join(names)}"
        )
    if name in ("googlenet", "inception_v3"):
        arguments.setdefault("init_weights", True)  # left open, torchvision warns and then does this
    network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **arguments)
    if in_channels != 3:
        _replace_input_channels(network, in_channels)
    return network


def load_weights(network: nn.Module, checkpoint: str | Path, reset_head: bool = False) -> None:
    """Load a file of weights into a network.

    Args:
        network: Changed in place.
        checkpoint: A state dict, or a dictionary that holds one as "state_dict" (Lightning's checkpoints do), "model"
            or "model_state_dict". Prefixes of wrappers ("module.", Lightning's "model.", the compiler's "_orig_mod.")
            are taken off. Only tensors and plain values are unpickled (`weights_only=True`).
        reset_head: Leave the network's last layer as it is, so that it may tell other classes apart, and so each layer
            of as many outputs that does not fit the file (the last ones of auxiliary heads).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no state dict, or one that is not this network's.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise FileNotFoundError(f"The checkpoint {path} does not exist or is no file: give the path of a state dict")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError(
            f"The checkpoint {path} holds more than tensors and plain values, or is damaged. Save the network's "
            "`state_dict()` by itself with `torch.save`"
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
            f"The checkpoint {path} is not this network's. Missing keys: {_few(missing)}. Unexpected keys: "
            f"{_few(unexpected)}. Of another shape: {_few(shapes)}. Check `model` and `num_classes`, or keep all but "
            "the last layer with `reset_head=True`"
        )
    network.load_state_dict({**own, **state})


def split_logits(output: object) -> tuple[Tensor, list[Tensor]]:
    """The logits `[B, N]` in a network's output and those of its auxiliary heads.

    Args:
        output: A tensor, an object or a dictionary with `logits`, or a tuple whose first tensor they are. Further
            tensors of the same shape are those of auxiliary heads, as GoogLeNet and Inception give them in training.

    Raises:
        TypeError: If it is none of these.

    Example:
        >>> main, auxiliary = split_logits((torch.zeros(2, 10), torch.ones(2, 10)))
        >>> main.sum().item(), len(auxiliary)
        (0.0, 1)
    """
    if isinstance(output, Tensor):
        return output, []
    if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
        rest = [other for other in output[1:] if isinstance(other, Tensor) and other.shape == output[0].shape]
        return output[0], rest
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits, []
    raise TypeError(
        "Expected the network to give logits [B, N], alone, first in a tuple or named `logits`, but got "
        f"{describe(output)}: wrap it in a module that does"
    )


class ImageClassifier(pl.LightningModule):
    """Trains a network to tell classes of images apart: cross-entropy, accuracy, an optimiser and a schedule.

    Logs `loss` and `accuracy` under `train/`, `val/` and `test/`. Batches may be tuples, lists or dictionaries; the
    images and labels in them are found by `lightning_saliency.batches`.

    Args:
        model: Name of a network (see `build_network`), or the network itself.
        num_classes: Number of classes.
        in_channels: Channels of the images. Only for a network given by name.
        library: "torchvision" or "timm": where the name is looked up; "timm/resnet18" says the same in the name.
        model_options: Further arguments of the network's builder. Only for a network given by name.
        checkpoint: File of weights to begin with (see `load_weights`).
        reset_head: Begin with the checkpoint's weights in all but the last layer.
        optimizer: "adamw" or "sgd".
        learning_rate: Of the optimiser; the greatest one under "one_cycle".
        weight_decay: Of the optimiser.
        momentum: Of SGD (with Nesterov's correction where it is not 0). AdamW has its own.
        scheduler: "cosine": to 0 by the end of training; "one_cycle": up during the first 30 % and then down to
            nothing; "step": a tenth after each third of the epochs; `None`: constant.

    Attributes:
        model: The network, `[B, C, H, W]` to logits `[B, num_classes]`.

    Raises:
        ValueError: If an argument is out of range, a name unknown or a checkpoint another network's.

    Example:
        >>> ImageClassifier("small_cnn", num_classes=10)(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        model: str | nn.Module,
        num_classes: int,
        in_channels: int = 3,
        library: Literal["torchvision", "timm"] = "torchvision",
        model_options: dict[str, Any] | None = None,
        checkpoint: str | Path | None = None,
        reset_head: bool = False,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        momentum: float = 0.9,
        scheduler: Literal["cosine", "one_cycle", "step"] | None = "cosine",
    ) -> None:
        super().__init__()
        for name, given, allowed in (
            ("library", library, ("torchvision", "timm")),
            ("optimizer", optimizer, ("adamw", "sgd")),
            ("scheduler", scheduler, ("cosine", "one_cycle", "step", None)),
        ):
            if given not in allowed:
                raise ValueError(f"Expected `{name}` to be one of {allowed}, but got {given!r}")
        if num_classes < 2:
            raise ValueError(f"Expected `num_classes` to be at least 2, but got {num_classes}")
        if isinstance(model, nn.Module) and (in_channels != 3 or model_options):
            raise ValueError(
                "`in_channels` and `model_options` are for a network given by name; got them with a module"
            )
        # A Lightning checkpoint carries its own weights: rebuilding from one must not ask for the first file again.
        self.save_hyperparameters(
            ignore=["checkpoint", "reset_head", *(["model"] if isinstance(model, nn.Module) else [])]
        )
        if isinstance(model, str):
            model = build_network(model, num_classes, in_channels, library, model_options)
        if checkpoint is not None:
            load_weights(model, checkpoint, reset_head)
        self.model = model
        self.num_classes = num_classes
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, num_classes]` of images `[B, C, H, W]`."""
        return split_logits(self.model(images))[0]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The cross-entropy of a batch, auxiliary heads included."""
        return self._step(batch, "train")["loss"]

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """`loss` and detached `logits` of a batch."""
        return self._step(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """`loss` and detached `logits` of a batch."""
        return self._step(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Logits `[B, num_classes]` of a batch."""
        logits: Tensor = self(find_images(batch))
        return logits

    def configure_optimizers(self) -> Any:
        """The optimiser over the parameters that train, with its schedule."""
        options = self.hparams
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        rate, decay, momentum = options["learning_rate"], options["weight_decay"], options["momentum"]
        optimizer: torch.optim.Optimizer
        if options["optimizer"] == "sgd":
            optimizer = torch.optim.SGD(parameters, rate, momentum, weight_decay=decay, nesterov=momentum > 0)
        else:
            optimizer = torch.optim.AdamW(parameters, rate, weight_decay=decay)
        if options["scheduler"] is None:
            return optimizer
        if options["scheduler"] == "step":
            third = max(1, -(-(self.trainer.max_epochs or 1) // 3))
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=third, gamma=0.1)]
        steps = self.trainer.estimated_stepping_batches
        if not isinstance(steps, int):
            raise ValueError(
                f"`scheduler`={options['scheduler']!r} has to know when training ends: set the trainer's `max_epochs` "
                "or `max_steps`, or take `scheduler=None`"
            )
        schedule: torch.optim.lr_scheduler.LRScheduler
        if options["scheduler"] == "one_cycle":
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
        else:
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def _step(self, batch: Any, stage: str) -> dict[str, Tensor]:
        images = find_images(batch)
        labels = find_labels(batch, len(images))
        if labels is None:
            raise ValueError(
                f"Found no integer labels [{len(images)}] beside the images of the batch: {describe(batch)}"
            )
        logits, auxiliary = split_logits(self.model(images))
        if logits.shape != (len(images), self.num_classes):
            raise ValueError(
                f"The network gives logits {list(logits.shape)} where {[len(images), self.num_classes]} are expected: "
                "make `num_classes` the number of its outputs"
            )
        loss = F.cross_entropy(logits, labels)
        for other in auxiliary:
            loss = loss + AUXILIARY_WEIGHT * F.cross_entropy(other, labels)
        accuracy = getattr(self, f"{stage}_accuracy")
        accuracy(logits.detach(), labels)
        progress = stage != "train"
        self.log(f"{stage}/loss", loss, prog_bar=progress, on_step=not progress, on_epoch=True, batch_size=len(images))
        self.log(f"{stage}/accuracy", accuracy, prog_bar=progress, on_step=False, on_epoch=True, batch_size=len(images))
        return {"loss": loss, "logits": logits.detach()}


def _timm_network(name: str, **arguments: Any) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f"timm is needed for {name!r} and not installed: `pip install lightning-saliency[timm]`"
        ) from error
    if not timm.is_model(name):
        like = get_close_matches(name, timm.list_models(), n=8)
        raise ValueError(
            f"timm has no network {name!r}; similar names: {', '.join(like) or 'none'}. See `timm.list_models()`"
        )
    network: nn.Module = timm.create_model(name, pretrained=False, **arguments)
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
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(
            f"The checkpoint {path} holds no state dict: expected names of tensors, or one under {_STATE_KEYS}"
        )
    stripped = {
        prefix: {
            key.removeprefix(prefix): value
            for key, value in content.items()
            if key.startswith(prefix) and isinstance(value, Tensor)
        }
        for prefix in _PREFIXES
    }
    return max(stripped.values(), key=lambda state: len(own.keys() & state.keys()))


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
