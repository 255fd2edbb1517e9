"""Pages opened in a real browser, as wide as a phone and as a desktop, light and dark."""

import functools
import html
import http.server
import io
import json
import pathlib
import re
import shutil
import subprocess
import threading

import numpy as np
import pytest
from fake_workdir import fake_config, fake_workdir
from PIL import Image
from report_pages import first_two

from proda_jax import report
from proda_jax.report import embedding

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PHONE, DESKTOP = 390, 1280
PAGES = ("index.html", "compare.html")
SCHEMES = {"dark": 0, "light": 1}  # as the browser numbers them
# A frame for each page and width; once all are there, what is seen in them is written as JSON.
FRAMES = """<!DOCTYPE html><link rel="icon" href="data:,"><pre id="seen"></pre><script>
const frames = %s.map(([page, width]) => {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 2000; frame.src = page;
  return document.body.appendChild(frame);
});
const color = (view, what, which) => view.getComputedStyle(view.document.querySelector(what))[which];
window.onload = () => seen.textContent = JSON.stringify(frames.map(frame => {
  const view = frame.contentWindow, page = view.document, root = page.documentElement;
  const beyond = [...page.querySelectorAll("body *")].filter(
    e => !e.closest(".scroll > *") && e.getBoundingClientRect().right > root.clientWidth + 1);
  return {
    page: frame.src.split("/").pop(), width: root.clientWidth, scroll: root.scrollWidth,
    beyond: beyond.map(e => e.tagName + "." + e.className),
    pictures: page.images.length, broken: [...page.images].filter(e => !e.naturalWidth).map(e => e.alt),
    drawings: page.querySelectorAll("svg").length,
    flat: [...page.querySelectorAll("svg")].filter(e => e.clientHeight < 60).length,
    requests: view.performance.getEntriesByType("resource").map(e => e.name.slice(0, 80)),
    paper: color(view, "body", "backgroundColor"),
    inks: ["h1", ".caption", "a", "dt"].map(what => color(view, what, "color")).concat(color(view, "svg text", "fill")),
  };
}));
</script>"""


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a report's folder, and notes what is asked for."""

    asked: list[str] = []

    def do_GET(self):
        self.asked.append(self.path)
        if self.path != "/frames":
            return super().do_GET()
        frames = [(page, width) for page in PAGES for width in (PHONE, DESKTOP)]
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write((FRAMES % json.dumps(frames)).encode())

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """The folder with the page of a run and one that compares it with another seed."""
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    fake_workdir(first, size=(48, 96))
    fake_workdir(second, fake_config(("source", "stage1"), seed=1), images=1, size=(48, 96))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "_umap", first_two)
        report.write(first)
    report.write_comparison([first, second])
    return first / "report"


@pytest.fixture(scope="module")
def browser() -> str:
    """A browser that starts; some systems have a command that only says how to install one."""
    for path in filter(None, map(shutil.which, NAMES)):
        if subprocess.run([path, "--version"], capture_output=True, timeout=120).returncode == 0:
            return path
    pytest.skip(f"no browser to open pages in: none of {', '.join(NAMES)} is installed")


def browse(browser: str, tmp_path: pathlib.Path, address: str, *options: str) -> str:
    """Opens an address without a window, and returns what the browser prints."""
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    command += ["--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}", *options, address]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(scope="module", params=list(SCHEMES))
def seen(request, browser, folder, tmp_path_factory) -> tuple[str, list[dict], list[str]]:
    """The scheme, what is seen in each frame, and what was asked for."""
    handler = type("Noted", (Server,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/frames"
        scheme = f"--blink-settings=preferredColorScheme={SCHEMES[request.param]}"
        options = (scheme, "--dump-dom", "--virtual-time-budget=20000")
        text = browse(browser, tmp_path_factory.mktemp("browser"), address, *options)
        server.shutdown()
    return request.param, json.loads(html.unescape(re.search(r'id="seen">(.*?)</pre>', text).group(1))), handler.asked


def test_pages_fit_a_phone_and_a_desktop(seen):
    _, frames, _ = seen
    assert [(frame["page"], frame["width"]) for frame in frames] == [(p, w) for p in PAGES for w in (PHONE, DESKTOP)]
    for frame in frames:
        assert frame["scroll"] <= frame["width"] and frame["beyond"] == [], frame


def test_every_picture_is_there_and_nothing_is_fetched_for_it(seen):
    _, frames, asked = seen
    assert frames[0]["pictures"] > 30 and frames[0]["drawings"] > 15
    for frame in frames:
        assert frame["broken"] == [] and frame["flat"] == 0 and frame["requests"] == [], frame
    assert set(asked) == {"/frames", *(f"/{page}" for page in PAGES)}


def luminance(color: str) -> float:
    """Relative luminance of 'rgb(1, 2, 3)', as WCAG 2 defines it."""
    channels = np.array(re.findall(r"\d+", color)[:3], float) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_text_stands_out_from_its_ground_in_light_and_dark(seen):
    scheme, frames, _ = seen
    for frame in frames:
        ground = luminance(frame["paper"])
        assert ground < 0.05 if scheme == "dark" else ground > 0.9
        for ink in map(luminance, frame["inks"]):
            assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 4.5  # WCAG 2, level AA


def test_a_phones_screenshot_shows_the_page(browser, folder, tmp_path):
    picture = tmp_path / "phone.png"
    browse(
        browser, tmp_path, (folder / "index.html").as_uri(), f"--screenshot={picture}", f"--window-size={PHONE},1600"
    )
    pixels = np.asarray(Image.open(io.BytesIO(picture.read_bytes())).convert("RGB"))
    assert pixels.shape == (1600, PHONE, 3)
    painted = (np.abs(pixels.astype(int) - pixels[0, 0]) > 24).any(-1)
    assert 0.02 < painted.mean() < 0.5 and painted[:, -8:].mean() < 0.02  # text and bars; nothing at the very edge


def test_a_printed_page_is_a_few_sheets(browser, folder, tmp_path):
    sheets = tmp_path / "report.pdf"
    browse(browser, tmp_path, (folder / "index.html").as_uri(), f"--print-to-pdf={sheets}", "--no-pdf-header-footer")
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", sheets.read_bytes())) <= 20
