"""The primitive: right scores whatever the chunk, and a network left as it was whatever happens."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lightning_saliency.explainers import RISE, build_explainer, rise, score_cam, sise
from lightning_saliency.explainers.mask_scoring import (
    MaskScorer,
    fast_forward,
    native_precision,
    precisions,
    score_masks,
)
from lightning_saliency.functional.fills import fill_images
from lightning_saliency.functional.masking import blend

BASELINES = ["blur", "zero", "mean", 0.3, (0.1, 0.2, 0.3)]


class Network(nn.Module):
    """Counts the images it sees; dropout and BatchNorm show whether it is in eval mode."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.MaxPool2d(2)
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, classes))
        # Outside of the module, where it is not put back after a pass.
        self.noted = SimpleNamespace(sizes=[])
        self.largest = 10**9

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.noted.sizes.append(len(images))
        if len(images) > self.largest:
            raise torch.OutOfMemoryError("pretended")
        return self.head(self.features(images)) * 3


@pytest.fixture
def network() -> Network:
    torch.manual_seed(3)
    network = Network()
    network.features[1].running_mean.normal_()
    network.features[1].running_var.uniform_(0.5, 2)
    network.train()
    network.features[1].eval()
    return network


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 16, 20, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def masks() -> torch.Tensor:
    return torch.rand(3, 7, 4, 5, generator=torch.Generator().manual_seed(6))


TARGETS = torch.tensor([0, 4, 2])


def _one_by_one(network, images, masks, targets, baseline, activation):
    network = copy.deepcopy(network).eval()
    background = fill_images(images, baseline)
    scores = torch.zeros(masks.shape[:2])
    with torch.no_grad():
        for b in range(masks.shape[0]):
            for m in range(masks.shape[1]):
                seen = blend(images[b : b + 1], background[b : b + 1], masks[b : b + 1, m])
                scores[b, m] = activation(network(seen))[0, targets[b]]
    return scores


@pytest.mark.parametrize("baseline", BASELINES)
def test_scores_are_those_of_each_masked_image_by_itself(network, images, masks, baseline):
    expected = _one_by_one(network, images, masks, TARGETS, baseline, lambda z: z.softmax(1))
    scores = score_masks(network, images, masks, TARGETS, fill=baseline)
    assert scores.shape == (3, 7)
    assert torch.allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("score", "activation"), [("softmax", lambda z: z.softmax(1)), ("sigmoid", torch.sigmoid), ("logit", lambda z: z)]
)
def test_each_kind_of_score(network, images, masks, score, activation):
    expected = _one_by_one(network, images, masks, [1, 1, 1], "zero", activation)
    assert torch.allclose(score_masks(network, images, masks, 1, fill="zero", score=score), expected, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 21, 1000, "auto"])
def test_the_chunk_does_not_matter_and_is_shared_by_images(network, images, masks, batch_size):
    scores = score_masks(network, images, masks, TARGETS, batch_size=batch_size)
    sizes = list(network.noted.sizes)
    assert sum(sizes) == 21
    if batch_size != "auto":
        assert sizes == [min(batch_size, 21)] * (21 // min(batch_size, 21)) + (
            [21 % batch_size] if 21 % batch_size and batch_size < 21 else []
        )
    assert torch.allclose(scores, score_masks(network, images, masks, TARGETS, batch_size=4), atol=1e-6)


def test_masks_may_come_in_blocks_and_may_be_views(network, images, masks):
    expected = score_masks(network, images, masks, TARGETS)
    blocks = (masks[:, start : start + 3] for start in range(0, 7, 3))
    assert torch.allclose(score_masks(network, images, blocks, TARGETS, batch_size=4), expected, atol=1e-6)
    common = masks[:1, :2].expand(3, -1, -1, -1)
    assert torch.allclose(
        score_masks(network, images, common, TARGETS), score_masks(network, images, common.contiguous(), TARGETS)
    )
    assert score_masks(network, images, [], TARGETS).shape == (3, 0)
    assert score_masks(network, images, masks[:, :0], TARGETS).shape == (3, 0)
    assert score_masks(network, images[:0], masks[:0], TARGETS[:0]).shape == (0, 7)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_an_images_empty_masks_are_scored_as_one(network, images, masks, chunk):
    some = masks.clone()
    some[0, 1] = some[0, 3] = some[2] = 0
    some[1, 0] = torch.nan  # shows what it shows
    seen = []
    hook = network.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    scores = score_masks(network, images, some, 1, batch_size=chunk)
    hook.remove()
    count, each = some.shape[:2]
    assert sum(seen) == count * each - 1 - (each - 1)
    one_by_one = torch.cat([score_masks(network, images, some[:, n : n + 1], 1) for n in range(each)], dim=1)
    assert torch.allclose(scores, one_by_one, atol=1e-5, equal_nan=True)


def test_a_function_as_target_scores_a_segmentation(images, masks):
    network = nn.Conv2d(3, 4, 3, padding=1)
    scores = score_masks(network, images, masks, lambda logits: logits[:, 2].mean((1, 2)), fill="mean")
    with torch.no_grad():
        seen = blend(images, fill_images(images, "mean"), masks)
        expected = network(seen.flatten(0, 1))[:, 2].mean((1, 2)).view(3, 7)
    assert torch.allclose(scores, expected, atol=1e-6)
    with pytest.raises(ValueError, match="return one per image"):
        score_masks(network, images, masks, lambda logits: logits)


def test_output_takes_the_logits_out(network, images, masks):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return {"aux": torch.zeros(len(x), 2), "classes": self.network(x)}

    scores = score_masks(Wrapped(), images, masks, TARGETS, output=lambda returned: returned["classes"])
    assert torch.allclose(scores, score_masks(network, images, masks, TARGETS), atol=1e-6)


def test_out_of_memory_halves_the_chunk(network, images, masks):
    expected = score_masks(network, images, masks, TARGETS)
    network.largest, network.noted.sizes = 4, []
    assert torch.allclose(score_masks(network, images, masks, TARGETS), expected, atol=1e-6)
    assert sum(size for size in network.noted.sizes if size <= 4) == 21
    assert [size for size in network.noted.sizes if size > 4] == [21, 10, 5]
    with pytest.raises(torch.OutOfMemoryError):
        score_masks(network, images, masks, TARGETS, batch_size=5)
    network.largest = 0
    with pytest.raises(torch.OutOfMemoryError):
        score_masks(network, images, masks, TARGETS)
    assert network.training


@pytest.mark.parametrize("name", ["score_cam", "sise", "rise"])
def test_out_of_memory_while_masks_are_made(network, images, name, monkeypatch):
    """The masks of a chunk may be what does not fit: half as many are made then, and the map is the same."""
    options = {"rise": {"masks": 21, "grid": 3}, "score_cam": {"layer": "features"}, "sise": {"layers": ("features",)}}
    expected = build_explainer(name, network, **options[name])(images, TARGETS)
    module = {"rise": rise, "score_cam": score_cam, "sise": sise}[name]
    function = "random_masks" if name == "rise" else "attribution_masks"
    make, sizes = getattr(module, function), []

    def making(maps, *rest):
        sizes.append(len(maps))
        if len(maps) > 3:
            raise torch.OutOfMemoryError("pretended")
        return make(maps, *rest)

    monkeypatch.setattr(module, function, making)
    found = build_explainer(name, network, **options[name])(images, TARGETS)
    assert torch.allclose(found, expected, atol=1e-6)
    assert max(sizes) > 3 >= sizes[-1]
    with pytest.raises(torch.OutOfMemoryError):
        build_explainer(name, network, batch_size=30, **options[name])(images, TARGETS)

    def never(*_):
        raise torch.OutOfMemoryError("pretended")

    monkeypatch.setattr(module, function, never)
    with pytest.raises(torch.OutOfMemoryError):
        build_explainer(name, network, **options[name])(images, TARGETS)


@pytest.mark.parametrize("name", ["score_cam", "sise", "rise", "group_cam"])
def test_out_of_memory_in_the_network(network, images, name):
    options = {
        "rise": {"masks": 21, "grid": 3},
        "score_cam": {"layer": "features"},
        "sise": {"layers": ("features",)},
        "group_cam": {"layer": "features", "groups": 8},
    }[name]
    expected = build_explainer(name, network, **options)(images, TARGETS)
    network.largest, network.noted.sizes = 4, []
    assert torch.allclose(build_explainer(name, network, **options)(images, TARGETS), expected, atol=1e-6)
    assert max(network.noted.sizes) > 4 >= network.noted.sizes[-1]


def _state(network):
    return (
        [module.training for module in network.modules()],
        [parameter.requires_grad for parameter in network.parameters()],
        [None if parameter.grad is None else parameter.grad.clone() for parameter in network.parameters()],
        {name: tensor.clone() for name, tensor in network.state_dict().items()},
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()],
        torch.get_rng_state(),
    )


def _assert_same(before, after):
    assert before[:2] == after[:2]
    for one, other in zip(before[2], after[2], strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
    assert all(torch.equal(before[3][name], after[3][name]) for name in before[3])
    assert before[4] == after[4]
    assert torch.equal(before[5], after[5])


@pytest.mark.filterwarnings("ignore:torch.fx cannot follow Network")
@pytest.mark.parametrize("fast", [False, True])
def test_the_network_is_left_as_it_was_also_after_an_exception(network, images, masks, fast):
    network(images).sum().backward()
    network.head[2].bias.requires_grad_(False)
    network.features.register_forward_hook(lambda *_: None)
    before = _state(network)
    score_masks(network, images, masks, TARGETS, fast=fast)
    _assert_same(before, _state(network))

    def fail(_):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        score_masks(network, images, masks, TARGETS, output=fail, fast=fast)
    _assert_same(before, _state(network))
    scorer = MaskScorer(network, images, TARGETS, fast=fast)
    with scorer:
        assert not network.training
    _assert_same(before, _state(network))
    scorer = MaskScorer(network, images, TARGETS, fast=fast)
    with pytest.raises(RuntimeError, match="on purpose"), scorer:
        fail(None)
    _assert_same(before, _state(network))


def test_no_gradient_in_any_mode(network, images, masks):
    expected = score_masks(network, images, masks, TARGETS)
    leaves = images.clone().requires_grad_(), masks.clone().requires_grad_()
    assert not score_masks(network, *leaves, TARGETS).requires_grad
    with torch.inference_mode():
        inside = score_masks(network, images.clone(), masks, TARGETS)
    assert torch.equal(inside, expected)


def test_autocast_is_followed_and_leaves_the_callers_gradients_whole(network, images, masks):
    seen = []
    network.features[0].register_forward_hook(lambda _module, _args, returned: seen.append(returned.dtype))
    exact = score_masks(network, images, masks, TARGETS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = score_masks(network, images, masks, TARGETS)
        network(images).sum().backward()
    own = score_masks(network, images, masks, TARGETS, precision="bf16")
    assert seen[0] == torch.float32
    assert set(seen[1:]) == {torch.bfloat16}
    assert torch.equal(inside, own)
    assert inside.dtype == torch.float32
    assert torch.allclose(inside, exact, atol=0.05)
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.filterwarnings("ignore:torch.fx cannot follow Network")
def test_fast_scores_are_close_and_of_a_snapshot(network, images, masks):
    exact = score_masks(network, images, masks, TARGETS)
    calls = []
    network.features[0].register_forward_hook(lambda *_: calls.append(1))
    assert torch.allclose(score_masks(network, images, masks, TARGETS, fast=True), exact, atol=0.03)
    assert not calls


@pytest.mark.filterwarnings("ignore:torch.fx cannot follow Network")
@pytest.mark.parametrize(
    ("supported", "time_in_bf16", "dtype"),
    [(True, 0.5, torch.bfloat16), (True, 0.85, torch.float32), (True, 1.9, torch.float32), (False, 0.5, torch.float32)],
)
def test_a_faster_copy_is_in_the_precision_in_which_the_processor_is_faster(
    network, images, masks, monkeypatch, supported, time_in_bf16, dtype
):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    monkeypatch.setattr(precisions, "_time_in_bf16", lambda: time_in_bf16)
    assert native_precision("cpu") == ("bf16" if dtype is torch.bfloat16 else None)
    copied = []
    own = fast_forward.FastCopy.current
    monkeypatch.setattr(fast_forward.FastCopy, "current", lambda *given: copied.append(own(*given)) or copied[-1])
    score_masks(network, images, masks, TARGETS, fast=True)
    RISE(network, masks=2, fast=True)(images, TARGETS)
    score_masks(network, images, masks, TARGETS, fast=True, precision="fp16")
    types = [next(each for each in found.modules() if isinstance(each, nn.Conv2d)).weight.dtype for found in copied]
    assert types == [dtype, dtype, torch.float16]


def test_what_is_timed_is_asked_once_and_draws_no_random_number(monkeypatch):
    precisions._time_in_bf16.cache_clear()
    dtypes = []
    fastest = precisions._fastest
    monkeypatch.setattr(precisions, "_fastest", lambda dtype: dtypes.append(dtype) or fastest(dtype))
    state = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        first = precisions._time_in_bf16()
    assert first > 0
    assert precisions._time_in_bf16() == first
    assert dtypes == [torch.bfloat16, torch.float32]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("native", [True, False])
def test_on_a_gpu_it_is_half_precision_in_any_case(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native and not including_emulation)
    assert native_precision("cuda:1") == ("bf16" if native else "fp16")


def test_progress_is_shown_only_when_asked_for(network, images, masks, capsys):
    score_masks(network, images, masks, TARGETS)
    assert capsys.readouterr().err == ""
    score_masks(network, images, masks, TARGETS, progress=True)
    assert "masked images" in (shown := capsys.readouterr().err)
    assert "/21" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": "margin"}, "score='margin'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": True}, "batch_size=True. Allowed are whole numbers from 1; give one, or 'auto'"),
        ({"batch_size": "huge"}, "batch_size='huge'"),
        ({"precision": "int8"}, "precision='int8'"),
        ({"fill": "white"}, "fill='white'"),
    ],
)
def test_unknown_options_are_refused_with_what_is_allowed(network, images, masks, options, message):
    with pytest.raises(ValueError, match=message):
        score_masks(network, images, masks, TARGETS, **options)


def test_unfitting_input_is_refused(network, images, masks):
    with pytest.raises(ValueError, match="for 3 images"):
        score_masks(network, images, masks[:2], TARGETS)
    with pytest.raises(ValueError, match="Allowed are 0 to 4"):
        score_masks(network, images, masks, torch.tensor([0, 1, 5]))
    with pytest.raises(TypeError, match="targets=None"):
        score_masks(network, images, masks, None)
    with pytest.raises(RuntimeError, match="with MaskScorer"):
        MaskScorer(network, images, TARGETS)(masks[:, 0], torch.arange(3))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_masked_images_have_the_layout_of_the_images(layout):
    network, seen = Network().eval(), []
    network.register_forward_pre_hook(lambda _, given: seen.append(given[0].is_contiguous(memory_format=layout)))
    images = torch.rand(2, 3, 8, 8).to(memory_format=layout)
    score_masks(network, images, torch.rand(2, 4, 8, 8), 1, batch_size=5)
    assert seen == [True, True]
