"""The examples run, at a small size."""

import pytest
from PIL import Image

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
