"""What the wire alone costs, beside the libraries it might stand on: medians of fresh processes, taken in turn.

python benchmarks/wire.py [rounds]                      libraries that are not installed are left out
python benchmarks/wire.py run NAME CONCURRENCY URL      one of them once, in this process
"""

import asyncio
import contextlib
import importlib.util
import itertools
import json
import resource
import statistics
import subprocess
import sys
import threading
import time

import orjson

REQUESTS, BATCH = 1000, 10
SHAPES = ((50, 50), (200, 100), (50, 0), (8, 0), (1, 0))
"""Requests in flight, and the milliseconds that the server takes."""
HEADERS = {"Authorization": "Bearer sk-benchmark", "Content-Type": "application/json"}
TIMEOUT = 60.0


def body_of(number):
    """A request of ten texts of 200 characters, each told from the others by its number."""
    texts = [f"{number * BATCH + place} ".ljust(200, "x") for place in range(BATCH)]
    return orjson.dumps({"model": "any", "input": texts})


def check(number, body):
    """Decode as a client must, so that threads compete for the interpreter as they will, and see whose answer it is."""
    rows = [item["embedding"] for item in orjson.loads(body)["data"]]
    assert [round(row[0] * 1e7) for row in rows] == [number * BATCH + place for place in range(BATCH)]


# ── the ways to send: each gives `send(body) -> bytes`, from a thread or from a task ─────────────


def ours(url):
    from multiembed.records import WireRequest
    from multiembed.wire import Wire

    wire = Wire()

    async def send(body, reactor):
        return (await wire.send(WireRequest(url, HEADERS, body, TIMEOUT, 4_000_000), reactor)).body

    return send


async def ours_async(url):
    from multiembed.reactor.tasks import TaskReactor
    from multiembed.records import WireRequest
    from multiembed.wire import Wire

    wire, reactor = Wire(), TaskReactor()

    async def send(body):
        return (await wire.send(WireRequest(url, HEADERS, body, TIMEOUT, 4_000_000), reactor)).body

    return send, wire.aclose


def http_client(url):
    import http.client
    from urllib.parse import urlsplit

    local = threading.local()

    def send(body):
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)
        local.connection.request("POST", urlsplit(url).path, body=body, headers=HEADERS)
        return local.connection.getresponse().read()

    return send


def urllib3(url):
    import urllib3

    pool = urllib3.PoolManager(maxsize=200)
    return lambda body: pool.urlopen("POST", url, body=body, headers=HEADERS, retries=False, timeout=TIMEOUT).data


def httpx(url, library="httpx"):
    library = importlib.import_module(library)
    limits = library.Limits(max_connections=200, max_keepalive_connections=200)
    client = library.Client(limits=limits, timeout=TIMEOUT)
    return lambda body: client.post(url, content=body, headers=HEADERS).content


async def httpx_async(url, library="httpx"):
    library = importlib.import_module(library)
    limits = library.Limits(max_connections=200, max_keepalive_connections=200)
    client = library.AsyncClient(limits=limits, timeout=TIMEOUT)

    async def send(body):
        return (await client.post(url, content=body, headers=HEADERS)).content

    return send, client.aclose


def httpx2(url):
    return httpx(url, "httpx2")


async def httpx2_async(url):
    return await httpx_async(url, "httpx2")


async def aiohttp_async(url):
    import aiohttp

    client = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=TIMEOUT),
    )

    async def send(body):
        async with client.post(url, data=body, headers=HEADERS, allow_redirects=False) as response:
            return await response.read()

    return send, client.close


WAYS = {
    "multiembed, one thread": (ours, "multiembed"),
    "http.client, threads": (http_client, "http"),
    "urllib3, threads": (urllib3, "urllib3"),
    "httpx2, threads": (httpx2, "httpx2"),
    "httpx, threads": (httpx, "httpx"),
    "multiembed, tasks": (ours_async, "multiembed"),
    "aiohttp, tasks": (aiohttp_async, "aiohttp"),
    "httpx2, tasks": (httpx2_async, "httpx2"),
    "httpx, tasks": (httpx_async, "httpx"),
}
SLOW = {"httpx, threads", "httpx, tasks"}
"""Those that take half a minute at 200 connections, and are measured up to 50."""


# ── one run ──────────────────────────────────────────────────────────────────────────────────────


def in_threads(send, concurrency):
    numbers, lock = iter(range(REQUESTS)), threading.Lock()

    def work():
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            check(number, send(body_of(number)))

    threads = [threading.Thread(target=work) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def in_one_thread(send, concurrency):
    from multiembed.reactor.threads import ThreadReactor

    broken = []
    numbers, reactor = iter(range(REQUESTS)), ThreadReactor()

    async def hand():
        try:
            for number in numbers:
                check(number, await send(body_of(number), reactor))
        except BaseException as error:  # noqa: BLE001 - raised again below
            broken.append(error)

    for _ in range(concurrency):
        reactor.start(hand, broken.append)
    reactor.run()
    if broken:
        raise broken[0]


async def in_tasks(send, concurrency):
    numbers = iter(range(REQUESTS))

    async def work():
        for number in numbers:
            check(number, await send(body_of(number)))

    await asyncio.gather(*(work() for _ in range(concurrency)))


@contextlib.contextmanager
def measured():
    """Print wall seconds, milliseconds of CPU for a request, and the most memory in MiB."""
    before, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    yield
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps([wall, cpu * 1000 / REQUESTS, after.ru_maxrss / 1024]))


def run(name, concurrency, url):
    make = WAYS[name][0]
    if not asyncio.iscoroutinefunction(make):
        send = make(url)
        play = in_one_thread if make is ours else in_threads
        with measured():
            play(send, concurrency)
        return

    async def main():
        send, close = await make(url)
        check(0, await send(body_of(0)))
        with measured():
            await in_tasks(send, concurrency)
        await close()

    asyncio.run(main())


def main():
    if sys.argv[1:2] == ["run"]:
        run(sys.argv[2], int(sys.argv[3]), sys.argv[4])
        return
    from server import Server

    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    ways = [name for name, (_, module) in WAYS.items() if importlib.util.find_spec(module)]
    print(f"{REQUESTS} requests of {BATCH} texts, answers of 1024 numbers a text, decoded by orjson; {rounds} rounds\n")
    for concurrency, latency in SHAPES:
        ideal = -(-REQUESTS // concurrency) * latency / 1000
        print(f"{concurrency} in flight, {latency} ms: ideal {ideal:.2f} s", flush=True)
        chosen = [name for name in ways if name not in SLOW or concurrency <= 50]
        figures = {name: [] for name in chosen}
        with Server(latency=latency / 1000) as server:
            url = f"{server.base_url}/v1/embeddings"
            for _, name in itertools.product(range(rounds), chosen):
                told = subprocess.run(
                    [sys.executable, __file__, "run", name, str(concurrency), url],
                    stdout=subprocess.PIPE,
                    check=True,
                )
                figures[name].append(json.loads(told.stdout))
        for name, taken in figures.items():
            wall, cpu, peak = (statistics.median(values) for values in zip(*taken, strict=True))
            print(f"  {name:<22} {wall:6.2f} s   {cpu:5.2f} ms CPU a request   {peak:4.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
