"""Which installed networks the package works on: scales, SMOE, Fast-CAM, Group-CAM and the monitor with a class view.

One small member of each family is built with random weights and given three random images. Each network's answers are
kept in a line of their own, so that a sweep that was ended goes on where it was; the page and the compressed answers
are written at the end.

    python -m benchmarks.networks [--libraries timm torchvision …] [--families REGEX] [--limit N] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import re
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks._network_members import LIBRARIES, Member, members
from benchmarks._timing import origin
from lightning_saliency import SaliencyMonitor, find_scales
from lightning_saliency.explainers import SMOE, Explainer, FastCAM, GroupCAM
from lightning_saliency.scales import NoScalesError

OUT = Path(__file__).parents[1] / "docs" / "results"
CHECKS = ("scales", "SMOE", "Fast-CAM", "Group-CAM", "monitor")
IMAGES = 3
#: Networks with more parameters are passed over: a sweep is to end on a small machine.
LARGEST = 150_000_000


def sweep(networks: Iterable[Member], lines: Path | None = None) -> list[dict[str, Any]]:
    """The answers of networks; those that a file of lines holds already are not asked again."""
    known = [json.loads(line) for line in lines.read_text().splitlines()] if lines and lines.is_file() else []
    done = {(row["library"], row["family"]) for row in known}
    for member in networks:
        if (member.library, member.family) not in done:
            row = answers(member)
            known.append(row)
            if lines is not None:
                lines.parent.mkdir(parents=True, exist_ok=True)
                with lines.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            print(row["library"], row["name"], {name: row.get(name) for name in ("built", *CHECKS)}, flush=True)
    return known


def answers(member: Member) -> dict[str, Any]:
    """What a network does: for each check ``"ok"``, or what it says instead."""
    torch.manual_seed(0)
    row: dict[str, Any] = {"library": member.library, "family": member.family, "name": member.name, "size": member.size}
    started = time.perf_counter()
    try:
        network = member.build().eval()
        row["parameters"] = sum(parameter.numel() for parameter in network.parameters())
        if row["parameters"] > LARGEST:
            return row | {"built": f"passed over: more than {LARGEST:,} parameters"}
        images = _images(member.size)
        _begin(network, images)
        with torch.no_grad():
            network(images)
    except Exception as error:  # a network that cannot be built or run on images is none of ours
        return row | {"built": f"no: {_told(error)}"}
    row["built"] = "ok"

    def scales() -> str:
        found = find_scales(network, images)
        row["found"] = [[scale.module, scale.read, *scale.grid, scale.channels, scale.layout] for scale in found]
        return "ok"

    checks: dict[str, Callable[[], str]] = {
        "scales": scales,
        "SMOE": lambda: _judged(SMOE(network)(images), images),
        "Fast-CAM": lambda: _class_view(FastCAM(network), images),
        "Group-CAM": lambda: _class_view(GroupCAM(network, groups=8), images),
        "monitor": lambda: _monitored(network, images),
    }
    for name, check in checks.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                row[name] = check()
            except (NoScalesError, TypeError, ValueError) as error:
                row[name] = f"refused: {_told(error)}"
            except Exception as error:  # to be reported, whatever it is
                row[name] = f"failed: {_told(error)}"
    return row | {"seconds": round(time.perf_counter() - started, 1)}


def page(rows: list[dict[str, Any]], made: str) -> str:
    """The page of the results, with a sentence's end of where they come from."""
    built = [row for row in rows if row["built"] == "ok"]
    lines = [
        "# Which networks it works on",
        "",
        "One small member of each family that is installed, with random weights, on three random images: whether",
        "its scales are found, whether SMOE, Fast-CAM and Group-CAM give maps of the images' size that are finite and",
        "not all zero (for the predicted classes, else for the first class or the second: rectified maps may be zero),",
        "and whether a validation with `SaliencyMonitor(views=('lovi', 'combined', 'fast_cam'))` writes all pictures.",
        "Detectors, which return boxes and no classes, and networks of videos are left out.",
        "",
        "```console",
        "$ python -m benchmarks.networks",
        "```",
        "",
        "Raw results, every answer, each network's scales and how long it took "
        f"({sum(row.get('seconds', 0.0) for row in rows) / 3600:.1f} hours together):",
        f"`networks/answers.json.gz` ({made}).",
        "",
        "| | families | built | " + " | ".join(CHECKS) + " |",
        "| --- | ---: | ---: |" + " ---: |" * len(CHECKS),
    ]
    for library in (*LIBRARIES, "all"):
        own = [row for row in rows if library in (row["library"], "all")]
        if own:
            there = [row for row in own if row["built"] == "ok"]
            counts = Counter(check for row in there for check in CHECKS if row[check] == "ok")
            lines.append(
                f"| {library} | {len(own)} | {len(there)} | " + " | ".join(f"{counts[c]}" for c in CHECKS) + " |"
            )
    lines += ["", "## Refused or failed", ""]
    wrong = [(row, check) for row in built for check in CHECKS if row[check] != "ok"]
    lines += ["| network | check | answer |", "| --- | --- | --- |"] if wrong else ["None."]
    lines += [f"| {row['library']}: {row['name']} | {check} | {_cell(row[check])} |" for row, check in wrong]
    lines += ["", "## Not built, or not run on images alone", "", "| network | why |", "| --- | --- |"]
    lines += [f"| {row['library']}: {row['name']} | {_cell(row['built'])} |" for row in rows if row["built"] != "ok"]
    return "\n".join(lines) + "\n"


class _Watched(pl.LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        return self.network(images)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self(batch[0])


def _monitored(network: nn.Module, images: Tensor) -> str:
    views = ("lovi", "combined", "fast_cam")
    loader = DataLoader([(image, 0) for image in images], batch_size=len(images))  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer = pl.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=folder, callbacks=[SaliencyMonitor(num_images=2, views=views)],
        )  # fmt: skip
        trainer.validate(_Watched(network), loader, verbose=False)
        pictures = {path.stem for path in Path(folder).rglob("*.png")} | {
            path.parent.name for path in Path(folder).rglob("*.png")
        }
        own = [str(each.message) for each in said if "SaliencyMonitor" in str(each.message)]
    missing = [view for view in views if not any(view in name for name in pictures)]
    return "ok" if not missing else f"without {', '.join(missing)}: {own[0] if own else 'nothing was said'}"


def _judged(maps: Tensor, images: Tensor) -> str:
    if maps.shape != (images.shape[0], *images.shape[2:]):
        return f"shape {list(maps.shape)}"
    if not maps.isfinite().all():
        return "not finite"
    return "ok" if maps.any() else "all zero"


def _class_view(explainer: Explainer, images: Tensor) -> str:
    """As `_judged`, for the predicted classes; where these have no map, for the first class and the second.

    A rectified map is zero where everything speaks against the class, which happens with random weights.
    """
    answer = ""
    for targets in (None, 0, 1):
        answer = _judged(explainer(images, targets), images)
        if answer != "all zero":
            break
    return answer


def _images(size: tuple[int, int, int]) -> Tensor:
    """Random blobs of all sizes, standardised."""
    images = torch.zeros(IMAGES, *size)
    for cells in (2, 4, 8, 16, 32):
        coarse = torch.randn(IMAGES, size[0], cells, cells)
        images += nn.functional.interpolate(coarse, size[1:], mode="bilinear")
    return images / images.std()


def _begin(network: nn.Module, images: Tensor) -> None:
    """Bring a network with random weights to where it says something.

    BatchNorms take the statistics of the images, without which activations vanish; layers that begin at zero, as some
    heads do, are drawn: no class has a gradient before they are trained.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
        norm.train()
    try:
        with torch.no_grad():
            network(images)
    finally:
        network.eval()
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.weight.numel() and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main() -> None:
    """Sweep, and write the page and the answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libraries", nargs="+", choices=list(LIBRARIES), default=list(LIBRARIES))
    parser.add_argument("--families", default="", help="only families that this regular expression finds")
    parser.add_argument("--limit", type=int, help="only so many families of each library")
    parser.add_argument("--out", type=Path, default=OUT, help="the folder of networks.md and networks/")
    options = parser.parse_args()
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_saliency"):
        logging.getLogger(name).setLevel(logging.ERROR)
    lines = options.out / "networks" / "answers.jsonl"
    rows: list[dict[str, Any]] = []
    for library in options.libraries:
        chosen = [each for each in members(library) if re.search(options.families, each.family)]
        rows = sweep(chosen[: options.limit], lines)
    with gzip.open(options.out / "networks" / "answers.json.gz", "wt") as file:
        json.dump(rows, file)
    (options.out / "networks.md").write_text(page(rows, origin(*LIBRARIES)))
    lines.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
