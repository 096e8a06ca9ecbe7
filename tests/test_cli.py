"""The commands, as a person types them."""

import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import lightning_saliency
from lightning_saliency.cli import main
from lightning_saliency.cli.main import COMMANDS
from lightning_saliency.pictures.film import Film
from tests.paths import CONFIGS


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for command in ("fit", "validate", "test", "explain", "evaluate", "sanity-check", "layers"):
        assert command in printed


def test_help_and_version_import_neither_torch_nor_lightning():
    """They are imported by the commands that compute, and take seconds."""
    for arguments in (["--help"], ["--version"], ["explane"]):
        code = f"import sys; from lightning_saliency.cli import main; main({arguments}); print(*sys.modules)"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert not {"torch", "pytorch_lightning", "matplotlib"} & set(ended.stdout.split())


def test_what_the_package_exports_is_imported_where_it_is_asked_for():
    names = [name for names in lightning_saliency._ROOMS.values() for name in names]
    assert sorted(names) == sorted(lightning_saliency.__all__)
    assert set(names) <= set(dir(lightning_saliency))
    assert all(callable(getattr(lightning_saliency, name)) for name in names)
    with pytest.raises(AttributeError, match="no attribute 'SaliencyMonitr'"):
        _ = lightning_saliency.SaliencyMonitr


def test_unknown_commands_and_no_command(capsys):
    assert main(["explode"]) == 2
    assert "no command 'explode'" in capsys.readouterr().err
    assert main([]) == 2


def test_a_mistyped_command_is_told_the_one_meant(capsys):
    for typed, meant in (("explane", "explain"), ("sanity_check", "sanity-check"), ("writemaps", "write-maps")):
        assert main([typed]) == 2
        assert f"did you mean '{meant}'?" in capsys.readouterr().err


def test_the_module_is_the_command(monkeypatch, capsys):
    for arguments, text in ((["--version"], lightning_saliency.__version__), (["--help"], "write-maps")):
        monkeypatch.setattr("sys.argv", ["lightning_saliency", *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("lightning_saliency", run_name="__main__")
        assert ended.value.code == 0
        assert text in capsys.readouterr().out


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_of_every_command_fits_80_columns(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "--config" in printed
    if command not in ("fit", "validate", "test"):  # Lightning's own text
        assert max(map(len, printed.splitlines())) <= 80
        assert "`" not in printed
    assert main(["--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_flags_may_be_spelled_with_dashes(capsys):
    for spelled in ("--num-classes", "--num_classes"):
        assert main(["layers", "small_cnn", spelled, "7", "--size", "32"]) == 0
        assert "Scales of small_cnn at 32×32" in capsys.readouterr().out


def test_layers_takes_a_configuration(tmp_path, capsys):
    config = tmp_path / "layers.yaml"
    config.write_text(yaml.safe_dump({"model": "resnet18", "size": [64, 96]}))
    assert main(["layers", "--config", str(config)]) == 0
    assert "64×96" in capsys.readouterr().out
    assert main(["layers"]) == 2
    assert "Got no model" in capsys.readouterr().err


def test_layers_prints_the_scales(capsys):
    assert main(["layers", "resnet18", "--size", "64"]) == 0
    printed = capsys.readouterr().out
    for word in ("module", "read", "grid", "channels", "layout", "maxpool", "layer2", "layer3", "layer4", "avgpool"):
        assert word in printed
    assert "32" in printed


def test_layers_of_an_unknown_network(capsys):
    assert main(["layers", "resnet19"]) == 2
    assert "resnet19" in capsys.readouterr().err


def test_explain_writes_the_pictures(tmp_path, photo, capsys):
    output = tmp_path / "out"
    arguments = ["explain", "--model", "small_cnn", "--num-classes", "10", "--resize", "64", "--crop", "64"]
    assert main([*arguments, "--output", str(output), str(photo)]) == 0
    assert sorted(path.name for path in output.glob("*.png")) == [
        "photo_combined.png",
        "photo_lovi.png",
        "photo_sheet.png",
    ]
    assert np.asarray(Image.open(output / "photo_lovi.png")).shape == (64, 64, 3)


def test_an_untrained_network_is_warned_of(tmp_path, photo, capsys):
    from lightning_saliency.networks import build_network

    torch.save(build_network("small_cnn", 10).state_dict(), tmp_path / "weights.pth")
    file = tmp_path / "net.py"
    file.write_text(
        "import torch\nfrom lightning_saliency.networks import small_cnn\n\n"
        "def fixed(num_classes):\n    torch.manual_seed(0)\n    return small_cnn(num_classes)\n\n"
        "def drawn(num_classes):\n    return small_cnn(num_classes)\n"
    )
    arguments = ["--num-classes", "10", "--resize", "64", "--crop", "64", "--output", str(tmp_path / "out"), str(photo)]
    for network, warned in (
        (["--model", "small_cnn"], True),
        (["--model", "small_cnn", "--checkpoint", str(tmp_path / "weights.pth")], False),
        (["--model", f"{file}:drawn"], True),
        (["--model", f"{file}:fixed"], False),  # it may have read its weights from a file
    ):
        assert main(["explain", *network, *arguments]) == 0
        assert ("UNTRAINED" in capsys.readouterr().err) == warned


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["explain", "--modle", "small_cnn", "x.png"], "model"),
        (["explain", "--model", "small_cnn", "--explainrs", "smoe", "x.png"], "explainers"),
        (["evaluate", "--limits", "2"], "limit"),
        (["evaluate", "--metrics.toleranses", "[1]"], "metrics.tolerances"),
        (["film", "runs", "--strp", "x.png"], "strip"),
        (["layers", "small_cnn", "--num-clases", "3"], "num_classes"),
        (["fit", "--config", str(CONFIGS / "digit_scenes.yaml"), "--trainer.maxepochs", "3"], "trainer.max_epochs"),
    ],
)
def test_a_mistyped_option_is_told_the_one_meant(arguments, meant, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert f"Did you mean '{meant}'?" in capsys.readouterr().err


def test_a_mistyped_option_in_a_file_is_told_the_one_meant(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text("modle: small_cnn\n")
    with pytest.raises(SystemExit):
        main(["layers", "--config", str(path)])
    assert "Did you mean 'model'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "meant"),
    [
        (["--explainers", "fastcam"], "fast_cam"),
        (["--explainers", "rise", "--explainers.rise.init_args.mask", "4"], "masks"),
        (["--statistic", "smoe-scal"], "smoe_scale"),
        (["--pictures", "lovy"], "lovi"),
        (["--weights", "rmap"], "ramp"),
        (["--model", "restnet18"], "resnet18"),
        (["--model", "smallcnn"], "small_cnn"),
    ],
)
def test_a_mistyped_name_is_told_the_one_meant(photo, capsys, changes, meant, tmp_path):
    arguments = ["explain", "--model", "small_cnn", "--num-classes", "10", "--resize", "32", "--crop", "32"]
    assert main([*arguments, "--output", str(tmp_path / "out"), *changes, str(photo)]) == 2
    assert f"Did you mean {meant!r}?" in capsys.readouterr().err


def test_explain_with_explainers_and_targets(tmp_path, photo):
    output = tmp_path / "out"
    arguments = ["explain", "--model", "small_cnn", "--num-classes", "10", "--resize", "64", "--crop", "64"]
    arguments += ["--explainers", "smoe_scale,fast_cam,group_cam", "--output", str(output)]
    assert main([*arguments, "--targets", "2,7", str(photo)]) == 0
    names = {path.name for path in output.iterdir()}
    for explainer in ("smoe_scale", "fast_cam", "group_cam"):
        for target in (2, 7):
            assert {f"photo_{explainer}_{target}.png", f"photo_{explainer}_{target}_overlay.png"} <= names
    # The image and three explainers beside one another, two targets below one another.
    sheet = np.asarray(Image.open(output / "photo_sheet.png"))
    assert sheet.shape[1] == 4 * 66 - 2
    assert sheet.shape[0] == 2 * (16 + 64) + 2
    two, seven = (np.asarray(Image.open(output / f"photo_fast_cam_{target}.png")) for target in (2, 7))
    assert (two != seven).any()


def test_explain_takes_folders_whole_images_and_checkpoints(tmp_path, photo):
    from lightning_saliency.networks import build_network

    checkpoint = tmp_path / "weights.pth"
    torch.save(build_network("small_cnn", 4).state_dict(), checkpoint)
    output = tmp_path / "out"
    arguments = ["explain", "--model", "small_cnn", "--num-classes", "4", "--checkpoint", str(checkpoint)]
    arguments += ["--resize", "48", "--crop", "0", "--weights", "1,2,3,4", "--statistic", "std"]
    assert main([*arguments, "--output", str(output), str(tmp_path)]) == 0
    assert np.asarray(Image.open(output / "photo_lovi.png")).shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["missing.png"], "missing.png"),
        (["--layers", "stage9"], "stage9"),
        (["--weights", "1,2"], "2"),
        (["--checkpoint", "missing.pth"], "missing.pth"),
        (["--explainers", "magic"], "'magic'"),
        (["--explainers", "fast_cam", "--targets", "10"], "classes, 0 to 9"),
    ],
)
def test_explain_says_what_is_wrong(photo, capsys, changes, message, tmp_path):
    arguments = ["explain", "--model", "small_cnn", "--num-classes", "10", "--resize", "64", "--crop", "64"]
    assert main([*arguments, "--output", str(tmp_path / "out"), *changes, str(photo)]) == 2
    assert message in capsys.readouterr().err


def test_a_text_file_is_no_image(tmp_path, capsys):
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    assert main(["explain", "--model", "small_cnn", str(text)]) == 2
    assert "notes.png" in capsys.readouterr().err


@pytest.mark.slow
def test_fit_validate_and_test_from_yaml_alone(tmp_path):
    pytest.importorskip("sklearn")
    config = {
        "seed_everything": 1,
        "trainer": {
            "max_epochs": 1,
            "accelerator": "cpu",
            "default_root_dir": str(tmp_path),
            "enable_progress_bar": False,
            "callbacks": [
                {
                    "class_path": "lightning_saliency.callbacks.SaliencyMonitor",
                    "init_args": {"weights": [1, 2, 3, 4], "views": ["lovi", "scales"], "num_images": 2},
                },
                {
                    "class_path": "lightning_saliency.callbacks.SaliencyMonitor",
                    "init_args": {"stage": "test", "name": "tested"},
                },
            ],
        },
        "model": {
            "class_path": "lightning_saliency.classifier.ImageClassifier",
            "init_args": {"model": "small_cnn", "num_classes": 10},
        },
        "data": {
            "class_path": "lightning_saliency.data.DigitScenes",
            "init_args": {"train_size": 64, "val_size": 32, "test_size": 32, "batch_size": 16},
        },
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(path)]) == 0
    run = tmp_path / "lightning_logs" / "version_0"
    assert Film(run / "saliency").views() == ["lovi", "scales"]
    checkpoint = next(run.rglob("*.ckpt"))
    assert main(["validate", "--config", str(path), "--ckpt_path", str(checkpoint)]) == 0
    assert main(["test", "--config", str(path), "--ckpt_path", str(checkpoint)]) == 0
    assert list(tmp_path.rglob("tested/overview/*.png"))


@pytest.mark.shared
@pytest.mark.parametrize("model", ["squeezenet1_0", "mobilenet_v2"])
def test_explain_on_real_photographs(tmp_path, shared_data, model):
    photos = sorted((shared_data / "imagenet_nips17" / "images").iterdir())[:3]
    checkpoint = shared_data / "weights" / f"{model}_imagenet.pth"
    names = shared_data / "imagenet_classes.csv"
    arguments = ["explain", "--model", model, "--checkpoint", str(checkpoint), "--class-names", str(names)]
    assert main([*arguments, "--output", str(tmp_path), *map(str, photos)]) == 0
    for photo in photos:
        lovi = np.asarray(Image.open(tmp_path / f"{photo.stem}_lovi.png")).astype(float)
        assert lovi.shape == (224, 224, 3)
        # A map worth looking at has contrast, and colours that differ from place to place.
        assert lovi.std() > 20
        assert np.abs(lovi[..., 0] - lovi[..., 2]).std() > 10
