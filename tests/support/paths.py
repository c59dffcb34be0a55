"""Where the tests find the project, the real small model and real data."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMOLLM2 = ROOT / "outputs" / "models" / "smollm2_135m"
SHARED_DATA = ROOT.parent / "shared" / "data"
SHARED_CASES = ROOT.parent / "shared" / "cases"
HELM_DATA = SHARED_DATA / "helm" / "scenarios"
needs_smollm2 = pytest.mark.smollm2  # conftest.py skips such a test where the model is missing
needs_shared_data = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason="no folder ../shared/data beside the project"
)
needs_shared_cases = pytest.mark.skipif(
    not SHARED_CASES.is_dir(), reason="no folder ../shared/cases beside the project"
)
