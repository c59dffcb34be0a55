"""The page at GET / in a real browser, on a server whose model says what the test wants."""

import threading

import pytest
from devtools import Browser
from support.browser import CHROMIUM, needs_chromium
from support.configs import compose_config
from support.saved_adapters import save_bundle
from support.scripted import scripted
from werkzeug.serving import make_server

from effchal.model_source import check_model_source, load_engine
from effchal.serving.app import make_app
from effchal.serving.service import Service
from effchal.serving.shared_base import base_config, check_adapters

HOSTILE = (
    "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>&amp;"
)
TEXTS = "[...document.querySelectorAll('article .text')].map((each) => each.textContent)"
STATUS = "document.getElementById('status').textContent"
ERROR = "document.getElementById('error').textContent"
CELLS = "[...row.cells].map((cell) => cell.textContent)"
ROWS = f"[...document.querySelectorAll('tbody tr')].map((row) => {CELLS})"
TOKEN = "sésame ∞"
NO_LAYER = "\u2013"
pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(CHROMIUM, tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def serve(serving_cfg, tiny_engine):
    """Serve an engine; the address of its page."""
    stops = []

    def start(engine=tiny_engine, adapters=None):
        service = Service(serving_cfg, "tiny")
        service.set_ready(engine, adapters=adapters)
        server = make_server("127.0.0.1", 0, make_app(service), threaded=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stops.extend((server.shutdown, service.loaded().scheduler.stop))
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for stop in stops:
        stop()
    tiny_engine.clear()


def opened(browser, url, **options):
    browser.open(url, **options)
    browser.wait_for("document.body.dataset.ready")


def set_value(browser, name, value):
    change = "dispatchEvent(new Event('change'))"
    browser.evaluate(
        f"(e => {{ e.value = {value!r}; e.{change}; }})(document.getElementById('{name}'))"
    )


def ask(browser, text):
    browser.evaluate("document.getElementById('prompt').focus()")
    browser.type(text)
    browser.press("Enter")
    browser.wait_for("!running && !document.getElementById('send').disabled")


def test_an_answer_streams_as_text_with_its_tokens(browser, serve, tiny_engine):
    url = serve(scripted(tiny_engine, HOSTILE))
    opened(browser, url)
    set_value(browser, "max_tokens", "50")
    ask(browser, f"say {HOSTILE}")
    assert browser.evaluate(TEXTS) == [f"say {HOSTILE}", HOSTILE[:50]]
    assert browser.evaluate("document.title") == "effchal"
    assert browser.evaluate("document.images.length") == 0
    assert browser.evaluate("document.scripts.length") == 1
    assert browser.evaluate(STATUS).startswith("50 tokens in ")
    assert browser.evaluate(STATUS).endswith(", ended at the limit")
    rows = browser.evaluate(ROWS)
    assert [row[0] for row in rows] == list(HOSTILE[:50].replace(" ", "·"))
    share, logprob, base, layer, others = rows[0][1:]
    assert share.endswith(" %")
    assert float(logprob) == float(base) < 0
    assert layer == NO_LAYER
    assert others.count("%") == 3
    assert browser.evaluate("document.getElementById('method_label').hidden") is True
    assert browser.evaluate("document.getElementById('model_label').hidden") is True
    assert browser.console == []


def test_a_conversation_goes_on_and_dola_shows_its_layers(browser, serve, serving_cfg):
    serving_cfg.serve.allow_decoding_override = True
    opened(browser, serve())
    options = "[...document.getElementById('method').options].map((each) => each.value)"
    assert browser.evaluate(options) == ["", "greedy", "sample", "dola", "sled"]
    set_value(browser, "method", "dola")
    set_value(browser, "layers", "low")
    browser.evaluate("document.getElementById('prompt').focus()")
    browser.type("two")
    browser.press("Enter", shift=True)
    ask(browser, "lines")
    layers = {row[4] for row in browser.evaluate(ROWS)}
    assert layers & {"0", "1"}
    ask(browser, "again")
    texts = browser.evaluate(TEXTS)
    assert len(texts) == 4
    assert (texts[0], texts[2]) == ("two\nlines", "again")
    roles = browser.evaluate("talk.map((each) => each.role)")
    assert roles == ["user", "assistant"] * 2
    browser.evaluate("document.getElementById('new').click()")
    assert browser.evaluate(TEXTS) == []
    assert browser.console == []


def test_escape_stops_an_answer_and_the_server_hears_of_it(browser, serve, serving_cfg):
    serving_cfg.serve.max_new_tokens = 5000
    opened(browser, serve())
    set_value(browser, "max_tokens", "5000")
    browser.evaluate("document.getElementById('prompt').focus()")
    browser.type("p")
    browser.press("Enter")
    browser.wait_for("document.querySelectorAll('tbody tr').length > 3")
    browser.press("Escape")
    browser.wait_for("!running")
    assert browser.evaluate(STATUS) == "Stopped"
    assert len(browser.evaluate("talk")) == 2


def test_a_model_is_chosen_where_there_are_several(browser, serve, serving_cfg, tmp_path):
    save_bundle(tmp_path / "mine", 1)
    words = ["model=tiny", "model.dtype=float32", f"serve.adapters={{mine: {tmp_path / 'mine'}}}"]
    cfg = base_config(compose_config(words), words)
    source = check_model_source(cfg)
    serving_cfg.serve.adapters = cfg.serve.adapters
    url = serve(load_engine(source), check_adapters(cfg, source, words))
    opened(browser, url)
    options = "[...document.getElementById('model').options].map((each) => each.value)"
    assert browser.evaluate(options) == ["tiny", "mine"]
    answers = []
    for name in ("tiny", "mine"):
        set_value(browser, "model", name)
        ask(browser, "hello")
        answers.append(browser.evaluate(TEXTS)[1])
        browser.evaluate("document.getElementById('new').click()")
    assert browser.evaluate(ERROR) == ""
    assert answers[0] != answers[1]


def test_an_error_of_the_server_is_text_and_the_question_stays(browser, serve):
    opened(browser, serve())
    set_value(browser, "max_tokens", "1000")
    ask(browser, "hello")
    limit = "400: 1000 is above this server's limit of 50 (serve.max_new_tokens) (max_tokens)"
    assert browser.evaluate(ERROR) == limit
    assert browser.evaluate("document.getElementById('prompt').value") == "hello"
    assert browser.evaluate(TEXTS) == browser.evaluate("talk") == []


def test_a_token_is_asked_for_and_kept_for_the_session_alone(browser, serve, monkeypatch):
    monkeypatch.setenv("EFFCHAL_TOKEN", TOKEN)
    opened(browser, serve())
    ask(browser, "hello")
    assert browser.evaluate(ERROR).startswith("401: this server wants Authorization")
    set_value(browser, "token", TOKEN)
    browser.wait_for("document.getElementById('only_model').textContent")
    browser.evaluate("document.getElementById('prompt').value = ''")
    ask(browser, "hello")
    assert len(browser.evaluate(TEXTS)) == 2
    assert browser.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]
    assert browser.evaluate("document.cookie") == ""


@pytest.mark.parametrize(("width", "dark"), [(360, False), (360, True), (1280, True)])
def test_dark_and_narrow_screens(browser, serve, width, dark):
    opened(browser, serve(), width=width, height=640, dark=dark)
    ask(browser, "x" * 300)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(18, 23, 29)" if dark else "rgb(255, 255, 255)")
    visible = "document.getElementById('send').getBoundingClientRect().bottom <= innerHeight"
    assert browser.evaluate(visible)
    unnamed = (
        "[...document.querySelectorAll('input, select, textarea')].filter((e) => !e.labels.length)"
    )
    assert browser.evaluate(f"{unnamed}.length") == 0
