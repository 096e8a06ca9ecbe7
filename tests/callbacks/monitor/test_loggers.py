"""A monitored run read back from TensorBoard, from W&B offline and from the film: the same pictures and steps."""

import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
from PIL import Image

from lightning_saliency.callbacks import SaliencyMonitor
from lightning_saliency.pictures.film import Film
from tests.callbacks.monitor.helpers import Module, loader, trainer
from tests.pictures.test_loggers import RecordedCometExperiment, png, tensorboard_images, wandb_history


def test_every_logger_holds_the_films_pictures_at_the_metrics_steps(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True)
    board = pl.loggers.TensorBoardLogger(tmp_path, name="board")
    weights_and_biases = pl.loggers.WandbLogger(project="film", save_dir=tmp_path, offline=True, settings=settings)
    tables, log_table = [], weights_and_biases.log_table
    monkeypatch.setattr(
        weights_and_biases, "log_table", lambda **given: (tables.append(given["data"]), log_table(**given))
    )
    run = trainer(tmp_path, SaliencyMonitor(num_images=4), logger=[board, weights_and_biases], epochs=3)
    run.fit(Module(), loader(form="dict"), loader(form="dict"))
    folder = Path(weights_and_biases.experiment.dir)
    weights_and_biases.experiment.finish()

    film = Film(Path(board.log_dir) / "saliency")
    events = tensorboard_images(Path(board.log_dir))
    rows = wandb_history(next(folder.parent.glob("*.wandb")))
    assert sorted(events) == ["saliency/overview"]
    steps = [0, 3, 7, 11]  # before training, then where Lightning puts the epochs' metrics
    assert steps[1:] == [row["trainer/global_step"] for row in rows if "val/loss" in row]
    for view in ("overview",):
        frames = film.frames(view)
        assert [frame.step for frame in frames] == steps
        assert [step for step, _ in events[f"saliency/{view}"]] == steps
        logged = [row for row in rows if f"saliency/{view}|filenames" in row]
        assert [row["trainer/global_step"] for row in logged] == steps
        for frame, (_, shown), row in zip(frames, events[f"saliency/{view}"], logged, strict=True):
            picture = np.asarray(Image.open(frame.path))
            np.testing.assert_array_equal(shown, picture)
            (name,) = row[f"saliency/{view}|filenames"]
            np.testing.assert_array_equal(png((folder / name).read_bytes()), picture)
            (captions,) = row[f"saliency/{view}|captions"]
            assert [caption.split()[0] for caption in captions.split(" | ")] == ["0", "1", "2", "3"]
    (logged,) = [row for row in rows if "saliency/film|path" in row]
    table = json.loads((folder / logged["saliency/film|path"]).read_text())
    assert table["columns"] == ["epoch", "step", "overview"]
    assert [row[:2] for row in table["data"]] == [[frame.epoch, frame.step] for frame in frames]
    # The pictures of a table lie in an artifact: it is looked at before it is packed.
    (cells,) = tables
    for row, frame in zip(cells, frames, strict=True):
        np.testing.assert_array_equal(np.asarray(row[2].image.convert("RGB")), np.asarray(Image.open(frame.path)))
    assert sum("--samples_per_plugin images=" in record.message for record in caplog.records) == 1
    drifts = [row["saliency/drift"] for row in rows if "saliency/drift" in row]
    assert len(drifts) == 4


def test_mlflow_gets_the_runs_page_once(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = mlflow.get_tracking_uri()
    logger = pl.loggers.MLFlowLogger(tracking_uri=(tmp_path / "mlruns").as_uri())
    run = trainer(tmp_path, SaliencyMonitor(num_images=2), logger=logger)
    try:
        run.fit(Module(), loader(), loader())
        run.validate(run.lightning_module, loader())
    finally:
        mlflow.set_tracking_uri(before)
    artifacts = logger.experiment.list_artifacts(logger.run_id, "saliency")
    assert [file.path for file in artifacts] == ["saliency/film.html"]
    local = logger.experiment.download_artifacts(logger.run_id, "saliency/film.html", str(tmp_path))
    page = tmp_path / "mlruns" / logger.experiment_id / logger.run_id / "saliency" / "film.html"
    assert Path(local).read_text() == page.read_text()


def test_comet_gets_the_runs_page(tmp_path):
    class Experiment(RecordedCometExperiment):
        def __init__(self):
            super().__init__()
            self.assets = []

        def log_asset(
            self, file_data, file_name=None, overwrite=False, copy_to_tmp=True, step=None, metadata=None
        ):  # of comet_ml's interface; no installed one was compared
            assert isinstance(file_data, io.StringIO)  # a text would be taken for the name of a file
            self.assets.append((file_name, overwrite, file_data.read()))

    class CometLogger(pl.loggers.CSVLogger):
        _experiment_of_comet = Experiment()

        @property
        def experiment(self):
            return self._experiment_of_comet

        def log_metrics(self, metrics, step=None):
            pass

        def save(self):
            pass

    logger = CometLogger(tmp_path)
    trainer(tmp_path, SaliencyMonitor(num_images=2), logger=logger).fit(Module(), loader(), loader())
    (asset,) = logger.experiment.assets
    (page,) = tmp_path.rglob("film.html")
    assert asset == ("saliency/film.html", True, page.read_text())
    assert [call["step"] for call in logger.experiment.calls] == [0, 3, 7]
    assert all(call["metadata"]["caption"] for call in logger.experiment.calls)
