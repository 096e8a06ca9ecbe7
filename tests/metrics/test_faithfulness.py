"""Metrics against the network: what they cost, what they leave behind, and torchcam as a second opinion."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchmetrics import MetricCollection

from lightning_saliency.functional.fills import blur
from lightning_saliency.metrics import AverageDrop, DeletionAUC, IncreaseRate, InsertionAUC

AGAINST_NETWORK = pytest.mark.parametrize("kind", [InsertionAUC, DeletionAUC, AverageDrop, IncreaseRate])


class Counting(nn.Module):
    """A network that counts the images it sees and the modes it sees them in."""

    def __init__(self, wrap: Callable[[Tensor], object] = lambda logits: logits) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(4, 5)
        self.wrap = wrap
        # Outside of the module, where it is not put back after a pass.
        self.noted = SimpleNamespace(seen=0, modes=set())

    def forward(self, images: Tensor) -> object:
        self.noted.seen += len(images)
        self.noted.modes |= {module.training for module in self.modules()}
        return self.wrap(self.head(self.body(images).mean((2, 3))))


class Wrapper(nn.DataParallel):
    """Stands for wrappers whose forward needs every process to call it as often."""

    def forward(self, *inputs: object) -> object:
        raise AssertionError("a metric must take the wrapper off")


def batch(count: int = 4, size: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    return torch.rand(count, 3, size, size), torch.rand(count, size, size), torch.randint(5, (count,))


@AGAINST_NETWORK
def test_the_network_is_left_as_it_was(kind: type[InsertionAUC]) -> None:
    model = Counting().train()
    model.body[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    kind().update(model, *batch())
    assert model.noted.modes == {False}
    assert model.training
    assert model.body[0].training
    assert not model.body[1].training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "passes"), [(InsertionAUC, 101), (DeletionAUC, 101), (AverageDrop, 2), (IncreaseRate, 2)]
)
def test_passes_per_image(kind: type[InsertionAUC], passes: int) -> None:
    model = Counting()
    kind().update(model, *batch(3))
    assert model.noted.seen == 3 * passes


def test_a_collection_of_drop_and_increase_runs_the_network_once_for_both() -> None:
    model, data = Counting(), batch(6)
    collection = MetricCollection([AverageDrop(), IncreaseRate()])
    collection.update(model, *data)
    model.noted.seen = 0
    collection.update(model, *data)
    assert model.noted.seen == 2 * 6
    values = collection.compute()
    for kind in (AverageDrop, IncreaseRate):
        alone = kind()
        alone.update(model, *data)
        torch.testing.assert_close(values[kind.__name__], alone.compute())
    assert values["AverageDrop"] > 0
    assert values["IncreaseRate"] > 0


@AGAINST_NETWORK
@pytest.mark.parametrize(
    "wrap",
    [lambda logits: {"logits": logits}, lambda logits: (logits, logits * 0), lambda logits: logits[..., None, None]],
)
def test_outputs_that_are_no_plain_logits(kind: type[InsertionAUC], wrap: Callable[[Tensor], object]) -> None:
    plain, wrapped, data = Counting(), Counting(wrap), batch()
    wrapped.load_state_dict(plain.state_dict())
    first, second = kind(), kind()
    first.update(plain, *data)
    second.update(wrapped, *data)
    assert torch.equal(first.compute(), second.compute())


@AGAINST_NETWORK
@pytest.mark.parametrize("output", ["heads.a", lambda returned: returned["heads"]["a"]])
def test_where_the_logits_are(kind: type[InsertionAUC], output: Any) -> None:
    plain, wrapped, data = Counting(), Counting(lambda logits: {"heads": {"a": logits, "b": logits * 0}}), batch()
    wrapped.load_state_dict(plain.state_dict())
    first, second = kind(), kind(output=output)
    first.update(plain, *data)
    second.update(wrapped, *data)
    assert torch.equal(first.compute(), second.compute())
    with pytest.raises(TypeError, match="logits"):
        kind(output="heads").update(wrapped, *data)


@AGAINST_NETWORK
@pytest.mark.parametrize(
    "wrap", [lambda logits: logits[:, :1], lambda logits: logits[:, 0], lambda logits: (logits.mean(), logits[:, :1])]
)
def test_one_logit_is_scored_as_two_classes(kind: type[InsertionAUC], wrap: Callable[[Tensor], Tensor]) -> None:
    """As a network does whose first class has the logit 0 and whose second has the one logit."""
    one, two = Counting(wrap), Counting(lambda logits: torch.cat([logits[:, :1] * 0, logits[:, :1]], dim=1))
    two.load_state_dict(one.state_dict())
    images, saliency, _ = batch()
    targets = torch.arange(len(images)) % 2
    values = []
    for model in (one, two):
        metric = kind()
        metric.update(model, images, saliency, targets)
        values.append(metric.compute())
    torch.testing.assert_close(*values)


def test_pixels_are_scored_where_the_whole_image_shows_the_class() -> None:
    class Bright(torch.nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": torch.cat([torch.zeros_like(x), 4 * x - 2], dim=1)}

    images = torch.zeros(1, 1, 4, 4)
    images[..., :2, :] = 1.0  # eight pixels of class 1
    metric = InsertionAUC(steps=16, fill="zero", score="logit")
    metric.update(Bright(), images, images[:, 0], 1)
    # Each of the eight pixels adds 4 / 8 to their mean, which goes from -2 to 2 and stays there.
    torch.testing.assert_close(metric.mean_curve(), torch.linspace(-2, 6, 17).clamp(max=2))
    drop = AverageDrop(fraction=0.25)
    drop.update(Bright(), images, images[:, 0], 1)
    before, after = torch.tensor(2.0).sigmoid(), (torch.tensor(2.0).sigmoid() + torch.tensor(-2.0).sigmoid()) / 2
    torch.testing.assert_close(drop.compute(), 100 * (before - after) / before)


@AGAINST_NETWORK
def test_functions_and_wrapped_networks(kind: type[InsertionAUC]) -> None:
    model, data = Counting().eval(), batch()
    values = []
    for shown in (model, lambda images: model(images), Wrapper(model)):
        metric = kind()
        metric.update(shown, *data)
        values.append(metric.compute())
    torch.testing.assert_close(torch.stack(values), values[0].expand(3))


@AGAINST_NETWORK
def test_a_metric_inside_the_module_it_is_given(kind: type[InsertionAUC]) -> None:
    """As in a LightningModule that passes itself: neither becomes a part of the other."""
    model = Counting().train()
    model.metric = kind()
    model.metric.update(model, *batch())
    assert model.metric.compute().isfinite()
    assert not any(isinstance(module, Counting) for module in model.metric.modules())
    assert model.metric.training


def test_the_overall_score_is_a_difference_of_metrics() -> None:
    model, data = Counting(), batch()
    overall, insertion, deletion = InsertionAUC() - DeletionAUC(), InsertionAUC(), DeletionAUC()
    for metric in (overall, insertion, deletion):
        metric.update(model, *data)
    torch.testing.assert_close(overall.compute(), insertion.compute() - deletion.compute())


def test_curves_on_request() -> None:
    model, (images, saliency, targets) = Counting(), batch(6)
    metric = InsertionAUC(steps=10, keep_curves=True, average="none", num_classes=5)
    metric.update(model, images[:4], saliency[:4], targets[:4])
    metric.update(model, images[4:], saliency[4:], targets[4:])
    curves = torch.cat(metric.curves)
    assert curves.shape == (6, 11)
    assert metric.mean_curve().shape == (5, 11)
    for label in targets.unique():
        torch.testing.assert_close(metric.mean_curve()[label], curves[targets == label].mean(0))
    assert not hasattr(InsertionAUC(), "curves")
    micro = InsertionAUC(steps=10)
    micro.update(model, images, saliency, targets)
    torch.testing.assert_close(micro.mean_curve(), curves.mean(0), atol=1e-6, rtol=0)


def test_options_reach_the_functions() -> None:
    model, data = Counting(), batch()

    def value(metric: InsertionAUC | AverageDrop) -> float:
        metric.update(model, *data)
        return float(metric.compute())

    assert (
        len({value(InsertionAUC(**options)) for options in ({}, {"steps": 3}, {"fill": "zero"}, {"score": "sigmoid"})})
        == 4
    )
    drops = ({}, {"fraction": 0.9}, {"fraction": None}, {"fill": "mean"}, {"score": "sigmoid"})
    assert len({value(AverageDrop(**options)) for options in drops}) == 5
    assert value(AverageDrop(fraction=1.0)) == 0.0
    assert value(IncreaseRate(fraction=1.0)) == 0.0
    model.noted.seen = 0
    with pytest.raises(ValueError, match="steps"):
        DeletionAUC(steps=0)


def test_torchcam_agrees() -> None:
    """Its explanation maps, its scores: the same maps give the same scores here."""
    torchcam = pytest.importorskip("torchcam")
    torchcam_metrics = pytest.importorskip("torchcam.metrics")
    if not hasattr(torchcam_metrics, "DeletionInsertionMetric"):
        pytest.skip("this torchcam has no DeletionInsertionMetric")
    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    ).eval()
    with torch.no_grad():
        model[4].weight.mul_(8)
    images, targets = torch.rand(5, 3, 20, 20), torch.tensor([0, 1, 2, 3, 1])
    extractor = torchcam.methods.GradCAM(model, target_layer=model[1])
    softmax = partial(torch.softmax, dim=-1)
    single = torchcam_metrics.ClassificationMetric(extractor, softmax)
    single.update(images, targets.tolist())
    curves = torchcam_metrics.DeletionInsertionMetric(extractor, softmax, steps=20, baseline=blur)
    curves.update(images, targets.tolist())
    maps = extractor.fuse_cams(extractor(targets.tolist(), softmax(model(images))))
    saliency = interpolate(maps[:, None], (20, 20), mode="bilinear", align_corners=False)[:, 0]
    extractor.remove_hooks()

    ours = {
        "avg_drop": AverageDrop(fraction=None),
        "conf_increase": IncreaseRate(fraction=None),
        "deletion_auc": DeletionAUC(steps=20),
        "insertion_auc": InsertionAUC(steps=20),
    }
    theirs = single.summary() | curves.summary()
    for name, metric in ours.items():
        metric.update(model, images, saliency.detach(), targets)
        percent = 100 if name in ("avg_drop", "conf_increase") else 1
        assert metric.compute().item() == pytest.approx(percent * theirs[name], abs=1e-3), name
    assert theirs["avg_drop"] > 0.01
    assert abs(theirs["insertion_auc"] - theirs["deletion_auc"]) > 1e-3
