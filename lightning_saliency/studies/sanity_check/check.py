"""The passes of a sanity check: one explainer on one network, its weights randomised step by step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from lightning_saliency import __version__
from lightning_saliency.explainers import Explainer
from lightning_saliency.functional.scores import hog_similarity, spearman, ssim
from lightning_saliency.studies.sanity_check.randomization import Layers, Weights, randomize
from lightning_saliency.studies.sanity_check.results import MODES, Comparison, ExplainerCheck, Mode, Rows

Build = Callable[[nn.Module], Explainer]

_SIMILARITIES = {"spearman": spearman, "ssim": ssim, "hog": hog_similarity}


@dataclass(frozen=True)
class Run:
    """What all explainers of a check share. ``network`` is a copy, whose weights change and are put back."""

    network: nn.Module
    images: Tensor
    targets: Tensor
    layers: tuple[Layers, ...]
    random_networks: int
    seed: int
    chunks: list[slice]
    pictures: int

    @property
    def passes(self) -> int:
        """How often a chunk of images is explained for one explainer."""
        return (2 * len(self.layers) + self.random_networks - 1) * len(self.chunks)

    def fingerprint(self, name: str) -> str:
        """Of everything that the result for the explainer of that name depends on."""
        digest = hashlib.sha256(__version__.encode())
        own = [*self.network.named_parameters(), *self.network.named_buffers()]
        for label, tensor in [*own, ("images", self.images), ("targets", self.targets)]:
            digest.update(f"{label} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        chunk = self.chunks[0].stop
        digest.update(repr((name, self.layers, self.random_networks, self.seed, self.pictures, chunk)).encode())
        return digest.hexdigest()

    def check(self, name: str, build: Build, fingerprint: str, advance: Callable[[], object]) -> ExplainerCheck:
        """All maps of one explainer, compared; ``advance`` is called after each chunk of images."""
        trained = Weights(self.network)
        explainer = build(self.network)
        everything = [module for layer in self.layers for module in layer.modules]

        def explain() -> Tensor:
            parts = []
            for chunk in self.chunks:
                parts.append(explainer(self.images[chunk], self.targets[chunk]))
                advance()
            maps = torch.cat(parts).float()
            return torch.where(maps.isfinite().flatten(1).all(1)[:, None, None], maps, torch.zeros_like(maps))

        try:
            original = explain()
            compared = (~_constant(original)).nonzero().flatten().tolist()
            steps: dict[str, list[Comparison]] = {mode: [] for mode in MODES}
            kept: dict[str, list[Tensor]] = {mode: [original[: self.pictures]] for mode in MODES}

            def note(mode: Mode, layer: Layers, maps: Tensor) -> None:
                steps[mode].append(_compare(layer.name, original, maps, compared))
                kept[mode].append(maps[: self.pictures])

            maps = original
            for number, layer in enumerate(self.layers):
                randomize(self.network, layer.modules, self.seed)
                maps = explain()
                note("cascading", layer, maps)
                if number == 0:
                    # With the top layer alone, both ways are the same network.
                    note("independent", layer, maps)
            random = [maps]
            for layer in self.layers[1:]:
                trained.restore()
                randomize(self.network, layer.modules, self.seed)
                note("independent", layer, explain())
            for number in range(1, self.random_networks):
                trained.restore()
                randomize(self.network, everything, self.seed + number)
                random.append(explain())
        finally:
            trained.restore()
        return ExplainerCheck(
            name=name,
            fingerprint=fingerprint,
            seed=self.seed,
            images=len(self.images),
            compared=tuple(compared),
            cascading=tuple(steps["cascading"]),
            independent=tuple(steps["independent"]),
            random=_similarities([(original, maps) for maps in random], compared),
            level=_similarities(list(combinations(random, 2)), compared, without_constant=True),
            level_constant=int(sum(_constant(maps).sum() for maps in random)),
            level_maps=len(random) * len(self.images),
            pictures={
                mode: (torch.stack(maps) * 255).round().to(torch.uint8).cpu().numpy() for mode, maps in kept.items()
            },
        )


def _constant(maps: Tensor) -> Tensor:
    """Which maps ``[B, H, W]`` show nothing: ``[B]`` bool."""
    return maps.flatten(1).amax(1) == maps.flatten(1).amin(1)


def _compare(layers: str, original: Tensor, maps: Tensor, compared: list[int]) -> Comparison:
    similarity = {
        measure: tuple(function(original[compared], maps[compared]).tolist())
        for measure, function in _SIMILARITIES.items()
    }
    return Comparison(layers, similarity, int(_constant(maps).sum()), float((maps - original).abs().max()))


def _similarities(
    pairs: list[tuple[Tensor, Tensor]], compared: list[int], without_constant: bool = False
) -> dict[str, Rows]:
    """A row a pair, of the images compared; ``None`` where a map is constant, if those are to be left out."""
    chosen = [(a[compared], b[compared]) for a, b in pairs]
    left_out = [(_constant(a) | _constant(b)) & without_constant for a, b in chosen]
    return {
        measure: tuple(
            tuple(None if out else value for value, out in zip(function(a, b).tolist(), outs.tolist(), strict=True))
            for (a, b), outs in zip(chosen, left_out, strict=True)
        )
        for measure, function in _SIMILARITIES.items()
    }
