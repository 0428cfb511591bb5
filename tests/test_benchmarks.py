"""`python -m benchmarks.NAME` explains itself, and refuses arguments that it does not have, before it measures."""

from pathlib import Path

import pytest

from benchmarks import check_arguments
from tests.sources import ROOT, files


def names() -> list[str]:
    """Return the benchmarks whose arguments the package checks; those with a parser of their own do it themselves."""
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in files("benchmarks")}
    return sorted(Path(path).stem for path, text in texts.items() if "\nif __name__" in text and "argparse" not in text)


@pytest.mark.parametrize("name", names())
def test_help_explains_a_benchmark_and_runs_nothing(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        check_arguments(name, ["--help"])
    assert end.value.code == 0
    output = capsys.readouterr().out
    assert output.startswith(f"usage: python -m benchmarks.{name}")
    assert len(output.split("\n\n")) >= 3, "usage, description and options"
    with pytest.raises(SystemExit) as end:
        check_arguments(name, ["--unknown"])
    assert end.value.code == 2
    check_arguments(name, [])
