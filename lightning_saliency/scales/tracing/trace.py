"""One forward pass of a network, written down call by call, of which nothing is left in the network afterwards."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from lightning_saliency.scales.tracing.eval_pass import eval_pass
from lightning_saliency.scales.tracing.origins import Origin, Origins, Shape
from lightning_saliency.scales.tracing.token_order import TokenOrder

# What is inside of `torch.compile`, Fabric's `setup`, FSDP's wrapper and that of its activation checkpointing.
_WRAPPED = frozenset({"_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


@dataclass(eq=False)
class Call:
    """One call of a module during a forward pass, with the calls made inside it.

    Attributes:
        name: The module's dotted path; ``""`` is the network itself. What ``torch.compile`` and other wrappers add is
            left out, see `plain_name`: ``get_submodule`` finds the module with and without it.
        module: The module.
        parent: The call this one was made in; ``None`` for the network's own.
        inputs: Shape of the first tensor that entered; ``None`` if none did.
        outputs: Shapes of the tensors that came out, the first one first; empty if none did or an error came.
        entered: The number, see `TensorNumbers`, of the first tensor that entered; 0 if none did.
        left: That of the first tensor that came out.
        children: The calls made inside, in the order they were made.
        origin: What entered and came out of the images, and what of something beside them.
        order: Where the patches lie among other tokens, in the pass that the call is part of.
        weighted: Whether the module has weights of its own as it begins, see `has_weights`.

    Shapes are those for one image: the first dimension is 1 where it is the batch's, and -1 where it is not (windows,
    tables of positions, weights).
    """

    name: str
    module: nn.Module
    parent: Call | None = None
    inputs: Shape | None = None
    outputs: tuple[Shape, ...] = ()
    entered: int = 0
    left: int = 0
    children: list[Call] = field(default_factory=list)
    origin: Origin = field(default_factory=Origin)
    order: TokenOrder = field(default_factory=TokenOrder)
    weighted: bool = field(init=False)

    def __post_init__(self) -> None:
        self.weighted = has_weights(self.module)

    def walk(self) -> Iterator[Call]:
        """This call and all inside it, in the order they began."""
        yield self
        for child in self.children:
            yield from child.walk()


def has_weights(module: nn.Module) -> bool:
    """Whether a module has weights of its own; a scale and a shift, as of a normalisation, are none.

    To be asked while the network runs: FSDP gathers a layer's weights for its forward pass alone. Weights that are made
    of others, as by `torch.nn.utils.parametrizations`, count as the layer's own; they are not made for it.
    """
    made = module._modules.get("parametrizations")
    own = [vars(module).get("weight"), *module._parameters.values(), *(() if made is None else made.parameters())]
    return any(isinstance(weight, Tensor) and weight.ndim > 1 for weight in own)


class TensorNumbers:
    """Numbers for tensors, by which the same one is known again while it lives; nothing is kept alive for it."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._latest = 0

    def of(self, tensor: Tensor | None) -> int:
        """The tensor's number, from 1; 0 for ``None``."""
        if tensor is None:
            return 0
        reference, number = self._known.get(id(tensor), (None, 0))
        if reference is None or reference() is not tensor:
            self._latest += 1
            number = self._latest
            self._known[id(tensor)] = weakref.ref(tensor), number
        return number


def tensors_in(value: object) -> Iterator[Tensor]:
    """The tensors in a tensor, a (nested) tuple or list, or a mapping, depth first.

    Those that do not hold all their values in order are passed over, as they lie on no grid: the nested ones that
    ``nn.TransformerEncoder`` makes of what is padded, which have no shape, and sparse ones.
    """
    if isinstance(value, Tensor):
        if not value.is_nested and value.layout == torch.strided:
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)


def trace(model: nn.Module, images: Tensor, *, may_fail: bool = False) -> Call:
    """Run ``model`` once on ``images`` and write down which module was called where, with what shapes.

    The pass runs in eval mode, without gradients and eagerly, inside ``untouched``.

    Args:
        model: The network.
        images: ``[B, C, H, W]`` on the device and of the dtype of the network, as ``prepared`` returns them. With two
            images a tensor of the batch is told from a table or a weight, whose first dimension is often 1.
        may_fail: Return what was written down until the network raised an error, instead of raising it.

    Returns:
        The network's own call, the root of the tree.
    """
    numbers = TensorNumbers()
    order = TokenOrder(model)
    root = Call("", model, inputs=(1, *images.shape[1:]), entered=numbers.of(images), order=order)
    stack = [root]
    origins = Origins()
    origins.begin(model, images)
    names = {id(module): plain_name(name) for name, module in model.named_modules()}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entering = [(tensor, shape_of(tensor, images.shape[0])) for tensor in tensors_in((args, kwargs))]
        first, shape = entering[0] if entering else (None, None)
        call = Call(names[id(module)], module, stack[-1], shape, entered=numbers.of(first), order=order)
        order.note(first, shape)
        call.origin = origins.enter(entering, stack[-1].origin)
        stack[-1].children.append(call)
        stack.append(call)

    def left(call: Call, output: object) -> None:
        leaving = [(tensor, shape_of(tensor, images.shape[0])) for tensor in tensors_in(output)]
        call.outputs = tuple(shape for _, shape in leaving)
        first, shape = leaving[0] if leaving else (None, None)
        call.left = numbers.of(first)
        order.note(first, shape)
        origins.leave(call.origin, leaving)

    def after(module: nn.Module, _args: tuple[Any, ...], output: object) -> None:
        # A parent that caught a child's error left the child's call on the stack.
        while len(stack) > 1:
            call = stack.pop()
            if call.module is module:
                left(call, output)
                break

    handles: list[RemovableHandle] = []
    with untouched(model, images):
        try:
            for module in model.modules():
                # Scripted modules take no hooks; they count as functions.
                if module is not model and not isinstance(module, torch.jit.ScriptModule):
                    handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
                    handles.append(module.register_forward_hook(after))
            with torch.no_grad(), torch.compiler.set_stance("force_eager"):
                left(root, model(images))
        except Exception:  # swallowed for those alone who asked for what was written down until then
            if not may_fail:
                raise
        finally:
            for handle in handles:
                handle.remove()
    return root


def prepared(model: nn.Module, example_input: Tensor) -> Tensor:
    """The first image of ``example_input`` as the network takes it: a copy on the network's device, of its dtype.

    Raises:
        TypeError: If ``model`` is no module or ``example_input`` no tensor.
        ValueError: If ``example_input`` is not ``[B, C, H, W]`` with at least one image, or if the network has lazy
            parameters that have no shape yet.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"Got model of type {type(model).__name__}. Allowed is a torch.nn.Module; give the network.")
    if not isinstance(example_input, Tensor):
        raise TypeError(
            f"Got example_input of type {type(example_input).__name__}. Allowed is a tensor of images [B, C, H, W]; "
            "give a batch as the network sees it."
        )
    if example_input.ndim not in (4, 5) or 0 in example_input.shape:
        raise ValueError(
            f"Got example_input {list(example_input.shape)}. Allowed are images [B, C, H, W] and volumes "
            "[B, C, T, H, W] with at least one image and no empty dimension; give a batch as the network sees it "
            "(image[None] makes one)."
        )
    lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise ValueError(
            f"The network's parameters {', '.join(lazy[:3])} are lazy and have no shape yet; the probing forward pass "
            "would give them one. Run the network once on real images first."
        )
    parameter = next((each for each in model.parameters() if each.is_floating_point()), None)
    device = example_input.device if parameter is None else parameter.device
    dtype = taken_type(model, example_input if example_input.is_floating_point() else None)
    # An ordinary tensor, even under inference_mode: what a network caches of an inference tensor breaks its training.
    with torch.inference_mode(False), torch.no_grad():
        return example_input[:1].clone().to(device=device, dtype=dtype)


def taken_type(model: nn.Module, images: Tensor | None) -> torch.dtype:
    """The floating-point type in which a network takes images: their own, or that of its first parameter.

    Args:
        model: The network.
        images: Floating-point images; ``None``: of no type that counts.

    Example:
        >>> taken_type(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8, dtype=torch.float64))
        torch.float32
    """
    types = [parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()]
    if images is not None and (images.dtype in types or not types):
        return images.dtype
    return types[0] if types else torch.get_default_dtype()


@contextmanager
def untouched(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Inside, ``model`` is in eval mode and may be run; outside, it is what it was, also after an exception.

    Besides what ``eval_pass`` restores, each parameter has its ``.grad`` back as an object, and weights that autocast
    has cast are cast anew. Not restored are the weights of layers and what lies outside the modules.

    Args:
        model: The network. Its modes are set by attribute: some networks do more than that in their own ``eval()``.
        images: Only their device is looked at.
    """
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    with ExitStack() as stack:
        stack.enter_context(eval_pass(model, images))
        # Some versions of torch use weights that autocast has cast without gradients again in the caller's own forward,
        # where they would then get none.
        torch.clear_autocast_cache()
        stack.callback(torch.clear_autocast_cache)
        try:
            yield
        finally:
            for parameter, gradient in gradients:
                if parameter.grad is not gradient:
                    parameter.grad = gradient


def plain_name(name: str) -> str:
    """A module's path without what wrappers add that let its names through, see `_WRAPPED`."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPED)


def shape_of(tensor: Tensor, batch: int | None) -> Shape:
    """A tensor's shape as it would be for one image; -1 first where it is no tensor of the batch.

    Args:
        tensor: The tensor.
        batch: How many images there are; ``None``: unknown.
    """
    of_batch = tensor.ndim > 0 and tensor.shape[0] == batch and not isinstance(tensor, nn.Parameter)
    return (1 if of_batch else -1, *tensor.shape[1:])
