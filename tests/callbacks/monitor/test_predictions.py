"""What the film says of predictions: those of the network, whatever it returns, for the images that are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency import SaliencyMonitor
from lightning_saliency.pictures.page import FilmRecords
from tests.callbacks.monitor.helpers import Module, trainer
from tests.explainers.test_heads import ModelOutput, Net

IMAGES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def network(head: str, outputs: int = 4) -> Net:
    """A network whose logits are 0 in the mean of the images, so that it sees several classes in them."""
    torch.manual_seed(5)
    net = Net(head, outputs)
    with torch.no_grad():
        net.linear.bias -= net.linear(net.features(IMAGES).mean((2, 3))).mean(0)
    assert len(set(expected(net))) > 1
    return net


@dataclass
class Told:
    loss: Any
    logits: torch.Tensor


class Run(Module):
    """Returns nothing from validation, so that only the network tells; ``wrapped`` is what it returns of its logits."""

    def __init__(self, net: nn.Module, wrapped: Any = lambda returned: returned) -> None:
        super().__init__(net, learning_rate=0.0)
        self.wrapped = wrapped

    def forward(self, x):
        return self.wrapped(self.net(x))

    def training_step(self, batch, batch_idx):
        return self.net.linear.weight.square().mean()

    def validation_step(self, batch, batch_idx):
        self(batch[0])


def shown(folder, module: Module, labels: torch.Tensor, monitor: SaliencyMonitor | None = None) -> list[int | None]:
    """The predictions on the film."""
    data = DataLoader(TensorDataset(IMAGES, labels), 6)
    run = trainer(folder, SaliencyMonitor(num_images=6) if monitor is None else monitor, epochs=1)
    run.fit(module, data, data)
    store = FilmRecords(folder / "recorder" / "v" / "saliency" / "film")
    return [image.prediction for image in store.read(store.frames()[-1]).images]


def expected(net: nn.Module) -> list[int]:
    """The classes by the plain logits."""
    with torch.no_grad():
        logits = net.eval().linear(net.features(IMAGES).mean((2, 3)))
    found = (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)
    return found.tolist()


CLASSES = torch.tensor([0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize(
    ("head", "outputs", "wrapped", "output"),
    [
        ("plain", 1, lambda returned: returned, None),
        ("flat", 1, lambda returned: returned, None),
        ("plain", 4, lambda returned: returned, None),
        ("flat", 1, lambda returned: {"logits": returned}, None),
        ("plain", 4, lambda returned: Told(None, returned), None),
        ("plain", 4, lambda returned: ModelOutput(loss=None, logits=returned), None),
        ("plain", 4, lambda returned: (torch.tensor(0.5), returned), None),
        ("plain", 4, lambda returned: {"out": returned}, None),
        ("named", 4, lambda returned: returned, "color"),
        ("heads", 4, lambda returned: returned, "heads.color"),
        ("pair", 4, lambda returned: returned[::-1], 1),
        ("dataclass", 4, lambda returned: returned, lambda returned: returned.color),
        ("plain", 4, lambda returned: returned.argmax(1), None),
    ],
)
def test_predictions_are_read_from_what_the_network_returns(tmp_path, head, outputs, wrapped, output):
    net = network(head, outputs)
    found = shown(tmp_path, Run(net, wrapped), CLASSES, SaliencyMonitor(num_images=6, output=output))
    assert found == expected(net)


def test_a_named_part_tells_where_the_user_says_what(tmp_path):
    net = network("heads")
    monitor = SaliencyMonitor(num_images=6, model="net", output="heads.color")
    assert shown(tmp_path, Run(net), CLASSES, monitor) == expected(net)


@pytest.mark.parametrize(
    ("wrapped", "labels"),
    [
        (lambda returned: nn.functional.interpolate(returned, 16)[:, :3], CLASSES),  # an autoencoder's pictures
        (lambda returned: (returned, returned.mean((2, 3))), CLASSES),  # and its code
        (lambda returned: [{"boxes": returned[0, :, 0]}], CLASSES),
        (lambda returned: returned.mean((2, 3))[:, :1], torch.arange(6) * 1.5),  # a regression
    ],
)
def test_what_names_no_class_is_no_prediction(tmp_path, wrapped, labels):
    assert shown(tmp_path, Run(network("pixels"), wrapped), labels) == [None] * 6


class Mirrored(Run):
    """A mirrored pass before the images' own, and one of noise behind it."""

    def validation_step(self, batch, batch_idx):
        self(batch[0].flip(0).flip(-1))
        self(batch[0])
        self(torch.rand_like(batch[0]))


class Chunks(Run):
    def validation_step(self, batch, batch_idx):
        for chunk in batch[0].split(4):
            self(chunk)


class TwoViews(Run):
    def validation_step(self, batch, batch_idx):
        self(torch.cat([batch[0].flip(-1), batch[0]]))


class Reversed(Run):
    def validation_step(self, batch, batch_idx):
        self(batch[0].flip(0))


@pytest.mark.parametrize("kind", [Mirrored, Chunks, TwoViews, Reversed])
def test_predictions_belong_to_the_pass_over_the_images(tmp_path, kind):
    net = network("plain", 8)
    assert shown(tmp_path, kind(net), CLASSES) == expected(net)


def test_an_output_that_is_not_there_is_said_once(tmp_path, recwarn):
    found = shown(tmp_path, Run(network("heads")), CLASSES, SaliencyMonitor(num_images=6, output="heads.colour"))
    assert found == [None] * 6
    said = [str(each.message) for each in recwarn if "predictions" in str(each.message)]
    assert len(said) == 1
    assert "Got output='heads.colour'" in said[0]
