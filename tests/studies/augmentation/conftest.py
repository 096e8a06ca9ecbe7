"""What the tests of a comparison of augmentations share."""

import pytest

from tests.studies.augmentation.small import small_config


@pytest.fixture
def config(tmp_path):
    return small_config(tmp_path)
