"""raw_crawl: one row a reference; the same bytes whoever answers first; a kill loses a chunk and nothing else."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from PIL import Image

from dinov2_core import manifest, stage
from dinov2_core.errors import ConfigError, UserError
from dinov2_core.images.shards import image_id, read_image
from dinov2_core.manifest import Manifest
from dinov2_core.stages import raw_crawl, registry
from dinov2_core.storage import Store
from tests.curation.crawl.test_archives import record


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


class Server:
    """Serves ``/N.png`` (N and N % 100 are the same picture) and pages, each answer after a random pause."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.pages: dict[str, str | bytes] = {}
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        self.ready.wait(10)

    async def _handle(self, request: web.Request) -> web.Response:
        self.asked[request.path] += 1
        await asyncio.sleep(random.random() * 0.02)
        if request.path in self.pages:
            page = self.pages[request.path]
            return web.Response(body=page.encode() if isinstance(page, str) else page, content_type="text/html")
        name = request.path.strip("/").removesuffix(".png")
        return web.Response(body=png(int(name) % 100)) if name.isdigit() else web.Response(status=404)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)

        async def start() -> None:
            app = web.Application()
            app.router.add_get("/{path:.*}", self._handle)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.address = f"127.0.0.1:{runner.addresses[0][1]}"

        self.loop.run_until_complete(start())
        self.loop.call_soon(self.ready.set)
        self.loop.run_forever()


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.loop.call_soon_threadsafe(one.loop.stop)
    one.thread.join(5)


def put(store: Store, name: str, data: bytes | str) -> None:
    place = Path(store.base) / "sources" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data.encode() if isinstance(data, str) else data)


def crawl(store: Store, server: Server, **params: Any) -> Manifest:
    settings = {
        "hosts": {"*": server.address},
        "politeness": {"concurrency": 32, "per_host": 32, "per_host_rate": 100_000},
        "robots_txt": False,
        "limits": {"retries": 0, "total_timeout": 5},
        **params,
    }
    return stage.materialise(store, registry.get("raw_crawl"), "b1", settings).manifest


def rows(store: Store, made: Manifest) -> list[dict[str, Any]]:
    return [row for f in made.table("images") for row in store.read_table(f.path).to_pylist()]


def images(numbers: range | list[int], host: str = "pic.example") -> str:
    return "<!doctype html>" + "".join(f"<img src='http://{host}/{n}.png' alt='no. {n}'>" for n in numbers)


def test_every_reference_has_one_row_and_every_stored_image_its_bytes(store: Store, server: Server) -> None:
    server.pages["/live.html"] = images([3, 4])
    put(store, "b1/a.warc", record("http://a.example/p", images([1, 2, 101, 3]).encode() + b"<img src=gone.png>"))
    put(store, "b1/b.txt", "http://b.example/live.html\nhttp://b.example/5.png\nhttp://ads.bad.example/6.png\n")
    put(store, "b1/c.png", png(7))
    put(store, "block.txt", "0.0.0.0 bad.example\n")
    made = crawl(store, server, blocklists=["sources/block.txt"])
    found = rows(store, made)
    assert [(r["url"].rsplit("/", 1)[1] if "/" in r["url"] else r["url"], r["status"], r["reason"]) for r in found] == [
        ("5.png", "stored", ""),
        ("6.png", "refused", "blocked domain"),
        ("1.png", "stored", ""),
        ("2.png", "stored", ""),
        ("101.png", "duplicate", "same bytes"),
        ("3.png", "stored", ""),
        ("gone.png", "failed", "http 404"),
        ("c.png", "stored", ""),
        ("3.png", "duplicate", "same url"),
        ("4.png", "stored", ""),
    ]
    for row in found:
        if row["status"] in ("stored", "duplicate"):
            assert image_id(read_image(store, row)) == row["image_id"]
            assert (row["width"], row["height"], row["format"]) == (9, 9, "PNG")
    assert found[2]["alt"] == "no. 1"
    assert found[4]["image_id"] == found[2]["image_id"]
    assert max(server.asked.values()) == 1
    assert "/6.png" not in server.asked
    counts = dict(made.counts)
    assert counts.pop("reasons") == {"blocked domain": 1, "http 404": 1}
    assert counts == {
        "pages": 2,
        "references": 10,
        "repeated_on_a_page": 0,
        "beyond_page_limit": 0,
        "stored": 6,
        "duplicate": 2,
        "refused": 1,
        "failed": 1,
    }


def digests(folder: str) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in Path(folder).rglob("*.*")}


def test_the_order_of_answers_changes_nothing(tmp_path: Path, server: Server) -> None:
    stores = [Store(str(tmp_path / name)) for name in "xy"]
    for one in stores:
        put(one, "b1/a.html", images(range(60)))
    # Even the settings that only change the speed.
    speeds = [{"concurrency": c, "per_host": c, "per_host_rate": 100_000} for c in (64, 3)]
    made = [crawl(one, server, chunk=20, politeness=speed) for one, speed in zip(stores, speeds, strict=True)]
    assert made[0].hash == made[1].hash
    assert digests(f"{stores[0].base}/raw_crawl") == digests(f"{stores[1].base}/raw_crawl")


def test_a_killed_crawl_goes_on_and_ends_the_same(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturbed, quiet = Store(str(tmp_path / "d")), Store(str(tmp_path / "q"))
    for one in (disturbed, quiet):
        put(one, "b1/a.html", images(range(60)))
    expected = crawl(quiet, server, chunk=10)
    server.asked.clear()
    write = Store.write_bytes
    monkeypatch.setattr(raw_crawl, "OPEN_CHUNKS", 1)

    def dies(self: Store, path: str, data: bytes) -> Any:
        if path.endswith("images-00003.json"):
            raise KeyboardInterrupt
        return write(self, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_bytes", dies)
        with pytest.raises((KeyboardInterrupt, asyncio.CancelledError)):
            crawl(disturbed, server, chunk=10)
    assert manifest.read(disturbed, "raw_crawl", "b1") is None
    before = sum(server.asked.values())
    assert crawl(disturbed, server, chunk=10).hash == expected.hash
    # Three chunks of ten were finished; the fourth was lost.
    assert sum(server.asked.values()) - before == 30
    assert not list(Path(disturbed.base).rglob(".tmp-*"))


def test_a_second_run_fetches_nothing(store: Store, server: Server) -> None:
    put(store, "b1/a.html", images(range(5)))
    crawl(store, server)
    server.asked.clear()
    crawl(store, server, hosts={"*": "127.0.0.1:1"})
    assert not server.asked


def test_new_sources_are_crawled(store: Store, server: Server) -> None:
    put(store, "b1/a.html", images([1]))
    first = crawl(store, server)
    put(store, "b1/b.html", images([2]))
    assert crawl(store, server).fingerprint != first.fingerprint


def test_an_empty_crawl_is_an_outcome(store: Store, server: Server) -> None:
    put(store, "b1/a.html", "<html>no pictures</html>")
    made = crawl(store, server)
    assert made.counts["references"] == 0
    assert [f.rows for f in made.table("images")] == [0]


@pytest.mark.parametrize("present", [True, False])
def test_a_batch_without_sources_names_asset_partition_and_cure(store: Store, server: Server, present: bool) -> None:
    if present:
        (Path(store.base) / "sources" / "b1").mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"raw_crawl\[b1\]: .*sources/b1: .* — put WARC files, pages or URL lists there"
    ):
        crawl(store, server)


def test_private_addresses_are_refused_by_default(store: Store, server: Server) -> None:
    put(store, "b1/a.txt", f"http://{server.address}/1.png\nhttp://localhost:{server.address.split(':')[1]}/2.png\n")
    found = rows(store, crawl(store, server, hosts=None))
    assert [r["reason"] for r in found] == ["private address"] * 2
    assert not server.asked
    found = rows(store, crawl(store, server, hosts=None, allow_private=True))
    assert [r["status"] for r in found] == ["stored"] * 2


def test_a_page_of_ten_thousand_images(store: Store, server: Server) -> None:
    put(store, "b1/a.html", images([n % 40 for n in range(10_000)]))
    made = crawl(store, server)
    assert made.counts["references"] == 40
    assert made.counts["repeated_on_a_page"] == 9_960


def test_batches_are_the_folders_of_the_sources(store: Store) -> None:
    put(store, "b2/a.txt", "")
    put(store, "b1/a.txt", "")
    put(store, "readme.txt", "")
    assert raw_crawl.batches(store, raw_crawl.Params()) == ["b1", "b2"]
    assert raw_crawl.batches(store, raw_crawl.Params(sources="nowhere")) == []


def test_a_missing_blocklist_stops_the_crawl(store: Store, server: Server) -> None:
    put(store, "b1/a.html", images([1]))
    with pytest.raises(UserError, match="nothing there"):
        crawl(store, server, blocklists=["sources/none.txt"])
    assert not server.asked


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'blocklists'"):
        registry.get("raw_crawl").load_params({"blocklist": []})
    with pytest.raises(ConfigError, match="needs 'address:port'"):
        registry.get("raw_crawl").load_params({"hosts": {"*": "127.0.0.1"}})


def test_site_maps_are_followed_wherever_they_are_listed(store: Store, server: Server) -> None:
    """A map of maps, gzipped or not, that names itself too, and one that is a bomb."""
    server.pages["/index.xml"] = (
        "<?xml version='1.0'?><sitemapindex xmlns='http://sitemaps.example/0.9'>"
        "<sitemap><loc>http://a.example/more.xml.gz</loc></sitemap><sitemap><loc>http://a.example/index.xml</loc></sitemap>"
        "<sitemap><loc>http://a.example/bomb.xml</loc></sitemap></sitemapindex>"
    )
    more = "".join(f"<url><loc>http://a.example/{name}</loc></url>" for name in ("page.html", "5.png"))
    server.pages["/more.xml.gz"] = gzip.compress(f"<urlset>{more}</urlset>".encode())
    server.pages["/bomb.xml"] = '<!DOCTYPE x [<!ENTITY a "aa">]><urlset><url><loc>&a;</loc></url></urlset>'
    server.pages["/page.html"] = images([3])
    put(store, "b1/a.txt", "http://a.example/index.xml\n")
    found = rows(store, crawl(store, server))
    assert [(r["url"], r["status"], r["reason"]) for r in found] == [
        ("http://a.example/bomb.xml", "refused", "unsafe sitemap"),
        ("http://a.example/5.png", "stored", ""),
        ("http://pic.example/3.png", "stored", ""),
    ]
    assert max(server.asked.values()) == 1


def test_site_maps_nested_without_end_are_left(store: Store, server: Server) -> None:
    for level in range(9):
        server.pages[f"/{level}.xml"] = f"<urlset><url><loc>http://a.example/{level + 1}.xml</loc></url></urlset>"
    put(store, "b1/a.txt", "http://a.example/0.xml\n")
    (row,) = rows(store, crawl(store, server))
    assert (row["url"], row["reason"]) == ("http://a.example/3.xml", "site maps nested too deeply")
