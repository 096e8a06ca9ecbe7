"""A store whose writer is killed, again and again and at any moment, ends as one that was left alone."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import time
from typing import Any

import numpy as np
import pytest
import torch

from lightning_saliency.data import SaliencyStore
from lightning_saliency.data.masked.store import rank_levels

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")

COUNT, SIZE, FINGERPRINTS = 200, (16, 12), {"weights": "a", "data": "b"}


def images() -> torch.Tensor:
    return torch.rand(COUNT, *SIZE, generator=torch.Generator().manual_seed(3))


def write_all(path: str, batch: int, said: Any = None) -> None:
    """Creates the store or goes on with it, in batches of the rows that are missing; says where it is."""
    maps, say = images(), (lambda word: None) if said is None else said.send
    say("begun")
    store = SaliencyStore.create(path, COUNT, SIZE, FINGERPRINTS)
    for rows in store.missing().split(batch):
        store.write(rows, maps[rows])
        say("written")
    store.finish()


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_ten_kills(tmp_path, batch):
    write_all(str(tmp_path / "alone" / "train"), batch)
    expected = rank_levels(images())
    path = tmp_path / "killed" / "train"
    context = multiprocessing.get_context("fork")
    moments = random.Random(batch)
    rows_after = [0]
    for kill in range(10):
        heard, said = context.Pipe(duplex=False)
        writer = context.Process(target=write_all, args=(str(path), batch, said))
        writer.start()
        said.close()
        # The first kills fall into the making of the files, the others between and within rows.
        with contextlib.suppress(EOFError):  # it was done before it could be killed
            for _ in range(1 if kill < 3 else moments.randint(2, 4)):
                heard.recv()
        time.sleep(moments.uniform(0, 0.001))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join(60)
        assert writer.exitcode in (-signal.SIGKILL, 0)
        if (path.parent / "train.written").exists():
            marked = np.flatnonzero(np.frombuffer((path.parent / "train.written").read_bytes(), np.uint8))
            maps = path.parent / "train.npy"
            # A mark never comes before its map.
            assert maps.exists() or len(marked) == 0
            if maps.exists():
                assert torch.equal(torch.from_numpy(np.load(maps))[marked], expected[marked])
            rows_after.append(len(marked))
    assert rows_after == sorted(rows_after)
    assert rows_after[-1] > 0
    if batch == 1:
        assert rows_after[-1] < COUNT  # there was work left to interrupt
    write_all(str(path), batch)
    left, alone = files(path.parent), files(tmp_path / "alone")
    assert {name: left[name] for name in alone} == alone
    # What a kill cut off while a file was being made keeps a name of its own, and is nobody's store.
    assert all(name.startswith(".") and name.endswith(".tmp") for name in left.keys() - alone.keys())
    assert torch.equal(SaliencyStore.open(path, FINGERPRINTS)[:], expected)
