"""Networks that are given a text or a table in the same pass as the images: the scales are the images' own."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency import SaliencyMonitor, find_scales
from lightning_saliency.explainers import GradCAM
from lightning_saliency.scales import NoScalesError
from lightning_saliency.scales.reader import ScaleReader
from tests.networks import MLP, conv_block

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
GRIDS = [(32, 32), (16, 16), (8, 8)]


def cnn():
    stages = conv_block(3, 8), nn.MaxPool2d(2), conv_block(8, 8), nn.MaxPool2d(2), conv_block(8, 8)
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def sequence(count, kind):
    """Ids of words, or features of a table, of each image."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 50, (len(IMAGES), count), generator=generator)
    return ids if kind == "text" else torch.rand(len(IMAGES), count, 5, generator=generator)


class Fusion(nn.Module):
    """A CNN beside a branch of text or of a table; ``flat``: with functions between the branch's modules."""

    def __init__(self, order, kind, flat=False, tower=None):
        super().__init__()
        self.order, self.flat = order, flat
        self.embed = nn.Embedding(50, 8) if kind == "text" else nn.Linear(5, 8)
        self.mix = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        self.branch = nn.Sequential(self.embed, self.mix)
        self.images = tower or cnn()
        self.head = nn.Linear(16, 4)

    def words(self, given):
        return self.mix(self.embed(given) * 2 + 1) if self.flat else self.branch(given)

    def forward(self, one, other):
        if self.order == "images first":
            seen, read = self.images(one), self.words(other).mean(1)
        else:
            read, seen = self.words(one).mean(1), self.images(other)
        return self.head(torch.cat([seen, read], 1))

    def both(self, images, given):
        return self(*((images, given) if self.order == "images first" else (given, images)))


class Bound(nn.Module):
    """A network of images alone: it holds what the other branch is given."""

    def __init__(self, network, given):
        super().__init__()
        self.network = network
        self.register_buffer("given", given[:1])

    def forward(self, images):
        return self.network.both(images, self.given.expand(len(images), *self.given.shape[1:]))


def build(order, kind, count, flat=False):
    torch.manual_seed(0)
    return Fusion(order, kind, flat), sequence(count, kind)


MEMBERS = [
    pytest.param(order, kind, count, flat, id=f"{order}, {count} of a {kind}{', functions between' if flat else ''}")
    for order in ("images first", "other first")
    for kind, count, flat in (("text", 4, False), ("text", 9, True), ("table", 9, False), ("table", 16, True))
]


@pytest.mark.parametrize(("order", "kind", "count", "flat"), MEMBERS)
def test_find_scales(order, kind, count, flat):
    network, given = build(order, kind, count, flat)
    scales = find_scales(Bound(network, given), IMAGES)
    assert [scale.grid for scale in scales] == GRIDS
    assert all(scale.module.startswith("network.images") for scale in scales)


@pytest.mark.parametrize(("order", "kind", "count", "flat"), MEMBERS)
def test_the_first_pass_and_later_ones(order, kind, count, flat):
    network, given = build(order, kind, count, flat)
    alone, reader = ScaleReader(network.images), ScaleReader(network)
    for _ in range(2):
        found = []
        for each, step in ((alone, lambda: network.images(IMAGES)), (reader, lambda: network.both(IMAGES, given))):
            each.start(IMAGES)
            step()
            found.append(each.take().maps)
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other)


class Module(pl.LightningModule):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def training_step(self, batch, _index):
        images, given, labels = batch
        return nn.functional.cross_entropy(self.network.both(images, given), labels)

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def test_the_monitor_in_a_fit(tmp_path):
    for order, count in (("images first", 9), ("other first", 4)):
        network, given = build(order, "text", count)
        loader = DataLoader(TensorDataset(IMAGES, given, torch.arange(4)), batch_size=2)
        shapes = []

        class Seen(SaliencyMonitor):
            def end_epoch(self, trainer, pl_module, stage):
                super().end_epoch(trainer, pl_module, stage)
                records = self._sample.records.values()
                shapes.append([[tuple(map_.shape) for map_ in each.statistics] for each in records])  # noqa: B023

        options = {"accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_checkpointing": False}
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": tmp_path / order}
        trainer = pl.Trainer(callbacks=[Seen(num_images=2)], **options, **quiet)
        trainer.fit(Module(network), loader, loader)
        assert shapes[-1] == [GRIDS, GRIDS]


@pytest.mark.parametrize(("order", "kind"), [("images first", "text"), ("other first", "table")])
def test_grad_cam(order, kind):
    network, given = build(order, kind, 9)
    bound = Bound(network, given)
    automatic, named = GradCAM(bound), GradCAM(bound, layer="network.images.4")
    torch.testing.assert_close(automatic(IMAGES, 1), named(IMAGES, 1))


@pytest.mark.parametrize("order", ["images first", "other first"])
def test_a_text_gives_no_scales_to_a_network_without_any(order):
    network, given = Fusion(order, "text", tower=MLP(classes=8)), sequence(9, "text")
    reader = ScaleReader(network)
    reader.start(IMAGES)
    network.both(IMAGES, given)
    with pytest.raises(NoScalesError, match="No scales found in Fusion"):
        reader.take()


@pytest.mark.parametrize("length", [4, 16])
def test_clip(length):
    transformers = pytest.importorskip("transformers")
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**size, "vocab_size": 50, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**size, "num_hidden_layers": 4, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    network = transformers.CLIPModel(config)
    reader = ScaleReader(network)
    reader.start(IMAGES)
    network(input_ids=sequence(length, "text"), pixel_values=IMAGES)
    assert [tuple(map_.shape[1:]) for map_ in reader.take().maps] == [(4, 4)] * 4
    assert all(scale.module.startswith("vision_model") for scale in reader.scales)


class Padded(Fusion):
    """A text of which a part is padding: in eval mode torch makes nested tensors of it, which have no shape."""

    def __init__(self, order, activation):
        super().__init__(order, "text")
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation=activation)
        self.mix = nn.TransformerEncoder(layer, 2)

    def words(self, given):
        return self.mix(self.embed(given), src_key_padding_mask=given < 10)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("order", ["images first", "other first"])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_padded_text(order, activation):
    torch.manual_seed(0)
    network, given = Padded(order, activation).eval(), sequence(9, "text")
    given[:, 0] = 20  # torch takes no text that is all padding
    assert [scale.grid for scale in find_scales(Bound(network, given), IMAGES)] == GRIDS
    alone, reader = ScaleReader(network.images), ScaleReader(network)
    with torch.no_grad():
        for _ in range(2):
            alone.start(IMAGES)
            network.images(IMAGES)
            reader.start(IMAGES)
            network.both(IMAGES, given)
            for one, other in zip(alone.take().maps, reader.take().maps, strict=True):
                torch.testing.assert_close(one, other)
    assert GradCAM(Bound(network, given))(IMAGES, 1).shape == IMAGES[:, 0].shape
