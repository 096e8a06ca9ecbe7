"""The lines of docs/special_networks.md do what their section says, with a small network of that kind."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_saliency import SaliencyMonitor, ScaleMaps, ScaleTaps, find_scales
from lightning_saliency.explainers import FastCAM, GradCAM, GroupCAM
from lightning_saliency.lightning_bases import LightningModule
from lightning_saliency.pictures.page.find import RECORDS, find_run
from lightning_saliency.pictures.page.store import FilmRecords
from tests.callbacks.monitor.helpers import trainer
from tests.pages.blocks import code_blocks, run_blocks, section, text_of

PAGE = text_of("docs/special_networks.md")
LIBRARY = {
    **{one.__name__: one for one in (SaliencyMonitor, ScaleMaps, ScaleTaps, FastCAM, GradCAM, GroupCAM)},
    "find_scales": find_scales,
    "nn": nn,
}


#: An image and its number -> a sample.
Make = Callable[[Tensor, int], Any]


class Net(nn.Module):
    """A stem, two stages, and any head, which gets the logits of the image and of each place."""

    def __init__(self, head: Callable[[Tensor, Tensor], Any] | None = None, classes: int = 4, volumes: bool = False):
        super().__init__()
        conv, pool = (nn.Conv3d, nn.MaxPool3d) if volumes else (nn.Conv2d, nn.MaxPool2d)
        self.stem = nn.Sequential(conv(3, 8, 3, padding=1), nn.ReLU())
        self.stages = nn.Sequential(*(nn.Sequential(pool(2), conv(8, 8, 3, padding=1), nn.ReLU()) for _ in range(2)))
        self.linear = nn.Linear(8, classes)
        self.head = head

    def forward(self, images: Tensor, metadata: Tensor | None = None) -> Any:
        features = self.stages(self.stem(images))
        pooled = features.flatten(2).mean(2)
        logits = self.linear(pooled if metadata is None else pooled + metadata)
        return logits if self.head is None else self.head(logits, self.linear(features.movedim(1, -1)).movedim(-1, 1))


class Module(LightningModule):
    """Any network, trained on anything that it returns."""

    def __init__(self, step: Callable[[Module, Any], Any], **children: nn.Module) -> None:
        super().__init__()
        self.step = step
        for name, child in children.items():
            setattr(self, name, child)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.step(self, batch).float().square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.step(self, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Samples(Dataset[Any]):
    """Eight images, and what a function makes of each and its number."""

    def __init__(self, make: Make) -> None:
        self.make = make

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        return self.make(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(index)), index)


class Fitted(NamedTuple):
    """The views of which there are pictures, and the scalars that were logged."""

    views: set[str]
    scalars: set[str]


def fit(folder, monitor: SaliencyMonitor, module: Module, make: Callable[[Tensor, int], Any], **options: Any) -> Fitted:
    """Fit for an epoch without a warning of the monitor's."""
    torch.manual_seed(0)
    data = DataLoader(Samples(make), 4, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*SaliencyMonitor")
        run = trainer(folder, monitor, epochs=1)
        run.fit(module, data, data)
    return Fitted({path.parent.name for path in folder.rglob("*step=*.png")}, set(run.callback_metrics))


def run(heading: str, **names: Any) -> dict[str, Any]:
    """Run a section's code; its maps, if any, are finite maps in [0, 1]."""
    images, labels = torch.rand(2, 3, 32, 32), torch.tensor([1, 0])
    found = run_blocks(code_blocks(section(PAGE, heading)), **{**LIBRARY, "images": images, "labels": labels, **names})
    if isinstance(maps := found.get("maps"), Tensor):
        assert maps.shape[0] == 2
        assert maps.shape[-1] in (16, 32)
        assert 0 <= float(maps.min()) <= float(maps.max()) <= 1
    return found


def classified(image: Tensor, index: int) -> Any:
    return image, index % 4


def first(module: Module, batch: Any) -> Any:
    return module.net(batch[0])


def test_one_of_several(tmp_path):
    monitor = run("The network is one of several in the module")["monitor"]
    module = Module(lambda module, batch: module.student(batch[0]), student=Net(), teacher=Net())
    assert fit(tmp_path, monitor, module, classified).views == {"overview"}


def test_layers(tmp_path):
    found = run("The layers are not what I want", network=(net := Net()))
    module = Module(first, net=net)
    assert fit(tmp_path, found["monitor"], module, classified).views == {"overview"}
    store = FilmRecords(find_run(tmp_path) / RECORDS)
    assert list(store.read(store.frames()[-1]).scales) == ["stem", "stages.1:input", "stages.1"]


def test_batches(tmp_path):
    monitor = run("Batches of an unusual form")["monitor"]
    module = Module(lambda module, batch: module.net(batch["views"]["side"]), net=Net())

    def nested(image: Tensor, index: int) -> Any:
        return {"views": {"top": 1 - image, "side": image}, "meta": {"species": index % 4, "age": index}}

    assert fit(tmp_path, monitor, module, nested).views == {"overview"}


def test_several_inputs(tmp_path):
    net, metadata = Net(), torch.rand(8)
    found = run("Several inputs", network=net, metadata=metadata)
    module = Module(lambda module, batch: module.net(batch[0], metadata=metadata), net=net)
    assert fit(tmp_path, found["monitor"], module, classified).views == {"overview"}


def test_several_outputs(tmp_path):
    net = Net(lambda logits, pixels: {"heads": {"shape": pixels, "color": logits}})
    found = run("Several outputs", network=net)
    module = Module(lambda module, batch: module.net(batch[0])["heads"]["color"], net=net)
    assert fit(tmp_path, found["monitor"], module, classified).views == {"overview", "fast_cam"}


def test_one_logit(tmp_path):
    net = Net(classes=1)
    found = run("One logit", network=net)
    module = Module(first, net=net)
    fitted = fit(tmp_path, found["monitor"], module, lambda image, index: (image, float(index % 2)))
    assert fitted.views == {"overview", "grad_cam"}


def test_several_labels(tmp_path):
    net = Net()
    found = run("Several labels an image", network=net)
    module = Module(first, net=net)
    fitted = fit(
        tmp_path, found["monitor"], module, lambda image, index: (image, torch.tensor([0.0, 1.0, 1.0, index % 2]))
    )
    assert fitted.views == {"overview", "group_cam"}


def test_tokens(tmp_path):
    from torchvision.models import VisionTransformer

    net = VisionTransformer(32, 8, num_layers=4, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=4)
    nn.init.normal_(net.heads[-1].weight)  # zero before training
    found = run("Tokens: ViT, Swin and other transformers", network=net)
    assert fit(tmp_path, found["monitor"], Module(first, net=net), classified).views == {"overview", "grad_cam"}


def test_segmentation(tmp_path):
    net = Net(lambda logits, pixels: {"out": nn.functional.interpolate(pixels, scale_factor=4.0)})
    found = run("Segmentation", network=net)
    mask = torch.zeros(32, 32, dtype=torch.int64)
    mask[8:20, 8:20] = 2
    module = Module(lambda module, batch: module.net(batch["image"])["out"], net=net)
    fitted = fit(tmp_path, found["monitor"], module, lambda image, index: {"image": image, "mask": mask})
    assert fitted.views == {"overview", "grad_cam"}
    assert "saliency/energy_in_box" in fitted.scalars


def test_detection(tmp_path):
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1))
    body.out_channels = 8  # type: ignore[assignment]
    net = FasterRCNN(
        body, 3, rpn_anchor_generator=AnchorGenerator(((16,),), ((1.0,),)), box_roi_pool=None, min_size=32, max_size=32
    )

    def step(module: Module, batch: Any) -> Any:
        images, targets = batch
        returned = module.net(list(images), list(targets) if module.training else None)
        return sum(returned.values()) if module.training else returned

    def boxed(image: Tensor, index: int) -> Any:
        return image, {"boxes": torch.tensor([[4.0, 4.0, 20.0, 20.0]]), "labels": torch.tensor([1 + index % 2])}

    monitor = run("Detection")["monitor"]
    fitted = fit(
        tmp_path, monitor, Module(step, net=net), boxed, collate_fn=lambda items: tuple(zip(*items, strict=True))
    )
    assert fitted.views == {"overview"}
    assert "saliency/energy_in_box" in fitted.scalars


def test_normalised(tmp_path):
    monitor = run("Greyscale, many channels, bytes, channels last")["monitor"]
    module = Module(first, net=Net())
    assert fit(tmp_path, monitor, module, lambda image, index: ((image - 0.5) / 0.25, index % 4)).views == {"overview"}


def test_regression(tmp_path):
    net = Net(classes=1)
    found = run("A regression", network=net)
    assert fit(tmp_path, found["monitor"], Module(first, net=net), lambda image, index: (image, 0.7 * index)).views == {
        "overview"
    }


def test_texts_beside_images(tmp_path):
    monitor = run("Texts beside images, several loaders")["monitor"]
    texts = DataLoader(torch.randint(0, 9, (8, 5)), 4)
    images = DataLoader(Samples(classified), 4)

    def step(module: Module, batch: Any) -> Any:
        return module.net(batch[0]) if isinstance(batch, list) else module.net.linear.weight

    class Two(Module):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.step(self, batch)

    run_of = trainer(tmp_path, monitor, epochs=1)
    run_of.fit(Two(step, net=Net()), images, [texts, images])
    assert {path.parent.name for path in tmp_path.rglob("*step=*.png")} == {"overview"}


def test_volumes():
    assert run("Volumes and clips", network=Net(volumes=True), clips=torch.rand(2, 3, 8, 16, 16))["maps"].ndim == 4


def test_without_lightning():
    found = run("No Lightning at all", network=Net())
    assert found["pictures"].shape == (2, 3, 32, 32)
    assert found["maps"].maps.shape[1] == len(found["scales"]) == 3


def test_each_section_with_code_is_run():
    headings = [part.partition("\n")[0] for part in PAGE.split("\n## ")[1:] if "```python" in part]
    assert len(headings) == 15
    source = text_of("tests/pages/test_special_networks.py")
    assert all(f'"{heading}"' in source for heading in headings)


@pytest.mark.parametrize("page", ["docs/shortcut.md", "docs/ideas.md"])
def test_names_in_other_pages_exist(page):
    for block in code_blocks(text_of(page)):
        for line in block.splitlines():
            if line.startswith(("from lightning_saliency", "import lightning_saliency")):
                run_blocks([line])
