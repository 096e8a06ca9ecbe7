"""The configuration of a sanity check, as in a YAML file or a call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lightning_saliency.explainers import ExplainerSpec, parse_explainers
from lightning_saliency.studies.engine.config import EngineConfig

#: The control's name among the results.
CONTROL = "edges"


@dataclass
class SanityCheckConfig(EngineConfig):
    """The options of a sanity check, beside those of `EngineConfig`.

    Args:
        model: The network: a mapping of `ImageClassifier`'s arguments; ``{"class_path": ..., "init_args": {...}}`` of
            a module; or, in Python, the network itself, of which a copy is changed.
        data: The images: ``{"class_path": ..., "init_args": {...}}`` of `lightning_saliency.data.ImageFiles` or of a
            data module, whose test images are taken. In Python also images ``[N, C, H, W]``, as the network takes them.
        explainers: Name in the table -> explainer, or a list of names, see
            `lightning_saliency.explainers.parse_explainers`. The edge detector ``"edges"`` is always checked too.
        targets: ``[N]``, the class that is explained for each of the images ``[N, C, H, W]``, or for each item of data
            that carries none; ``None``: the predicted ones.
        limit: Number of images, chosen by ``seed``; ``None``: all.
        max_steps: Maximum number of steps from the top layer to the bottom, see `layers_from_top`.
        random_networks: Number of fully randomised networks, from 2; the last step of the cascade is one of them.
        seed: Seed of all random weights, of the choice of images and of the bootstrap.
        batch_size: Number of images explained at a time, and in one cell.
        pictures: Number of first images whose maps are shown.
        device: ``auto``, ``cpu``, ``cuda``, …
        output: Folder of the results; a check that was killed continues from it. ``None``: nothing is kept.

    Raises:
        TypeError: If an explainer has no such option.
        ValueError: If a name is unknown or a number out of range.
    """

    model: Any = None
    data: Any = None
    explainers: Any = field(default_factory=lambda: ["smoe", "fast_cam", "group_cam", "sise"])
    targets: Any = None
    limit: int | None = None
    max_steps: int = 20
    random_networks: int = 3
    seed: int = 0
    batch_size: int = 4
    pictures: int = 4
    device: str = "auto"
    output: str | None = None

    def __post_init__(self) -> None:
        rows = parse_explainers(self.explainers)
        if CONTROL in rows:
            raise ValueError(
                f"Got an explainer called {CONTROL!r}, which is the control's name; it is always checked. Leave it "
                "out, or rename yours."
            )
        self.explainers: dict[str, ExplainerSpec] = {**rows, CONTROL: ExplainerSpec.parse(CONTROL)}
        if self.model is None or self.data is None:
            raise ValueError("Got no model or no data. Give both, for example as class_path and init_args.")
        if isinstance(self.data, Tensor) and (self.data.ndim != 4 or not len(self.data)):
            raise ValueError(f"Got images {list(self.data.shape)}. Allowed are [B, C, H, W] with at least one image.")
        if self.random_networks < 2:
            raise ValueError(
                f"Got random_networks={self.random_networks}. At least 2 are needed to compare; 3 is the default."
            )
        if self.batch_size < 1 or self.pictures < 0 or self.max_steps < 1:
            raise ValueError(
                f"Got batch_size={self.batch_size}, pictures={self.pictures}, max_steps={self.max_steps}. Allowed are "
                "whole numbers from 1, pictures from 0."
            )
