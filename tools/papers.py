"""Run the experiments of the papers, configs/papers/*.yaml.

    python -m tools.papers [--small] [--plan] [--workers N] [NAME ...]

At full size each needs the paths that the first line of its file names. `--small` (an option of this module, not of the
command `lightning-saliency`) lays configs/papers/small/NAME.yaml over it, which takes data from the folder beside the
project or the embedded ones: it shows that the experiment runs, and its figures mean nothing. Each small form runs
anew, in runs/papers/small/NAME. What fails does not stop the others; the exit code is then 1. What was not run is
counted in the last line, with the reason.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
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


def run(given: list[str], kept: bool) -> tuple[int, str]:
    """Run `lightning-saliency` with these arguments.

    Returns:
        Its exit code, and what it printed if that is ``kept`` and not shown at once.
    """
    command = [sys.executable, "-m", "lightning_saliency", *given]
    if not kept:
        return subprocess.run(command, cwd=ROOT, check=False).returncode, ""
    done = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode(errors="replace")


def run_timed(name: str, small: bool, plan: bool, kept: bool) -> tuple[bool, str]:
    """Run one experiment: whether it succeeded, and what is still to be printed of it."""
    given, began = arguments(name, small, plan), time.monotonic()
    head = f"{name}: lightning-saliency {' '.join(given)}\n"
    if not kept:
        print(head, end="", flush=True)
    if small and not plan:
        # A study goes on from the results that it finds, and would compute nothing the second time.
        shutil.rmtree(ROOT / "runs" / "papers" / "small" / name, ignore_errors=True)
    code, printed = run(given, kept)
    end = f"{name}: {'FAILED' if code else 'done'} in {time.monotonic() - began:.0f} s"
    return code == 0, (head + printed if kept else "") + end


def left_out(chosen: Sequence[str], small: bool, plan: bool) -> dict[str, str]:
    """The experiments that cannot run here or have no plan, with the reason."""
    reasons = {}
    for name in chosen:
        if plan and command_of(name) not in STUDIES:
            reasons[name] = f"{command_of(name)} has no plan"
        elif small and needs_shared(name) and not SHARED.is_dir():
            reasons[name] = f"{SHARED} does not exist"
    return reasons


def closing_line(total: int, failed: Sequence[str], skipped: dict[str, str]) -> str:
    """How many were done, failed and were not run, by name and reason.

    Example:
        >>> closing_line(4, ["sise_table1"], {"smoe_fig3": "no data", "smoe_fig6": "no data"})
        '1 of 4 done, 1 failed (sise_table1), 2 NOT RUN (no data: smoe_fig3, smoe_fig6)'
    """
    because = {reason: [name for name in skipped if skipped[name] == reason] for reason in skipped.values()}
    parts = [f"{total - len(failed) - len(skipped)} of {total} done", f"{len(failed)} failed"]
    if failed:
        parts[-1] += f" ({', '.join(failed)})"
    if skipped:
        why = "; ".join(f"{reason}: {', '.join(names)}" for reason, names in because.items())
        parts.append(f"{len(skipped)} NOT RUN ({why})")
    return ", ".join(parts)


def main(given: Sequence[str] | None = None) -> int:
    """Run the experiments named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"from {', '.join(names())}; none: all")
    parser.add_argument("--small", action="store_true", help="on small data that are there")
    parser.add_argument("--plan", action="store_true", help="of studies only what they would do; no others are run")
    parser.add_argument("--workers", type=int, default=1, help="so many side by side; each is then printed at its end")
    options = parser.parse_args(given)
    unknown = sorted(set(options.names) - set(names()))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(names())}")
    if options.workers < 1:
        parser.error(f"--workers {options.workers}: allowed are whole numbers from 1")
    chosen, began = list(dict.fromkeys(options.names or names())), time.monotonic()
    skipped, failed = left_out(chosen, options.small, options.plan), []
    with ThreadPoolExecutor(options.workers) as pool:
        runs = {
            pool.submit(run_timed, name, options.small, options.plan, options.workers > 1): name
            for name in chosen
            if name not in skipped
        }
        for finished in as_completed(runs):
            succeeded, printed = finished.result()
            print(printed, flush=True)
            if not succeeded:
                failed.append(runs[finished])
    print(f"{closing_line(len(chosen), failed, skipped)}, {(time.monotonic() - began) / 60:.1f} minutes")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
