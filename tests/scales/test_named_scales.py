"""Scales that the user names, laying activations out on a grid, and showing scales."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_saliency.scales.find import find_scales, named_scales
from lightning_saliency.scales.scale import SCALE_COLUMNS, Scale, as_grid, scale_table
from tests.networks import MLP, Chain, ConvNet, EncoderDecoder, SharedModulesNet, TokenTransformer, brief, conv_block

IMAGES = torch.rand(2, 3, 32, 48)
TOKENS = Scale("blocks.3", "output", (4, 6), 16, "tokens", prefix_tokens=1)


def test_named_scales_are_in_the_order_given():
    scales = named_scales(ConvNet(), ["block3", "block1.1:input", "pool1:output", "block3:input"], IMAGES)
    assert brief(scales) == ["block3 out 8x12 16", "block1.1 in 32x48 8", "pool1 out 16x24 8", "block3 in 8x12 12"]


def test_find_scales_and_named_scales_agree():
    for model in (ConvNet(), EncoderDecoder(), TokenTransformer(registers=2)):
        found = find_scales(model, IMAGES)
        assert named_scales(model, [f"{scale.module}:{scale.read}" for scale in found], IMAGES) == found


def test_a_module_with_two_names_keeps_the_user_s():
    model = Chain(conv_block(3, 8), nn.MaxPool2d(2))
    model.alias = model.m0
    assert brief(named_scales(model, ["alias", "m0"], IMAGES)) == ["alias out 32x48 8", "m0 out 32x48 8"]


def test_tokens_of_a_decoder_s_grid_and_of_any_proportions():
    assert brief(named_scales(EncoderDecoder(), ["up2", "decoder1"], IMAGES)) == [
        "up2 out 16x24 12",
        "decoder1 out 32x48 8",
    ]
    wide = torch.rand(1, 3, 16, 64)
    assert brief(named_scales(TokenTransformer(), ["blocks.0"], wide)) == ["blocks.0 out 2x8 16 tokens+1"]


@pytest.mark.parametrize(
    ("model", "layer", "message"),
    [
        (ConvNet, "blok1", r"no module named 'blok1'. The closest names are 'block1'.*named_modules"),
        (ConvNet, "block1.7:input", r"no module named 'block1.7'. The closest names are 'block1."),
        (ConvNet, "zzz", r"no module named 'zzz'. Allowed are dotted paths"),
        (ConvNet, "training", "no module named 'training'"),
        (
            ConvNet,
            "linear",
            r".linear., which has no grid: for one image it is \[1, 10\]. Allowed are \[1, C, h, w\]",
        ),
        (ConvNet, "average", r"output of 'average', which has no grid: for one image it is \[1, 16, 1, 1\]"),
        (TokenTransformer, "blocks", r"'blocks' is not called .* Called inside it are 'blocks.0'"),
        (SharedModulesNet, "pool", r"'pool' is called 2 times .* \[1, 12, 8, 12\], \[1, 8, 16, 24\]"),
        (
            lambda: Chain(ConvNet(), lambda x: x[:, :3], nn.Identity()),
            "m2",
            r"has no grid: for one image it is \[1, 3\]",
        ),
    ],
)
def test_what_cannot_be_read_is_explained(model, layer, message):
    with pytest.raises(ValueError, match=message):
        named_scales(model(), [layer], IMAGES)


def test_one_position_is_a_grid_only_where_the_image_has_no_more():
    assert brief(named_scales(conv_block(3, 8), ["0"], torch.rand(1, 3, 1, 1))) == ["0 out 1 8"]
    with pytest.raises(ValueError, match="has no grid"):
        named_scales(nn.Sequential(nn.Conv2d(3, 8, 4)), ["0"], torch.rand(1, 3, 4, 4))


def test_layers_must_be_a_list_of_names():
    with pytest.raises(TypeError, match=r"Got layers='block1', a string.*give \['block1'\]"):
        named_scales(ConvNet(), "block1", IMAGES)
    with pytest.raises(TypeError, match=r"Got a layer of type int. Allowed are the name of a module"):
        named_scales(ConvNet(), [3], IMAGES)
    with pytest.raises(ValueError, match=r"Got no layers. Allowed is the name of at least one"):
        named_scales(ConvNet(), [], IMAGES)
    with pytest.raises(ValueError, match=r"has no grid"):
        named_scales(MLP(3 * 32 * 48), ["1"], IMAGES)


def test_as_grid_is_a_view():
    activations = torch.rand(3, 5, 4, 6)
    grid, dim = as_grid(activations, Scale("a", "input", (4, 6), 5, "NCHW"))
    assert grid is activations
    assert dim == 1
    grid, dim = as_grid(activations, Scale("a", "input", (5, 4), 6, "NHWC"))
    assert grid is activations
    assert dim == 3
    tokens = torch.rand(3, 25, 16)
    grid, dim = as_grid(tokens, TOKENS)
    assert dim == 3
    assert grid.data_ptr() == tokens[:, 1:].data_ptr()
    # Row by row, after the class token.
    assert torch.equal(grid[:, 2, 3], tokens[:, 1 + 2 * 6 + 3])


def test_as_grid_takes_tensors_that_are_not_contiguous_or_empty():
    for tokens in (torch.rand(3, 16, 25).transpose(1, 2), torch.rand(25, 3, 16).transpose(0, 1), torch.rand(0, 25, 16)):
        grid, _ = as_grid(tokens, TOKENS)
        assert grid.shape == (len(tokens), 4, 6, 16)
        assert torch.equal(grid.flatten(1, 2), tokens[:, 1:])


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (24, (32, 48), (4, 6)),
        (24, (48, 32), (6, 4)),
        (96, (64, 96), (8, 12)),
        (16, (8, 128), (1, 16)),
        # Padded to whole patches of 16.
        (28, (100, 64), (7, 4)),
    ],
)
def test_tokens_of_another_image_size_are_laid_out_in_its_proportions(count, size, expected):
    assert as_grid(torch.rand(2, 1 + count, 16), TOKENS, size)[0].shape == (2, *expected, 16)


@pytest.mark.parametrize("grid", [(5, 6), (6, 5)])
def test_the_example_s_own_grid_is_preferred_where_another_is_as_good(grid):
    assert as_grid(torch.rand(1, 30, 4), Scale("a", "output", grid, 4, "tokens"), (60, 60))[0].shape == (1, *grid, 4)


def test_activations_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"holds 40 patch tokens, but .* 24 \(4×6\)\. Give the images' size"):
        as_grid(torch.rand(2, 41, 16), TOKENS)
    with pytest.raises(ValueError, match=r"The 23 patch tokens at 'blocks.3' do not fit on a 32×48 image"):
        as_grid(torch.rand(2, 24, 16), TOKENS, (32, 48))
    with pytest.raises(ValueError, match=r"do not fit"):
        as_grid(torch.rand(2, 1, 16), TOKENS, (32, 48))
    with pytest.raises(
        ValueError, match=r"as the output of 'blocks.3'. Allowed are 3 dimensions, its layout being tok"
    ):
        as_grid(torch.rand(2, 16, 4, 6), TOKENS)
    with pytest.raises(ValueError, match=r"Allowed are 4 dimensions"):
        as_grid(torch.rand(2, 16), Scale("a", "input", (4, 6), 16, "NCHW"))


def test_the_table_has_a_row_for_each_scale():
    table = scale_table([*find_scales(ConvNet(), IMAGES), TOKENS, Scale("", "output", (2, 2), 4, "NHWC")])
    assert all(len(row) == len(SCALE_COLUMNS) for row in table)
    assert table[0] == ("1", "pool1", "input", "32×48", "8", "NCHW")
    assert table[3:] == [
        ("4", "blocks.3", "output", "4×6", "16", "tokens (1 prefix)"),
        ("5", "(the network itself)", "output", "2×2", "4", "NHWC"),
    ]
