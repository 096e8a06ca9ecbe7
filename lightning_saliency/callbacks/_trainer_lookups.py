"""Which submodule of a LightningModule is watched, how it is run, what its loaders and classes are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from torch import nn
from torch.distributed.tensor import DTensor

from lightning_saliency.callbacks._warnings import warn
from lightning_saliency.data.masked.loaders import batch_form, leaves
from lightning_saliency.pictures.class_names import as_names

_LIGHTNING_PACKAGES = ("pytorch_lightning", "lightning")
_MOST_DATA_SETS = 100


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


def builds_late(module: nn.Module) -> bool:
    """Whether a LightningModule makes its layers in ``configure_model``, after ``setup``."""
    home: str = type(module).configure_model.__module__  # type: ignore[attr-defined]
    return home.split(".")[0] not in _LIGHTNING_PACKAGES


def is_compiled(*modules: nn.Module) -> bool:
    """Whether ``torch.compile`` or ``module.compile()`` was applied to a module, or to one inside it."""
    return any(
        getattr(each, "_orig_mod", None) is not None
        or getattr(each, "_compiled_call_impl", None) is not None
        or getattr(each, "_compiler_ctx", None) is not None
        for module in modules
        for each in module.modules()
    )


#: What to do where one process has to run the network by itself.
WHOLE_STRATEGIES = "Use strategy='ddp' or 'deepspeed_stage_2', which leave it whole in each process"


def is_sharded(trainer: pl.Trainer, module: nn.Module) -> bool:
    """Whether parameters are spread over processes, so that one process cannot run the network by itself."""
    strategies = [kind.__name__ for kind in type(trainer.strategy).__mro__]
    if any(shards in name for name in strategies for shards in ("FSDP", "ModelParallel")):
        return True
    # The first two stages of DeepSpeed spread the optimiser's state and the gradients alone.
    if any("DeepSpeed" in name for name in strategies) and getattr(trainer.strategy, "zero_stage_3", True):
        return True
    kinds = {kind.__name__ for each in module.modules() for kind in type(each).__mro__}
    # `DTensor` of `fully_shard`, and the mark of DeepSpeed's third stage.
    return "FullyShardedDataParallel" in kinds or any(
        isinstance(parameter, DTensor) or hasattr(parameter, "ds_id") for parameter in module.parameters()
    )


def logged_step(trainer: pl.Trainer) -> int:
    """The step at which Lightning logs metrics now; pictures of the same moment go to the same place on the axis."""
    if trainer.state.fn == "fit":
        return int(trainer.fit_loop.epoch_loop._batches_that_stepped)
    return trainer.global_step


def has_trained(trainer: pl.Trainer) -> bool:
    """Whether a batch of training is done, in this run or before its checkpoint; so far a run has nothing to lose.

    Not all steps count in ``trainer.global_step``: those of raw optimisers, with manual optimisation, do not.
    """
    total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return int(total.processed) > 0


@dataclass(frozen=True)
class Hiding:
    """A callback that hides what is salient in the training images.

    Attributes:
        callback: What it is called.
        begun: Whether it does so in the present epoch.
        idle: Whether it has looked for a place to hide and found none.
    """

    callback: str
    begun: bool
    idle: bool = False


def hiding_callback(trainer: pl.Trainer) -> Hiding | None:
    """The callback that hides what is salient: one with an ``action`` that ``hides``, as `SaliencyAugmentation` has.

    Of several the first that is not idle.
    """
    found: Hiding | None = None
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Lightning sets it without declaring it
        if getattr(getattr(callback, "action", None), "hides", False):
            probability = getattr(callback, "probability", None)
            begun = not callable(probability) or probability(trainer.current_epoch) > 0
            idle = getattr(getattr(callback, "guide", None), "no_place", None) is not None
            if found is None or found.idle:
                found = Hiding(type(callback).__name__, begun, idle)
    return found


def loaders_form(trainer: pl.Trainer, stage: str) -> Any:
    """Which parts of a stage's batches come from different loaders, for ``BatchReader.read``.

    Args:
        trainer: The trainer.
        stage: ``"train"``, ``"validate"``, ``"test"`` or ``"predict"``.

    Returns:
        Nested dictionaries and lists with ``None`` for each loader's part; ``None`` where a batch is one loader's.
    """
    combined = _combined(trainer, stage)
    return None if combined is None else batch_form(combined, training=True)


def fetches_itself(trainer: pl.Trainer, stage: str) -> bool:
    """Whether a stage's step fetches its batches itself, from ``dataloader_iter``: none is known before it runs."""
    return "DataLoaderIter" in type(_loop(trainer, stage)._data_fetcher).__name__


def several_loaders(trainer: pl.Trainer, stage: str) -> bool:
    """Whether a stage has more than one loader."""
    combined = _combined(trainer, stage)
    return combined is not None and len(leaves(combined)) > 1


def _combined(trainer: pl.Trainer, stage: str) -> Any:
    """Lightning's ``CombinedLoader`` of a stage; ``None`` before there is one."""
    return _loop(trainer, stage)._combined_loader


def _loop(trainer: pl.Trainer, stage: str) -> Any:
    loops: dict[str, Any] = {
        "train": trainer.fit_loop,
        "validate": trainer.fit_loop.epoch_loop.val_loop if trainer.state.fn == "fit" else trainer.validate_loop,
        "test": trainer.test_loop,
        "predict": trainer.predict_loop,
    }
    return loops[stage]


def class_names(trainer: pl.Trainer, stage: str | None = None) -> Sequence[str] | None:
    """The classes' names: ``classes`` or ``class_names`` of the data module, the module, or the stage's data set.

    A data set may have ``class_to_idx`` instead, and may lie inside others, such as ``Subset``. A property that raises
    an error has none, with a warning: captions alone depend on it.

    Args:
        trainer: The trainer.
        stage: See `loaders_form`; ``None``: the data sets are not asked.
    """
    sources: list[object] = [getattr(trainer, "datamodule", None), trainer.lightning_module]
    if stage is not None:
        sources += _data_sets(trainer, stage)
    for source in sources:
        for names in (_attribute(source, "classes"), _attribute(source, "class_names")):
            if isinstance(names, Sequence) and not isinstance(names, str) and names:
                return as_names(names)
        numbers = _attribute(source, "class_to_idx")
        if isinstance(numbers, dict) and sorted(numbers.values()) == list(range(len(numbers))) and numbers:
            return [str(name) for name in sorted(numbers, key=lambda name: int(numbers[name]))]
    return None


def _attribute(source: object, name: str) -> Any:
    """An attribute that the user's object may have, ``None`` without it, and with a warning if it raises an error."""
    try:
        return getattr(source, name, None)
    except Exception as error:  # of the user's property
        warn(
            f"No names of classes are taken from {type(source).__name__}.{name}, which raised {type(error).__name__}: "
            f"{error}. Where no other names are found, captions show the classes' numbers; let it return a list of "
            "names or None."
        )
        return None


def _data_sets(trainer: pl.Trainer, stage: str) -> list[object]:
    """The data sets of a stage's loaders, and those inside them, the outermost first."""
    combined = _combined(trainer, stage)
    level = [getattr(loader, "dataset", None) for loader in ([] if combined is None else leaves(combined))]
    found: list[object] = []
    while level and len(found) < _MOST_DATA_SETS:
        found += [data for data in level if data is not None]
        level = [getattr(data, "dataset", None) for data in level if data is not None]
    return found
