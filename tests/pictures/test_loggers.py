"""Every logger that can show pictures gets this one, at the right step and bit for bit; the others are passed over.

TensorBoard, W&B (offline) and MLflow are run for real and read back, in both packages of Lightning. The clients of
Comet and Neptune are not installed for the tests: in their place stand recorders with the signatures of comet_ml 3.58.8
(`CometExperiment.log_image`) and neptune 1.14.0 (`Run.__getitem__`, `Handler.append`), so that what these clients would
make of the call is not tested here.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import re
import struct
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_saliency.pictures.loggers import log_picture

# Neither dark nor bright: a logger that stretches what it gets to the full range would show.
PICTURES = [np.random.default_rng(seed).integers(60, 180, (20, 30, 3), dtype=np.uint8) for seed in range(3)]
# So dark that a logger might take it for floats in [0, 1].
DARK = np.tile(np.array([0, 1, 1], np.uint8), (20, 30, 1))


@pytest.fixture(params=["pytorch_lightning", "lightning.pytorch"])
def package(request: pytest.FixtureRequest) -> ModuleType:
    """The same classes live in two packages and are not each other's."""
    return importlib.import_module(f"{request.param}.loggers")


@pytest.fixture
def silence() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


def png(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        return np.array(image)


def tensorboard_images(folder: Path) -> dict[str, list[tuple[int, np.ndarray]]]:
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return {
        tag: [(event.step, png(event.encoded_image_string)) for event in events.Images(tag)]
        for tag in events.Tags()["images"]
    }


@pytest.mark.usefixtures("silence")
def test_tensorboard_shows_the_picture_bit_for_bit(package: ModuleType, tmp_path: Path) -> None:
    logger = package.TensorBoardLogger(tmp_path)
    for step, picture in ((0, PICTURES[0]), (150, PICTURES[1]), (300, DARK)):
        assert log_picture([logger], "saliency/lovi", picture, step, captions=["cat", "dog"])
    assert log_picture([logger], "saliency/combined", PICTURES[2], 150)
    logger.finalize("success")
    images = tensorboard_images(Path(logger.log_dir))
    assert {tag: [step for step, _ in shown] for tag, shown in images.items()} == {
        "saliency/lovi": [0, 150, 300],
        "saliency/combined": [150],
    }
    for (_, shown), picture in zip(images["saliency/lovi"], (PICTURES[0], PICTURES[1], DARK), strict=True):
        np.testing.assert_array_equal(shown, picture)
    np.testing.assert_array_equal(images["saliency/combined"][0][1], PICTURES[2])


def test_the_prefix_of_a_logger_goes_before_pictures_as_before_metrics(package: ModuleType, tmp_path: Path) -> None:
    logger = package.TensorBoardLogger(tmp_path, prefix="fold1")
    logger.log_metrics({"saliency/drift": 0.5}, step=1)
    log_picture([logger], "saliency/lovi", PICTURES[0], 1)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert events.Tags()["scalars"] == ["fold1-saliency/drift"]
    assert events.Tags()["images"] == ["fold1-saliency/lovi"]


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of a ``.wandb`` file: a header of 7 bytes, then LevelDB's log (32 KiB blocks; crc, length, kind)."""
    from wandb.proto import wandb_internal_pb2

    data, position, record = file.read_bytes(), 7, b""
    while position + 7 <= len(data):
        room = 32768 - position % 32768
        if room < 7:
            position += room
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        position += 7 + length
        if position > len(data):
            return
        record += data[position - length : position]
        if kind in (1, 4):  # a whole record, or the last part of one
            message = wandb_internal_pb2.Record()
            message.ParseFromString(record)
            record = b""
            yield message


def wandb_history(file: Path) -> list[dict[str, Any]]:
    """The rows of a run that has been finished; W&B's other process may still be writing when `finish` returns."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        records = list(wandb_records(file))
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return [
                {item.key or "|".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
                for record in records
                if record.WhichOneof("record_type") == "history"
            ]
        time.sleep(0.05)
    raise AssertionError(f"{file} has no end after 30 s")


@pytest.mark.usefixtures("silence")
def test_wandb_shows_the_picture_at_the_trainers_global_step(
    package: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    # The logger sets WANDB_MODE for good: put back what was there. The rest keeps the home directory out of it.
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True)
    logger = package.WandbLogger(project="film", save_dir=tmp_path, offline=True, prefix="fold1", settings=settings)
    # As in a run: metrics every 50 steps, and the picture of an epoch when the metrics of that step are not yet there.
    expected = {0: PICTURES[0], 150: PICTURES[1], 300: DARK}
    for step, picture in expected.items():
        logger.log_metrics({"loss": 1.0}, step=max(0, step - 50))
        assert log_picture([logger], "saliency/lovi", picture, step, captions=["cat", "dog"])
        logger.log_metrics({"val_loss": 1.0}, step=step)
    assert log_picture([logger], "saliency/combined", PICTURES[2], 300)
    folder = Path(logger.experiment.dir)
    logger.experiment.finish()

    rows = wandb_history(next(folder.parent.glob("*.wandb")))
    lovi = [row for row in rows if "fold1-saliency/lovi|filenames" in row]
    assert [row["trainer/global_step"] for row in lovi] == list(expected)
    assert [row["fold1-saliency/lovi|captions"] for row in lovi] == [["cat | dog"]] * 3
    for row, picture in zip(lovi, expected.values(), strict=True):
        (name,) = row["fold1-saliency/lovi|filenames"]
        np.testing.assert_array_equal(png((folder / name).read_bytes()), picture)
    (combined,) = [row for row in rows if "fold1-saliency/combined|filenames" in row]
    assert combined["trainer/global_step"] == 300
    assert not any(combined.get("fold1-saliency/combined|captions", []))
    # The metrics logged around the pictures have kept their own rows and steps: none was dropped for a step gone by.
    assert [row["trainer/global_step"] for row in rows if "fold1-loss" in row] == [0, 100, 250]
    assert [row["trainer/global_step"] for row in rows if "fold1-val_loss" in row] == [0, 150, 300]


@pytest.mark.usefixtures("silence")
def test_mlflow_stores_the_picture_with_its_step(
    package: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = mlflow.get_tracking_uri()
    logger = package.MLFlowLogger(tracking_uri=(tmp_path / "mlruns").as_uri(), prefix="fold1")
    try:
        assert log_picture([logger], "saliency/lovi", PICTURES[0], 0, captions=["cat"])
        assert log_picture([logger], "saliency/lovi", PICTURES[1], 150)
        assert log_picture([logger], "layer1:input → lovi", DARK, 150)
    finally:
        mlflow.set_tracking_uri(before)
    found = {}
    for file in logger.experiment.list_artifacts(logger.run_id, "images"):
        if file.path.endswith(".png"):
            # `/` is `~` or, in older versions, `#`; likewise `+` and `%`.
            match = re.fullmatch(r"images/(.*?)[+%]step[+%](\d+)[+%]timestamp.*", file.path)
            assert match, file.path
            local = logger.experiment.download_artifacts(logger.run_id, file.path, str(tmp_path))
            found[re.sub("[~#]", "/", match[1]), int(match[2])] = png(Path(local).read_bytes())
    expected = {
        ("fold1-saliency/lovi", 0): PICTURES[0],
        ("fold1-saliency/lovi", 150): PICTURES[1],
        ("fold1-layer1_input _ lovi", 150): DARK,
    }
    assert found.keys() == expected.keys()
    for name, picture in expected.items():
        np.testing.assert_array_equal(found[name], picture)


class RecordedCometExperiment:
    """What comet_ml 3.58.8 accepts; it returns a dictionary, or ``None`` once the experiment has ended."""

    def __init__(self, alive: bool = True) -> None:
        self.alive = alive
        self.calls: list[dict[str, Any]] = []

    def log_image(
        self,
        image_data: Any,
        name: str | None = None,
        overwrite: bool = False,
        image_format: str = "png",
        image_scale: float = 1.0,
        image_shape: tuple[int, int] | None = None,
        image_colormap: str | None = None,
        image_minmax: tuple[int, int] | None = None,
        image_channels: str = "last",
        copy_to_tmp: bool = True,
        step: int | None = None,
        annotations: list[Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> dict[str, str] | None:
        if not self.alive:
            return None
        # comet_ml stretches arrays from their minimum to their maximum, and PIL images not.
        assert isinstance(image_data, Image.Image)
        self.calls.append({"image": np.array(image_data), "name": name, "step": step, "metadata": metadata})
        return {"imageId": "1"}


class RecordedNeptuneHandler:
    """What neptune 1.14.0 accepts of a ``FileSeries``: a PIL image among others."""

    def __init__(self, calls: list[dict[str, Any]], path: str) -> None:
        self.calls = calls
        self.path = path

    def append(
        self,
        value: Any,
        *,
        step: float | None = None,
        timestamp: float | None = None,
        wait: bool = False,
        **kwargs: Any,
    ) -> None:
        assert isinstance(value, Image.Image)
        assert kwargs.keys() <= {"name", "description"}
        self.calls.append({"image": np.array(value), "path": self.path, "step": step, **kwargs})


class RecordedNeptuneRun:
    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __getitem__(self, path: str) -> RecordedNeptuneHandler:
        return RecordedNeptuneHandler(self.calls, path)


class CometLogger:
    def __init__(self, experiment: RecordedCometExperiment, prefix: str | None = None) -> None:
        self.experiment = experiment
        self._prefix = prefix


class NeptuneLogger:
    def __init__(self, experiment: RecordedNeptuneRun, prefix: str = "training") -> None:
        self.experiment = experiment
        self._prefix = prefix


@pytest.mark.usefixtures("silence")
@pytest.mark.parametrize(("prefix", "name"), [(None, "saliency/lovi"), ("fold1", "fold1_saliency/lovi")])
def test_comet_is_given_an_image_a_step_and_the_captions(prefix: str | None, name: str) -> None:
    experiment = RecordedCometExperiment()
    assert log_picture([CometLogger(experiment, prefix)], "saliency/lovi", PICTURES[0], 7, captions=["cat", "dog"])
    assert log_picture([CometLogger(experiment, prefix)], "saliency/lovi", PICTURES[1], 8)
    first, second = experiment.calls
    np.testing.assert_array_equal(first.pop("image"), PICTURES[0])
    np.testing.assert_array_equal(second.pop("image"), PICTURES[1])
    assert first == {"name": name, "step": 7, "metadata": {"caption": "cat | dog"}}
    assert second == {"name": name, "step": 8, "metadata": None}


@pytest.mark.usefixtures("silence")
def test_a_comet_experiment_that_has_ended_has_not_taken_the_picture() -> None:
    assert not log_picture([CometLogger(RecordedCometExperiment(alive=False))], "saliency/lovi", PICTURES[0], 7)


@pytest.mark.usefixtures("silence")
def test_neptune_is_given_a_series_of_images_with_steps() -> None:
    run = RecordedNeptuneRun()
    assert log_picture([NeptuneLogger(run)], "saliency/lovi", PICTURES[0], 7, captions=["cat", "dog"])
    assert log_picture([NeptuneLogger(run, prefix="")], "saliency/lovi", PICTURES[1], 8)
    first, second = run.calls
    np.testing.assert_array_equal(first.pop("image"), PICTURES[0])
    np.testing.assert_array_equal(second.pop("image"), PICTURES[1])
    assert first == {"path": "training/saliency/lovi", "step": 7, "description": "cat | dog"}
    assert second == {"path": "saliency/lovi", "step": 8, "description": None}


@pytest.mark.usefixtures("silence")
def test_loggers_that_show_no_pictures_are_passed_over(package: ModuleType, tmp_path: Path) -> None:
    class SomebodysLogger:
        @property
        def experiment(self) -> Any:
            raise AssertionError("an unknown logger's experiment is none of our business")

    assert not log_picture([], "saliency/lovi", PICTURES[0], 0)
    assert not log_picture([package.CSVLogger(tmp_path)], "saliency/lovi", PICTURES[0], 0)
    assert not log_picture([SomebodysLogger()], "saliency/lovi", PICTURES[0], 0)  # type: ignore[list-item]
    # What `Trainer(fast_dev_run=True)` puts in a logger's place.
    assert not log_picture([package.logger.DummyLogger()], "saliency/lovi", PICTURES[0], 0)


@pytest.mark.usefixtures("silence")
def test_a_logger_derived_from_a_known_one_is_served(package: ModuleType, tmp_path: Path) -> None:
    class OurLogger(package.TensorBoardLogger):  # type: ignore[misc, name-defined]
        pass

    logger = OurLogger(tmp_path)
    assert log_picture([logger], "saliency/lovi", PICTURES[0], 3)
    logger.finalize("success")
    assert [step for step, _ in tensorboard_images(Path(logger.log_dir))["saliency/lovi"]] == [3]


def test_one_failing_logger_gives_one_warning_and_the_others_get_the_picture(
    package: ModuleType, tmp_path: Path
) -> None:
    class QuotaError(Exception):
        """Of no built-in kind, as most clients' exceptions."""

    class FullQuota:
        def log_image(self, *args: object, **kwargs: object) -> None:
            raise QuotaError("quota exceeded")

    class MLFlowLogger:
        run_id = "1"
        experiment = FullQuota()

    class WandbLogger:
        @property
        def experiment(self) -> Any:
            raise OSError("no network")

    run = RecordedNeptuneRun()
    tensorboard = package.TensorBoardLogger(tmp_path)
    ended = CometLogger(RecordedCometExperiment(alive=False))
    silent = package.CSVLogger(tmp_path)
    loggers: list[Any] = [MLFlowLogger(), silent, tensorboard, WandbLogger(), NeptuneLogger(run), ended]
    with pytest.warns(RuntimeWarning) as caught:
        taken = log_picture(loggers, "saliency/lovi", PICTURES[0], 7)
    assert taken
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 2
    assert messages[0].startswith("MLFlowLogger did not take the picture 'saliency/lovi' of step 7: QuotaError: quota")
    assert messages[1].startswith("WandbLogger did not take the picture 'saliency/lovi' of step 7: OSError: no network")
    assert {warning.filename for warning in caught} == {__file__}
    assert len(run.calls) == 1
    tensorboard.finalize("success")
    np.testing.assert_array_equal(tensorboard_images(Path(tensorboard.log_dir))["saliency/lovi"][0][1], PICTURES[0])
    with pytest.warns(RuntimeWarning, match="quota exceeded"):
        assert not log_picture([MLFlowLogger()], "saliency/lovi", PICTURES[0], 8)  # type: ignore[list-item]


@pytest.mark.usefixtures("silence")
def test_off_rank_zero_nothing_is_logged_and_nothing_breaks(
    package: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    loggers = [package.TensorBoardLogger(tmp_path / "tb")]
    for name, module, options in (
        ("WandbLogger", "wandb", {"save_dir": tmp_path, "offline": True}),
        ("MLFlowLogger", "mlflow", {"tracking_uri": (tmp_path / "mlruns").as_uri()}),
    ):
        if importlib.util.find_spec(module):
            loggers.append(getattr(package, name)(**options))
    rank_zero_only = importlib.import_module(f"{package.__name__.rsplit('.', 1)[0]}.utilities").rank_zero_only
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    files = sorted(tmp_path.rglob("*"))
    assert not log_picture(loggers, "saliency/lovi", PICTURES[0], 7, captions=["cat"])
    assert sorted(tmp_path.rglob("*")) == files


@pytest.mark.parametrize(
    "picture", [np.zeros((4, 4, 3), np.float32), np.zeros((3, 4, 5), np.uint8), np.zeros((4, 4), np.uint8)]
)
def test_what_is_no_picture_is_refused_before_any_logger_sees_it(picture: np.ndarray) -> None:
    run = RecordedNeptuneRun()
    with pytest.raises(ValueError, match=rf"Got a picture .* of {picture.dtype}\. Allowed are uint8 \[H, W, 3\]"):
        log_picture([NeptuneLogger(run)], "saliency/lovi", picture, 0)  # type: ignore[list-item]
    assert run.calls == []


@pytest.mark.parametrize(
    "key", ["../../up/lovi", "saliency/../../../x", "/etc/lovi", "saliency/" + "x" * 300, "a\0b/./c"]
)
def test_no_key_leaves_a_loggers_folder(tmp_path, key):
    keys = []

    class WandbLogger:
        experiment = object()

        def log_image(self, key, images, step, **extras):
            keys.append(key)

    assert log_picture([WandbLogger()], key, np.zeros((4, 6, 3), np.uint8), step=0)
    file = tmp_path / "media" / f"{keys[0]}_0.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    assert file.resolve().is_relative_to(tmp_path / "media")
