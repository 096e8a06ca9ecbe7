"""The cells of a comparison, and the work on them chunk by chunk."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from lightning_saliency import __version__
from lightning_saliency.data.boxes import Sample
from lightning_saliency.explainers import Explainer, build_explainer
from lightning_saliency.metrics.base import scoring
from lightning_saliency.studies.comparison.measuring import MetricConfig, measure
from lightning_saliency.studies.comparison.samples import Samples
from lightning_saliency.studies.engine.files import CellFile, Rows, file_name, weights_fingerprint
from lightning_saliency.studies.engine.progress import ProgressBar, TimeLeft


@dataclass
class Study:
    """The cells of a comparison: one for each network and explainer."""

    networks: dict[str, nn.Module]
    methods: dict[str, dict[str, Any]]
    samples: Samples
    config: MetricConfig
    chunk: int
    output: Path | None
    device: str | torch.device | None

    def __post_init__(self) -> None:
        self.devices: dict[str, torch.device] = {}
        for name, network in self.networks.items():
            if self.device is not None:
                network.to(self.device)
            at = next((tensor.device for tensor in (*network.parameters(), *network.buffers())), None)
            self.devices[name] = at or torch.device(self.device or "cpu")
        self.explainers = {
            (network, name): self._build(network, name) for network in self.networks for name in self.methods
        }
        pairs = self.samples.pairs
        self.spans = [range(start, min(start + self.chunk, len(pairs))) for start in range(0, len(pairs), self.chunk)]
        self.done: dict[tuple[str, str], dict[int, Rows]] = {cell: {} for cell in self.explainers}
        self.files: dict[tuple[str, str], CellFile] = {}
        self.warm: set[tuple[str, str]] = set()
        if self.output is not None:
            self._open_files(self.output)

    def run(self, console: Console | None) -> None:
        """Do what is not done."""
        pairs = self.samples.pairs
        left = TimeLeft(dict.fromkeys(self.explainers, sum(pairs)))
        for cell, chunks in self.done.items():
            for rows in chunks.values():
                left.record(cell, len(rows), sum(row["took"] for row in rows))
        with ProgressBar(left, console) as bar:
            for number, span in enumerate(self.spans):
                missing = [cell for cell, chunks in self.done.items() if number not in chunks]
                if not missing:
                    continue
                chosen = [self.samples[index] for index in span]
                for network in self.networks:
                    prepared = None
                    for cell in (cell for cell in missing if cell[0] == network):
                        bar.show(f"{cell[0]} {cell[1]} {span[-1] + 1}/{len(pairs)}")
                        begin = perf_counter()
                        prepared = prepared or self._prepared(network, chosen, span)
                        if cell not in self.warm:
                            # A first map takes longer, and passes of its own to look for layers: no part of the cost.
                            images, targets, _ = prepared
                            self.explainers[cell](images[:1], targets[:1].to(images.device))
                            self.warm.add(cell)
                            begin = perf_counter()
                        rows = self._rows(cell, *prepared, begin)
                        self.done[cell][number] = rows
                        if cell in self.files:
                            self.files[cell].append(number, rows)
                        left.record(cell, len(rows), perf_counter() - begin)
            bar.show("done")

    def rows(self) -> dict[str, dict[str, Rows]]:
        """Network -> explainer -> all rows in the order of the data."""
        return {
            network: {
                name: [row for number in sorted(self.done[network, name]) for row in self.done[network, name][number]]
                for name in self.methods
            }
            for network in self.networks
        }

    def caption(self) -> str:
        """What was measured, on what, how and where."""
        config = self.config
        options = [f"{name} ({_listed(given)})" for name, given in self.methods.items() if given]
        keys = {column.key.partition("_")[0] for column in config.columns(boxes=self.samples.has_boxes)}
        precision = f" in {config.precision}" if config.precision else ""
        parts = [f"{self.samples.description()}.", "Scores in %."]
        for told, text in (
            (
                {"insertion", "deletion", "overall"},
                f"Insertion and deletion: {config.steps} steps from and to {config.baseline}, {config.score} scores"
                f"{precision}.",
            ),
            (
                {"drop", "increase"},
                f"Drop and increase: top {config.kept_fraction:.0%} kept, {config.fill} elsewhere.",
            ),
            ({"miou"}, f"mIoU: top {config.top_fraction:.0%}."),
            ({"pointing"}, "Pointing: mean over classes."),
        ):
            if keys & told:
                parts.append(text)
        if options:
            parts.append(f"Options: {'; '.join(options)}.")
        where = sorted({str(device) for device in self.devices.values()})
        parts.append(f"Times on {', '.join(where)} ({platform.machine()}, {torch.get_num_threads()} threads).")
        return " ".join(parts)

    def _build(self, network: str, name: str) -> Explainer:
        options = dict(self.methods[name])
        which: str | Callable[..., Explainer] = options.pop("explainer", name)
        if callable(which):
            return which(self.networks[network], **options)
        return build_explainer(which, self.networks[network], **options)

    def _open_files(self, output: Path) -> None:
        shared = {
            "data": self.samples.fingerprint(),
            "metrics": _plain(asdict(self.config)),
            "chunk": self.chunk,
            "version": __version__,
        }
        weights = {name: weights_fingerprint(network) for name, network in self.networks.items()}
        for network, name in self.explainers:
            path = output / "cells" / f"{file_name(network)}__{file_name(name)}.jsonl"
            options = {key: _plain(value) for key, value in {"explainer": name, **self.methods[name]}.items()}
            cell = CellFile(path, {"weights": weights[network], "explainer options": options, **shared})
            self.files[network, name] = cell
            self.done[network, name] = cell.chunks.copy()

    def _prepared(self, network: str, chosen: Sequence[Sample], span: range) -> tuple[Tensor, Tensor, list[Any]]:
        """Images ``[P, C, H, W]`` and targets ``[P]`` of the pairs of a chunk, and where each is from."""
        if len({sample.image.shape for sample in chosen}) > 1:
            sizes = sorted({tuple(sample.image.shape) for sample in chosen})
            raise ValueError(f"Got images of the sizes {sizes}. Resize and crop them alike, or use chunk=1.")
        images = torch.stack([sample.image for sample in chosen]).to(self.devices[network])
        with scoring(self.networks[network]) as score_fn:
            logits = score_fn(images).cpu()
        pairs = [(place, which) for place, sample in enumerate(chosen) for which in range(len(sample.labels))]
        targets = []
        for place, which in pairs:
            candidates = list(chosen[place].candidates[which]) or list(range(logits.shape[1]))
            if not 0 <= min(candidates) <= max(candidates) < logits.shape[1]:
                raise ValueError(
                    f"Got the classes {candidates} for {chosen[place].labels[which]!r}, but {network} has "
                    f"{logits.shape[1]}: 0 to {logits.shape[1] - 1}. Map the names to its classes."
                )
            targets.append(candidates[int(logits[place, candidates].argmax())])
        origins = [(span[place], chosen[place], which) for place, which in pairs]
        owners = torch.tensor([place for place, _ in pairs])
        return images[owners.to(images.device)], torch.tensor(targets), origins

    def _rows(self, cell: tuple[str, str], images: Tensor, targets: Tensor, origins: list[Any], begin: float) -> Rows:
        boxes = [sample.boxes[which] for _, sample, which in origins]
        measured = measure(self.explainers[cell], images, targets.to(images.device), boxes, self.config)
        took = (perf_counter() - begin) / len(images)
        return [
            {
                "sample": index,
                "image": sample.name,
                "label": sample.labels[which],
                "target": int(target),
                "seconds": measured.seconds,
                "passes": measured.passes,
                "took": took,
                "scores": scores,
                "curves": curves,
                "map": small,
            }
            for (index, sample, which), target, scores, curves, small in zip(
                origins, targets, measured.scores, measured.curves, measured.maps, strict=True
            )
        ]


def _plain(value: Any) -> Any:
    """A value as JSON can hold it, different for different values."""
    if isinstance(value, Tensor):
        return value.tolist()
    if is_dataclass(value) and not isinstance(value, type):
        return {"": type(value).__qualname__, **_plain(asdict(value))}
    if isinstance(value, functools.partial):
        return {"": _plain(value.func), "arguments": _plain(value.args), **_plain(value.keywords)}
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


def _listed(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_plain(value)}" for key, value in sorted(options.items()))
