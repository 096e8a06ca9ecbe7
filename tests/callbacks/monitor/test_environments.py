"""The monitor under both Lightning packages, mixed precision, compilation and several processes."""

import sys

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import nn

from lightning_saliency.callbacks import AugmentationConfigurationError, GroupCAMAugmentation, SaliencyMonitor
from lightning_saliency.callbacks.monitor import MonitorConfigurationError
from lightning_saliency.pictures.film import Film
from tests.callbacks.monitor.helpers import Module, Recorder, SmallNet, loader, trainer


def _frames(tmp_path, view="overview"):
    return [frame.epoch for frame in Film(tmp_path / "recorder" / "v" / "saliency").frames(view)]


class _Other(lightning.pytorch.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = SmallNet()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch["image"]), batch["label"])

    def validation_step(self, batch, batch_idx):
        return self(batch["image"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_the_lightning_package(tmp_path):
    class OtherRecorder(lightning.pytorch.loggers.Logger):
        def __init__(self):
            super().__init__()
            self.inner = Recorder(tmp_path)

        name, version = "recorder", "v"

        @property
        def save_dir(self):
            return str(tmp_path)

        def log_metrics(self, metrics, step=None):
            self.inner.log_metrics(metrics, step)

        def log_hyperparams(self, *args, **kwargs):
            pass

    recorder = OtherRecorder()
    run = trainer(tmp_path, SaliencyMonitor(), logger=recorder, package=lightning.pytorch)
    run.fit(_Other(), loader(form="dict"), loader(form="dict"))
    assert _frames(tmp_path) == [-1, 0, 1]
    assert len(recorder.inner.values("saliency/energy_in_box")) == 3


def test_pytorch_lightning_with_early_stopping_on_the_drift(tmp_path):
    stopping = pytorch_lightning.callbacks.EarlyStopping("saliency/drift", patience=1, mode="max")
    run = trainer(tmp_path, SaliencyMonitor(), stopping, epochs=6)
    run.fit(Module(), loader(), loader())
    assert run.current_epoch < 6


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precisions(tmp_path, precision):
    recorder = Recorder(tmp_path)
    run = trainer(tmp_path, SaliencyMonitor(), logger=recorder, precision=precision)
    run.fit(Module(), loader(form="dict"), loader(form="dict"))
    assert _frames(tmp_path) == [-1, 0, 1]
    assert all(0 < value < 1 for _, value in recorder.values("saliency/energy_in_box"))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["wrapped", "in place"])
def test_compiled_networks(tmp_path, form):
    torch._dynamo.reset()
    net = SmallNet()
    recorder = Recorder(tmp_path)
    if form == "in place":
        net.compile()
        module = Module(net)
    else:
        module = Module(torch.compile(net))
    run = trainer(tmp_path, SaliencyMonitor(), logger=recorder)
    run.fit(module, loader(form="dict"), loader(form="dict"))
    assert _frames(tmp_path) == [-1, 0, 1]
    assert len(recorder.values("saliency/energy_in_box")) == 3
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_another_default_type(tmp_path, recwarn, dtype):
    torch.set_default_dtype(dtype)
    try:
        recorder = Recorder(tmp_path)
        run = trainer(tmp_path, SaliencyMonitor(views=("lovi", "mean", "grad_cam")), logger=recorder)
        data = [loader(form="dict") for _ in range(2)]
        run.fit(_AsFloats(SmallNet().float()), *data)
    finally:
        torch.set_default_dtype(torch.float32)
    assert not [each for each in recwarn if "SaliencyMonitor" in str(each.message)]
    assert [len(_frames(tmp_path, view)) for view in ("lovi", "mean", "grad_cam")] == [3, 3, 3]
    assert len(recorder.values("saliency/position_bias")) == 3


class _AsFloats(Module):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return {**batch, "image": batch["image"].float()}


class _Noisy(SmallNet):
    """Makes a tensor of the default type."""

    def forward(self, x):
        return super().forward(x + 0.01 * torch.ones(x.shape))


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_compiled_networks_are_probed_in_the_precision_of_the_run(tmp_path, precision):
    torch._dynamo.reset()
    net = _Noisy()
    net.features.compile(backend="eager")
    trainer(tmp_path, SaliencyMonitor(), precision=precision, epochs=1).fit(Module(net), loader(8), loader(8))
    assert _frames(tmp_path) == [-1, 0]
    torch._dynamo.reset()


@pytest.mark.slow
def test_a_network_compiled_and_called_before_says_so(tmp_path):
    torch._dynamo.reset()
    net = torch.compile(SmallNet())
    module = Module(net)
    module.eval()
    with torch.no_grad():
        for count in (4, 4):
            module(torch.rand(count, 3, 16, 16))
    module.train()
    run = trainer(tmp_path, SaliencyMonitor(log_at_start=True), epochs=1)
    with pytest.warns(UserWarning, match=r"torch\.compiler\.reset"):
        run.fit(module, loader(), loader())
    assert run.global_step == 4
    torch._dynamo.reset()


class FullyShardedDataParallel(nn.Module):
    """Of this name and form, as torch's own."""

    def __init__(self, inner):
        super().__init__()
        self._fsdp_wrapped_module = inner

    def forward(self, x):
        return self._fsdp_wrapped_module(x)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("_fsdp_wrapped_module"), name)


class _FSDPStrategy(SingleDeviceStrategy):
    pass


class _OurStrategy(_FSDPStrategy):
    pass


class _Wrapping(Module):
    def configure_model(self):
        if not isinstance(self.net, FullyShardedDataParallel):
            self.net = FullyShardedDataParallel(self.net)


class _Marking(Module):
    def configure_model(self):
        for number, parameter in enumerate(self.parameters()):
            parameter.ds_id = number


SHARDED = {
    "a strategy made of another": (Module, lambda: {"strategy": _OurStrategy("cpu")}),
    "modules wrapped by the user": (_Wrapping, dict),
    "DeepSpeed's third stage": (_Marking, dict),
}


@pytest.mark.parametrize("kind", SHARDED)
def test_a_sharded_network_is_never_run_by_one_process(tmp_path, kind):
    module, options = SHARDED[kind]
    run = trainer(tmp_path, SaliencyMonitor(views=("lovi", "grad_cam")), **options())
    with pytest.warns(UserWarning, match="leaves out the views grad_cam: the network's parameters are spread"):
        run.fit(module(), loader(form="dict"), loader(form="dict"))
    assert Film(tmp_path / "recorder" / "v" / "saliency").views() == ["lovi"]
    own = trainer(tmp_path, SaliencyMonitor(images=torch.rand(2, 3, 16, 16)), **options())
    with pytest.raises(MonitorConfigurationError, match=r"images= with a network whose parameters are spread"):
        own.fit(module(), loader(), loader())
    augmented = trainer(tmp_path, GroupCAMAugmentation(groups=4), **options())
    with pytest.raises(AugmentationConfigurationError, match="spreads the parameters"):
        augmented.fit(module(), loader())


WATCHED = {
    "by default": lambda: SaliencyMonitor(),
    "with class views": lambda: SaliencyMonitor(views=("lovi", "grad_cam")),
    "in training": lambda: SaliencyMonitor(stage="train"),
    "augmented with probability 0": lambda: GroupCAMAugmentation(probability=0.0),
}


class _Telling(Module):
    """Leaves what each process ends with in a file."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_train_end(self):
        told = [*self.state_dict().values(), torch.tensor(self.losses), torch.rand(1)]
        torch.save(told, self.folder / f"end{self.global_rank}.pt")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo by fork")
@pytest.mark.parametrize("unused", ["", "_find_unused_parameters_true"])
def test_two_processes_train_as_they_do_alone(tmp_path, unused):
    ends = {}
    for name, make in {"alone": None, **WATCHED}.items():
        folder = tmp_path / name
        folder.mkdir()
        pytorch_lightning.seed_everything(7)
        callbacks = [] if make is None else [make()]
        run = trainer(folder, *callbacks, strategy=f"ddp_fork{unused}", devices=2)
        run.fit(_Telling(folder), loader(12, shuffle=True, form="dict"), loader(8, form="dict"))
        ends[name] = [torch.load(folder / f"end{rank}.pt") for rank in range(2)]
    assert not torch.equal(ends["alone"][0][-2], ends["alone"][1][-2])
    for name in WATCHED:
        for one, other in zip(ends["alone"], ends[name], strict=True):
            assert all(map(torch.equal, one, other)), name


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo by fork")
def test_two_processes(tmp_path):
    recorder = Recorder(tmp_path)
    run = trainer(tmp_path, SaliencyMonitor(), logger=recorder, strategy="ddp_fork", devices=2, epochs=2)
    run.fit(Module(), loader(12, form="dict"), loader(10, batch_size=2, form="dict"))
    assert _frames(tmp_path) == [-1, 0, 1]
    # The processes' recorders do not come back; the metrics of the last epoch do.
    assert 0 < run.callback_metrics["saliency/energy_in_box"] < 1
    assert run.callback_metrics["saliency/drift"] < 2
    # Ten images, five in each process.
    assert 0 <= run.callback_metrics["saliency/position_bias"] <= 1
