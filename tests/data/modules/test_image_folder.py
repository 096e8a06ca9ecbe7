from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from lightning_saliency.data import ImageFolderDataModule
from lightning_saliency.data.modules.image_folder import hold_out
from lightning_saliency.pictures.tensors import IMAGENET_NORMALIZATION

COLORS = {"ant": (200, 30, 30), "bee": (30, 200, 30), "cat": (30, 30, 200)}


def make_split(folder: Path, counts: dict[str, int], size: tuple[int, int] = (40, 30)) -> None:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            red, green, blue = COLORS.get(name, (9, 9, 9))
            Image.new("RGB", size, (red + number, green, blue)).save(folder / name / f"{number}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        make_split(tmp_path / split, dict.fromkeys(COLORS, count))
    return tmp_path


def ready(stage: str | None = None, **options: object) -> ImageFolderDataModule:
    module = ImageFolderDataModule(**{"image_size": 24, "batch_size": 4, **options})
    module.setup(stage)
    return module


def paths(dataset: object) -> set[str]:
    """The files of a data set or of a subset of one."""
    files = getattr(dataset, "dataset", dataset).samples
    return {files[index][0] for index in getattr(dataset, "indices", range(len(files)))}


def test_batches_and_classes(root: Path) -> None:
    module = ready(root=root)
    images, labels = next(iter(module.train_dataloader()))
    assert (images.shape, images.dtype) == ((4, 3, 24, 24), torch.float32)
    assert (labels.shape, labels.dtype) == ((4,), torch.int64)
    assert (module.classes, module.num_classes) == (["ant", "bee", "cat"], 3)
    assert [len(module.datasets[split]) for split in ("train", "val", "test")] == [18, 6, 9]


def test_evaluation_images_are_normalised_with_the_attribute(root: Path) -> None:
    module = ready(root=root)
    assert isinstance(module.normalize, v2.Normalize)
    assert module.transform.transforms[-1] is module.normalize is module.train_transform.transforms[-1]
    images, labels = next(iter(module.val_dataloader()))
    color = torch.tensor(COLORS["ant"]) / 255
    mean, std = map(torch.tensor, IMAGENET_NORMALIZATION)
    expected = (color - mean) / std
    assert labels[0] == 0
    assert torch.allclose(images[0], expected[:, None, None].expand(3, 24, 24), atol=1e-5)


def test_own_mean_and_std(root: Path) -> None:
    images, _ = next(iter(ready(root=root, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)).val_dataloader()))
    assert torch.allclose(images[0, :, 0, 0], (torch.tensor(COLORS["ant"]) / 255 - 0.5) / 0.25, atol=1e-5)


def test_evaluation_resizes_the_short_side_to_eight_sevenths_and_crops_the_centre(tmp_path: Path) -> None:
    wide = Image.new("RGB", (64, 32), (0, 0, 0))
    wide.paste((255, 255, 255), (16, 0, 48, 32))
    (tmp_path / "train" / "only").mkdir(parents=True)
    for name in ("a", "b"):
        wide.save(tmp_path / "train" / "only" / f"{name}.png")
    module = ready(root=tmp_path, image_size=28, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    image = module.datasets["val"][0][0]
    # 32 of 64 columns in the middle are white: a crop elsewhere, or a smaller resize, would show black.
    assert image.shape == (3, 28, 28)
    assert image.min() == 1
    assert (
        ready(root=tmp_path, image_size=56, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).datasets["val"][0][0].min() == 1
    )


def test_training_images_vary_only_with_augment(tmp_path: Path) -> None:
    (tmp_path / "train" / "only").mkdir(parents=True)
    noise = (torch.rand(32, 32, 3) * 255).byte().numpy()
    for name in ("a", "b"):
        Image.fromarray(noise).save(tmp_path / "train" / "only" / f"{name}.png")
    varied, fixed = (ready(root=tmp_path, augment=augment).datasets["train"] for augment in (True, False))
    assert not torch.equal(varied[0][0], varied[0][0])
    assert torch.equal(fixed[0][0], fixed[0][0])
    validation = ready(root=tmp_path).datasets["val"]
    assert torch.equal(validation[0][0], validation[0][0])


def test_a_validation_folder_may_be_called_validation(root: Path) -> None:
    (root / "val").rename(root / "validation")
    assert len(ready(root=root).datasets["val"]) == 6


def test_without_a_validation_folder_a_share_of_each_class_is_set_aside(tmp_path: Path) -> None:
    make_split(tmp_path / "train", {"ant": 8, "bee": 4, "cat": 2})
    module = ready("fit", root=tmp_path, val_fraction=0.25, seed=1)
    train, val = paths(module.datasets["train"]), paths(module.datasets["val"])
    assert not train & val
    assert len(train | val) == 14
    assert sorted(Path(path).parent.name for path in val) == ["ant", "ant", "bee", "cat"]
    assert paths(ready("validate", root=tmp_path, val_fraction=0.25, seed=1).datasets["val"]) == val
    assert any(paths(ready("fit", root=tmp_path, val_fraction=0.25, seed=s).datasets["val"]) != val for s in (2, 3, 4))
    assert module.datasets["train"].dataset.transform is module.train_transform
    assert module.datasets["val"].dataset.transform is module.transform


def test_a_validation_folder_makes_val_fraction_idle(root: Path) -> None:
    assert len(ready("fit", root=root, val_fraction=0.5).datasets["train"]) == 18


def test_folders_of_their_own_take_precedence_over_the_root(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    make_split(elsewhere, dict.fromkeys(COLORS, 1))
    module = ready(root=root, val_dir=elsewhere)
    assert paths(module.datasets["val"]) == {str(elsewhere / name / "0.png") for name in COLORS}
    assert len(ready("test", test_dir=elsewhere).datasets["test"]) == 3


def test_hold_out_takes_a_share_but_never_a_whole_class() -> None:
    labels = torch.tensor([0] * 20 + [1] * 2 + [2])
    for fraction, expected in ((0.1, [2, 1, 0]), (0.99, [19, 1, 0]), (0.01, [1, 1, 0])):
        chosen, left = hold_out(labels, fraction, seed=0)
        assert torch.bincount(labels[chosen], minlength=3).tolist() == expected
        assert torch.equal(torch.cat([chosen, left]).sort().values, torch.arange(23))


def test_missing_folders_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give `root`"):
        ImageFolderDataModule()
    with pytest.raises(FileNotFoundError, match=r"nowhere, where there is no folder"):
        ready(root=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"Got val_dir=.*nowhere, where there is no folder"):
        ready(root=root, val_dir=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"Got no test folder with root=None. Give test_dir"):
        ready("test", train_dir=root / "train")
    with pytest.raises(FileNotFoundError, match=r"Got no train folder with root=None. Give train_dir"):
        ready("fit", val_dir=root / "val")


def test_empty_folders_are_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    with pytest.raises(FileNotFoundError, match=r"train_dir=.*bare, an empty folder"):
        ready(train_dir=tmp_path / "bare")
    with pytest.raises(FileNotFoundError, match="a folder without splits"):
        ready(root=tmp_path / "bare")
    for image in (root / "train" / "bee").iterdir():
        image.unlink()
    with pytest.raises(FileNotFoundError, match=r"class without images in train_dir=.*bee"):
        ready(root=root)


def test_classes_must_not_differ_between_splits(root: Path) -> None:
    (root / "test" / "cat").rename(root / "test" / "dog")
    with pytest.raises(ValueError, match=r"test folder lacks \['cat'\] and alone has \['dog'\]"):
        ready("fit", root=root)


def test_one_image_a_class_leaves_nothing_to_set_aside(tmp_path: Path) -> None:
    make_split(tmp_path / "train", dict.fromkeys(COLORS, 1))
    with pytest.raises(ValueError, match="give val_dir"):
        ready("fit", root=tmp_path)


def test_classes_are_known_before_setup(root: Path) -> None:
    assert ImageFolderDataModule(root).num_classes == 3


def test_a_loader_before_setup_says_so(root: Path) -> None:
    module = ImageFolderDataModule(root)
    with pytest.raises(RuntimeError, match=r"setup\(\)"):
        module.train_dataloader()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "Got image_size=0"),
        ({"val_fraction": 1.0}, r"Got val_fraction=1\.0"),
        ({"mean": (0.5, 0.5)}, "Got mean=.*Allowed are 'imagenet' and three numbers"),
        ({"std": "cifar"}, "Got std='cifar'"),
        ({"std": (0.0, 1.0, 1.0)}, "three positive numbers"),
    ],
)
def test_wrong_arguments_are_refused(root: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFolderDataModule(root, **options)


def test_the_trainer_takes_it(root: Path) -> None:
    class Mean(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 3)

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            return torch.nn.functional.cross_entropy(self.layer(batch[0].mean(dim=(2, 3))), batch[1])

        def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            return self.training_step(batch, batch_idx)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    trainer = pl.Trainer(accelerator="cpu", fast_dev_run=2, enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(Mean(), ImageFolderDataModule(root, image_size=24, batch_size=4, num_workers=2))
    assert trainer.global_step == 2
