"""A step of the augmentation: what it draws by, in which precision it asks, and what it leaves of the data."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import nn

from lightning_saliency import SaliencyAugmentation
from lightning_saliency.batches import BatchReader
from lightning_saliency.callbacks.augmentation.actions.basic import Changed
from lightning_saliency.callbacks.augmentation.batch import GroundTruth
from lightning_saliency.callbacks.augmentation.guide import Guide, Recipe
from lightning_saliency.callbacks.augmentation.options import Failures
from lightning_saliency.callbacks.augmentation.step import BatchStep
from lightning_saliency.explainers import SMOE, GradCAM
from tests.callbacks.augmentation.helpers import SmallNet, Watching, fit, originals, ready_made
from tests.callbacks.monitor.helpers import loader, trained

LABELS = torch.tensor([0, 1, 2, 3, 3, 0, 1, 2])


class Shifting(Watching):
    """Its step writes into its images, and does not mind images without a class."""

    def training_step(self, batch, batch_idx):
        batch[0].sub_(0.5)
        return nn.functional.cross_entropy(self(batch[0]), batch[1], ignore_index=-1)


def as_they_are(images, maps, generator):
    """Changes no pixel, and hands on the very tensor that it was given."""
    return Changed(images, torch.full(maps.shape, 0.5))


@pytest.mark.parametrize("probability", [1.0, 0.5], ids=["all", "some"])
@pytest.mark.parametrize("action", [as_they_are, "hide"])
def test_a_step_that_writes_into_its_images_leaves_the_data(tmp_path, probability, action):
    images = originals(8)
    augmentation = SaliencyAugmentation("smoe", action=action, probability=probability, film=False)
    fit(tmp_path, augmentation, Shifting(), ready_made([[images, LABELS.clone()]]), epochs=2)
    assert torch.equal(images, originals(8))


def _step(**settings) -> BatchStep:
    guide = Guide("random_blobs")
    guide.bind(SmallNet())
    recipe = Recipe(guide, as_they_are)
    reader = BatchReader()
    return BatchStep(recipe, GroundTruth(reader), reader, 1, 0, Failures("SaliencyAugmentation"), **settings)


@pytest.mark.parametrize(("batches", "ends"), [(0, True), (1, False)])
def test_only_the_first_batch_ends_a_run(batches, ends):
    run = SimpleNamespace(fit_loop=trained(batches))
    assert (_step().refusal(run, ValueError("no images")) is not None) == ends
    assert _step().refusal(run, None) is None


def test_processes_draw_other_images():
    images = originals(16)
    shown = {}
    for rank, number in ((0, 3), (0, 4), (1, 3), (1, 4)):
        step, batch = _step(), [images, torch.arange(16) % 4]
        run = SimpleNamespace(
            global_rank=rank,
            current_epoch=0,
            precision_plugin=SimpleNamespace(forward_context=nullcontext),
            lightning_module=None,
        )
        drawn = step.augment(run, BatchReader().read(batch), 0.5, number)
        shown[rank, number] = drawn.rows.tolist()
    assert len({tuple(rows) for rows in shown.values()}) == 4


class Noting(GradCAM):
    """Notes in which precision it is asked, and for which classes."""

    maps: ClassVar[list[tuple[bool, list[int]]]] = []
    answers: ClassVar[list[bool]] = []

    def _explain(self, images, targets):
        Noting.maps.append((torch.is_autocast_enabled("cpu"), targets.tolist()))
        return super()._explain(images, targets)

    def logits(self, images):
        Noting.answers.append(torch.is_autocast_enabled("cpu"))
        return super().logits(images)


@pytest.fixture
def noting():
    Noting.maps, Noting.answers = [], []
    return Noting


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_network_is_asked_in_the_runs_precision(tmp_path, noting, precision):
    fit(tmp_path, SaliencyAugmentation(Noting, action="hide", film=False), Watching(), loader(8), precision=precision)
    mixed = precision == "bf16-mixed"
    assert [asked for asked, _ in noting.maps] == [mixed] * 3  # the trial and two batches
    assert noting.answers
    assert set(noting.answers) == {mixed}


def test_what_is_tried_first_is_an_image_with_a_class(tmp_path, noting):
    labels = torch.tensor([-1, 2, -1, 3, -1, -1, -1, -1])
    data = ready_made([[originals(8), labels]])
    fit(tmp_path, SaliencyAugmentation(Noting, action="hide", film=False), Shifting(), data)
    assert [classes for _, classes in noting.maps] == [[3], [2, 3]]


class Classless(SMOE):
    """Notes how many maps it makes."""

    made = 0

    def __call__(self, images, targets=None):
        Classless.made += len(images)
        return super().__call__(images, targets)


def test_a_kept_map_that_needs_no_class_serves_whatever_the_label_says(tmp_path):
    class Relabelled(Watching):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return [batch[0], (batch[1] + self.current_epoch) % 4]

    Classless.made = 0
    augmentation = SaliencyAugmentation(Classless, action="hide", reuse_epochs="all", film=False)
    fit(tmp_path, augmentation, Relabelled(), loader(8), epochs=3)
    assert Classless.made == 1 + 8  # the trial; each image once


@pytest.mark.parametrize("kind", ["classes", "soft"])
def test_mixed_labels_meet_the_logits_in_their_type(tmp_path, kind):
    class Taking(Watching):
        def training_step(self, batch, batch_idx):
            self.types = [part.dtype for part in batch]
            return nn.functional.cross_entropy(self(batch[0]), batch[1].to(batch[0].dtype))

    labels = LABELS if kind == "classes" else torch.eye(4)[LABELS].double()

    class Kept(Taking):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return [batch[0], labels.clone()]

    module = Kept()
    augmentation = SaliencyAugmentation("smoe", action="mix", film=False)
    fit(tmp_path, augmentation, module, ready_made([[originals(8), LABELS]]), precision="bf16-true")
    assert module.types == [torch.bfloat16, torch.bfloat16 if kind == "classes" else torch.float64]
