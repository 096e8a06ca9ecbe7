"""Which submodule of a LightningModule is watched, at which scales, and where the run keeps its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lightning_saliency.explainers.base import as_ordinary, undisturbed
from lightning_saliency.functional.statistics import Statistic
from lightning_saliency.scales.find import Scale, find_scales, named_scales
from lightning_saliency.scales.taps import ScaleTaps

_LIGHTNING_PACKAGES = ("pytorch_lightning", "lightning")


def watched_module(module: nn.Module, path: str | None, error: type[ValueError] = ValueError) -> nn.Module:
    """The submodule at a dotted path; without one, the module if it defines ``forward``, else its only trained child.

    Args:
        module: A LightningModule.
        path: Dotted path, or ``None``.
        error: What is raised.

    Raises:
        ValueError: If there is no such submodule, or the choice is not plain; the message lists the children.
    """
    children = {name: child for name, child in module.named_children() if any(True for _ in child.parameters())}
    listing = ", ".join(children) or "none with parameters"
    if path is not None:
        try:
            return module.get_submodule(path)
        except AttributeError:
            raise error(
                f"{type(module).__name__} has no submodule {path!r}. Its children are: {listing}. "
                "Give one of them, or a dotted path below."
            ) from None
    if type(module).forward.__module__.split(".")[0] not in _LIGHTNING_PACKAGES:
        return module
    if len(children) == 1:
        return next(iter(children.values()))
    raise error(
        f"{type(module).__name__} defines no forward and has {len(children)} children with parameters ({listing}): "
        "say which one to watch with model='name'."
    )


def resolve_scales(
    network: nn.Module, layers: str | Sequence[str], images: Tensor, statistic: Statistic, trainer: pl.Trainer
) -> tuple[Scale, ...]:
    """The scales to tap, found or as named, by a forward pass of two images that leaves no trace.

    Args:
        network: The watched submodule.
        layers: ``"auto"`` or dotted paths.
        images: A batch ``[B, C, H, W]`` as the network gets it.
        statistic: One that is read before activation functions is tried once, so that it fails now or never.
        trainer: Its strategy must keep whole parameters on each device.

    Raises:
        ValueError: If the network has no scales, a layer is unknown, or the strategy shards the parameters.
    """
    if any(shards in type(trainer.strategy).__name__ for shards in ("FSDP", "DeepSpeed", "ModelParallel")):
        raise ValueError(
            f"{type(trainer.strategy).__name__} shards the parameters, so that a submodule cannot be run by itself to "
            "find its scales. Use strategy='ddp', or leave the monitor out."
        )
    if layers == "auto":
        scales = find_scales(network, images)
    else:
        scales = named_scales(network, [layers] if isinstance(layers, str) else layers, images)
    if statistic.pre_activation:
        with ScaleTaps(network, scales, statistic) as taps, undisturbed(network), torch.no_grad():
            taps.start()
            network(as_ordinary(images[:1]))
            taps.take()
    return scales


def run_folder(trainer: pl.Trainer) -> Path:
    """Where this run keeps its files: the first logger's folder for it, else the trainer's root. Call on rank zero."""
    for logger in trainer.loggers:
        folder = getattr(logger, "log_dir", None)
        if folder is not None:
            return Path(folder)
        if logger.save_dir is not None and logger.version is not None:
            version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
            return Path(logger.save_dir) / str(logger.name) / version
    return Path(trainer.default_root_dir)


def class_names(trainer: pl.Trainer) -> Sequence[str] | None:
    """The classes' names, from the data module's or the module's ``classes``."""
    for source in (getattr(trainer, "datamodule", None), trainer.lightning_module):
        names = getattr(source, "classes", None)
        if isinstance(names, Sequence) and not isinstance(names, str) and names:
            return names
    return None
