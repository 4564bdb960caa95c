"""The notebook runs from its first cell to its last, in a kernel, and shows the report."""

from __future__ import annotations

from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

NOTEBOOK = Path(__file__).parents[2] / "examples" / "demo.ipynb"

SMALL = """
SIZE = "--world_entities 60 --n_train_questions 40 --n_eval_questions 6 --warm_start_steps 4".split()
SIZE += "--num_generations 4 --per_device_train_batch_size 8 --steps_per_generation 2 --max_steps 2".split()
RUN = "runs/notebook"
"""


def test_it_trains_and_opens_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a smaller run, every other cell as it stands: a table of two updates, and the whole page in a frame."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = {cell.id: cell for cell in notebook.cells}
    assert cells["size"].source.startswith("SIZE = ")
    cells["size"].source = SMALL
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    (table,) = cells["metrics"].outputs
    assert table["data"]["text/html"].count("<tr>") == 2
    shown = cells["report"].outputs[-1]["data"]["text/html"]
    assert shown.startswith("<iframe srcdoc=") and len(shown) > (tmp_path / "report.html").stat().st_size > 50_000


def test_it_is_stored_without_output() -> None:
    """What a run printed is not in the repository."""
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert cells and all(not cell.outputs and cell.execution_count is None for cell in cells)
