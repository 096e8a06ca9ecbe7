"""A network whose parameters are spread over two processes is watched as a whole one is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_saliency.pictures.film import Film

_SCRIPT = """
import hashlib, json, sys
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import DTensor
from lightning_saliency import SaliencyMonitor
from tests.callbacks.monitor.helpers import SmallNet, loader


class OnCPU(FSDPStrategy):
    # Lightning lets FSDPStrategy itself run on GPUs alone, and does not tell torch which device is meant.
    def _setup_model(self, model):
        policy = ModuleWrapPolicy({nn.Sequential})
        return FullyShardedDataParallel(model, device_id=torch.device("cpu"), auto_wrap_policy=policy, **self.kwargs)


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        if sys.argv[1].startswith("fsdp"):
            self.make()

    def configure_model(self):
        if not sys.argv[1].startswith("fsdp"):
            self.make()

    def make(self):
        torch.manual_seed(0)
        self.net = SmallNet()
        self.net.head[1] = nn.Identity()  # Without dropout, whose numbers each strategy draws in its own order.
        for layer in self.net.features:
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 0.0
        if sys.argv[1] == "sharded":
            mesh = self.device_mesh["data_parallel"]
            fully_shard(self.net.features, mesh=mesh)
            fully_shard(self.net, mesh=mesh)

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch["image"]), batch["label"])

    def validation_step(self, batch, batch_idx):
        return {"logits": self(batch["image"])}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


if __name__ == "__main__":
    strategy = "ddp"
    if sys.argv[1] == "sharded":
        strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    if sys.argv[1].startswith("fsdp"):
        strategy = OnCPU(process_group_backend="gloo", use_orig_params=sys.argv[1] == "fsdp")
    views = ("lovi", "combined") if sys.argv[1] == "whole" else ("lovi", "combined", "grad_cam")
    watched = [SaliencyMonitor(num_images=4, views=views)] if sys.argv[3] == "watched" else []
    run = pl.Trainer(
        accelerator="cpu", devices=2, strategy=strategy, max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=sys.argv[2],
        callbacks=watched,
    )
    module = Module()
    run.fit(module, loader(form="dict"), loader(form="dict"))
    digest = hashlib.sha256()
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        value = value.detach()
        digest.update((value.to_local() if isinstance(value, DTensor) else value).float().numpy().tobytes())
    if run.is_global_zero:
        values = {name: float(value) for name, value in run.callback_metrics.items()}
        print("VALUES", json.dumps({**values, "weights": digest.hexdigest()}))
"""


def _run(tmp_path: Path, how: str, *, watched: bool = True) -> tuple[dict[str, float], str, str]:
    """The values and what the first process holds of the weights, and what was printed."""
    tmp_path.mkdir(exist_ok=True)
    script = tmp_path / "run.py"
    script.write_text(_SCRIPT)
    root = str(Path(__file__).parents[3])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, str(script), how, str(tmp_path / how), "watched" if watched else "alone"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("VALUES"))
    values = json.loads(line.removeprefix("VALUES"))
    return values, values.pop("weights"), done.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, _run(folder, "whole")[0]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo")
@pytest.mark.parametrize(
    "how",
    [
        "sharded",
        pytest.param("fsdp", marks=pytest.mark.thorough),
        pytest.param("fsdp, flat", marks=pytest.mark.thorough),
    ],
)
def test_film_and_scalars_are_those_of_a_whole_network(tmp_path, whole, how):
    folder, values = whole
    sharded, _, told = _run(tmp_path, how)
    names = ("drift", "energy_in_box", "pointing_game", "position_bias", "content_bias")
    assert set(values) == {f"saliency/{name}" for name in names}
    assert sharded == pytest.approx(values, abs=1e-6)
    assert "leaves out the views grad_cam" in told
    films = {"whole": Film(folder / "whole" / "saliency"), how: Film(tmp_path / how / "saliency")}
    assert films[how].views() == ["combined", "lovi"]
    for view in ("combined", "lovi"):
        frames = {name: film.frames(view) for name, film in films.items()}
        assert [frame.epoch for frame in frames["whole"]] == [-1, 0, 1]
        for one, other in zip(frames["whole"], frames[how], strict=True):
            assert one.path.read_bytes() == other.path.read_bytes()


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo")
@pytest.mark.parametrize("how", ["sharded", "fsdp", "fsdp, flat"])
def test_training_is_bit_identical(tmp_path, how):
    assert _run(tmp_path / "watched", how)[1] == _run(tmp_path / "alone", how, watched=False)[1]
