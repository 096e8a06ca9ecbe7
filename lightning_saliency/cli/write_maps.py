"""``lightning-saliency write-maps``: an explainer's maps of whole data sets, kept in stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytorch_lightning as pl
from jsonargparse import ArgumentParser
from rich.console import Console

from lightning_saliency.callbacks.saliency_writer import write_maps
from lightning_saliency.classifier import ImageClassifier
from lightning_saliency.cli.parsing.errors import UsageError
from lightning_saliency.cli.parsing.overrides import listed
from lightning_saliency.cli.parsing.parser import command_parser, parse
from lightning_saliency.data import SaliencyStore, SaliencyStoreError, whole_image_loaders
from lightning_saliency.scales.taps import TapError
from lightning_saliency.studies.isolation import seeded
from lightning_saliency.studies.retraining.cells import image_size
from lightning_saliency.studies.specs import as_spec, build_data, build_module

#: Options that are mappings, into which an argument may reach.
_INTO = ("model", "data", "explainer", "trainer")

# Errors of options that cannot be carried out; others are defects, and keep their traceback.
_USAGE = (ValueError, TypeError, ImportError, OSError, TapError)


def run(arguments: Sequence[str]) -> int:
    """Write the stores, and say where they are.

    Args:
        arguments: For example ``["--config", "configs/write_maps_digit_scenes.yaml", "--explainer", "fast_cam"]``.

    Returns:
        0; errors in the arguments end the process with status 2, as those of the training commands do.

    Raises:
        UsageError: If a file is missing, an option cannot be carried out, or a store found holds other maps.
    """
    given = parse(_parser(), arguments, _INTO)
    missing = [f"--{name}" for name in ("model", "data") if given[name] is None]
    if missing:
        raise UsageError(f"Got no {' and no '.join(missing)}. Both are needed; give a --config with model and data.")
    console = Console()
    try:
        for path in _written(given):
            console.print(_described(path), highlight=False, soft_wrap=True, markup=False)
    except _USAGE as error:
        raise UsageError(str(error)) from error
    return 0


def _written(given: dict[str, Any]) -> list[Any]:
    """The stores' files."""
    with seeded(given["seed"]):
        module = build_module(as_spec(given["model"], ImageClassifier)).eval()
        data = build_data(as_spec(given["data"]))
        loaders = whole_image_loaders(
            data,
            given["image_size"] or image_size(data),
            stages=listed("--stages", given["stages"]),
            batch_size=given["batch_size"],
            num_workers=given["num_workers"],
        )
        quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
        return write_maps(
            given["output"],
            given["explainer"],
            loaders,
            pl.Trainer(**{**quiet, **given["trainer"]}),
            model=module.model if isinstance(module, ImageClassifier) else module,
            size=given["size"],
            targets=given["targets"],
            image_key=given["image_key"],
            label_key=given["label_key"],
        )


def _described(path: Any) -> str:
    try:
        store = SaliencyStore.open(path)
    except SaliencyStoreError as error:
        return str(error)
    return f"{path}: {len(store)} maps of {store.size[0]}×{store.size[1]} pixels"


def _parser() -> ArgumentParser:
    parser = command_parser(
        "write-maps",
        "--config FILE [OPTIONS]",
        "Explain every image of a data module's stages once, whole and not augmented, and keep the maps in one store "
        "for each stage, OUTPUT/train.npy and so on. A run that was killed goes on where it stopped when it is started "
        "again; a store of another network, explainer or data set is refused. RoarKarDataModule and SaliencyStore read "
        "the stores.",
    )
    parser.add_argument(
        "--model",
        type=Any,
        help="network: arguments of ImageClassifier, or class_path and init_args of another module",
    )
    parser.add_argument("--data", type=Any, help="data module: class_path and init_args")
    parser.add_argument(
        "--explainer", type=Any, default="smoe", help="explainer: a name, or class_path and init_args; see explain"
    )
    parser.add_argument("--output", type=str, default="runs/maps", help="folder of the stores")
    parser.add_argument(
        "--stages", type=Any, default=["train", "val", "test"], help="stages whose maps are written, from these"
    )
    parser.add_argument(
        "--size", type=int | None, default=56, help="side of the stored maps in pixels; null: the images' size"
    )
    parser.add_argument(
        "--image_size",
        type=int | tuple[int, int] | None,
        help="side, or height and width, at which the network sees the whole images; null: that of the test images",
    )
    parser.add_argument(
        "--targets",
        type=Literal["predicted", "label"],
        default="predicted",
        help="class of each map; label also carries the true class into the test images",
    )
    parser.add_argument("--batch_size", type=int | None, help="images explained at a time; null: the data's")
    parser.add_argument("--num_workers", type=int | None, help="processes that read images; null: the data's")
    parser.add_argument(
        "--image_key", type=str | int | None, help="key or index of the images in a batch; null: they are searched"
    )
    parser.add_argument(
        "--label_key", type=str | int | None, help="key or index of the labels in a batch; null: they are searched"
    )
    parser.add_argument("--trainer", type=dict[str, Any], default={}, help="arguments of the Trainer that predicts")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the weights where there is no checkpoint, and of the explainer"
    )
    return parser
