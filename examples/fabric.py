"""A loop of one's own on Lightning Fabric: any device, precision and strategy, and the film of `FilmRecorder`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from lightning_fabric import Fabric  # the same as lightning.fabric.Fabric
from torch import nn

from lightning_saliency import DigitScenes, FilmRecorder, ScaleTaps, find_scales
from lightning_saliency.networks import small_cnn


def main(epochs: int = 8, train_size: int = 2000, output: str = "runs/fabric") -> Path:
    fabric = Fabric(accelerator="auto", devices=1, precision="bf16-mixed")
    fabric.launch()
    data = DigitScenes(train_size=train_size, val_size=200)
    data.setup("fit")
    train, val = fabric.setup_dataloaders(data.train_dataloader(), data.val_dataloader())
    network = small_cnn(num_classes=10)
    images = next(iter(data.val_dataloader()))["image"][:8]
    taps = ScaleTaps(network, find_scales(network, images), max_images=8)  # before fabric.setup, which may compile it
    network, optimizer = fabric.setup(network, torch.optim.AdamW(network.parameters(), lr=4e-3))
    film = FilmRecorder(
        output, taps.scales, denormalize=(data.normalize.mean, data.normalize.std), class_names=data.classes
    )
    step = 0
    for epoch in range(epochs):
        network.train()
        for batch in train:
            loss = nn.functional.cross_entropy(network(batch["image"]), batch["label"])
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            step += 1
        network.eval()
        taps.start()  # for the next forward pass
        with torch.no_grad():
            batches = [(network(batch["image"]).argmax(1), batch["label"]) for batch in val]
        predictions, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        accuracy = (predictions == labels).float().mean()
        fabric.print(f"epoch {epoch}: validation accuracy {accuracy:.1%}")
        if fabric.is_global_zero:
            seen = {"labels": labels, "predictions": predictions, "values": {"val/accuracy": accuracy}}
            film.add(images, taps.take(), epoch=epoch, step=step, **seen)
    taps.close()
    page = film.page()
    fabric.print(f"The film of this run, to be opened in a browser: {page}")
    return Path(str(page))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    main(parser.parse_args().epochs)
