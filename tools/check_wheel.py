"""Import every module of the installed package.

`make wheel` runs it in an environment that holds the wheel and its dependencies alone, without any extra. Whether each
import is declared is asked by `tests/test_package.py`, which knows the extras, too.
"""

import importlib
import pkgutil
import sys
from pathlib import Path

import lightning_saliency

ROOT = Path(lightning_saliency.__file__).parent

problems = []
if "site-packages" not in ROOT.parts:
    problems.append(f"The package was imported from {ROOT}: run this where the wheel is installed.")

modules = [info.name for info in pkgutil.walk_packages([str(ROOT)], "lightning_saliency.")]
for name in modules:
    if name.endswith("__main__"):  # Runs the command.
        continue
    try:
        importlib.import_module(name)
    except ImportError as error:
        problems.append(f"{name} cannot be imported without extras: {error}")

if problems:
    sys.exit("\n".join(problems))
print(f"{len(modules)} modules imported without extras.")
