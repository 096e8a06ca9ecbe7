"""Insertion and deletion: exact counts, exact costs, the duality of the two, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_saliency.functional.curves import auc, deletion_curve, insertion_curve, target_scores
from lightning_saliency.functional.fills import blur

BOTH = pytest.mark.parametrize("curve", [insertion_curve, deletion_curve])
Curve = Callable[..., Tensor]


class Recorder:
    """A score function that notes how many images each call brings."""

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        self.model = model
        self.calls: list[int] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.calls.append(len(images))
        return self.model(images)


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)
    ).eval()


def share(images: Tensor) -> Tensor:
    """The share of the pixels that are 1, as a probability."""
    return images.mean((2, 3), dtype=torch.float64)


@pytest.mark.parametrize("size", [(224, 224), (10, 10), (3, 5), (17, 23)])
@pytest.mark.parametrize("steps", [1, 10, 100])
def test_exactly_the_pixels_of_each_step(size: tuple[int, int], steps: int) -> None:
    images, saliency, pixels = torch.ones(1, 1, *size), torch.rand(1, *size), size[0] * size[1]
    expected = torch.tensor([round(step * pixels / steps) for step in range(steps + 1)])
    options = {"steps": steps, "fill": "zero", "score": "logit"}
    inserted = insertion_curve(share, images, saliency, 1, **options)[0] * pixels
    deleted = deletion_curve(share, images, saliency, 1, **options)[0] * pixels
    assert torch.equal(inserted.round().long(), expected)
    assert torch.equal(deleted.round().long(), pixels - expected)


def test_the_pair_costs_202_passes_for_one_image() -> None:
    images, saliency = torch.rand(1, 3, 224, 224), torch.rand(1, 224, 224)
    score_fn = Recorder(lambda images: images.mean((2, 3)))
    insertion_curve(score_fn, images, saliency, 0)
    assert sum(score_fn.calls) == 101
    deletion_curve(score_fn, images, saliency, 0)
    assert sum(score_fn.calls) == 202
    assert max(score_fn.calls) == 8  # on a CPU


@BOTH
def test_chunks_are_shared_by_the_images(curve: Curve) -> None:
    images, saliency, targets = torch.rand(3, 3, 16, 16), torch.rand(3, 16, 16), torch.tensor([3, 0, 2])
    score_fn = Recorder(network())
    whole = curve(score_fn, images, saliency, targets, steps=10, batch_size=33)
    assert score_fn.calls == [33]
    for batch_size, calls in ((20, [20, 13]), (1, [1] * 33), ("auto", [33])):
        score_fn.calls.clear()
        torch.testing.assert_close(
            curve(score_fn, images, saliency, targets, steps=10, batch_size=batch_size), whole, atol=1e-6, rtol=0
        )
        assert score_fn.calls == calls
    singles = [curve(score_fn, images[i : i + 1], saliency[i : i + 1], int(targets[i]), steps=10) for i in range(3)]
    torch.testing.assert_close(whole, torch.cat(singles), atol=1e-6, rtol=0)


def test_the_ends_are_the_image_and_the_blurred_image() -> None:
    model, images, saliency = network(), torch.rand(2, 3, 20, 24), torch.rand(2, 20, 24)
    targets = torch.tensor([1, 2])
    ends = torch.stack([target_scores(model, shown, targets) for shown in (blur(images), images)], dim=1)
    assert (ends[:, 0] - ends[:, 1]).abs().min() > 1e-5
    torch.testing.assert_close(insertion_curve(model, images, saliency, targets, steps=7)[:, [0, -1]], ends)
    torch.testing.assert_close(deletion_curve(model, images, saliency, targets, steps=7)[:, [-1, 0]], ends)


def test_deletion_is_insertion_of_the_reverse_order_read_backwards() -> None:
    model, images = network(), torch.rand(2, 3, 20, 20)
    saliency = torch.rand(2, 20, 20, dtype=torch.float64)
    inserted = insertion_curve(model, images, saliency, 1, steps=20)
    torch.testing.assert_close(deletion_curve(model, images, -saliency, 1, steps=20).flip(1), inserted)
    assert not torch.allclose(deletion_curve(model, images, saliency, 1, steps=20).flip(1), inserted)


def test_a_random_map_gains_nothing() -> None:
    """Insertion and deletion have the same expectation over random maps, and a map that knows the network differs."""
    weights = torch.zeros(12, 12)
    weights[3:8, 4:9] = torch.rand(5, 5)

    def score_fn(images: Tensor) -> Tensor:
        return torch.stack([(images[:, 0] * weights).sum((1, 2)) - 3, torch.zeros(len(images))], dim=1)

    images, options = torch.ones(400, 1, 12, 12), {"steps": 12, "fill": "zero"}
    maps = torch.rand(400, 12, 12)
    gain = auc(insertion_curve(score_fn, images, maps, 0, **options)) - auc(
        deletion_curve(score_fn, images, maps, 0, **options)
    )
    assert gain.std() > 0.01
    assert gain.mean().abs() < 3 * gain.std() / 20
    best = auc(insertion_curve(score_fn, images[:1], weights[None], 0, **options)) - auc(
        deletion_curve(score_fn, images[:1], weights[None], 0, **options)
    )
    assert best > 5 * gain.std()


@BOTH
def test_only_the_order_of_the_map_counts(curve: Curve) -> None:
    model, images = network(), torch.rand(2, 3, 16, 16)
    saliency = torch.rand(2, 16, 16, dtype=torch.float64)
    plain = curve(model, images, saliency, 0, steps=8)
    assert torch.equal(curve(model, images, (saliency * 9).exp() - 100, 0, steps=8), plain)
    # Convolutions of another memory format may round otherwise; another order of pixels changes far more.
    last = curve(model, images.contiguous(memory_format=torch.channels_last), saliency, 0, steps=8)
    torch.testing.assert_close(last, plain, atol=1e-5, rtol=0)
    assert (curve(model, images, -saliency, 0, steps=8) - plain).abs().max() > 1e-4


def test_equal_values_come_in_reading_order() -> None:
    images = torch.arange(1.0, 7.0).view(1, 1, 2, 3)
    saliency = torch.tensor([[[5, 9, 5], [9, 5, 5]]])
    summed = insertion_curve(
        lambda images: images.sum((2, 3)), images, saliency, 1, steps=6, fill="zero", score="logit"
    )
    assert summed.tolist() == [[0, 2, 6, 7, 10, 15, 21]]


@pytest.mark.parametrize("batch_size", ["auto", 5])
def test_pixels_are_scored_where_the_whole_image_shows_the_class(batch_size: int | str) -> None:
    images = torch.zeros(2, 1, 4, 4)
    images[0, :, :2] = images[1, :, :1] = 1.0  # eight pixels of class 1, and four

    def score_fn(images: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(images), 4 * images - 2], dim=1)

    options = {"steps": 16, "fill": "zero", "score": "logit", "batch_size": batch_size}
    curves = insertion_curve(score_fn, images, images[:, 0], 1, **options)
    # Their mean goes from -2 to 2, by 4 / 8 for each of eight pixels and by 4 / 4 for each of four, and stays there.
    steps = torch.arange(17)
    torch.testing.assert_close(curves, torch.stack([steps / 2 - 2, steps - 2.0]).clamp(max=2))


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_turned_into_probabilities_in_float32(curve: Curve, dtype: torch.dtype) -> None:
    images, saliency = torch.rand(2, 3, 16, 16).to(dtype), torch.rand(2, 16, 16).to(dtype)
    model = network()

    def score_fn(images: Tensor) -> Tensor:
        assert images.dtype == dtype
        return model(images.float()).to(dtype)

    got = curve(score_fn, images, saliency, 0, steps=5)
    assert got.dtype == torch.float32
    expected = curve(lambda images: score_fn(images.to(dtype)).float(), images.float(), saliency, 0, steps=5)
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=0)


def test_float64_stays_float64() -> None:
    model, images = network().double(), torch.rand(1, 3, 8, 8, dtype=torch.float64)
    assert insertion_curve(model, images, torch.rand(1, 8, 8), 0, steps=2).dtype == torch.float64


def test_scores() -> None:
    logits = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 0.25]])
    images, targets = torch.zeros(2, 3, 4, 4), torch.tensor([2, 1])

    def score_fn(images: Tensor) -> Tensor:
        return logits

    picked = torch.arange(2), targets
    assert torch.equal(target_scores(score_fn, images, targets), logits.softmax(1)[picked])
    assert torch.equal(target_scores(score_fn, images, targets, score="sigmoid"), logits.sigmoid()[picked])
    assert torch.equal(target_scores(score_fn, images, targets, score="logit"), logits[picked])


@BOTH
def test_nothing_is_left_behind(curve: Curve) -> None:
    model, images, saliency = network(), torch.rand(1, 3, 8, 8, requires_grad=True), torch.rand(1, 8, 8)
    generator = torch.get_rng_state()
    result = curve(model, images, saliency, torch.tensor([1]), steps=3)
    assert not result.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
    with torch.inference_mode():
        assert torch.equal(curve(model, images.detach().clone(), saliency, torch.tensor([1]), steps=3), result)
    assert curve(model, images[:0], saliency[:0], torch.zeros(0, dtype=torch.int64), steps=3).shape == (0, 4)


def test_auc_of_curves() -> None:
    sklearn_auc = pytest.importorskip("sklearn.metrics").auc
    curves = torch.rand(3, 101)
    expected = [sklearn_auc(torch.linspace(0, 1, 101, dtype=torch.float64), one) for one in curves.double()]
    assert auc(curves).tolist() == pytest.approx(expected, abs=1e-6)
    assert auc(torch.ones(2, 1, 5)).tolist() == [[1.0], [1.0]]
    assert auc(curves.half()).dtype == torch.float32
    assert auc(curves[:0]).shape == (0,)
    with pytest.raises(ValueError, match="at least two points"):
        auc(torch.ones(3, 1))


@BOTH
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"saliency": torch.rand(2, 4, 4)}, ValueError, r"resize the maps"),
        ({"saliency": torch.rand(8, 8)}, ValueError, r"Got saliency maps \[8, 8\]"),
        ({"saliency": torch.full((2, 8, 8), torch.nan)}, ValueError, "finite"),
        ({"saliency": torch.full((2, 8, 8), torch.inf)}, ValueError, "finite"),
        ({"targets": torch.tensor([0, 4])}, ValueError, "0 to 4"),
        ({"targets": -1}, ValueError, "-1 to -1"),
        ({"targets": torch.tensor([0])}, ValueError, r"Got targets \[1\].*int64 \[2\]"),
        ({"targets": torch.tensor([0.0, 1.0])}, ValueError, "float32"),
        ({"steps": 0}, ValueError, "steps"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"score": "logits"}, ValueError, "'softmax', 'sigmoid', 'logit'"),
        ({"fill": "grey"}, ValueError, "grey"),
        ({"score_fn": lambda images: {"logits": images}}, TypeError, "dict"),
        ({"score_fn": lambda images: images.flatten(2)}, ValueError, r"Allowed are scores \[\d+, classes\]"),
    ],
)
def test_what_is_refused(curve: Curve, changes: dict[str, object], error: type[Exception], message: str) -> None:
    arguments: dict[str, object] = {
        "score_fn": network(),
        "images": torch.rand(2, 3, 8, 8),
        "saliency": torch.rand(2, 8, 8),
        "targets": torch.tensor([0, 1]),
    }
    with pytest.raises(error, match=message):
        curve(**(arguments | changes))
