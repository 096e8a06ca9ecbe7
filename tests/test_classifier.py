from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from lightning_saliency.classifier import AUXILIARY_WEIGHT, ImageClassifier, split_logits
from lightning_saliency.networks import build_network, load_weights, small_cnn

# Steps are called by hand too.
pytestmark = pytest.mark.filterwarnings("ignore:.*`self.trainer` reference is not registered.*")


def batches(size: int = 32, classes: int = 5, count: int = 8, channels: int = 3) -> DataLoader[Any]:
    return DataLoader([(torch.rand(channels, size, size), number % classes) for number in range(count)], batch_size=4)


def trainer(**options: Any) -> pl.Trainer:
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
    }
    return pl.Trainer(accelerator="cpu", **{**quiet, **options})


class Thumbnails(nn.Module):
    """A linear layer on the mean colour: trains in no time."""

    def __init__(self, classes: int = 5, wrap: Any = lambda logits: logits) -> None:
        super().__init__()
        self.head = nn.Linear(3, classes)
        self.wrap = wrap

    def forward(self, images: Tensor) -> Any:
        return self.wrap(self.head(images.mean(dim=(2, 3))))


# --- networks by name -------------------------------------------------------------------------------------------------


def test_small_cnn_is_small_and_halves_its_grid_three_times() -> None:
    network = small_cnn()
    assert sum(parameter.numel() for parameter in network.parameters()) == 292_954
    grids = []
    for name, module in network.named_children():
        if name.startswith("stage"):
            module.register_forward_hook(lambda module, args, output: grids.append(tuple(output.shape[1:])))
    assert network(torch.rand(2, 3, 64, 64)).shape == (2, 10)
    assert grids == [(16, 64, 64), (32, 32, 32), (64, 16, 16), (128, 8, 8)]


def test_small_cnn_keeps_to_channels_last_for_any_input() -> None:
    layouts = []
    network = small_cnn(width=4)
    network.stage4.register_forward_hook(
        lambda module, args, output: layouts.append(output.is_contiguous(memory_format=torch.channels_last))
    )
    network(torch.rand(2, 3, 32, 32))
    assert layouts == [True]


@pytest.mark.parametrize(
    ("name", "options", "library"),
    [
        ("small_cnn", {"width": 4}, "torchvision"),
        ("resnet18", {}, "torchvision"),
        ("timm/mobilenetv3_small_050", {}, "torchvision"),
        ("mobilenetv3_small_050", {}, "timm"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_networks_by_name_take_classes_and_channels(
    name: str, options: dict[str, Any], library: Any, channels: int
) -> None:
    network = build_network(name, 7, channels, library, options).eval()
    assert network(torch.rand(1, channels, 32, 32)).shape == (1, 7)


def test_the_prefix_chooses_timms_network() -> None:
    assert type(build_network("resnet18", 3)).__module__.startswith("torchvision")
    assert type(build_network("timm/resnet18", 3)).__module__.startswith("timm")


def test_options_reach_the_builder() -> None:
    network = build_network("vit_b_32", 3, options={"image_size": 64})
    assert network.image_size == 64


@pytest.mark.parametrize(("name", "channels"), [("mnasnet0_5", 1), ("squeezenet1_1", 6)])
def test_other_input_channels_in_torchvision(name: str, channels: int) -> None:
    network = build_network(name, 3, channels).eval()
    assert network(torch.rand(1, channels, 64, 64)).shape == (1, 3)


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("socket.socket.connect", refuse)
    build_network("mobilenet_v3_small", 5)
    build_network("timm/mobilenetv3_small_050", 5)


def test_unknown_names_list_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"Got model='resnet19'.*resnet18"):
        build_network("resnet19", 3)
    with pytest.raises(ValueError, match=r"raft_large"):
        build_network("raft_large", 3)
    with pytest.raises(ValueError, match=r"model='timm/resnet19', which timm does not have. Similar names: .*resnet18"):
        build_network("timm/resnet19", 3)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning-saliency\[timm\]'"):
        build_network("timm/resnet18", 3)


# --- outputs ----------------------------------------------------------------------------------------------------------


def test_logits_are_found_in_each_kind_of_output() -> None:
    logits, other = torch.rand(2, 3), torch.rand(2, 3)
    for output in (logits, (logits,), {"logits": logits}, SimpleNamespace(logits=logits), (logits, torch.rand(2, 8))):
        main, auxiliary = split_logits(output)
        assert main is logits
        assert auxiliary == []
    main, auxiliary = split_logits(torchvision.models.GoogLeNetOutputs(logits, other, None))
    assert main is logits
    assert auxiliary[0] is other
    assert len(auxiliary) == 1
    with pytest.raises(TypeError, match="logits"):
        split_logits({"boxes": logits})


def test_auxiliary_heads_count_in_training() -> None:
    model = ImageClassifier(Thumbnails(wrap=lambda logits: (logits, 2 * logits)), num_classes=5)
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    logits = model(images)
    cross_entropy = nn.functional.cross_entropy
    expected = cross_entropy(logits, labels) + AUXILIARY_WEIGHT * cross_entropy(2 * logits, labels)
    assert torch.isclose(model.training_step((images, labels), 0), expected)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "timm/mobilenetv3_small_050", "small_cnn"])
def test_a_network_trains(name: str) -> None:
    options = {"init_weights": False} if name == "googlenet" else None  # its own initialisation takes seconds
    model = ImageClassifier(name, num_classes=5, model_options=options, weight_decay=0.0)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    run = trainer(fast_dev_run=1)
    run.fit(model, batches(), batches())
    # Every parameter that the loss reaches; those behind a scale that begins at zero are few.
    changed = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    assert changed[0]
    assert changed[-1]
    assert sum(changed) > 0.9 * len(changed)
    assert {"train/loss_epoch", "train/accuracy", "val/loss", "val/accuracy"} <= set(run.callback_metrics)


def as_dict(images: Tensor, labels: Tensor, image: str, label: str) -> dict[str, Tensor]:
    return {label: labels, image: images, "index": torch.arange(len(labels))}


@pytest.mark.parametrize(
    "form",
    [
        lambda x, y: (x, y),
        lambda x, y: [x, y],
        lambda x, y: as_dict(x, y, "image", "label"),
        lambda x, y: as_dict(x, y, "images", "labels"),
        lambda x, y: as_dict(x, y, "pixel_values", "target"),
    ],
)
def test_batches_may_be_tuples_lists_and_dictionaries(form: Any) -> None:
    model = ImageClassifier(Thumbnails(), num_classes=5)
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([4, 3, 2, 1])
    expected = nn.functional.cross_entropy(model(images), labels)
    assert torch.isclose(model.validation_step(form(images, labels), 0)["loss"], expected)
    assert torch.equal(model.predict_step(form(images, labels), 0), model(images))


def test_validation_and_test_hand_out_detached_logits() -> None:
    model = ImageClassifier(Thumbnails(), num_classes=5)
    batch = torch.rand(4, 3, 8, 8), torch.tensor([4, 3, 2, 1])
    for step in (model.validation_step, model.test_step):
        outputs = step(batch, 0)
        assert set(outputs) == {"loss", "logits"}
        assert torch.equal(outputs["logits"], model(batch[0]))
        assert not outputs["logits"].requires_grad


def test_the_logged_accuracy_is_that_of_the_whole_epoch() -> None:
    images = torch.rand(10, 3, 8, 8)
    model = ImageClassifier(Thumbnails(), num_classes=5)
    predicted = model(images).argmax(dim=1)
    labels = torch.where(torch.arange(10) < 7, predicted, (predicted + 1) % 5)
    # Batches of 4, 4 and 2: the mean of their accuracies is not the accuracy.
    result = trainer().test(model, DataLoader(list(zip(images, labels, strict=True)), batch_size=4), verbose=False)
    assert result[0]["test/accuracy"] == pytest.approx(0.7)
    assert result[0]["test/loss"] == pytest.approx(nn.functional.cross_entropy(model(images), labels).item(), rel=1e-5)


def test_wrong_shapes_and_missing_labels_say_what_was_there() -> None:
    model = ImageClassifier(Thumbnails(classes=4), num_classes=5)
    with pytest.raises(ValueError, match=r"Got logits \[2, 4\] from the network. Allowed are \[2, 5\]"):
        model.training_step((torch.rand(2, 3, 8, 8), torch.tensor([0, 1])), 0)
    with pytest.raises(ValueError, match=r"no integer labels \[2\].*Tensor\[2, 3, 8, 8\]"):
        model.training_step({"image": torch.rand(2, 3, 8, 8)}, 0)


# --- optimisers and schedules -----------------------------------------------------------------------------------------


class Rates(pl.Callback):
    """Notes the learning rate of every step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def rates_of(scheduler: Any, epochs: int = 6, **options: Any) -> list[float]:
    noted = Rates()
    options |= {"learning_rate": 0.5, "scheduler": scheduler, "optimizer": "sgd"}
    model = ImageClassifier(Thumbnails(), num_classes=5, **options)
    trainer(max_epochs=epochs, callbacks=[noted], log_every_n_steps=1).fit(model, batches(size=8))
    return noted.rates


def test_schedules() -> None:
    assert rates_of(None) == [0.5] * 12
    assert rates_of("step") == pytest.approx([0.5] * 4 + [0.05] * 4 + [0.005] * 4)
    falling = rates_of("multi_step", milestones=[1, 4])
    assert falling == pytest.approx([0.5] * 2 + [0.05] * 6 + [0.005] * 4)
    cosine = [0.25 * (1 + torch.cos(torch.tensor(torch.pi * step / 12)).item()) for step in range(12)]
    assert rates_of("cosine") == pytest.approx(cosine, rel=1e-4)
    cycle = rates_of("one_cycle", epochs=10)
    assert max(cycle) == pytest.approx(0.5)
    assert cycle.index(max(cycle)) == pytest.approx(0.3 * 20, abs=1)
    assert cycle[0] < 0.1
    assert cycle[-1] < 1e-3


def test_optimizers_take_their_arguments() -> None:
    for given in ({}, {"nesterov": True}):
        sgd = ImageClassifier(
            Thumbnails(), 5, optimizer="sgd", learning_rate=0.3, weight_decay=0.1, momentum=0.7, scheduler=None, **given
        )
        group = sgd.configure_optimizers().param_groups[0]
        found = (group["lr"], group["weight_decay"], group["momentum"], group["nesterov"])
        assert found == (0.3, 0.1, 0.7, bool(given))
    adamw = ImageClassifier(Thumbnails(), 5, learning_rate=0.3, weight_decay=0.1, scheduler=None).configure_optimizers()
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.param_groups[0]["lr"], adamw.param_groups[0]["weight_decay"]) == (0.3, 0.1)


def test_frozen_parameters_are_left_out_of_the_optimizer() -> None:
    model = ImageClassifier(Thumbnails(), 5, scheduler=None)
    model.model.head.weight.requires_grad_(False)
    assert [parameter.shape for parameter in model.configure_optimizers().param_groups[0]["params"]] == [(5,)]


def test_an_endless_training_has_no_cosine() -> None:
    model = ImageClassifier(Thumbnails(), 5, scheduler="cosine")
    with pytest.raises(ValueError, match="runs with max_epochs"):
        trainer(max_epochs=-1, max_steps=-1, max_time="00:00:00:05").fit(model, batches(size=8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adam"}, r"Got optimizer='adam'. Allowed are 'adamw', 'sgd'"),
        ({"scheduler": "linear"}, "Got scheduler='linear'"),
        ({"scheduler": "multi_step"}, "Got milestones=None with .*Allowed are rising epochs from 1"),
        ({"scheduler": "multi_step", "milestones": [5, 5]}, r"Got milestones=\[5, 5\] with scheduler='multi_step'"),
        ({"scheduler": "cosine", "milestones": [5]}, r"Got milestones=\[5\] with scheduler='cosine'"),
        ({"library": "keras"}, "Got library="),
        ({"nesterov": True}, "nesterov=True with optimizer='adamw'"),
        ({"nesterov": True, "optimizer": "sgd", "momentum": 0.0}, r"momentum=0\.0"),
        ({"num_classes": 1}, "Got num_classes=1"),
        ({"in_channels": 1}, "Got in_channels=1 and"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageClassifier(Thumbnails(), **{"num_classes": 5, **options})


# --- checkpoints ------------------------------------------------------------------------------------------------------


def equal(first: nn.Module, second: nn.Module) -> bool:
    theirs = second.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in first.state_dict().items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {
            "state_dict": {**{f"model.{name}": value for name, value in state.items()}, "loss.weight": torch.ones(5)}
        },
        lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
        lambda state: {name: value for name, value in state.items() if "num_batches_tracked" not in name},
    ],
)
def test_checkpoints_in_their_usual_wrappings(wrap: Any, tmp_path: Path) -> None:
    saved, fresh = small_cnn(5, width=4), small_cnn(5, width=4)
    assert not equal(saved, fresh)
    torch.save(wrap(saved.state_dict()), tmp_path / "weights.pth")
    load_weights(fresh, tmp_path / "weights.pth")
    assert equal(saved, fresh)


def test_a_lightning_checkpoint_begins_another_training_and_restores_itself(tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": "small_cnn", "num_classes": 5, "model_options": {"width": 4}}
    torch.save(small_cnn(5, width=4).state_dict(), tmp_path / "first.pth")
    model = ImageClassifier(**options, checkpoint=tmp_path / "first.pth", learning_rate=0.25)
    run = trainer(max_epochs=1, log_every_n_steps=1)
    run.fit(model, batches())
    run.save_checkpoint(tmp_path / "last.ckpt")
    (tmp_path / "first.pth").unlink()
    assert equal(ImageClassifier(**options, checkpoint=tmp_path / "last.ckpt").model, model.model)
    restored = ImageClassifier.load_from_checkpoint(tmp_path / "last.ckpt", map_location="cpu")
    assert equal(restored.model, model.model)
    assert restored.hparams["learning_rate"] == 0.25


def test_another_networks_checkpoint_is_refused_with_the_keys(tmp_path: Path) -> None:
    state = small_cnn(5, width=4).state_dict()
    state["tail.weight"] = state.pop("head.weight")
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"Missing keys: head\.weight\. Unexpected keys: tail\.weight"):
        load_weights(small_cnn(5, width=4), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"Of another shape: .*head\.bias \[5\] for \[3\]"):
        load_weights(small_cnn(3, width=4), tmp_path / "weights.pth")
    untouched, before = small_cnn(3, width=4), small_cnn(3, width=4)
    before.load_state_dict(untouched.state_dict())
    with pytest.raises(ValueError, match="Missing keys"):
        load_weights(untouched, tmp_path / "weights.pth")
    assert equal(untouched, before)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("head.weight", None, r"Missing keys: head\.weight\. Unexpected keys: none\. Of another shape: none"),
        ("tail.weight", torch.ones(3), r"Missing keys: none\. Unexpected keys: tail\.weight\. Of another shape: none"),
        ("head.weight", torch.ones(16, 5), r"Unexpected keys: none\. Of another shape: head\.weight \[16, 5\] for"),
    ],
)
def test_one_key_that_does_not_fit_is_enough(name: str, value: Any, message: str, tmp_path: Path) -> None:
    network = small_cnn(5, width=2)
    state = {**network.state_dict(), name: value}
    torch.save({key: value for key, value in state.items() if value is not None}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message):
        load_weights(network, tmp_path / "weights.pth")


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="where there is no file"):
        load_weights(small_cnn(), tmp_path / "weights.pth")
    torch.save({"epoch": 3}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="without a state dict"):
        load_weights(small_cnn(), tmp_path / "weights.pth")
    torch.save(small_cnn(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"state_dict\(\)"):
        load_weights(small_cnn(), tmp_path / "weights.pth")
    (tmp_path / "weights.pth").write_text("no weights")
    with pytest.raises(ValueError, match="damaged"):
        load_weights(small_cnn(), tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["small_cnn", "googlenet", "timm/mobilenetv3_small_050"])
def test_reset_head_keeps_all_but_the_classes(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"init_weights": False} if name == "googlenet" else {}
    saved = build_network(name, 7, options=options)
    torch.save(saved.state_dict(), tmp_path / "weights.pth")
    model = ImageClassifier(name, 5, model_options=options, checkpoint=tmp_path / "weights.pth", reset_head=True)
    state, old = model.model.state_dict(), saved.state_dict()
    kept = {key for key in state if state[key].shape == old[key].shape and torch.equal(state[key], old[key])}
    heads = {
        "small_cnn": ["head"],
        "googlenet": ["fc", "aux1.fc2", "aux2.fc2"],
        "timm/mobilenetv3_small_050": ["classifier"],
    }[name]
    assert set(state) - kept == {f"{head}.{part}" for head in heads for part in ("weight", "bias")}


@pytest.mark.parametrize("name", ["squeezenet1_0", "mobilenet_v2"])
def test_real_weights_recognise_real_photographs(name: str, shared_data: Path) -> None:
    weights = shared_data / "weights" / f"{name}_imagenet.pth"
    model = ImageClassifier(name, num_classes=1000, checkpoint=weights).eval()
    prepare = v2.Compose(
        [
            v2.Resize(256, antialias=True),
            v2.CenterCrop(224),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    folder = shared_data / "imagenet_nips17"
    with (folder / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))[:20]
    images = torch.stack([prepare(Image.open(folder / row["file"]).convert("RGB")) for row in rows])
    labels = torch.tensor([int(row["class_index"]) for row in rows])
    with torch.no_grad():
        accuracy = (model(images).argmax(dim=1) == labels).float().mean()
    assert accuracy > 0.4
