"""What the monitor accepts, and the error where it is something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from lightning_saliency.callbacks.monitor.frame import VIEWS
from lightning_saliency.callbacks.monitor.means import MEAN_VIEWS
from lightning_saliency.callbacks.monitor.reading.sample import ONE_PER_CLASS, WORST
from lightning_saliency.checks import close_names
from lightning_saliency.explainers import EXPLAINERS, ExplainerOption, ExplainerSpec, parse_explainers
from lightning_saliency.explainers.base import Output
from lightning_saliency.scales import split_layer
from lightning_saliency.scales.reader import Layers

#: The loops a monitor can watch, with the trainer's methods that run them.
STAGES = {"validate": ("fit", "validate"), "train": ("fit",), "test": ("test",)}
#: What `parse_views` reads.
Views = str | Sequence[str] | Mapping[str, ExplainerOption | None]


class MonitorConfigurationError(ValueError):
    """The monitor cannot work as configured; raised before the first training step, while nothing can be lost."""


def check_layers(network: nn.Module, layers: Layers) -> None:
    """Look up the layers that were named.

    Raises:
        MonitorConfigurationError: If the network has no module of such a name.
    """
    try:
        for layer in [] if layers == "auto" else [layers] if isinstance(layers, (str, nn.Module)) else layers:
            split_layer(network, layer)
    except ValueError as error:
        raise MonitorConfigurationError(str(error)) from error


def positive(name: str, value: int) -> int:
    """A positive integer, or an error that names the option."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise MonitorConfigurationError(f"Got {name}={value!r}. Allowed are whole numbers from 1; give one.")
    return value


def check_indices(indices: Sequence[int] | str) -> tuple[int, ...] | str:
    """Numbers of images, each once, or ``"one_per_class"``, or ``"worst"``.

    Raises:
        MonitorConfigurationError: If they are something else, or none.
    """
    if isinstance(indices, str) and indices in (ONE_PER_CLASS, WORST):
        return indices
    numbers = () if isinstance(indices, (str, int)) else tuple(indices)
    good = all(isinstance(index, int) and not isinstance(index, bool) and index >= 0 for index in numbers)
    if not good or not numbers or len(set(numbers)) < len(numbers):
        raise MonitorConfigurationError(
            f"Got indices={indices!r}. Allowed are lists of numbers from 0, each once, such as [0, 7, 31], "
            f"{ONE_PER_CLASS!r} and {WORST!r}; give one."
        )
    return numbers


def parse_views(views: Views, output: Output = None) -> dict[str, ExplainerSpec | None]:
    """The rows of pictures: name of the row -> explainer, ``None`` for those in ``VIEWS`` and ``MEAN_VIEWS``.

    Args:
        views: Names in ``VIEWS`` and ``MEAN_VIEWS``, and of explainers, a list or separated by commas; or a mapping
            from a row's name to its explainer, ``None`` where the row is called like the view or the explainer.
        output: What takes the logits out of what the network returns, for explainers without an ``output`` of their
            own, see ``Explainer``.

    Raises:
        MonitorConfigurationError: If no view is given, a name is unknown, or a row of these has an explainer.

    Example:
        >>> views = {"lovi": None, "16 groups": {"class_path": "group_cam", "init_args": {"groups": 16}}}
        >>> {name: str(spec) for name, spec in parse_views(views).items()}
        {'lovi': 'None', '16 groups': 'group_cam (groups=16)'}
    """
    own = (*VIEWS, *MEAN_VIEWS)
    names = [name.strip() for name in views.split(",")] if isinstance(views, str) else list(views)
    if not names or len(set(names)) < len(names):
        raise MonitorConfigurationError(f"Got views={names}. Allowed are one or more, each named once; change them.")
    parsed: dict[str, ExplainerSpec | None] = {}
    for name in names:
        explainer = views[name] if isinstance(views, Mapping) else None
        if name in own and explainer:
            raise MonitorConfigurationError(
                f"Got {name!r} as the name of the view of {explainer!r}. Allowed are names that are not those of the "
                f"scales' views ({', '.join(own)}); rename it."
            )
        try:
            parsed[name] = None if name in own else parse_explainers({name: explainer})[name].with_output(output)
        except (TypeError, ValueError, ImportError) as error:
            meant = close_names(name, (*own, *EXPLAINERS)) if explainer is None else []
            # Where one of the own views was meant, the list of all explainers only hides that.
            reason = f"Did you mean {meant[0]!r}?" if meant and meant[0] in own else error
            raise MonitorConfigurationError(
                f"Got the view {name!r}. Allowed are {', '.join(own)}, explainers, and {{name: explainer}}; use one of "
                f"them. {reason}"
            ) from error
    return parsed
