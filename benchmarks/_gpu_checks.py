"""The checks of `benchmarks.on_gpu`: each a function that returns whether it holds, and a text.

Packages are imported inside the functions, so that a machine without one of them runs the others.
"""

from __future__ import annotations

import copy
import inspect
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

Check = Callable[[], tuple[bool, str]]

#: Few enough masks, samples and steps for a check.
FEW: dict[str, dict[str, Any]] = {
    "rise": {"masks": 32, "grid": 4},
    "group_cam": {"groups": 8},
    "score_cam": {"layer": "layer1"},
    "sise": {"mu": 0.5, "max_masks": 8},
    "smooth_grad_cam_plus_plus": {"samples": 3},
    "gradient_smoothgrad_sq": {"samples": 3},
    "guided_backprop_smoothgrad_sq": {"samples": 3},
    "integrated_gradients": {"n_steps": 8},
    "integrated_gradients_smoothgrad_sq": {"n_steps": 4, "samples": 2},
    "xrai": {"steps": 4, "algorithm": "fast"},
    "torchcam:LayerCAM": {"layer": "layer4"},
}
SCORING = ("group_cam", "score_cam", "sise", "rise")


def checks(device: str) -> dict[str, Check]:
    """Every check by name.

    Args:
        device: ``"cuda"``, or ``"cpu"`` for the same in small.
    """
    found: dict[str, Check] = {}
    for name in _names("lightning_saliency.functional.statistics", "STATISTICS"):
        found[f"statistic {name}"] = partial(_statistic, name, device)
    found["statistic smoe_scale, compiled"] = partial(_compiled_statistic, device)
    explainers = _names("lightning_saliency.explainers", "EXPLAINERS", "CONTROL_MAPS")
    for name in (*explainers, "torchcam:LayerCAM"):
        found[f"explainer {name}"] = partial(_explainer, name, device)
    found["explainers on volumes"] = partial(_volumes, device)
    for name in ("smoe", "fast_cam", "group_cam"):
        found[f"explainer {name}, bf16 autocast"] = partial(_autocast, name, device)
    for name in _names("lightning_saliency.metrics", "__all__"):
        found[f"metric {name}"] = partial(_metric, name, device)
    found["module and tiles"] = partial(_deployment, device)
    precisions = ("32-true", "bf16-mixed", *(("16-mixed", "bf16-true") if device == "cuda" else ()))
    for precision in precisions:
        found[f"monitor, {precision}"] = partial(_monitor, precision, device)
    found["monitor, compiled network"] = partial(_compiled_monitor, device)
    found["augmentation, bf16-mixed"] = partial(_augmentation, device)
    for name in SCORING:
        found[f"out of memory, pretended: {name}"] = partial(_pretended_oom, name, device)
    found["out of memory, pretended: augmentation"] = partial(_augmentation_oom, device)
    if device == "cuda":
        found["out of memory, real: group_cam"] = _real_oom
    return found


def _names(module: str, *attributes: str) -> list[str]:
    import importlib

    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        # One entry says why, in the place of all.
        return [f"(of {module}: {error})"]
    return [name for attribute in attributes for name in getattr(imported, attribute)]


def _network(device: str, classes: int = 10, small: bool = False) -> nn.Module:
    """A ResNet-18, or one of half its blocks."""
    from torchvision.models.resnet import BasicBlock, ResNet

    torch.manual_seed(0)
    return ResNet(BasicBlock, [1 if small else 2] * 4, num_classes=classes).eval().to(device)


def _images(count: int = 4, size: int = 96) -> Tensor:
    torch.manual_seed(1)
    return nn.functional.interpolate(torch.randn(count, 3, 9, 9), (size, size), mode="bicubic")


def _exact() -> None:
    """Single precision without TF32, as on a CPU."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def _agree(found: Tensor, expected: Tensor, least: float = 0.99) -> tuple[bool, str]:
    found, expected = found.detach().float().cpu(), expected.detach().float().cpu()
    difference = float((found - expected).abs().max())
    if not found.isfinite().all() or found.shape != expected.shape:
        return False, f"shape {list(found.shape)}, finite: {bool(found.isfinite().all())}"
    correlation = float(torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1])
    return correlation >= least or difference < 1e-3, f"correlation {correlation:.5f}, difference {difference:.1e}"


def _statistic(name: str, device: str) -> tuple[bool, str]:
    from lightning_saliency.functional.statistics import STATISTICS

    torch.manual_seed(0)
    activations, statistic, worst = torch.randn(2, 64, 17, 23), STATISTICS[name], 0.0
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        given = activations.to(dtype)
        expected, found = statistic(given), statistic(given.to(device)).cpu()
        worst = max(worst, float(((found - expected).abs() / (1e-4 + 1e-3 * expected.abs())).max()))
    return worst <= 1, f"{worst:.2g} of the tolerance, in three precisions"


def _compiled_statistic(device: str) -> tuple[bool, str]:
    from lightning_saliency.functional.statistics import smoe_scale

    activations = torch.randn(2, 64, 28, 28).relu().to(device)
    compiled = torch.compile(smoe_scale, backend="inductor" if device == "cuda" else "aot_eager", dynamic=False)
    with torch.no_grad():
        difference = float((compiled(activations) - smoe_scale(activations)).abs().max())
    return difference < 1e-4, f"difference {difference:.1e}"


def _explainer(name: str, device: str) -> tuple[bool, str]:
    from lightning_saliency.explainers import build_explainer

    _exact()
    small = device == "cpu"
    network, images = _network("cpu", small=small), _images(2, 32) if small else _images()
    targets = torch.arange(len(images))
    expected = build_explainer(name, network, **FEW.get(name, {}))(images, targets)
    moved = copy.deepcopy(network).to(device)
    found = build_explainer(name, moved, **FEW.get(name, {}))(images.to(device), targets.to(device))
    return _agree(found, expected)


def _volumes(device: str) -> tuple[bool, str]:
    from lightning_saliency.explainers import SMOE, GradCAM

    torch.manual_seed(0)
    layers = [nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(8, 8, 3, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten()).eval()
    clips, moved = torch.randn(2, 1, 8, 24, 24), copy.deepcopy(network).to(device)
    outcomes = [_agree(kind(moved)(clips.to(device), 3), kind(network)(clips, 3)) for kind in (SMOE, GradCAM)]
    return all(holds for holds, _ in outcomes), "; ".join(text for _, text in outcomes)


def _autocast(name: str, device: str) -> tuple[bool, str]:
    from lightning_saliency.explainers import build_explainer

    small = device == "cpu"
    network, images = _network(device, small=small), _images(2, 32 if small else 96).to(device)
    explainer = build_explainer(name, network, **FEW.get(name, {}))
    expected = explainer(images, 3)
    with torch.autocast(device, dtype=torch.bfloat16):
        found = explainer(images, 3)
    return _agree(found, expected, least=0.9)


def _metric(name: str, device: str) -> tuple[bool, str]:
    from lightning_saliency import metrics

    _exact()
    network, images = _network("cpu", small=device == "cpu"), _images(4, 32)
    torch.manual_seed(2)
    maps, masks, targets = torch.rand(4, 32, 32), torch.rand(4, 32, 32) > 0.7, torch.tensor([0, 1, 2, 3])
    values = []
    for place in ("cpu", device):
        options = {"steps": 8} if name.endswith("AUC") else {}
        metric = getattr(metrics, name)(**options).to(place)
        if "model" in inspect.signature(metric.update).parameters:
            given = (copy.deepcopy(network).to(place), images.to(place), maps.to(place), targets.to(place))
        else:
            given = (maps.to(place), masks.to(place))
        metric.update(*given)
        values.append(float(metric.compute()))
    close = abs(values[0] - values[1]) <= 1e-3 * max(1.0, abs(values[0]))
    return close, f"{values[0]:.5f} and {values[1]:.5f}"


def _deployment(device: str) -> tuple[bool, str]:
    from lightning_saliency.deployment import SaliencyModule, explain_tiled
    from lightning_saliency.explainers import SMOE

    network, images = _network(device, small=device == "cpu"), _images(2).to(device)
    with torch.no_grad():
        _, map_ = SaliencyModule(network, images)(images)
    expected = SMOE(network)(images)
    holds, text = _agree(map_, expected)
    tiled, more = _agree(explain_tiled(network, images[0], tile=96, overlap=32), expected[0])
    return holds and tiled, f"module: {text}; tiles: {more}"


# --- runs of a Trainer


def _fit(
    callbacks: list[Any], device: str, precision: str = "32-true", wrap: Any = None, validate: bool = True
) -> tuple[Any, dict[str, float], Path]:
    import pytorch_lightning as pl
    from torch.utils.data import DataLoader, TensorDataset

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = _network("cpu", 4, small=device == "cpu").train()
            if wrap is not None:
                wrap(self)

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images)

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch: list[Tensor], index: int) -> None:
            self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=1e-2)

    pl.seed_everything(1, verbose=False)
    count, size = (64, 64) if device == "cuda" else (16, 32)
    data = TensorDataset(torch.rand(count, 3, size, size), torch.randint(0, 4, (count,)))
    loader, folder, module = DataLoader(data, count // 4), tempfile.mkdtemp(), Module()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        trainer = pl.Trainer(
            max_epochs=2,
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=1,
            precision=precision,
            logger=False,
            default_root_dir=folder,
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, loader, loader if validate else None)
    finally:
        torch.use_deterministic_algorithms(False)
    return module.state_dict(), {name: float(value) for name, value in trainer.callback_metrics.items()}, Path(folder)


def _monitor(precision: str, device: str) -> tuple[bool, str]:
    from lightning_saliency import SaliencyMonitor

    plain, _, _ = _fit([], device, precision)
    watched, values, folder = _fit([SaliencyMonitor(num_images=4, views=("overview", "scales"))], device, precision)
    identical = all(torch.equal(plain[name], watched[name]) for name in plain)
    pictures = sum(1 for _ in folder.rglob("*.png"))
    drift = values.get("saliency/drift")
    return identical and pictures >= 4 and drift is not None, (
        f"weights identical: {identical}, {pictures} pictures, drift {drift}"
    )


def _compiled_monitor(device: str) -> tuple[bool, str]:
    from lightning_saliency import SaliencyMonitor

    backend = "inductor" if device == "cuda" else "aot_eager"
    monitor = SaliencyMonitor(num_images=4)
    _, values, _ = _fit([monitor], device, wrap=lambda module: module.net.compile(backend=backend))
    return "saliency/drift" in values, f"drift {values.get('saliency/drift')}"


def _augmentation(device: str) -> tuple[bool, str]:
    from lightning_saliency import GroupCAMAugmentation

    _, values, _ = _fit([GroupCAMAugmentation(groups=4)], device, "bf16-mixed")
    return values.get("group_cam/augmented", 0.0) > 0, f"augmented {values.get('group_cam/augmented')}"


# --- out of memory


class _Limited(nn.Module):
    """Has no room for more than some images in passes without gradients."""

    def __init__(self, network: nn.Module, most: int) -> None:
        super().__init__()
        self.network, self.most = network, most
        # Outside of the module, where it is not put back after a pass.
        self.noted = SimpleNamespace(refused=0)

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.most and not torch.is_grad_enabled():
            self.noted.refused += 1
            raise torch.OutOfMemoryError("pretended")
        found: Tensor = self.network(images)
        return found


def _pretended_oom(name: str, device: str) -> tuple[bool, str]:
    from lightning_saliency.explainers import build_explainer

    small = device == "cpu"
    network, images = _network(device, small=small), _images(2, 32 if small else 64).to(device)
    options = {**FEW[name], **({"max_masks": 3} if name == "sise" else {})}
    expected = build_explainer(name, network, **options)(images, 3)
    limited = _Limited(network, 3)
    options = {**options, **({"layer": "network.layer1"} if name == "score_cam" else {})}
    found = build_explainer(name, limited, **options)(images, 3)
    holds, text = _agree(found, expected)
    return holds and limited.noted.refused > 0, f"{text}, refused {limited.noted.refused} times"


def _augmentation_oom(device: str) -> tuple[bool, str]:
    from lightning_saliency import GroupCAMAugmentation

    found: list[_Limited] = []

    def limit(module: Any) -> None:
        # A training batch fits, and not a chunk of masked images.
        module.net = _Limited(module.net, 16 if device == "cuda" else 4)
        found.append(module.net)

    _, values, _ = _fit([GroupCAMAugmentation(groups=4)], device, wrap=limit, validate=False)
    share, refused = values.get("group_cam/augmented", 0.0), found[0].noted.refused
    return share > 0 and refused > 0, f"augmented {share}, refused {refused} times"


def _real_oom() -> tuple[bool, str]:
    """Group-CAM of a ResNet-50 where nearly all of the GPU's memory is taken."""
    from torchvision.models import resnet50

    from lightning_saliency.explainers import GroupCAM
    from lightning_saliency.explainers.mask_scoring.scorer import _chunk_size

    torch.manual_seed(0)
    network, images = resnet50().eval().to("cuda"), _images(4, 224).to("cuda")
    expected = GroupCAM(network, groups=32, batch_size=8)(images, 3)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    ballast = torch.empty(max(0, free - 2 * 2**30), dtype=torch.uint8, device="cuda")
    try:
        torch.cuda.reset_peak_memory_stats()
        retries = torch.cuda.memory_stats().get("num_ooms", 0)
        found = GroupCAM(network, groups=32)(images, 3)
        refused = torch.cuda.memory_stats().get("num_ooms", 0) - retries
    finally:
        del ballast
        torch.cuda.empty_cache()
    holds, text = _agree(found, expected)
    first = _chunk_size(images, half=False)
    return holds, f"{text}, ran out of memory {refused} times beginning with {first} images, with 2 GiB free"
