"""Actions that change labels, and sharp images beside the changed ones."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning import seed_everything
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from lightning_saliency import GroupCAMAugmentation, ImageClassifier, KeepAugment, MaskTune, SaliencyAugmentation
from lightning_saliency.callbacks import AugmentationConfigurationError, Hide, Mix, Protect, Swap
from lightning_saliency.callbacks.augmentation.batch import mixed_labels
from lightning_saliency.explainers import XGradCAM
from tests.callbacks.augmentation.helpers import SmallNet, Watching, equal, fit, originals, ready_made
from tests.callbacks.monitor.helpers import loader, trainer

LABELS = torch.tensor([0, 1, 2, 3, 3, 0, 1, 2])
EYE = torch.eye(4)


class Labelled(Watching):
    """Keeps the labels, too."""

    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        self.labels: list[torch.Tensor] = []

    def training_step(self, batch, batch_idx):
        images, labels = self._images_and_labels(batch)
        self.given.append(images.detach().clone())
        self.labels.append(labels.clone())
        loss = nn.functional.cross_entropy(self(images), labels)
        self.losses.append(loss.item())
        return loss


class InTuples(Labelled):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return tuple(batch)


def mixing(**settings) -> SaliencyAugmentation:
    return SaliencyAugmentation("smoe", action="mix", film=False, **settings)


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["list", "dict", "soft", "one-hot"])
def test_labels_are_mixed_as_the_pixels_are_and_given_back(tmp_path, form):
    images = originals(8)
    labels = {"soft": EYE[LABELS], "one-hot": EYE[LABELS].long()}.get(form, LABELS.clone())
    batch = {"image": images, "label": labels} if form == "dict" else [images, labels]
    if form == "soft":
        batch = tuple(batch)  # labels of the same kind are pointed elsewhere, wherever they are
    module = Labelled(learning_rate=0.0)
    fit(tmp_path, mixing(), module, ready_made([batch]))
    [given], [mixed] = module.given, module.labels
    assert mixed.shape == (8, 4)
    assert mixed.is_floating_point()
    torch.testing.assert_close(mixed.sum(1), torch.ones(8))
    changed = (given != images).any(1)
    for row in range(8):
        # Each pixel is the image's own or another's, which has the rest of the label.
        others = [
            other for other in range(8) if torch.equal(given[row][:, changed[row]], images[other][:, changed[row]])
        ]
        assert len(others) == 1 or not changed[row].any()
        assert mixed[row, LABELS[row]] == pytest.approx(1, abs=1e-6) or mixed[row, LABELS[others[0]]] > 0
    assert ((mixed > 0) & (mixed < 1)).any()
    assert batch["label"] is labels if form == "dict" else batch[1] is labels
    assert torch.equal(labels.argmax(1) if labels.ndim == 2 else labels, LABELS)
    assert torch.equal(images, originals(8))


@pytest.mark.parametrize("keep_original", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool])
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_labels_of_one_logit_stay_in_their_form(tmp_path, shape, dtype, keep_original):
    class YesNo(Labelled):
        def training_step(self, batch, batch_idx):
            self.labels.append(batch[1].clone())
            logits = self(batch[0]).view(batch[1].shape)
            return nn.functional.binary_cross_entropy_with_logits(logits, batch[1].to(logits.dtype))

    with torch.random.fork_rng():
        module = YesNo(net=SmallNet(classes=1), learning_rate=0.0)
    labels = torch.tensor([0, 1, 0, 1]).view(shape).to(dtype)
    fit(tmp_path, mixing(keep_original=keep_original), module, ready_made([[originals(4), labels]]))
    [mixed] = module.labels
    assert mixed.shape == (8 if keep_original else 4, *shape[1:])
    assert mixed.dtype == (dtype if dtype.is_floating_point else torch.float32)
    assert ((mixed > 0) & (mixed < 1)).any()
    if keep_original:
        assert torch.equal(mixed[:4], labels.to(mixed.dtype))
    assert labels.flatten().tolist() == [0, 1, 0, 1]


def test_labels_of_two_logits_are_probabilities_of_both(tmp_path):
    module = Labelled(net=SmallNet(classes=2), learning_rate=0.0)
    fit(tmp_path, mixing(), module, ready_made([[originals(4), torch.tensor([0, 1, 0, 1])]]))
    assert module.labels[0].shape == (4, 2)


def test_no_class_of_one_logit_stays_what_it_is():
    labels = torch.tensor([0, -1, 1])
    partners, weights = torch.tensor([2, 1, 0]), torch.tensor([0.25, 1.0, 0.5])
    for given in (labels, labels[:, None]):
        mixed = mixed_labels(given, labels, 1, partners, weights)
        assert torch.equal(mixed, torch.tensor([0.75, -1.0, 0.5]).view(given.shape))


def test_labels_that_cannot_be_replaced_end_the_run_at_once(tmp_path):
    for batch, message in (
        ((originals(4), LABELS[:4]), "Got labels in a tuple.*let collate_fn return one"),
        ([originals(4), torch.ones(4, 16, 16, dtype=torch.int64)], "look like masks"),
        # Each beside its image.
        (list(zip(originals(4), LABELS[:4], strict=True)), "Got labels in a .*of the whole batch together"),
        (list(zip(originals(2), [0, 1], strict=True)), "Got labels in a .*of the whole batch together"),
        ([{"image": image, "label": 1} for image in originals(4)], "Got labels in a .*of the whole batch together"),
    ):
        module = InTuples()
        with pytest.raises(AugmentationConfigurationError, match=message):
            fit(tmp_path, mixing(), module, ready_made([batch]))
        assert not module.given


def test_images_without_a_class_are_not_mixed(tmp_path):
    images, labels = originals(4), torch.tensor([0, -100, 2, 1])
    module = Labelled(learning_rate=0.0)
    fit(tmp_path, mixing(), module, ready_made([[images, labels]]))
    assert torch.equal(module.given[0][1], images[1])
    assert module.labels[0].sum(1).tolist() == pytest.approx([1, 0, 1, 1])


def test_the_classifier_takes_mixed_labels(tmp_path):
    seed_everything(0)
    model = ImageClassifier(SmallNet(), 4)
    run = trainer(tmp_path, mixing(), epochs=1)
    run.fit(model, loader(form="dict"))
    assert run.global_step == 4
    assert run.callback_metrics["train/loss"].isfinite()
    assert 0 <= run.callback_metrics["train/accuracy"] <= 1


# --- protect and swap -------------------------------------------------------------------------------------------------


def test_transforms_leave_the_global_generators_as_they_were():
    images, maps = torch.rand(3, 3, 16, 16), torch.rand(3, 16, 16)
    protect = Protect({"class_path": "RandomErasing", "init_args": {"p": 1.0}}, share=0.1)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again, other = (protect(images, maps, torch.Generator().manual_seed(seed)).pixels for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    kept = maps >= maps.flatten(1).topk(26).values[:, -1, None, None]
    assert torch.equal(first.movedim(1, -1)[kept], images.movedim(1, -1)[kept])
    assert (first == 0).any(1).any(-1).any(-1).all()  # each image is erased somewhere


def test_transforms_of_colours_get_images_as_they_were():
    seen = []
    protect = Protect(lambda image: seen.append(image) or image, normalization=[[0.5], [0.25]])
    images = (torch.rand(2, 1, 8, 8) - 0.5) / 0.25
    pixels = protect(images, torch.rand(2, 8, 8), torch.Generator()).pixels
    torch.testing.assert_close(pixels, images)
    assert min(image.min() for image in seen) >= 0
    assert max(image.max() for image in seen) <= 1 + 1e-6


@pytest.mark.parametrize("transform", ["Unknown", 3, {"class_path": "RandomErasing", "init_args": {"q": 1}}, {"a": 1}])
def test_transforms_that_do_not_exist(transform):
    with pytest.raises(AugmentationConfigurationError, match="Got transform="):
        Protect(transform)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: KeepAugment("grad_cam"), "'grad_cam' is an explainer: give it with explainer="),
        (lambda: KeepAugment(XGradCAM), "XGradCAM is an explainer: give it with explainer="),
        (lambda: KeepAugment({"class_path": "smoe", "init_args": {}}), "'smoe' is an explainer"),
        (lambda: KeepAugment("swap"), "'swap' is an action: give it with action="),
        (lambda: KeepAugment("randomerasing"), "Did you mean 'RandomErasing'"),
        (lambda: KeepAugment(v2.ColorJitter), r"such as v2.ColorJitter\(\)"),
        (lambda: KeepAugment(["RandomErasing", "ColorJitter"]), r"v2.Compose\(\[...\]\) of several"),
        (lambda: KeepAugment(explainer="RandomErasing"), "'RandomErasing' is a transform: give it with transform="),
        (lambda: MaskTune("hide"), "'hide' is an action: give it with action="),
        (lambda: GroupCAMAugmentation("grad_cam"), "Got groups='grad_cam'"),
        (lambda: SaliencyAugmentation("mix"), "'mix' is an action: give it with action="),
        (lambda: SaliencyAugmentation("MaskTune"), r"use MaskTune\(...\)"),
        (lambda: SaliencyAugmentation(action="grad_cam"), "'grad_cam' is an explainer: give it with explainer="),
        (lambda: SaliencyAugmentation(action="ColorJitter"), "transform= of the action 'protect', or of KeepAugment"),
        (lambda: SaliencyAugmentation(action=Hide), "Got action=.*; give one of them"),
    ],
)
def test_what_belongs_to_another_option_is_told_so(make, told):
    with pytest.raises(AugmentationConfigurationError, match=told):
        make()


@pytest.mark.parametrize("action", [Swap(), Mix()])
def test_an_image_that_is_alone_stays_as_it_is_and_that_is_said_once(tmp_path, recwarn, action):
    module = Labelled(learning_rate=0.0)
    data = DataLoader([(image, 1) for image in originals(2)], batch_size=1)
    fit(tmp_path, SaliencyAugmentation("smoe", action=action, film=False), module, data)
    assert torch.equal(torch.cat(module.given), originals(2))
    assert len([each for each in recwarn if "needs another image of the batch" in str(each.message)]) == 1


def test_a_last_batch_of_one_image_is_not_told_of(tmp_path, recwarn):
    data = DataLoader([(image, 1) for image in originals(3)], batch_size=2)
    fit(tmp_path, SaliencyAugmentation("smoe", action="mix", film=False), Labelled(learning_rate=0.0), data)
    assert not [each for each in recwarn if "needs another image" in str(each.message)]


# --- presets ----------------------------------------------------------------------------------------------------------


def test_presets_under_the_names_people_know():
    tuned = MaskTune(start_epoch=3)
    assert tuned.guide.spec.factory is XGradCAM
    assert (tuned.guide.network.which, tuned.reuse_epochs, tuned.start_epoch) == ("start", None, 3)
    assert tuned.action == Hide(sigmas=2.0)
    assert MaskTune("smoe", share=0.1).action == Hide(share=0.1)
    kept = KeepAugment({"class_path": "GaussianBlur", "init_args": {"kernel_size": 3}}, share=0.4)
    assert kept.action.share == 0.4
    for preset in (MaskTune, KeepAugment):
        with pytest.raises(AugmentationConfigurationError, match=f"Got action='keep' for {preset.__name__}"):
            preset(action="keep")


@pytest.mark.parametrize("preset", [MaskTune, KeepAugment])
def test_presets_run(tmp_path, preset):
    module = Watching(learning_rate=0.0)
    run = fit(tmp_path, preset(), module)
    assert not torch.equal(torch.cat(module.given), originals())
    assert 0 < run.callback_metrics[f"{preset().name}/kept_share"] < 1


# --- sharp images -----------------------------------------------------------------------------------------------------


class Everything(Labelled):
    def training_step(self, batch, batch_idx):
        self.seen = {
            key: value.clone() if isinstance(value, torch.Tensor) else list(value) for key, value in batch.items()
        }
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("probability", [1.0, 0.5])
def test_sharp_images_beside_the_changed_ones(tmp_path, probability):
    images = originals(4)
    batch = {"image": images, "label": LABELS[:4].clone(), "name": ["a", "b", "c", "d"], "boxes": torch.rand(4, 1, 4)}
    kept = {**batch, "name": list(batch["name"])}
    module = Everything(learning_rate=0.0)
    augmentation = SaliencyAugmentation("smoe", probability, action="hide", keep_original=True, film=False)
    fit(tmp_path, augmentation, module, ready_made([batch]))
    seen, count = module.seen, len(module.given[0]) - 4
    assert count == 4 if probability == 1 else 0 < count < 4
    assert torch.equal(seen["image"][:4], images)
    rows = [next(row for row in range(4) if kept["name"][row] == name) for name in seen["name"][4:]]
    assert torch.equal(seen["label"][4:], kept["label"][rows])
    assert torch.equal(seen["boxes"][4:], kept["boxes"][rows])
    hidden = (seen["image"][4:] != images[rows]).any(1)
    assert hidden.sum((1, 2)).tolist() == [26] * count
    assert equal({key: batch[key] for key in kept}, kept)  # and all of it is back
    assert len(batch["image"]) == 4


def test_mixed_labels_beside_the_own_ones(tmp_path):
    module = Labelled(learning_rate=0.0)
    fit(tmp_path, mixing(keep_original=True), module, ready_made([[originals(4), LABELS[:4]]]))
    [labels] = module.labels
    assert torch.equal(labels[:4], EYE)
    assert ((labels[4:] > 0) & (labels[4:] < 1)).any()


def test_of_images_of_which_some_have_a_class_those_are_mixed_beside_all(tmp_path):
    module = Labelled(learning_rate=0.0)
    batch = [originals(4), torch.tensor([-100, 0, -100, 2])]
    fit(tmp_path, mixing(keep_original=True), module, ready_made([batch]))
    [labels] = module.labels
    assert torch.equal(labels[:4], torch.stack([EYE[0] * 0, EYE[0], EYE[0] * 0, EYE[2]]))
    # The two are each other's partners.
    first, second = labels[4, 0].item(), labels[5, 2].item()
    assert 0 < min(first, second) < 1
    torch.testing.assert_close(labels[4:], torch.tensor([[first, 0, 1 - first, 0], [1 - second, 0, second, 0]]))


def test_a_list_of_images_cannot_be_made_longer(tmp_path):
    batch = {"image": list(originals(4)), "label": LABELS[:4]}
    with pytest.raises(AugmentationConfigurationError, match="keep_original=True and a list of 4 images"):
        fit(tmp_path, SaliencyAugmentation("smoe", keep_original=True), Labelled(), ready_made([batch]))


@pytest.mark.parametrize(
    ("unlabelled", "labels"),
    [
        (torch.full((4,), -1), LABELS[:4]),
        (torch.full((4,), 255), LABELS[:4]),
        (torch.zeros(4, 4), EYE[LABELS[:4]]),
    ],
)
def test_pairs_are_mixed_though_the_first_batch_has_no_class(tmp_path, recwarn, unlabelled, labels):
    class Unlabelled(Labelled):
        def training_step(self, batch, batch_idx):
            images, labels = batch
            self.given.append(images.detach().clone())
            self.labels.append(labels.clone())
            return self(images).mean()

    images, module = originals(8), Unlabelled()
    fit(tmp_path, mixing(), module, ready_made([[images[:4], unlabelled], [images[4:], labels]]))
    assert equal(module.given[0], images[:4])
    assert not equal(module.given[1], images[4:])
    assert module.labels[1].shape == (4, 4)
    assert not [str(each.message) for each in recwarn if "goes on unaugmented" in str(each.message)]


@pytest.mark.parametrize("twice", ["image", "label", "both", "listed"])
def test_what_lies_in_a_batch_under_two_names_is_made_longer_once(tmp_path, twice):
    images, labels, names = originals(8)[:4], LABELS[:4].clone(), list("abcd")
    batch = {"image": images, "label": labels}
    if twice == "listed":
        batch |= {"names": names, "files": names}
    if twice in ("image", "both"):
        batch["input"] = images
    if twice in ("label", "both"):
        batch["target"] = labels
    lengths = []

    class Lengths(Labelled):
        def training_step(self, batch, batch_idx):
            lengths.append({len(part) for part in batch.values()})
            return super().training_step(batch, batch_idx)

    hiding = SaliencyAugmentation("smoe", action="hide", keep_original=True, film=False, image_key="image")
    fit(tmp_path, hiding, Lengths(), ready_made([batch]))
    assert lengths == [{8}]
    assert {len(part) for part in batch.values()} == {4}
