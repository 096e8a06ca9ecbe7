"""Which explainer: by name, as a class with arguments, or as a function of a network; the same way everywhere."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import register_type
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_saliency.checks import did_you_mean, without_unset
from lightning_saliency.explainers.base import Explainer, Output
from lightning_saliency.explainers.callables import callable_text, path_of
from lightning_saliency.explainers.names import find_explainer

#: What names an explainer wherever one is asked for, see `ExplainerSpec.parse`.
ExplainerLike = str | Mapping[str, Any] | Callable[..., Explainer]


@dataclass(frozen=True)
class ExplainerSpec:
    """An explainer and its arguments, not yet built round a network.

    Call it with a network to build the explainer: ``spec(model)``. It can be pickled where its factory can.

    Args:
        name: The explainer's name in tables and messages: a registered name, a class path, or a function's name.
        factory: Called as ``factory(model, **init_args)``.
        init_args: The explainer's own arguments, without the network.

    Example:
        >>> spec = ExplainerSpec.parse({"class_path": "group_cam", "init_args": {"groups": 16}})
        >>> spec.name, spec.init_args, spec.takes("theta")
        ('group_cam', {'groups': 16}, True)
    """

    name: str
    factory: Callable[..., Explainer]
    init_args: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, given: ExplainerOption) -> ExplainerSpec:
        """Read an explainer in any of the forms in which it may be given.

        Args:
            given: One of

                - a name: a key of ``EXPLAINERS`` or ``CONTROL_MAPS``, ``"torchcam:METHOD"``, or the class path of your
                  own explainer, such as ``"my_package.MyExplainer"``;
                - ``{"class_path": name, "init_args": {...}}`` with any of these names;
                - a class or a function that makes an explainer of a network, ``functools.partial`` included.

        Returns:
            The specification; its arguments are checked against the factory's signature.

        Raises:
            ImportError: If the explainer is a method of torchcam and torchcam is not installed.
            TypeError: If ``given`` has another type, or the explainer does not take the arguments.
            ValueError: If the name is unknown or cannot be imported.

        Example:
            >>> ExplainerSpec.parse("fast_cam").factory.__name__
            'FastCAM'
            >>> from lightning_saliency.explainers import GroupCAM
            >>> ExplainerSpec.parse(partial(GroupCAM, groups=8)).init_args
            {'groups': 8}
        """
        if isinstance(given, ExplainerSpec):
            return given
        if isinstance(given, Explainer):
            raise TypeError(
                f"Got a {type(given).__name__} that is already built round a network. Allowed are a name, "
                "{'class_path': ..., 'init_args': ...}, a class, and a function of a network; give the class."
            )
        if isinstance(given, str):
            return cls(given, find_explainer(given))
        if isinstance(given, Mapping):
            unknown = sorted(map(str, set(given) - {"class_path", "init_args"}))
            if "class_path" not in given or unknown:
                raise TypeError(
                    f"Got an explainer with the keys {', '.join(sorted(map(str, given))) or '(none)'}. Allowed are "
                    "class_path (a name or a class path) and init_args (its arguments); write for example "
                    "{class_path: sise, init_args: {mu: 0.5}}."
                )
            name = str(given["class_path"])
            # There are no tuples in YAML, which captum and torchcam want.
            init_args = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in dict(given.get("init_args") or {}).items()
            }
            factory = find_explainer(name)
            return cls(name, factory).with_options(**(_not_added(factory, init_args) if "." in name else init_args))
        if isinstance(given, partial) and not given.args:
            return replace(cls.parse(given.func), init_args={}).with_options(**given.keywords)
        if callable(given):
            return cls(path_of(given), given).with_options()
        raise TypeError(
            f"Got an explainer of the type {type(given).__name__}. Allowed are a name, {{'class_path': ..., "
            "'init_args': ...}, a class, and a function of a network; give one of them."
        )

    @property
    def expensive(self) -> bool:
        """Whether a map costs many passes: the explainer scores masked images, or averages over noise or steps."""
        factory = self.factory.func if isinstance(self.factory, partial) else self.factory
        many = self.option("method") in ("IntegratedGradients", "Occlusion")
        return bool(getattr(factory, "expensive", False)) or many or self.option("noise_tunnel") is not None

    def __call__(self, model: nn.Module) -> Explainer:
        """Build the explainer round a network."""
        return self.factory(model, **self.init_args)

    def takes(self, option: str) -> bool:
        """Whether the explainer has an argument of that name."""
        return option in self._parameters()

    @property
    def options(self) -> list[str]:
        """Names of the explainer's own arguments, without the network and what the explainer's name already says."""
        return [name for name in list(self._parameters())[1:] if name not in _fixed(self.factory)]

    def option(self, name: str) -> Any:
        """The value of an argument, given or the explainer's default; ``None`` if it has neither."""
        default = self._parameters()[name].default if self.takes(name) else None
        return self.init_args.get(name, None if default is inspect.Parameter.empty else default)

    @property
    def class_specific(self) -> bool:
        """Whether the maps depend on the target, as far as the class says; functions of a network may hide it."""
        factory = self.factory.func if isinstance(self.factory, partial) else self.factory
        return bool(getattr(factory, "class_specific", True))

    def with_options(self, **options: Any) -> ExplainerSpec:
        """The same with some arguments changed.

        Raises:
            TypeError: If the explainer has no such argument.
        """
        init_args = {**self.init_args, **options}
        fixed = sorted(init_args.keys() & _fixed(self.factory).keys())
        try:
            if fixed:
                raise TypeError(f"its name already says {', '.join(fixed)}")
            inspect.signature(self.factory).bind(None, **init_args)
        except TypeError as error:
            unknown = [name for name in init_args if name not in self._parameters()]
            meant = "".join(did_you_mean(name, self.options) for name in unknown)
            raise TypeError(
                f"Got the options {sorted(init_args)} for {self.name}: {error}. Allowed are "
                f"{', '.join(self.options) or 'none'}; drop or rename the others.{meant}"
            ) from None
        return replace(self, init_args=init_args)

    def with_output(self, output: Output) -> ExplainerSpec:
        """The same with the place of the logits in what the network returns, unless its own arguments say it.

        Raises:
            TypeError: If the explainer depends on the class and has no argument ``output``.
        """
        if output is None or "output" in self.init_args or not (self.takes("output") or self.class_specific):
            return self
        return self.with_options(output=output)

    def with_defaults(self, **options: Any) -> ExplainerSpec:
        """The same with those arguments added that it takes and that are not given."""
        added = {key: value for key, value in options.items() if self.takes(key) and key not in self.init_args}
        return self.with_options(**added)

    def plain(self) -> dict[str, Any]:
        """Name and arguments as JSON values, different for different explainers: a fingerprint.

        Raises:
            ValueError: If an argument is or holds a module, such as a layer: two of a network may be equal.
        """
        for key, value in self.init_args.items():
            if any(isinstance(one, nn.Module) for one in tree_leaves(value)):
                raise ValueError(
                    f"Got a module as {key} of {self.name}. Allowed in a study is what means the same for each of its "
                    "networks; give the module's name, one of [name for name, _ in model.named_modules()]."
                )
        class_path = plain_value(self.factory) if self.name == path_of(self.factory) else self.name
        return {"class_path": class_path, "init_args": plain_value(self.init_args)}

    def written(self) -> str | dict[str, Any]:
        """As it stands in a YAML file: the name, or ``class_path`` and ``init_args``."""
        arguments = {key: plain_value(value) for key, value in self.init_args.items()}
        return {"class_path": self.name, "init_args": arguments} if arguments else self.name

    def __str__(self) -> str:
        """The name, and the arguments in brackets."""
        listed = ", ".join(f"{key}={plain_value(value)}" for key, value in sorted(self.init_args.items()))
        return f"{self.name} ({listed})" if listed else self.name

    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.factory).parameters


if TYPE_CHECKING:
    #: The type of an argument that takes an explainer in any form, from Python and from YAML.
    ExplainerOption = ExplainerSpec | ExplainerLike
else:
    # What jsonargparse, and so LightningCLI, sees: it reads the YAML's value by `ExplainerSpec.parse`. Of the forms
    # themselves it would take `class_path` for a class to be built at once, and refuse registered names there.
    ExplainerOption = ExplainerSpec | str
    register_type(ExplainerSpec, ExplainerSpec.written, ExplainerSpec.parse, (TypeError, ValueError, ImportError))


def parse_explainers(given: Iterable[str] | Mapping[str, ExplainerOption | None]) -> dict[str, ExplainerSpec]:
    """The rows of a table: name in the table -> explainer.

    Args:
        given: Names of explainers; or a mapping from a row's name to its explainer, if the row has the explainer's
            name, also ``None`` or ``{"init_args": {...}}`` alone.

    Returns:
        Row -> specification, in the order given.

    Raises:
        TypeError: As for `ExplainerSpec.parse`; the message names the row.
        ValueError: As for `ExplainerSpec.parse`, or if nothing is given or a row is given twice.

    Example:
        >>> rows = {"smoe": None, "ramp": {"class_path": "smoe", "init_args": {"weights": "ramp"}}}
        >>> {name: str(spec) for name, spec in parse_explainers(rows).items()}
        {'smoe': 'smoe', 'ramp': 'smoe (weights=ramp)'}
    """
    names = [name.strip() for name in given.split(",")] if isinstance(given, str) else list(given)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"Got the explainers {names}. Allowed are one or more, each named once.")
    found = {}
    for name in names:
        value: Any = given[name] if isinstance(given, Mapping) else None
        if isinstance(value, Mapping) and "class_path" not in value and not set(value) - {"init_args"}:
            value = {"class_path": name, **value}
        try:
            found[name] = ExplainerSpec.parse(name if value is None else value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"The explainer {name!r} cannot be used. {error}") from error
    return found


def build_explainer(explainer: ExplainerOption, model: nn.Module, **options: Any) -> Explainer:
    """An explainer built round a network.

    Args:
        explainer: Any form of `ExplainerSpec.parse`, such as ``"grad_cam"``.
        model: The network, see ``Explainer``.
        **options: The explainer's own, for example ``layer="layer4"`` or ``groups=16``.

    Raises:
        ImportError: If it needs a package that is not installed.
        TypeError: If the explainer has no such option.
        ValueError: If the name is unknown.

    Example:
        >>> type(build_explainer("grad_cam", nn.Conv2d(3, 4, 3), layer="")).__name__
        'GradCAM'
    """
    return ExplainerSpec.parse(explainer).with_options(**options)(model)


def plain_value(value: Any) -> Any:
    """A value as JSON can hold it, different for different values: for fingerprints."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, ExplainerSpec):
        return value.plain()
    if is_dataclass(value) and not isinstance(value, type):
        return {"": type(value).__qualname__, **plain_value(asdict(value))}
    if isinstance(value, partial):
        return {"": plain_value(value.func), "arguments": plain_value(value.args), **plain_value(value.keywords)}
    if callable(value):
        return callable_text(value)
    if isinstance(value, Mapping):
        return {str(key): plain_value(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_value(one) for one in value]
    return value


def _not_added(factory: Callable[..., Explainer], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments without those that jsonargparse adds to a class path: the defaults, and ``None`` for the network."""
    parameters = inspect.signature(factory).parameters
    network = next(iter(parameters), "")
    return {
        name: value
        for name, value in without_unset(factory, arguments).items()
        if not (name == network and value is None)
        and not (name in parameters and _same(parameters[name].default, value))
    }


def _same(default: object, value: object) -> bool:
    # Of tensors, arrays and the like it would be asked element by element.
    return isinstance(value, (str, int, float, tuple, type(None))) and type(value) is type(default) and value == default


def _fixed(factory: Callable[..., Explainer]) -> Mapping[str, Any]:
    """Arguments that belong to a registered name, such as captum's method."""
    return factory.keywords if isinstance(factory, partial) else {}
