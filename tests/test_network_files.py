"""Networks that a Python file makes."""

import os

import pytest
import torch

from lightning_saliency.networks import build_network, load_weights, small_cnn

CODE = """
from dataclasses import dataclass
from torch import nn

@dataclass
class Widths:
    first: int = 4

def plain(num_classes, in_channels, width=4):
    pooled = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(nn.Conv2d(in_channels, width, 3), pooled, nn.Flatten(), nn.Linear(width, num_classes))

class Fixed(nn.Sequential):
    def __init__(self, classes=10):
        super().__init__(nn.Flatten(), nn.Linear(12, classes))

def none(num_classes):
    return num_classes

number = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "random.py"  # the name of a module that is installed
    path.write_text(CODE)
    return path


def test_a_function_gets_the_classes_and_channels_and_options(file):
    network = build_network(f"{file}:plain", 7, in_channels=2, options={"width": 5})
    assert network(torch.rand(3, 2, 8, 8)).shape == (3, 7)
    assert network[0].out_channels == 5


def test_a_class_that_takes_neither_is_called_with_the_options_alone(file):
    assert build_network(f"{file}:Fixed", 99)(torch.rand(2, 3, 2, 2)).shape == (2, 10)
    assert build_network(f"{file}:Fixed", 99, options={"classes": 4})(torch.rand(2, 3, 2, 2)).shape == (2, 4)


def test_no_installed_module_is_hidden(file):
    build_network(f"{file}:Fixed", 10)
    import random

    assert random.__file__ != str(file)


@pytest.mark.parametrize(("name", "match"), [("nothing", "nothing"), ("number", "number"), ("none", "Got int from")])
def test_what_makes_no_network(file, name, match):
    with pytest.raises(ValueError, match=match):
        build_network(f"{file}:{name}", 3)


@pytest.mark.parametrize(("name", "bias"), [("mobilenet_v3_small", False), ("squeezenet1_1", True)])
@pytest.mark.parametrize("channels", [1, 4])
def test_a_network_of_torchvisions_differs_by_the_channels_of_its_first_layer_alone(name, bias, channels):
    network, usual = build_network(name, 5, in_channels=channels), build_network(name, 5)
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    expected = {key: value.shape for key, value in usual.state_dict().items()}
    first = next(key for key, shape in expected.items() if len(shape) == 4)
    assert shapes == {**expected, first: (expected[first][0], channels, *expected[first][2:])}
    layer, other = (
        next(part for part in each.modules() if isinstance(part, torch.nn.Conv2d)) for each in (network, usual)
    )
    assert (layer.bias is not None) is bias
    assert (layer.kernel_size, layer.stride, layer.padding) == (other.kernel_size, other.stride, other.padding)
    assert network.eval()(torch.rand(2, channels, 64, 64)).shape == (2, 5)


class Unpickled:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("where", ["beside the weights", "among the weights", "alone"])
def test_nothing_in_a_file_of_weights_is_run(tmp_path, where):
    network = torch.nn.Linear(2, 2)
    trap = Unpickled(tmp_path / "was here")
    states = {
        "beside the weights": {"state_dict": network.state_dict(), "callbacks": [trap]},
        "among the weights": {**network.state_dict(), "more": trap},
        "alone": trap,
    }
    torch.save(states[where], tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="more than tensors and plain values"):
        load_weights(network, tmp_path / "weights.pth")
    assert not (tmp_path / "was here").exists()


def test_a_new_head_excuses_no_other_layer(tmp_path):
    torch.save(small_cnn(3, width=4).state_dict(), tmp_path / "weights.pth")
    network = small_cnn(5, width=8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match="another network"):
        load_weights(network, tmp_path / "weights.pth", reset_head=True)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    load_weights(small_cnn(5, width=4), tmp_path / "weights.pth", reset_head=True)


@pytest.mark.parametrize("prefix", ["net.", "my.own.network."])
def test_any_prefix_that_all_keys_have_is_taken_off(tmp_path, prefix):
    saved = small_cnn(3, width=4)
    state = {prefix + name: value for name, value in saved.state_dict().items()}
    torch.save({"state_dict": {**state, "loss.weight": torch.ones(3)}}, tmp_path / "weights.ckpt")
    network = small_cnn(3, width=4)
    load_weights(network, tmp_path / "weights.ckpt")
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in saved.state_dict().items())
    # A part of the keys is no network.
    del state[f"{prefix}head.weight"]
    torch.save(state, tmp_path / "part.ckpt")
    with pytest.raises(ValueError, match="another network"):
        load_weights(network, tmp_path / "part.ckpt")


def test_a_file_of_two_networks_is_refused(tmp_path):
    saved = small_cnn(3, width=4).state_dict()
    both = {f"{prefix}.{name}": value for prefix in ("student", "teacher") for name, value in saved.items()}
    torch.save(both, tmp_path / "weights.ckpt")
    with pytest.raises(ValueError, match=r"under each of 'student\.', 'teacher\.'"):
        load_weights(small_cnn(3, width=4), tmp_path / "weights.ckpt")
    # A name that is known decides.
    torch.save({**both, **{f"model.{name}": value for name, value in saved.items()}}, tmp_path / "weights.ckpt")
    load_weights(small_cnn(3, width=4), tmp_path / "weights.ckpt")


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.py"):
        build_network(f"{tmp_path}/no.py:plain", 3)


@pytest.mark.shared
def test_a_real_network_with_its_weights(shared_data):
    network = build_network(f"{shared_data}/cifar_resnet.py:CifarResNet", 10, options={"depth": 20})
    load_weights(network, shared_data / "weights" / "cifar10_resnet20.pth")
    assert network(torch.rand(1, 3, 32, 32)).shape == (1, 10)
