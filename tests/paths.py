"""Where the project's files are, and the real data and the papers' tables beside it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
SHARED_DATA = ROOT.parent / "shared" / "data"
PAPERS = ROOT.parent / "shared" / "papers"
TABLES = PAPERS / "tables"
