"""What labels in the forms of many data sets say of each image's class."""

from __future__ import annotations

import pytest
import torch

from lightning_saliency.functional.class_labels import label_classes, main_classes, no_classes

NAN = float("nan")
MASK = torch.tensor([[[0, 0], [0, 2]], [[0, 0], [0, 0]], [[255, 255], [255, 255]]])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (torch.tensor([4, 0, 255]), [4, 0, 255]),
        (torch.tensor([-1, -100, 3]), [-1, -1, 3]),
        (torch.tensor([[7], [2], [0]], dtype=torch.int32), [7, 2, 0]),
        (torch.tensor([200, 3, 1], dtype=torch.uint8), [200, 3, 1]),
        (torch.tensor([True, False, True]), [1, 0, 1]),
        (torch.tensor([1.0, 0.0, NAN]), [1, 0, -1]),
        (torch.tensor([[1.0], [-1.0], [0.0]]), [1, -1, 0]),
        (torch.tensor([1.0, 0.0, 1.0], dtype=torch.bfloat16), [1, 0, 1]),
        (torch.tensor([NAN, NAN, NAN]), [-1, -1, -1]),
        (MASK, [2, 0, -1]),
        (MASK[:, None], [2, 0, -1]),
        (MASK.float(), [2, 0, -1]),
        ((MASK == 2)[:, None].float(), [1, 0, 0]),
        (torch.nn.functional.one_hot(MASK % 255 % 3, 3).movedim(-1, 1), [2, 0, 0]),
    ],
)
def test_classes(labels, expected):
    found = label_classes(labels, 3)
    assert found.dtype == torch.int64
    assert found.tolist() == expected
    assert torch.equal(main_classes(labels, 3), found)
    assert no_classes(labels, 3) is None


@pytest.mark.parametrize(
    ("labels", "weights", "main"),
    [
        (torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]), [[0, 1, 1], [0, 0, 0]], [1, -1]),
        (torch.tensor([[0, 1], [1, 0]]), [[0, 1], [1, 0]], [1, 0]),
        (torch.tensor([[NAN, -1.0, 1.0], [NAN, -1.0, 0.0]]), [[0, 0, 1], [0, 0, 0]], [2, -1]),
        (torch.tensor([[0.25, 0.75], [0.5, 0.5]]), [[0.25, 0.75], [0.5, 0.5]], [1, 0]),  # mixed images
        (torch.tensor([[0.25, 0.5], [0.5, 0.75]]), [[0.25, 0.5], [0.5, 0.75]], None),  # coordinates, perhaps
        (torch.tensor([0.25, 1.0]), [[0.75, 0.25], [0, 1]], None),  # soft labels or a regression
    ],
)
def test_weights(labels, weights, main):
    assert label_classes(labels, 2).tolist() == weights
    found = main_classes(labels, 2)
    assert found is None if main is None else found.tolist() == main


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (torch.tensor([31.5, 4.0]), [-2, -2]),
        (torch.tensor([[-0.4], [0.9]]), [-2, -2]),
        (torch.tensor([[0.0, 12.0, 4.0], [1.0, 1.0, 1.0]]), [-4, -4]),
    ],
)
def test_numbers_of_a_regression_are_no_classes(labels, expected):
    assert main_classes(labels, 2) is None
    assert no_classes(labels, 2).tolist() == expected


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor(3),
        torch.tensor([3]),
        torch.tensor([[3, 4], [5, 6]]),
        torch.rand(2, 3, 4, 4),
        torch.rand(2, 4, 4),
        torch.zeros(2, 0),
        torch.zeros(2, 1, 1, 1, 1),
        torch.zeros(2, dtype=torch.complex64),
    ],
)
def test_what_is_no_label(labels):
    assert label_classes(labels, 2) is None
    assert main_classes(labels, 2) is None
    assert no_classes(labels, 2) is None
