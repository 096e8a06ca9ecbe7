"""The examples run, at a small size."""

import re

import pytest
import torch
from PIL import Image

from lightning_saliency.pictures.page import FilmRecords, find_run
from tests.paths import CONFIGS, ROOT

pytest.importorskip("sklearn")
pytest.importorskip("skimage")


@pytest.mark.slow
def test_own_trainer(tmp_path):
    from examples.own_trainer import main

    trainer = main(epochs=1, train_size=256, output=str(tmp_path))
    assert "saliency/energy_in_box" in trainer.callback_metrics


@pytest.mark.slow
def test_shortcut(tmp_path, capsys):
    from examples.shortcut import main

    results = main(epochs=1, output=str(tmp_path), train_size=256, val_size=128, test_size=64)
    assert set(results) == {"before", "after"}
    assert all(0 <= value <= 1 for values in results.values() for value in values.values())
    assert "misled" in capsys.readouterr().out
    assert len(list(tmp_path.rglob("film.html"))) == 2


@pytest.mark.slow
def test_demo(tmp_path, capsys):
    from examples.demo import main

    small = ["--data.init_args.train_size", "256", "--data.init_args.val_size", "64", "--trainer.max_epochs", "2"]
    main(["--output", str(tmp_path), *small])
    printed = capsys.readouterr().out
    assert "Validation accuracy" in printed
    for name in ("film.html", "film_strip.png", "film.webp"):
        assert len(list(tmp_path.rglob(name))) == 1


@pytest.mark.slow
def test_compare_own_model(tmp_path):
    pytest.importorskip("captum")
    from examples.compare_own_model import main

    main(1, 256, 4, str(tmp_path))
    assert (tmp_path / "table.md").read_text().count("|") > 20


def test_stream_frames(tmp_path, capsys):
    from examples.stream_frames import main, moving_disc

    rates = main(model="small_cnn", size=48, output=str(tmp_path / "maps.gif"))
    assert set(rates) == {"with maps", "without maps"}
    assert "frames a second" in capsys.readouterr().out
    with Image.open(tmp_path / "maps.gif") as film:
        assert film.n_frames == 24
    folder = tmp_path / "frames"
    folder.mkdir()
    with Image.open(moving_disc(tmp_path / "disc.gif", frames=3)) as film:
        for number in range(3):
            film.seek(number)
            film.convert("RGB").save(folder / f"{number}.png")
    assert min(main(str(folder), model="small_cnn", size=32).values()) > 0


def frames_of(folder):
    store = FilmRecords(find_run(folder) / "film")
    return [store.read(frame) for frame in store.frames()]


def test_the_table_names_every_example():
    listed = re.findall(r"^\| `(\w+)`", (ROOT / "examples" / "README.md").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "examples").glob("[!_]*.py"))


@pytest.mark.slow
def test_plain_loop(tmp_path, capsys):
    from examples.plain_loop import main

    page = main(epochs=2, train_size=128, output=str(tmp_path))
    assert page.is_file()
    assert str(page) in capsys.readouterr().out
    frames = frames_of(tmp_path)
    assert [(frame.epoch, frame.step) for frame in frames] == [(-1, 0), (0, 1), (1, 2)]
    assert len(frames[0].images) == 8
    assert all(image.label is not None and image.prediction is not None for image in frames[-1].images)
    before, after = (torch.stack([image.maps[0] for image in frame.images]) for frame in (frames[0], frames[-1]))
    assert (before != after).any()


def test_fabric(tmp_path):
    from examples.fabric import main

    assert main(epochs=2, train_size=128, output=str(tmp_path)).is_file()
    assert [(frame.epoch, frame.step) for frame in frames_of(tmp_path)] == [(0, 1), (1, 2)]


def test_lightning_cli(tmp_path, capsys):
    from examples.lightning_cli import main

    small = ["--data.train_size=128", "--data.val_size=32", "--trainer.max_epochs=1"]
    cli = main(["fit", *small, "--trainer.default_root_dir", str(tmp_path), "--saliency.num_images=3"])
    frames = frames_of(tmp_path)
    assert len(frames[-1].images) == 3
    assert frames[-1].weights == [1, 2, 3]
    # The monitor's options are in the run's own configuration.
    saved = next(tmp_path.rglob("config.yaml")).read_text()
    assert "num_images: 3" in saved
    assert cli.trainer.global_step == 1


@pytest.mark.slow
def test_timm_network(tmp_path):
    pytest.importorskip("timm")
    from examples.timm_network import main

    main(epochs=1, train_size=128, output=str(tmp_path))
    assert frames_of(tmp_path)[-1].views == ["fast_cam"]


@pytest.mark.slow
def test_hugging_face(tmp_path):
    pytest.importorskip("transformers")
    from examples.hugging_face import main

    main(epochs=1, train_size=128, output=str(tmp_path))
    last = frames_of(tmp_path)[-1]
    assert last.views == ["grad_cam"]
    assert all(image.prediction is not None for image in last.images)


@pytest.mark.slow
def test_multi_label(tmp_path):
    from examples.multi_label import main

    trainer = main(epochs=1, train_size=256, output=str(tmp_path))
    last = frames_of(tmp_path)[-1]
    assert last.views == ["grad_cam"]
    assert "val/accuracy" in trainer.callback_metrics


@pytest.mark.slow
def test_segmentation(tmp_path):
    from examples.segmentation import main

    trainer = main(epochs=1, train_size=64, output=str(tmp_path))
    assert 0 <= trainer.callback_metrics["saliency/energy_in_box"] <= 1
    last = frames_of(tmp_path)[-1]
    assert last.views == ["grad_cam"]
    assert last.classes[1] == "0"


@pytest.mark.slow
def test_detection(tmp_path):
    from examples.detection import main

    trainer = main(epochs=1, train_size=16, val_size=8, output=str(tmp_path))
    assert 0 <= trainer.callback_metrics["saliency/energy_in_box"] <= 1
    assert len(frames_of(tmp_path)[-1].images) == 8


@pytest.mark.slow
def test_wandb_offline(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb")
    from examples.wandb_offline import main

    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))
    run = main(epochs=1, train_size=128, output=str(tmp_path))
    assert f"wandb sync {run}" in capsys.readouterr().out
    pictures = [path.name for path in run.rglob("*.png")]
    assert any(name.startswith("overview") for name in pictures)
    assert any(name.startswith("combined") for name in pictures)


def test_trained_digits(tmp_path, monkeypatch, capsys):
    from examples.trained_digits import WEIGHTS, main
    from lightning_saliency.cli import main as command

    monkeypatch.chdir(tmp_path)
    main(epochs=1, train_size=64)
    assert WEIGHTS in capsys.readouterr().out
    sizes = ("--data.init_args.test_size", "20", "--data.init_args.size", "32", "--limit", "2", "--plan")
    for name in ("evaluate", "sanity-check"):
        path = CONFIGS / f"{name.replace('-', '_')}_digits.yaml"
        assert command([name, "--config", str(path), *sizes]) == 0
        assert "nothing has been run" in capsys.readouterr().out
