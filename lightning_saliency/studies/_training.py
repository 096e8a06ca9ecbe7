"""What cells of retraining studies are made of: data modules and networks from plain data, seeds, a quiet trainer."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import logging
import os
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_saliency.classifier import ImageClassifier

Spec = Mapping[str, Any]

#: Where a class path without a dot is looked up.
_HOME = "lightning_saliency"
_SEED_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")


def as_spec(part: Any, default: type | None = None) -> dict[str, Any]:
    """A data module or a module as plain data, ``{"class_path": ..., "init_args": ...}``.

    Args:
        part: Such a mapping; or an object that saved its arguments with ``save_hyperparameters()``; or, where there is
            a default class, a mapping of its arguments.
        default: That class.

    Raises:
        TypeError: If it is something else.
        ValueError: If an object's saved arguments are not those that it is built from.

    Example:
        >>> as_spec({"model": "small_cnn", "num_classes": 10}, ImageClassifier)["class_path"]
        'lightning_saliency.classifier.ImageClassifier'
    """
    if isinstance(part, Mapping) and "class_path" in part:
        unknown = sorted(set(part) - {"class_path", "init_args"})
        if unknown:
            raise ValueError(
                f"Got {', '.join(unknown)} beside class_path. Allowed are class_path and init_args; put arguments into "
                "init_args."
            )
        return _completed(_class_of(str(part["class_path"])), dict(part.get("init_args") or {}))
    if isinstance(part, Mapping) and default is not None:
        return _completed(default, dict(part))
    hyperparameters = None if isinstance(part, Mapping) else getattr(part, "hparams", None)
    if not isinstance(hyperparameters, Mapping):
        raise TypeError(
            f"Got a {type(part).__name__}. Allowed are {{'class_path': ..., 'init_args': ...}} and objects that called "
            "save_hyperparameters(): cells are computed in other processes, which build their own. Give a class path."
        )
    try:
        return _completed(type(part), dict(hyperparameters))
    except TypeError as error:
        raise ValueError(
            f"Got a {type(part).__name__} that cannot be built again from its saved arguments ({error}). Give "
            "{'class_path': ..., 'init_args': ...}."
        ) from error


def given_arguments(spec: Spec) -> dict[str, Any]:
    """The arguments of a specification that are other than the class's defaults."""
    defaults = _completed(_class_of(spec["class_path"]), {}, check=False)["init_args"]
    own = spec.get("init_args") or {}
    return {name: value for name, value in own.items() if name not in defaults or defaults[name] != value}


def build(spec: Spec) -> Any:
    """The object that ``{"class_path": ..., "init_args": ...}`` describes; the arguments may contain such mappings.

    Raises:
        TypeError: If the class does not take the arguments.
        ValueError: If the class cannot be imported.

    Example:
        >>> build({"class_path": "DigitScenes", "init_args": {"train_size": 10}}).sizes["train"]
        10
    """
    found = _class_of(str(spec["class_path"]))
    arguments = {key: _built(value) for key, value in (spec.get("init_args") or {}).items()}
    _check_arguments(found, arguments)
    return found(**arguments)


def build_data(spec: Spec) -> Any:
    """The data module of a specification; the same object each time in one process, so that data are read once."""
    return _data(json.dumps(spec, sort_keys=True))


def build_module(spec: Spec, changes: Spec | None = None) -> Any:
    """A new LightningModule of a specification, with some of its arguments changed."""
    arguments = {**(spec.get("init_args") or {}), **(changes or {})}
    return build({"class_path": spec["class_path"], "init_args": arguments})


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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """All generators seeded inside, and as they were outside, also after an exception."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    kept = {name: os.environ.get(name) for name in _SEED_VARIABLES}
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            reseed(seed)
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            for name, value in kept.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def reseed(seed: int) -> None:
    """Seed every generator, those of loading processes and of processes that a strategy starts included."""
    pl.seed_everything(seed, workers=True, verbose=False)


class SeedAtStart(pl.Callback):
    """Seeds the generators when fitting starts: the order of the data does not depend on what was done before it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed."""
        reseed(self.seed)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's remarks, which would be repeated for each of hundreds of cells."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*The number of training batches.*",
            ".*have no logger configured.*",
            ".*GPU available but not used.*",
            ".*isinstance\\(treespec, LeafSpec\\).*",
        ):
            warnings.filterwarnings("ignore", message=message)
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


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
        epochs: Of the training; 0: only test.
        seed: Of the order of the data and of whatever is random in training.
        trainer: Arguments of the ``Trainer``.
        callbacks: Of the ``Trainer``, beside those that its arguments name.
        metric: What the module logs its test accuracy as; ``""``: ``test/accuracy``.
        fitted: Called between training and testing.

    Returns:
        The accuracy in [0, 1].

    Raises:
        ValueError: If the module logs no such metric.
    """
    options = trainer_options(trainer)
    own = options.pop("callbacks", None) or []
    runner = pl.Trainer(max_epochs=epochs, callbacks=[*own, SeedAtStart(seed), *callbacks], **options)
    if epochs:
        runner.fit(module, datamodule=data)
    if fitted is not None:
        fitted()
    (found,) = runner.test(module, datamodule=data, verbose=False)
    return _logged(module, found, metric)


def check_metric(module: Any, data: Any, trainer: Spec, metric: str) -> None:
    """Test one batch, to see that a module logs its accuracy under that name before it is trained for hours.

    Raises:
        ValueError: If it does not.
    """
    alone = {"devices": 1, "strategy": "auto", "callbacks": None, "limit_test_batches": 1}
    runner = pl.Trainer(**{**trainer_options(trainer), **alone})
    (found,) = runner.test(module, datamodule=data, verbose=False)
    _logged(module, found, metric)


def trainer_options(given: Spec) -> dict[str, Any]:
    """Arguments of a ``Trainer`` that only trains and tests, unless those given say otherwise."""
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
            f"{type(module).__name__} logs {', '.join(found) or 'nothing'} in testing, but not {name!r}. Give the name "
            "of its accuracy as metric."
        )
    return float(found[name])


@functools.lru_cache(maxsize=2)
def _data(text: str) -> Any:
    return build(json.loads(text))


def _class_of(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module or _HOME), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"Got the class path {path!r}, which cannot be imported ({error}). Give the module and the class, such as "
            "lightning_saliency.data.DigitScenes, of a package that is installed."
        ) from error


def _check_arguments(found: Any, arguments: Mapping[str, Any]) -> None:
    try:
        inspect.signature(found).bind(**arguments)
    except TypeError as error:
        allowed = ", ".join(inspect.signature(found).parameters)
        name = getattr(found, "__qualname__", str(found))
        raise TypeError(f"{name} was given {sorted(arguments)}, but {error}. It takes {allowed}.") from None


def _path_as_text(value: object) -> str:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(
        f"Got a {type(value).__name__} among the arguments of a class. Allowed are plain values, since other processes "
        "build their own objects of them; give {'class_path': ..., 'init_args': ...}."
    )


def _completed(found: Any, arguments: dict[str, Any], check: bool = True) -> dict[str, Any]:
    """A specification with the class's defaults: however it was given, it is the same."""
    if check:
        _check_arguments(found, arguments)
    for name, parameter in inspect.signature(found).parameters.items():
        if isinstance(parameter.default, (str, int, float, bool, tuple, list, type(None))):
            arguments.setdefault(name, parameter.default)
    arguments = json.loads(json.dumps(arguments, default=_path_as_text))
    return {"class_path": f"{found.__module__}.{found.__qualname__}", "init_args": arguments}


def _built(value: Any) -> Any:
    if isinstance(value, Mapping):
        if "class_path" in value:
            return build(value)
        return {key: _built(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_built(item) for item in value]
    return value
