"""Modules of other libraries with the monitor at its defaults, the augmentation and masked retraining data.

For each library that is installed: a module of its own, trained for two epochs on noise, plainly and with
`SaliencyMonitor()` (equal weights, bit for bit, and a film?), with `SaliencyAugmentation`, and on `RoarKarDataModule`.
The libraries are no dependencies of this project: install them into an environment of their own.

    python -m benchmarks.other_libraries [--only NAME ...] [--write]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import tempfile
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks._timing import origin
from lightning_saliency import SaliencyAugmentation, SaliencyMonitor
from lightning_saliency.data import RoarKarDataModule
from lightning_saliency.lightning_bases import trainer_class

PAGE = Path(__file__).parents[1] / "docs" / "results" / "other_libraries.md"
RAW = PAGE.with_suffix("") / "answers.json"
SIDE, CLASSES, COUNT = 64, 4, 24


@dataclass(frozen=True)
class Member:
    """A module of a library, and data as that library's loaders hand them out.

    Attributes:
        package: Name on the package index.
        make: Makes the module, the same each time.
        sample: Makes the sample at an index.
        augment: Whether its batches carry classes, so that the augmentation and masked retraining apply.
        collate: Gives what makes a batch of samples; ``None``: as torch does.
    """

    package: str
    make: Callable[[], Any]
    sample: Callable[[int], Any]
    augment: bool = True
    collate: Callable[[], Any] | None = None


class Samples(Dataset):  # type: ignore[type-arg]
    """Samples made from their index."""

    def __init__(self, sample: Callable[[int], Any]) -> None:
        self.sample = sample

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Any:
        return self.sample(index)


def image(index: int, channels: int = 3) -> Tensor:
    """Noise, the same for an index, brighter by its class."""
    generator = torch.Generator().manual_seed(index)
    return torch.rand(channels, SIDE, SIDE, generator=generator) + label(index)


def label(index: int) -> int:
    """The class of an index."""
    return index % CLASSES


def mask(index: int) -> Tensor:
    """A square of the index's class."""
    found = torch.zeros(SIDE, SIDE, dtype=torch.int64)
    found[8:40, 8:40] = label(index)
    return found


def torchgeo_classification(channels: int) -> Member:
    def make() -> Any:
        from torchgeo.trainers import ClassificationTask

        return ClassificationTask("resnet18", weights=None, in_channels=channels, num_classes=CLASSES)

    return Member("torchgeo", make, lambda index: {"image": image(index, channels), "label": label(index)})


def torchgeo_segmentation() -> Member:
    def make() -> Any:
        from torchgeo.trainers import SemanticSegmentationTask

        return SemanticSegmentationTask("unet", "resnet18", weights=None, in_channels=3, num_classes=CLASSES)

    return Member("torchgeo", make, lambda index: {"image": image(index), "mask": mask(index)})


def _module(network: nn.Module, read: Callable[[Any], tuple[Tensor, Tensor]]) -> Any:
    """A LightningModule as the libraries' guides write them: a network, cross entropy, Adam."""
    import pytorch_lightning as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor) -> Any:
            return self.network(images)

        def _loss(self, batch: Any) -> Tensor:
            images, targets = read(batch)
            return F.cross_entropy(self(images), targets)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self._loss(batch)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self._loss(batch))

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-3)

    return Module()


def smp_unet() -> Member:
    def make() -> Any:
        import segmentation_models_pytorch as smp

        network = smp.Unet("resnet18", encoder_weights=None, classes=CLASSES)
        return _module(network, lambda batch: (batch["image"], batch["mask"]))

    return Member("segmentation-models-pytorch", make, lambda index: {"image": image(index), "mask": mask(index)})


def monai_classifier() -> Member:
    def make() -> Any:
        from monai.networks.nets import DenseNet121

        network = DenseNet121(spatial_dims=2, in_channels=1, out_channels=CLASSES)
        return _module(network, lambda batch: (batch["image"], batch["label"]))

    def sample(index: int) -> Any:
        from monai.data import MetaTensor

        return {"image": MetaTensor(image(index, 1)), "label": label(index)}

    return Member("monai", make, sample, collate=_monai_collate)


def monai_unet() -> Member:
    def make() -> Any:
        from monai.networks.nets import UNet

        network = UNet(2, 1, CLASSES, channels=(8, 16, 32), strides=(2, 2))
        return _module(network, lambda batch: (batch["image"], batch["label"][:, 0].long()))

    def sample(index: int) -> Any:
        from monai.data import MetaTensor

        return {"image": MetaTensor(image(index, 1)), "label": MetaTensor(mask(index)[None].float())}

    return Member("monai", make, sample, collate=_monai_collate)


def _monai_collate() -> Any:
    from monai.data import list_data_collate

    return list_data_collate


def lightly_simclr() -> Member:
    def make() -> Any:
        import pytorch_lightning as pl
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead
        from torchvision.models import resnet18

        class SimCLR(pl.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.backbone = nn.Sequential(*list(resnet18().children())[:-1])
                self.projection_head = SimCLRProjectionHead(512, 64, 32)
                self.criterion = NTXentLoss()

            def forward(self, images: Tensor) -> Tensor:
                features: Tensor = self.projection_head(self.backbone(images).flatten(1))
                return features

            def _loss(self, batch: Any) -> Tensor:
                (first, second), _, _ = batch
                loss: Tensor = self.criterion(self(first), self(second))
                return loss

            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                return self._loss(batch)

            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.log("val_loss", self._loss(batch))

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), 0.05)

        return SimCLR()

    return Member(
        "lightly", make, lambda index: ([image(index), image(index).flip(-1)], label(index), f"{index}.png"), False
    )


def anomalib(name: str, **options: Any) -> Member:
    def make() -> Any:
        from anomalib import models

        return getattr(models, name)("resnet18", pre_trained=False, **options)

    def sample(index: int) -> Any:
        from anomalib.data import ImageItem

        found = mask(index) > 0
        return ImageItem(
            image=image(index).clamp(max=1), gt_label=found.any(), gt_mask=found, image_path=f"{index}.png"
        )

    def collate() -> Any:
        from anomalib.data import ImageBatch

        return ImageBatch.collate

    return Member("anomalib", make, sample, False, collate)


MEMBERS: dict[str, Callable[[], Member]] = {
    "torchgeo ClassificationTask, RGB": lambda: torchgeo_classification(3),
    "torchgeo ClassificationTask, 13 bands": lambda: torchgeo_classification(13),
    "torchgeo SemanticSegmentationTask": torchgeo_segmentation,
    "smp Unet": smp_unet,
    "MONAI DenseNet121": monai_classifier,
    "MONAI UNet": monai_unet,
    "lightly SimCLR": lightly_simclr,
    "anomalib PaDiM": lambda: anomalib("Padim", layers=["layer1", "layer2"], n_features=20),
    "anomalib FastFlow": lambda: anomalib("Fastflow"),
    "anomalib reverse distillation": lambda: anomalib("ReverseDistillation"),
}


def train(member: Member, folder: Path, callbacks: list[Any], mode: str | None = None) -> dict[str, Tensor]:
    """Train two epochs and return the weights; with a mode on data of which the maps' top half is masked so."""
    torch.manual_seed(0)
    module = member.make()
    options: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "callbacks": callbacks,
        "default_root_dir": folder,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    # What anomalib's modules ask of their trainer.
    trainer = trainer_class(module)(**options | getattr(module, "trainer_arguments", {}))
    collate = None if member.collate is None else member.collate()
    loaders = [DataLoader(Samples(member.sample), 8, collate_fn=collate) for _ in range(2)]
    if mode is None:
        trainer.fit(module, *loaders)
    else:
        trainer.fit(module, datamodule=_masked(loaders, mode))
    return {name: value.clone() for name, value in module.state_dict().items()}


def _masked(loaders: list[Any], mode: str) -> Any:
    import pytorch_lightning as pl

    class Loaders(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            return loaders[0]

        def val_dataloader(self) -> Any:
            return loaders[1]

        def test_dataloader(self) -> Any:
            return loaders[1]

    return RoarKarDataModule(Loaders(), "edges", mode, 0.5, model=nn.Identity())


def answers(member: Member) -> dict[str, str]:
    """What worked, by column; a reason where something was refused or failed."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = train(member, folder / "plain", [])
        found["monitor"] = _tried(lambda: _watched(member, folder / "watched", plain))
        if member.augment:
            augmentation = lambda: SaliencyAugmentation("grad_cam", film=False)  # noqa: E731
            found["augmentation"] = _tried(lambda: _changed(train(member, folder / "a", [augmentation()]), plain))
            found["masked data"] = _tried(lambda: _changed(train(member, folder / "m", [], "roar"), plain))
    return found


def _watched(member: Member, folder: Path, plain: Mapping[str, Tensor]) -> str:
    weights = train(member, folder, [SaliencyMonitor()])
    different = [name for name, value in plain.items() if not torch.equal(value, weights[name])]
    pictures = len(list(folder.rglob("*.png")))
    if different:
        return f"weights differ: {different[0]}"
    return f"bit-identical, {pictures} pictures" if pictures else "bit-identical, no picture"


def _changed(weights: Mapping[str, Tensor], plain: Mapping[str, Tensor]) -> str:
    same = all(torch.equal(value, weights[name]) for name, value in plain.items())
    return "nothing was changed" if same else "works"


def _tried(function: Callable[[], str]) -> str:
    try:
        return function()
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def main() -> None:
    """Run the members whose library is installed, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(MEMBERS), help="members to run; default: all")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    columns = ("monitor", "augmentation", "masked data")
    rows = {}
    for name in options.only or MEMBERS:
        member = MEMBERS[name]()
        try:
            version = importlib.metadata.version(member.package)
        except importlib.metadata.PackageNotFoundError:
            print(f"{name}: {member.package} is not installed")
            continue
        rows[f"{name} ({member.package} {version})"] = answers(member)
    table = Table("", *columns)
    for name, row in rows.items():
        table.add_row(name, *(row.get(column, "no classes") for column in columns))
    Console(width=160).print(table)
    if options.write:
        lines = [
            f"| {name} | " + " | ".join(row.get(one, "no classes") for one in columns) + " |"
            for name, row in rows.items()
        ]
        text = (
            "# Modules of other libraries\n\nTwo epochs on noise, in an environment of their own. *monitor*: "
            "`SaliencyMonitor()` at its defaults, against the weights of the run without it. *augmentation*: "
            '`SaliencyAugmentation("grad_cam")`. *masked data*: `RoarKarDataModule` with ROAR at one half. '
            f"Raw results: `other_libraries/answers.json` ({origin('lightning', 'pytorch-lightning')}).\n\n"
            "```console\n$ python -m benchmarks.other_libraries --write\n```\n\n"
            f"| | {' | '.join(columns)} |\n|---|---|---|---|\n"
        )
        PAGE.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")
        RAW.parent.mkdir(exist_ok=True)
        RAW.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
