"""Vector extraction is only faster: the result is the same as when the whole body is parsed."""

from __future__ import annotations

import base64
import json
import random
import struct
from contextlib import contextmanager

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.providers import MODELS, REMOTE, address_options, elements_of, response_of

from multiembed.config.options import EmbeddingOptions
from multiembed.config.request_config import resolve_config
from multiembed.responses import interpret, vector_extraction
from multiembed.responses.validation import ValidatedVectors
from multiembed.responses.vector_extraction import extract_vectors, parse_vector
from multiembed.transport.types import HttpResponse

pytestmark = pytest.mark.unit

READERS = [
    pytest.param(
        vector_extraction._parse_by_simdjson,
        id="simdjson",
        marks=pytest.mark.skipif(not vector_extraction.simdjson, reason="an extra"),
    ),
    pytest.param(vector_extraction._parse_by_orjson, id="orjson"),
]
ROWS = [[0.25, -1e-3, 12345678.901234567], [1, 0, -3], [-0.0, 3.4e38, 5e-324]]


def packed(row):
    return base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode()


def body(provider="siliconflow", rows=ROWS, *, dumps=orjson.dumps):
    more = {"id": "r-1", "request_id": "r-2", "usage": {"prompt_tokens": 7, "total_tokens": 7}, "model": "m: 1"}
    response = response_of(provider, rows)
    elements_of(response)[:] = [
        {"object": "embedding", "index": n, "text_index": n, "embedding": row} for n, row in enumerate(rows)
    ]
    written = dumps({**{name: value for name, value in response.items() if name not in more}, **more})
    return written if isinstance(written, bytes) else written.encode()


@contextmanager
def swapped(position, name, value):
    before = getattr(position, name)
    setattr(position, name, value)
    try:
        yield
    finally:
        setattr(position, name, before)


def interpreted(text, provider="siliconflow", *, texts=3, dimensions=3, output="dense"):
    """What a reply is worth, in a form that can be compared bit by bit."""
    options = EmbeddingOptions(api_key="sk-abcdefghijkl", output=output, **address_options(provider))
    result = interpret.interpret_response(
        HttpResponse(200, {}, text), resolve_config(MODELS[provider], options, {}), texts=texts, dimensions=dimensions
    )
    if not isinstance(result, ValidatedVectors):
        return result
    dense = result.dense
    bits = None if dense is None else (dense.dtype.str, dense.shape, dense.flags.c_contiguous, dense.tobytes())
    return ValidatedVectors(bits, result.sparse, result.total_tokens, result.request_id)


def interpreted_whole(text, *where, **how):
    with swapped(interpret, "extract_vectors", lambda _: None):
        return interpreted(text, *where, **how)


# ── what is cut ──────────────────────────────────────────────────────────────────────────────────

FORMS = {
    "compact": orjson.dumps,
    "blanks": json.dumps,
    "indented": lambda value: json.dumps(value, indent=2),
    "tabs": lambda value: json.dumps(value, indent="\t", separators=(" ,", " \r\n: ")),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [ROWS, [packed(row) for row in ROWS], [ROWS[0], packed(ROWS[1]), ROWS[2]]])
def test_extraction_parses_only_the_rest_of_a_body(rows, form, reader):
    parsed = []

    def parse(text):
        parsed.append(len(text))
        return before(text)

    before = interpret._parse
    for provider in REMOTE:
        text = body(provider, rows, dumps=FORMS[form])
        whole = interpreted_whole(text, provider)
        assert isinstance(whole, ValidatedVectors), provider
        parsed.clear()
        with swapped(vector_extraction, "parse_floats", reader), swapped(interpret, "_parse", parse):
            assert interpreted(text, provider) == whole, provider
        assert parsed == [len(extract_vectors(text)[0])], provider


@pytest.mark.parametrize("output", ["sparse", "dense&sparse"])
def test_extraction_keeps_the_result_with_sparse_vectors(output):
    payload = orjson.loads(body("dashscope"))
    for position, element in enumerate(payload["output"]["embeddings"]):
        element["sparse_embedding"] = [{"index": 7 + position, "value": 0.5, "token": '":['}]
    text = orjson.dumps(payload)
    assert isinstance(interpreted(text, "dashscope", output=output), ValidatedVectors)
    assert interpreted(text, "dashscope", output=output) == interpreted_whole(text, "dashscope", output=output)


def test_body_without_a_whole_vector_is_not_extracted():
    assert (
        extract_vectors(b"")
        is extract_vectors(b'{"error":{"code":"1113"}}')
        is extract_vectors(b'{"embedding":null}')
        is None
    )
    text = body()
    assert extract_vectors(text[: text.rindex(b"]}") - 1].rpartition(b"]")[0]) is None


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────

NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(width=32, allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(10**25), 10**25).map(str),
    st.from_regex(r"\A-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?\Z"),
    st.sampled_from(["-0", "-0.0", "9007199254740993", "18446744073709551615", "18446744073709551616", "2e-324"]),
    st.sampled_from(["-9223372036854775809", "1.7976931348623157e308", "1.7976931348623159e308", "1e-999", "1e999"]),
    st.sampled_from(["01", "1.", ".5", "+1", "-", "1e", "0x1", "NaN", "Infinity", "true", "null", "[]", '"1"']),
)


@pytest.mark.parametrize("reader", READERS)
@given(numbers=st.lists(NUMBERS, min_size=1, max_size=6), between=st.sampled_from([",", ", ", "\n,\t", ",,", ";"]))
def test_parsed_numbers_are_the_nearest_float64_or_rejected(numbers, between, reader):
    text = f"[{between.join(numbers)}]".encode()
    try:
        row = reader(text)
    except ValueError:
        return
    right = [float(number) for number in orjson.loads(text)]
    assert row.tobytes() == np.array(right, dtype=np.float64).tobytes()


@pytest.mark.parametrize("reader", READERS)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_any_plain_list_is_accepted(reader, row):
    assert reader(orjson.dumps(row)).tolist() == row == reader(json.dumps(row, indent=1).encode()).tolist() or any(
        abs(number) > 2**53 for number in row
    )


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "text",
    ["[]", "[[1.0],[2.0]]", "[1.0,[2.0]]", "[[1.0,2.0]]", "[true,1]", "[false]", "[null]", '["1.0"]', '[{"a":1}]',
     "[1.0", "[1.0]]", "[1.0] 2", "[NaN]", "[1e999]", '""', '"AAA"', '"AAAAA==="', '"AAAA AAAA"', '"AA\\/A"', '"é"'],
)  # fmt: skip
def test_text_that_is_not_a_plain_vector_is_rejected(text, reader):
    with swapped(vector_extraction, "parse_floats", reader), pytest.raises(ValueError, match=r"."):
        parse_vector(text.encode())


@given(st.text("AZaz09+/=-_ \n", max_size=16))
def test_base64_is_rejected_or_equals_the_standard_library(text):
    try:
        row = parse_vector(f'"{text}"'.encode())
    except ValueError:
        return
    assert row.tobytes() == base64.b64decode(text, validate=True)


@pytest.mark.skipif(not vector_extraction.simdjson, reason="an extra")
def test_kept_exception_does_not_block_the_parser():
    kept = []
    for _ in range(3):
        with pytest.raises(ValueError, match=r".") as caught:
            vector_extraction._parse_by_simdjson(b"[1.0,true]")
        kept.append(caught.value)
    assert vector_extraction._parse_by_simdjson(b"[1.0,2.0]").tolist() == [1.0, 2.0]


@pytest.mark.parametrize("reader", READERS)
def test_row_is_unchanged_by_later_parses(reader):
    texts = [orjson.dumps([float(number)] * 300) for number in range(1, 41)]
    rows = list(map(reader, texts * 5))
    assert [set(row.tolist()) for row in rows] == [{float(number)} for number in range(1, 41)] * 5


@pytest.mark.parametrize("reader", READERS)
def test_vector_too_long_for_simdjson_is_accepted(reader):
    row = [1.0 / number for number in range(1, 60_001)]
    text = body(rows=[row])
    assert len(text) > vector_extraction._MAX_SIMDJSON_BYTES
    with swapped(vector_extraction, "parse_floats", reader):
        validated = interpreted(text, texts=1, dimensions=len(row))
    assert validated.dense[3] == np.float32(row).tobytes()


# ── what is the same ─────────────────────────────────────────────────────────────────────────────

VECTOR = b"[1.0,2.0,3.0]"
TRAPS = {
    "a vector in a string": (b'"m: 1"', rb'"\"embedding\":[1.0,2.0,3.0]"'),
    "a vector behind a string": (b'"m: 1"', rb'"\"embedding":[1.0,2.0,3.0]'),
    "a key that ends like it": (b'"model"', rb'"x\"embedding"'),
    "a vector elsewhere": (b'"model":', b'"embedding":[1.0,2.0,3.0],"model":'),
    "no vector elsewhere": (b'"model":', b'"embedding":[1.0,,2.0],"model":'),
    "base64 elsewhere": (b'"model":', b'"embedding":"AAAA","model":'),
    "text elsewhere": (b'"model":', b'"embedding":"not \x01 base64","model":'),
    "a mark": (b'"m: 1"', rb'"\u00000"'),
    "a mark for a vector": (VECTOR, rb'"\u00000"'),
    "a mark in the key": (b'"model"', rb'"\u00001"'),
    "a mark with a vector elsewhere": (VECTOR + b"}", rb'"\u00000"},{"embedding":[1.0,2.0,3.0]}'),
    "a vector twice": (VECTOR, VECTOR + b',"embedding":' + VECTOR),
    "a vector twice, once null": (VECTOR, b'null,"embedding":' + VECTOR),
    "a vector twice, by an escape": (VECTOR, VECTOR + rb',"\u0065mbedding":' + VECTOR),
    "an escaped key": (b'"embedding":' + VECTOR, rb'"\u0065mbedding":' + VECTOR),
    "a key twice, one with a blank": (b'"model":', b'"model" :1,"model":'),
    "a slash escaped": (VECTOR, rb'"AACAPwAAgD8AAIA\/"'),
    "a list in the list": (VECTOR, b"[1.0,[2.0],3.0]"),
    "a list around the list": (VECTOR, b"[[1.0,2.0,3.0]]"),
    "lists of one": (VECTOR, b"[[1.0],[2.0],[3.0]]"),
    "an object in the list": (VECTOR, b'[1.0,{"a":[2.0]},3.0]'),
    "a bracket in a string": (VECTOR, b'[1.0,"]",3.0]'),
    "true": (VECTOR, b"[1.0,true,3.0]"),
    "false": (VECTOR, b"[1.0,false,3.0]"),
    "null": (VECTOR, b"null"),
    "one null": (VECTOR, b"[1.0,null,3.0]"),
    "text": (VECTOR, b'[1.0,"2.0",3.0]'),
    "NaN": (VECTOR, b"[1.0,NaN,3.0]"),
    "Infinity": (VECTOR, b"[1.0,-Infinity,3.0]"),
    "1e999": (VECTOR, b"[1.0,1e999,3.0]"),
    "1e39": (VECTOR, b"[1.0,1e39,3.0]"),
    "400 digits": (VECTOR, b"[1.0,%d,3.0]" % 10**400),
    "30 digits": (VECTOR, b"[1.0,%d,3.0]" % 10**30),
    "a whole number beyond float64": (VECTOR, b"[9007199791611905,1,2]"),
    "a whole number beyond float64 among others": (VECTOR, b"[9007199791611905,1.5,2]"),
    "the largest and a negative whole number": (VECTOR, b"[18446744073709551615,-1,2]"),
    "zeros": (VECTOR, b"[0,0.0,-0]"),
    "too small": (VECTOR, b"[1e-60,1e-400,0]"),
    "small": (VECTOR, b"[1e-30,1e-45,0]"),
    "large": (VECTOR, b"[3e38,3e38,3e38]"),
    "too short": (VECTOR, b"[1.0,2.0]"),
    "too long": (VECTOR, b"[1.0,2.0,3.0,4.0]"),
    "empty": (VECTOR, b"[]"),
    "a comma at the end": (VECTOR, b"[1.0,2.0,3.0,]"),
    "a byte that is no UTF-8, in the list": (VECTOR, b"[1.0,2.0,3.0\xff]"),
    "a byte that is no UTF-8": (b"m: 1", b"\xff"),
    "half a surrogate": (b"m: 1", rb"\ud800"),
    "a NUL in the list": (VECTOR, b"[1.0,2.0,3.0\0]"),
    "no base64": (VECTOR, b'"embedding"'),
    "base64 of float64": (VECTOR, b'"' + base64.b64encode(struct.pack("<3d", 1, 2, 3)) + b'"'),
    "base64 of NaN": (VECTOR, b'"' + packed([1, float("nan"), 3]).encode() + b'"'),
    "the last index once more": (b'"index":1,"text_index":1', b'"index":2,"text_index":2'),
    "an error beside the vectors": (b'"model":', b'"code":"1113","error":{"code":"1113","message":"no"},"model":'),
    "an item that is none": (VECTOR + b"}", VECTOR + b"},null"),
    "an item more": (VECTOR + b"}", VECTOR + b'},{"index":3,"text_index":3,"embedding":' + VECTOR + b"}"),
    "a byte order mark": (b'{"', b'\xef\xbb\xbf{"'),
    "something before": (b'{"', b'1{"'),
    "something behind": (b'"m: 1"}', b'"m: 1"}]'),
    "the end missing": (b'"m: 1"}', b'"m: 1"'),
    "the object in a list": (b'{"', b'[{"'),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("trap", TRAPS)
def test_extraction_keeps_the_result_of_special_bodies(trap, reader):
    for provider in REMOTE:
        plain = body(provider, [[4.0, 5.0, 6.0], [1.0, 2.0, 3.0], [7.0, 8.0, 9.0]])
        text = plain.replace(*TRAPS[trap], 1)
        assert text != plain, provider
        with swapped(vector_extraction, "parse_floats", reader):
            for size in (3, None):
                whole = interpreted_whole(text, provider, dimensions=size)
                assert interpreted(text, provider, dimensions=size) == whole, (provider, size)


def test_extraction_keeps_the_result_of_a_bare_list():
    bare = orjson.dumps(orjson.loads(body())["data"])
    for provider in REMOTE:
        assert interpreted(bare, provider) == interpreted_whole(bare, provider)
    assert isinstance(interpreted(bare, "gateway"), ValidatedVectors)


SHARDS = [
    *(bytes([byte]) for byte in b'[]{}",:\\ \n0195-+.eEtfn\0\xff\xc3'),
    *(b'"embedding"', b'"embedding":', b'"embedding":[', b'"embedding":"', b'"index":', b'"index":1', rb"\u0000"),
    *(rb'"\u00001"', rb"\"", b"true", b"null", b"[1.0]", b"e999", b"NaN", b"},{", b"]},"),
]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("form", ["lists", "base64"])
@given(seed=st.integers(0, 2**32))
def test_extraction_keeps_the_result_of_damaged_bodies(seed, form, reader):
    rng = random.Random(seed)
    provider = rng.choice(REMOTE)
    rows = [[4.0, -5.5, 6e-1], [1.0, 2.0, 3.0], [7, 8, 9]]
    text = body(provider, rows if form == "lists" else [packed(row) for row in rows])
    for _ in range(rng.randint(1, 3)):
        begin = rng.randrange(len(text))
        end = min(len(text), begin + rng.choice([0, 0, 1, 1, 2, 12, 40]))
        shard = rng.choice([*SHARDS, text[end : end + 30], text[begin:end] * 2])
        text = text[:begin] + shard + text[end:]
    with swapped(vector_extraction, "parse_floats", reader):
        assert interpreted(text, provider) == interpreted_whole(text, provider)
