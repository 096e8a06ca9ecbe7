"""Ways of training, several at once: bit for bit the same with the monitor as without it.

Each row takes one value of every dimension. Together they hold each pair of values of any two dimensions at least once,
where Lightning allows the pair.
"""

import itertools
import random

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_saliency.callbacks import GroupCAMAugmentation, SaliencyMonitor
from tests.callbacks.monitor.helpers import SmallNet, loader
from tests.callbacks.monitor.test_state import NETWORKS

DIMENSIONS = {
    "package": [pytorch_lightning, lightning.pytorch],
    "precision": ["32-true", "bf16-mixed", "64-true", "bf16-true"],
    "accumulate": [1, 2],
    "averaging": [None, "EMAWeightAveraging", "StochasticWeightAveraging"],
    "inference_mode": [True, False],
    "workers": [0, 1],
    "optimisation": ["automatic", "manual"],
    "checkpointed": [False, True],
    "resumed": [False, True],
    "views": [("lovi",), ("lovi", "grad_cam", "fast_cam")],
    "stage": ["validate", "train"],
    "sanity_steps": [0, 2],
    "compiled": [None, "in place", "wrapped"],
    "network": [SmallNet, *NETWORKS],
    "augmented": [False, True],
}


def _goes_together(row):
    # Lightning's own limits: accumulation and weight averaging belong to automatic optimisation.
    manual = row["optimisation"] == "manual"
    if (manual and (row["accumulate"] > 1 or row["averaging"])) or (row["resumed"] and row["averaging"]):
        return False
    # Torch's own: a BatchNorm counts its batches in place, which a checkpoint inside a compiled network does not bear.
    return not (row["compiled"] and row["checkpointed"])


def _rows():
    """Rows that cover all pairs, the one of many drawn at random that covers most first."""
    draw = random.Random(5)
    sizes = [len(values) for values in DIMENSIONS.values()]

    def row_of(numbers):
        return {name: values[number] for (name, values), number in zip(DIMENSIONS.items(), numbers, strict=True)}

    def drawn():
        while True:
            numbers = [draw.randrange(size) for size in sizes]
            if _goes_together(row_of(numbers)):
                return numbers

    def pairs(numbers):
        return set(itertools.combinations(enumerate(numbers), 2))

    wanted = set().union(*(pairs(drawn()) for _ in range(2000)))
    rows = []
    while wanted:
        best = max((drawn() for _ in range(60)), key=lambda numbers: len(pairs(numbers) & wanted))
        rows.append(row_of(best))
        wanted -= pairs(best)
    return rows


ROWS = _rows()


class _Checkpointed(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=False) if self.training else self.inner(x)


def _network(row):
    """The network; of one that keeps or draws something by itself, the layers alone are compiled."""
    network = row["network"]()
    if row["checkpointed"]:
        network.features = _Checkpointed(network.features)
    whole = row["network"] is SmallNet
    if row["compiled"] == "in place":
        (network if whole else network.features).compile(backend="eager")
    elif row["compiled"] == "wrapped" and whole:
        return torch.compile(network, backend="eager")
    elif row["compiled"] == "wrapped":
        network.features = torch.compile(network.features, backend="eager")
    return network


def _module(row):
    class Module(row["package"].LightningModule):
        def __init__(self):
            super().__init__()
            self.net = _network(row)
            self.losses = []
            self.automatic_optimization = row["optimisation"] == "automatic"

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            loss = nn.functional.cross_entropy(self(batch["image"]), batch["label"])
            self.losses.append(loss.item())
            if not self.automatic_optimization:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            return loss

        def validation_step(self, batch, batch_idx):
            logits = self(batch["image"])
            self.log("val/loss", nn.functional.cross_entropy(logits, batch["label"]))
            return {"logits": logits}

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    return Module()


def _outcome(tmp_path, row, watched):
    package = row["package"]
    package.seed_everything(7, workers=True)
    torch._dynamo.reset()

    def run(epochs, path=None):
        callbacks = []
        if watched:
            callbacks.append(SaliencyMonitor(num_images=2, views=row["views"], stage=row["stage"]))
        if watched and row["augmented"]:
            callbacks.append(GroupCAMAugmentation(probability=0.0))
        if row["averaging"]:
            arguments = {"swa_lrs": 0.01, "swa_epoch_start": 1} if row["averaging"].startswith("Stoch") else {}
            callbacks.append(getattr(package.callbacks, row["averaging"])(**arguments))
        trainer = package.Trainer(
            accelerator="cpu",
            devices=1,
            default_root_dir=tmp_path,
            max_epochs=epochs,
            precision=row["precision"],
            accumulate_grad_batches=row["accumulate"],
            inference_mode=row["inference_mode"],
            num_sanity_val_steps=row["sanity_steps"],
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module = _module(row)
        options = {"form": "dict", "workers": row["workers"]}
        trainer.fit(module, loader(8, shuffle=True, **options), loader(8, **options), ckpt_path=path)
        return trainer, module

    trainer, module = run(2 if row["resumed"] else 3)
    if row["resumed"]:
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        trainer, module = run(3, tmp_path / "last.ckpt")
    numbers = (random.random(), np.random.uniform(), torch.rand(1).item())  # noqa: NPY002
    optimizer = trainer.optimizers[0].state_dict()["state"]
    if watched:
        assert "saliency/position_bias" in trainer.callback_metrics
    return module.losses, trainer.callback_metrics["val/loss"].item(), module.state_dict(), optimizer, numbers


def _same(left, right):
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(_same, left, right))
    return left == right


@pytest.mark.grid(every=9)
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(len(ROWS)))
def test_training_is_bit_identical(tmp_path, number):
    row = ROWS[number]
    plain = _outcome(tmp_path / "plain", row, watched=False)
    watched = _outcome(tmp_path / "watched", row, watched=True)
    for what, one, other in zip(
        ("losses", "validation", "weights", "optimizer", "numbers"), plain, watched, strict=True
    ):
        told = {**row, "package": row["package"].__name__, "network": row["network"].__name__}
        assert _same(one, other), (what, told)
