"""The cells of a layer-masking study: a statistic masks one scale, and what comes after it is fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_saliency.networks import load_weights, weights_fingerprint
from lightning_saliency.scales.scale import Scale
from lightning_saliency.studies.isolation import quiet, seeded
from lightning_saliency.studies.layer_masking.mask import LayerMask, modules_before
from lightning_saliency.studies.retraining.cells import Training, first_images
from lightning_saliency.studies.retraining.training import fit_and_test, network_of, network_path
from lightning_saliency.studies.specs import build_data, build_module


def accuracy_unmasked(training: Training, weights: str) -> dict[str, Any]:
    """The accuracy of a network as it is.

    Args:
        training: The data and the kind of network.
        weights: File of the network's weights.

    Returns:
        ``accuracy`` in [0, 1] and ``weights`` (their fingerprint).
    """
    with quiet(), seeded(0):
        module = build_module(training.model)
        network = network_of(module, training.network)
        load_weights(network, weights)
        accuracy = fit_and_test(module, build_data(training.data), 0, 0, training.trainer, metric=training.metric)
    return {"accuracy": accuracy, "weights": weights_fingerprint(network)}


def tune_masked(
    training: Training,
    weights: str,
    hash: str,
    seed: int,
    scale: Scale,
    statistic: str,
    mode: str,
    fraction: float,
    epochs: int,
    changes: Mapping[str, Any],
) -> dict[str, Any]:
    """Mask one scale of a trained network, fine-tune what comes after it, and measure the accuracy with the mask.

    Args:
        training: The data and the network.
        weights: File of the network's weights.
        hash: Fingerprint of the weights.
        seed: Seed of the order of the data and of the random map.
        scale: The scale to mask, see `LayerMask`.
        statistic: Statistic that gives the mask, see `LayerMask`.
        mode: ``"kar"`` or ``"roar"``, see `LayerMask`.
        fraction: Share of the positions that are kept or removed, see `LayerMask`.
        epochs: Number of epochs of the fine-tuning.
        changes: Arguments of the module that differ in fine-tuning.

    Returns:
        ``accuracy`` in [0, 1].

    Raises:
        ValueError: If the file holds other weights than those the study was begun with.
    """
    with quiet(), seeded(seed):
        module = build_module(training.model, changes)
        network = network_of(module, training.network)
        load_weights(network, weights)
        if weights_fingerprint(network) != hash:
            raise ValueError(
                f"Got other weights in {weights} than this study was begun with. Restore the file, or choose another "
                "output folder."
            )
        data = build_data(training.data)
        before = modules_before(network, scale, first_images(data, 1))
        path = network_path(module, training.network)
        mask = LayerMask(path, scale, before, statistic, mode, fraction, seed)
        accuracy = fit_and_test(module, data, epochs, seed, training.trainer, callbacks=(mask,), metric=training.metric)
    return {"accuracy": accuracy}
