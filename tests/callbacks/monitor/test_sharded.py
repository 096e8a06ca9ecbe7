"""A network whose parameters are spread over two processes is watched as a whole one is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_saliency.pictures.film import Film

_SCRIPT = """
import json, sys
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from lightning_saliency import SaliencyMonitor
from tests.callbacks.monitor.helpers import SmallNet, loader


class Module(pl.LightningModule):
    def configure_model(self):
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
    views = ("lovi", "combined", "grad_cam") if sys.argv[1] == "sharded" else ("lovi", "combined")
    run = pl.Trainer(
        accelerator="cpu", devices=2, strategy=strategy, max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=sys.argv[2],
        callbacks=[SaliencyMonitor(num_images=4, views=views)],
    )
    run.fit(Module(), loader(form="dict"), loader(form="dict"))
    if run.is_global_zero:
        values = {name: float(value) for name, value in run.callback_metrics.items()}
        print("VALUES", json.dumps(values))
"""


def _run(tmp_path: Path, how: str) -> tuple[dict[str, float], str]:
    script = tmp_path / "run.py"
    script.write_text(_SCRIPT)
    root = str(Path(__file__).parents[3])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, str(script), how, str(tmp_path / how)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("VALUES"))
    return json.loads(line.removeprefix("VALUES")), done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo")
def test_film_and_scalars_are_those_of_a_whole_network(tmp_path):
    whole, _ = _run(tmp_path, "whole")
    sharded, told = _run(tmp_path, "sharded")
    names = ("drift", "energy_in_box", "pointing_game", "position_bias", "content_bias")
    assert set(whole) == {f"saliency/{name}" for name in names}
    assert sharded == pytest.approx(whole, abs=1e-6)
    assert "leaves out the views grad_cam" in told
    films = {how: Film(tmp_path / how / "saliency") for how in ("whole", "sharded")}
    assert films["sharded"].views() == ["combined", "lovi"]
    for view in ("combined", "lovi"):
        frames = {how: film.frames(view) for how, film in films.items()}
        assert [frame.epoch for frame in frames["whole"]] == [-1, 0, 1]
        for one, other in zip(frames["whole"], frames["sharded"], strict=True):
            assert one.path.read_bytes() == other.path.read_bytes()
