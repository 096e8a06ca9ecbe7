"""The augmentation with heads and labels of every kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_saliency.callbacks import SaliencyAugmentation
from lightning_saliency.callbacks.augmentation import AugmentationConfigurationError
from tests.callbacks.augmentation.helpers import fit, originals, ready_made
from tests.callbacks.monitor.test_heads import AnyHead, first_tensor
from tests.explainers.networks import Fixed
from tests.explainers.test_heads import Net

NAN = float("nan")
IMAGES = originals(4)
SEVERAL = torch.tensor([[0.0, 0, 1, 0], [0, 0, 0, 0], [NAN, -1, 0, 1], [0, 0, 0, 0]])
SHAPES = torch.zeros(4, 16, 16, dtype=torch.int64)
SHAPES[0, :4], SHAPES[0, 4:6], SHAPES[1, 3:5], SHAPES[2] = 2, 1, 3, 255


class Watching(AnyHead):
    """Keeps what its training steps were given."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.given: list[torch.Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.given.append(batch[0].detach().clone())
        return first_tensor(self(batch[0])).mean() * 0


def guided(
    folder: Any, net: nn.Module, batches: list[Any], **settings: Any
) -> tuple[list[list[int]], list[list[bool]]]:
    """The classes that the guide is asked for in each step, and which images are replaced."""
    asked: list[list[int]] = []

    def halves(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        asked.append(targets.tolist())
        maps = torch.zeros(len(images), *images.shape[2:])
        maps[:, : images.shape[2] // 2] = 1.0
        return maps

    def guide(model: nn.Module, output: Any = None) -> Fixed:
        return Fixed(model, halves, output=output)

    module = Watching(net)
    augmentation = SaliencyAugmentation(guide, film=False, name="fixed", **settings)
    fit(folder, augmentation, module, ready_made(batches))
    replaced = [
        [not torch.equal(*pair) for pair in zip(given, batch[0], strict=True)]
        for given, batch in zip(module.given, batches, strict=True)
    ]
    return asked[1:], replaced  # the first is a trial


@pytest.mark.parametrize(
    ("net", "settings", "labels", "expected"),
    [
        (Net("plain", 1), {}, torch.tensor([0, 1, 1, 0]), [0, 1, 1, 0]),
        (Net("plain", 1), {}, torch.tensor([[0.0], [1.0], [1.0], [NAN]]), [0, 1, 1, None]),
        (Net("flat", 1), {}, torch.tensor([1.0, 0.0, -1.0, 0.0]), [1, 0, None, 0]),
        (Net("flat", 1), {}, torch.tensor([True, False, True, True]), [1, 0, 1, 1]),
        (Net("plain", 1), {}, torch.tensor([0, -1, 255, 1]), [0, None, None, 1]),
        (Net("plain"), {}, torch.tensor([3, -100, 255, 4]), [3, None, None, None]),
        (
            Net("plain"),
            {},
            torch.tensor([[0.0, 0, 1, 0], [0, 0, 0, 0], [NAN, -1, 0, 1], [0, 0, 0, 0]]),
            [2, None, 3, None],
        ),
        (Net("heads"), {"output": "heads.color"}, torch.tensor([3, 2, 1, 0]), [3, 2, 1, 0]),
        (Net("named"), {"output": 0}, torch.tensor([3, 2, 1, 0]), [3, 2, 1, 0]),
        (Net("dataclass"), {"output": "shape"}, torch.tensor([3, 2, 1, 0]), [3, 2, 1, 0]),
        (Net("object"), {}, torch.tensor([3, 2, 1, 0]), [3, 2, 1, 0]),
        (Net("out"), {}, SHAPES, [2, 3, None, 0]),
        (Net("pixels"), {"label_key": 1}, SHAPES[:, None].float(), [2, 3, None, 0]),
        (Net("squeezed", 1), {}, (SHAPES == 3)[:, None].float(), [0, 1, 0, 0]),
    ],
)
def test_the_class_of_each_image(tmp_path, net, settings, labels, expected):
    [asked], [replaced] = guided(tmp_path, net, [(IMAGES, labels)], **settings)
    assert replaced == [target is not None for target in expected]
    assert asked == [target for target in expected if target is not None]


def test_soft_yes_no_labels_are_drawn_by_their_weight(tmp_path):
    asked, _ = guided(tmp_path, Net("plain", 1), [(IMAGES, torch.tensor([0.05, 0.95, 0.5, 0.5]))] * 25)
    share = torch.tensor(asked, dtype=torch.float32).mean(0)
    assert share[0] < 0.3
    assert share[1] > 0.7
    assert 0.2 < share[2:].mean() < 0.8


@pytest.mark.parametrize("later", [(IMAGES,), (IMAGES, torch.rand(4, 3) * 9), (IMAGES, torch.arange(3))])
def test_a_later_batch_without_labels_stays_as_it_is(tmp_path, later):
    good = (IMAGES, torch.tensor([3, 2, 1, 0]))
    with pytest.warns(UserWarning, match="Batches without labels stay as they are"):
        _, replaced = guided(tmp_path, Net("plain"), [good, *[later] * 12, good])
    assert replaced == [[True] * 4, *[[False] * 4] * 12, [True] * 4]  # no failures that would switch it off


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        (1, torch.tensor([18, 71, 34, 2]), "Got labels such as 71"),
        (1, torch.tensor([0.5, 71.5, 34.0, 2.0]), "Found no ground truth"),
        (4, torch.tensor([4, 5, 6, 7]), "none of them from 0 to 3"),
    ],
)
def test_labels_of_which_none_is_a_class_end_the_run_at_once(tmp_path, outputs, labels, message):
    with pytest.raises(AugmentationConfigurationError, match=message):
        guided(tmp_path, Net("plain", outputs), [(IMAGES, labels)])


def test_a_label_beyond_the_classes_is_told_of_once_and_255_is_not(tmp_path, recwarn):
    batch, ignored = (IMAGES, torch.tensor([3, 9, 1, 0])), (IMAGES, torch.tensor([3, 255, 1, 0]))
    guided(tmp_path / "ignored", Net("plain"), [ignored] * 3)
    assert not [each for each in recwarn if "stay as they are" in str(each.message)]
    _, replaced = guided(tmp_path / "beyond", Net("plain"), [batch] * 3)
    assert replaced == [[True, False, True, True]] * 3
    assert len([each for each in recwarn if "labels such as 9 stay as they are" in str(each.message)]) == 1


@pytest.mark.parametrize("explainer", ["group_cam", "grad_cam", "fast_cam", "sise"])
def test_real_guides_of_a_yes_no_head_augment_both_classes(tmp_path, explainer):
    torch.manual_seed(2)
    images, labels = torch.rand(32, 3, 16, 16), (torch.arange(32) % 2).float()
    net = Net("plain", 1)
    with torch.no_grad():  # every other channel speaks for yes, in another place than those that speak for no
        net.linear.weight.copy_(torch.tensor([1.0, -1.0]).repeat(4))
    module = Watching(net)
    augmentation = SaliencyAugmentation(explainer)
    fit(tmp_path, augmentation, module, ready_made([(images[i : i + 8], labels[i : i + 8]) for i in range(0, 32, 8)]))
    changed = (torch.cat(module.given) != images).flatten(1).any(1)
    assert set(labels[changed].tolist()) == {0.0, 1.0}
    assert augmentation.epoch_means()["augmented"] == pytest.approx(changed.float().mean().item())


def test_a_guide_that_cannot_be_told_where_the_logits_are():
    with pytest.raises(AugmentationConfigurationError, match="cannot be the guide"):
        SaliencyAugmentation(lambda model: Fixed(model, lambda images, targets: images[:, 0]), output="logits")
    assert SaliencyAugmentation("grad_cam", output="logits").guide.spec.init_args == {"output": "logits"}
