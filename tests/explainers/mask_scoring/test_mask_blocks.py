"""`mask_blocks`: the masks shown are those with which the network is asked for a map, and the scores its answers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_saliency.explainers import RISE, SISE, GroupCAM, MaskScoringExplainer, ScoreCAM
from lightning_saliency.functional.masking import blend

CLASS = 2


class Network(nn.Module):
    """Two blocks of layers and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
        with torch.no_grad():
            self.first[0].weight[1] = 0  # a constant channel, whose mask is empty
            self.first[0].bias[1] = 1
            self.second[1].bias[5] = -100  # a channel without activations

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(images)))


@pytest.fixture
def network() -> Network:
    return Network().eval()


@pytest.fixture
def given(network) -> list[torch.Tensor]:
    """The images that the network is given."""
    found: list[torch.Tensor] = []
    network.register_forward_pre_hook(lambda _, given: found.extend(given[0].detach().clone()))
    return found


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(3, 18, 22, generator=torch.Generator().manual_seed(5))


EXPLAINERS = {
    "sise": lambda network: SISE(network, layers=("first", "second")),
    "sise, other options": lambda network: SISE(network, 0.01, ("first", "second"), 2, "blur", block=0),
    "sise, scales": SISE,
    "rise": lambda network: RISE(network, masks=11, grid=3, fill=0.3),
    "group_cam": lambda network: GroupCAM(network, "first", groups=4),
    "group_cam, last": lambda network: GroupCAM(network, groups=3, theta=None, gradients=False),
    "score_cam": lambda network: ScoreCAM(network, "first"),
    "score_cam, last": lambda network: ScoreCAM(network, fill="blur"),
}


def pixels(images: list[torch.Tensor] | torch.Tensor) -> set[bytes]:
    return {one.numpy().tobytes() for one in images}


def seen(image: torch.Tensor, block) -> torch.Tensor:
    """The images as the network is given them."""
    return blend(image[None], block.baseline, block.masks[None])[0]


@pytest.mark.parametrize("name", EXPLAINERS)
def test_the_masks_are_those_that_the_network_is_asked_with(network, given, image, name):
    explainer = EXPLAINERS[name](network)
    explainer(image[None], CLASS)  # finds the scales
    given.clear()
    explainer(image[None], CLASS)
    blocks = explainer.mask_blocks(image, CLASS)
    # The whole image gives the activations; under an empty mask nothing but the baseline is seen.
    others = pixels([image, blocks[0].baseline])
    asked = pixels(given) - others
    assert pixels(torch.cat([seen(image, block) for block in blocks])) == asked
    assert sum(len(block.labels) for block in blocks) == len(asked) > 1


@pytest.mark.parametrize("name", EXPLAINERS)
def test_the_scores_are_what_the_network_answers(network, image, name):
    for block in EXPLAINERS[name](network).mask_blocks(image, CLASS):
        answers = network(torch.cat([seen(image, block), block.baseline[None]])).softmax(1)[:, CLASS].detach()
        expected = answers[:-1] - answers[-1] if block.symbol == "α" else answers[:-1]
        torch.testing.assert_close(block.scores, expected)
        assert block.masks.shape == (len(block.labels), 18, 22)
        assert block.masks.amin() >= -1e-6
        assert block.masks.amax() <= 1 + 1e-6


@pytest.mark.parametrize("name", EXPLAINERS)
def test_a_number_gives_the_first_of_all(network, image, name):
    explainer = EXPLAINERS[name](network)
    for whole, few in zip(explainer.mask_blocks(image, CLASS), explainer.mask_blocks(image, CLASS, 2), strict=True):
        assert few.labels == whole.labels[:2]
        assert torch.equal(few.masks, whole.masks[:2])
        torch.testing.assert_close(few.scores, whole.scores[:2])
        assert (few.name, few.total) == (whole.name, whole.total)
        if few.order in ("largest score first", "largest gain first"):
            assert (whole.scores.diff() <= 0).all()


def test_sise_names_layers_and_channels_by_their_gradient(network, image):
    blocks = SISE(network, layers=("first", "second")).mask_blocks(image, CLASS)
    assert [block.name for block in blocks] == ["first", "second"]
    first = network.first(image[None])
    second = network.second(first)
    logits = network.head(second).log_softmax(1)[0, CLASS]
    for block, activations in zip(blocks, (first, second), strict=True):
        (gradient,) = torch.autograd.grad(logits, activations, retain_graph=True)
        alphas = gradient[0].sum((1, 2))
        positive = [int(channel) for channel in alphas.argsort(descending=True) if alphas[channel] > 0]
        varied = [channel for channel in positive if activations[0, channel].std() > 1e-6]
        assert block.labels == tuple(f"channel {channel}" for channel in varied)
        assert block.total == len(positive)


def test_group_cam_names_the_channels_of_its_groups_and_score_cam_leaves_constant_ones_out(network, image):
    [groups] = GroupCAM(network, "first", groups=4).mask_blocks(image, CLASS)
    assert set(groups.labels) <= {"channels 0-1", "channels 2-3", "channels 4-4", "channels 5-5"}
    assert (groups.name, groups.total) == ("first", 4)
    [channels] = ScoreCAM(network, "first").mask_blocks(image, CLASS)
    assert (channels.name, channels.total) == ("first", 6)
    assert "channel 1" not in channels.labels
    assert 2 <= len(channels.labels) < 6


def test_the_predicted_class_is_the_default_and_nothing_is_left_behind(network, image):
    network.train()
    predicted = int(network(image[None]).argmax())
    assert predicted != (predicted + 1) % 4
    for explainer in (RISE(network, masks=4), GroupCAM(network, "first"), ScoreCAM(network), SISE(network)):
        for own, named in zip(explainer.mask_blocks(image), explainer.mask_blocks(image, predicted), strict=True):
            assert own.labels == named.labels
            assert torch.equal(own.scores, named.scores)
    assert all(module.training for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((torch.zeros(1, 3, 8, 8), 0), ValueError, r"Got an image \[1, 3, 8, 8\]. Allowed is one, \[C, H, W\]"),
        ((torch.zeros(3, 8, 8), 0, 0), ValueError, "Got count=0. Allowed are whole numbers from 1"),
        ((torch.zeros(3, 8, 8), 4), ValueError, "4"),
        ((torch.zeros(3, 8, 8), "dog"), TypeError, "Got targets of type str"),
        (("dog",), TypeError, "Got images of type str"),
    ],
)
def test_wrong_arguments_are_said(network, given, error, message):
    with pytest.raises(error, match=message):
        GroupCAM(network, "first").mask_blocks(*given)


def test_an_explainer_that_scores_masks_has_to_say_which():
    assert MaskScoringExplainer.__abstractmethods__ == {"_explain", "_mask_blocks"}
