"""What the augmentation does to batches, when, and what it shows of it."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency.callbacks import (
    AugmentationConfigurationError,
    FilmConfig,
    GroupCAMAugmentation,
    SaliencyAugmentation,
)
from lightning_saliency.callbacks.augmentation.actions.basic import Changed
from lightning_saliency.explainers import GroupCAM
from lightning_saliency.functional.fills import blur
from lightning_saliency.functional.masking import blend
from lightning_saliency.pictures.film import Film
from tests.callbacks.augmentation.helpers import Watching, equal, fit, originals, quiet, ready_made
from tests.callbacks.monitor.helpers import Module, Recorder, SmallNet, loader

LABELS = torch.arange(16) % 4


def expected(module: nn.Module, images: torch.Tensor, labels: torch.Tensor, groups: int = 4) -> torch.Tensor:
    maps = GroupCAM(module.net, groups=groups, gradients=False, theta=None)(images, labels)
    masks = (maps > maps.mean((1, 2), keepdim=True)).float()
    masks[maps.amax((1, 2)) == maps.amin((1, 2))] = 1
    return blend(images, blur(images), masks)


class _Forms(Watching):
    def _images_and_labels(self, batch):
        if isinstance(batch, dict):
            return batch["image"], batch["label"]
        if isinstance(batch[0], dict):
            return batch[0]["pixel_values"], batch[1]
        return batch[0], batch[1]


@pytest.mark.parametrize("form", ["tuple", "list", "dict", "nested"])
def test_every_form_of_batch_is_replaced_and_given_back(tmp_path, form):
    images = originals(4)
    labels = LABELS[:4]
    batch = {
        "tuple": (images, labels),
        "list": [images, labels],
        "dict": {"image": images, "label": labels},
        "nested": ({"pixel_values": images}, labels),
    }[form]
    kept = images.clone()
    module = _Forms(learning_rate=0.0)
    fit(tmp_path, quiet(), module, ready_made([batch]))
    module.eval()
    torch.testing.assert_close(module.given[0], expected(module, kept, labels))
    assert not torch.equal(module.given[0], kept)
    assert torch.equal(images, kept)
    found = batch["image"] if form == "dict" else batch[0]["pixel_values"] if form == "nested" else batch[0]
    assert found is images


def test_a_data_set_that_hands_out_its_own_memory_is_not_damaged(tmp_path):
    data = originals(8)
    kept = data.clone()
    views = [(data[:4], LABELS[:4]), (data[4:], LABELS[4:8])]
    module = Watching()
    fit(tmp_path, quiet(), module, ready_made(views), epochs=3)
    assert torch.equal(data, kept)
    assert len(module.given) == 6
    assert all(not torch.equal(given, kept[:4]) for given in module.given[::2])
    plain = Watching()
    fit(tmp_path, quiet(), plain, DataLoader(TensorDataset(data, LABELS[:8]), batch_size=4), epochs=1)
    assert torch.equal(data, kept)


def test_the_images_own_pixels_are_back_after_an_error_in_the_step(tmp_path):
    class Failing(Watching):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            raise RuntimeError("on purpose")

    images = originals(4)
    kept = images.clone()
    module = Failing()
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(tmp_path, quiet(), module, ready_made([(images, LABELS[:4])]))
    assert not torch.equal(module.given[0], kept)
    assert torch.equal(images, kept)


def test_each_image_is_explained_for_its_own_class(tmp_path):
    images = originals(1).expand(4, -1, -1, -1).contiguous()
    module = Watching(learning_rate=0.0)
    fit(tmp_path, quiet(), module, ready_made([(images, LABELS[:4])]))
    assert len({given.sum().item() for given in module.given[0]}) > 1


@pytest.mark.parametrize("name", ["grad_cam", "fast_cam", "score_cam", "random_blobs"])
def test_other_guides_by_name(tmp_path, name):
    options = {"grid": 4, "area": 0.25} if name == "random_blobs" else {}
    module = Watching(learning_rate=0.0)
    run = fit(tmp_path, SaliencyAugmentation({"class_path": name, "init_args": options}), module)
    assert not torch.equal(torch.cat(module.given), originals())
    assert 0 < run.callback_metrics[f"{name}/kept_share"] < 1
    if name == "random_blobs":
        assert run.callback_metrics[f"{name}/kept_share"] == pytest.approx(0.25)


def test_what_is_shown_does_not_change_what_is_trained_on(tmp_path):
    """Neither the trial of the first batch nor the film leaves its map to an image that comes alone."""
    given = []
    for logged in (False, True):
        module = Watching()
        augmentation = GroupCAMAugmentation(groups=4, film=logged, control="other_image")
        fit(tmp_path / str(logged), augmentation, module, loader(3, batch_size=1), epochs=2)
        given.append(torch.stack(module.given))
    assert torch.equal(*given)
    assert torch.equal(given[0][0], originals(3)[:1])  # no image came before it
    assert not torch.equal(given[0][1], originals(3)[1:2])


def test_a_multi_label_image_is_explained_for_one_of_its_classes(tmp_path):
    class MultiLabel(Watching):
        def training_step(self, batch, batch_idx):
            images, labels = batch
            self.given.append(images.detach().clone())
            return nn.functional.binary_cross_entropy_with_logits(self(images), labels)

    images = originals(4)
    labels = torch.tensor([[0.0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    module = MultiLabel(learning_rate=0.0)
    augmentation = quiet()
    fit(tmp_path, augmentation, module, ready_made([(images, labels)]))
    module.eval()
    assert torch.equal(module.given[0][1], images[1])  # no class at all

    def of(row, target):
        explainer = GroupCAM(module.net, groups=4, gradients=False, theta=None, score="sigmoid")
        maps = explainer(images[row : row + 1], target)
        if maps.amax() == maps.amin():
            return images[row]
        return blend(images[row : row + 1], blur(images[row : row + 1]), (maps > maps.mean()).float())[0]

    torch.testing.assert_close(module.given[0][2], of(2, 0))
    assert any(torch.allclose(module.given[0][0], of(0, target)) for target in (1, 2))


class _Weighted(Watching):
    """Trains on weights of the classes."""

    def training_step(self, batch, batch_idx):
        images, labels = batch
        self.given.append(images.detach().clone())
        return nn.functional.cross_entropy(self(images), labels)


def scores_asked_for(monkeypatch):
    """The score of each explainer that is built."""
    found = []
    original = GroupCAM.__init__

    @functools.wraps(original)
    def noting(self, *arguments, **options):
        found.append(options.get("score", "softmax"))
        original(self, *arguments, **options)

    monkeypatch.setattr(GroupCAM, "__init__", noting)
    return found


ONE_HOT = torch.eye(4)[torch.arange(4)]
SEVERAL = torch.tensor([[1.0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("given", "batches", "expected"),
    [
        (None, [ONE_HOT, ONE_HOT], False),
        (None, [ONE_HOT, SEVERAL], False),  # the first batch tells, for all of them
        (None, [SEVERAL, ONE_HOT], True),
        (True, [ONE_HOT, ONE_HOT], True),
        (False, [SEVERAL, SEVERAL], False),
    ],
)
def test_whether_classes_exclude_each_other_is_found_out_once(tmp_path, monkeypatch, given, batches, expected):
    scores = scores_asked_for(monkeypatch)
    augmentation = GroupCAMAugmentation(groups=4, multi_label=given)
    data = ready_made([(originals(4), labels) for labels in batches])
    fit(tmp_path, augmentation, _Weighted(), data)
    assert augmentation.state_dict()["multi_label"] is expected
    # One explainer is built to check the options, before anything is known of the labels.
    assert scores == ["softmax", "sigmoid"] if expected else scores == ["softmax"]


def test_one_hot_codes_are_classes(tmp_path):
    given = []
    for labels, module in ((LABELS[:4], Watching(learning_rate=0.0)), (ONE_HOT, _Weighted(learning_rate=0.0))):
        fit(tmp_path, quiet(), module, ready_made([(originals(4), labels)]))
        given += module.given
    assert torch.equal(*given)


def test_a_resumed_run_knows_whether_classes_exclude_each_other(tmp_path):
    saving = ModelCheckpoint(tmp_path, "first", every_n_train_steps=1, save_top_k=1)
    several, single = ready_made([(originals(4), SEVERAL)]), ready_made([(originals(4), ONE_HOT)] * 2)
    fit(tmp_path, None, _Weighted(), several, callbacks=[quiet(), saving], enable_checkpointing=True)
    for given, expected in ((None, True), (False, False)):
        again = quiet(multi_label=given)
        fit(tmp_path, again, _Weighted(), single, epochs=2, ckpt_path=tmp_path / "first.ckpt")
        assert again.state_dict()["multi_label"] is expected


def test_images_without_a_class_stay_as_they_are(tmp_path):
    class Ignoring(Watching):
        def training_step(self, batch, batch_idx):
            self.given.append(batch[0].clone())
            return nn.functional.cross_entropy(self(batch[0]), batch[1], ignore_index=-100)

    images, labels = originals(4), torch.tensor([-100, 0, -100, 2])
    module = Ignoring(learning_rate=0.0)
    fit(tmp_path, quiet(), module, ready_made([(images, labels)]))
    assert torch.equal(module.given[0][::2], images[::2])
    # The others are explained for their own classes.
    module.eval()
    torch.testing.assert_close(module.given[0][1::2], expected(module, images[1::2], labels[1::2]))
    assert not torch.allclose(
        expected(module, images[1::2], labels[1::2]), expected(module, images[1::2], labels[:2] * 0)
    )


def test_probability_and_start(tmp_path):
    def replaced(**settings):
        module = Watching(learning_rate=0.0)
        fit(tmp_path, SaliencyAugmentation("random_blobs", film=False, **settings), module, epochs=4)
        given = torch.stack(module.given).view(4, 4, 4, 3, 16, 16)
        return (given != originals().view(4, 4, 3, 16, 16)).flatten(3).any(-1)  # epoch, step, image

    assert replaced().all()
    later = replaced(start_epoch=2)
    assert not later[:2].any()
    assert later[2:].all()
    rising = replaced(probability=[[0, 0.0], [3, 1.0]])
    assert not rising[0].any()
    assert rising[3].all()
    assert 0 < rising[1:3].float().mean() < 1
    half = replaced(probability=0.5, seed=3)
    assert 0.25 < half.float().mean() < 0.75
    assert len({tuple(step.tolist()) for epoch in half for step in epoch}) > 5  # drawn anew for each batch
    assert torch.equal(half, replaced(probability=0.5, seed=3))
    assert not torch.equal(half, replaced(probability=0.5, seed=4))


def test_soft_masks_and_other_baselines(tmp_path):
    module = Watching(learning_rate=0.0)
    fit(tmp_path, quiet(soft=True, fill="zero"), module, ready_made([(originals(4), LABELS[:4])]))
    module.eval()
    maps = GroupCAM(module.net, groups=4, gradients=False, theta=None)(originals(4), LABELS[:4])
    maps[maps.amax((1, 2)) == 0] = 1
    torch.testing.assert_close(module.given[0], originals(4) * maps[:, None])


def test_queries_in_half_precision_keep_to_the_images_type(tmp_path):
    module = Watching(learning_rate=0.0)
    guide = {"class_path": "group_cam", "init_args": {"groups": 4, "precision": "bf16", "fast": True}}
    fit(tmp_path, SaliencyAugmentation(guide, film=False), module, loader(8, size=32))
    given = torch.cat(module.given)
    assert given.shape == (8, 3, 32, 32)
    assert given.dtype == torch.float32
    assert not torch.equal(given, originals(8, 32))


@pytest.mark.parametrize("control", ["random_blobs", "other_image"])
def test_controls_keep_the_same_area(tmp_path, control):
    shares, pixels = [], []
    for used in (None, control):
        module = Watching(learning_rate=0.0)
        callback = GroupCAMAugmentation(groups=4, control=used)
        run = fit(tmp_path, callback, module)
        shares.append(run.callback_metrics["group_cam/kept_share"].item())
        pixels.append(torch.cat(module.given))
    assert not torch.equal(*pixels)
    assert shares[0] == pytest.approx(shares[1], abs=1e-5)


def test_maps_are_used_again_for_the_same_images(tmp_path):
    def queries(**settings):
        calls = []
        module = Watching(learning_rate=0.0)
        augmentation = quiet(**settings)
        original = augmentation.guide.maps
        augmentation.guide.maps = lambda images, *rest: calls.append(len(images)) or original(images, *rest)
        data = ready_made(
            [{"image": originals(4), "label": LABELS[:4], "index": torch.tensor([3, 1, 2, 0])} for _ in range(2)]
        )
        fit(tmp_path, augmentation, module, data, epochs=4)
        return sum(calls), module.given

    fresh, images = queries()
    kept, again = queries(reuse_epochs=2)
    assert fresh == 1 + 8 * 4  # the trial on the run's first image, then every image of every step
    assert kept == 1 + 4 * 2
    # A kept map has been rounded: a pixel at the threshold may change sides.
    changed = (torch.stack(images) - torch.stack(again)).abs().amax(2) > 1e-6
    assert changed.float().mean() < 0.05


def test_maps_of_images_that_change_are_not_used_again(tmp_path):
    class Noisy(Watching):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return {**batch, "image": batch["image"] + torch.rand(())}

    batch = {"image": originals(16), "label": LABELS, "index": torch.arange(16)}
    with pytest.warns(UserWarning, match="reuse_epochs=9 has no effect"):
        fit(tmp_path, quiet(reuse_epochs=9), Noisy(), ready_made([batch]), epochs=9)


def test_scalars_and_the_film_of_a_fixed_sample(tmp_path):
    recorder = Recorder(tmp_path)
    module = Watching(learning_rate=0.01)
    fit(
        tmp_path,
        GroupCAMAugmentation(groups=4, film=FilmConfig(num_images=3)),
        module,
        loader(shuffle=True),
        epochs=3,
        logger=recorder,
    )
    for name in ("kept_share", "confidence_gain", "augmented"):
        values = [value for _, value in recorder.values(f"group_cam/{name}")]
        assert len(values) == 3, name
        assert len(set(values)) > 1 or name == "augmented", name
    assert all(0 < value < 1 for _, value in recorder.values("group_cam/kept_share"))
    assert all(0 < value <= 1 for _, value in recorder.values("group_cam/augmented"))
    frames = Film(tmp_path / "recorder" / "v" / "group_cam").frames("augmentation")
    assert [frame.epoch for frame in frames] == [-1, 0, 1, 2]
    assert frames[0].path.read_bytes() != frames[-1].path.read_bytes()


def test_the_scalars_are_what_they_say(tmp_path):
    recorder = Recorder(tmp_path)
    module = Watching(learning_rate=0.0)
    fit(tmp_path, GroupCAMAugmentation(groups=4), module, logger=recorder)
    module.eval()
    pixels, images = torch.cat(module.given), originals()
    replaced = (pixels != images).flatten(1).any(1)
    assert recorder.values("group_cam/augmented")[0][1] == pytest.approx(replaced.float().mean().item())
    maps = GroupCAM(module.net, groups=4, gradients=False, theta=None)(images, LABELS)[replaced]
    share = (maps > maps.mean((1, 2), keepdim=True)).float().mean().item()
    assert recorder.values("group_cam/kept_share")[0][1] == pytest.approx(share, abs=1e-5)
    with torch.no_grad():
        first = replaced[:4].nonzero()[:, 0]
        confidences = [module(part[first]).softmax(1)[range(len(first)), LABELS[first]] for part in (pixels, images)]
    gain = (confidences[0] - confidences[1]).mean().item()
    assert recorder.values("group_cam/confidence_gain")[0][1] == pytest.approx(gain, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "shares"),
    [
        ({"start_epoch": 1}, [0.0, 1.0]),
        ({"probability": [[0, 1.0], [1, 0.0]]}, [1.0, 0.0]),
        ({"probability": 0.0}, [0.0, 0.0]),
    ],
)
def test_the_share_is_that_of_all_training_images(tmp_path, settings, shares):
    recorder = Recorder(tmp_path)
    fit(tmp_path, SaliencyAugmentation("random_blobs", **settings), Watching(), logger=recorder, epochs=2)
    assert [value for _, value in recorder.values("random_blobs/augmented")] == pytest.approx(shares)


def failing_at_class_3(maps):
    def made(images, targets, *others):
        if 3 in targets.tolist():
            raise RuntimeError("no map today")
        return maps(images, targets, *others)

    return made


def test_steps_that_fail_are_part_of_the_share(tmp_path):
    class Patient(Watching):
        def training_step(self, batch, batch_idx):
            return self(batch[0]).sum()

    recorder = Recorder(tmp_path)
    good, bad = ((originals(2), torch.tensor(labels)) for labels in ([0, 1], [0, 3]))
    augmentation = GroupCAMAugmentation(groups=4)
    augmentation.guide.maps = failing_at_class_3(augmentation.guide.maps)
    augmentation.recipe.changed = lambda images, maps, *_: (Changed(images + 1, torch.zeros_like(maps)), maps)
    with pytest.warns(UserWarning, match="goes on unaugmented"):
        fit(tmp_path, augmentation, Patient(learning_rate=0.0), ready_made([good, bad, bad, bad]), logger=recorder)
    assert recorder.values("group_cam/augmented")[0][1] == pytest.approx(0.25)


def test_a_failure_ends_the_run_where_that_is_wanted(tmp_path, monkeypatch):
    """A comparison would take such an arm for a plain one."""

    def broken(self, *arguments, **options):
        raise RuntimeError("no map today")

    monkeypatch.setattr(SaliencyAugmentation, "_augment", broken)
    callback, module = quiet(), Watching()
    callback.end_on_failure()
    with pytest.raises(RuntimeError, match="no map today"):
        fit(tmp_path, callback, module)
    assert module.given == []


def test_nothing_is_logged_where_that_is_not_wanted(tmp_path):
    recorder = Recorder(tmp_path)
    fit(tmp_path, quiet(), Watching(), logger=recorder)
    assert not [key for _, metrics in recorder.metrics for key in metrics if key.startswith("group_cam")]
    assert not (tmp_path / "recorder").exists()


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"explainer": "gradcam"}, "Allowed are explainers"),
        ({"probability": 1.5}, r"Got probability=1\.5"),
        ({"probability": [[3, 0.5], [1, 0.5]]}, "rising epochs"),
        ({"probability": "often"}, "probability"),
        ({"control": "noise"}, "random_blobs"),
        ({"explainer": "smoo"}, "Did you mean 'smoe'"),
        ({"start_epoch": -1}, "start_epoch"),
        (
            {"explainer": {"class_path": "grad_cam", "init_args": {"fast": True}}},
            r"Got the options \['fast'\] for grad_cam",
        ),
        ({"explainer": {"class_path": "group_cam", "init_args": {"layers": 3}}}, "Allowed are layer, groups, theta"),
        ({"explainer": {"name": "group_cam"}}, "Allowed are class_path"),
        ({"reuse_epochs": 0}, "reuse_epochs"),
        ({"reuse_epochs": "some"}, "Allowed are whole numbers from 1 and 'all'"),
        ({"guide_network": ""}, "'present', 'start', 'untrained' and the path"),
        ({"action": "remove"}, "Allowed are keep, hide"),
        ({"action": {"name": "hide"}}, "Allowed are class_path and init_args"),
        ({"action": {"class_path": "hide", "init_args": {"part": 0.1}}}, "Allowed are share, sigmas, fill, softness"),
        ({"action": {"class_path": "hide", "init_args": {"share": 10}}}, "divide per cent by 100"),
        ({"action": {"class_path": "hide", "init_args": {"share": 0.1, "sigmas": 2}}}, "Allowed is one of them"),
        ({"action": {"class_path": "hide", "init_args": {"softness": 1}}}, "softness=1"),
        ({"action": "nowhere.Action"}, "cannot be imported"),
        ({"action": 3}, "Got action=3"),
        ({"film": {"denormalize": "vgg"}}, "denormalize"),
        ({"film": {"megabytes": 0}}, "megabytes=0"),
        ({"film": {"width": 3}}, "Allowed are true, false and a mapping with any of num_images, denormalize"),
        ({"film": {"num_images": 0}}, "num_images=0"),
    ],
)
def test_options_that_make_no_sense(settings, message):
    with pytest.raises(AugmentationConfigurationError, match=message):
        SaliencyAugmentation(**settings)


def test_the_preset_has_one_guide():
    with pytest.raises(AugmentationConfigurationError, match="SaliencyAugmentation"):
        GroupCAMAugmentation(explainer="grad_cam")
    economical = GroupCAMAugmentation(economy=True, seed=0, probability=0.75)
    assert economical.probability(0) == 0.75


@pytest.mark.parametrize(
    ("settings", "data", "message"),
    [
        ({"explainer": {"class_path": "group_cam", "init_args": {"groups": 0}}}, {}, "group_cam cannot be the guide"),
        ({"explainer": {"class_path": "group_cam", "init_args": {"layer": "nowhere"}}}, {}, "nowhere"),
        ({"guide_network": "nowhere.ckpt"}, {}, "guide_network='nowhere.ckpt'.*there is no file"),
        ({"model": "nowhere"}, {}, "no submodule 'nowhere'"),
        ({"label_key": "target"}, {}, "label_key='target'"),
        ({"image_key": "picture"}, {}, "picture"),
        ({}, {"form": "features"}, "no images"),
    ],
)
def test_mistakes_end_the_run_before_its_first_step(tmp_path, settings, data, message):
    module = Watching()
    with pytest.raises(AugmentationConfigurationError, match=message):
        fit(tmp_path, SaliencyAugmentation(**settings), module, loader(**data))
    assert not module.given


@pytest.mark.parametrize(
    "batch",
    [
        (originals(4),),
        (originals(4), torch.arange(3)),
        (originals(4), torch.tensor([4, 9, 7, 99])),
        ((originals(4) * 255).to(torch.uint8), LABELS[:4]),
    ],
    ids=["no labels", "another number of labels", "no such class", "uint8"],
)
def test_batches_that_cannot_be_augmented(tmp_path, batch):
    class Patient(Watching):
        def training_step(self, batch, batch_idx):
            self.given.append(batch[0].clone())
            return self(batch[0].float()).sum()

    early = Patient(learning_rate=0.0)
    with pytest.raises(AugmentationConfigurationError):
        fit(tmp_path, quiet(), early, ready_made([batch]))
    assert not early.given
    late = Patient(learning_rate=0.0)
    good = (originals(4), LABELS[:4])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = fit(tmp_path, quiet(), late, ready_made([good, batch, batch, good]))
    assert run.global_step == 4
    told = [str(warning.message) for warning in caught]
    assert sum("goes on unaugmented" in message or "stay as they are" in message for message in told) == 1
    handed = [good, batch, batch, good]
    same = [torch.equal(given, each[0]) for given, each in zip(late.given, handed, strict=True)]
    assert same == [False, True, True, False]


def test_after_ten_failures_in_a_row_it_is_off(tmp_path):
    class Patient(Watching):
        def training_step(self, batch, batch_idx):
            return self(batch[0]).sum()

    module = Patient(learning_rate=0.0)
    bad = (originals(2), torch.tensor([0, 3]))
    augmentation = quiet()
    augmentation.guide.maps = failing_at_class_3(augmentation.guide.maps)
    with pytest.warns(UserWarning, match="After 10 failures in a row"):
        run = fit(tmp_path, augmentation, module, ready_made([(originals(2), LABELS[:2])] + [bad] * 12))
    assert run.global_step == 13


@pytest.mark.parametrize("settings", [{"probability": 0.2}, {"probability": 0.4}])
def test_steps_that_stay_as_they_are_are_no_success(tmp_path, settings):
    tries = []

    def failing(*arguments):
        tries.append(arguments)
        raise RuntimeError("no map today")

    class Begun(Watching):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            augmentation.guide.maps = failing

    augmentation = quiet(**settings)
    batches = [(originals(1), LABELS[:1])] * 60
    with pytest.warns(UserWarning, match="After 10 failures in a row"):
        run = fit(tmp_path, augmentation, Begun(), ready_made(batches))
    assert (run.global_step, len(tries)) == (60, 10)


def test_failures_with_successes_between_them_do_not_end_it(tmp_path):
    tries = []

    def limping(*arguments):
        tries.append(arguments)
        if len(tries) % 2:
            raise RuntimeError("no map now")
        return original(*arguments)

    class Begun(Watching):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            augmentation.guide.maps = limping

    augmentation = quiet()
    original = augmentation.guide.maps
    with pytest.warns(UserWarning, match="no map now"):
        fit(tmp_path, augmentation, Begun(), ready_made([(originals(2), LABELS[:2])] * 30))
    assert len(tries) == 29


def test_images_that_are_not_finite_stay_as_they_are_with_a_warning(tmp_path):
    images = originals(4)
    images[1] = float("nan")

    class Skipping(Watching):
        def training_step(self, batch, batch_idx):
            self.given.append(batch[0].clone())
            return self(torch.nan_to_num(batch[0])).sum()

    module = Skipping(learning_rate=0.0)
    with pytest.warns(UserWarning, match="not finite"):
        fit(tmp_path, quiet(), module, ready_made([(images, LABELS[:4])]))
    assert module.given[0][1].isnan().all()
    assert module.given[0][[0, 2, 3]].isfinite().all()
    assert not torch.equal(module.given[0][[0, 2, 3]], images[[0, 2, 3]])


def test_a_module_without_forward_names_its_network(tmp_path):
    class Two(Watching):
        forward = torch.nn.Module.forward

        def __init__(self):
            super().__init__()
            self.other = nn.Linear(2, 2)

        def training_step(self, batch, batch_idx):
            self.given.append(batch[0].clone())
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    module = Two()
    fit(tmp_path, quiet(model="net"), module)
    assert not torch.equal(torch.cat(module.given), originals())


def test_a_function_takes_the_logits_out_of_what_the_network_returns(tmp_path):
    class Wrapped(SmallNet):
        def forward(self, x):
            return {"other": x, "classes": super().forward(x)}

    class Unwrapping(Watching):
        def training_step(self, batch, batch_idx):
            self.given.append(batch[0].clone())
            return nn.functional.cross_entropy(self.net(batch[0])["classes"], batch[1])

    module = Unwrapping(Wrapped(), learning_rate=0.0)
    guide = {"class_path": "group_cam", "init_args": {"groups": 4, "output": lambda returned: returned["classes"]}}
    fit(tmp_path, SaliencyAugmentation(guide, film=False), module)
    assert not torch.equal(torch.cat(module.given), originals())


def test_an_unaugmented_run_needs_no_labels(tmp_path):
    class Unsupervised(Module):
        def training_step(self, batch, batch_idx):
            return self(batch[0]).sum()

    fit(tmp_path, GroupCAMAugmentation(probability=0.0), Unsupervised(), ready_made([(originals(4),)]))


def test_equal_tells_runs_apart():
    assert equal({"a": [torch.ones(2), None]}, {"a": [torch.ones(2), None]})
    assert not equal({"a": [torch.ones(2)]}, {"a": [torch.zeros(2)]})


@pytest.mark.parametrize(("broken", "said"), [("scalar", "measure confidence_gain"), ("picture", "draw its pictures")])
def test_what_is_shown_fails_by_itself(tmp_path, monkeypatch, broken, said):
    def fails(*_arguments: Any, **_options: Any) -> None:
        raise ArithmeticError("made to fail")

    augmentation = SaliencyAugmentation("smoe")
    part, name = {"scalar": (augmentation.recipe, "gain"), "picture": (augmentation._film, "show")}[broken]
    expected, module = Watching(), Watching()
    fit(tmp_path / "expected", SaliencyAugmentation("smoe", film=False), expected, epochs=2)
    monkeypatch.setattr(part, name, fails)
    with pytest.warns(UserWarning, match=said) as caught:
        run = fit(tmp_path, augmentation, module, epochs=2)
    assert len([each for each in caught if "made to fail" in str(each.message)]) == 1
    assert equal(module.given, expected.given)
    assert run.callback_metrics["smoe/augmented"] == 1


def test_a_guide_without_classes_needs_no_logits(tmp_path):
    class Boxes(Watching):
        def forward(self, x):
            found = self.net(x)
            return {"boxes": found, "marks": found}

        def training_step(self, batch, batch_idx):
            self.given.append(batch[0].clone())
            return self(batch[0])["boxes"].square().mean()

        def validation_step(self, batch, batch_idx):
            pass

    module = Boxes()
    with pytest.warns(UserWarning, match="output= says where the network's logits are"):
        run = fit(tmp_path, SaliencyAugmentation("smoe"), module)
    assert run.callback_metrics["smoe/augmented"] == 1
    assert not torch.equal(module.given[0], originals()[:4])
