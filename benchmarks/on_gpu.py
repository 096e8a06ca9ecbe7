"""What a GPU has to tell: whether every map is what it is on the CPU, and what it costs there.

    bash benchmarks/on_gpu.sh [--cpu] [--minutes M] [--out FOLDER]

`--cpu` runs the same checks in small on the CPU, which shows that they work; its ratios mean nothing. No pytest is
needed. A check whose packages are missing, or whose turn comes when the time is over, is printed as not run.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Report:
    """What was checked and measured; written after each entry, so that a run that is cut off leaves what it has.

    Args:
        path: The JSON file.
        device: Name of the device.
        seconds: Time after which nothing more is begun.
    """

    path: Path
    device: str
    seconds: float
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    ratios: dict[str, dict[str, Any]] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def check(self, name: str, function: Callable[[], tuple[bool, str]]) -> None:
        """Run a check, which returns whether it holds, and a text."""
        self._run(name, lambda: self._note(name, *function()))

    def measure(self, name: str, function: Callable[[], Mapping[str, Mapping[str, Any]]]) -> None:
        """Run a measurement, which returns ratios by name: ``value``, and what else is known of each."""

        def noted() -> None:
            for what, figures in function().items():
                self.ratios[what] = dict(figures)
                target, judged = figures.get("at_most", figures.get("at_least")), ""
                if target is not None:
                    self.ratios[what]["met"] = met = _met(figures)
                    bound = "at most" if "at_most" in figures else "at least"
                    judged = f" ({bound} {target}: {'met' if met else 'NOT met'})"
                print(f"      {what}: {figures['value']:.4g}{judged}", flush=True)

        self._run(name, noted)

    @property
    def failed(self) -> list[str]:
        """The checks that do not hold."""
        return [name for name, check in self.checks.items() if not check["holds"]]

    def write(self) -> None:
        """Write what there is so far."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "machine": {"device": self.device, **self.machine},
            "checks": self.checks,
            "ratios": self.ratios,
            "not_run": self.not_run,
        }
        self.path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def _run(self, name: str, function: Callable[[], None]) -> None:
        began = time.monotonic()
        if began - self.began > self.seconds:
            self.not_run[name] = f"the {self.seconds / 60:g} minutes were over"
            print(f"----  {name}: not run, {self.not_run[name]}", flush=True)
            self.write()
            return
        try:
            function()
        except ImportError as error:
            self.not_run[name] = str(error)
            print(f"----  {name}: not run, {error}", flush=True)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {str(error)[:300]} ({Path(place.filename).name}:{place.lineno})"
            self._note(name, False, text)
        if name in self.checks:
            self.checks[name]["seconds"] = round(time.monotonic() - began, 2)
        self.write()

    def _note(self, name: str, holds: bool, text: str) -> None:
        self.checks[name] = {"holds": bool(holds), "text": text}
        print(f"{'ok  ' if holds else 'FAIL'}  {name}: {text}", flush=True)


def _met(figures: Mapping[str, Any]) -> bool:
    if "at_most" in figures:
        return bool(figures["value"] <= figures["at_most"])
    return bool(figures["value"] >= figures["at_least"])


def missing_packages() -> list[str]:
    """What the project needs, as its pyproject.toml writes it, and is not installed."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    missing = []
    for requirement in re.findall(r"\"([^\"]+)\"", listed[1]) if listed else []:
        try:
            importlib.metadata.version(re.split(r"[^\w.-]", requirement)[0])
        except importlib.metadata.PackageNotFoundError:
            missing.append(requirement)
    return missing


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="the same in small on the CPU, to see that it runs")
    parser.add_argument("--minutes", type=float, default=8.0, help="begin nothing after that time")
    parser.add_argument("--out", type=Path, help="folder of on_gpu.json; else $OUT, else benchmarks/results")
    parser.add_argument("--missing", action="store_true", help="only name the packages that are not installed")
    parser.add_argument("--only", default="", help="only the entries whose names contain this")
    options = parser.parse_args(arguments)
    if options.cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    missing = missing_packages()
    if options.missing:
        print("\n".join(missing))
        return 0
    if missing:
        print(f"These packages are not installed, and what needs them will not run: {', '.join(missing)}", flush=True)
    import torch

    if not options.cpu and not torch.cuda.is_available():
        print("No GPU is to be seen. Run it where there is one, or with --cpu.", file=sys.stderr)
        return 2
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)  # Lightning sets the levels of its own loggers when it is imported
    folder = options.out or Path(os.environ.get("OUT") or ROOT / "benchmarks" / "results")
    if options.cpu and options.out is None and "OUT" not in os.environ:
        folder = ROOT / "runs" / "on_gpu_cpu"
    device = "CPU" if options.cpu else torch.cuda.get_device_name()
    report = Report(folder / "on_gpu.json", device, 60 * options.minutes)
    report.machine = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "system": platform.platform(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "missing_packages": missing,
    }
    from benchmarks._gpu_checks import checks
    from benchmarks._gpu_ratios import ratios

    for name, check in checks("cpu" if options.cpu else "cuda").items():
        if options.only in name:
            report.check(name, check)
    for name, ratio in ratios("cpu" if options.cpu else "cuda").items():
        if options.only in name:
            report.measure(name, ratio)
    report.machine["seconds"] = round(time.monotonic() - report.began, 1)
    report.machine["peak_memory_mb"] = None if options.cpu else round(torch.cuda.max_memory_allocated() / 1e6)
    report.write()
    held = len(report.checks) - len(report.failed)
    print(f"{held} of {len(report.checks)} checks hold on {device}, {len(report.not_run)} entries were not run.")
    for name, reason in report.not_run.items():
        print(f"  not run: {name}: {reason}")
    for name in report.failed:
        print(f"  failed: {name}: {report.checks[name]['text']}")
    print(f"Written to {report.path}.")
    logging.disable(logging.NOTSET)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
