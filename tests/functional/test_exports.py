"""Everything public is found in `lightning_saliency.functional` itself."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from lightning_saliency import functional


def test_every_public_function_and_class_is_exported():
    public = {}
    for module in pkgutil.walk_packages(functional.__path__, f"{functional.__name__}."):
        if not module.name.rpartition(".")[2].startswith("_"):
            loaded = importlib.import_module(module.name)
            for name, value in vars(loaded).items():
                own = (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == loaded.__name__
                if own and not name.startswith("_"):
                    assert name not in public, f"{name} is defined twice"
                    public[name] = value
    # `max` would replace the built-in in an import of *.
    del public["max"]
    assert len(public) > 30
    assert {name: getattr(functional, name, None) for name in public} == public
    assert set(public) <= set(functional.__all__)
    assert [name for name in functional.__all__ if not hasattr(functional, name)] == []
    assert "max" not in functional.__all__
