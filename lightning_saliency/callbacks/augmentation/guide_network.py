"""Whose maps guide the augmentation: the network as it is now, as it once was, another, or one that learned nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from lightning_saliency.callbacks.augmentation.options import AugmentationConfigurationError
from lightning_saliency.explainers.mask_scoring.copies import inference_copy
from lightning_saliency.networks import load_weights
from lightning_saliency.randomness import randomize

PRESENT, START, UNTRAINED = "present", "start", "untrained"


class GuideNetwork:
    """The network that makes the maps.

    Args:
        which: ``"present"``: the network in training, as it is at each step. ``"start"``: a copy of it as it is when
            images are first replaced, which does not change any more. ``"untrained"``: a copy with random weights, a
            control. Else the path of a checkpoint that fits the network, see ``load_weights``.
        seed: Of the random weights.

    Raises:
        AugmentationConfigurationError: If it is none of them.

    Example:
        >>> import torch
        >>> network = nn.Linear(2, 2)
        >>> guide = GuideNetwork("start")
        >>> guide.settle(network, begun=True)
        True
        >>> guide.of(network) is network, torch.equal(guide.of(network).weight, network.weight)
        (False, True)
    """

    def __init__(self, which: str | Path = PRESENT, seed: int = 0) -> None:
        if not isinstance(which, (str, Path)) or str(which) in ("", "."):
            raise AugmentationConfigurationError(
                f"Got guide_network={which!r}. Allowed are {PRESENT!r}, {START!r}, {UNTRAINED!r} and the path of a "
                "checkpoint; give one of them."
            )
        self.which = str(which)
        self.seed = seed
        self._copy: nn.Module | None = None
        self._loaded: Mapping[str, Tensor] | None = None

    @property
    def is_fixed(self) -> bool:
        """Whether its maps of an image never change."""
        return self.which != PRESENT

    def of(self, model: nn.Module) -> nn.Module:
        """The network that makes the maps, of the one in training."""
        return model if self._copy is None else self._copy

    def settle(self, model: nn.Module, begun: bool) -> bool:
        """Make the copy, where it is wanted and there is none yet; returns whether it was made.

        Args:
            model: The network in training.
            begun: Whether images are about to be replaced; before that ``"start"`` is not yet known.

        Raises:
            AugmentationConfigurationError: If the checkpoint cannot be read or does not fit.
        """
        wait = self.which == START and not begun and self._loaded is None
        if not self.is_fixed or self._copy is not None or wait:
            return False
        copied = inference_copy(model)
        try:
            if self._loaded is not None:
                self._load(copied, self._loaded)
            elif self.which == UNTRAINED:
                randomize(copied, [name for name, _ in copied.named_modules()], self.seed)
            elif self.which != START:
                load_weights(copied, self.which)
        except (OSError, ValueError, RuntimeError) as error:
            raise AugmentationConfigurationError(f"Got guide_network={self.which!r}. {error}") from error
        self._copy, self._loaded = copied, None
        return True

    def _load(self, copied: nn.Module, weights: Mapping[str, Tensor]) -> None:
        try:
            copied.load_state_dict(dict(weights))
        except RuntimeError as error:
            raise ValueError(
                "The checkpoint of this run keeps the network as it was at the start, which was another one. Allowed "
                "are the layers of then: begin a run of its own with the new layers, without ckpt_path, or resume "
                f"without this callback. {error}"
            ) from error

    def begin(self) -> None:
        """Another run: forget the copy."""
        self._copy = self._loaded = None

    def release(self) -> None:
        """Let go of the copy; its weights, where nothing else tells them, stay for checkpoints made after the run."""
        self._loaded, self._copy = self.state_dict(), None

    def state_dict(self) -> dict[str, Tensor] | None:
        """The weights of the copy, where nothing else tells them."""
        if self.which != START or self._copy is None:
            return None if self._loaded is None else dict(self._loaded)
        return {name: tensor.detach().cpu() for name, tensor in self._copy.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor] | None) -> None:
        """Go on with the weights that a checkpoint holds, if it has them."""
        self._copy = None
        self._loaded = state if self.which == START else None
