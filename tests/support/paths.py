"""Where things lie: the checkout, and what the workshop keeps beside it."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout. Programs that tests start import the package from here (PYTHONPATH)."""
SHARED = ROOT.parent / "shared"
"""Data that is not part of the project; what needs it is skipped where it is not there."""
SUPPORT = ROOT / "tests/support"
"""Programs that tests start, and what they share."""
