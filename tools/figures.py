"""The pictures of the documentation, made anew: photographs, weights and runs in, docs/figures out.

    python -m tools.figures gallery scales groups blocks
    python -m tools.figures shortcut shortcut_place  # after python -m examples.shortcut
    python -m tools.figures film            # in the folder in which the code of docs/start.md was run

The photographs are those inside scikit-image and scikit-learn. The network is MobileNetV2, its weights those in
../shared/data/weights; another file of them is named by --weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import torch
from PIL import Image, ImageDraw
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
from lightning_saliency.pictures.page.find import RECORDS, find_run
from lightning_saliency.pictures.page.records import FrameRecord
from lightning_saliency.pictures.page.store import FilmRecords
from lightning_saliency.pictures.page.tiles import tile
from lightning_saliency.pictures.tensors import IMAGENET_NORMALIZATION, resize_images, text_font, to_uint8
from lightning_saliency.scales import Scale, find_scales

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"
WEIGHTS = ROOT.parent / "shared" / "data" / "weights" / "mobilenet_v2_imagenet.pth"
SIDE, TILE, GAP = 224, 200, 6
MOST_BYTES = 300_000
#: Name -> package, file, and the class of ImageNet that is explained.
PHOTOGRAPHS: dict[str, tuple[str, str, int]] = {
    "Egyptian cat": ("skimage", "data/chelsea.png", 285),
    "espresso": ("skimage", "data/coffee.png", 967),
    "motor scooter": ("skimage", "data/motorcycle_left.png", 670),
    "daisy": ("sklearn", "datasets/images/flower.jpg", 985),
}
#: Those by which the papers' ideas are shown.
OF_IDEAS = ("motor scooter", "espresso")
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


def figure(lines: Sequence[tuple[str, Sequence[tuple[str, Tensor]]]]) -> Image.Image:
    """Lines of pictures ``[3, H, W]`` in [0, 1], each line with a heading and each picture with a caption, or without.

    The letters are large enough to be read in a page's column, and still on a phone.
    """
    band, font, small = round(0.12 * TILE), text_font(round(0.085 * TILE)), text_font(round(0.075 * TILE))
    width = max(len(pictures) for _, pictures in lines) * (TILE + GAP) - GAP
    heights = [band * (bool(heading) + any(caption for caption, _ in of)) + TILE + 2 * GAP for heading, of in lines]
    canvas = Image.new("RGB", (width, sum(heights)), "white")
    draw, top = ImageDraw.Draw(canvas), 0
    for (heading, pictures), height in zip(lines, heights, strict=True):
        if heading:
            draw.text((0, top), heading, fill=(25, 25, 25), font=font)
        for place, (caption, picture) in enumerate(pictures):
            left, below = place * (TILE + GAP), top + height - TILE - 2 * GAP
            draw.text((left, below - band), caption, fill=(90, 90, 90), font=small)
            shown = resize_images(picture[None].float(), (TILE, TILE))[0]
            canvas.paste(Image.fromarray(to_uint8(shown)), (left, below))
        top += height
    return canvas


def in_lines(heading: str, pictures: Sequence[tuple[str, Tensor]]) -> list[tuple[str, Sequence[tuple[str, Tensor]]]]:
    """Pictures with captions in lines of four, the heading above the first."""
    parts = [pictures[start : start + 4] for start in range(0, len(pictures), 4)]
    return [(heading if number == 0 else "", part) for number, part in enumerate(parts)]


def grid_names(word: str, found: Sequence[Scale]) -> list[str]:
    """A column's name for each scale."""
    return [f"{word} {number}, {scale.grid[0]}×{scale.grid[1]}" for number, scale in enumerate(found, 1)]


def gallery(network: nn.Module) -> Image.Image:
    """The same photographs by each method."""
    shown, images, targets = photographs()
    lines: list[tuple[str, Sequence[tuple[str, Tensor]]]] = [("", list(zip(PHOTOGRAPHS, shown, strict=True)))]
    for name, (explainer, arguments) in METHODS.items():
        torch.manual_seed(0)
        maps = EXPLAINERS[explainer](network, **arguments)(images, targets)
        lines.append((name, [("", picture) for picture in highlight(shown, maps)]))
        if explainer == "smoe":
            lines.append(("LOVI of its scales", [("", picture) for picture in SMOE(network).scales(images).lovi()]))
    return figure(lines)


def scales(network: nn.Module) -> Image.Image:
    """The maps of five scales, their mean, and LOVI."""
    lines = []
    for name in OF_IDEAS:
        shown, images, _ = photographs([name])
        maps = SMOE(network, weights="ramp").scales(images)
        each = [heatmap(maps.maps[:, number], "inferno")[0] for number in range(len(maps.names))]
        names = ["photograph", *grid_names("scale", find_scales(network, images)), "combined", "LOVI"]
        pictures = [shown[0], *each, highlight(shown, maps.combined())[0], maps.lovi()[0]]
        lines += in_lines("", list(zip(names, pictures, strict=True)))
    return figure(lines)


def groups(network: nn.Module, count: int = 8) -> Image.Image:
    """Group-CAM's masks of one photograph, what each uncovers and its gain; and the map."""
    shown, images, targets = photographs(OF_IDEAS[:1])
    scale = find_scales(network, images)[-1]
    [(activations, gradients)], _ = activations_and_gradients(network, images, targets, [scale])
    masks = initial_masks(activations, gradients, count, 70.0)
    queries = torch.cat([masks, torch.zeros_like(masks[:, :1])], 1)
    scores = score_masks(network, images, queries, targets, fill=blur(images))
    gains = (scores[:, :-1] - scores[:, -1:])[0].tolist()
    upsampled = resize_maps(masks[0], (SIDE, SIDE))
    seen = shown * upsampled[:, None] + blur(shown) * (1 - upsampled[:, None])
    order = sorted(range(count), key=lambda group: -gains[group])
    best = order[:2] + order[-2:]
    whole = highlight(shown, GroupCAM(network, groups=count)(images, targets))[0]
    return figure(
        [
            (
                "Masks of four of the eight groups",
                [(f"group {group + 1}", heatmap(upsampled[group][None], "inferno")[0]) for group in best],
            ),
            (
                "What the network sees, and how much the class gains",
                [(f"{gains[group]:+.3f}", seen[group]) for group in best],
            ),
            ("", [("photograph", shown[0]), ("all blurred", blur(shown)[0]), ("the map", whole)]),
        ]
    )


def blocks(network: nn.Module, mu: float = 0.5) -> Image.Image:
    """SISE's visualisation map of each block, and their fusion from shallow to deep."""
    lines = []
    for name in OF_IDEAS:
        shown, images, targets = photographs([name])
        found = find_scales(network, images)
        pictures = [shown[0]]
        for scale in found:
            layer = scale.module + (":input" if scale.read == "input" else "")
            alone = SISE(network, mu=mu, layers=[layer], fast=True)(images, targets)
            pictures.append(heatmap(alone, "inferno")[0])
        fused = SISE(network, mu=mu, fast=True)(images, targets)
        pictures += [heatmap(fused, "inferno")[0], highlight(shown, fused)[0]]
        names = ["photograph", *grid_names("block", found), "fused", "over the photograph"]
        lines += in_lines("", list(zip(names, pictures, strict=True)))
    return figure(lines)


class Frame:
    """One epoch of a run, drawn."""

    def __init__(self, store: FilmRecords, record: FrameRecord) -> None:
        self.store, self.record = store, record
        self.title = "untrained" if record.epoch < 0 else f"epoch {record.epoch}"

    def tile(self, number: int, view: str) -> Tensor:
        """A view of an image ``[3, TILE, TILE]`` in [0, 1]."""
        pixels = tile(self.record, number, view, self.store.photo(self.record.images[number].photo), TILE)
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255

    def label(self, number: int) -> str:
        """The class of an image."""
        return str(self.record.classes.get(self.record.images[number].label, ""))

    def guess(self, number: int) -> str:
        """What the network takes it for, and whether it is right."""
        image = self.record.images[number]
        guess = self.record.classes.get(image.prediction, str(image.prediction))
        return f"{'✓' if image.prediction == image.label else '✗'} {guess}"


def frames_of(run: str) -> list[Frame]:
    """Each epoch of a run."""
    store = FilmRecords(find_run(run) / RECORDS)
    return [Frame(store, store.read(frame)) for frame in store.frames()]


def shortcut(before: str, after: str, images: int = 4) -> Image.Image:
    """The last frames of two runs: as trained on marked images, and after the cure."""
    first, second = frames_of(before)[-1], frames_of(after)[-1]
    numbers = range(images)
    return figure(
        [
            ("", [(f"label {first.label(number)}", first.tile(number, "photo")) for number in numbers]),
            ("Overlay, as trained", [("", first.tile(number, "overlay")) for number in numbers]),
            ("Overlay, after the cure", [("", second.tile(number, "overlay")) for number in numbers]),
        ]
    )


def shortcut_place(before: str, after: str) -> Image.Image:
    """What the cure hid, as its run shows it: images, the place in them, and what the network was given."""
    kept = sorted(Path(after).rglob("masktune/augmentation/epoch=*.png"))
    if not kept:
        raise FileNotFoundError(f"Got {after}, without masktune/augmentation. Run python -m examples.shortcut first.")
    return Image.open(kept[-1]).convert("RGB")


def film(plain: str, marked: str, images: Sequence[int] = (2, 3)) -> list[Image.Image]:
    """A frame an epoch of two runs on the same scenes, the second with marks: photo, overlay and LOVI."""
    pictures = []
    for pair in zip(frames_of(plain), frames_of(marked), strict=True):
        shown = [
            (frame, kind, number) for frame, kind in zip(pair, ("no mark", "mark"), strict=True) for number in images
        ]
        photos = [(f"{kind}: {frame.guess(number)}", frame.tile(number, "photo")) for frame, kind, number in shown]
        rows = [[("", frame.tile(number, view)) for frame, _, number in shown] for view in ("overlay", "lovi")]
        pictures.append(figure([(pair[0].title, photos), ("overlay", rows[0]), ("LOVI", rows[1])]))
    return pictures


def save(picture: Image.Image | list[Image.Image], folder: Path, name: str) -> Path:
    """A picture as JPEG, pictures as moving WebP; as good as fits into `MOST_BYTES`."""
    moving = isinstance(picture, list)
    path = folder / f"{name}.{'webp' if moving else 'jpg'}"
    for quality in range(84, 40, -4):
        if isinstance(picture, list):
            pauses = [900] * (len(picture) - 1) + [2500]
            picture[0].save(
                path, save_all=True, append_images=picture[1:], duration=pauses, loop=0, quality=quality, method=4
            )
        else:
            picture.save(path, quality=quality, optimize=True)
        if path.stat().st_size < MOST_BYTES:
            break
    return path


OF_THE_NETWORK: Mapping[str, Callable[[nn.Module], Image.Image]] = {
    "gallery": gallery,
    "scales": scales,
    "groups": groups,
    "blocks": blocks,
}


#: Figures of two runs, and where these are by default.
OF_RUNS: Mapping[str, tuple[Callable[[str, str], Image.Image | list[Image.Image]], tuple[str, str]]] = {
    "film": (film, ("lightning_logs/version_0", "lightning_logs/version_1")),
    "shortcut": (shortcut, ("runs/shortcut/before", "runs/shortcut/after")),
    "shortcut_place": (shortcut_place, ("runs/shortcut/before", "runs/shortcut/after")),
}


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Make the figures that are named, and say where they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=[*OF_THE_NETWORK, *OF_RUNS], help="which figures")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="file of MobileNetV2's weights")
    parser.add_argument("--output", type=Path, default=FIGURES, help="folder of the figures")
    parser.add_argument("--runs", nargs=2, metavar="RUN", help="folders of the two runs that are shown")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    made = []
    for name in options.names:
        if name in OF_RUNS:
            function, places = OF_RUNS[name]
            picture = function(*(options.runs or places))
        else:
            picture = OF_THE_NETWORK[name](network_of(options.weights))
        made.append(save(picture, options.output, name))
        print(made[-1], f"{made[-1].stat().st_size / 1000:.0f} kB")
    return made


if __name__ == "__main__":
    main()
