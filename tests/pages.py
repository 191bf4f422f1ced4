"""Pages of a site in a real browser: what is asked of them, and what must not happen on them."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

HOSTILE = (
    "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=2>"
    "'\"><b>&amp;\u2028\n{{7*7}} javascript:" + "n" * 180
)
PHOTOGRAPH = "a\"><img src=x onerror='window.hacked=3'>/b.jpg"


def at(layer: str, channel: int | None = None, query: str = "") -> str:
    """The address of a layer or a channel."""
    end = "" if channel is None else f":{channel}"
    name = quote(layer, safe="!'()*")  # what encodeURIComponent leaves as it is
    return f"#/toy/{name}{end}" + (f"?{query}" if query else "")


@dataclass
class Visit:
    """A page, and what went wrong on it."""

    page: Any
    home: str
    folder: str
    wrong: list[str] = field(default_factory=list)

    @staticmethod
    def begin(browser: Any, index: Path) -> "Visit":
        """Open a page for an index file, and listen to it."""
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        visit = Visit(page, index.as_uri(), index.parent.as_uri())
        page.on("console", lambda said: visit.wrong.append(f"console: {said.text}"))
        page.on("pageerror", lambda error: visit.wrong.append(f"uncaught: {error}"))
        page.on("dialog", lambda dialog: visit.wrong.append(f"dialog: {dialog.message}"))
        page.on("request", visit.check_request)
        page.on("requestfailed", visit.check_failure)
        page.set_default_timeout(5000)
        return visit

    def check_failure(self, request: Any) -> None:
        """What is asked for must come, but for what a page is left before."""
        if request.failure != "net::ERR_ABORTED":
            self.wrong.append(f"failed: {request.url}")

    def check_request(self, request: Any) -> None:
        """Nothing but the site's own files may be asked for."""
        if not request.url.startswith(f"{self.folder}/"):
            self.wrong.append(f"leaves: {request.url}")

    def end(self) -> None:
        self.page.close()

    def reset(self) -> None:
        """Back to a first visit."""
        self.wrong.clear()
        self.page.set_viewport_size({"width": 1280, "height": 800})
        self.page.emulate_media(media="screen", color_scheme="light")
        self.page.goto("about:blank")
        self.page.goto(self.home)
        self.page.evaluate("localStorage.clear()")
        self.page.wait_for_selector("h1")

    def go(self, address: str) -> None:
        """Follow an address, and wait until its view is there."""
        if self.hash != address:
            asked = self.page.evaluate("now.asked")
            self.page.evaluate("(address) => { location.hash = address }", address)
            self.until(f"now.asked > {asked}")
        self.settle()

    def settle(self) -> None:
        """Wait until the view that was asked for is shown."""
        self.until("now.asked && now.shown === now.asked && now.address === location.hash")

    def until(self, so: str) -> None:
        """Wait until an expression of JavaScript is true; in vain for 5 seconds is an error.

        Playwright's own way is forbidden by the page's policy.
        """
        late = f"fail(new Error({json.dumps(so)} + ' did not come true'))"
        look = f"{so} ? done() : performance.now() - begun > 5000 ? {late} : setTimeout(look, 5)"
        self.page.evaluate(
            "new Promise((done, fail) => { const begun = performance.now();"
            f"const look = () => {{ {look} }}; look(); }})"
        )

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, each when the one before has had its effect."""
        for key in keys:
            self.page.keyboard.press(key)
            self.page.evaluate("new Promise((done) => setTimeout(done, 20))")
            self.settle()

    def to_paper(self) -> None:
        """Lay the page out as a printer gets it: A4, within its margins; `reset` takes it back."""
        self.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        self.page.emulate_media(media="print", color_scheme="dark")
        self.page.set_viewport_size({"width": 703, "height": 1032})
        self.page.evaluate("new Promise((done) => setTimeout(done, 50))")

    def printed_pages(self) -> int:
        """Print the page to a PDF file, and count the pages of that."""
        self.page.emulate_media(media="null", color_scheme="dark")  # else that is printed
        data = self.page.pdf(prefer_css_page_size=True)
        return len(re.findall(rb"/Type\s*/Page\b", data))

    @property
    def hash(self) -> str:
        return str(self.page.evaluate("location.hash"))

    def texts(self, selector: str) -> list[str]:
        return list(self.page.locator(selector).all_text_contents())

    def rows(self) -> list[int]:
        """The channels of the grid, in order."""
        return list(self.page.evaluate("now.wall.rows.map((row) => now.wall.data.channels[row])"))

    def focused(self) -> str:
        """The text of what has the focus."""
        return str(self.page.evaluate("document.activeElement.innerText"))

    def loaded(self, name: str) -> Any:
        """What a data script handed over."""
        return self.page.evaluate(f"layerAtlas.load({json.dumps(name)})")


CONTROLS = """[...document.querySelectorAll("button, select, input, summary, .switch, .hint")]
  .filter((each) => each.checkVisibility()).map((each) => each.outerHTML)"""


def check_paper(visit: Visit) -> None:
    """Check that paper has no controls, and that nothing sticks out of it."""
    assert visit.page.evaluate(CONTROLS) == []
    assert visit.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert visit.page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"


def violations(visit: Visit, theme: str) -> list[str]:
    """What axe-core finds wrong with what is shown; themes differ in colours alone."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="NOT TESTED: no axe")
    # It would ask for the style sheet again, which the page's policy forbids.
    options: dict[str, Any] = {"preload": False, "resultTypes": ["violations"]}
    if theme == "dark":
        options["runOnly"] = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}
    results = axe.Axe().run(visit.page, options=options)
    return [
        f"{each['id']}: {node['html'][:200]}"
        for each in results.response["violations"]
        for node in each["nodes"]
    ]


def check_access(visit: Visit, theme: str = "light") -> None:
    """Check that what is shown keeps nobody out, and that nothing sticks out of the window."""
    assert violations(visit, theme) == []
    page = visit.page
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
