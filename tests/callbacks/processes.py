"""Run as a script: two processes on the CPU train or predict by one of the strategies, and say what came of it.

``processes.py STRATEGY FOLDER TASK``
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import DTensor

from lightning_saliency import SaliencyMonitor
from lightning_saliency.callbacks import GroupCAMAugmentation, SaliencyAugmentation, SaliencyWriter
from lightning_saliency.pictures.film import Film
from tests.callbacks.monitor.helpers import SmallNet, loader

VIEWS = ("lovi", "combined", "grad_cam")
HIDE = {"class_path": "hide", "init_args": {"share": 0.1}}
TASKS: dict[str, Callable[[str], list[pl.Callback]]] = {
    "alone": lambda _: [],
    "watched": lambda _: [SaliencyMonitor(num_images=4, views=VIEWS)],
    "resumed": lambda _: [SaliencyMonitor(num_images=4, views=VIEWS)],
    "validated": lambda _: [SaliencyMonitor(num_images=4, views=VIEWS)],
    "hide": lambda _: [SaliencyAugmentation("smoe", action=HIDE)],
    "hide by the start": lambda _: [SaliencyAugmentation("smoe", action=HIDE, guide_network="start")],
    "group_cam": lambda _: [GroupCAMAugmentation(groups=4)],
    "maps": lambda folder: [SaliencyWriter(f"{folder}/maps", "grad_cam", size=None)],
}


class FSDPOnCPU(FSDPStrategy):
    """Lightning lets it run on GPUs alone, and does not tell torch which device is meant."""

    def _setup_model(self, model):
        policy = ModuleWrapPolicy({nn.Sequential})
        return FullyShardedDataParallel(model, device_id=torch.device("cpu"), auto_wrap_policy=policy, **self.kwargs)


class DeepSpeedOnCPU(DeepSpeedStrategy):
    """DeepSpeed runs on CPUs; Lightning lets it run on GPUs alone, which have numbers."""

    def setup_environment(self):
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self):
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def init_deepspeed(self):
        import deepspeed

        initialize = deepspeed.initialize

        def numbered(args, **options):
            args.device_rank = self.local_rank
            return initialize(args=args, **options)

        deepspeed.initialize = numbered
        try:
            super().init_deepspeed()
        finally:
            deepspeed.initialize = initialize


def strategy(how: str) -> Any:
    """The strategy of a name."""
    if how == "sharded":
        return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    if how.startswith("fsdp"):
        return FSDPOnCPU(process_group_backend="gloo", use_orig_params=how == "fsdp")
    if how.startswith("deepspeed"):
        os.environ["DS_ACCELERATOR"] = "cpu"
        return DeepSpeedOnCPU(stage=int(how.split()[1]), process_group_backend="gloo")
    return "ddp"


class Module(pl.LightningModule):
    """A classifier; ``how`` says when its layers are made, and whether it shards them itself."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.late = how == "sharded" or how.endswith("late")
        if not self.late:
            self.make()

    def configure_model(self):
        if self.late and not hasattr(self, "net"):
            self.make()

    def make(self):
        torch.manual_seed(0)
        self.net = SmallNet()
        self.net.head[1] = nn.Identity()  # Without dropout, whose numbers each strategy draws in its own order.
        for layer in self.net.features:
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 0.0
        if self.how == "sharded":
            mesh = self.device_mesh["data_parallel"]
            fully_shard(self.net.features, mesh=mesh)
            fully_shard(self.net, mesh=mesh)

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch["image"]), batch["label"])

    def validation_step(self, batch, batch_idx):
        return {"logits": self(batch["image"])}

    def predict_step(self, batch, batch_idx):
        return self(batch["image"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def weights(module: nn.Module) -> str:
    """A hash of what this process holds of the parameters and buffers."""
    digest = hashlib.sha256()
    for _, value in [*module.named_parameters(), *module.named_buffers()]:
        held = value.to_local() if isinstance(value, DTensor) else getattr(value, "ds_tensor", value)
        digest.update(held.detach().float().numpy().tobytes())
    return digest.hexdigest()


def main(how: str, folder: str, task: str) -> None:
    """Do the task, and print the values, with the weights of the first process."""

    def trainer(epochs: int) -> pl.Trainer:
        return pl.Trainer(
            accelerator="cpu",
            devices=2,
            strategy=strategy(how),
            max_epochs=epochs,
            callbacks=TASKS[task](folder),
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    run, module = trainer(2), Module(how)
    if task == "maps":
        run.predict(module, loader(form="dict"), return_predictions=False)
    elif task == "validated":
        run.validate(module, loader(form="dict"))
    else:
        run.fit(module, loader(form="dict"), loader(form="dict"))
    if task == "resumed":
        run.save_checkpoint(f"{folder}/two.ckpt")
        run, module = trainer(3), Module(how)
        run.fit(module, loader(form="dict"), loader(form="dict"), ckpt_path=f"{folder}/two.ckpt")
    if run.is_global_zero:
        values = {name: float(value) for name, value in run.callback_metrics.items()}
        print("VALUES", json.dumps({**values, "weights": weights(module)}))


class Run:
    """What a run of two processes left.

    Args:
        folder: For its files.
        how: The strategy.
        task: One of `TASKS`.
        fails: Whether it is to end with an error.
    """

    def __init__(self, folder: Path, how: str, task: str = "watched", *, fails: bool = False) -> None:
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self.folder = folder / f"{how} {task}"
        self.folder.mkdir(parents=True)
        done = subprocess.run(
            [sys.executable, __file__, how, str(self.folder), task],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        self.told = done.stderr
        assert (done.returncode != 0) == fails, done.stderr[-3000:]
        lines = [line for line in done.stdout.splitlines() if line.startswith("VALUES")]
        self.values: dict[str, float] = json.loads(lines[-1].removeprefix("VALUES")) if lines else {}
        self.weights = self.values.pop("weights", None)

    def frames(self) -> dict[tuple[str, int], bytes]:
        """The pictures of each view and epoch."""
        film = Film(self.folder / "saliency")
        return {(view, frame.epoch): frame.path.read_bytes() for view in film.views() for frame in film.frames(view)}


if __name__ == "__main__":
    main(*sys.argv[1:])
