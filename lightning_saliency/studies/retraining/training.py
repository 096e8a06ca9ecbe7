"""Parts of the cells of retraining studies: networks inside modules, training and testing, a quiet trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.utils.data import BatchSampler

from lightning_saliency.classifier import ImageClassifier
from lightning_saliency.lightning_bases import trainer_class
from lightning_saliency.studies.isolation import SeedAtStart
from lightning_saliency.studies.specs import (
    Spec,
    _built,
)


def network_of(module: nn.Module, path: str | None) -> nn.Module:
    """The network inside a LightningModule that maps explain and masks change.

    Args:
        module: The LightningModule.
        path: Dotted path; ``None``: ``model`` of an `ImageClassifier`, otherwise the module itself.

    Raises:
        ValueError: If there is no such submodule.
    """
    path = network_path(module, path)
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        raise ValueError(
            f"Got network={path!r}, but {type(module).__name__} has no such submodule ({error}). Give the dotted path "
            'of its network, or "" for the module itself.'
        ) from error


def network_path(module: nn.Module, path: str | None) -> str:
    """The dotted path of the network inside a LightningModule, see `network_of`."""
    if path is not None:
        return path
    return "model" if isinstance(module, ImageClassifier) else ""


def fit_and_test(
    module: Any,
    data: Any,
    epochs: int,
    seed: int,
    trainer: Spec,
    callbacks: tuple[Any, ...] = (),
    metric: str = "",
    fitted: Callable[[], object] | None = None,
) -> float:
    """Train a module and measure its accuracy on the test data; nothing is logged and no checkpoint written.

    Args:
        module: The LightningModule, changed in place.
        data: The LightningDataModule.
        epochs: Number of epochs of training; 0 only tests.
        seed: Seed of the order of the data and of all random numbers in training.
        trainer: Arguments of the ``Trainer``.
        callbacks: Callbacks of the ``Trainer``, besides those that its arguments name.
        metric: Name under which the module logs its test accuracy; ``""``: ``test/accuracy``.
        fitted: Called between training and testing.

    Returns:
        The accuracy in [0, 1].

    Raises:
        ValueError: If the module does not log the metric.
    """
    options = trainer_options(trainer)
    own = options.pop("callbacks", None) or []
    runner = trainer_class(module, data)(max_epochs=epochs, callbacks=[*own, SeedAtStart(seed), *callbacks], **options)
    if epochs:
        runner.fit(module, datamodule=data)
    if fitted is not None:
        fitted()
    (found,) = runner.test(module, datamodule=data, verbose=False)
    return _logged(module, found, metric)


def first_items(loader: Any, count: int) -> Any:
    """A batch of the first items of a loader's data set, at most so many, collated as the loader does.

    Of a data set without a length or an order, the loader's first batch.
    """
    dataset, sampler = getattr(loader, "dataset", None), getattr(loader, "batch_sampler", None)
    if (
        dataset is not None
        and type(sampler) is BatchSampler
        and hasattr(dataset, "__len__")
        and hasattr(dataset, "__getitem__")
    ):
        return loader.collate_fn([dataset[index] for index in range(min(count, len(dataset)))])
    return next(iter(loader))


def check_metric(module: Any, data: Any, trainer: Spec, metric: str) -> None:
    """Test one batch, to check before hours of training that a module logs its accuracy under a name.

    Raises:
        ValueError: If it does not.
    """
    alone = {"devices": 1, "strategy": "auto", "callbacks": None, "limit_test_batches": 1}
    runner = trainer_class(module, data)(**{**trainer_options(trainer), **alone})
    (found,) = runner.test(module, datamodule=data, verbose=False)
    _logged(module, found, metric)


def trainer_options(given: Spec) -> dict[str, Any]:
    """Arguments of a ``Trainer`` that only trains and tests, unless the given ones differ."""
    return {
        "accelerator": "auto",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        **{key: _built(value) for key, value in given.items()},
    }


def _logged(module: Any, found: Mapping[str, float], metric: str) -> float:
    name = metric or "test/accuracy"
    if name not in found:
        raise ValueError(
            f"Got metric={name!r}, which {type(module).__name__} does not log in testing. Allowed are "
            f"{', '.join(found) or 'none, since it logs nothing'}; give the name of its accuracy."
        )
    return float(found[name])
