"""Writing a network with its saliency map to a file that runs without this package, or without Python."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from lightning_saliency.checks import check_choice, check_images
from lightning_saliency.deployment.module import SaliencyModule
from lightning_saliency.explainers.base import Layer, undisturbed, unwrap
from lightning_saliency.files import file_of_this_machine
from lightning_saliency.functional.statistics import Statistic

#: What is written: a graph of ``torch.export``, ONNX, or a package of AOTInductor, compiled for this kind of machine.
ExportFormat = Literal["torch", "onnx", "aot_inductor"]

# A file of ONNX holds less than 2 GiB; the weights of larger networks go into a second one beside it.
_LARGEST_ONNX = 1_900_000_000


class ExportError(RuntimeError):
    """The network cannot be traced or compiled; the message says what torch said."""


@dataclass(frozen=True)
class Exported:
    """What `export_network` wrote.

    Attributes:
        path: The file.
        format: Its format.
        dynamic_batch: Whether it takes batches of any length, and not of the example's alone.
        convolutions: How many convolutions one pass computes.
        output_difference: The largest difference of the output, run from the file, from the network's own on the
            example; ``None`` where the file could not be run, since onnxruntime is not installed.
        map_difference: The same of the map. Where a layer is dead, as in some deep networks with random weights,
            rounding decides its map, and this is large.
    """

    path: Path
    format: ExportFormat
    dynamic_batch: bool
    convolutions: int
    output_difference: float | None
    map_difference: float | None


def export_network(
    network: nn.Module,
    path: str | Path,
    images: Tensor,
    *,
    format: ExportFormat | None = None,
    statistic: str | Statistic = "smoe_scale",
    weights: str | Sequence[float] = "equal",
    layers: str | Sequence[Layer] = "auto",
) -> Exported:
    """Write a network and its saliency map, computed in one pass, to a file: ``images -> (output, map)``.

    What is written is a `SaliencyModule` in eval mode. The file is read back and compared on the example. The network
    is left as it was.

    Read it with ``torch.export.load(path).module()``, ``onnxruntime.InferenceSession(path)`` (input ``images``, the
    last output is ``map``) or ``torch._inductor.aoti_load_package(path)``, which C++ can do, too.

    Args:
        network: The network.
        path: The file: ``.pt2`` or ``.onnx``.
        images: ``[B, C, H, W]``, an example of what it will be given, on the network's device. Channels, height and
            width are fixed by it; the length of the batch is not, unless the network's code depends on it.
        format: ``"torch"``, ``"onnx"`` or ``"aot_inductor"``; ``None``: by the file's name, ``"torch"`` for ``.pt2``.
        statistic: See `SaliencyModule`.
        weights: See `SaliencyModule`.
        layers: See `SaliencyModule`.

    Returns:
        What was written, and how far it is from the original.

    Raises:
        ExportError: If torch cannot trace or compile the network.
        ImportError: If ONNX is asked for and the extra ``export`` is not installed.
        TypeError: See `SaliencyModule`.
        ValueError: If the format is unknown or does not fit the file's name, or see `SaliencyModule`.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        ...     exported = export_network(network, Path(folder) / "net.pt2", torch.rand(2, 3, 8, 8))
        ...     output, map_ = torch.export.load(exported.path).module()(torch.rand(5, 3, 8, 8))
        >>> output.shape, map_.shape, exported.dynamic_batch, exported.convolutions
        (torch.Size([5, 36]), torch.Size([5, 8, 8]), True, 1)
    """
    path, format = _checked(path, format)
    check_images(images)
    network = unwrap(network)
    with undisturbed(network), torch.no_grad():
        # Hooks that are registered in here are gone afterwards.
        module = SaliencyModule(network, images, statistic, weights, layers).eval()
        program = _traced(module, images)
        expected = module(images)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{format}.") as folder:
            made = Path(folder) / path.name
            _WRITERS[format](program, made)
            returned = _RUNNERS[format](made, images)
            for file in Path(folder).iterdir():
                os.replace(file, path.parent / file.name)
    differences = (None, None) if returned is None else _differences(returned, expected)
    return Exported(path, format, _takes_any_batch(program), _convolutions(program), *differences)


def _checked(path: str | Path, format: ExportFormat | None) -> tuple[Path, ExportFormat]:
    path = file_of_this_machine(path)
    formats: dict[str, tuple[ExportFormat, ...]] = {".pt2": ("torch", "aot_inductor"), ".onnx": ("onnx",)}
    if path.suffix not in formats:
        raise ValueError(f"Got the file {path}. Allowed are names that end in {' or '.join(formats)}; give one.")
    if format is None:
        format = formats[path.suffix][0]
    check_choice("format", format, get_args(ExportFormat))
    if format not in formats[path.suffix]:
        raise ValueError(
            f"Got format={format!r} for {path}. Allowed are {', '.join(map(repr, formats[path.suffix]))} for "
            f"{path.suffix}; name the file {path.stem}{'.onnx' if format == 'onnx' else '.pt2'}."
        )
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if format == "onnx" and missing:
        raise ImportError(
            f"ONNX needs {' and '.join(missing)}. Install the extra: pip install 'lightning-saliency[export]'."
        )
    return path, format


def _traced(module: SaliencyModule, images: Tensor) -> ExportedProgram:
    """The graph, for batches of any length if the network's code allows it."""
    # One image would make its batch a constant.
    example = torch.cat([images, images]) if images.shape[0] == 1 else images
    with suppress(Exception):  # whatever a network does with a length that is no number
        program = torch.export.export(module, (example,), dynamic_shapes=({0: Dim.AUTO},), strict=False)
        if _takes_any_batch(program):
            return program
    try:
        return torch.export.export(module, (images,), strict=False)
    except Exception as error:
        raise _failed("trace", module, error) from error


def _failed(what: str, module: nn.Module, error: Exception) -> ExportError:
    network = getattr(module, "network", module)
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return ExportError(
        f"torch cannot {what} {type(network).__name__} with its map: {reason} Allowed are networks whose code does not "
        "branch on the values of tensors; see whether torch.export.export(network, (images,)) takes it alone."
    )


def _write_torch(program: ExportedProgram, path: Path) -> None:
    with warnings.catch_warnings():
        # Of weights in another memory format; the file is compared afterwards.
        warnings.filterwarnings("ignore", message="No complete tensor found")
        torch.export.save(program, path)


def _write_onnx(program: ExportedProgram, path: Path) -> None:
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    # ONNX has no None and leaves it out.
    outputs = sum(name is not None for name in program.graph_signature.user_outputs) - 1
    names = ["output"] if outputs == 1 else [f"output_{number}" for number in range(outputs)]
    written = torch.onnx.export(
        program, input_names=["images"], output_names=[*names, "map"], dynamo=True, verbose=False
    )
    assert written is not None
    written.save(path, external_data=size > _LARGEST_ONNX)


def _write_aot_inductor(program: ExportedProgram, path: Path) -> None:
    try:
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    except Exception as error:
        raise _failed("compile", program.graph_module, error) from error


def _run_torch(path: Path, images: Tensor) -> Any:
    return torch.export.load(path).module()(images)


def _run_onnx(path: Path, images: Tensor) -> Any:
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(each) for each in session.run(None, {"images": images.cpu().numpy()})]


def _run_aot_inductor(path: Path, images: Tensor) -> Any:
    return torch._inductor.aoti_load_package(str(path))(images)


_WRITERS: dict[str, Callable[[ExportedProgram, Path], None]] = {
    "torch": _write_torch,
    "onnx": _write_onnx,
    "aot_inductor": _write_aot_inductor,
}
_RUNNERS: dict[str, Callable[[Path, Tensor], Any]] = {
    "torch": _run_torch,
    "onnx": _run_onnx,
    "aot_inductor": _run_aot_inductor,
}


def _differences(returned: Any, expected: Any) -> tuple[float, float]:
    """The largest difference of the outputs, and of the maps, which are the last tensors."""
    # A network may return numbers and None, too.
    pairs = zip(*(filter(torch.is_tensor, pytree.tree_leaves(tree)) for tree in (returned, expected)), strict=True)
    *outputs, map_ = (float((one.cpu().double() - other.cpu().double()).abs().max()) for one, other in pairs)
    return max(outputs), map_


def _takes_any_batch(program: ExportedProgram) -> bool:
    [name] = program.graph_signature.user_inputs
    [node] = [node for node in program.graph.nodes if node.op == "placeholder" and node.name == name]
    length = node.meta["val"].shape[0]
    # Where the code asks for it, the length becomes a constant.
    return isinstance(length, torch.SymInt) and not length.node.expr.is_number


def _convolutions(program: ExportedProgram) -> int:
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, fx.GraphModule)]
    return sum(str(node.target).startswith("aten.conv") for graph in graphs for node in graph.nodes)
