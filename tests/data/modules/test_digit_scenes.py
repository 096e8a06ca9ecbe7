from __future__ import annotations

import sys

import pytest
import pytorch_lightning as pl
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torchvision.transforms import v2

from lightning_saliency.data import DigitScenes
from lightning_saliency.data.modules import _scenes as drawing
from lightning_saliency.data.modules.digit_scenes import render_scenes
from lightning_saliency.data.shortcuts import class_colors

SPLITS = ("train", "val", "test")
SMALL = {"train_size": 60, "val_size": 30, "test_size": 30}


def ready(**options: object) -> DigitScenes:
    module = DigitScenes(**{**SMALL, **options})
    module.setup()
    return module


def all_batches(loader: object) -> dict[str, Tensor]:
    batches = list(loader)  # type: ignore[call-overload]
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def test_batches_have_the_promised_shapes_and_types() -> None:
    batch = next(iter(ready(batch_size=8, size=48).train_dataloader()))
    assert {name: (tuple(value.shape), value.dtype) for name, value in batch.items()} == {
        "image": ((8, 3, 48, 48), torch.float32),
        "label": ((8,), torch.int64),
        "boxes": ((8, 1, 4), torch.float32),
        "index": ((8,), torch.int64),
    }


def test_index_and_label_name_the_scene_in_the_batch() -> None:
    module = ready(batch_size=16)
    for batch in module.train_dataloader():
        scenes = module.datasets["train"].scenes
        assert torch.equal(batch["label"], scenes.labels[batch["index"]])
        assert torch.equal(batch["boxes"], scenes.boxes[batch["index"]])
        raw = scenes.images[batch["index"]].float() / 255
        mean, std = (torch.tensor(value)[:, None, None] for value in (module.normalize.mean, module.normalize.std))
        assert torch.allclose(batch["image"], (raw - mean) / std, atol=1e-5)


def test_one_sample_is_what_the_batch_holds() -> None:
    dataset = ready().datasets["val"]
    sample, batch = dataset[-1], dataset.__getitems__([3, 29])
    assert all(torch.equal(sample[name], batch[1][name]) for name in sample)
    with pytest.raises(IndexError, match="30"):
        dataset[30]


def test_the_normalisation_is_an_attribute_and_fits_the_images() -> None:
    module = ready(train_size=600)
    assert isinstance(module.normalize, v2.Normalize)
    assert module.transform.transforms[-1] is module.normalize
    images = all_batches(module.train_dataloader())["image"]
    assert images.mean(dim=(0, 2, 3)).abs().max() < 0.15
    assert (images.std(dim=(0, 2, 3)) - 1).abs().max() < 0.15


def test_same_seed_same_scenes_and_another_seed_others() -> None:
    first, second, other = (ready(seed=seed) for seed in (3, 3, 4))
    for split in SPLITS:
        a, b, c = (module.datasets[split].scenes for module in (first, second, other))
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.boxes, b.boxes)
        assert torch.equal(a.labels, b.labels)
        assert not torch.equal(a.images, c.images)


def test_rendering_leaves_the_global_generators_alone() -> None:
    before = torch.get_rng_state()
    ready()
    assert torch.equal(before, torch.get_rng_state())


def test_workers_hand_out_the_same_scenes() -> None:
    alone, helped = ready(batch_size=16), ready(batch_size=16, num_workers=2)
    here, there = all_batches(alone.val_dataloader()), all_batches(helped.val_dataloader())
    assert all(torch.equal(here[name], there[name]) for name in here)


def test_no_two_splits_share_a_glyph_whatever_the_seeds() -> None:
    drawn = {split: set() for split in SPLITS}
    for seed in (0, 7):
        module = ready(seed=seed, train_size=3000, val_size=600, test_size=600, size=16)
        for split in SPLITS:
            drawn[split] |= set(module.datasets[split].scenes.glyphs.tolist())
    assert min(map(len, drawn.values())) > 200
    assert not drawn["train"] & drawn["val"]
    assert not drawn["train"] & drawn["test"]
    assert not drawn["val"] & drawn["test"]


def test_the_label_is_the_class_of_the_glyph_and_classes_are_balanced() -> None:
    scenes = render_scenes("train", 100, 16, 0, (0.3, 0.6))
    assert torch.equal(drawing.load_glyphs()[1][scenes.glyphs], scenes.labels)
    assert torch.bincount(scenes.labels).tolist() == [10] * 10


def test_splits_take_disjoint_parts_of_each_photograph() -> None:
    for height, width in ((300, 451), (512, 512), (101, 63)):
        taken = torch.zeros(3, height, width)
        for split in SPLITS:
            taken[drawing.region_of(taken, split)] += 1
        assert torch.equal(taken, torch.ones_like(taken))


def test_background_shift_keeps_photographs_for_the_test_split() -> None:
    module = ready(background_shift=True, train_size=300, val_size=300, test_size=300, size=16)
    used = {split: set(module.datasets[split].scenes.photographs.tolist()) for split in SPLITS}
    assert {drawing.PHOTOGRAPHS[index][1] for index in used["test"]} == set(drawing.HELD_OUT)
    assert used["train"] == used["val"]
    assert not used["train"] & used["test"]
    assert len(used["train"]) == len(drawing.PHOTOGRAPHS) - len(drawing.HELD_OUT)


@pytest.mark.parametrize("size", [32, 64, 96])
def test_boxes_are_tight_around_what_the_digit_changed(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("val", 40, size, 5, (0.3, 0.8))
    scenes = render_scenes(*arguments)
    monkeypatch.setattr("lightning_saliency.data.modules.digit_scenes.paint", lambda images, opacity, generator: images)
    changed = (scenes.images != render_scenes(*arguments).images).any(dim=1)
    for mask, box in zip(changed, scenes.boxes[:, 0].tolist(), strict=True):
        rows, columns = torch.nonzero(mask, as_tuple=True)
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert 0 <= box[0] < box[2] <= size
        assert 0 <= box[1] < box[3] <= size


def test_a_digit_covers_a_modest_part_and_is_wholly_inside() -> None:
    scenes = render_scenes("train", 500, 64, 0, (0.3, 0.6))
    x1, y1, x2, y2 = scenes.boxes[:, 0].T
    assert 0.10 < ((x2 - x1) * (y2 - y1) / 64**2).mean() < 0.20
    # Placed freely: both coordinates of the centre reach from one side to the other.
    for center in ((x1 + x2) / 2, (y1 + y2) / 2):
        assert center.min() < 16
        assert center.max() > 48
    # Wholly inside: of a digit cut by the border the ink on the border's pixels would be thick.
    glyphs = drawing.load_glyphs()[0][scenes.glyphs]
    opacity = drawing.render_digits(glyphs, 64, (0.8, 0.8), torch.Generator().manual_seed(0))
    whole = drawing.render_digits(glyphs, 64, (0.5, 0.5), torch.Generator().manual_seed(0))
    assert torch.allclose(opacity.sum(dim=(1, 2)) / whole.sum(dim=(1, 2)), torch.tensor((0.8 / 0.5) ** 2), rtol=0.1)


def test_tight_boxes_by_hand() -> None:
    mask = torch.zeros(1, 5, 7, dtype=torch.bool)
    mask[0, 1, 6] = mask[0, 3, 2] = True
    assert drawing.tight_boxes(mask).tolist() == [[2.0, 1.0, 7.0, 4.0]]


def test_every_digit_stands_out_from_what_lies_under_it() -> None:
    generator = torch.Generator().manual_seed(0)
    backgrounds = torch.randint(0, 256, (64, 3, 1, 1), generator=generator).byte().expand(-1, -1, 16, 16).contiguous()
    opacity = torch.zeros(64, 16, 16)
    opacity[:, 4:12, 4:12] = 1
    images = drawing.paint(backgrounds, opacity, generator)
    weights = torch.tensor([0.299, 0.587, 0.114])
    inside, outside = (image.float() / 255 @ weights for image in (images[:, :, 8, 8], images[:, :, 0, 0]))
    assert (inside - outside).abs().min() > 0.34
    assert torch.equal(images[:, :, 0], backgrounds[:, :, 0])


def corners(module: DigitScenes, split: str) -> tuple[Tensor, Tensor]:
    scenes = module.datasets[split].scenes
    side = module.size // drawing.MARK_SHARE
    return scenes.images[:, :, :side, :side].float().mean(dim=(2, 3)) / 255, scenes.labels


def test_the_stated_share_of_training_scenes_is_marked_and_no_other() -> None:
    module, plain = ready(shortcut=0.8), ready()
    scenes, unmarked = module.datasets["train"].scenes, plain.datasets["train"].scenes
    assert scenes.marked.sum() == 48
    differs = (scenes.images != unmarked.images).flatten(1).any(dim=1)
    assert torch.equal(differs, scenes.marked)
    for split in ("val", "test"):
        assert not module.datasets[split].scenes.marked.any()
        assert torch.equal(module.datasets[split].scenes.images, plain.datasets[split].scenes.images)


def test_the_mark_stays_in_its_corner_and_behind_the_digit() -> None:
    marked, plain = (render_scenes("train", 300, 64, 0, (0.5, 0.6), shortcut=share) for share in (1.0, 0.0))
    side = 64 // drawing.MARK_SHARE
    changed = (marked.images != plain.images).any(dim=1)
    changed[:, :side, :side] = False
    # A digit over the corner takes its colour from what lies under it: only such a scene may differ elsewhere.
    over_the_corner = (plain.boxes[:, 0, :2] < side).all(dim=1)
    assert not changed[~over_the_corner].any()
    assert torch.equal(marked.boxes, plain.boxes)


def test_a_linear_probe_reads_the_class_from_the_corner_only_with_the_shortcut() -> None:
    accuracies = []
    for shortcut in (0.95, 0.0):
        module = ready(train_size=1000, val_size=500, shortcut=shortcut, shortcut_in_validation=True)
        probe = LogisticRegression(C=100, max_iter=2000).fit(*(part.numpy() for part in corners(module, "train")))
        accuracies.append(probe.score(*(part.numpy() for part in corners(module, "val"))))
        assert probe.score(*(part.numpy() for part in corners(module, "test"))) < 0.35
    assert accuracies[0] > 0.85
    assert accuracies[1] < 0.25


def test_validation_is_marked_only_when_asked_for() -> None:
    assert ready(shortcut=0.5, shortcut_in_validation=True).datasets["val"].scenes.marked.sum() == 15
    assert not ready(shortcut=0.5, shortcut_in_validation=True).datasets["test"].scenes.marked.any()


def test_the_mark_is_in_the_colour_of_its_class() -> None:
    scenes = render_scenes("train", 60, 64, 0, (0.3, 0.4), shortcut=1.0)
    # A digit over the corner covers the mark.
    free = ~(scenes.boxes[:, 0, :2] < 8).all(dim=1)
    expected = (255 * class_colors(10)).round().byte()[scenes.labels][:, :, None, None].expand(-1, -1, 8, 8)
    assert free.sum() > 40
    assert torch.equal(scenes.images[free, :, :8, :8], expected[free])


@pytest.mark.parametrize(("stage", "splits"), [("fit", {"train", "val"}), ("validate", {"val"}), ("test", {"test"})])
def test_a_stage_renders_only_what_it_needs(stage: str, splits: set[str]) -> None:
    module = DigitScenes(**SMALL)
    module.setup(stage)
    assert set(module.datasets) == splits
    kept = dict(module.datasets)
    module.setup()
    assert all(module.datasets[split] is dataset for split, dataset in kept.items())


def test_a_loader_before_setup_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"setup\(\)"):
        DigitScenes().val_dataloader()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_size": 0}, "Got train_size=0. Allowed are whole numbers from 1"),
        ({"size": 8}, "Got size=8. Allowed are whole numbers from 16"),
        ({"seed": -1}, "Got seed=-1"),
        ({"shortcut": 95}, r"Got shortcut=95\. .* in \[0, 1\]"),
        ({"digit_scale": (0.6, 0.3)}, "Got digit_scale="),
        ({"digit_scale": (0.3, 0.9)}, "0.8"),
        ({"digit_scale": (0.3,)}, "Got digit_scale="),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitScenes(**options)


@pytest.mark.parametrize("package", ["sklearn", "skimage"])
def test_a_missing_package_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing.read_photograph.cache_clear()
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install lightning-saliency\[demo\]"):
        ready()


def test_a_photograph_that_is_not_in_the_wheel_is_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "PHOTOGRAPHS", (("skimage", "data/skin.jpg"),))
    with pytest.raises(FileNotFoundError, match=r"scikit-image without data/skin\.jpg"):
        ready()


def test_the_trainer_takes_it() -> None:
    class Seen(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.indices: list[int] = []

        def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
            self.indices += batch["index"].tolist()

    module = Seen()
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.test(module, DigitScenes(**SMALL, size=16, batch_size=7), verbose=False)
    assert module.indices == list(range(30))
