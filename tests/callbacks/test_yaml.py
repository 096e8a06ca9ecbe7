"""Callbacks from YAML: explainers in every form, through LightningCLI and back out of the configuration it saves."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import lightning.pytorch
import lightning.pytorch.cli
import pytest
import pytorch_lightning as pl
import pytorch_lightning.cli
import torch
import yaml

from lightning_saliency.callbacks import (
    GroupCAMAugmentation,
    Hide,
    Mix,
    Protect,
    SaliencyAugmentation,
    SaliencyMonitor,
    SaliencyWriter,
)
from lightning_saliency.explainers import SMOE, ExplainerSpec, GroupCAM

RUN = {
    "trainer": {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False},
    "model": {
        "class_path": "lightning_saliency.classifier.ImageClassifier",
        "init_args": {"model": "small_cnn", "num_classes": 10},
    },
    "data": {"class_path": "lightning_saliency.data.DigitScenes", "init_args": {"train_size": 8}},
}
FORMS = [
    ("grad_cam", {"class_path": "grad_cam", "init_args": {}}),
    (
        "lightning_saliency.explainers.GroupCAM",
        {"class_path": "lightning_saliency.explainers.GroupCAM", "init_args": {}},
    ),
    ({"class_path": "group_cam"}, {"class_path": "group_cam", "init_args": {}}),
    ({"class_path": "group_cam", "init_args": {"groups": 4, "theta": None}}, None),
    ({"class_path": "lightning_saliency.explainers.GroupCAM", "init_args": {"groups": 4}}, None),
    ({"class_path": f"{__name__}.of_four_groups", "init_args": {"theta": 50.0}}, None),
]


def of_four_groups(model, theta=70.0):
    return GroupCAM(model, groups=4, theta=theta)


@pytest.fixture(params=[pl, lightning.pytorch], ids=lambda package: package.__name__)
def package(request):
    return request.param


def _callback(class_path: str, init_args: dict[str, Any], tmp_path, package=pl) -> Any:
    """The callback as LightningCLI builds it from a file, and again from the configuration that it would save."""
    callbacks = [{"class_path": f"lightning_saliency.callbacks.{class_path}", "init_args": init_args}]
    given = {**RUN, "trainer": {**RUN["trainer"], "callbacks": callbacks}}
    for _ in range(2):
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(given, sort_keys=False))
        cli = package.cli.LightningCLI(
            package.LightningModule,
            package.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            run=False,
            args=["--config", str(path)],
        )
        found = next(each for each in cli.trainer.callbacks if type(each).__name__ == class_path)
        given = yaml.safe_load(cli.parser.dump(cli.config))
    return found


@pytest.mark.parametrize(("given", "plain"), FORMS)
def test_a_guide_in_every_form(tmp_path, given, plain):
    found = _callback("SaliencyAugmentation", {"explainer": given, "film": {"num_images": 2}}, tmp_path)
    assert isinstance(found, SaliencyAugmentation)
    assert found.guide.spec.plain() == (plain or given)
    assert found._film.config.num_images == 2


@pytest.mark.parametrize(("given", "plain"), FORMS)
def test_views_in_every_form(tmp_path, given, plain):
    found = _callback("SaliencyMonitor", {"views": {"lovi": None, "mine": given, "fast_cam": None}}, tmp_path)
    assert isinstance(found, SaliencyMonitor)
    assert list(found.views) == ["lovi", "mine", "fast_cam"]
    assert found.views["lovi"] is None
    assert found.views["mine"].plain() == (plain or given)
    assert found.views["fast_cam"] == ExplainerSpec.parse("fast_cam")


@pytest.mark.parametrize("given", ["combined", "combined,grad_cam", "combined, grad_cam"])
def test_views_as_a_text(tmp_path, given, package):
    found = _callback("SaliencyMonitor", {"views": given}, tmp_path, package)
    assert list(found.views) == [name.strip() for name in given.split(",")]
    assert found.views["combined"] is None


def test_views_as_a_list_of_names(tmp_path, package):
    found = _callback("SaliencyMonitor", {"views": ["combined", "grad_cam"]}, tmp_path, package)
    assert found.views == {"combined": None, "grad_cam": ExplainerSpec.parse("grad_cam")}


@pytest.mark.parametrize(("given", "plain"), FORMS)
def test_a_writers_explainer_in_every_form(tmp_path, given, plain):
    found = _callback("SaliencyWriter", {"path": str(tmp_path), "explainer": given}, tmp_path, lightning.pytorch)
    assert isinstance(found, SaliencyWriter)
    assert found.explainer.plain() == (plain or given)


def test_the_preset_takes_the_other_settings(tmp_path, package):
    settings = {"groups": 8, "fast": True, "film": False, "seed": 3, "fill": "zero"}
    found = _callback("GroupCAMAugmentation", settings, tmp_path, package)
    assert isinstance(found, GroupCAMAugmentation)
    assert found.guide.spec.init_args == {"groups": 8, "fast": True, "gradients": False, "theta": None}
    assert (found.shown, found.seed, found.action.fill) == (False, 3, "zero")


BLURRED = {"class_path": "GaussianBlur", "init_args": {"kernel_size": 3}}


@pytest.mark.parametrize(
    ("given", "action"),
    [
        ("hide", Hide()),
        ({"class_path": "hide", "init_args": {"sigmas": 2.0, "fill": [0.1, 0.2]}}, Hide(sigmas=2.0, fill=[0.1, 0.2])),
        ({"class_path": "protect", "init_args": {"transform": BLURRED}}, Protect(BLURRED)),
        ({"class_path": "lightning_saliency.callbacks.Mix", "init_args": {"labels": "area"}}, Mix(labels="area")),
    ],
)
def test_an_action_in_every_form(tmp_path, package, given, action):
    settings = {"explainer": "smoe", "guide_network": "start", "reuse_epochs": "all", "keep_original": True}
    settings |= {"batch_norm": "original", "film": False}
    found = _callback("SaliencyAugmentation", {**settings, "action": given}, tmp_path, package)
    assert found.action == action
    assert (found.guide.network.which, found.reuse_epochs) == ("start", None)


def test_presets_take_their_own_settings_and_others(tmp_path, package):
    settings = {"explainer": "smoe", "share": 0.05, "start_epoch": 2, "film": False}
    tuned = _callback("MaskTune", settings, tmp_path, package)
    assert (tuned.action, tuned.start_epoch, tuned.shown) == (Hide(share=0.05), 2, False)
    placed = _callback("MaskTune", {"explainer": "smoe", "maps": "shortcut"}, tmp_path, package)
    assert (placed.action, placed.guide.needs_labels) == (Hide(sigmas=0.0), True)
    kept = _callback("KeepAugment", {"transform": "RandomErasing", "share": 0.1, "seed": 4}, tmp_path, package)
    assert (kept.action, kept.seed) == (Protect("RandomErasing", share=0.1), 4)


def test_a_whole_run_from_a_file(tmp_path, monkeypatch, package):
    """Monitor, augmentation, classifier and masked data in the CLI of each of Lightning's packages."""
    monkeypatch.chdir(tmp_path)
    ours = "lightning_saliency"
    scenes = {"train_size": 8, "val_size": 4, "test_size": 4, "size": 32, "batch_size": 4}
    masked = {
        "base": {"class_path": f"{ours}.DigitScenes", "init_args": scenes},
        "saliency": "smoe",
        "model": {"class_path": f"{ours}.networks.small_cnn"},
        "fraction": 0.2,
        "fill": 0.0,
    }
    trainer = {
        **RUN["trainer"],
        "enable_checkpointing": True,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "logs", "name": "run"}},
        "callbacks": [
            {"class_path": f"{ours}.SaliencyMonitor", "init_args": {"num_images": 2}},
            {"class_path": f"{ours}.GroupCAMAugmentation", "init_args": {"groups": 2, "film": {"num_images": 2}}},
        ],
    }
    config = {"trainer": trainer, "model": RUN["model"]}
    config["data"] = {"class_path": f"{ours}.RoarKarDataModule", "init_args": masked}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    cli = package.cli.LightningCLI(
        package.LightningModule,
        package.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        args=["fit", "--config", "run.yaml"],
    )
    assert type(cli.trainer) is package.Trainer
    assert cli.trainer.global_step == 2
    assert {"saliency/drift", "group_cam/kept_share", "val/accuracy"} <= set(cli.trainer.callback_metrics)
    assert list(tmp_path.glob("logs/run/version_0/saliency/overview/*.png"))
    # The masked data module and its base keep their own hyperparameters, beside those of the module.
    assert cli.datamodule.hparams["roar_kar"]["fraction"] == 0.2
    assert {name: cli.datamodule.hparams[name] for name in scenes} == scenes
    assert "model" not in cli.datamodule.hparams
    # And the checkpoint says by which class and package it is read again.
    path = cli.trainer.checkpoint_callback.best_model_path
    assert torch.load(path)["hyper_parameters"]["_instantiator"] == f"{package.__name__}.cli.instantiate_module"
    assert type(package.LightningModule.load_from_checkpoint(path)) is type(cli.model)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"class_path": "group_cam", "init_args": {"grups": 4}}, "Allowed are layer, groups, theta"),
        ({"class_path": "groupcam"}, "Allowed are smoe, grad_cam"),
        ({"name": "group_cam"}, "Allowed are class_path"),
    ],
)
def test_mistakes_say_what_is_allowed(tmp_path, capsys, given, message):
    with pytest.raises(SystemExit):
        _callback("SaliencyAugmentation", {"explainer": given}, tmp_path)
    assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        _callback("SaliencyMonitor", {"views": {"mine": given}}, tmp_path)
    assert message in capsys.readouterr().err


def test_an_explainer_that_is_already_built_is_a_writers_alone(tmp_path):
    from lightning_saliency.networks import small_cnn

    built = SMOE(small_cnn())
    assert SaliencyWriter(tmp_path, built).explainer is built
    with pytest.raises(ValueError, match="already built"):
        SaliencyAugmentation(built)
    with pytest.raises(ValueError, match="already built"):
        SaliencyMonitor(views={"mine": built})


@pytest.mark.parametrize(
    "callback",
    [
        GroupCAMAugmentation(economy=True),
        SaliencyAugmentation({"class_path": "fast_cam", "init_args": {"cam": "gradcam"}}),
        SaliencyAugmentation(GroupCAM),
        SaliencyMonitor(views={"lovi": None, "mine": {"class_path": "group_cam", "init_args": {"groups": 4}}}),
        SaliencyWriter("maps", {"class_path": "group_cam", "init_args": {"groups": 4}}),
    ],
    ids=lambda callback: type(callback).__name__,
)
def test_callbacks_survive_pickle_and_copies(callback):
    """As other processes need them, of ddp_spawn or of Ray."""
    for again in (pickle.loads(pickle.dumps(callback)), copy.deepcopy(callback)):
        assert again.state_key == callback.state_key
        if isinstance(callback, SaliencyAugmentation):
            assert again.guide.spec == callback.guide.spec
        elif isinstance(callback, SaliencyMonitor):
            assert again.views == callback.views
        else:
            assert again.explainer == callback.explainer


@pytest.mark.parametrize("given", [BLURRED, {"class_path": "torchvision.transforms.v2.RandomErasing"}, "RandomErasing"])
def test_a_presets_transform_in_every_form(tmp_path, package, given):
    assert _callback("KeepAugment", {"transform": given}, tmp_path, package).action == Protect(given, share=0.25)


OUTPUTS = [("logits", "logits"), ("heads.color", "heads.color"), (1, 1), ("torch.sum", torch.sum)]


@pytest.mark.filterwarnings("error:.*serialize")
@pytest.mark.parametrize(("given", "output"), OUTPUTS)
def test_where_the_logits_are(tmp_path, package, given, output):
    watching = _callback("SaliencyMonitor", {"views": "lovi", "output": given}, tmp_path, package)
    assert watching._watching.predictions.output == output
    changing = _callback("SaliencyAugmentation", {"explainer": "grad_cam", "output": given}, tmp_path, package)
    assert changing.guide.spec.init_args["output"] == given
