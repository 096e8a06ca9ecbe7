"""The pictures of the documentation, made anew: photographs and weights in, docs/figures out.

    python -m tools.figures gallery scales groups blocks
    python -m tools.figures shortcut        # after python -m examples.shortcut

The photographs are those inside scikit-image and scikit-learn. The network is MobileNetV2, its weights those in
../shared/data/weights; another file of them is named by --weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from lightning_saliency.data.image_files import read_image
from lightning_saliency.explainers import EXPLAINERS, SISE, SMOE, GroupCAM
from lightning_saliency.explainers.base import activations_and_gradients
from lightning_saliency.explainers.group_cam import initial_masks
from lightning_saliency.explainers.mask_scoring.scorer import score_masks
from lightning_saliency.functional.fills import blur
from lightning_saliency.functional.masking import resize_maps
from lightning_saliency.functional.visualization import heatmap, highlight
from lightning_saliency.networks import build_network, load_weights
from lightning_saliency.pictures.grid import picture_grid
from lightning_saliency.pictures.page.find import RECORDS, find_run
from lightning_saliency.pictures.page.store import FilmRecords
from lightning_saliency.pictures.page.tiles import tile
from lightning_saliency.pictures.tensors import IMAGENET_NORMALIZATION
from lightning_saliency.scales import Scale, find_scales

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"
WEIGHTS = ROOT.parent / "shared" / "data" / "weights" / "mobilenet_v2_imagenet.pth"
SIDE = 224
#: Name -> package, file, and the class of ImageNet that is explained.
PHOTOGRAPHS: dict[str, tuple[str, str, int]] = {
    "Egyptian cat": ("skimage", "data/chelsea.png", 285),
    "espresso": ("skimage", "data/coffee.png", 967),
    "motor scooter": ("skimage", "data/motorcycle_left.png", 670),
    "daisy": ("sklearn", "datasets/images/flower.jpg", 985),
}
#: Row of the gallery -> explainer and its arguments. What masks images does so with a fast copy of the network.
METHODS: dict[str, tuple[str, dict[str, object]]] = {
    "SMOE Scale": ("smoe", {"weights": "ramp"}),
    "Grad-CAM": ("grad_cam", {}),
    "Grad-CAM++": ("grad_cam_plus_plus", {}),
    "Fast-CAM": ("fast_cam", {"weights": "ramp"}),
    "Group-CAM, 32 groups": ("group_cam", {"fast": True}),
    "Score-CAM": ("score_cam", {"fast": True}),
    "RISE, 1,000 masks": ("rise", {"masks": 1000, "fast": True}),
    "SISE, μ = 0.5": ("sise", {"mu": 0.5, "fast": True}),
    "Integrated gradients": ("integrated_gradients", {}),
}


def network_of(weights: Path) -> nn.Module:
    """MobileNetV2 with the weights of a file."""
    network = build_network("mobilenet_v2", num_classes=1000)
    load_weights(network, weights)
    return network.eval()


def photographs(names: Sequence[str] = tuple(PHOTOGRAPHS)) -> tuple[Tensor, Tensor, Tensor]:
    """Photographs as they are ``[B, 3, H, W]`` in [0, 1], as the network takes them, and the classes ``[B]``."""
    chosen = [PHOTOGRAPHS[name] for name in names]
    shown = torch.stack(
        [read_image(Path(str(files(package).joinpath(path))), 256, SIDE) for package, path, _ in chosen]
    )
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET_NORMALIZATION)
    return shown, (shown - mean) / std, torch.tensor([target for _, _, target in chosen])


def grid_names(word: str, found: Sequence[Scale]) -> list[str]:
    """A column's name for each scale."""
    return [f"{word} {number}, {scale.grid[0]}×{scale.grid[1]}" for number, scale in enumerate(found, 1)]


def gallery(network: nn.Module) -> Image.Image:
    """The same photographs by each method."""
    shown, images, targets = photographs()
    rows: dict[str, Sequence[Tensor]] = {"photograph": list(shown)}
    for name, (explainer, arguments) in METHODS.items():
        torch.manual_seed(0)
        rows[name] = list(highlight(shown, EXPLAINERS[explainer](network, **arguments)(images, targets)))
        if explainer == "smoe":
            rows["LOVI of its scales"] = list(SMOE(network).scales(images).lovi())
    return Image.fromarray(picture_grid(list(PHOTOGRAPHS), rows, tile=168))


def scales(network: nn.Module) -> Image.Image:
    """The maps of five scales, their mean, and LOVI."""
    names = ("Egyptian cat", "motor scooter")
    shown, images, _ = photographs(names)
    found = find_scales(network, images)
    maps = SMOE(network, weights="ramp").scales(images)
    columns = [
        "photograph",
        *(f"scale {number}, {scale.grid[0]}×{scale.grid[1]}" for number, scale in enumerate(found, 1)),
    ]
    columns += ["combined", "LOVI"]
    each = [heatmap(maps.maps[:, number], "inferno") for number in range(len(found))]
    parts = [shown, *each, highlight(shown, maps.combined()), maps.lovi()]
    rows = {name: [part[index] for part in parts] for index, name in enumerate(names)}
    return Image.fromarray(picture_grid(columns, rows, tile=132))


def groups(network: nn.Module, count: int = 8) -> Image.Image:
    """Group-CAM's masks of one photograph, what each uncovers and its gain; and the map."""
    shown, images, targets = photographs(("motor scooter",))
    scale = find_scales(network, images)[-1]
    [(activations, gradients)], _ = activations_and_gradients(network, images, targets, [scale])
    masks = initial_masks(activations, gradients, count, 70.0)
    queries = torch.cat([masks, torch.zeros_like(masks[:, :1])], 1)
    scores = score_masks(network, images, queries, targets, fill=blur(images))
    gains = (scores[:, :-1] - scores[:, -1:])[0]
    upsampled = resize_maps(masks[0], (SIDE, SIDE))
    seen = shown * upsampled[:, None] + blur(shown) * (1 - upsampled[:, None])
    whole = GroupCAM(network, groups=count)(images, targets)
    rows = {
        "what the network sees, and how much it gains": [*seen, shown[0]],
        "the group's mask": [*heatmap(upsampled, "inferno"), highlight(shown, whole)[0]],
    }
    columns = [*(f"group {number}: {gain:+.3f}" for number, gain in enumerate(gains.tolist(), 1)), "photo and map"]
    return Image.fromarray(picture_grid(columns, rows, tile=118))


def blocks(network: nn.Module, mu: float = 0.5) -> Image.Image:
    """SISE's visualisation map of each block, and their fusion from shallow to deep."""
    names = ("Egyptian cat", "motor scooter")
    shown, images, targets = photographs(names)
    found = find_scales(network, images)
    parts = [shown]
    for scale in found:
        layer = scale.module + (":input" if scale.read == "input" else "")
        alone = SISE(network, mu=mu, layers=[layer], fast=True)(images, targets)
        parts.append(heatmap(alone, "inferno"))
    fused = SISE(network, mu=mu, fast=True)(images, targets)
    parts.append(highlight(shown, fused))
    columns = [
        "photograph",
        *(f"block {number}, {scale.grid[0]}×{scale.grid[1]}" for number, scale in enumerate(found, 1)),
    ]
    columns.append("fused")
    rows = {name: [part[index] for part in parts] for index, name in enumerate(names)}
    return Image.fromarray(picture_grid(columns, rows, tile=132))


def shortcut(before: str, after: str, images: int = 4) -> Image.Image:
    """The last frames of two runs: as trained on marked images, and after the cure."""
    rows: dict[str, list[Tensor]] = {}
    captions: list[str] = []
    for title, run in (("as trained", before), ("after the cure", after)):
        store = FilmRecords(find_run(run, None) / RECORDS)
        record = store.read(store.frames()[-1])
        for view in ("photo", "overlay") if not rows else ("overlay",):
            name = "photograph" if view == "photo" else f"overlay, {title}"
            rows[name] = []
            for index, image in enumerate(record.images[:images]):
                pixels = tile(record, index, view, store.photo(image.photo), 160)
                rows[name].append(torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255)
        captions = [f"label {record.classes.get(image.label, image.label)}" for image in record.images[:images]]
    return Image.fromarray(picture_grid(captions, rows, tile=160))


OF_THE_NETWORK: Mapping[str, Callable[[nn.Module], Image.Image]] = {
    "gallery": gallery,
    "scales": scales,
    "groups": groups,
    "blocks": blocks,
}


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Make the figures that are named, and say where they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=[*OF_THE_NETWORK, "shortcut"], help="which figures")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="file of MobileNetV2's weights")
    parser.add_argument("--output", type=Path, default=FIGURES, help="folder of the figures")
    parser.add_argument("--before", default="runs/shortcut/before", help="run as trained, of the figure shortcut")
    parser.add_argument("--after", default="runs/shortcut/after", help="run after the cure")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    made = []
    for name in options.names:
        if name == "shortcut":
            picture = shortcut(options.before, options.after)
        else:
            picture = OF_THE_NETWORK[name](network_of(options.weights))
        made.append(options.output / f"{name}.jpg")
        picture.save(made[-1], quality=82, optimize=True)
        print(made[-1], f"{made[-1].stat().st_size / 1000:.0f} kB")
    return made


if __name__ == "__main__":
    main()
