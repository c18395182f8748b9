"""Packages installed without pip: what metadata say, and a path to the source."""

import tomllib

import pytest


def pretend_to_install(project, site):
    """Write what pip would about a project; the paths that make it importable."""
    about = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    info = site / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
    info.mkdir(parents=True)
    head = f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n"
    (info / "METADATA").write_text(head)
    lines = []
    for group, points in about["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return [str(site), str(project)]


@pytest.fixture(scope="session")
def install():
    """`install(project, site)` gives the paths for `sys.path`."""
    return pretend_to_install
