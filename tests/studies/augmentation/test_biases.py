"""Where the maps of a trained network point, as the table of a comparison shows it."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency.functional.position_bias import position_bias
from lightning_saliency.networks import build_network
from lightning_saliency.scales.find import find_scales
from lightning_saliency.scales.maps import combined_statistics
from lightning_saliency.scales.taps import ScaleTaps
from lightning_saliency.studies.augmentation.biases import measure_biases
from lightning_saliency.studies.augmentation.cells import arm_trainer
from lightning_saliency.studies.augmentation.config import FineTuningConfig
from lightning_saliency.studies.augmentation.run import run_augmentation


class Holder(nn.Module):
    """A module as the study has them: with a network, and in training mode."""

    def __init__(self, model):
        super().__init__()
        self.model = model


def marked_images(count):
    """Grey noise with a bright corner in the colour of the class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    images = 0.1 * torch.rand(count, 3, 32, 32, generator=generator)
    images[torch.arange(count), labels, :6, :6] = 3.0
    return images, labels


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_the_numbers_are_those_of_all_images_at_once(precision):
    torch.manual_seed(0)
    network = build_network("small_cnn", 3, options={"width": 4})
    trainer = arm_trainer(FineTuningConfig(accelerator="cpu", precision=precision), 1, 0, [])
    module = trainer.precision_plugin.convert_module(Holder(network))
    images, labels = marked_images(60)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = measure_biases(trainer, module, DataLoader(TensorDataset(images, labels), batch_size=7))
    # Read and added up another way: all images in one pass of the network in evaluation mode.
    network = network.eval().float()
    with torch.no_grad(), ScaleTaps(network, find_scales(network, images[:1])) as taps:
        taps.start()
        network(images)
        expected = position_bias(combined_statistics(taps.take(), "equal"), labels, images)
    tolerance = 1e-4 if precision == "32-true" else 0.1
    assert found["position_bias"] == pytest.approx(expected.bias, abs=tolerance)
    assert found["content_bias"] == pytest.approx(expected.content, abs=tolerance)
    assert expected.bias > 0.9
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_network_without_scales_is_told_and_left_out():
    module = Holder(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3)))
    images = torch.rand(6, 3, 8, 8)
    trainer = arm_trainer(FineTuningConfig(accelerator="cpu"), 1, 0, [])
    with pytest.warns(UserWarning, match="position_bias and content_bias are left out of the table"):
        found = measure_biases(trainer, module, DataLoader(TensorDataset(images, torch.arange(6) % 3)))
    assert found == {"position_bias": None, "content_bias": None}


def test_images_of_one_class_have_no_bias():
    module = Holder(build_network("small_cnn", 3, options={"width": 4}))
    images, _ = marked_images(6)
    trainer = arm_trainer(FineTuningConfig(accelerator="cpu"), 1, 0, [])
    found = measure_biases(trainer, module, DataLoader(TensorDataset(images, torch.zeros(6, dtype=torch.long))))
    assert found == {"position_bias": None, "content_bias": None}


def test_the_table_shows_them_and_results_without_them_are_read(config):
    result = run_augmentation(config, progress=False)
    estimates = result.estimates["Net"]["steps"]["plain"]
    runs = [run["position_bias"] for run in result.runs["Net"]["steps"]["plain"].values()]
    assert estimates["position_bias"].value == pytest.approx(sum(runs) / 2)
    assert "position_bias" in str(result)
    for arms in result.runs["Net"].values():
        for seeds in arms.values():
            for run in seeds.values():
                del run["position_bias"], run["content_bias"]
    del result.estimates
    assert "position_bias" not in str(result)
