"""Numbers that others watch, runs that count steps, and a monitor's several lives."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from torch.utils.data import DataLoader, IterableDataset

from lightning_saliency.callbacks import SaliencyMonitor
from lightning_saliency.callbacks.monitor.attempts import Attempts
from lightning_saliency.callbacks.monitor.film import MonitorFilm
from lightning_saliency.callbacks.monitor.reading.batch_maps import BatchReading
from lightning_saliency.callbacks.monitor.scalars import NOT_MEASURED, EpochScalars, on_grid, values_to_log
from lightning_saliency.callbacks.monitor.values import MonitorValues
from lightning_saliency.pictures.film import Film
from lightning_saliency.pictures.page import FilmRecords
from tests.callbacks.monitor.helpers import Module, Pictures, Recorder, loader, trained, trainer


def _fit(tmp_path, *callbacks, module=None, train=None, val=None, **options):
    pl.seed_everything(1, workers=True)
    recorder = Recorder(tmp_path)
    run = trainer(tmp_path, *callbacks, logger=recorder, **options)
    given = [loader(form="dict") if data is None else data for data in (train, val)]
    run.fit(module or Module(), *given)
    return run, recorder


def _frames(tmp_path, name="saliency"):
    return [frame.epoch for frame in Film(tmp_path / "recorder" / "v" / name).frames("overview")]


def test_what_is_logged_for_those_who_watch_before_it_was_measured():
    expected = {
        "s/energy_in_box": 0.0,
        "s/pointing_game": 0.0,
        "s/drift": 1.0,
        "s/position_bias": 0.0,
        "s/content_bias": 0.0,
        "s/shortcut_alert": 0.0,
    }
    watching = [SimpleNamespace(monitor=key) for key in (*expected, "val/loss")]
    run = SimpleNamespace(
        state=SimpleNamespace(fn="fit"), callbacks=[*watching[:3], object()], lr_scheduler_configs=watching[3:]
    )
    assert values_to_log({}, run, "s") == expected
    assert values_to_log({"drift": 0.25}, run, "s") == {**expected, "s/drift": 0.25}
    assert values_to_log({"drift": 0.25}, run, "other") == {"other/drift": 0.25}
    run.state.fn = "validate"
    assert values_to_log({}, run, "s") == {}


def _run(fn="fit", **settings):
    settings = {"sanity_checking": False, "is_global_zero": True, "callback_metrics": {}, **settings}
    settings["fit_loop"] = trained(settings.pop("batches", 0))
    return SimpleNamespace(
        state=SimpleNamespace(fn=fn),
        callbacks=[SimpleNamespace(monitor="s/drift")],
        lr_scheduler_configs=[],
        loggers=[],
        **settings,
    )


@pytest.mark.parametrize(
    ("stage", "fn", "there", "logged"),
    [
        ("validate", "fit", {}, {"s/drift"}),
        ("validate", "fit", {"s/drift": 0.5}, set()),
        ("validate", "validate", {}, set()),
        ("train", "fit", {}, set()),
        ("test", "test", {}, set()),
    ],
)
def test_of_a_stage_that_is_not_watched_others_get_what_they_lack(stage, fn, there, logged):
    given = {}
    module = SimpleNamespace(log=lambda key, value, **options: given.update({key: (value, options)}))
    values = MonitorValues("s", SimpleNamespace())
    values.log(_run(fn, callback_metrics=there), module, stage, {}, own=False)
    assert set(given) == logged
    assert all(options["logger"] is False and value == 1.0 for value, options in given.values())
    values.log(_run(fn, callback_metrics=there), module, stage, {"drift": 0.25, "energy_in_box": 0.5}, own=True)
    assert {key: value for key, (value, _) in given.items()} == {"s/drift": 0.25, "s/energy_in_box": 0.5}
    for _, options in given.values():
        assert options == {
            "on_step": False,
            "on_epoch": True,
            "sync_dist": True,
            "batch_size": 1,
            "logger": None,
        }


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, True),
        ({"sanity_checking": True}, True),
        ({"batches": 5}, True),
        ({"sanity_checking": True, "batches": 1}, False),  # of a run that goes on
        ({"is_global_zero": False}, False),
    ],
)
def test_what_was_logged_is_kept_once_by_one_process(settings, kept):
    pages = []
    page = SimpleNamespace(log=lambda run, values, validated: pages.append((values, validated)))
    MonitorValues("s", page).keep(_run(callback_metrics={"val/loss": 2.0}, **settings), Attempts(), validated=True)
    assert pages == ([({"val/loss": 2.0}, True)] if kept else [])


NAMES = ["drift", "energy_in_box", "pointing_game"]
MONITORS = {
    "every second epoch": lambda: SaliencyMonitor(every_n_epochs=2, num_images=2),
    "never": lambda: SaliencyMonitor(every_n_epochs=50, num_images=2, log_at_start=False),
    "of training": lambda: SaliencyMonitor(num_images=2, stage="train"),
}
_REFUSED = ("of training", "drift")  # never measured, see test_watchers.py


@pytest.mark.parametrize(
    ("monitor", "name", "watcher"),
    [
        *((monitor, name, "stopping") for monitor in MONITORS for name in NAMES if (monitor, name) != _REFUSED),
        *((monitor, "drift", "checkpoint") for monitor in MONITORS if monitor != _REFUSED[0]),
    ],
)
def test_whoever_watches_a_value_finds_it(tmp_path, monitor, name, watcher):
    key = f"saliency/{name}"
    if watcher == "stopping":
        other = EarlyStopping(key, patience=9)
    else:
        other = ModelCheckpoint(tmp_path / "kept", monitor=key, every_n_epochs=1)
    run, _recorder = _fit(tmp_path, MONITORS[monitor](), other, epochs=3, enable_checkpointing=watcher == "checkpoint")
    assert run.current_epoch == 3
    assert key in run.callback_metrics


@pytest.mark.parametrize("name", [*NAMES, "position_bias", "shortcut_alert"])
def test_a_scheduler_that_watches_a_value_finds_it_before_it_was_measured(tmp_path, name):
    class Scheduled(Module):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return [optimizer], [{"scheduler": scheduler, "monitor": f"saliency/{name}"}]

    monitor = SaliencyMonitor(every_n_epochs=3, num_images=2)
    run, _recorder = _fit(tmp_path, monitor, module=Scheduled(), epochs=4, num_sanity_val_steps=0)
    assert run.current_epoch == 4


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda monitor: pickle.loads(pickle.dumps(monitor))])
def test_a_copy_of_a_monitor_that_was_used_begins_a_film_of_its_own(tmp_path, copied, recwarn):
    used = SaliencyMonitor(num_images=2)
    _fit(tmp_path / "first", used, epochs=3)
    for fold in ("second", "third"):
        given = Pictures(8, form="dict")
        pictures = [{**given[index], "image": 0.5 * given[index]["image"]} for index in range(8)]
        again = copied(used)
        run, _ = _fit(tmp_path / fold, again, val=DataLoader(pictures, batch_size=4), epochs=2)
        assert _frames(tmp_path / fold) == [-1, 0, 1]
        assert again.state_dict()["schedule"]["last_epoch"] == 1
        assert run.callback_metrics["saliency/drift"] > 0
    assert not [str(each.message) for each in recwarn if "did not find" in str(each.message)]


@pytest.mark.parametrize("broken", ["sample", "pictures", "reading"])
def test_whoever_watches_a_value_finds_it_where_the_monitor_fails(tmp_path, monkeypatch, broken):
    monitor = SaliencyMonitor(num_images=2)

    def fails(*_, **__):
        raise OSError("no space left")

    target = {
        "sample": (monitor._sample, "drift"),
        "pictures": (monitor._film, "show"),
        "reading": (BatchReading, "take"),
    }
    monkeypatch.setattr(*target[broken], fails)
    with pytest.warns(UserWarning, match="no space left"):
        run, _ = _fit(tmp_path, monitor, EarlyStopping("saliency/drift", patience=9), epochs=3)
    assert run.current_epoch == 3


def test_values_stay_between_frames(tmp_path):
    _, recorder = _fit(tmp_path, SaliencyMonitor(every_n_epochs=2, num_images=2), epochs=5)
    values = [value for _, value in recorder.values("saliency/energy_in_box")]
    # Measured at the start, after the second epoch and after the fourth.
    assert len(values) == 6
    frames = [values[0], values[2], values[4]]
    assert values == pytest.approx([value for value in frames for _ in range(2)], abs=1e-6)
    assert len({round(value, 4) for value in frames}) == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_image_that_is_no_number_spoils_no_value(tmp_path, bad):
    class Spoiled(Pictures):
        def __getitem__(self, index):
            item = super().__getitem__(index)
            return {**item, "image": item["image"] * bad} if index == 1 else item

    _run, recorder = _fit(
        tmp_path, SaliencyMonitor(num_images=3), val=DataLoader(Spoiled(8, form="dict"), batch_size=4)
    )
    for name in NAMES:
        assert all(torch.isfinite(torch.tensor(value)) for _, value in recorder.values(f"saliency/{name}")), name


def test_one_image_that_is_no_number_is_left_out_of_the_mean():
    scalars = EpochScalars()
    scalars.add_drift(torch.tensor([0.5, float("nan"), 0.7, float("inf")]))
    assert scalars.local() == {"drift": pytest.approx(0.6)}


def test_cells_belong_to_an_object_that_covers_half_of_them():
    maps = torch.tensor([[[1.0, 2.0], [4.0, 8.0]]])
    objects = torch.zeros(1, 8, 8, dtype=torch.bool)
    objects[0, :, :6] = True  # All of the left cells, half of the right ones.
    scalars = EpochScalars()
    scalars.add_objects("energy_in_box", maps, on_grid(objects, maps))
    assert scalars.local() == {"energy_in_box": pytest.approx(1.0)}
    objects[0, :, 5] = False  # Now a quarter of the right ones.
    scalars = EpochScalars()
    scalars.add_objects("energy_in_box", maps, on_grid(objects, maps))
    assert scalars.local() == {"energy_in_box": pytest.approx(5 / 15)}
    # Of an object smaller than half a cell, the cells with at least half of the most.
    objects[:] = False
    objects[0, 0, :4] = True
    objects[0, 0, 4:6] = True
    scalars = EpochScalars()
    scalars.add_objects("energy_in_box", maps, on_grid(objects, maps))
    assert scalars.local() == {"energy_in_box": pytest.approx(3 / 15)}
    objects[0, 0, 5] = False
    scalars = EpochScalars()
    scalars.add_objects("energy_in_box", maps, on_grid(objects, maps))
    assert scalars.local() == {"energy_in_box": pytest.approx(1 / 15)}
    # Of objects on a grid of the maps' height, the left cells.
    scalars = EpochScalars()
    left = torch.tensor([[[True, True, True, False, False, False]] * 2])
    scalars.add_objects("energy_in_box", maps, on_grid(left, maps))
    assert scalars.local() == {"energy_in_box": pytest.approx(5 / 15)}


def test_images_without_an_object_do_not_count():
    objects = torch.tensor([[[True, False]] * 2, [[False, False]] * 2])
    maps, scalars = torch.tensor([[[1.0, 2.0], [4.0, 1.0]]] * 2), EpochScalars()
    for score in ("energy_in_box", "pointing_game"):
        scalars.add_objects(score, maps, on_grid(objects, maps))
    assert scalars.local() == {"energy_in_box": pytest.approx(5 / 8), "pointing_game": 1.0}


def test_positions_are_logged_where_they_were_found():
    scalars = EpochScalars()
    scalars.add_positions(None)
    assert scalars.local() == {}
    scalars.add_positions(SimpleNamespace(bias=0.75, content=0.25))
    assert scalars.local() == {"position_bias": 0.75, "content_bias": 0.25}


def test_no_drift_in_training(tmp_path):
    _run, recorder = _fit(tmp_path, SaliencyMonitor(num_images=2, stage="train"))
    assert not recorder.values("saliency/drift")
    assert len(recorder.values("saliency/position_bias")) == 2


class Endless(IterableDataset):
    def __iter__(self):
        return (Pictures(form="dict")[index % 16] for index in iter(int, 1))


_STEPS = {"max_epochs": -1, "check_val_every_n_epoch": None}


@pytest.mark.parametrize(
    ("train", "options", "frames"),
    [
        ("endless", {**_STEPS, "max_steps": 20, "val_check_interval": 5}, 2),
        ("of four batches", {**_STEPS, "max_steps": 24, "val_check_interval": 6}, 2),
        ("of four batches", {"max_epochs": 2, "val_check_interval": 0.5}, 2),
        ("of four batches", {"max_epochs": 9, "check_val_every_n_epoch": 3}, 3),
    ],
)
def test_runs_that_count_otherwise_have_frames(tmp_path, train, options, frames):
    data = DataLoader(Endless(), 4) if train == "endless" else loader(form="dict")
    monitor = SaliencyMonitor(every_n_epochs=2, num_images=2, log_at_start=False)
    options = dict(options)
    _fit(tmp_path, monitor, train=data, epochs=options.pop("max_epochs"), **options)
    assert len(list((tmp_path / "recorder" / "v" / "saliency" / "overview").iterdir())) == frames


def test_an_endless_epoch_of_training_has_a_frame_at_each_validation(tmp_path):
    monitor = SaliencyMonitor(num_images=2, stage="train")
    _fit(
        tmp_path,
        monitor,
        train=DataLoader(Endless(), 4),
        epochs=-1,
        max_steps=20,
        val_check_interval=5,
        check_val_every_n_epoch=None,
    )
    assert len(list((tmp_path / "recorder" / "v" / "saliency" / "overview").iterdir())) >= 4


def test_another_trainer_begins_anew(tmp_path):
    monitor = SaliencyMonitor(num_images=2)
    drifts = []
    for fold in range(3):
        data = DataLoader(torch.utils.data.Subset(Pictures(32, form="dict"), range(8 * fold, 8 * fold + 8)), 4)
        _, recorder = _fit(tmp_path / str(fold), monitor, val=data, epochs=2)
        drifts.append([value for _, value in recorder.values("saliency/drift")])
        assert len(monitor._sample.fingerprints) == 2
    assert [each[0] for each in drifts] == [1, 1, 1]
    assert all(value < 1 for each in drifts for value in each[1:])


@pytest.mark.parametrize(
    "kind", ["the same images", "other images", "other classes", "another trainer", "an earlier checkpoint"]
)
def test_a_validation_after_the_run_is_measured_and_leaves_its_film_alone(tmp_path, kind):
    monitor = SaliencyMonitor(num_images=2)
    kept = ModelCheckpoint(tmp_path / "kept", save_top_k=-1)
    watchers = (kept, EarlyStopping("saliency/drift", patience=9))
    run, recorder = _fit(tmp_path, monitor, *watchers, epochs=2, enable_checkpointing=True)
    folder = tmp_path / "recorder" / "v" / "saliency"
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    latest, sample = dict(monitor._values.latest), list(monitor._sample.fingerprints)
    data = loader(form="dict")
    if kind != "the same images":
        data = DataLoader(torch.utils.data.Subset(Pictures(48, form="dict"), range(36, 48)), 4)
    if kind == "other classes":
        data = DataLoader([{**row, "label": 1} for row in data.dataset], 4)
    count = {name: len(recorder.values(f"saliency/{name}")) for name in NOT_MEASURED}
    if kind == "another trainer":
        again = trainer(tmp_path / "again", monitor, logger=Recorder(tmp_path / "again"))
        again.validate(run.lightning_module, data, verbose=False)
        assert len(list((tmp_path / "again").rglob("film.html"))) == 1
    else:
        checkpoint = min((tmp_path / "kept").iterdir()) if kind == "an earlier checkpoint" else None
        state = repr(monitor.state_dict())
        (printed,) = run.validate(run.lightning_module, data, ckpt_path=checkpoint, verbose=False)
        assert repr(monitor.state_dict()) == state
        # What belongs to the film is not measured, and no value of the training run stands for it.
        measured = {name for name in NOT_MEASURED if f"saliency/{name}" in printed}
        assert measured == {"energy_in_box", "pointing_game", "position_bias", "content_bias"} - (
            {"position_bias", "content_bias"} if kind == "other classes" else set()
        )
        assert {name for name in NOT_MEASURED if len(recorder.values(f"saliency/{name}")) > count[name]} == measured
        assert (monitor._values.latest, list(monitor._sample.fingerprints)) == (latest, sample)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("before", ["a fit without validation", "a fit that failed", "a validation"])
def test_where_no_training_was_filmed_a_validation_is(tmp_path, before):
    class Failing(Module):
        def setup(self, stage):
            if stage == "fit":
                raise KeyError("nothing was read")

    run = trainer(tmp_path, SaliencyMonitor(num_images=2))
    if before == "a fit without validation":
        run.limit_val_batches = 0
        run.fit(Module(), loader(), loader())
        run.limit_val_batches = 1.0
    elif before == "a fit that failed":
        with pytest.raises(KeyError):
            run.fit(Failing(), loader(), loader())
    else:
        run.validate(Module(), loader(), verbose=False)
    run.validate(Module(), loader(), verbose=False)
    assert len(list(tmp_path.rglob("film.html"))) == 1


def test_training_goes_on_after_such_a_validation(tmp_path):
    run, recorder = _fit(tmp_path, SaliencyMonitor(num_images=2), epochs=2)
    module, others = run.lightning_module, DataLoader(Pictures(12, form="dict"), 4)
    run.validate(module, others, verbose=False)
    run.fit_loop.max_epochs = 4
    run.fit(module, loader(form="dict"), loader(form="dict"))
    frames = FilmRecords(tmp_path / "recorder" / "v" / "saliency" / "film").frames()
    assert [frame.epoch for frame in frames] == [-1, 0, 1, 2, 3]
    assert all(value < 1 for _, value in recorder.values("saliency/drift")[2:])


def test_a_fast_dev_run_writes_nothing(tmp_path):
    run = trainer(tmp_path, SaliencyMonitor(num_images=2, views=("lovi", "grad_cam")), fast_dev_run=True)
    run.fit(Module(), loader(), loader())
    assert not list(tmp_path.rglob("*.png"))
    assert not (tmp_path / "saliency").exists()


@pytest.mark.parametrize("precisions", [("32-true", "bf16-mixed"), ("bf16-true", "32-true"), ("64-true", "bf16-true")])
def test_resuming_in_another_precision_goes_on(tmp_path, precisions):
    checkpoint = tmp_path / "last.ckpt"
    run, _ = _fit(tmp_path, SaliencyMonitor(num_images=2), precision=precisions[0], enable_checkpointing=True)
    run.save_checkpoint(checkpoint)
    recorder, monitor = Recorder(tmp_path), SaliencyMonitor(num_images=2)
    again = trainer(tmp_path, monitor, logger=recorder, epochs=4, precision=precisions[1])
    again.fit(Module(), loader(form="dict"), loader(form="dict"), ckpt_path=checkpoint)
    assert _frames(tmp_path) == [-1, 0, 1, 2, 3]
    assert monitor._sample.followed
    assert len(monitor._sample.fingerprints) == 2
    assert recorder.values("saliency/drift")[0][1] < 1


class _Noted(Module):
    """Keeps the weights of each validation."""

    validated: list

    def validation_step(self, batch, batch_idx):
        self.validated.append(self.net.head[2].weight.detach().clone())
        return super().validation_step(batch, batch_idx)


@pytest.mark.parametrize(
    "averaging",
    [
        lambda: EMAWeightAveraging(decay=0.9),
        lambda: EMAWeightAveraging(decay=0.5, update_starting_at_epoch=1),
        lambda: StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_views_and_maps_are_of_the_weights_that_were_validated(tmp_path, monkeypatch, averaging, first):
    explained, original = [], MonitorFilm._explain

    def spy(self, run, *rest):
        explained.append(run.lightning_module.net.head[2].weight.detach().clone())
        return original(self, run, *rest)

    monkeypatch.setattr(MonitorFilm, "_explain", spy)
    module = _Noted()
    module.validated = []
    monitor = SaliencyMonitor(num_images=2, views=("grad_cam",), log_at_start=False)
    callbacks = [averaging(), monitor] if first else [monitor, averaging()]
    _fit(tmp_path, *callbacks, module=module, epochs=3, num_sanity_val_steps=0)
    per_epoch = module.validated[::4]
    assert len(explained) == len(per_epoch) >= 3
    assert all(torch.equal(one, other) for one, other in zip(explained, per_epoch, strict=True))
