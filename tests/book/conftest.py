"""The book's tests share one built site and one browser."""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import chapters as tool  # noqa: E402

CHAPTERS = tool.chapters()


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.book)


def copy_book(target: Path) -> Path:
    """Copy what a build needs: settings, text, executed notebooks."""
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, target / name)
    for name in ("book", "notebooks"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    return target


def build(folder: Path) -> subprocess.CompletedProcess:
    """Build the site with warnings as errors."""
    program = str(Path(sys.executable).with_name("jupyter-book"))
    command = [program, "build", str(folder), "-W", "-n", "--keep-going"]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ | {"NO_COLOR": "1"})


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The built site's folder."""
    folder = copy_book(tmp_path_factory.mktemp("book"))
    done = build(folder)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return folder / "_build" / "html"


@pytest.fixture(scope="session")
def serve():
    """Serve folders on this machine; return the address."""
    servers = []

    def start(folder):
        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *args):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A real Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=flags, headless=True)
        except Exception as error:
            pytest.fail(
                f"no Chromium to test the pages with: install chromium, or run `playwright install chromium` ({error})"
            )
        yield browser
        browser.close()
