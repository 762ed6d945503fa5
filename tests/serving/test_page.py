"""The page in a real browser. Needs `pip install playwright` and a Chromium, such as Debian's package."""

import os
import re
import shutil
import threading

import pytest
from cli.models import TEXT, make_tokenizer

from hmt import load_model
from serving.live import live

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
WAIT = 10_000


@pytest.fixture(scope="module")
def engine(folder):
    from hmt.serving import Engine

    engine = Engine(load_model(folder), make_tokenizer())
    yield engine
    engine.shutdown()


@pytest.fixture
def address(engine, tmp_path):
    with live(engine, tmp_path / "store") as (address, _):
        yield address


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """A page that makes no error of its own, and asks nobody but its server."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    page, errors, asked = context.new_page(), [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.set_default_timeout(WAIT)
    page.goto(address)
    page.wait_for_selector("#model:text-is('tiny')")
    yield page
    context.close()
    assert not errors and all(url.startswith((address, "data:", "blob:")) for url in asked)


STORY = TEXT[:1800]  # less than the memory holds


def drop(page, name="story.txt", text=STORY):
    """A document is dropped on the page, and read."""
    page.evaluate(
        """([name, text]) => {
            const data = new DataTransfer();
            data.items.add(new File([text], name));
            const drop = document.getElementById('drop');
            const how = { dataTransfer: data, bubbles: true, cancelable: true };
            drop.dispatchEvent(new DragEvent('drop', how));
        }""",
        [name, text],
    )
    page.wait_for_selector(f"#documents .name:text-is('{name}')")
    page.wait_for_selector("#reading", state="hidden")


def ask(page, question="a whale?"):
    page.fill("#question", question)
    page.press("#question", "Enter")
    page.wait_for_selector(".turn .answer:not(.open)")
    page.wait_for_selector("#stop", state="hidden")


def delete(page):
    page.click("#delete")
    page.click("#confirm .danger")
    page.wait_for_selector("#documents li", state="detached")


def test_a_document_is_read_asked_and_shown(page):
    drop(page)
    assert "keys and values of full attention would take" in page.inner_text("#bytes-caption")
    assert re.search(r"\d+ of 60 segments", page.inner_text("#bank-caption"))
    ask(page, "turned boat like smile")
    passages = page.locator(".turn .passages button")
    assert 1 <= passages.count() <= 4 and "story.txt, line" in passages.first.inner_text()
    assert page.locator(".turn .passages", has_text="read again").count() == 1
    passages.first.click()
    page.wait_for_selector("#text mark")
    lit = page.inner_text("#text mark")
    assert " ".join(lit.split())[:40] in " ".join(TEXT.split())
    assert page.locator("#text mark mark.word").count() >= 1
    assert "recalled with" in page.inner_text("#segment")
    page.click("#map-details summary")
    page.wait_for_selector("#map-legend li:text-is('turned boat like smile')")
    page.focus("#strip")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.wait_for_selector("#text mark:has-text('The whale turned')")
    assert page.get_attribute("#strip", "aria-valuenow") == "1"
    page.click("#documents button")
    page.click("#confirm button:text-is('Cancel')")
    assert page.locator("#documents li").count() == 1
    page.click("#documents button")
    page.click("#confirm button:text-is('Forget')")
    page.wait_for_selector("#documents li", state="detached")
    assert page.is_disabled("#ask") and page.is_hidden("#bank")
    drop(page, "again.txt")
    delete(page)


def test_a_second_tab_and_a_fork(page, address):
    drop(page)
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_selector("#documents .name:text-is('story.txt')")
    drop(other, "second.txt", "Another tale. " * 30)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_selector("#documents .name:text-is('second.txt')")
    page.click("#fork")
    page.wait_for_selector("#memory option >> nth=1", state="attached")
    assert page.locator("#documents li").count() == 2
    page.click("#delete")
    page.click("#confirm .danger")
    page.wait_for_selector("#memory option >> nth=1", state="detached")
    assert page.locator("#documents li").count() == 2  # of the other one
    other.close()
    delete(page)


def test_what_cannot_be_read_is_said(page):
    drop(page)
    page.set_input_files(
        "#file", {"name": "bad.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.4 no"}
    )
    page.wait_for_selector("#notice:not([hidden])")
    assert "bad.pdf" in page.inner_text("#notice") or "PDF" in page.inner_text("#notice")
    page.wait_for_selector("#reading", state="hidden")
    assert page.locator("#documents li").count() == 1  # and the page goes on
    ask(page)
    assert page.is_hidden("#notice")
    page.fill("#question", "whale " * 60)
    page.press("#question", "Enter")
    page.wait_for_selector(".turn.failed")
    assert "shorter" in page.inner_text(".turn.failed .answer")
    delete(page)


def test_a_lost_connection_comes_back(page):
    drop(page)
    page.context.set_offline(True)
    page.fill("#question", "a whale?")
    page.press("#question", "Enter")
    page.wait_for_selector(".turn.failed")
    assert "cannot be reached" in page.inner_text(".turn.failed .answer")
    page.click("#new")
    page.wait_for_selector("#notice:not([hidden])")
    page.context.set_offline(False)
    page.wait_for_selector("#notice", state="hidden")
    page.click(".turn.failed button:text-is('Ask again')")
    page.wait_for_selector(".turn:not(.failed) .answer:not(.open)")
    page.wait_for_selector("#stop", state="hidden")
    assert page.locator(".turn:not(.failed) .passages button").count() >= 1
    delete(page)


def test_a_reload_and_a_stop_in_the_middle_of_an_answer(page, engine):
    drop(page)
    gate = threading.Event()
    held = threading.Thread(target=lambda: engine.call(lambda: gate.wait(30)))
    held.start()
    page.fill("#question", "a whale?")
    page.press("#question", "Enter")
    page.wait_for_selector("#stop:not([hidden])")
    page.reload()
    page.wait_for_selector(".turn.failed .answer")
    assert "reloaded before the answer" in page.inner_text(".turn.failed .answer")
    assert page.locator("#documents li").count() == 1
    page.click(".turn.failed button:text-is('Ask again')")
    page.wait_for_selector("#stop:not([hidden])")
    page.click("#stop")
    page.wait_for_selector(".turn .answer:text-is('Stopped.')")
    gate.set()
    held.join()
    ask(page)
    delete(page)


CONTRAST = """() => {
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (colour !== 'rgba(0, 0, 0, 0)' && colour !== 'transparent') return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [];
  for (const node of document.querySelectorAll('body *')) {
    const said = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!said || !node.checkVisibility() || node.disabled) continue;
    const [a, b] = [light(getComputedStyle(node).color), light(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push([node.tagName, node.className, ratio, node.textContent.trim().slice(0, 30)]);
  }
  return found;
}"""
UNNAMED = """() => {
  const kinds = 'button, input, select, textarea, canvas, progress, [role=img]';
  const named = (node) => node.getAttribute('aria-label') || node.getAttribute('aria-labelledby')
    || node.labels?.length || node.textContent.trim();
  return [...document.querySelectorAll(kinds)].filter((node) => node.checkVisibility() && !named(node))
    .map((node) => node.outerHTML);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_everybody_can_use_it(page, scheme, width):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 740})
    drop(page, "a-file-with-a-rather-long-name-that-has-no-place-to-break-on-a-telephone.txt")
    ask(page)
    page.locator(".passages button").first.click()
    page.wait_for_selector("#text mark")
    page.click("#map-details summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate(UNNAMED) == []
    page.focus("body")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"memory", "new", "fork", "delete", "file", "question", "strip", "text"} <= reached
    delete(page)


def test_a_key_is_asked_for(browser, engine, tmp_path):
    from hmt.serving import Keys
    from hmt.serving.keys import add_key

    secret, _ = add_key(tmp_path / "keys.json", "me")
    keys = Keys(tmp_path / "keys.json")
    with live(engine, tmp_path / "store", keys=keys) as (address, _):
        page = browser.new_page()
        page.set_default_timeout(WAIT)
        page.goto(address)
        page.wait_for_selector("#key-form:not([hidden])")
        page.fill("#key", secret)
        page.press("#key", "Enter")
        page.wait_for_selector("#model:text-is('tiny')")
        drop(page)
        page.close()
