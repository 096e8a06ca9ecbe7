"""ROAR and KAR studies: cells, seeds, resumption, plan, scores and the paper's Table 2."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl
import scipy.stats
import torch

from lightning_saliency.classifier import ImageClassifier
from lightning_saliency.data import DigitScenes, SaliencyStore
from lightning_saliency.data.masked.module import RoarKarDataModule
from lightning_saliency.explainers import ExplainerSpec
from lightning_saliency.networks import small_cnn
from lightning_saliency.reports.tables import Estimate
from lightning_saliency.studies import StaleResultsError
from lightning_saliency.studies.engine.run import CellError
from lightning_saliency.studies.estimates import mean_interval
from lightning_saliency.studies.isolation import seeded
from lightning_saliency.studies.retraining.cells import MapSource, build_explainer_of, train_unmasked
from lightning_saliency.studies.retraining.training import fit_and_test, network_of
from lightning_saliency.studies.roar_kar.grid import RoarKarGrid
from lightning_saliency.studies.roar_kar.run import (
    RoarKarConfig,
    RoarKarResult,
    combined_scores,
    plan_roar_kar,
    quartile_shares,
    run_roar_kar,
    weights_from_scores,
)
from lightning_saliency.studies.specs import as_spec, build, build_module, given_arguments
from tests.paths import TABLES

SIZES = {"train_size": 20, "val_size": 10, "test_size": 20, "size": 16, "batch_size": 10}
DATA = {"class_path": "lightning_saliency.data.DigitScenes", "init_args": SIZES}
MODEL = {"model": "small_cnn", "num_classes": 10, "model_options": {"width": 4}}
IN_TABLE_5 = {  # Table 2's names that are spelled otherwise in Table 5
    "Integrated Grad [26]": "Integrated Grad.",
    "Gradient [22]": "Gradient",
    "Guided Backprop [25]": "Guided Backprop",
    "GradCAM++ [2]": "GradCAM++",
    "Trunc Normal Ent + Layer Weights [1,1,1,1,1]": "Trunc Normal Ent + Weights [1,…,1]",
    "SMOE Scale + Layer Weights [1,1,1,1,1]": "SMOE Scale + Layer Weights [1,…,1]",
    "SMOE Scale + Layer Weights [1,2,3,4,5]": "SMOE Scale + Layer Weights [1,…,5]",
    "Normal Std + Prior Layer Weights": "Normal Std + Prior L. Weights",
    "Trunc Normal Ent + Prior Layer Weights": "Trunc Normal Ent + Prior L. Weights",
    "Integrated Grad -w- SmoothGrad Sq.": "Integrated Grad. -w- SmoothGrad Sq.",
    "SMOE Scale + Prior Wts. -w- GradCAM++": "SMOE Scale -w- GradCAM++",
}
# Table 2 prints each of these rows with the other's SUM.
EXCHANGED = {"Integrated Grad [26]": "Guided Backprop [25]", "Guided Backprop [25]": "Integrated Grad [26]"}


@pytest.fixture
def options(tmp_path):
    return {
        "data": DATA,
        "model": MODEL,
        "explainers": {"smoe": {"class_path": "smoe", "init_args": {"weights": "ramp"}}, "cam": "grad_cam"},
        "source": {"cam": "stored"},
        "epochs": 1,
        "fractions": (0.1, 0.5),
        "seeds": (0,),
        "trainer": {"accelerator": "cpu"},
        "output": str(tmp_path / "out"),
        "examples": 2,
    }


def test_a_study_from_plan_to_page(options, tmp_path):
    plan = plan_roar_kar(**options)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["costs"]
    assert (plan.cells, plan.done, plan.epochs) == (1 + 2 + 2 * 2 * 3, 0, 13)
    # Training and testing: 40 images a cell; SMOE one pass more, the random map none; 40 maps stored.
    assert plan.passes == 40 + 4 * 40 * 2 + 4 * 40 + 4 * 40 + 40
    assert plan.storage == 4 * sum(p.numel() for p in small_cnn(width=4).parameters()) + 40 * 16 * 16
    assert plan.seconds > 0
    assert {row.measured for row in plan.rows} == {False}

    result = run_roar_kar(**options, progress=False)
    assert list(result.accuracies) == ["random", "smoe", "cam"]
    folder = tmp_path / "out"
    assert len(list((folder / "cells").iterdir())) == 1 + 2 + 12 + 4
    record = json.loads((folder / "cells" / "kar-10-smoe-s0.json").read_text())
    assert result.accuracies["smoe"]["kar"][0.1] == [record["result"]["accuracy"]]
    assert len(SaliencyStore.open(folder / "maps" / "cam-s0" / "train")) == 20

    # A second call computes nothing; one cell that is missing is computed alone, and gives the same.
    stamps = {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    (folder / "cells" / "roar-50-cam-s0.json").unlink()
    again = run_roar_kar(**options, progress=False)
    assert again == result
    changed = {p.name for p in (folder / "cells").iterdir() if stamps.get(p.name) != p.stat().st_mtime_ns}
    assert changed == {"roar-50-cam-s0.json"}

    names = {path.name for path in result.save()}
    assert {"report.html", "table.md", "accuracies.csv", "scores.csv", "differences.csv", "masks_2.png"} <= names
    assert len((folder / "accuracies.csv").read_text().splitlines()) == 1 + 1 + 12
    plan = plan_roar_kar(**options)
    assert (plan.done, plan.seconds) == (15, 0)
    assert {row.measured for row in plan.rows} == {True}
    assert "batches |" not in str(plan)

    # Other options need another folder.
    with pytest.raises(StaleResultsError, match="other training"):
        run_roar_kar(**{**options, "epochs": 2}, progress=False)
    with pytest.raises(StaleResultsError, match="other mask"):
        run_roar_kar(**options, fill="blur", progress=False)

    # What was lost of a network or of stored maps is made again.
    (folder / "networks" / "unmasked-s0.pt").unlink()
    (folder / "maps" / "cam-s0" / "test.npy").unlink()
    assert run_roar_kar(**options, progress=False) == result
    assert (folder / "networks" / "unmasked-s0.pt").exists()


def test_the_networks_of_one_seed_begin_alike_and_see_the_same_images(tmp_path):
    seen = {}

    class Watch(pl.Callback):
        def __init__(self, name):
            self.name = name

        def on_train_start(self, trainer, pl_module):
            seen[self.name] = {"weights": [p.detach().clone() for p in pl_module.parameters()], "order": []}

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen[self.name]["order"] += batch["index"].tolist()

    grid = RoarKarGrid(
        RoarKarConfig(data=DATA, model=MODEL, explainers=["gradient_smoothgrad_sq"], output=str(tmp_path))
    )
    found = train_unmasked(grid.training, 3, str(tmp_path / "net.pt"))
    spec = ExplainerSpec.parse("gradient_smoothgrad_sq").with_options(samples=2)
    source = MapSource(spec, str(tmp_path / "net.pt"), found["weights"])
    for name, seed, masked in (("whole", 3, False), ("masked", 3, True), ("other", 4, True)):
        with seeded(seed):
            module = build_module(grid.training.model)
            data = build(DATA)
            if masked:
                data = RoarKarDataModule(data, build_explainer_of(grid.training, source), "kar", 0.3)
            fit_and_test(module, data, 2, seed, {"accelerator": "cpu"}, (Watch(name),))
    assert len(seen["whole"]["order"]) == 40
    assert seen["whole"]["order"] == seen["masked"]["order"] != seen["other"]["order"]
    assert seen["whole"]["order"][:20] != seen["whole"]["order"][20:]
    pairs = list(zip(seen["whole"]["weights"], seen["masked"]["weights"], seen["other"]["weights"], strict=True))
    assert all(torch.equal(first, second) for first, second, _ in pairs)
    assert not all(torch.equal(first, third) for first, _, third in pairs)


def test_seeding_leaves_the_generators_as_they_were():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    kept = os.environ.get("PL_GLOBAL_SEED")

    def fail():
        with seeded(1):
            torch.rand(7)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(torch.rand(3), expected)
    assert os.environ.get("PL_GLOBAL_SEED") == kept


def test_maps_of_a_given_network_serve_all_seeds(options, tmp_path):
    torch.save(small_cnn(width=4).state_dict(), tmp_path / "net.pt")
    config = RoarKarConfig(**{**options, "seeds": (0, 1), "checkpoint": str(tmp_path / "net.pt"), "source": "stored"})
    grid = RoarKarGrid(config)
    weights = grid.weights({})
    assert weights[0] == weights[1]
    assert {cell.name for cell in grid.stores(weights)} == {
        f"maps-{name}-{stage}" for name in ("smoe", "cam", "random-s0", "random-s1") for stage in ("train", "test")
    }
    own = RoarKarGrid(RoarKarConfig(**{**options, "seeds": (0, 1)}))
    assert {cell.name for cell in own.stores({})} == {
        f"maps-cam-s{seed}-{stage}" for seed in (0, 1) for stage in ("train", "test")
    }


def test_other_weights_than_the_studys_are_refused(options, tmp_path):
    run_roar_kar(**{**options, "explainers": {}, "source": "auto", "fractions": (0.5,), "examples": 0}, progress=False)
    path = tmp_path / "out" / "networks" / "unmasked-s0.pt"
    torch.save(small_cnn(width=4).state_dict(), path)
    with pytest.raises(CellError, match="Got other weights in"):
        run_roar_kar(
            **{**options, "explainers": {}, "source": "auto", "fractions": (0.5, 0.7), "examples": 0}, progress=False
        )


def test_a_file_of_somebody_else_is_refused_before_the_training(options, tmp_path, monkeypatch):
    path = tmp_path / "out" / "networks" / "unmasked-s0.pt"
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    fitted = []
    monkeypatch.setattr("lightning_saliency.studies.retraining.cells.fit_and_test", lambda *a, **k: fitted.append(a))
    with pytest.raises(CellError, match=r"unmasked-s0\.pt, which was not written here"):
        run_roar_kar(**{**options, "explainers": {}, "source": "auto", "examples": 0}, progress=False)
    assert not fitted
    assert path.read_text() == "precious"


@pytest.mark.thorough
@pytest.mark.slow
def test_killed_ten_times_over_a_study_ends_as_one_left_alone(options, tmp_path):
    """With real trainings: a study in processes of its own, killed at random moments."""
    options = {**options, "explainers": {"cam": "grad_cam"}, "examples": 0}
    alone = run_roar_kar(**{**options, "output": str(tmp_path / "alone")}, progress=False)
    options["output"] = str(tmp_path / "killed")
    script = tmp_path / "study.py"
    script.write_text(
        "import json, sys\n"
        "from lightning_saliency.studies.roar_kar.run import run_roar_kar\n"
        "print('ready', flush=True)\n"
        "run_roar_kar(**json.loads(sys.argv[1]), progress=False)\n"
    )
    moments, killed = random.Random(1), 0
    for _ in range(10):
        study = subprocess.Popen([sys.executable, script, json.dumps(options)], stdout=subprocess.PIPE)
        study.stdout.readline()
        time.sleep(moments.uniform(0.1, 1.0))
        study.kill()
        killed += study.wait() == -signal.SIGKILL
        study.stdout.close()
    assert killed >= 5
    assert run_roar_kar(**options, progress=False).accuracies == alone.accuracies


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fractions": (10, 30)}, "the fraction 10"),
        ({"modes": ("keep",)}, r"modes=\('keep',\)"),
        ({"seeds": (1, 1)}, "some are equal"),
        ({"explainers": ["grandcam"]}, "the explainer 'grandcam'"),
        ({"source": {"smoe": "disk"}}, "source={'smoe': 'disk'}"),
        ({"source": {"smoa": "stored"}}, "source={'smoa': 'stored'}"),
        ({"explainers": {"random": "smoe"}}, "under the name 'random'"),
        ({"source": "disk"}, "source='disk'"),
        ({"epochs": 0}, "epochs=0"),
        ({"trainer": {"max_epochs": 3}}, "max_epochs"),
        ({"confidence": 95}, "confidence=95"),
    ],
)
def test_options_out_of_range_are_said(options, changes, message):
    with pytest.raises(ValueError, match=message):
        RoarKarConfig(**{**options, **changes})


def test_what_an_explainer_does_not_take_is_said_before_anything_is_trained(options, tmp_path):
    with pytest.raises(TypeError, match="Allowed are statistic"):
        run_roar_kar(
            **{**options, "explainers": {"smoe": {"class_path": "smoe", "init_args": {"statistics": "std"}}}},
            progress=False,
        )
    assert not (tmp_path / "out").exists()


def test_a_strategy_that_would_run_the_whole_command_again_is_replaced(options):
    assert RoarKarConfig(**{**options, "trainer": {"strategy": "ddp"}}).trainer == {"strategy": "ddp_spawn"}


def test_sources_are_chosen_by_cost(options):
    config = RoarKarConfig(
        **{
            **options,
            "explainers": {"smoe": {}, "sise": {}, "quick": {"class_path": "sise", "init_args": {"mu": 0.5}}},
            "source": "auto",
        }
    )
    assert [name for name in config.explainers if config.stored(name)] == ["sise", "quick"]
    source = {"sise": "online", "smoe": "stored"}
    online = RoarKarConfig(**{**options, "explainers": ["sise", "smoe"], "source": source})
    assert [name for name in online.explainers if online.stored(name)] == ["smoe"]


def test_objects_become_plain_data():
    spec = as_spec(DigitScenes(train_size=12, size=16))
    assert spec["class_path"] == "lightning_saliency.data.modules.digit_scenes.DigitScenes"
    assert json.loads(json.dumps(spec)) is not None
    assert build(spec).sizes["train"] == 12
    assert spec == as_spec({"class_path": "DigitScenes", "init_args": {"size": 16, "train_size": 12}})
    assert given_arguments(spec) == {"train_size": 12, "size": 16}
    assert (
        as_spec({"class_path": "ImageFolderDataModule", "init_args": {"root": Path("a")}})["init_args"]["root"] == "a"
    )
    module = build(as_spec(ImageClassifier("small_cnn", 10, model_options={"width": 4})))
    assert network_of(module, None) is module.model
    assert network_of(module, "") is module
    with pytest.raises(TypeError, match="Got a Linear"):
        as_spec(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="cannot be built again"):
        as_spec(ImageClassifier(small_cnn(), 10))
    with pytest.raises(TypeError, match="Got a device among"):
        as_spec({"class_path": "DigitScenes", "init_args": {"size": torch.device("cpu")}})
    with pytest.raises(ValueError, match="beside class_path"):
        as_spec({"class_path": "DigitScenes", "size": 16})
    with pytest.raises(TypeError, match=r"^Got 'sise' for DigitScenes: .* drop or rename it\. Did you mean 'size'\?$"):
        as_spec({"class_path": "DigitScenes", "init_args": {"train_size": 12, "sise": 16}})
    with pytest.raises(ValueError, match="cannot be imported"):
        build({"class_path": "lightning_saliency.data.NoScenes"})
    with pytest.raises(TypeError, match="Allowed are train_size"):
        build({"class_path": "DigitScenes", "init_args": {"sizes": 3}})
    with pytest.raises(ValueError, match="no such submodule"):
        network_of(module, "backbone")


def test_a_metric_that_is_not_logged_is_said():
    with seeded(0), pytest.raises(ValueError, match="Got metric='test/top5', which ImageClassifier does not log"):
        fit_and_test(
            build_module(as_spec(MODEL, ImageClassifier)), build(DATA), 0, 0, {"accelerator": "cpu"}, (), "test/top5"
        )


def result_of(accuracies, seeds=(0,)):
    return RoarKarResult("net", ("roar", "kar"), (0.1, 0.3, 0.5, 0.7, 0.9), seeds, accuracies, [0.76] * len(seeds))


def test_table_2_follows_from_table_5():
    if not TABLES.is_dir():
        pytest.skip("the papers' tables are not here")
    with (TABLES / "smoe_table5.csv").open(encoding="utf-8", newline="") as file:
        accuracies = {
            "random" if row["method"] == "Rand" else row["method"]: {
                mode: {share / 100: [float(row[f"{mode}_{share}"]) / 100] for share in (10, 30, 50, 70, 90)}
                for mode in ("kar", "roar")
            }
            for row in csv.DictReader(file)
        }
    with (TABLES / "smoe_table2.csv").open(encoding="utf-8", newline="") as file:
        printed = {
            row["method"]: {key: float(row[key]) for key in ("kar", "roar", "sum")} for row in csv.DictReader(file)
        }
    result = result_of(accuracies)
    assert len(printed) == 14
    values = result.table().values["net"]
    half_a_digit = 0.005 + 1e-9
    for name, row in printed.items():
        own = values[IN_TABLE_5.get(name, name)]
        assert own["kar"].value == pytest.approx(row["kar"], abs=half_a_digit)
        assert own["roar"].value == pytest.approx(row["roar"], abs=half_a_digit)
        assert own["sum"].value == pytest.approx(printed[EXCHANGED.get(name, name)]["sum"], abs=half_a_digit)
    assert values["Integrated Grad."]["sum"].value == pytest.approx(0.0395)
    assert values["Guided Backprop"]["sum"].value == pytest.approx(0.0277)
    assert values["random"]["sum"].value == pytest.approx(0)
    for name, own in values.items():
        # The paper's SUM: "subtracting the sum of the ROAR scores from the sum of the KAR scores" (Sec. 3.2).
        sums = [
            sum(one[0] for one in accuracies[which]["kar"].values())
            - sum(one[0] for one in accuracies[which]["roar"].values())
            for which in (name, "random")
        ]
        assert own["sum"].value == pytest.approx(sums[0])
        assert own["over_random"].value == pytest.approx(sums[0] - sums[1])


def test_intervals_are_over_seeds_and_differences_are_paired():
    def constant(values):
        return {0.1: values, 0.3: values, 0.5: values, 0.7: values, 0.9: values}

    accuracies = {
        "random": {"kar": constant([0.5, 0.6, 0.7]), "roar": constant([0.5, 0.6, 0.7])},
        "smoe": {"kar": constant([0.6, 0.7, 0.8]), "roar": constant([0.4, 0.5, 0.6])},
    }
    found = result_of(accuracies, (0, 1, 2)).combined("smoe")
    assert found.kar.value == pytest.approx(3.5)
    assert found.kar.high - found.kar.low > 1
    assert found.over_random.value == pytest.approx(1.0)
    assert found.over_random.high - found.over_random.low == pytest.approx(0, abs=1e-9)
    alone = RoarKarResult("net", ("kar",), (0.1, 0.3, 0.5, 0.7, 0.9), (0, 1, 2), accuracies, [0.8] * 3)
    assert [column.key for column in alone.table().columns] == ["kar"]
    with pytest.raises(ValueError, match="of kar alone"):
        alone.combined("smoe")


def test_intervals_over_seeds_are_students():
    values = [0.71, 0.74, 0.69, 0.75]
    low, high = scipy.stats.t.interval(0.9, 3, sum(values) / 4, scipy.stats.sem(values))
    found = mean_interval(values, 0.9)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.count == 4
    assert mean_interval([0.5]) == Estimate(0.5, -math.inf, math.inf, 1)
    with pytest.raises(ValueError, match="0 values"):
        mean_interval([])


def test_scores_refuse_what_cannot_be_compared():
    with pytest.raises(ValueError, match="2 accuracies of KAR and 1 of ROAR"):
        combined_scores([0.5, 0.6], [0.5])
    with pytest.raises(ValueError, match=r"an accuracy of 76\.2"):
        combined_scores([76.2], [0.5])
    with pytest.raises(ValueError, match="a score in every condition"):
        quartile_shares({"a": [1.0], "b": [1.0, 2.0]})
    with pytest.raises(ValueError, match="one score for each"):
        weights_from_scores([[0.1], [0.1, 0.2]])
    with pytest.raises(ValueError, match="more than a random one"):
        weights_from_scores([[-0.1, 0.0]])


def test_a_plan_by_the_rates_of_other_machines_needs_neither_data_nor_time(options, tmp_path):
    elsewhere = {
        "data": {
            "class_path": "lightning_saliency.data.ImageFolderDataModule",
            "init_args": {"train_dir": "nowhere", "val_dir": "nowhere", "image_size": 16},
        },
        "rates": {"train": 50.0, "test": 200.0, "train_images": 1000, "test_images": 100, "pixels": 16 * 16},
        "epochs": 3,
        "engine": "ray",
        "workers": 4,
    }
    plan = plan_roar_kar(**{**options, **elsewhere})
    rows = {row.part: row for row in plan.rows}
    cell = 3 * 1000 / 50 + 100 / 200
    assert rows["networks on whole images"].seconds == cell
    assert rows["networks masked by random"].seconds == 4 * cell
    assert rows["networks masked by smoe"].seconds == pytest.approx(4 * (cell + 3100 / 200))
    assert rows["maps of cam, train images"].seconds == pytest.approx(1000 / 200)
    assert rows["maps of cam, train images"].storage == 1000 * 16 * 16
    assert rows["networks masked by cam, stored maps"].seconds == 4 * cell
    # Counted as a plan from timings counts.
    assert (plan.cells, plan.epochs) == (1 + 2 + 4 * 3, 3 * 13)
    assert plan.seconds == pytest.approx(sum(row.seconds for row in plan.rows) / 4)
    assert "with 4 workers; estimated from the rates given" in str(plan)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rates", [{"train": 1.0}, {"train": 0, "test": 1, "train_images": 1, "test_images": 1}])
def test_rates_that_cannot_be(options, rates):
    with pytest.raises((TypeError, ValueError), match=r"test_images|train=0"):
        plan_roar_kar(**options, rates=rates)
