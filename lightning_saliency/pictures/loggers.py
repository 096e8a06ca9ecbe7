"""One picture, every logger: TensorBoard, W&B, MLflow, Comet and Neptune, each through its own call.

At the end of a run W&B also gets a table of them, MLflow and Comet the run's page.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary

from lightning_saliency.files import safe_name
from lightning_saliency.pictures.tensors import png_bytes

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

# In bytes: some loggers name files after the parts of a key.
_LONGEST = 100
_Picture = npt.NDArray[np.uint8]
# A writer gets the logger, its experiment, key, picture, step and caption, and says whether the picture was taken.
_Writer = Callable[[Any, Any, str, _Picture, int, "str | None"], bool]
# A writer of pages gets the logger, its experiment, the page's key and its text.
_PageWriter = Callable[[Any, Any, str, str], None]


def log_picture(
    loggers: Sequence[Logger],
    key: str,
    picture: npt.NDArray[np.uint8],
    step: int,
    *,
    captions: Sequence[str] | None = None,
) -> bool:
    """Log one picture with every logger that can show pictures.

    A logger is recognised by the names of its classes, so that ``pytorch_lightning`` and ``lightning.pytorch``, which
    are two packages with the same classes, are served alike and no optional package is imported. Loggers that cannot
    show a picture (``CSVLogger``, those of other packages) and the placeholders that Lightning puts in a logger's place
    are passed over.

    Args:
        loggers: ``trainer.loggers``; empty for ``Trainer(logger=False)``. To be called on global rank zero; elsewhere
            it does nothing.
        key: The name under which the picture appears, such as ``"saliency/lovi"``. A logger's ``prefix`` is put before
            it, as before the names of metrics; MLflow, which allows only ``A-Z a-z 0-9 _ - . /`` and spaces, gets an
            underscore for any other character.
        picture: ``[H, W, 3]`` uint8, RGB. It arrives at each logger bit for bit.
        step: ``trainer.global_step``. With W&B the picture is logged with ``trainer/global_step``, the horizontal
            axis of the metrics that Lightning logs there, and leaves W&B's own step alone.
        captions: Words to go with the picture, joined by ``" | "``: W&B's caption, Comet's metadata ``caption``,
            Neptune's description. TensorBoard and MLflow have no place for them; the monitor writes
            them into its pictures as well.

    Returns:
        Whether at least one logger took the picture.

    Raises:
        ValueError: If ``picture`` is not ``[H, W, 3]`` uint8, or empty. A logger that fails raises nothing here: a
            warning names its class and its exception, and the next logger has its turn.

    Example:
        >>> import numpy as np
        >>> from pytorch_lightning.loggers import CSVLogger
        >>> log_picture([CSVLogger("runs")], "saliency/lovi", np.zeros((4, 6, 3), np.uint8), step=0)
        False
    """
    _check(picture)
    taken = False
    for logger in loggers:
        try:
            taken |= log_picture_to(logger, key, picture, step, captions=captions)
        # Of any kind: a lost connection or a full quota must not end a training run for the sake of a picture.
        except Exception as error:
            warnings.warn(
                f"{type(logger).__name__} did not take the picture {key!r} of step {step}: "
                f"{type(error).__name__}: {error}. Training goes on; pictures kept as files are not affected.",
                RuntimeWarning,
                stacklevel=2,
            )
    return taken


def log_picture_to(
    logger: Logger,
    key: str,
    picture: npt.NDArray[np.uint8],
    step: int,
    *,
    captions: Sequence[str] | None = None,
) -> bool:
    """Log one picture with one logger, see ``log_picture``; what the logger raises gets through.

    Returns:
        Whether it took the picture.

    Raises:
        ValueError: If ``picture`` is not ``[H, W, 3]`` uint8, or empty.
        Exception: Whatever the logger raises.
    """
    _check(picture)
    caption = " | ".join(captions) if captions else None
    writer = _writer_of(logger)
    if writer is None:
        return False
    experiment = logger.experiment  # type: ignore[attr-defined]  # each of these classes has one, the base has not
    return not _is_placeholder(experiment) and writer(logger, experiment, _inside(key), picture, step, caption)


def shows_tables(logger: Logger) -> bool:
    """Whether a logger shows tables with pictures: W&B does."""
    return hasattr(logger, "log_table") and any(cls.__name__ == "WandbLogger" for cls in type(logger).__mro__)


def log_table_to(logger: Logger, key: str, columns: Sequence[str], rows: Sequence[Sequence[int | bytes]]) -> None:
    """Log a table with a logger that ``shows_tables``; what it raises gets through.

    Args:
        logger: One of ``trainer.loggers``. To be called on global rank zero.
        key: The name under which it appears.
        columns: Names of the columns.
        rows: Their cells, numbers and PNG files.
    """
    if _is_placeholder(logger.experiment):  # type: ignore[attr-defined]  # this class has one, the base has not
        return
    import wandb

    cells = [
        [wandb.Image(Image.open(BytesIO(cell))) if isinstance(cell, bytes) else cell for cell in row] for row in rows
    ]
    logger.log_table(key=_inside(key), columns=list(columns), data=cells)  # type: ignore[attr-defined]


def shows_pages(logger: Logger) -> bool:
    """Whether a logger keeps a page beside the run: MLflow does, among its artifacts, and Comet, among its assets."""
    return _page_writer_of(logger) is not None


def log_page_to(logger: Logger, key: str, html: str) -> None:
    """Log a page with a logger that ``shows_pages``, in place of the one of this key; what it raises gets through.

    Args:
        logger: One of ``trainer.loggers``. To be called on global rank zero.
        key: Its name as a file, such as ``"saliency/film.html"``.
        html: The page, which needs no other file.
    """
    writer = _page_writer_of(logger)
    experiment = logger.experiment  # type: ignore[attr-defined]  # both classes have one, the base has not
    if writer is not None and not _is_placeholder(experiment):
        writer(logger, experiment, _inside(key), html)


def viewing_hint(loggers: Sequence[Logger]) -> str | None:
    """How to see every picture of a long run, where a logger's viewer leaves some out as it is started by default.

    Example:
        >>> from pytorch_lightning.loggers import TensorBoardLogger
        >>> (viewing_hint([TensorBoardLogger("runs")]) or "").partition(": ")[2]
        'tensorboard --logdir runs/lightning_logs --samples_per_plugin images=1000'
    """
    for logger in loggers:
        if _writer_of(logger) is _tensorboard:
            return (
                "TensorBoard shows ten epochs of a picture unless it is started with --samples_per_plugin: "
                f"tensorboard --logdir {getattr(logger, 'root_dir', 'RUNS')} --samples_per_plugin images=1000"
            )
    return None


def _inside(key: str) -> str:
    """The key without parts that would lead out of a logger's folder, or make too long a file's name."""
    parts = [part.replace("\0", "_") for part in key.split("/") if part.strip() not in ("", ".", "..")]
    return "/".join(part if len(part.encode(errors="replace")) <= _LONGEST else safe_name(part) for part in parts)


def _check(picture: npt.NDArray[np.uint8]) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
        raise ValueError(
            f"Got a picture {list(picture.shape)} of {picture.dtype}. Allowed are uint8 [H, W, 3] of at least one "
            "pixel; scale floats in [0, 1] by 255, round, convert to uint8, put the channels last."
        )


def _writer_of(logger: object) -> _Writer | None:
    """The writer of the nearest class in the logger's ancestry that has one."""
    return next((_WRITERS[cls.__name__] for cls in type(logger).__mro__ if cls.__name__ in _WRITERS), None)


def _page_writer_of(logger: object) -> _PageWriter | None:
    return next((_PAGE_WRITERS[cls.__name__] for cls in type(logger).__mro__ if cls.__name__ in _PAGE_WRITERS), None)


def _is_placeholder(experiment: object) -> bool:
    """Whether this is what ``logger.experiment`` returns on every rank but the first: it accepts any call."""
    return any(cls.__name__.lstrip("_") == "DummyExperiment" for cls in type(experiment).__mro__)


def _prefixed(logger: Any, key: str, separator: str) -> str:
    """The key as the logger would name a metric; no logger has a public attribute for the prefix."""
    prefix = getattr(logger, "_prefix", None)
    return f"{prefix}{separator}{key}" if prefix else key


def _tensorboard(logger: Any, experiment: Any, key: str, picture: _Picture, step: int, caption: str | None) -> bool:
    tag, writer = _prefixed(logger, key, "-"), getattr(experiment, "file_writer", None)
    if writer is None:
        experiment.add_image(tag, picture, step, dataformats="HWC")
        return True
    # What `add_image` does, with a faster compression: the training waits for it.
    height, width, _ = picture.shape
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png_bytes(picture))
    writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
    return True


def _wandb(logger: Any, experiment: Any, key: str, picture: _Picture, step: int, caption: str | None) -> bool:
    # The logger's own `log_image`, not the experiment's `log`: its `step` becomes a "trainer/global_step" in the same
    # row (a W&B step of our own would have to rise together with everybody else's), and it minds `sync_tensorboard`.
    # Without it, W&B would file the picture under the last step at which some metric was logged.
    extras = {} if caption is None else {"caption": [caption]}
    logger.log_image(key=key, images=[Image.fromarray(picture)], step=step, **extras)
    return True


def _mlflow(logger: Any, experiment: Any, key: str, picture: _Picture, step: int, caption: str | None) -> bool:
    experiment.log_image(logger.run_id, Image.fromarray(picture), key=_mlflow_name(logger, key), step=step)
    return True


def _mlflow_name(logger: Any, key: str) -> str:
    return re.sub(r"[^A-Za-z0-9_\-./ ]", "_", _prefixed(logger, key, "-"))


def _mlflow_page(logger: Any, experiment: Any, key: str, html: str) -> None:
    experiment.log_text(logger.run_id, html, _mlflow_name(logger, key))


def _comet(logger: Any, experiment: Any, key: str, picture: _Picture, step: int, caption: str | None) -> bool:
    # A PIL image: Comet stretches arrays from their minimum to their maximum.
    metadata = None if caption is None else {"caption": caption}
    receipt = experiment.log_image(
        Image.fromarray(picture), name=_prefixed(logger, key, "_"), step=step, metadata=metadata
    )
    # Comet raises nothing: an experiment that has ended, or failed, logs its own error and returns nothing.
    return receipt is not None


def _comet_page(logger: Any, experiment: Any, key: str, html: str) -> None:
    experiment.log_asset(StringIO(html), file_name=_prefixed(logger, key, "_"), overwrite=True)


def _neptune(logger: Any, experiment: Any, key: str, picture: _Picture, step: int, caption: str | None) -> bool:
    experiment[_prefixed(logger, key, "/")].append(Image.fromarray(picture), step=step, description=caption)
    return True


_WRITERS: dict[str, _Writer] = {
    "TensorBoardLogger": _tensorboard,
    "WandbLogger": _wandb,
    "MLFlowLogger": _mlflow,
    "CometLogger": _comet,
    # Lightning 2.6 has withdrawn it; Lightning 2.5 still has it.
    "NeptuneLogger": _neptune,
}

_PAGE_WRITERS: dict[str, _PageWriter] = {"MLFlowLogger": _mlflow_page, "CometLogger": _comet_page}
