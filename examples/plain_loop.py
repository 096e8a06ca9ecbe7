"""A plain training loop of PyTorch, without a Trainer: `ScaleTaps` reads the maps, `FilmRecorder` makes the film.

The maps come from the validation pass that the loop makes anyway.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_saliency import DigitScenes, FilmRecorder, ScaleTaps, find_scales
from lightning_saliency.networks import small_cnn


def main(epochs: int = 8, train_size: int = 2000, output: str = "runs/plain_loop") -> Path:
    data = DigitScenes(train_size=train_size, val_size=200)
    data.setup("fit")
    network = small_cnn(num_classes=10)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    images = next(iter(data.val_dataloader()))["image"][:8]
    step = 0
    with ScaleTaps(network, find_scales(network, images)) as taps:
        colours = (data.normalize.mean, data.normalize.std)
        film = FilmRecorder(output, taps.scales, denormalize=colours, class_names=data.classes)
        for epoch in range(-1, epochs):  # -1: the network before training
            if epoch >= 0:
                network.train()
                for batch in data.train_dataloader():
                    loss = nn.functional.cross_entropy(network(batch["image"]), batch["label"])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    step += 1
            taps.start(max_images=8)  # for the next forward pass
            accuracy, predictions, labels = validate(network, data.val_dataloader())
            seen = {"labels": labels, "predictions": predictions, "values": {"val/accuracy": accuracy}}
            film.add(images, taps.take(), epoch=epoch, step=step, **seen)
            print(f"epoch {epoch}: validation accuracy {accuracy:.1%}")
    page = film.page()
    print(f"The film of this run, to be opened in a browser: {page}")
    return Path(str(page))


@torch.no_grad()
def validate(network: nn.Module, loader: DataLoader[Any]) -> tuple[float, torch.Tensor, torch.Tensor]:
    """The accuracy, the predictions and the labels."""
    network.eval()
    batches = [(network(batch["image"]).argmax(1), batch["label"]) for batch in loader]
    predictions, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return float((predictions == labels).float().mean()), predictions, labels


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    main(parser.parse_args().epochs)
