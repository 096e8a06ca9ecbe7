"""Print the lowest version of each dependency that pyproject.toml allows, one `name==version` a line.

pip takes the lines as constraints: `make test-lowest` installs exactly these and runs the tests with them.
"""

import sys
from pathlib import Path

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def lowest(line: str) -> str | None:
    """Return `name==version` for a dependency's lower bound; None where it does not apply to this Python."""
    requirement = Requirement(line)
    if requirement.name == PROJECT["name"] or (requirement.marker and not requirement.marker.evaluate()):
        return None
    bounds = [specifier.version for specifier in requirement.specifier if specifier.operator == ">="]
    if len(bounds) != 1:
        sys.exit(
            f"Got the dependency {line!r} in pyproject.toml. Each needs exactly one lower bound: write name>=version."
        )
    return f"{requirement.name}=={bounds[0]}"


# The tools of development and documentation are no part of what a user installs: their newest versions run the tests.
EXTRAS = [lines for extra, lines in PROJECT["optional-dependencies"].items() if extra not in ("dev", "docs")]
for dependency in [*PROJECT["dependencies"], *(line for lines in EXTRAS for line in lines)]:
    pinned = lowest(dependency)
    if pinned:
        print(pinned)
