"""Errors show no control characters of a server and no part of a key, over real sockets."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import pickle
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.error_responses import KEY, config_of, error_from, error_of_response
from support.providers import REMOTE
from support.scripted_server import Reply

from multiembed import CacheWarning
from multiembed.cache.failure_policy import StoreHealth
from multiembed.redaction import clean, redact, safe_text
from multiembed.responses.error_policy import build_error
from multiembed.responses.interpret import interpret_response
from multiembed.transport.types import TransportFailure

RAW = "\x1b[31m\nred\r\t\x00\x07\x9b2J\u202egnp\u200b\u2066\ufeff\ud800\u2028\U000e0041."
LONG_KEY = "".join(hashlib.sha256(bytes([number])).hexdigest() for number in range(30))[:1900]
"""As long as a JWT."""


def shown(error):
    """All that an error shows or keeps, also after a pickle."""
    again = pickle.loads(pickle.dumps(error))
    return "\n".join(str(each) for e in (error, again) for each in (e, e.args, vars(e), f"{e!r}"))


def raw_in(words):
    return [character for character in words if not character.isprintable() and character != "\n"]


@pytest.mark.parametrize("provider", REMOTE)
@pytest.mark.parametrize(
    ("status", "place"),
    [(200, "message"), (403, "code"), (200, "request_id"), (403, "unknown"), (200, "plain"), (403, "message")],
)
def test_control_characters_of_a_server_never_come_out_raw(provider, status, place, entry_point):
    flat = {"code": "E7", "message": "no", "request_id": "r"}
    body = {**flat, place: RAW, "error": {**flat, place: RAW}}
    body = {"unknown": {"odd": RAW}, "plain": RAW.encode("utf-8", "surrogatepass")}.get(place, body)
    caught, _ = error_from(provider, entry_point, Reply(body, status))
    for words in filter(None, (str(caught), caught.code, caught.request_id, caught.provider_message)):
        assert words.isprintable()
    assert repr(caught).isprintable()


def test_control_characters_of_headers_and_transport_are_cleaned():
    caught = error_of_response("gateway", 500, b"{}", **{"x-request-id": RAW})
    assert caught.request_id
    assert not raw_in(str(caught))
    moved = error_of_response("gateway", 302, b"", location="http://ho\x1b[31mst\u202e.example/path")
    assert not raw_in(str(moved))
    broken = TransportFailure("connection", f"RemoteProtocolError: {RAW}")
    failure = interpret_response(broken, config_of("gateway"), texts=1, dimensions=2)
    caught = build_error(failure, config_of("gateway"), broken, indices=(0,), retry_after=None)
    assert not raw_in(str(caught))
    assert "red" in str(caught)


FORMS = {
    "whole": lambda key: key,
    "beginning": lambda key: key[:16],
    "middle": lambda key: key[9:23],
    "end": lambda key: key[-12:],
    "eight": lambda key: key[-8:],
    "upper": lambda key: key.upper(),
    "wrapped": lambda key: f"{key[:12]}\n{key[12:]}",
    "hidden": lambda key: "\u200b".join(key),
    "url": lambda key: quote(f"Bearer {key}", safe=""),
    "json": json.dumps,
    "html": html.escape,
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "basic": lambda key: base64.b64encode(f"user:{key}".encode()).decode(),
    "basic-2": lambda key: base64.urlsafe_b64encode(f":{key}".encode()).decode(),
    "twenty times": lambda key: f" {key}" * 20,
}


def parts_of(secret, words, shortest=8):
    lowered, secret = words.lower(), secret.lower()
    found = {secret[start : start + shortest] for start in range(len(secret) - shortest + 1)}
    return found & {lowered[start : start + shortest] for start in range(len(lowered) - shortest + 1)}


KEYS = {"usual": KEY, "long": LONG_KEY, "odd": 'sk-a"b\\c/d+e%f&g<h', "ten": "0123456789"}
PLACES = ("message", "code", "request_id", "error", "unknown", "plain", "location")
PAIRS = {
    f"{PLACES[(n + m + k) % 7]}-{form}-{key}": (KEYS[key], form, PLACES[(n + m + k) % 7])
    for n, key in enumerate(KEYS)
    for m, form in enumerate(FORMS)
    for k in (0, 2, 4)
}
"""Each key in each form at three places; each form is at each place."""


@pytest.mark.parametrize(("key", "form", "place"), PAIRS.values(), ids=PAIRS)
def test_no_part_of_a_repeated_key_is_shown(key, form, place):
    echo = FORMS[form](key)
    for before in (0, 285, 8185):
        words = "-" * before + echo
        flat = {"code": "E7", "message": "no", "request_id": "r", place: words}
        body = {"error": {"error": words}, "unknown": {"odd": words}, "plain": words}.get(
            place, {**flat, "error": flat}
        )
        raw = words.encode() if place == "plain" else json.dumps(body).encode()
        headers = {"location": f"https://{echo}.example/?key={echo}"} if place == "location" else {}
        for status in (302,) if place == "location" else (200, 500):
            caught = error_of_response("gateway", status, raw, key=key, **headers)
            coded = base64.b64encode(key.encode()).decode().rstrip("=")[:-1]
            for secret in (key, coded, quote(key, safe=""), json.dumps(key)[1:-1], html.escape(key)):
                assert not parts_of(secret, shown(caught))


@pytest.mark.parametrize("provider", REMOTE)
def test_end_of_key_repeated_by_a_server_is_not_shown(provider, entry_point):
    body = {"error": {"message": f"Incorrect API key: ***{KEY[-12:]}", "code": KEY[-10:]}, "request_id": KEY[4:20]}
    caught, _ = error_from(provider, entry_point, Reply(body, 401))
    assert not parts_of(KEY, shown(caught))
    assert "Incorrect API key" in caught.provider_message


def test_warning_about_a_store_shows_no_control_characters():
    health = StoreHealth("redis")
    with pytest.warns(CacheWarning) as caught:
        health.report("read", OSError("\x1b[31mred\u202e\r"))
    assert str(caught[0].message).isprintable()


def test_secret_headers_of_the_user_are_not_shown():
    headers = {"X-Api-Token": "tok-9d8f7a6b5c4e", "X-Team": "search-team"}
    caught = error_of_response(
        "gateway", 400, b'{"message":"tok-9d8f7a6b5c4e of search-team"}', options={"headers": headers}
    )
    assert caught.provider_message == "… of search-team"


def test_short_masks_and_ordinary_words_stay_readable():
    words = f"Incorrect API key provided: {KEY[:6]}…{KEY[-4:]}. Look at https://example.com."
    assert safe_text(words, [KEY]) == words
    assert safe_text("模型不存在，请检查", [KEY]) == "模型不存在，请检查"
    assert redact("abc", []) == "abc"
    assert clean("a\r\nb\x1b[0m\u202ec") == "a  b\ufffd[0mc"


@given(st.text(min_size=8, max_size=40, alphabet="abAB01-"), st.text(max_size=60, alphabet="abAB01- \n"), st.booleans())
def test_redaction_leaves_no_part_of_any_key(key, words, repeat):
    left = redact(words + (key if repeat else ""), [key])
    assert not parts_of(key, left)


@given(st.text())
def test_clean_words_can_be_printed(words):
    assert clean(words).isprintable()
