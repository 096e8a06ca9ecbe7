"""The augmentation's parts: classes of a batch, controls, kept maps, the guide, the film, the recipe."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from PIL import Image
from torch import nn

from lightning_saliency.batches import BatchError, BatchReader, content_keys
from lightning_saliency.callbacks import AugmentationConfigurationError, GroupCAMAugmentation, SaliencyAugmentation
from lightning_saliency.callbacks.augmentation.batch import draw_classes, looks_multi_label
from lightning_saliency.callbacks.augmentation.cache import MapCache
from lightning_saliency.callbacks.augmentation.frame import draw_augmentation
from lightning_saliency.callbacks.augmentation.guide import GUIDES, Guide
from lightning_saliency.callbacks.augmentation.options import batch_generator, parse_schedule, probability_at
from lightning_saliency.callbacks.augmentation.swap import Swap
from lightning_saliency.classifier import ImageClassifier
from lightning_saliency.cli import main
from lightning_saliency.explainers import EXPLAINERS, GroupCAM, build_explainer
from lightning_saliency.explainers.mask_scoring.fast_forward import FastCopy, fast_inference
from lightning_saliency.functional.fills import blur
from tests.callbacks.monitor.helpers import SmallNet
from tests.paths import CONFIGS

CONFIG = CONFIGS / "finetune_group_cam.yaml"


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- batches ----------------------------------------------------------------------------------------------------------

IMAGES = torch.zeros(3, 3, 4, 4)


@pytest.mark.parametrize(
    ("batch", "key", "expected"),
    [
        ((IMAGES, torch.tensor([2, 0, 1])), None, torch.tensor([2, 0, 1])),
        ((IMAGES, torch.tensor([2, 0, 1], dtype=torch.int32)), None, torch.tensor([2, 0, 1])),
        ({"image": IMAGES, "a": torch.tensor([5, 5, 5]), "b": torch.tensor([2, 0, 1])}, "b", torch.tensor([2, 0, 1])),
        ((IMAGES, torch.tensor([1.0, 0.0, 1.0])), None, torch.tensor([1, 0, 1])),
        ((IMAGES, torch.tensor([[1.0], [0.0], [torch.nan]])), None, torch.tensor([1, 0, -1])),
        ((IMAGES, torch.tensor([True, False, True])), None, torch.tensor([1, 0, 1])),
        ((IMAGES, torch.tensor([[2], [-100], [255]])), None, torch.tensor([2, -1, 255])),
        ((IMAGES, torch.tensor([0.25, 1.0, 0.5])), None, torch.tensor([[0.75, 0.25], [0.0, 1.0], [0.5, 0.5]])),
        ({"mask": torch.arange(3)[:, None, None].expand(-1, 4, 4), "image": IMAGES}, None, torch.tensor([0, 1, 2])),
        ((IMAGES, torch.eye(3)), None, torch.eye(3)),
        ((IMAGES, torch.eye(3, dtype=torch.int64)), 1, torch.eye(3)),
        ({"target": torch.full((3, 2), 0.5), "image": IMAGES}, None, torch.full((3, 2), 0.5)),
        # Whole numbers that are no classes: indices, as reuse_epochs needs them.
        ({"image": IMAGES, "index": torch.arange(3), "label": torch.eye(3)}, None, torch.eye(3)),
        ({"index": torch.arange(3), "x": {"image": IMAGES, "label": torch.eye(3)[0]}}, None, torch.tensor([1, 0, 0])),
        ((IMAGES, torch.eye(3), torch.arange(3)), None, torch.eye(3)),
        ((IMAGES, torch.tensor([0.5, 1.0, 0.5]), torch.tensor([2, 0, 1])), None, torch.tensor([2, 0, 1])),
    ],
)
def test_the_ground_truth_is_found(batch, key, expected):
    found = BatchReader(label_key=key).read(batch).ground_truth()
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize("batch", [(IMAGES,), (IMAGES, torch.arange(4)), (IMAGES, torch.full((3, 4), 7.0)), IMAGES])
def test_no_ground_truth_says_what_there_is(batch):
    with pytest.raises(BatchError, match=r"for the 3 images .*Tensor\[3, 3, 4, 4\]"):
        BatchReader().read(batch).ground_truth()


def test_classes_are_drawn_by_their_weight():
    truth = torch.tensor([[0.0, 3.0, 1.0]]).expand(4000, -1) / 4
    drawn = draw_classes(truth, _generator())
    assert set(drawn.tolist()) == {1, 2}
    assert (drawn == 1).float().mean() == pytest.approx(0.75, abs=0.03)
    assert draw_classes(torch.tensor([3, -100, 0]), _generator()).tolist() == [3, -1, 0]


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        (torch.tensor([3, 0]), False),
        (torch.eye(4)[[2, 0]], False),
        (torch.tensor([[1.0, 0.0], [1.0, 1.0]]), True),
        (torch.tensor([[1.0, 0.0], [0.0, 0.0]]), True),  # no class at all
        (torch.tensor([[0.25, 0.75], [1.0, 0.0]]), False),  # soft labels
        (torch.tensor([[0.75, 0.25], [0.0, 1.0]]), False),  # yes or no, softened
    ],
)
def test_whether_classes_exclude_each_other(truth, expected):
    assert looks_multi_label(truth) is expected


def test_indices_are_checked():
    images = torch.zeros(2, 3, 4, 4)
    reader = BatchReader(index_key="index")
    assert reader.read({"image": images, "index": torch.tensor([4, 2])}).indices().tolist() == [4, 2]
    for wrong in ({"index": torch.tensor([4.0, 2.0])}, {"index": torch.tensor([4])}, {}):
        with pytest.raises(BatchError, match="index_key="):
            reader.read({"image": images, **wrong}).indices()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_swap_points_the_tensor_elsewhere_and_back(layout):
    data = torch.rand(4, 3, 5, 5).contiguous(memory_format=layout)
    view, kept = data[1:3], data.clone()
    pixels = torch.zeros_like(view)
    swap = Swap()
    swap.put([view], pixels)
    view.add_(1)
    assert torch.equal(pixels, torch.ones_like(pixels))
    assert torch.equal(data, kept)
    swap.put([view], pixels * 2)
    swap.restore()
    swap.restore()
    assert view.data_ptr() == data[1:3].data_ptr()
    assert view.stride() == data[1:3].stride()


# --- schedule and random numbers --------------------------------------------------------------------------------------


def test_schedules():
    points = parse_schedule([[1, 0.0], [3, 1.0], [5, 0.5]])
    assert [probability_at(points, epoch) for epoch in range(7)] == [0, 0, 0.5, 1, 0.75, 0.5, 0.5]
    for wrong in (None, [], [0.5], [[0, 0.5, 1]], [[0, 2.0]], [[1, 0.5], [1, 0.6]], "often"):
        with pytest.raises(AugmentationConfigurationError, match="probability"):
            parse_schedule(wrong)


def test_generators_differ_by_seed_process_and_batch():
    triples = [(seed, rank, batch) for seed in range(3) for rank in range(4) for batch in range(-1, 30)]
    draws = {torch.rand((), generator=batch_generator(*triple)).item() for triple in triples}
    assert len(draws) > 0.99 * len(triples)


def group_cam(**options):
    return {"class_path": "group_cam", "init_args": options}


# --- the guide --------------------------------------------------------------------------------------------------------


def test_every_explainer_is_a_guide():
    assert set(GUIDES) == set(EXPLAINERS) | {"random_blobs"}


@pytest.mark.parametrize("name", ["group_cam", "grad_cam", "fast_cam", "sise", "smoe"])
def test_the_guides_maps_are_the_explainers(name):
    model, images, targets = SmallNet().eval(), torch.rand(3, 3, 32, 32), torch.tensor([0, 3, 1])
    guide = Guide(name)
    guide.bind(model)
    torch.testing.assert_close(guide.maps(images, targets, _generator()), build_explainer(name, model)(images, targets))


@pytest.mark.parametrize("fast", [False, True])
def test_faint_images_are_scored_again_in_single_precision(monkeypatch, fast):
    """Also where it is the run that autocasts."""
    from lightning_saliency.explainers import group_cam as module

    model, images, targets = SmallNet().eval(), torch.rand(3, 3, 32, 32), torch.tensor([0, 3, 1])
    seen = []
    model.features[0].register_forward_hook(lambda *args: seen.append((args[2].dtype, len(args[2]))))
    scored = {}
    for faint in (0.0, 1e9):
        monkeypatch.setattr(module, "FAINT", faint)
        # Plain sums of the activations, so that no group is empty, which would cost no pass.
        guide = Guide(group_cam(groups=4, theta=None, gradients=False, fast=fast, precision="bf16"))
        guide.bind(model)
        with torch.autocast("cpu", torch.bfloat16):
            guide.maps(images, targets, _generator())
            seen.clear()
            guide.maps(images, targets, _generator())
        scored[faint] = sum(count for dtype, count in seen if dtype == torch.float32)
    assert scored == {0.0: 0, 1e9: 3 * 5}


def test_the_copys_precision_is_the_guides():
    guide = Guide(group_cam(groups=4, fast=True, precision="fp16"))
    guide.bind(SmallNet())
    (explainer,) = guide._explainers.values()
    assert explainer.precision == "fp16"


def test_trials_leave_nothing_for_an_image_that_comes_alone():
    model, images, targets = SmallNet().eval(), torch.rand(3, 3, 32, 32), torch.tensor([0, 3, 1])
    guide = Guide("grad_cam", control="other_image")
    guide.bind(model)
    maps = guide.maps(images, targets, _generator())

    def alone(guide):
        return guide.controlled(maps[:1], images[:1], targets[:1], _generator())

    with guide.trial():
        guide.controlled(maps[1:], images[1:], targets[1:], _generator())
    assert guide.state_dict() is None
    assert alone(guide).amax() == 0
    guide.controlled(maps[:2], images[:2], targets[:2], _generator())
    with guide.trial():
        guide.controlled(maps[2:], images[2:], targets[2:], _generator())
    state = guide.state_dict()
    assert torch.equal(alone(guide), maps[1:2])
    again = Guide("grad_cam", control="other_image")
    again.load_state_dict(state)
    assert torch.equal(alone(again), maps[1:2])


def test_confidence_is_that_of_the_head():
    model, images, targets = SmallNet().eval(), torch.rand(2, 3, 16, 16), torch.tensor([0, 3])
    guide = Guide("group_cam")
    guide.bind(model)
    with torch.no_grad():
        logits = model(images)
    torch.testing.assert_close(guide.confidence(images, targets), logits.softmax(1)[[0, 1], targets])
    torch.testing.assert_close(guide.confidence(images, targets, multi_label=True), logits.sigmoid()[[0, 1], targets])


def test_a_guide_without_a_network_says_so():
    with pytest.raises(RuntimeError, match="bind"):
        Guide("group_cam").maps(torch.rand(1, 3, 8, 8), torch.tensor([0]), _generator())


# --- the fast copy ----------------------------------------------------------------------------------------------------


def test_a_kept_copy_follows_the_network():
    model = SmallNet()
    images = torch.rand(4, 3, 16, 16)
    copied = FastCopy(model, None)
    first = copied.current()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(3):
        model.train()
        model(images).square().sum().backward()
        optimizer.step()
        with torch.no_grad():
            torch.testing.assert_close(copied.current()(images), model.eval()(images), rtol=1e-4, atol=1e-4)
    assert copied.current() is first
    assert copied.current().get_submodule("features.0").weight.data_ptr() != model.features[0].weight.data_ptr()
    half = FastCopy(model, "bf16")
    half.current()
    with torch.no_grad():
        model.features[0].weight.mul_(2)
        renewed = dict(half.current().named_parameters())
    for name, parameter in fast_inference(model, "bf16").named_parameters():
        assert torch.equal(parameter, renewed[name]), name


def test_a_copy_sees_through_compiled_modules():
    module = nn.Sequential(torch.compile(SmallNet(), backend="eager")).eval()
    copied = FastCopy(module, None)
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        torch.testing.assert_close(copied.current()(images), module(images), rtol=1e-4, atol=1e-5)
        module[0].features[1].weight.mul_(3)
        torch.testing.assert_close(copied.current()(images), module(images), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in copied.current().modules())


def test_a_copy_is_made_anew_where_the_network_has_changed_its_layers():
    model = SmallNet().eval()
    copied = FastCopy(model, None)
    first = copied.current()
    model.head[2] = nn.Linear(16, 7)
    assert copied.current() is not first
    assert copied.current()(torch.rand(2, 3, 16, 16)).shape == (2, 7)


def test_the_explainer_keeps_its_copy():
    model = SmallNet().eval()
    explainer = GroupCAM(model, groups=4, fast=True)
    images = torch.rand(2, 3, 16, 16)
    explainer(images, 1)
    kept = explainer._copy
    with torch.no_grad():
        model.features[4].weight.neg_()
    changed = explainer(images, 1)
    assert explainer._copy is kept
    assert torch.equal(changed, GroupCAM(model, groups=4, fast=True)(images, 1))


@pytest.mark.slow
def test_a_compiled_copy_is_compiled_once_and_follows_the_network(monkeypatch):
    torch._dynamo.reset()
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    model = SmallNet().eval()
    images, targets = torch.rand(3, 3, 16, 16), torch.tensor([0, 1, 2])
    explainer = GroupCAM(model, groups=4, fast="compiled", batch_size=4)
    for _ in range(3):  # 15 masked images: the last pass of each call is smaller than the others
        with torch.no_grad():
            model.features[4].weight.mul_(-1.5)
        maps = explainer(images, targets)
        torch.testing.assert_close(maps, GroupCAM(model, groups=4, fast=True)(images, targets), rtol=1e-2, atol=1e-2)
    assert len(graphs) == 1
    with pytest.raises(ValueError, match="'compiled'"):
        GroupCAM(model, fast="quick")
    torch._dynamo.reset()


def test_a_lightning_module_is_folded_by_its_only_child():
    import pytorch_lightning as pl

    class Restless(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = SmallNet()

        def forward(self, x):
            return self.net(x) if x.sum() > 0 else self.net(-x)

    module = Restless().eval()
    copied = FastCopy(module, None)
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(copied.current()(images), module(images), rtol=1e-4, atol=1e-5)
        module.net.features[1].weight.mul_(3)
        torch.testing.assert_close(copied.current()(images), module(images), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in copied.current().modules())


# --- kept maps --------------------------------------------------------------------------------------------------------


def test_kept_maps_are_nearly_as_they_were_made_and_the_same_each_time():
    maps = nn.functional.interpolate(torch.rand(3, 1, 7, 7, generator=_generator()), 112, mode="bilinear")[:, 0]
    images, targets = torch.rand(3, 3, 112, 112), torch.tensor([0, 1, 2])
    asked = []

    def explain(some, classes):
        asked.append(classes.tolist())
        return torch.stack([maps[number] for number in classes])

    cache = MapCache(epochs=3)
    first = cache.maps(images, targets, 4, explain)
    assert (first - maps).abs().mean() < 0.01
    assert (first - maps).abs().max() < 0.1  # at the highest peaks
    assert torch.equal(cache.maps(images[[2, 0]], targets[[2, 0]], 6, explain), first[[2, 0]])
    assert asked == [[0, 1, 2]]
    cache.maps(images, targets, 7, explain)  # after three epochs
    cache.maps(images[:1], targets[1:2], 7, explain)  # for another class
    cache.maps(images[:1] + 1e-6, targets[:1], 7, explain)  # of another image
    cache.maps(images[:1], targets[:1], 3, explain)  # in an epoch before, after a restart
    assert asked[1:] == [[0, 1, 2], [1], [0], [0]]
    always = MapCache(epochs=None)
    always.maps(images[[0, 0]], targets[[0, 0]], 0, explain)  # of an image that is twice in a batch, one
    always.maps(images[:1], targets[:1], 1000, explain)
    assert asked[5:] == [[0]]


def test_maps_that_are_not_finite_are_not_kept():
    cache, asked = MapCache(epochs=None), []

    def explain(some, classes):
        asked.append(len(some))
        maps = torch.rand(len(some), 8, 8)
        maps[0, 3, 3] = torch.nan
        return maps

    images, targets = torch.rand(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64)
    for _ in range(2):
        maps = cache.maps(images, targets, 0, explain)
        assert maps.isnan().all(-1).all(-1).tolist() == [True, False, False]
    assert asked == [3, 1]


def test_the_oldest_maps_go_where_memory_ends():
    cache = MapCache(epochs=2, megabytes=0.01)
    images = torch.rand(20, 1, 28, 28)
    keys = content_keys(images)
    for index in range(20):
        cache.maps(images[index : index + 1], torch.tensor([0]), 0, lambda some, _: torch.rand(len(some), 28, 28))
    assert cache._bytes <= 10_000
    assert [key for key, _ in cache._entries] == keys[20 - len(cache._entries) :]
    assert len(cache._entries) > 5


def test_maps_that_are_made_anew_take_the_room_of_the_old_ones():
    cache, asked = MapCache(epochs=1, megabytes=0.005), []
    images, targets = torch.rand(4, 1, 28, 28), torch.zeros(4, dtype=torch.int64)

    def explain(some, _):
        asked.append(len(some))
        return torch.rand(len(some), 28, 28)

    for epoch in range(10):
        for _ in range(2):
            cache.maps(images, targets, epoch, explain)
    assert asked == [4] * 10
    assert cache._bytes == 4 * (28 * 28 + 200)


@pytest.mark.parametrize(("comes_back", "useless"), [(True, False), (False, True)])
def test_only_later_epochs_tell_whether_images_come_back(comes_back, useless):
    cache, images, targets = MapCache(epochs=None), torch.rand(120, 1, 4, 4), torch.zeros(120, dtype=torch.int64)
    for start in range(0, 120, 40):
        part = slice(start, start + 40)
        cache.maps(images[part], targets[part], 3, lambda some, _: some[:, 0])
        assert not cache.useless
    again = images if comes_back else images + 1
    for start in range(0, 120, 40):
        assert not cache.useless
        part = slice(start, start + 40)
        cache.maps(again[part], targets[part], 4, lambda some, _: some[:, 0])
    assert cache.useless is useless


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_the_picture_has_three_rows():
    images = torch.rand(2, 3, 20, 30)
    maps = torch.zeros(2, 20, 30)
    maps[:, :10] = 1
    picture, guessed = draw_augmentation(images, maps, blur(images), ["cat", "dog"], None, 128)
    assert picture.dtype == np.uint8
    assert picture.shape[1] <= 128
    assert not guessed
    _, guessed = draw_augmentation(images * 4, maps, images, ["cat", "dog"], None, 128)
    assert guessed


# --- the recipe -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_papers_recipe_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in ("cat", "dog"):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    arguments = ["fit", "--config", str(CONFIG), "--model.init_args.model", "small_cnn"]
    arguments += ["--model.init_args.num_classes", "2", "--data.init_args.image_size", "32"]
    arguments += ["--data.init_args.batch_size", "4", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
    arguments += ["--data.init_args.num_workers", "0", "--trainer.enable_progress_bar", "false"]
    assert main(arguments) == 0
    assert list(tmp_path.rglob("group_cam/augmentation/*.png"))
    written = next(tmp_path.rglob("config.yaml")).read_text()
    assert "GroupCAMAugmentation" in written
    assert "milestones:" in written
    assert main([*arguments, "--trainer.callbacks.init_args.probability", "0"]) == 0
    assert main([*arguments, "--trainer.callbacks.init_args.economy", "true"]) == 0


def test_the_recipe_is_the_papers():
    content = yaml.safe_load(CONFIG.read_text())
    options = content["model"]["init_args"]
    assert content["trainer"]["max_epochs"] == 20
    model = ImageClassifier(
        SmallNet(), 4, **{key: options[key] for key in options if key not in ("model", "num_classes")}
    )
    model.trainer = pl.Trainer(max_epochs=20, accelerator="cpu", logger=False, enable_checkpointing=False)
    [optimizer], [schedule] = model.configure_optimizers()
    [group] = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.SGD)
    assert [group[key] for key in ("lr", "momentum", "weight_decay", "nesterov")] == [0.001, 0.9, 0.0001, False]
    assert (dict(schedule.milestones), schedule.gamma) == ({15: 1}, 0.1)


def test_the_preset_is_the_papers():
    guide = GroupCAMAugmentation().guide
    assert guide.spec.plain() == group_cam(groups=16, gradients=False, theta=None)
    assert guide.control is None
    economical = GroupCAMAugmentation(economy=True)
    assert economical.guide.spec.plain() == group_cam(groups=8, gradients=False, theta=None, fast=True)
    assert GroupCAMAugmentation(12, economy=True).guide.spec.init_args["groups"] == 12
    general = SaliencyAugmentation("group_cam")
    assert general.guide.spec.plain() == group_cam()
