"""What the installed versions of other packages can do."""

import inspect

import pytest
from pytorch_lightning.trainer.connectors import callback_connector

#: Lightning's trainers take callbacks that are made for its other package only if they look for their own methods.
both_packages = pytest.mark.skipif(
    "parent=Callback" not in inspect.getsource(callback_connector._validate_callbacks_list),
    reason="this Lightning refuses callbacks of its other package",
)
