"""Run the experiments of the papers, configs/papers/*.yaml, one after the other.

    python -m tools.papers [--small] [--plan] [NAME ...]

At full size each needs the paths that the first line of its file names. `--small` lays configs/papers/small/NAME.yaml
over it, which takes data from the folder beside the project or the embedded ones: it shows that the experiment runs,
and its figures mean nothing. What fails does not stop the others.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "configs" / "papers"
SHARED = ROOT.parent / "shared" / "data"
#: Commands that say what they would do.
STUDIES = ("compare-augmentation", "evaluate", "layer-masking", "roar-kar", "sanity-check")


def names() -> list[str]:
    """The experiments."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def command_of(name: str) -> str:
    """The command that runs an experiment, as its file's comments say it."""
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    found = re.search(rf"^#\s+lightning-saliency ([\w-]+) --config configs/papers/{name}\.yaml", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"{name}.yaml names no command: write '#   lightning-saliency … --config configs/papers/…'.")
    return found[1]


def arguments(name: str, small: bool, plan: bool) -> list[str]:
    """The command line behind `lightning-saliency`, to be run in the project's folder."""
    command = command_of(name)
    files = [f"configs/papers/{name}.yaml", *([f"configs/papers/small/{name}.yaml"] if small else [])]
    given = [argument for file in files for argument in ("--config", file)]
    return [command, *given, *(["--plan"] if plan and command in STUDIES else [])]


def needs_shared(name: str) -> bool:
    """Whether the small form reads the folder beside the project."""
    return "../shared/data" in (FOLDER / "small" / f"{name}.yaml").read_text(encoding="utf-8")


def main() -> int:
    """Run the experiments named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"from {', '.join(names())}; none: all")
    parser.add_argument("--small", action="store_true", help="on small data that are there")
    parser.add_argument("--plan", action="store_true", help="of studies only what they would do; no others are run")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(names()))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(names())}")
    failed, left_out, began = [], [], time.monotonic()
    for name in options.names or names():
        if options.plan and command_of(name) not in STUDIES:
            continue
        if options.small and needs_shared(name) and not SHARED.is_dir():
            left_out.append(name)
            print(f"{name}: not run, {SHARED} does not exist", flush=True)
            continue
        given, start = arguments(name, options.small, options.plan), time.monotonic()
        print(f"{name}: lightning-saliency {' '.join(given)}", flush=True)
        if subprocess.run([sys.executable, "-m", "lightning_saliency", *given], cwd=ROOT, check=False).returncode:
            failed.append(name)
        print(f"{name}: {'FAILED' if name in failed else 'done'} in {time.monotonic() - start:.0f} s", flush=True)
    print(f"{len(failed)} failed ({', '.join(failed) or 'none'}), {len(left_out)} not run, ", end="")
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
