"""Where runs keep their films: a folder for each, here or remote, one film a callback, nothing in a trial."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn

from lightning_saliency import SaliencyMonitor
from lightning_saliency.callbacks._run_film import FilmingCallback, RunFilm
from lightning_saliency.callbacks._run_folder import run_folder
from lightning_saliency.files import location
from lightning_saliency.pictures.film import Film
from lightning_saliency.pictures.page import FilmRecords
from tests.callbacks.monitor.helpers import Module, Recorder, loader, trainer

PICTURE = np.zeros((4, 6, 3), np.uint8)


class Filming(FilmingCallback):
    """Shows a picture after each training epoch, and does no more."""

    def __init__(self, name: str = "saliency") -> None:
        self.film = RunFilm(name, 1.0, ["lovi"])
        self.name = name

    @property
    def state_key(self) -> str:
        return f"Filming {self.name}"

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.film.open(trainer)

    def state_dict(self) -> dict[str, Any]:
        return self.film.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.film.load_state_dict(state_dict)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.film.keep(trainer, "lovi", PICTURE, epoch=trainer.current_epoch, step=trainer.global_step)

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        self.film.keep(trainer, "tested", PICTURE, epoch=0, step=trainer.global_step)


def run(
    root: Any, *callbacks: pl.Callback, epochs: int = 2, resumed: Any = None, validated: bool = False, **options: Any
) -> pl.Trainer:
    made = trainer(root, *callbacks, epochs=epochs, **{"logger": False, **options})
    made.fit(Module(), loader(), loader() if validated else None, ckpt_path=resumed)
    return made


def epochs_in(folder: Any, view: str = "lovi") -> list[int]:
    return [frame.epoch for frame in Film(folder).frames(view)]


def versions_in(folder: Any) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("version"))


@pytest.mark.parametrize("root", ["here", "memory://runs/one", "memory://runs/two/deep"])
def test_each_run_without_a_logger_has_a_folder_of_its_own(tmp_path: Path, root: str) -> None:
    place = str(tmp_path / root) if root == "here" else root
    for epochs in (3, 1, 2):
        run(place, Filming(), Filming("second"), epochs=epochs)
    runs = location(place)
    assert versions_in(runs) == ["version_1", "version_2"]
    for folder, epochs in zip((runs, runs / "version_1", runs / "version_2"), (3, 1, 2), strict=True):
        for name in ("saliency", "second"):
            assert epochs_in(folder / name) == list(range(epochs))
    assert not Path("memory:").exists()


def test_one_trainer_has_one_folder_and_a_callback_in_another_begins_anew(tmp_path: Path) -> None:
    callback = Filming()
    first = run(tmp_path, callback)
    first.test(Module(), loader(), verbose=False)
    run(tmp_path, callback, epochs=1)
    assert versions_in(tmp_path) == ["version_1"]
    assert epochs_in(tmp_path / "saliency") == [0, 1]
    assert epochs_in(tmp_path / "saliency", "tested") == [0]
    assert epochs_in(tmp_path / "version_1" / "saliency") == [0]


def test_a_resumed_run_goes_on_in_its_folder_and_all_its_films_do(tmp_path: Path) -> None:
    first = run(tmp_path, Filming(), epochs=3)
    first.save_checkpoint(tmp_path / "last.ckpt")
    run(tmp_path, Filming(), epochs=1)
    # One that the checkpoint does not know, and that shows its picture first, goes along.
    run(tmp_path, Filming("new"), Filming(), epochs=5, resumed=tmp_path / "last.ckpt")
    runs = tmp_path
    assert versions_in(runs) == ["version_1"]
    assert epochs_in(runs / "saliency") == [0, 1, 2, 3, 4]
    assert epochs_in(runs / "new") == [3, 4]
    callback = Filming()
    run(tmp_path, callback, epochs=4, resumed=tmp_path / "last.ckpt")
    assert epochs_in(runs / "saliency") == [0, 1, 2, 3], "what came after the checkpoint is set aside"
    assert epochs_in(runs / "saliency" / "rewound") == [3, 4]
    run(tmp_path, callback, epochs=1)
    assert epochs_in(runs / "version_2" / "saliency") == [0], "a later run of the callback is another one"


def test_a_run_that_trains_no_further_keeps_its_folder(tmp_path: Path) -> None:
    callback = Filming()
    first = run(tmp_path, callback, epochs=1)
    state = callback.state_dict()
    first.fit(Module(), loader())
    assert callback.state_dict() == state != {}


@pytest.mark.parametrize("first", [-1, 0, 2])
def test_a_run_in_the_folder_of_another_sets_all_its_frames_aside(tmp_path: Path, first: int) -> None:
    """Whenever its own first frame comes, also where it has none of the start."""
    run(tmp_path, SaliencyMonitor(num_images=2), epochs=3, logger=Recorder(tmp_path), validated=True)
    monitor = SaliencyMonitor(num_images=2, every_n_epochs=3 if first == 2 else 1)
    options = {"num_sanity_val_steps": 2 if first == -1 else 0}
    run(tmp_path, monitor, epochs=3, logger=Recorder(tmp_path), validated=True, **options)
    folder, epochs = tmp_path / "recorder" / "v" / "saliency", [-1, 0, 1, 2][first + 1 :]
    assert epochs_in(folder, "overview") == epochs
    assert epochs_in(folder / "rewound", "overview") == [-1, 0, 1, 2]
    film = FilmRecords(folder / "film")
    assert [frame.epoch for frame in film.frames()] == epochs
    # Values are kept of every epoch, and of this run alone.
    assert [row["epoch"] for row in film.values()] == [-1, 0, 1, 2][0 if first < 0 else 1 :]


@pytest.mark.parametrize("version", ["../../elsewhere", "version_x", "version_7", 3])
@pytest.mark.parametrize("mark", ["0" * 32, "../mark", None])
def test_a_checkpoint_of_somebody_else_names_no_other_folder(tmp_path: Path, version: Any, mark: Any) -> None:
    film = RunFilm("saliency", 1.0)
    film.load_state_dict({"version": version, "run": mark})
    made = stopped(tmp_path)
    made.state.fn = TrainerFn.FITTING
    film.keep(made, "lovi", PICTURE, epoch=0, step=1)
    assert epochs_in(tmp_path / "saliency") == [0]


@pytest.mark.parametrize("place", ["here", "memory://resumed"])
def test_a_run_that_goes_on_under_another_root_leaves_the_films_there(tmp_path: Path, place: str) -> None:
    roots = [str(tmp_path / name) if place == "here" else f"{place}/{name}" for name in ("a", "b")]
    run(roots[0], Filming(), epochs=1).save_checkpoint(tmp_path / "last.ckpt")
    run(roots[1], Filming(), epochs=4)
    run(roots[1], Filming(), epochs=2, resumed=tmp_path / "last.ckpt")
    there = location(roots[1])
    assert epochs_in(there / "saliency") == [0, 1, 2, 3]
    assert epochs_in(there / "version_1" / "saliency") == [1]
    # From there it goes on, and so it does where it began.
    run(roots[0], Filming(), epochs=3, resumed=tmp_path / "last.ckpt")
    assert epochs_in(location(roots[0]) / "saliency") == [0, 1, 2]


def stopped(root: Any, **options: Any) -> Any:
    """A trainer that does not run."""
    return trainer(root, **{"logger": False, **options})


@pytest.mark.parametrize("name", ["../../out", "a/b", "/absolute", "nul", "x" * 300, "Ünï cödé", "a\0b"])
def test_no_name_leaves_the_folder(tmp_path: Path, name: str) -> None:
    film = RunFilm(name, 1.0)
    for view in ("lovi", name):
        film.keep(stopped(tmp_path / "root", logger=Recorder(tmp_path / "root")), view, PICTURE, epoch=0, step=1)
    files = [path.relative_to(tmp_path).parts for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert {(parts[:3], len(parts)) for parts in files} == {(("root", "recorder", "v"), 6)}


@pytest.mark.parametrize(("name", "version"), [("../../up", 3), ("a/../../b", "run"), ("..\\..\\up", "..")])
def test_no_name_of_a_logger_leaves_its_folder(tmp_path: Path, name: str, version: Any) -> None:
    logger = SimpleNamespace(save_dir=str(tmp_path / "logs"), name=name, version=version)
    folder = run_folder(SimpleNamespace(fast_dev_run=False, loggers=[logger]))  # type: ignore[arg-type]
    assert isinstance(folder, Path)
    assert folder.resolve().is_relative_to(tmp_path / "logs")


def test_a_logger_with_a_folder_keeps_the_film_and_one_on_a_server_does_not(tmp_path: Path) -> None:
    server = SimpleNamespace(save_dir=None, name="7", version="abc")
    local = SimpleNamespace(save_dir=str(tmp_path / "logs"), name="net", version=4)
    remote = SimpleNamespace(log_dir="s3://bucket/logs/version_1")
    for loggers, expected in (
        ([server], tmp_path),
        ([server, local], tmp_path / "logs" / "net" / "version_4"),
        ([remote, local], location("s3://bucket/logs/version_1")),
    ):
        made = stopped(tmp_path)
        made.loggers = loggers
        assert run_folder(made) == run_folder(made) == expected


@pytest.mark.parametrize("steps", [True, 1, 3])
def test_a_trial_leaves_nothing_behind(tmp_path: Path, steps: Any) -> None:
    callback = Filming()
    run(tmp_path, callback, SaliencyMonitor(num_images=2, stage="train", name="monitor"), fast_dev_run=steps)
    assert list(tmp_path.iterdir()) == []


class Wanderer(pl.Callback):
    """Goes to another folder after the first epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        os.chdir(self.folder)


def test_a_relative_root_stays_where_it_was_when_the_script_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "begun")
    monitor, wanderer = SaliencyMonitor(num_images=2), Wanderer(tmp_path / "elsewhere")
    made = trainer(Path("root"), monitor, wanderer, logger=False, epochs=3)
    made.fit(Module(), loader(), loader())
    assert epochs_in(tmp_path / "begun" / "root" / "saliency", "overview") == [-1, 0, 1, 2]
    assert [path.parent.name for path in tmp_path.rglob("film.html")] == ["saliency"]
    assert not [path for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "callbacks",
    [
        (SaliencyMonitor(stage="train"), SaliencyMonitor()),
        (Filming(), SaliencyMonitor()),
        (Filming("a/b"), SaliencyMonitor(name="a/b", stage="train")),
    ],
)
def test_two_callbacks_with_one_film_are_refused_before_training(tmp_path: Path, callbacks: Any) -> None:
    made = trainer(tmp_path, *(copy.deepcopy(callback) for callback in callbacks), logger=False)
    with pytest.raises(
        ValueError, match=r"two callbacks with films called '(saliency|a/b)'.* give one of them another"
    ):
        made.fit(Module(), loader(), loader())
    assert made.global_step == 0


def test_a_callback_that_was_replaced_takes_no_name(tmp_path: Path) -> None:
    made = trainer(tmp_path, Filming(), logger=False)
    made.fit(Module(), loader())
    made.callbacks = [callback for callback in made.callbacks if not isinstance(callback, Filming)] + [Filming()]
    made.fit(Module(), loader())


def test_a_root_that_cannot_be_written_to_costs_the_film_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.warns(UserWarning, match=r"No film of 'saliency' is kept.*Training goes on") as said:
        made = run(tmp_path / "file", Filming(), epochs=3)
    assert len([one for one in said if "No film" in str(one.message)]) == 1
    assert made.current_epoch == 3
    assert (tmp_path / "file").read_text() == "precious"


class _Run:
    """What `run_folder` looks at, as a trainer that can be forgotten."""

    fast_dev_run = False
    loggers = ()

    def __init__(self, root: str) -> None:
        self.default_root_dir = root


def _begin_several(root: str, names: Any) -> None:
    runs = [_Run(root) for _ in range(5)]
    for one in runs:
        names.put(run_folder(one).name)  # type: ignore[arg-type,union-attr]


def test_runs_that_begin_at_once_have_different_folders(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    names = context.Queue()
    processes = [context.Process(target=_begin_several, args=(str(tmp_path), names)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [names.get(timeout=60) for _ in range(20)]
    for process in processes:
        process.join(60)
    assert sorted(found) == sorted([tmp_path.name, *(f"version_{number}" for number in range(1, 20))])


def test_a_film_is_pickled_and_copied_in_mid_run(tmp_path: Path) -> None:
    for root in (tmp_path, "memory://pickled"):
        callback = Filming()
        run(root, callback, epochs=1)
        for copied in (pickle.loads(pickle.dumps(callback)), copy.deepcopy(callback)):
            assert [frame.epoch for frame in copied.film.frames("lovi")] == [0]
