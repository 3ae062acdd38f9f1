import os
from pathlib import Path

import pytest
import torch

import vaecf_lib as vc

ROOT = Path(__file__).resolve().parents[1]
os.environ["VAECF_CACHE"] = "off"  # tests read files, not what an earlier run has kept of them


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Side by side (-n 2 --dist loadgroup), a file's tests stay together, and the book's, which share a built site."""
    for item in items:
        book = ROOT / "tests" / "book" in item.path.parents
        item.add_marker(pytest.mark.xdist_group("book" if book else item.path.name))
    items.sort(key=lambda item: "book" not in item.path.parts)  # the longest group begins first


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def planted():
    return vc.load_dataset("planted")


@pytest.fixture(scope="session")
def planted_split(planted):
    return vc.split_strong(planted)


@pytest.fixture(scope="session")
def real_data():
    """The folder of the real data sets; tests that need it are skipped where there is none."""
    folder = os.environ.get("VAECF_DATA")
    if not folder or not (Path(folder) / "ml-1m").exists():
        pytest.skip("VAECF_DATA names no folder with ml-1m: real data cannot be redistributed with the tests")
    return Path(folder)
