"""Import every module of the installed package, and check that the metadata names what it imports.

`make wheel` runs it in an environment that holds the wheel and its dependencies alone, without any extra.
"""

import ast
import importlib
import pkgutil
import re
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import lightning_saliency

ROOT = Path(lightning_saliency.__file__).parent
#: Packages that only an extra brings; they are imported inside functions.
OF_EXTRAS = {"captum", "mlflow", "onnxruntime", "ray", "sklearn", "skimage", "timm", "torchcam", "wandb"}


def plain(name: str) -> str:
    """Return a distribution's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def imported() -> dict[str, str]:
    """Return the top-level packages that the source imports, each with one place."""
    found: dict[str, str] = {}
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            else:
                continue
            for name in names:
                found.setdefault(name.partition(".")[0], f"{path.relative_to(ROOT.parent)}:{node.lineno}")
    return found


problems = []
if "site-packages" not in ROOT.parts:
    problems.append(f"The package was imported from {ROOT}: run this where the wheel is installed.")
declared = {
    plain(re.match(r"[\w.-]+", line)[0]) for line in requires("lightning-saliency") or [] if "extra ==" not in line
}
distributions = packages_distributions()
for package, place in imported().items():
    if package in sys.stdlib_module_names or package in OF_EXTRAS or package == "lightning_saliency":
        continue
    if not declared & {plain(name) for name in distributions.get(package, [package])}:
        problems.append(f"{place} imports {package}, which [project.dependencies] in pyproject.toml does not name.")

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
