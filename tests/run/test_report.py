"""The report of a pipeline as whoever opens its run in MLflow finds it."""

import re

import pytest


@pytest.fixture(scope="module")
def logged(finished, tmp_path_factory):
    """Artifacts of the report stage's run: name below `report/` to bytes."""
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{finished.workspace}/mlflow.db")
    run_id = finished.stages()["page"]["mlflow_run_id"]
    assert client.get_run(run_id).info.status == "FINISHED"
    listed = client.list_artifacts(run_id, "report")
    assert not any(entry.is_dir for entry in listed)
    folder = tmp_path_factory.mktemp("downloaded")
    found = {}
    for entry in listed:
        path = client.download_artifacts(run_id, entry.path, str(folder))
        with open(path, "rb") as file:  # noqa: PTH123
            found[entry.path.removeprefix("report/")] = file.read()
    return found


def test_the_run_has_the_page_and_every_figure_byte_by_byte(finished, logged):
    """Each figure as PNG and SVG, the animations among them, and nothing else."""
    folder = finished.home / "page"
    drawn = {path.name for path in folder.iterdir() if path.suffix in (".html", ".png", ".svg")}
    assert set(logged) == drawn
    assert set(logged) == {"report.html", *finished.manifest("page")["figures"]}
    for name, content in logged.items():
        assert content == (folder / name).read_bytes(), name
    for figure in ("tune-leaderboard", "final-curves", "final-motion", "score-evidence",
                   "score-worst", "codes-posterior"):  # fmt: skip
        assert {f"{figure}.png", f"{figure}.svg"} <= set(logged)


def test_links_of_the_page_lead_to_artifacts_of_the_run(logged):
    """Downloaded as it is, the folder is a whole page."""
    page = logged["report.html"].decode()
    links = [link for link in re.findall(r'(?:href|src)="([^"#]+)"', page) if ":" not in link]
    assert len(links) == len(logged) - 1
    assert set(links) == set(logged) - {"report.html"}


def test_the_page_can_be_drawn_again_from_the_workspace(finished, logged, tmp_path):
    """The same figures of the same stages, from the folder alone, and of one stage of it."""
    code, out, err = finished.vaepipe("report", finished.home, "--output", tmp_path / "again")
    assert code == 0, err
    assert out.strip() == str(tmp_path / "again" / "report.html")
    for name, content in logged.items():
        if name != "report.html":
            assert (tmp_path / "again" / name).read_bytes() == content, name
    score = finished.home / "score"
    code, _, err = finished.vaepipe("report", score, "--output", tmp_path / "score")
    assert code == 0, err
    assert (tmp_path / "score" / "score-worst.png").read_bytes() == logged["score-worst.png"]
