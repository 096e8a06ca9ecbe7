"""Patch tokens among others: whether the positions read are the patches' own, wherever they lie in the sequence."""

import pytest
import torch
from torch import nn

from lightning_saliency import find_scales
from lightning_saliency.explainers import SMOE, FastCAM
from lightning_saliency.scales.first_pass import FirstPass
from lightning_saliency.scales.reader import ScaleReader
from lightning_saliency.scales.scale import Scale, patch_tokens
from lightning_saliency.scales.tracing.token_order import pooled_cells

WIDTH, PATCHES = 12, 16


class Block(nn.Module):
    """Works on each token by itself: what a patch becomes does not depend on where it lies."""

    def __init__(self):
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(WIDTH), nn.Sequential(nn.Linear(WIDTH, 24), nn.GELU(), nn.Linear(24, WIDTH))

    def forward(self, tokens):
        return tokens + self.mlp(self.norm(tokens))


class Mixed(nn.Module):
    """A transformer's way of images ``i``, of ``words`` words ``t`` and of a class token ``c``, in any order."""

    def __init__(self, order, *, words=7, positions=1.0, choose=None):
        super().__init__()
        self.order, self.words, self.choose = order, words, choose
        self.patch = nn.Conv2d(3, WIDTH, 8, 8)
        self.positions = nn.Parameter(positions * torch.randn(1, PATCHES, WIDTH)) if positions else None
        self.cls = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.embedding = nn.Embedding(50, WIDTH)
        self.blocks = nn.ModuleList([Block() for _ in range(4)])
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, images, words=None):
        tokens = self.patch(images).flatten(2).transpose(1, 2)
        if self.positions is not None:
            tokens = tokens + self.positions
        if self.choose is not None:
            tokens = tokens[:, self.choose]
        text = self.embedding(torch.arange(self.words if words is None else words).expand(len(images), -1))
        kinds = {"i": tokens, "c": self.cls.expand(len(images), -1, -1), "t": text}
        tokens = torch.cat([kinds[kind] for kind in self.order], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens.mean(1))


def network(order, **options):
    torch.manual_seed(3)
    return Mixed(order, **options).eval()


IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def read(model, images=IMAGES):
    with FirstPass(model, images) as first:
        model(images)
    scales, _, found = first.result()
    return scales, found.maps


@pytest.mark.parametrize(
    ("order", "words", "before", "behind"),
    [
        ("ci", 0, 1, 0),
        ("ic", 0, 0, 1),
        ("it", 7, 0, 7),
        ("ti", 9, 9, 0),
        ("cit", 40, 1, 40),
        ("tci", 30, 31, 0),
        ("tit", 6, 6, 6),
    ],
)
@pytest.mark.parametrize("positions", [0.0, 1.0, 4.0])
def test_the_patches_are_read_wherever_they_lie(order, words, before, behind, positions):
    scales, maps = read(network(order, words=words, positions=positions))
    _, alone = read(network("i", positions=positions))

    assert [(scale.module, scale.grid) for scale in scales] == [(f"blocks.{n}", (4, 4)) for n in range(4)]
    assert {(scale.prefix_tokens, scale.suffix_tokens) for scale in scales} == {(before, behind)}
    for map_, expected in zip(maps, alone, strict=True):
        torch.testing.assert_close(map_, expected)


@pytest.mark.parametrize("order", ["ic", "it", "tci"])
def test_a_probing_pass_finds_the_same_places(order):
    model = network(order)

    assert find_scales(model, IMAGES) == read(model)[0]


@pytest.mark.parametrize("order", ["ic", "it", "ti"])
def test_explainers_read_the_same_patches(order):
    torch.testing.assert_close(SMOE(network(order))(IMAGES), SMOE(network("i"))(IMAGES))
    assert FastCAM(network(order))(IMAGES, 1).shape == (3, 32, 32)


@pytest.mark.parametrize(("order", "first", "second"), [("it", 7, 11), ("cit", 40, 20), ("ti", 30, 25)])
def test_another_batch_may_have_a_longer_or_a_shorter_text(order, first, second):
    model = network(order)
    reader = ScaleReader(model)
    for words in (first, second):
        reader.start(IMAGES)
        model(IMAGES, words)
        found = reader.take()
        for map_, expected in zip(found.maps, read(network("i"))[1], strict=True):
            torch.testing.assert_close(map_, expected)


KEEP = torch.randperm(PATCHES, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("positions", [0.0, 1.0])
@pytest.mark.parametrize("order", ["i", "ci"])
@pytest.mark.parametrize("choose", [KEEP[:4], KEEP[:12], KEEP], ids=["a quarter", "three quarters", "shuffled"])
def test_patches_that_were_dropped_or_shuffled_are_no_grid(order, positions, choose):
    scales, _ = read(network(order, positions=positions, choose=choose))

    assert [scale.module for scale in scales] == ["patch"]


class Windows(Mixed):
    """As Hiera: the patches of each window lie apart from one another, and are pooled step by step.

    After the last step the tokens lie in row-major order again. `turned`: not even then.
    """

    def __init__(self, turned=False):
        super().__init__("i")
        self.patch, self.turned = nn.Conv2d(3, WIDTH, 4, 4), turned
        self.positions = nn.Parameter(torch.randn(1, 64, WIDTH))

    def forward(self, images):
        tokens = self.patch(images).flatten(2).transpose(1, 2) + self.positions
        # Of each cell of the 2×2 grid the four windows, and of each window the four patches.
        cells = tokens.unflatten(1, (2, 2, 2, 2, 2, 2))
        order = (0, 3, 6, 2, 5, 4, 1, 7) if self.turned else (0, 3, 6, 2, 5, 1, 4, 7)
        tokens = self.blocks[0](cells.permute(*order).flatten(1, 6))
        for block in self.blocks[1:3]:
            tokens = block(tokens.unflatten(1, (4, -1)).amax(dim=1))
        return self.head(self.blocks[3](tokens).mean(1))


@pytest.mark.parametrize(("turned", "grids"), [(False, [(8, 8), (2, 2)]), (True, [(8, 8)])])
def test_what_is_pooled_of_shuffled_patches_is_a_grid_where_it_is_in_order_again(turned, grids):
    torch.manual_seed(3)
    model = Windows(turned).eval()
    scales, maps = read(model)

    assert [scale.grid for scale in scales] == grids
    assert [scale.grid for scale in find_scales(model, IMAGES)] == grids
    if turned:
        return
    # A change in one quarter of the image is one in that quarter of the map.
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        images = IMAGES.clone()
        images[:, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] += 1
        changed = (read(model, images)[1][-1] != maps[-1]).nonzero()
        assert {tuple(place) for place in changed[:, 1:].tolist()} == {(row, column)}


@pytest.mark.parametrize(
    ("cells", "size", "smaller", "expected"),
    [
        ([0, 1, 2, 3], (2, 2), (1, 1), (0,)),
        ([0, 1, 4, 5, 2, 3, 6, 7], (2, 4), (1, 2), (0, 1)),
        ([2, 3, 6, 7, 0, 1, 4, 5], (2, 4), (1, 2), (1, 0)),
        ([0, 2, 1, 3, 4, 6, 5, 7], (2, 4), (1, 2), (0, 1)),
        ([0, 4, 1, 2, 3, 5, 6, 7], (2, 4), (1, 2), ()),
        ([0, 1, 2, 3], (2, 2), (2, 3), ()),
        ([0, 1, 2], (2, 2), (1, 1), ()),
    ],
)
def test_where_pooled_tokens_lie(cells, size, smaller, expected):
    assert pooled_cells(cells, size, smaller) == expected


class Queries(nn.Module):
    """As DETR: grids of 32×32, 16×16 and 8×8, then 100 objects that are asked for, which are no grid of 10×10."""

    def __init__(self):
        super().__init__()
        self.stages = nn.Sequential(*(nn.Conv2d(3 if n == 0 else WIDTH, WIDTH, 2, 2) for n in range(3)))
        self.encoder, self.decoder = Block(), Block()
        self.queries = nn.Parameter(torch.randn(1, 100, WIDTH))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, images):
        memory = self.encoder(self.stages(images).flatten(2).transpose(1, 2))
        queries = self.queries.expand(len(images), -1, -1)
        return self.head(self.decoder(queries + (queries @ memory.mT).softmax(-1) @ memory).mean(1))


def test_what_is_asked_for_is_no_coarser_grid_of_an_early_layer():
    torch.manual_seed(3)
    model = Queries().eval()

    scales = find_scales(model, torch.rand(1, 3, 64, 64))
    assert [(scale.module.split(".")[0], scale.grid) for scale in scales] == [
        ("stages", (32, 32)),
        ("stages", (16, 16)),
        ("encoder", (8, 8)),
    ]


def test_every_second_row_and_column_of_the_patches_is_a_grid():
    every_second = torch.arange(PATCHES).view(4, 4)[::2, ::2].flatten()
    scales, _ = read(network("i", choose=every_second))

    assert scales[-1].grid == (2, 2)


def test_patches_that_look_alike_are_in_order():
    scales, _ = read(network("ci", positions=0.0), torch.zeros(2, 3, 32, 32))

    assert {scale.prefix_tokens for scale in scales if scale.layout == "tokens"} == {1}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_images_that_say_nothing_leave_a_class_token_before_the_patches(value):
    images = IMAGES.clone()
    images[0, :, :8] = value
    scales, _ = read(network("ci"), images)

    assert {(scale.prefix_tokens, scale.suffix_tokens) for scale in scales} == {(1, 0)}


class Labelled(torch.Tensor):
    """A tensor of a type of its own, as MONAI's, which has no single images."""

    def __getitem__(self, index):
        if isinstance(index, int):
            raise KeyError(index)
        return super().__getitem__(index)


def test_tensors_of_other_types_are_looked_at_as_plain_ones():
    scales, _ = read(network("ic"), IMAGES.as_subclass(Labelled))

    assert {(scale.prefix_tokens, scale.suffix_tokens) for scale in scales} == {(0, 1)}


def test_tokens_inside_vmap_are_taken_as_class_tokens():
    model = network("ci")
    with FirstPass(model, IMAGES) as first:
        torch.func.vmap(lambda image: model(image[None])[0])(IMAGES)
        model(IMAGES)

    assert {scale.prefix_tokens for scale in first.result()[0]} == {1}


def test_fewer_tokens_than_patches_are_refused():
    scale = Scale("blocks.3", "output", (4, 4), WIDTH, "tokens", 1, suffix_tokens=20, image_size=(32, 32))

    with pytest.raises(ValueError, match=r"Got 15 tokens .* Allowed are the 16 patch tokens"):
        patch_tokens(15, scale, (32, 32))


class Asking(nn.Module):
    """As YOLOS: behind the patches tokens that ask for objects, always as many; images of any size."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 8, 8)
        self.questions = nn.Parameter(torch.randn(1, 10, WIDTH))
        self.blocks = nn.ModuleList([Block() for _ in range(4)])
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, images):
        tokens = self.patch(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens, self.questions.expand(len(images), -1, -1)], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens.mean(1))


def test_images_of_another_size_have_more_patches_and_as_many_other_tokens():
    torch.manual_seed(3)
    model, larger = Asking().eval(), torch.rand(3, 3, 48, 64)
    reader = ScaleReader(model)
    for images, grid in ((IMAGES, (4, 4)), (larger, (6, 8))):
        reader.start(images)
        model(images)
        for map_, expected in zip(reader.take().maps, read(model, images)[1], strict=True):
            assert tuple(map_.shape[1:]) == grid
            torch.testing.assert_close(map_, expected)
    assert SMOE(model)(IMAGES).shape == (3, 32, 32)
    assert FastCAM(model)(larger, 1).shape == (3, 48, 64)


def test_where_the_images_size_is_not_known_another_number_of_tokens_is_refused():
    scale = Scale("blocks.3", "output", (4, 4), WIDTH, "tokens", 1, suffix_tokens=20)

    assert patch_tokens(37, scale) == (slice(1, 17), (4, 4))
    with pytest.raises(ValueError, match=r"holds 18 patch tokens.*Give the images' size"):
        patch_tokens(39, scale)
