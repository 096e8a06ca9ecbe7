"""A monitored run looked at in TensorBoard, in a real browser: every frame is there, at its step."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
from PIL import Image

from lightning_saliency.callbacks import SaliencyMonitor
from lightning_saliency.pictures.film import Film
from tests.browser import browser, chromium
from tests.callbacks.monitor.helpers import Module, loader, trainer

EPOCHS = 12  # more than the ten pictures that TensorBoard keeps by itself
# The pictures lie within shadow trees; a picture's card is its `tf-image-loader`.
CARDS = """(() => {
  const found = [];
  const look = root => { for (const one of root.querySelectorAll("*")) {
    if (one.localName === "tf-image-loader") found.push(one);
    if (one.shadowRoot) look(one.shadowRoot); } };
  look(document);
  return found; })()"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    board = pl.loggers.TensorBoardLogger(folder, name="", version="")
    run = trainer(folder, SaliencyMonitor(num_images=2), logger=board, epochs=EPOCHS)
    run.fit(Module(), loader(8), loader(8))
    return folder


@pytest.fixture(scope="module")
def address(run):
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run), "--host", "127.0.0.1", "--port", "0"]
    options = ["--samples_per_plugin", "images=1000", "--load_fast", "false"]
    server = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = []
    for line in server.stdout:
        lines.append(line)
        if found := re.search(r"(http://127\.0\.0\.1:\d+/)", line):
            yield found[1]
            break
    else:
        pytest.fail("".join(lines))
    server.terminate()
    server.wait(30)
    server.stdout.close()


@pytest.mark.skipif(chromium() is None, reason="there is no Chromium: .ci/run installs it")
def test_every_frame_is_there_at_its_step(run, address):
    frames = Film(run / "saliency").frames("overview")
    assert [frame.epoch for frame in frames] == [-1, *range(EPOCHS)]
    with browser() as tab:
        tab.look(1400)
        tab.open(f"{address}#images")
        tab.wait(f"{CARDS}.some(card => (card._steps || []).length === {len(frames)})")
        (tag,) = set(tab.run(f"{CARDS}.map(card => card.tag)"))
        assert tag == "saliency/overview"
        shown = tab.run(f"{CARDS}[0]._steps.map(one => one.step)")
        assert shown == [frame.step for frame in frames]
        for place in (0, len(frames) - 1):
            tab.run(f"{CARDS}[0]._stepIndex = {place}")
            image = f"{CARDS}[0].shadowRoot.querySelector('img')"
            address_of_step = f"new URL({CARDS}[0]._steps[{place}].url, location).href"
            tab.wait(f"{image} && {image}.src === {address_of_step} && {image}.complete && {image}.naturalWidth > 0")
            data = tab.run(
                f"(() => {{ const image = {image}, canvas = document.createElement('canvas');"
                "canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;"
                "canvas.getContext('2d').drawImage(image, 0, 0); return canvas.toDataURL(); })()"
            )
            seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB"))
            np.testing.assert_array_equal(seen, np.asarray(Image.open(frames[place].path)))
