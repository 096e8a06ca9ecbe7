"""Copying data loaders with another data set, and collections of loaders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

from torch.utils.data import DataLoader

# Lightning stores a loader's arguments here, to rebuild it with a distributed sampler.
_SAVED_ARGUMENTS, _SAVED_OPTIONS, _SAVED_DATASET = "__pl_saved_args", "__pl_saved_kwargs", "__dataset"
# And here, what was set later.
_SAVED_ATTRIBUTES = "__pl_attrs_record"


def with_dataset(loader: DataLoader[Any], dataset: Any, collate: Callable[[Any], Any] | None = None) -> DataLoader[Any]:
    """A copy of a loader over another data set of the same length; everything else is shared.

    A loader does not accept another data set, and the constructor of a subclass may need unknown arguments. The copy is
    therefore shallow, and the arguments that Lightning recorded for the loader are corrected too.

    Args:
        loader: The loader.
        dataset: The other data set.
        collate: What makes its batches; ``None``: the loader's own ``collate_fn``.
    """
    old = loader.dataset
    copied = copy(loader)
    state = vars(copied)
    state["dataset"] = dataset
    state["_iterator"] = None  # workers that persist have the old data set
    if _SAVED_ARGUMENTS in state:
        state[_SAVED_ARGUMENTS] = tuple(dataset if value is old else value for value in state[_SAVED_ARGUMENTS])
        state[_SAVED_OPTIONS] = {
            name: dataset if value is old else value for name, value in state[_SAVED_OPTIONS].items()
        }
    if _SAVED_DATASET in state:
        state[_SAVED_DATASET] = dataset
    if collate is not None:
        state["collate_fn"] = collate
        state[_SAVED_ATTRIBUTES] = [*state.get(_SAVED_ATTRIBUTES, ()), (("collate_fn", collate), setattr)]
    return copied


def map_loaders(loaders: Any, stores: Any, change: Callable[[DataLoader[Any], Any], Any]) -> Any:
    """Change each loader of a collection with its own part of a collection of the same form.

    Args:
        loaders: A ``DataLoader``; lists, tuples and dictionaries of them; Lightning's ``CombinedLoader``.
        stores: A collection of the same form, with one store per loader.
        change: Called with each loader and its part.

    Raises:
        TypeError: If an element is not a loader.
        ValueError: If the forms differ.
    """
    if isinstance(loaders, DataLoader):
        return change(loaders, stores)
    if is_combined(loaders):
        combined = copy(loaders)
        combined.flattened = leaves(map_loaders(loaders.iterables, stores, change))
        return combined
    if isinstance(loaders, Mapping):
        if not isinstance(stores, Mapping) or stores.keys() != loaders.keys():
            raise ValueError(_form(f"the keys {list(loaders)}", stores))
        return {name: map_loaders(loader, stores[name], change) for name, loader in loaders.items()}
    if isinstance(loaders, (list, tuple)):
        single = len(loaders) == 1 and not isinstance(stores, (list, tuple))
        parts = [stores] if single else stores
        if not isinstance(parts, (list, tuple)) or len(parts) != len(loaders):
            raise ValueError(_form(f"a list of {len(loaders)}", stores))
        return [map_loaders(loader, part, change) for loader, part in zip(loaders, parts, strict=True)]
    raise TypeError(
        f"Got a loader of type {type(loaders).__name__}. Allowed with stored maps are torch.utils.data.DataLoader and "
        "collections of them; take an explainer instead of stored maps."
    )


def leaves(loaders: Any) -> list[Any]:
    """The loaders in a collection, in Lightning's order."""
    if is_combined(loaders):
        return list(loaders.flattened)
    if isinstance(loaders, Mapping):
        return [leaf for loader in loaders.values() for leaf in leaves(loader)]
    if isinstance(loaders, (list, tuple)):
        return [leaf for loader in loaders for leaf in leaves(loader)]
    return [loaders]


def is_combined(loaders: Any) -> bool:
    """Whether this is a ``CombinedLoader``, of either of Lightning's packages."""
    return hasattr(loaders, "iterables") and hasattr(loaders, "flattened")


def batch_form(loaders: Any, training: bool) -> Any:
    """Structure of a batch of these loaders: the collection, if a batch has a part from each loader.

    Returns:
        Nested dictionaries and lists, ``None`` standing for the batch of one loader.
    """
    if is_combined(loaders):
        return None if loaders._mode == "sequential" else batch_form(loaders.iterables, training=True)
    if not training:
        return None
    if isinstance(loaders, Mapping):
        return {name: batch_form(loader, training) for name, loader in loaders.items()}
    if isinstance(loaders, (list, tuple)):
        return [batch_form(loader, training) for loader in loaders]
    return None


def map_batches(batch: Any, form: Any, change: Callable[[Any], Any]) -> Any:
    """Change a batch, or that of each loader in a collection of batches.

    Args:
        batch: The batch; ``None`` in a collection is that of a loader that ended before the others.
        form: The collection, see `batch_form`.
        change: Called with the batch of one loader.
    """
    if isinstance(form, Mapping) and isinstance(batch, Mapping):
        return {name: map_batches(part, form.get(name), change) for name, part in batch.items()}
    if isinstance(form, list) and isinstance(batch, (list, tuple)):
        return [map_batches(part, inner, change) for part, inner in zip(batch, form, strict=True)]
    return None if batch is None else change(batch)


def _form(wanted: str, stores: Any) -> str:
    given = f"the keys {list(stores)}" if isinstance(stores, Mapping) else type(stores).__name__
    return f"Got stores as {given} for several loaders. Allowed is {wanted}, one store for each loader; give one."
