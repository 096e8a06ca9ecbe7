"""Which layer is explained where none is named, layers given as modules, and gradients that are exactly zero."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_saliency.explainers import SISE, SMOE, FastCAM, GradCAM, GroupCAM, ScoreCAM
from tests.networks import Chain, ConvNet, TokenBlock, TokenTransformer, conv_block

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class PostNorm(nn.Module):
    """A transformer of torch's own layers, in one module, whose class token and distillation token are read."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(3, 16, 8, 8)
        self.prefix = nn.Parameter(torch.randn(1, 2, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.heads = nn.ModuleList(nn.Linear(16, 5) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embedding(x).flatten(2).transpose(1, 2)
        tokens = self.encoder(torch.cat([self.prefix.expand(len(x), -1, -1), tokens], 1))
        return self.heads[0](tokens[:, 0]) + self.heads[1](tokens[:, 1])


class ClassAttention(nn.Module):
    """Tokens without a class token; at the end one is made that looks at them once."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.token = nn.Conv2d(3, 16, 8, 8), nn.Parameter(torch.randn(1, 1, 16))
        self.blocks = nn.Sequential(TokenBlock(16), TokenBlock(16))
        self.attention, self.norm, self.head = (
            nn.MultiheadAttention(16, 2, batch_first=True),
            nn.LayerNorm(16),
            nn.Linear(16, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.blocks(self.embedding(x).flatten(2).transpose(1, 2))
        token = self.token.expand(len(x), -1, -1)
        everything = self.norm(torch.cat([token, tokens], 1))
        return self.head(self.attention(everything[:, :1], everything, everything, need_weights=False)[0][:, 0])


class Pooled(TokenTransformer):
    """The class token is there, but the mean of the patches is classified."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embedding(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix.expand(len(x), -1, -1), tokens], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)[:, 1:].mean(1))


class Separate(nn.Module):
    """The map that a backbone returns beside the vector that is classified, and a scale that nothing reads."""

    def __init__(self, unread: bool) -> None:
        super().__init__()
        self.c1, self.c2, self.unread = conv_block(3, 8, 2), conv_block(8, 12, 2), unread
        self.c3 = conv_block(12, 12, 2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c2(self.c1(x))
        y = self.c3(x)
        return self.head((x if self.unread else y).mean((2, 3)))


LAYERS = {
    "class token, one block": (lambda: TokenTransformer(depth=1), "blocks.0", "input"),
    "class token, three blocks": (lambda: TokenTransformer(depth=3, registers=2), "blocks.2", "input"),
    "class token, six blocks": (lambda: TokenTransformer(depth=6), "blocks.5", "input"),
    "post-norm layers in one encoder": (lambda: PostNorm(3), "encoder.layers.2", "input"),
    "many post-norm layers": (lambda: PostNorm(5), "encoder.layers.4", "input"),
    "class attention": (ClassAttention, "norm", "output"),
    "pooled patches": (lambda: Pooled(depth=4), "blocks.3", "output"),
    "a scale that nothing reads": (lambda: Separate(True), "c3", "input"),
    "all scales are read": (lambda: Separate(False), "c3", "output"),
}


@pytest.mark.parametrize("case", LAYERS)
def test_the_last_layer_that_the_score_depends_on_is_explained(case: str) -> None:
    make, module, read = LAYERS[case]
    torch.manual_seed(0)
    model = make().eval()
    explainer = GradCAM(model)
    layer = explainer._last_scale(IMAGES)
    assert (layer.module, layer.read) == (module, read)
    for each in (explainer, GroupCAM(model, groups=4, score="logit"), SISE(model)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            maps = torch.stack([each(IMAGES, target) for target in range(3)])
        assert maps.isfinite().all()
        assert maps.any()


class Zeroed(nn.Module):
    """A head whose weights begin at zero."""

    def __init__(self, network: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.network = network
        nn.init.zeros_(head.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def zeroed(kind: str) -> tuple[nn.Module, nn.Linear]:
    torch.manual_seed(0)
    model: Any = {"convolutions": ConvNet, "tokens": TokenTransformer, "separate": lambda: Separate(False)}[kind]()
    head = model.linear if kind == "convolutions" else model.head
    return Zeroed(model, head).eval(), head


@pytest.mark.parametrize("kind", ["convolutions", "tokens", "separate"])
@pytest.mark.parametrize("explainer", [GradCAM, FastCAM, lambda model: GroupCAM(model, groups=4), SISE])
def test_a_gradient_that_is_exactly_zero_is_said_once(kind: str, explainer: Any) -> None:
    model, head = zeroed(kind)
    each = explainer(model)
    with pytest.warns(UserWarning, match=r"gradient .* is exactly zero for 3 of 3 images .* layer=") as said:
        maps = torch.stack([each(IMAGES), each(IMAGES)])
    assert not maps.any()
    assert len(said) == 1
    # Once the head says something, the layer is chosen anew.
    nn.init.normal_(head.weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.stack([each(IMAGES, target) for target in range(3)]).any()
        fresh = explainer(model)
        torch.testing.assert_close(each(IMAGES, 1), fresh(IMAGES, 1))


def test_a_layer_behind_the_last_mixing_of_tokens_is_said() -> None:
    model = TokenTransformer(depth=2).eval()
    with pytest.warns(UserWarning, match=r"by the output of 'blocks.1' is exactly zero"):
        assert not GradCAM(model, "blocks.1")(IMAGES).any()


@pytest.mark.parametrize("make", [GradCAM, FastCAM, GroupCAM, ScoreCAM])
def test_a_layer_may_be_given_as_a_module(make: Any) -> None:
    torch.manual_seed(0)
    model = ConvNet().eval()
    options = {"groups": 4} if make is GroupCAM else {}
    torch.testing.assert_close(
        make(model, model.block2, **options)(IMAGES, 1), make(model, "block2", **options)(IMAGES, 1)
    )
    assert make(model, model.block2, **options).layer == "block2"
    with pytest.raises(ValueError, match=r"Got a Sequential that is no module of ConvNet"):
        make(model, ConvNet().block2)


def test_layers_may_be_given_as_modules() -> None:
    torch.manual_seed(0)
    model = ConvNet().eval()
    modules, names = [model.block1, model.block2], ["block1", "block2"]
    torch.testing.assert_close(SMOE(model, layers=modules)(IMAGES), SMOE(model, layers=names)(IMAGES))
    torch.testing.assert_close(SISE(model, layers=modules)(IMAGES, 1), SISE(model, layers=names)(IMAGES, 1))
    torch.testing.assert_close(GradCAM(model, modules)(IMAGES, 1), GradCAM(model, names)(IMAGES, 1))
    torch.testing.assert_close(SMOE(model, layers=model.block1)(IMAGES), SMOE(model, layers="block1")(IMAGES))


def test_a_chain_of_functions_has_no_other_layer() -> None:
    """Nothing that can be read depends on the score: the error says so, as ever."""
    model = Chain(conv_block(3, 8, 2), lambda x: x.detach().mean((2, 3)), nn.Linear(8, 5)).eval()
    with pytest.raises(ValueError, match="do not depend on the output of 'm0'"):
        GradCAM(model)(IMAGES)
