"""What the monitor logs, when, and what it does with bad input."""

import functools
import logging
import warnings

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_saliency.callbacks import MonitorConfigurationError, SaliencyMonitor
from lightning_saliency.callbacks.monitor.film import MonitorFilm
from lightning_saliency.explainers import FastCAM, GradCAM, GroupCAM
from lightning_saliency.functional.statistics import STATISTICS
from lightning_saliency.pictures.film import Film
from lightning_saliency.pictures.page import FilmRecords
from lightning_saliency.scales.find import find_scales, named_scales
from lightning_saliency.scales.maps import ScaleMaps
from tests.callbacks.monitor.helpers import Module, Pictures, Recorder, SmallNet, loader, trainer


def _hook_counts(module):
    return [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in module.modules()]


def _fit(tmp_path, monitor, module=None, train=None, val=None, **options):
    pl.seed_everything(1, workers=True)
    module = module or Module()
    recorder = Recorder(tmp_path)
    run = trainer(tmp_path, monitor, logger=recorder, **options)
    run.fit(module, train or loader(), val if val is not None else loader())
    return run, module, recorder


def _film(tmp_path, name="saliency"):
    return Film(tmp_path / "recorder" / "v" / name)


def test_frames_of_every_epoch_and_of_the_untrained_network(tmp_path):
    _, _, recorder = _fit(tmp_path, SaliencyMonitor(), epochs=3)
    film = _film(tmp_path)
    assert sorted(film.views()) == ["overview"]
    assert [frame.epoch for frame in film.frames("overview")] == [-1, 0, 1, 2]
    # On the same axis as the metrics that Lightning logs in the same epochs.
    steps = [step for step, _ in recorder.values("val/loss")]
    assert [frame.step for frame in film.frames("overview")] == [0, *steps]
    assert [step for step, _ in recorder.values("saliency/drift")] == [0, *steps]


def test_every_n_epochs_and_no_start(tmp_path):
    _fit(tmp_path, SaliencyMonitor(every_n_epochs=2, log_at_start=False, views=("scales",)), epochs=4)
    assert [frame.epoch for frame in _film(tmp_path).frames("scales")] == [1, 3]


def test_the_sample_holds_the_maps_of_the_modules_own_pass(tmp_path, monkeypatch):
    kept = []
    monitor = SaliencyMonitor(num_images=6, log_at_start=False)
    monkeypatch.setattr(monitor._sample, "end", lambda: kept.append(dict(monitor._sample.records)) or False)
    _, module, _ = _fit(tmp_path, monitor, epochs=1)
    images = torch.stack([loader().dataset[index][0] for index in range(6)])
    module.eval()
    with torch.no_grad():
        activations = module.net.features[:3](images)
        logits = module(images)
    (records,) = kept
    assert sorted(records) == list(range(6))
    for slot, record in records.items():
        torch.testing.assert_close(record.image, images[slot])
        torch.testing.assert_close(
            record.statistics[0], STATISTICS["smoe_scale"](activations)[slot], rtol=1e-4, atol=1e-5
        )
        assert record.label == slot % 4
        assert record.prediction == int(logits[slot].argmax())


def test_no_extra_forward_pass_and_no_extra_batch(tmp_path):
    def count(monitor):
        calls, fetched = [], []
        module = Module()
        module.net.register_forward_pre_hook(lambda *_: calls.append(1))
        train, val = loader(), loader()
        original = type(val.dataset).__getitem__
        for data in (train.dataset, val.dataset):
            data.__class__ = type(
                "Counting", (type(data),), {"__getitem__": lambda self, i: fetched.append(i) or original(self, i)}
            )
        _fit(tmp_path, *([monitor] if monitor else [pl.Callback()]), module=module, train=train, val=val)
        return len(calls), len(fetched)

    calls, fetched = count(None)
    assert count(SaliencyMonitor(num_images=8)) == (calls, fetched)


def test_a_shuffled_loader_shows_the_same_images(tmp_path, monkeypatch):
    seen = []
    monitor = SaliencyMonitor(num_images=3)
    monkeypatch.setattr(
        monitor._sample,
        "end",
        lambda: seen.append([monitor._sample.records[s].image for s in sorted(monitor._sample.records)]) or False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _fit(tmp_path, monitor, val=loader(shuffle=True), epochs=3, num_sanity_val_steps=-1)
    assert len(seen) == 4
    for images in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(images, seen[0], strict=True))


def test_images_that_never_come_back_are_said_and_replaced(tmp_path):
    class Noisy(type(loader().dataset)):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image + torch.rand(()), label

    val = torch.utils.data.DataLoader(Noisy(8), batch_size=4)
    with pytest.warns(UserWarning, match="changes them at random"):
        _fit(tmp_path, SaliencyMonitor(num_images=2), val=val, epochs=3)
    # The epoch in which nothing came back has no frame; the ones after it do.
    assert [frame.epoch for frame in _film(tmp_path).frames("overview")] == [-1, 1, 2]


def test_scalars_each_epoch(tmp_path):
    _, _, recorder = _fit(tmp_path, SaliencyMonitor(), train=loader(form="dict"), val=loader(form="dict"), epochs=3)
    for name in ("drift", "energy_in_box", "pointing_game"):
        values = recorder.values(f"saliency/{name}")
        assert values[0][0] == 0, name
        assert len(values) == 4, name
    drift = [value for _, value in recorder.values("saliency/drift")]
    assert drift[0] == 1
    assert all(0 < value < 2 for value in drift[1:])


def test_a_network_that_does_not_learn_does_not_drift(tmp_path):
    module = Module(learning_rate=0.0)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 0.0
    _, _, recorder = _fit(tmp_path, SaliencyMonitor(), module=module)
    assert [value for _, value in recorder.values("saliency/drift")][1:] == pytest.approx([0, 0], abs=1e-4)


def test_box_scalars_are_means_over_every_validation_image(tmp_path):
    monitor = SaliencyMonitor(num_images=2, weights="ramp")
    _, module, recorder = _fit(tmp_path, monitor, train=loader(form="dict"), val=loader(10, form="dict"), epochs=1)
    images = torch.stack([loader(10).dataset[index][0] for index in range(10)])
    module.eval()
    with torch.no_grad():
        first = module.net.features[:3](images)
        second = module.net.features[:7](images)
    statistics = [STATISTICS["smoe_scale"](first), STATISTICS["smoe_scale"](second)]
    combined = ScaleMaps.from_statistics(statistics, ["a", "b"], "ramp").combined()
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[2:10, 2:10] = True
    energy = (combined * inside).flatten(1).sum(1) / combined.flatten(1).sum(1)
    hits = inside.flatten()[combined.flatten(1).argmax(1)].float()
    assert recorder.values("saliency/energy_in_box")[-1][1] == pytest.approx(energy.mean().item(), abs=1e-4)
    assert recorder.values("saliency/pointing_game")[-1][1] == pytest.approx(hits.mean().item(), abs=1e-4)


def test_early_stopping_can_watch_the_drift(tmp_path):
    stopping = pl.callbacks.EarlyStopping("saliency/drift", mode="min", stopping_threshold=5.0, patience=50)
    module, recorder = Module(), Recorder(tmp_path)
    run = trainer(tmp_path, SaliencyMonitor(), stopping, logger=recorder, epochs=5)
    run.fit(module, loader(), loader())
    assert run.current_epoch == 1


def test_training_stage_watches_training_batches(tmp_path):
    _, _, recorder = _fit(tmp_path, SaliencyMonitor(stage="train", name="training"), epochs=2)
    assert [frame.epoch for frame in _film(tmp_path, "training").frames("overview")] == [0, 1]
    assert len(recorder.values("training/position_bias")) == 2


def test_training_stage_needs_no_validation(tmp_path):
    module = Module()
    trainer(tmp_path, SaliencyMonitor(stage="train"), epochs=1).fit(module, loader())


def test_test_stage_and_validate_alone(tmp_path):
    module, recorder = Module(), Recorder(tmp_path)
    monitors = [SaliencyMonitor(stage="test", name="tested"), SaliencyMonitor()]
    run = trainer(tmp_path, *monitors, logger=recorder)
    run.validate(module, loader(), verbose=False)
    run.test(module, loader(), verbose=False)
    assert len(_film(tmp_path).frames("overview")) == 1
    assert len(_film(tmp_path, "tested").frames("overview")) == 1
    assert recorder.values("tested/position_bias")
    assert _hook_counts(module) == _hook_counts(Module())


def test_a_submodule_and_its_layers_by_name(tmp_path, monkeypatch):
    monitor = SaliencyMonitor(model="net.features", layers=("2", "7:input"), views=("scales",))
    kept = []
    monkeypatch.setattr(monitor._film, "normalization", lambda *_: kept.append(monitor._watching.reading.names))
    _fit(tmp_path, monitor, epochs=1)
    assert kept[0] == ("2", "7:input")


def test_scales_are_called_as_layers_takes_them(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        _, module, _ = _fit(tmp_path, SaliencyMonitor(num_images=1), epochs=1)
    told = next(record.getMessage() for record in caplog.records if "watches" in record.getMessage())
    assert told == "SaliencyMonitor watches 2 scales: net.features.3:input 16×16, net.features.7:input 8×8"
    store = FilmRecords(tmp_path / "recorder" / "v" / "saliency" / "film")
    names = store.read(store.frames()[-1]).scales
    assert names == ["net.features.3:input", "net.features.7:input"]
    scales = find_scales(module, torch.rand(1, 3, 16, 16))
    assert named_scales(module, names, torch.rand(1, 3, 16, 16)) == scales


class _Sorted(Pictures):
    """The first half of class 0, the others of class 1."""

    def __getitem__(self, index):
        return super().__getitem__(index)[0], int(index >= self.count // 2)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, ["all 3 images are of class 0. indices='one_per_class' shows others."]),
        ({"class_names": ["cat", "dog"]}, ["all 3 images are of class cat. indices='one_per_class' shows others."]),
        ({"indices": [0, 1]}, []),
        ({"indices": "one_per_class"}, []),
        ({"num_images": 16}, []),
    ],
)
def test_a_film_of_one_class_alone_is_told_of_once(tmp_path, caplog, options, told):
    monitor = SaliencyMonitor(**{"num_images": 3, **options})
    with caplog.at_level(logging.INFO):
        trainer(tmp_path, monitor, epochs=3).fit(Module(), loader(), DataLoader(_Sorted(16), batch_size=4))
    lines = [record.getMessage().partition("SaliencyMonitor shows one class alone: ") for record in caplog.records]
    assert [text for _, found, text in lines if found] == told


def test_nothing_is_told_where_there_is_one_class(tmp_path, caplog):
    class OfOne(Pictures):
        def __getitem__(self, index):
            return super().__getitem__(index)[0], 0

    with caplog.at_level(logging.INFO):
        trainer(tmp_path, SaliencyMonitor(num_images=3), epochs=1).fit(
            Module(), loader(), DataLoader(OfOne(16), batch_size=4)
        )
    assert not any("one class" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("views", [("ovrlay",), "lovi,ovrlay", {"ovrlay": None}])
def test_a_mistyped_view_is_told_the_one_meant(views):
    with pytest.raises(MonitorConfigurationError, match="Did you mean 'overlay'") as raised:
        SaliencyMonitor(views=views)
    assert len(str(raised.value)) < 200  # without the list of all explainers
    with pytest.raises(MonitorConfigurationError, match="Did you mean 'score_cam'"):
        SaliencyMonitor(views="scale_cam")


@pytest.mark.parametrize("several", [True, False])
def test_layers_may_be_given_as_modules(tmp_path, several, monkeypatch):
    module = Module()
    layer = module.net.features[2]
    monitor = SaliencyMonitor(layers=[layer, "net.features.7:input"] if several else layer, views=("scales",))
    kept = []
    monkeypatch.setattr(monitor._film, "normalization", lambda *_: kept.append(monitor._watching.reading.names))
    trainer(tmp_path, monitor, epochs=1).fit(module, loader(), loader())
    assert kept[0] == (("net.features.2", "net.features.7:input") if several else ("net.features.2",))
    with pytest.raises(ValueError, match="is no module of Module"):
        trainer(tmp_path, SaliencyMonitor(layers=[Module().net.features[2]])).fit(module, loader(), loader())


def test_class_specific_views_are_the_explainers_maps(tmp_path, monkeypatch):
    drawn = []
    original = MonitorFilm._explain

    def spy(self, run, spec, images, targets):
        maps = original(self, run, spec, images, targets)
        drawn.append((spec.name, images, targets, maps))
        return maps

    monkeypatch.setattr(MonitorFilm, "_explain", spy)
    monitor = SaliencyMonitor(num_images=4, views=("lovi", "fast_cam", "group_cam"), log_at_start=False)
    _, module, _ = _fit(tmp_path, monitor, epochs=1)
    assert sorted(_film(tmp_path).views()) == ["fast_cam", "group_cam", "lovi"]
    (view, images, targets, maps), _ = drawn
    assert view == "fast_cam"
    assert targets.tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(maps, FastCAM(module)(images, targets))


@pytest.mark.parametrize(
    "explainer",
    [
        {"class_path": "group_cam", "init_args": {"groups": 3}},
        {"class_path": "lightning_saliency.explainers.GroupCAM", "init_args": {"groups": 3}},
        functools.partial(GroupCAM, groups=3),
        lambda network: GroupCAM(network, groups=3),
    ],
)
def test_views_are_explainers_in_any_form_under_names_of_ones_own(tmp_path, monkeypatch, explainer):
    drawn = []
    original = MonitorFilm._explain

    def spy(self, *arguments):
        drawn.append((*arguments[2:], original(self, *arguments)))
        return drawn[-1][2]

    monkeypatch.setattr(MonitorFilm, "_explain", spy)
    views = {"three_groups": explainer, "lovi": None, "grad_cam": None}
    _, module, _ = _fit(tmp_path, SaliencyMonitor(num_images=4, views=views, log_at_start=False), epochs=1)
    assert sorted(_film(tmp_path).views()) == ["grad_cam", "lovi", "three_groups"]
    for (images, targets, maps), expected in zip(drawn, (GroupCAM(module, groups=3), GradCAM(module)), strict=True):
        torch.testing.assert_close(maps, expected(images, targets))


@pytest.mark.parametrize("statistic", ["std", "truncnormal_entropy"])
def test_other_statistics(tmp_path, statistic):
    _fit(tmp_path, SaliencyMonitor(statistic=statistic), epochs=1)
    assert len(_film(tmp_path).frames("overview")) == 2


@pytest.mark.parametrize("fails_in", ["training_step", "validation_step"])
def test_hooks_and_flags_are_as_before_when_the_run_raises(tmp_path, fails_in):
    module = Module()
    module.net.features[1].eval()
    before, flags = _hook_counts(module), [m.training for m in module.modules()]

    def broken(batch, batch_idx):
        raise RuntimeError("the user's own error")

    setattr(module, fails_in, broken)
    with pytest.raises(RuntimeError, match="the user's own error"):
        trainer(tmp_path, SaliencyMonitor()).fit(module, loader(), loader())
    assert _hook_counts(module) == before
    if fails_in == "training_step":
        assert [m.training for m in module.modules()] == flags


def test_an_error_in_watching_is_one_warning_and_the_run_goes_on(tmp_path, monkeypatch):
    module = Module()
    monitor = SaliencyMonitor()

    def broken(*args, **kwargs):
        raise ArithmeticError("in the monitor")

    monkeypatch.setattr("lightning_saliency.callbacks.monitor.film.Frame", broken)
    with pytest.warns(UserWarning, match="ArithmeticError: in the monitor.*goes on without it") as caught:
        run, module, recorder = _fit(tmp_path, monitor, module=module, epochs=3)
    assert run.current_epoch == 3
    assert sum("goes on without it" in str(w.message) for w in caught) == 1
    # The numbers do not need the pictures.
    assert len(recorder.values("saliency/drift")) == 4
    assert _hook_counts(module) == _hook_counts(Module())


def test_no_validation_is_refused_before_training(tmp_path):
    module = Module()
    with pytest.raises(MonitorConfigurationError, match=r"stage='train'"):
        trainer(tmp_path, SaliencyMonitor()).fit(module, loader())
    assert module.losses == []


def test_validation_switched_off_is_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="limit_val_batches is 0"):
        run, _, _ = _fit(tmp_path, SaliencyMonitor(), limit_val_batches=0, epochs=1)
    assert run.global_step == 4


@pytest.mark.parametrize(
    ("monitor", "data", "net", "message"),
    [
        ({}, {"form": "features"}, nn.Sequential(nn.Linear(768, 4)), r"no images.*Tensor\[4, 768\]"),
        ({"image_key": "picture"}, {}, None, "image_key='picture'"),
        ({"layers": ("net.features.9",)}, {}, None, "net.features.9"),
        ({}, {}, nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), "scale"),
        ({"weights": "prior"}, {}, None, "five|5"),
        ({"weights": (1.0, 2.0, 3.0)}, {}, None, "2"),
        ({"views": {"mine": {"class_path": "group_cam", "init_args": {"groups": 0}}}}, {}, None, "groups=0"),
    ],
)
def test_bad_input_is_refused_before_training(tmp_path, monitor, data, net, message):
    module = Module(net)
    before = _hook_counts(module)
    with pytest.raises(MonitorConfigurationError, match=message):
        trainer(tmp_path, SaliencyMonitor(**monitor)).fit(module, loader(**data), loader(**data))
    assert module.losses == []
    assert _hook_counts(module) == before


@pytest.mark.parametrize(
    "options",
    [
        {"every_n_epochs": 0},
        {"num_images": -1},
        {"views": ("lovi", "heat")},
        {"views": ()},
        {"views": ("lovi", "lovi")},
        {"views": {"lovi": "grad_cam"}},
        {"views": {"mine": None}},
        {"views": {"mine": {"class_path": "group_cam", "init_args": {"grups": 4}}}},
        {"views": {"mine": {"name": "group_cam"}}},
        {"stage": "predict"},
        {"denormalize": (0.5, 0.5)},
        {"denormalize": "cifar"},
        {"film_megabytes": 0},
        {"film_megabytes": -1.5},
        {"film_megabytes": float("nan")},
    ],
)
def test_options_that_make_no_sense(options):
    with pytest.raises(MonitorConfigurationError, match=r"Got .*Allowed"):
        SaliencyMonitor(**options)


def test_an_unknown_submodule_lists_the_children(tmp_path):
    with pytest.raises(MonitorConfigurationError, match=r"no submodule 'backbone'.*net"):
        trainer(tmp_path, SaliencyMonitor(model="backbone")).fit(Module(), loader(), loader())


def test_a_module_without_forward_is_watched_through_its_only_child(tmp_path):
    class NoForward(Module):
        forward = pl.LightningModule.forward

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch, batch_idx):
            return self.net(batch[0])

    _fit(tmp_path, SaliencyMonitor(), module=NoForward(), epochs=1)
    assert len(_film(tmp_path).frames("overview")) == 2

    module = NoForward()
    module.other = nn.Linear(2, 2)
    with pytest.raises(MonitorConfigurationError, match=r"net, other.*model='name'"):
        trainer(tmp_path, SaliencyMonitor()).fit(module, loader(), loader())


@pytest.mark.parametrize("channels", [1, 12])
def test_grey_and_many_channel_images(tmp_path, channels):
    data = loader(channels=channels)
    _fit(tmp_path, SaliencyMonitor(), module=Module(SmallNet(channels)), train=data, val=data, epochs=1)
    assert len(_film(tmp_path).frames("overview")) == 2


def test_sizes_that_change_from_batch_to_batch(tmp_path):
    data = loader(sizes=(16, 24))
    _fit(tmp_path, SaliencyMonitor(num_images=8), train=data, val=data, epochs=2)
    assert len(_film(tmp_path).frames("overview")) == 3


def test_nan_activations_do_not_end_the_run(tmp_path):
    run, _, _ = _fit(tmp_path, SaliencyMonitor(), train=loader(form="nan"), val=loader(form="nan"))
    assert run.current_epoch == 2
    assert len(_film(tmp_path).frames("overview")) == 3


def test_an_unwritable_folder_is_a_warning(tmp_path):
    blocked = tmp_path / "recorder"
    blocked.write_text("a file where the folder should be")
    with pytest.warns(RuntimeWarning, match="could not keep start-step"):
        run, _, _ = _fit(tmp_path, SaliencyMonitor(), epochs=2)
    assert run.current_epoch == 2


def test_a_failing_logger_does_not_end_the_run(tmp_path):
    class Failing(Recorder):
        def log_metrics(self, metrics, step=None):
            if any(name.startswith("saliency") for name in metrics) and step == 0:
                raise OSError("disk full")

    run = trainer(tmp_path, SaliencyMonitor(), logger=Failing(tmp_path))
    with pytest.warns(UserWarning, match="disk full"):
        run.fit(Module(), loader(), loader())
    assert run.current_epoch == 2


def test_unknown_ranges_are_said_once(tmp_path):
    class Shifted(type(loader().dataset)):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image * 4 - 2, label

    data = torch.utils.data.DataLoader(Shifted(8), batch_size=4)
    with pytest.warns(UserWarning, match="denormalize='imagenet'") as caught:
        _fit(tmp_path, SaliencyMonitor(), train=data, val=data, epochs=2)
    assert sum("denormalize" in str(w.message) for w in caught) == 1


def test_memory_is_flat_over_many_batches(tmp_path):
    sizes = []

    class Watch(pl.Callback):
        def on_validation_batch_end(self, run, module, outputs, batch, batch_idx, dataloader_idx=0):
            if batch_idx in (20, 199):
                import gc

                gc.collect()
                sizes.append(sum(1 for o in gc.get_objects() if isinstance(o, torch.Tensor)))

    monitor = SaliencyMonitor(log_at_start=False)
    run = trainer(tmp_path, monitor, Watch(), epochs=1, num_sanity_val_steps=0)
    run.fit(Module(), loader(4, form="dict"), loader(200, batch_size=1, form="dict"))
    # Two sums a batch are kept on the device; nothing of an image's size may be.
    assert len(sizes) == 2
    assert sizes[1] - sizes[0] <= 2 * 180


def test_resuming_continues_the_same_film(tmp_path):
    pl.seed_everything(3)
    first = trainer(tmp_path, SaliencyMonitor(num_images=3), epochs=2, enable_checkpointing=True)
    first.fit(Module(), loader(), loader())
    checkpoint = tmp_path / "last.ckpt"
    first.save_checkpoint(checkpoint)
    monitor, recorder = SaliencyMonitor(num_images=3), Recorder(tmp_path)
    second = trainer(tmp_path, monitor, logger=recorder, epochs=4)
    second.fit(Module(), loader(), loader(), ckpt_path=checkpoint)
    assert [frame.epoch for frame in _film(tmp_path).frames("overview")] == [-1, 0, 1, 2, 3]
    drift = [value for _, value in recorder.values("saliency/drift")]
    assert len(drift) == 2
    assert drift[0] < 1, "the first drift after resuming is measured against the map before it"
