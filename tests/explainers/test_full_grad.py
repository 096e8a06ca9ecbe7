"""FullGrad on real architectures: the shares make up the score, and the network stays as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from lightning_saliency.explainers import FullGrad

from .networks import assert_same, images, network, snapshot


def test_the_shares_make_up_the_logit() -> None:
    """With ReLUs in place, ways round blocks, and biases of linear layers, which have no place in the map."""
    model = resnet18(weights=None, num_classes=5).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.normal_(module.bias, std=0.3)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.bias)
    inputs = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    shares = FullGrad(model).shares(inputs, torch.tensor([4, 0]))
    total = sum(share.flatten(1).sum(dim=1) for share in shares)
    expected = model(inputs)[[0, 1], [4, 0]]
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=1e-9)
    assert shares[0].shape == inputs.shape


def test_nothing_is_left_behind() -> None:
    model, inputs = network().train(), images()
    model(inputs).sum().backward()
    before = snapshot(model)
    first = FullGrad(model)(inputs, 3)
    assert_same(before, snapshot(model))
    with pytest.raises(ValueError, match="5 classes"):
        FullGrad(model)(inputs, 5)
    assert_same(before, snapshot(model))
    with torch.inference_mode():
        torch.testing.assert_close(FullGrad(model)(inputs.clone(), 3), first)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert FullGrad(model)(inputs, 3).dtype == torch.float32


def test_the_predicted_class_and_the_batch() -> None:
    model, inputs = network().eval(), images(4)
    explainer, predicted = FullGrad(model), model(inputs).argmax(dim=1)
    together = explainer(inputs)
    torch.testing.assert_close(together, explainer(inputs, predicted))
    alone = torch.cat([explainer(inputs[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


class Branches(nn.Module):
    """A layer that is called twice, one whose output depends on no image, and tokens with a bias of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.constant = nn.Linear(1, 4)
        self.tokens = nn.Linear(4, 4)
        self.norm = nn.BatchNorm2d(4, affine=False)
        self.batch = nn.BatchNorm2d(4, track_running_stats=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.twice(self.twice(self.stem(x)).relu_()).relu_()).relu_()
        x = x + self.constant(torch.ones(1, 1)).view(1, 4, 1, 1)
        x = self.tokens(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).relu()
        return self.head(x.mean(dim=(2, 3)))


def test_odd_layers() -> None:
    torch.manual_seed(3)
    model, inputs = Branches().eval(), images()
    nn.init.normal_(model.norm.running_mean)
    nn.init.zeros_(model.constant.weight)
    nn.init.zeros_(model.constant.bias)
    explainer = FullGrad(model)
    shares = explainer.shares(inputs, 1)
    assert [share.ndim for share in shares] == [4, 4, 4, 4, 4, 4, 2]
    torch.testing.assert_close(sum(share.flatten(1).sum(1) for share in shares), model(inputs)[:, 1])
    maps = explainer(inputs, 1)
    assert maps.shape == (2, 16, 16)
    assert (maps.amax(dim=(1, 2)) == 1).all()
    no_statistics = nn.Sequential(nn.Conv2d(3, 4, 3), model.batch, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert FullGrad(no_statistics.eval())(inputs, 1).isfinite().all()


def test_a_network_without_gradient_is_refused() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.detach())

    with pytest.raises(ValueError, match="have no gradient by the images"):
        FullGrad(Detached())(images(), 1)
