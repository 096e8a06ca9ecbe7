"""The module that gives output and map: the network's own output, the explainer's map, one pass."""

import copy
import pickle

import pytest
import torch
from torch import nn

from lightning_saliency.deployment import SaliencyModule
from lightning_saliency.explainers import SMOE
from lightning_saliency.scales.find import find_scales
from tests.networks import ConvNet, EncoderDecoder, FunctionalNet, GeluNet, SharedModulesNet, TokenTransformer

NETWORKS = [ConvNet, EncoderDecoder, FunctionalNet, GeluNet, SharedModulesNet, TokenTransformer]


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


@pytest.mark.parametrize("build", NETWORKS)
def test_the_output_is_the_networks_and_the_map_the_explainers(build):
    network, images = build().eval(), torch.rand(3, 3, 32, 32)
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    expected, smoe = network(images), SMOE(network)(images)
    module = SaliencyModule(network, images[:1])
    calls.clear()
    output, map_ = module(images)
    assert calls == [1]
    assert torch.equal(output, expected)
    torch.testing.assert_close(map_, smoe, rtol=0, atol=1e-5)
    assert not map_.requires_grad


def test_options_are_the_explainers():
    network, images = ConvNet().eval(), torch.rand(2, 3, 32, 32)
    options = {"statistic": "std", "weights": [1, 3], "layers": ["block1", "block3"]}
    module = SaliencyModule(network, images, **options)
    torch.testing.assert_close(module(images)[1], SMOE(network, **options)(images))
    assert [scale.module for scale in module.scales] == ["block1", "block3"]
    with pytest.raises(ValueError, match="weights for 3 scales"):
        SaliencyModule(network, images, weights=[1, 2])
    with pytest.raises(ValueError, match=r"Got images \[3, 32, 32\]"):
        module(images[0])


def test_the_network_trains_and_runs_alone_as_before():
    network, images = ConvNet(), torch.rand(4, 3, 32, 32)
    module = SaliencyModule(network, images)
    assert all(each.training for each in network.modules())
    module(images)[0].sum().backward()
    assert network.block1[0].weight.grad is not None
    network.eval()
    before = network(images)
    module.close()
    module.close()
    assert hooks(network) == 0
    assert torch.equal(network(images), before)


def test_images_of_another_size():
    network = ConvNet().eval()
    images = torch.rand(2, 3, 48, 40)
    output, map_ = SaliencyModule(network, torch.rand(1, 3, 32, 32))(images)
    assert output.shape == (2, 10)
    torch.testing.assert_close(map_, SMOE(network)(images))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_have_hooks_of_their_own(copied):
    network, images = ConvNet().eval(), torch.rand(2, 3, 32, 32)
    module = SaliencyModule(network, images)
    twin = copied(module)
    for parameter in twin.parameters():
        parameter.data.mul_(1.5)
    for each in (module, twin):
        output, map_ = each(images)
        assert torch.equal(output, each.network(images))
        torch.testing.assert_close(map_, SMOE(each.network)(images))
    assert twin.scales == module.scales == find_scales(network, images)
    # A second module on the same network reads for itself.
    assert torch.equal(SaliencyModule(network, images, "mean")(images)[1], SMOE(network, "mean")(images))
    assert torch.equal(module(images)[1], SMOE(network)(images))


def test_it_compiles_without_a_break():
    network, images = ConvNet().eval(), torch.rand(2, 3, 32, 32)
    module = SaliencyModule(network, images)
    torch.compiler.reset()
    with torch.no_grad():
        output, map_ = torch.compile(module, fullgraph=True, backend="aot_eager")(images)
        torch.testing.assert_close(output, network(images))
    torch.testing.assert_close(map_, SMOE(network)(images), rtol=0, atol=1e-4)
