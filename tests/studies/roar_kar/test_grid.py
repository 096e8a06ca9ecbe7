"""What cells of retraining studies depend on: what was changed is noticed, what was added costs no more than itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_saliency.classifier import ImageClassifier
from lightning_saliency.networks import small_cnn
from lightning_saliency.studies import StaleResultsError
from lightning_saliency.studies.layer_masking.run import LayerMaskingConfig, run_layer_masking
from lightning_saliency.studies.retraining.content import training_fingerprint
from lightning_saliency.studies.roar_kar.grid import RoarKarGrid
from lightning_saliency.studies.roar_kar.run import RoarKarConfig, run_roar_kar
from tests.studies.roar_kar.test_roar_kar import DATA, MODEL


@pytest.fixture
def options(tmp_path):
    return {
        "data": DATA,
        "model": MODEL,
        "explainers": {"smoe": {}},
        "epochs": 1,
        "fractions": (0.5,),
        "modes": ("roar",),
        "seeds": (0,),
        "trainer": {"accelerator": "cpu"},
        "output": str(tmp_path / "out"),
        "examples": 1,
    }


def stamps(tmp_path):
    return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").iterdir()}


def test_one_more_explainer_computes_its_own_cells_and_no_others(options, tmp_path):
    first = run_roar_kar(**options, progress=False)
    before = stamps(tmp_path)
    more = {**options, "explainers": {"smoe": {}, "std": {"class_path": "smoe", "init_args": {"statistic": "std"}}}}
    result = run_roar_kar(**more, progress=False)
    after = stamps(tmp_path)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"roar-50-std-s0.json", "examples-1-std-s0.json"}
    assert result.accuracies["smoe"] == first.accuracies["smoe"]
    assert list(result.examples["maps"]) == ["random", "smoe", "std"]
    # Fewer explainers, more examples and another order of the seeds are no other study either.
    assert run_roar_kar(**options, progress=False).accuracies == first.accuracies
    assert len(run_roar_kar(**{**options, "examples": 2}, progress=False).examples["images"]) == 2
    assert run_roar_kar(**{**options, "examples": 0}, progress=False).examples is None
    other = run_roar_kar(**{**options, "seeds": (1, 0)}, progress=False)
    assert other.accuracies["smoe"]["roar"][0.5][1] == first.accuracies["smoe"]["roar"][0.5][0]


def archive(path, seed):
    generator = np.random.default_rng(seed)
    parts = {f"x_{part}": generator.integers(0, 256, (count, 16, 16, 3), np.uint8) for part, count in SIZES.items()}
    labels = {f"y_{part}": np.arange(count) % 2 for part, count in SIZES.items()}
    np.savez(path, **parts, **labels)


SIZES = {"train": 20, "val": 4, "test": 10}


@pytest.mark.parametrize("study", [run_roar_kar, run_layer_masking])
def test_other_data_under_the_same_name_are_noticed(options, tmp_path, study):
    archive(tmp_path / "images.npz", 0)
    path = "lightning_saliency.data.modules.array_images.ArrayImagesDataModule"
    data = {"class_path": path, "init_args": {"path": str(tmp_path / "images.npz"), "batch_size": 10}}
    options = {**options, "data": data}
    if study is run_layer_masking:
        kept = ("data", "model", "epochs", "seeds", "trainer", "output")
        options = {**{name: options[name] for name in kept}, "statistics": ("std",), "fine_tuning_epochs": 1}
    study(**options, progress=False)
    archive(tmp_path / "images.npz", 1)
    from lightning_saliency.studies import specs

    specs._data.cache_clear()  # as in a new process
    with pytest.raises(StaleResultsError, match="other training"):
        study(**options, progress=False)


def test_files_that_the_model_names_are_part_of_what_it_is(options, tmp_path):
    file = tmp_path / "nets.py"
    body = "from lightning_saliency.networks import small_cnn\n\n\ndef net(num_classes):\n    return small_cnn(10)\n"
    file.write_text(body)
    model = {"model": f"{file}:net", "num_classes": 10}
    content = [training_fingerprint(RoarKarGrid(RoarKarConfig(**{**options, "model": model})).training)["content"]]
    file.write_text(body + "# changed\n")
    content.append(training_fingerprint(RoarKarGrid(RoarKarConfig(**{**options, "model": model})).training)["content"])
    assert list(content[0]["files"]) == ["model.init_args.model"]
    assert content[0]["data"] == content[1]["data"]
    assert content[0]["files"] != content[1]["files"]


class Silent(ImageClassifier):
    """Logs its accuracy under a name of its own."""

    def log(self, name, *arguments, **options):
        super().log(name.replace("test/accuracy", "test_acc"), *arguments, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": {"class_path": f"{__name__}.Silent", "init_args": MODEL}},
            "metric='test/accuracy', which Silent does",
        ),
        ({"fill": "gray"}, "gray"),
        ({"fill": [0.0, 0.0]}, "fill"),
    ],
)
def test_what_would_fail_after_the_training_is_said_before_it(options, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run_roar_kar(**{**options, **changes}, progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changes", [{"map_size": 0}, {"map_batch_size": -1}])
def test_sizes_out_of_range_are_said(options, changes):
    with pytest.raises(ValueError, match="whole numbers from 1"):
        RoarKarConfig(**{**options, **changes})


def test_the_weights_are_kept_before_testing_may_fail(options, tmp_path, monkeypatch):
    from lightning_saliency.studies.retraining import cells

    grid = RoarKarGrid(RoarKarConfig(**options))
    (cell,) = grid.unmasked()
    monkeypatch.setattr("pytorch_lightning.Trainer.test", lambda *arguments, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cell.function(**cell.arguments)
    kept = torch.load(tmp_path / "out" / "networks" / "unmasked-s0.pt", weights_only=True)
    assert kept.keys() == small_cnn(width=4).state_dict().keys()
    assert cells.train_unmasked is cell.function


def test_layer_masking_is_told_of_a_wrong_metric_before_it_trains(options, tmp_path):
    config = LayerMaskingConfig(
        data=DATA, model=MODEL, epochs=1, seeds=(0,), metric="accuracy", output=str(tmp_path / "out")
    )
    with pytest.raises(ValueError, match="Got metric='accuracy', which ImageClassifier does not log"):
        run_layer_masking(config, progress=False)
    assert not (tmp_path / "out").exists()
