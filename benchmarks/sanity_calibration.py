"""At which share of weights the verdict of a sanity check begins to pass.

The image's edges are mixed with a map that the weights make, from none of it to nothing else, and each mixture goes
through `run_sanity_check` on the trained SqueezeNet, as any explainer does. Both maps have mean 0 and standard
deviation 1 before they are added: with the share p of a map unlike the image's, the weights decide p² / (p² + (1 − p)²)
of the variance. Named before the first run of 50 photographs: no mixture with a hundredth of the weights may pass
("fallen"), and each source alone must.

    python -m benchmarks.sanity_calibration [--images 50] [--side 96] [--read FILE]
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import zlib
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmarks._shared_data import network, photographs
from benchmarks._timing import machine
from lightning_saliency.explainers import Explainer, build_explainer
from lightning_saliency.explainers.controls import EdgeDetector, RandomMap
from lightning_saliency.files import write_atomically
from lightning_saliency.functional.masking import top_fraction
from lightning_saliency.networks import weights_fingerprint
from lightning_saliency.studies import SanityCheckResult, run_sanity_check
from lightning_saliency.studies.sanity_check.stored import result_of
from lightning_saliency.studies.sanity_check.verdict import as_text

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "sanity_check" / "mixtures.json.gz"
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
#: The image's map and the weights' one. Noise is all weights, and unlike from network to network, so that its share is
#: known; SMOE and Grad-CAM are two real explainers whose maps depend on the weights and are unlike one another.
MIXTURES = (("edges", "noise"), ("edges", "smoe"), ("edges", "grad_cam"), ("few edges", "noise"))
#: The share of the pixels that "few edges" keeps: a map that is mostly zero, whose ranks faint noise decides.
FEW = 0.05
#: Up to this share no mixture may pass.
MUST_FAIL = 0.01


class Mixture(Explainer):
    """A share of a map that the weights make, added to one that the image makes.

    Args:
        model: The network.
        share: Of the weights' map, in [0, 1].
        image: ``"edges"``; or ``"few edges"``, the strongest `FEW` of them alone.
        weights: ``"noise"``, other for each image and for all other weights, or the name of an explainer.
    """

    def __init__(self, model: nn.Module, share: float = 0.01, image: str = "edges", weights: str = "noise") -> None:
        super().__init__(model)
        self.share, self.image, self.weights = share, image, weights

    def _explain(self, images: Tensor, targets: Tensor) -> Tensor:
        edges = EdgeDetector(self.model)(images, targets)
        if self.image == "few edges":
            edges = edges * top_fraction(edges, FEW)
        if self.weights == "noise":
            source: Explainer = RandomMap(self.model, zlib.crc32(weights_fingerprint(self.model).encode()))
        else:
            source = build_explainer(self.weights, self.model)
        return (1 - self.share) * _standardized(edges) + self.share * _standardized(source(images, targets))


def _standardized(maps: Tensor) -> Tensor:
    """Maps ``[B, H, W]`` of mean 0 and standard deviation 1; a constant one becomes zero."""
    centred = maps - maps.mean((1, 2), keepdim=True)
    return centred / centred.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-6)


def run(model: nn.Module, images: Tensor, **options: Any) -> SanityCheckResult:
    """The sanity check of all mixtures."""
    explainers = {
        _name(image, weights, share): partial(Mixture, share=share, image=image, weights=weights)
        for image, weights in MIXTURES
        for share in SHARES
    }
    return run_sanity_check(model=model, data=images, explainers=explainers, max_steps=1, pictures=0, **options)


def _name(image: str, weights: str, share: float) -> str:
    return f"{image}, {weights} {share}"


def passes_from(result: SanityCheckResult, image: str, weights: str) -> float | None:
    """The share from which every mixture passes; ``None`` if the weights' map alone does not."""
    found = None
    for share in reversed(SHARES):
        if result[_name(image, weights, share)].verdict().kind != "fallen":
            break
        found = share
    return found


def unexpected(result: SanityCheckResult) -> list[str]:
    """What must pass and does not, and what must not and does."""
    wrong = []
    for image, weights in MIXTURES:
        passed = {share: result[_name(image, weights, share)].verdict().kind == "fallen" for share in SHARES}
        wrong += [_name(image, weights, share) for share in SHARES if share <= MUST_FAIL and passed[share]]
        wrong += [] if passed[1.0] else [_name(image, weights, 1.0)]
    return wrong


def table(result: SanityCheckResult) -> str:
    """Pearson's correlation and the verdict by share, a column for each mixture, as Markdown."""
    lines = [
        "| weights' share | of the variance | " + " | ".join(f"{image}, {name}" for image, name in MIXTURES) + " |",
        "| ---: | ---: |" + " --- |" * len(MIXTURES),
    ]
    for share in SHARES:
        checks = [result[_name(image, weights, share)] for image, weights in MIXTURES]
        cells = [f"{as_text(check.fully_random('pearson'))} {check.verdict().kind}" for check in checks]
        lines.append(f"| {share} | {share**2 / (share**2 + (1 - share) ** 2):.4f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rounded(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _rounded(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_rounded(value) for value in values]
    return round(values, 6) if isinstance(values, float) else values


def main() -> None:
    """Run the check, or read it, print the table and all verdicts, and fail if one is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--side", type=int, default=96, help="of the photographs, in pixels")
    parser.add_argument("--read", type=Path, help="raw results to print; nothing is computed")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.read:
        result = result_of(json.loads(gzip.decompress(options.read.read_bytes()))["result"])
    else:
        images, (model, trained) = photographs(options.images, options.side), network("squeezenet1_0")
        if images is None or not trained:
            sys.exit("Found no photographs or no weights in shared/data, beside the repository.")
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        result = run(model, images, batch_size=25)
        raw = {
            "command": f"python -m benchmarks.sanity_calibration --images {options.images} --side {options.side}",
            "commit": head.stdout.strip(),
            "machine": machine(),
            "result": _rounded(result.as_dict()),
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.output, gzip.compress(json.dumps(raw).encode(), mtime=0))
    print(table(result), *result.verdicts(), sep="\n")
    for image, weights in MIXTURES:
        print(f"{image}, {weights}: passes from {passes_from(result, image, weights)}")
    if wrong := unexpected(result):
        sys.exit(f"Not as it must be: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
