"""Helpers of these tests live beside them; under importlib mode a test folder is not on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
