"""Train on the embedded data set with the monitor on, and say where to look (``make demo``)."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_saliency.cli import main as lightning_saliency
from lightning_saliency.pictures.page import film_strip, moving_film

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "digit_scenes.yaml"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs"), help="folder of the run")
    options, rest = parser.parse_known_args(arguments)
    lightning_saliency(
        ["fit", "--config", str(CONFIG), "--trainer.logger.init_args.save_dir", str(options.output), *rest]
    )
    run = max((options.output / "digit_scenes").glob("version_*"), key=lambda path: path.stat().st_mtime)
    scalars = _scalars(run)
    strip, moving = run / "saliency" / "film_strip.png", run / "saliency" / "film.webp"
    Image.fromarray(film_strip(run)).save(strip)
    moving_film(run, moving)
    energy = scalars["saliency/energy_in_box"]
    print(
        f"""
Validation accuracy  {scalars["val/accuracy"][-1]:.1%}
Energy in the box    {energy[0]:.3f} before training, {energy[-1]:.3f} now (the share of the map that lies on the digit)

Look at
  {run / "saliency" / "film.html"}
      the film, in a browser: the same eight images, from the untrained network to the last epoch, with the curves
  {strip}
  {moving}
      the same for a slide
  tensorboard --logdir {options.output} --samples_per_plugin images=100
      the same, with a slider over the epochs, under IMAGES; and the scalars under SCALARS
"""
    )


def _scalars(run: Path) -> dict[str, list[float]]:
    events = EventAccumulator(str(run), size_guidance={"images": 1}).Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


if __name__ == "__main__":
    main()
