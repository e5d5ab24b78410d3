from __future__ import annotations

from pathlib import Path

import pytest

from dmq_cli.report.html import write_report
from dmq_cli.results.runs import load_result
from tests.reports import runs

NASTY = "<script>alert('$x$ & \"y\"')</script>"


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about a run with everything, one that is transformed, one that learned nothing, one with a nasty name and no trace."""
    outputs = tmp_path_factory.mktemp("outputs")
    results = [runs.metrics("tac"), runs.metrics("tcaq", fd=0.9), runs.metrics("minmax", fd=5.4)]
    folders = [runs.run(outputs, metrics) for metrics in results]
    folders.append(runs.run(outputs, runs.metrics(NASTY, bits="w4a8"), "nasty", traced=False))
    write_report([load_result(folder) for folder in folders], outputs / "page.html")
    return outputs / "page.html"
