"""Each rule of the taps is a test of its own."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_saliency.functional.statistics import STATISTICS, Statistic
from lightning_saliency.scales.find import find_scales
from lightning_saliency.scales.scale import Scale
from lightning_saliency.scales.taps import ScaleTaps, TapError


class _Network(nn.Module):
    """Two scales; one ReLU module shared by both, in place, and a residual sum after it."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(8, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.relu(self.conv1(x))
        x = self.relu(self.conv2(x) + x)
        x = self.relu(self.conv3(self.pool(x)))
        return self.head(x.mean((2, 3)))


SCALES = (
    Scale(module="pool", read="input", grid=(16, 16), channels=8, layout="NCHW"),
    Scale(module="relu", read="output", grid=(8, 8), channels=16, layout="NCHW"),
)
POOL = SCALES[:1]


@pytest.fixture
def network():
    return _Network().eval()


@pytest.fixture
def images():
    return torch.randn(4, 3, 16, 16)


def _hooks(network):
    return [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in network.modules()]


def _pool_input(network, images):
    x = network.relu(network.conv1(images))
    return network.relu(network.conv2(x) + x)


def test_the_map_is_the_statistic_of_the_final_activation(network, images):
    with ScaleTaps(network, POOL) as taps, torch.no_grad():
        taps.start()
        network(images)
        (map_,) = taps.take()
        torch.testing.assert_close(map_, STATISTICS["smoe_scale"](_pool_input(network, images)))


def test_the_output_is_the_same_object_path_and_bits(network, images):
    expected = network(images)
    with ScaleTaps(network, find_scales(network, images)) as taps:
        assert torch.equal(network(images), expected)
        taps.start()
        output = network(images)
        assert torch.equal(output, expected)
        output.sum().backward()
    assert network.conv1.weight.grad is not None


def test_a_module_called_several_times_gives_its_first_call(network, images):
    with ScaleTaps(network, SCALES[1:]) as taps, torch.no_grad():
        taps.start()
        network(images)
        torch.testing.assert_close(taps.take()[0], STATISTICS["smoe_scale"](network.relu(network.conv1(images))))


def test_only_the_first_pass_is_recorded(network, images):
    with ScaleTaps(network, POOL) as taps, torch.no_grad():
        taps.start()
        network(images)
        network(images * 2)
        torch.testing.assert_close(taps.take()[0], STATISTICS["smoe_scale"](_pool_input(network, images)))


def test_starting_again_forgets_what_was_recorded(network, images):
    with ScaleTaps(network, POOL) as taps:
        taps.start()
        network(images)
        taps.start()
        network(2 * images)
        [map_] = taps.take()
    torch.testing.assert_close(map_, STATISTICS["smoe_scale"](_pool_input(network, 2 * images)).detach())


@pytest.mark.parametrize("end", ["take", "close"])
def test_no_map_is_held_in_the_end(network, images, end):
    taps = ScaleTaps(network, SCALES)
    taps.start()
    network(images)
    kept = [weakref.ref(map_) for map_ in taps._maps]
    assert all(reference() is not None for reference in kept)
    getattr(taps, end)()
    gc.collect()
    assert all(reference() is None for reference in kept)
    assert not taps.recording
    taps.close()


def test_nothing_is_recorded_while_switched_off(network, images):
    calls = []
    statistic = Statistic("counting", lambda x, *, dim=1: calls.append(1) or x.mean(dim))
    with ScaleTaps(network, POOL, statistic) as taps:
        network(images)
        assert calls == []
        taps.start()
        network(images)
        taps.take()
        network(images)
        assert calls == [1]


def test_probing_and_explaining_passes_are_not_recorded(network, images):
    from lightning_saliency.explainers.base import undisturbed

    with ScaleTaps(network, POOL) as taps, torch.no_grad():
        taps.start()
        find_scales(network, images * 2)
        with undisturbed(network):
            network(images * 3)
        network(images)
        torch.testing.assert_close(taps.take()[0], STATISTICS["smoe_scale"](_pool_input(network, images)))


def test_max_images_cuts_before_the_statistic(network, images):
    sizes = []
    statistic = Statistic("measuring", lambda x, *, dim=1: sizes.append(x.shape[0]) or x.mean(dim))
    with ScaleTaps(network, POOL, statistic, max_images=3) as taps:
        taps.start()
        network(images)
        assert taps.take()[0].shape == (3, 16, 16)
        taps.start(max_images=1)
        network(images)
        taps.take()
    assert sizes == [3, 1]


def test_no_graph_and_no_activation_is_held(network, images):
    held = []
    network.pool.register_forward_pre_hook(lambda module, args: held.append(weakref.ref(args[0])))
    with ScaleTaps(network, POOL) as taps:
        taps.start()
        with torch.no_grad():
            network(images)
        gc.collect()
        assert held[0]() is None
        taps.start()
        network(images)
        (map_,) = taps.take()
        assert not map_.requires_grad
        assert map_.grad_fn is None


def test_hooks_are_removed_and_only_ours(network):
    mine = network.pool.register_forward_pre_hook(lambda module, args: None)
    before = _hooks(network)
    taps = ScaleTaps(network, SCALES)
    assert _hooks(network) != before
    taps.close()
    taps.close()
    assert _hooks(network) == before
    mine.remove()


def test_hooks_are_removed_after_an_exception(network):
    before = _hooks(network)
    with pytest.raises(RuntimeError, match="in the middle"), ScaleTaps(network, SCALES):
        raise RuntimeError("in the middle")
    assert _hooks(network) == before


def test_an_error_in_the_statistic_reaches_take_and_not_the_network(network, images):
    def broken(x, *, dim=1):
        raise ArithmeticError("broken on purpose")

    with ScaleTaps(network, POOL, Statistic("broken", broken)) as taps:
        taps.start()
        assert network(images).shape == (4, 5)
        with pytest.raises(TapError, match="broken on purpose"):
            taps.take()
        taps.start()
        network(images)
        assert not taps.recording


def test_a_scale_that_was_not_reached_is_named(network, images):
    with ScaleTaps(network, SCALES) as taps:
        taps.start()
        network.pool(torch.rand(2, 8, 16, 16))
        with pytest.raises(TapError, match="reached relu"):
            taps.take()


def test_an_unknown_module_and_no_scale_are_refused(network):
    with pytest.raises(ValueError, match="Got a scale at 'stem', which the network does not have"):
        ScaleTaps(network, [Scale(module="stem", read="input", grid=(4, 4), channels=8, layout="NCHW")])
    with pytest.raises(ValueError, match=r"Got no scales for ScaleTaps. Allowed is at least one"):
        ScaleTaps(network, [])
    with pytest.raises(ValueError, match="smoe_scale"):
        ScaleTaps(network, POOL, "no_such_statistic")


def test_gradient_checkpointing_is_recorded_once(network, images):
    counted = []
    statistic = Statistic("counting", lambda x, *, dim=1: counted.append(1) or x.mean(dim))
    with ScaleTaps(network, POOL, statistic) as taps:
        taps.start()
        output = checkpoint(network, images.requires_grad_(), use_reentrant=False)
        output.sum().backward()
        taps.take()
    assert counted == [1]


def test_inference_mode_and_autocast(network, images):
    with torch.no_grad():
        expected = STATISTICS["smoe_scale"](_pool_input(network, images))
    with ScaleTaps(network, POOL) as taps:
        taps.start()
        with torch.inference_mode():
            network(images)
        torch.testing.assert_close(taps.take()[0], expected)
        taps.start()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            network(images)
        (map_,) = taps.take()
        assert map_.dtype == torch.float32
        # A ReLU's zeros and almost-zeros swap places in bfloat16, which the logarithm sees: close on the whole only.
        assert (map_ - expected).abs().mean() < 0.02 * expected.mean()


def test_pre_activation_statistics_read_the_latest_activation_input(network, images):
    name = "truncnormal_entropy"
    with ScaleTaps(network, POOL, name) as taps, torch.no_grad():
        taps.start()
        network(images)
        (map_,) = taps.take()
        x = network.relu(network.conv1(images))
        before = network.conv2(x) + x
    torch.testing.assert_close(map_, STATISTICS[name](before))


class _Gated(nn.Module):
    """A squeeze-and-excitation gate, with an activation module of its own, behind the scale's activation."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.relu = nn.ReLU()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.SiLU(), nn.Sigmoid())
        self.flat = nn.Sequential(nn.Flatten(), nn.ReLU())
        self.pool = nn.MaxPool2d(2, ceil_mode=True)

    def forward(self, x):
        x = self.relu(self.conv(x))
        self.flat(x)
        return self.pool(x * self.gate(x))


@pytest.mark.parametrize("size", [(16, 16), (16, 1), (1, 16)])
def test_pre_activation_passes_over_gates_and_vectors(size):
    network = _Gated().eval()
    scale = Scale(module="pool", read="input", grid=size, channels=8, layout="NCHW")
    inputs = torch.randn(2, 3, *size)
    with ScaleTaps(network, [scale], "truncnormal_std") as taps:
        taps.start()
        network(inputs)
        [map_] = taps.take()
    assert torch.equal(map_, STATISTICS["truncnormal_std"](network.conv(inputs)))


def test_pre_activation_needs_activation_modules(images):
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2))
    scale = Scale(module="1", read="input", grid=(16, 16), channels=4, layout="NCHW")
    with pytest.raises(ValueError, match=r"no activation module"):
        ScaleTaps(network, [scale], "truncnormal_mean")


def test_pre_activation_on_another_grid_is_an_error(images):
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.MaxPool2d(2)
    )
    scale = Scale(module="3", read="input", grid=(8, 8), channels=4, layout="NCHW")
    with ScaleTaps(network, [scale], "truncnormal_mean") as taps:
        taps.start()
        network(images)
        with pytest.raises(TapError, match=r"\(16, 16\).*\(8, 8\)"):
            taps.take()


@pytest.mark.slow
def test_compiled_networks_are_read_without_a_graph_break(network, images):
    explanation = torch._dynamo.explain
    with ScaleTaps(network, POOL) as taps, torch.no_grad():
        expected = STATISTICS["smoe_scale"](_pool_input(network, images))
        compiled = torch.compile(network, fullgraph=True)
        plain = compiled(images)
        taps.start()
        recorded = compiled(images)
        (map_,) = taps.take()
        torch.testing.assert_close(plain, recorded)
        torch.testing.assert_close(map_, expected, rtol=1e-4, atol=1e-4)
        assert explanation(network)(images).graph_break_count == 0
    torch._dynamo.reset()


@pytest.mark.slow
def test_taps_after_the_first_compiled_call_say_so(network, images):
    with torch.no_grad():
        compiled = torch.compile(network)
        compiled(images)
        with ScaleTaps(network, POOL) as taps:
            taps.start()
            compiled(images)
            with pytest.raises(TapError, match=r"torch\.compiler\.reset"):
                taps.take()
    torch._dynamo.reset()
