"""What a reply costs from its bytes to validated float32 rows: medians over replies that all differ, in turn.

python benchmarks/decode.py [rounds]

The same reply again and again would be read up to a quarter faster, because the processor learns its digits.
"""

import base64
import json
import statistics
import sys
import time
from itertools import cycle, islice

import numpy as np
import orjson

from multiembed.config.options import EmbeddingOptions
from multiembed.config.request_config import resolve_config
from multiembed.providers.types import ApiFailure
from multiembed.responses import interpret, vector_extraction
from multiembed.transport.types import HttpResponse

DIMENSIONS, KINDS = 1024, 8
CHANCE = np.random.default_rng(0)


def element(number: int, *, as_base64: bool = False, words: int = 0) -> dict:
    vector = CHANCE.normal(size=DIMENSIONS)
    vector /= np.linalg.norm(vector)
    dense = base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_base64 else vector.tolist()
    weights = [{"index": place, "value": float(CHANCE.random()), "token": f"t{place}"} for place in range(words)]
    return {
        "index": number,
        "text_index": number,
        "embedding": dense,
        **({"sparse_embedding": weights} if words else {}),
    }


def openai_form(texts: int, **form: bool) -> bytes:
    data = [{"object": "embedding", **element(number, **form)} for number in range(texts)]
    return orjson.dumps({"object": "list", "data": data, "model": "m", "usage": {"total_tokens": 120}})


def native_form(texts: int, words: int) -> bytes:
    elements = [element(number, words=words) for number in range(texts)]
    return orjson.dumps({"output": {"embeddings": elements}, "usage": {"total_tokens": 120}, "request_id": "r"})


REPLIES = {
    "10 texts, floats": ("siliconflow:BAAI/bge-m3", "dense", 10, lambda: openai_form(10)),
    "1 text, floats": ("siliconflow:BAAI/bge-m3", "dense", 1, lambda: openai_form(1)),
    "10 texts, base64": ("siliconflow:BAAI/bge-m3", "dense", 10, lambda: openai_form(10, as_base64=True)),
    "1 text, base64": ("siliconflow:BAAI/bge-m3", "dense", 1, lambda: openai_form(1, as_base64=True)),
    "10 texts, floats and 20 weights each": (
        *("dashscope:text-embedding-v4", "dense&sparse", 10),
        lambda: native_form(10, 20),
    ),
}
PARSERS = {
    "json.loads": json.loads,
    "orjson.loads": orjson.loads,
    "orjson.loads, then numpy": lambda body: np.float32([item["embedding"] for item in orjson.loads(body)["data"]]),
}


def microseconds(work, given: list, rounds: int) -> float:
    taken = []
    for one in [*given, *islice(cycle(given), rounds)]:
        begun = time.perf_counter()
        work(one)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[len(given) :]) * 1e6


def judged(name: str, texts: int, output: str):
    target = resolve_config(name, EmbeddingOptions(api_key="sk-any-key", output=output), {})

    def work(body: bytes) -> None:
        if isinstance(
            interpret.interpret_response(HttpResponse(200, {}, body), target, texts=texts, dimensions=DIMENSIONS),
            ApiFailure,
        ):
            raise AssertionError("a good reply was not believed")

    return work


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    by_simdjson, by_orjson, apart = (
        vector_extraction._parse_by_simdjson,
        vector_extraction._parse_by_orjson,
        interpret.extract_vectors,
    )
    ways = {"simdjson": (apart, by_simdjson), "orjson": (apart, by_orjson), "whole": (lambda _: None, by_orjson)}
    if not vector_extraction.simdjson:
        print("simdjson is not installed: pip install 'multiembed[fast]'\n")
        del ways["simdjson"]
    print(f"{'microseconds from bytes to believed rows':<42}{'bytes':>8}", *(f"{way:>10}" for way in ways))
    for label, (name, output, texts, make) in REPLIES.items():
        bodies, work = [make() for _ in range(KINDS)], judged(name, texts, output)
        cells = []
        for interpret.extract_vectors, vector_extraction.parse_floats in ways.values():
            cells.append(microseconds(work, bodies, rounds))
        print(f"{label:<42}{len(bodies[0]):>8}", *(f"{cell:10.0f}" for cell in cells))
    print(f"\n{'microseconds of a parser alone, 10 texts, floats':<50}")
    bodies = [openai_form(10) for _ in range(KINDS)]
    for label, parse in PARSERS.items():
        print(f"{label:<50} {microseconds(parse, bodies, rounds // 4):10.0f}")


if __name__ == "__main__":
    main()
