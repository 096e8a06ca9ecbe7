"""What a map costs: counted, measured, and as a table of the command."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from lightning_saliency.cli import main
from lightning_saliency.functional import fast_cam_memory, fast_cam_operations
from lightning_saliency.studies import run_costs
from lightning_saliency.studies.method_costs.flops import counted_flops
from lightning_saliency.studies.method_costs.measuring import FORWARD
from tests.networks import ConvNet, GeluNet

SMALL = {"size": (32, 32), "batch_size": 3, "rounds": 2, "device": "cpu"}


def conv_flops(network, size):
    """Of all convolutions and linear layers for one image, by loops over the layers' shapes."""
    total = 0

    def count(layer, inputs, output):
        nonlocal total
        weight = layer.weight[0].numel()
        total += 2 * weight * output[0].numel()

    handles = [
        layer.register_forward_hook(count) for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    with torch.no_grad():
        network(torch.rand(1, 3, *size))
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize("make", [ConvNet, GeluNet])
def test_counted_flops_are_those_of_the_layers(make):
    network = make().eval()
    with counted_flops() as flops, torch.no_grad():
        network(torch.rand(2, 3, 32, 32))
    assert (flops.forward, flops.backward) == (2 * conv_flops(network, (32, 32)), 0)


def test_gradients_are_counted_apart():
    network = ConvNet().eval()
    images = torch.rand(2, 3, 32, 32)
    with counted_flops() as flops:
        network(images).sum().backward()
    whole = 2 * conv_flops(network, (32, 32))
    first = 2 * 2 * network.block1[0].weight.numel() * 32 * 32
    assert flops.forward == whole
    # Two products for each layer, one for the weights and one for its input, but of the first layer the weights' only.
    assert flops.backward == 2 * whole - first


def test_what_is_counted_is_what_the_explainers_do():
    explainers = {
        "smoe": "smoe",
        "grad_cam": "grad_cam",
        "group_cam": {"class_path": "group_cam", "init_args": {"groups": 4}},
        "rise": {"class_path": "rise", "init_args": {"masks": 40}},
    }
    costs = run_costs(ConvNet(), explainers, **SMALL).costs
    assert list(costs) == [FORWARD, *explainers]
    forward = costs[FORWARD]
    assert (costs["smoe"].passes, costs["smoe"].backward, costs["smoe"].flops) == (1.0, 0.0, forward.flops)
    assert costs["grad_cam"].passes == 1.0
    assert 0 < costs["grad_cam"].backward < 1
    assert costs["group_cam"].passes == 1 + 1 + 4  # gradient, baseline, one mask for each group
    assert costs["rise"].passes >= 40
    assert costs["rise"].flops >= 40 * forward.flops
    assert costs["rise"].time.seconds > 5 * forward.time.seconds
    assert all(cost.memory > 0 and cost.time.low <= cost.time.high and not cost.estimated for cost in costs.values())


def test_an_explainer_beyond_the_budget_is_told_by_a_part_and_marked():
    rise = {"rise": {"class_path": "rise", "init_args": {"masks": 400}}}
    result = run_costs(ConvNet(), rise, budget=0.0, **SMALL)
    assert result.costs["rise"].estimated
    assert result.costs["rise"].passes >= 400
    assert result.costs["rise"].time.ratio > 20
    assert "rise*" in result.table().markdown()
    assert "extrapolated" in result.table().caption


def test_explainers_of_other_libraries_are_counted():
    pytest.importorskip("captum")
    costs = run_costs(ConvNet(), ["gradient", "guided_backprop", "gradient_smoothgrad_sq"], **SMALL).costs
    assert [costs[name].passes for name in ("gradient", "guided_backprop", "gradient_smoothgrad_sq")] == [1, 1, 15]
    assert 0.9 < costs["gradient"].backward < 2
    assert costs["gradient_smoothgrad_sq"].backward == pytest.approx(15 * costs["gradient"].backward, rel=0.2)


@pytest.mark.parametrize("option", [{"batch_size": 0}, {"rounds": 0}, {"channels": -1}, {"size": (32, -3)}])
def test_numbers_out_of_range_are_refused(option):
    with pytest.raises(ValueError, match=f"Got {next(iter(option))}=.*Allowed are whole numbers from 1"):
        run_costs(ConvNet(), ["smoe"], **{**SMALL, **option})


def test_no_scales_no_count():
    for function in (fast_cam_operations, fast_cam_memory):
        with pytest.raises(ValueError, match="Got no scales"):
            function([])


def test_the_command_prints_and_writes_the_table(tmp_path, capsys):
    arguments = ["--model", "resnet18", "--size", "64", "--batch_size", "1", "--rounds", "1", "--device", "cpu"]
    assert main(["cost", *arguments, "--explainers", "smoe,grad_cam", "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "smoe" in printed
    assert "Memory by the paper's counting: 10 kB" in printed
    assert "With 13 operations for a logarithm" in printed
    written = json.loads((tmp_path / "cost.json").read_text())
    assert written["scales"] == [[64, 32, 32], [64, 16, 16], [128, 8, 8], [256, 4, 4], [512, 2, 2]]
    assert written["costs"]["smoe"]["passes"] == 1.0
    assert "grad_cam" in (tmp_path / "cost.md").read_text()
    table = (tmp_path / "cost.md").read_text()
    share = 100 * written["costs"]["grad_cam"]["backward"]
    assert 0 < share < 50
    assert f"| grad_cam | 1.0 | {share:.2f} |" in table
    assert main(["cost", *arguments, "--explainers", "gradcam"]) == 2
    assert "Allowed are" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--methods", "smoe"], ["--methods=smoe"], ["--methods.quick.class_path=smoe"]])
def test_explainers_of_the_command_are_called_methods_as_well(option, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("lightning_saliency.cli.cost.load_network", lambda options: asked.append(options.explainers))
    monkeypatch.setattr("lightning_saliency.cli.cost.run_costs", lambda *given, **named: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["cost", "--model", "resnet18", *option])
    assert "smoe" in str(asked)
    with pytest.raises(SystemExit):
        main(["cost", "--model", "resnet18", "--methodology", "smoe"])
