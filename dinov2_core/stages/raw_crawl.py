"""The stage ``raw_crawl``: a batch of archives, pages and URL lists → images in shards, one row a reference.

A batch is a folder ``SOURCES/BATCH``. Work goes in chunks of references: a finished chunk has its shards and a
marker, so a killed crawl fetches again only what was under way. One event loop fetches for the whole batch, which is
what makes the limits a host honest. The parts of crawling are in ``curation/crawl``.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import fsspec

from dinov2_core import stage, tables
from dinov2_core.curation.crawl import pages, sitemaps
from dinov2_core.curation.crawl.fetch import Fetcher, Limits, Outcome, Politeness, classify
from dinov2_core.curation.crawl.opt_out import DIRECTIVES
from dinov2_core.curation.crawl.pages import Reference
from dinov2_core.curation.crawl.rules import BLOCKED_EXTENSIONS, UrlRules, read_domains
from dinov2_core.curation.crawl.sources import WHOLE_FILE, Held, Plan, Reader
from dinov2_core.errors import UserError
from dinov2_core.images.decode import EXTENSIONS
from dinov2_core.images.sets import address, files_of, signature
from dinov2_core.images.shards import ShardWriter
from dinov2_core.progress import Progress
from dinov2_core.stage import StageRun
from dinov2_core.storage import FileRecord, Store

OPEN_CHUNKS = 2
"""Chunks under way at once: the next one starts while the slowest servers of this one are waited for."""
ROWS_A_PART = 50_000


@dataclass(frozen=True)
class Params:
    """``sources``: folder of batches, an address or relative to the data root. ``blocklists``: likewise, files of
    domains never fetched. ``allow_private`` and ``hosts`` (name or ``*`` → ``address:port``) open what is closed by
    default; ``page_limit``: references read of one page; ``chunk``: references a shard and a marker."""

    sources: str = "sources"
    blocklists: tuple[str, ...] = ()
    blocked_extensions: tuple[str, ...] = BLOCKED_EXTENSIONS
    max_url_length: int = 2000
    page_limit: int = 20_000
    limits: Limits = field(default_factory=Limits)
    robots_txt: bool = True
    opt_out: tuple[str, ...] = DIRECTIVES
    user_agent: str = "dinov2-pipeline"
    allow_private: bool = False
    chunk: int = 500
    hosts: dict[str, str] | None = stage.efficiency(None)
    politeness: Politeness = stage.efficiency(Politeness())

    def __post_init__(self) -> None:
        for host, to in (self.hosts or {}).items():
            address, colon, port = to.rpartition(":")
            if not (address and colon and port.isdigit()):
                raise ValueError(f"hosts: '{host}' needs 'address:port', not '{to}'")


def batches(store: Store, params: Params) -> list[str]:
    """Names of the batches under ``sources``, sorted.

    Raises:
        UserError: the folder cannot be read.
    """
    place = address(store.root, params.sources)
    try:
        return Store(place).folders("")
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"the folder of crawl batches cannot be read: {error}",
            where=f"raw_crawl: {place}",
            todo="check raw_crawl.sources in params.yaml, the bucket's name and its credentials",
        ) from error


def external(store: Store, partition: str, params: Params) -> dict[str, Any]:
    """The state of the batch's sources and of the blocklists."""
    place = _place(store, partition, params)
    return {
        "sources": signature(place),
        "blocklists": [signature(address(store.root, uri)) for uri in params.blocklists],
    }


def _place(store: Store, partition: str, params: Params) -> str:
    """The batch's folder, which holds at least one file."""
    place = f"{address(store.root, params.sources)}/{partition}"
    where = f"raw_crawl[{partition}]"
    try:
        _, _, names = files_of(place)
    except UserError as error:
        raise UserError(
            f"the batch's sources: {error.what}",
            where=f"{where}: {place}",
            todo="put WARC files, pages or URL lists there, or remove the partition",
        ) from error
    if not names:
        raise UserError(
            "the batch's source folder is empty",
            where=f"{where}: {place}",
            todo="put WARC files, pages or URL lists there, or remove the partition",
        )
    return place


def run(run: StageRun) -> dict[str, Any]:
    """Read the sources, fetch what they refer to, write one row a reference."""
    params: Params = run.params
    fs, base, names = files_of(_place(run.store, run.partition, params))
    reader = Reader(fs, base, params.limits, params.page_limit, params.user_agent.lower(), frozenset(params.opt_out))
    plan = reader.read(names)
    crawl = _Crawl(run, reader, plan, _rules(run.store, params))
    with asyncio.Runner() as runner:
        runner.run(crawl.run())
    rows = crawl.rows()
    for part, start in enumerate(range(0, max(len(rows), 1), ROWS_A_PART)):
        run.write_table("images", tables.from_rows(rows[start : start + ROWS_A_PART], tables.IMAGES), part)
    statuses = Counter(row["status"] for row in rows)
    reasons = Counter(row["reason"] for row in rows if row["status"] in ("refused", "failed"))
    return {
        "pages": plan.pages,
        "references": len(rows),
        "repeated_on_a_page": plan.repeated,
        "beyond_page_limit": plan.beyond,
        **{status: statuses[status] for status in ("stored", "duplicate", "refused", "failed")},
        "reasons": dict(sorted(reasons.items())),
    }


def _rules(store: Store, params: Params) -> UrlRules:
    domains: set[str] = set()
    for uri in params.blocklists:
        try:
            with fsspec.open(address(store.root, uri), "rt", encoding="utf-8", errors="replace") as f:
                domains |= read_domains(f)
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot be read: {error}", where=f"raw_crawl.blocklists: {uri}", todo="check it"
            ) from error
    return UrlRules(
        max_length=params.max_url_length,
        blocked_extensions=params.blocked_extensions,
        blocked_domains=frozenset(domains),
    )


Result = dict[str, Any]
"""What became of one URL: status, reason, and of a stored image its columns; of a page its ``found`` references."""


class _Crawl:
    """One batch under way: results by URL, and what is still to be asked for."""

    def __init__(self, run: StageRun, reader: Reader, plan: Plan, rules: UrlRules) -> None:
        self.stage, self.params, self.reader, self.plan, self.rules = run, run.params, reader, plan, rules
        self.results: dict[str, Result] = {}

    async def run(self) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(16, thread_name_prefix="crawl"))
        fetcher = Fetcher(
            rules=self.rules,
            limits=self.params.limits,
            politeness=self.params.politeness,
            allow_private=self.params.allow_private,
            hosts=self.params.hosts or {},
            user_agent=self.params.user_agent,
            robots_txt=self.params.robots_txt,
            opt_out=self.params.opt_out,
        )
        async with fetcher:
            await self._round("listed", self.plan.listed, fetcher, listed=True)
            await self._follow(fetcher)
            for reference in dict.fromkeys(self.plan.listed):
                result = self.results.get(reference.url, {})
                if result.get("kind") == "page":
                    self.plan.pages += 1
                    self.plan.repeated += result["repeated"]
                    self.plan.beyond += result["beyond"]
                    self.plan.references += [Reference(*found) for found in result["found"]]
                    self.plan.problems += [(reference.url, "refused", reason) for reason in result["problems"]]
            await self._round("images", self.plan.references, fetcher, listed=False)

    async def _follow(self, fetcher: Fetcher) -> None:
        """Fetch what the site maps among the listed URLs list, maps of maps to ``sitemaps.DEPTH``."""
        for level in range(sitemaps.DEPTH):
            named = [url for r in self.plan.listed for url in self.results.get(r.url, {}).get("listed", ())]
            new = [Reference(url, "") for url in dict.fromkeys(named) if url not in self.results]
            if not new:
                return
            self.plan.listed += new
            await self._round(f"listed-by-maps-{level}", new, fetcher, listed=True)
        for reference in dict.fromkeys(new):
            if self.results.get(reference.url, {}).get("listed"):
                self.plan.problems.append((reference.url, "refused", "site maps nested too deeply"))

    async def _round(self, name: str, references: Sequence[Reference], fetcher: Fetcher, *, listed: bool) -> None:
        """Fetch each URL that is not known yet, once, in chunks."""
        urls = dict.fromkeys(r.url for r in references if not r.refused and r.url not in self.results)
        todo = list(urls)
        size = self.params.chunk
        slots = asyncio.Semaphore(OPEN_CHUNKS)
        with Progress(f"{self.stage.where}: {name}", len(todo)) as progress:

            async def chunk(number: int) -> None:
                some = todo[number * size : (number + 1) * size]
                async with slots:
                    await self._chunk(f"{name}-{number:05d}", some, fetcher, listed, progress)

            await asyncio.gather(*(chunk(number) for number in range(-(-len(todo) // size))))

    async def _chunk(self, key: str, urls: list[str], fetcher: Fetcher, listed: bool, progress: Progress) -> None:
        marker = self.stage.scratch(f"{key}.json")
        store = self.stage.store
        if await asyncio.to_thread(store.exists, marker):
            body = json.loads(await asyncio.to_thread(store.read_bytes, marker))
            progress.advance(len(urls))
        else:

            async def one(url: str) -> Outcome:
                outcome = await self._outcome(url, fetcher, listed)
                progress.advance()
                return outcome

            outcomes = await asyncio.gather(*(one(url) for url in urls))
            body = await asyncio.to_thread(self._store, urls, outcomes)
            await asyncio.to_thread(store.write_bytes, marker, json.dumps(body).encode())
        self.stage.files += [FileRecord(**f) for f in body["files"]]
        self.results.update(zip(urls, body["results"], strict=True))

    async def _outcome(self, url: str, fetcher: Fetcher, listed: bool) -> Outcome:
        held = self.plan.held.get(url)
        if held is None:
            return await fetcher.fetch(url, page=listed)
        # A file of the batch's folder has a name, not a URL to judge.
        reason = "" if held.position == WHOLE_FILE else self.rules.refuse(url)
        return Outcome("refused", reason) if reason else await asyncio.to_thread(self._held, held)

    def _held(self, held: Held) -> Outcome:
        data = self.reader.held_bytes(held)
        if len(data) > self.params.limits.max_bytes:
            return Outcome("refused", "too large")
        return classify(data, self.params.limits)

    def _store(self, urls: Iterable[str], outcomes: Iterable[Outcome]) -> dict[str, Any]:
        """Pack the images of a chunk in the order of ``urls``; its results and files as plain values."""
        results: list[Result] = []
        with ShardWriter(self.stage.store, self.stage.folder, max_images=self.params.chunk) as writer:
            for url, outcome in zip(urls, outcomes, strict=True):
                if outcome.kind == "page":
                    text = pages.decode_html(outcome.data, outcome.charset)
                    part = Plan()
                    part.add_page(text, outcome.url or url, limit=self.params.page_limit, opted_out=outcome.opted_out)
                    found = {"found": part.references, "problems": [p[2] for p in part.problems]}
                    results.append({"kind": "page", "repeated": part.repeated, "beyond": part.beyond, **found})
                elif outcome.kind == "sitemap":
                    results.append(self._sitemap(outcome.data))
                elif outcome.probe is None:
                    results.append({"status": outcome.kind, "reason": outcome.reason})
                else:
                    probe = outcome.probe
                    name = writer.add(outcome.data, EXTENSIONS[probe.format])
                    about = {"width": probe.width, "height": probe.height, "format": probe.format}
                    results.append(
                        {"status": "stored", "reason": "", "image_id": name, "bytes": len(outcome.data), **about}
                    )
        for result in results:
            result.update(writer.locations.get(result.get("image_id", ""), {}))
        return {"results": results, "files": [asdict(f) for f in writer.files]}

    def _sitemap(self, data: bytes) -> Result:
        try:
            return {
                "kind": "sitemap",
                "listed": sitemaps.locations(data, max_bytes=self.params.limits.max_bytes),
            }
        except sitemaps.UnsafeSitemapError:
            return {"status": "refused", "reason": "unsafe sitemap"}
        except ValueError:
            return {"status": "failed", "reason": "damaged source"}

    def rows(self) -> list[dict[str, Any]]:
        """One row a reference, in the order of the sources; the first of equal images is the one stored."""
        rows: list[dict[str, Any]] = [
            {"url": url, "page": "", "status": status, "reason": reason} for url, status, reason in self.plan.problems
        ]
        first: dict[str, Result] = {}
        seen: set[str] = set()
        for number, reference in enumerate([*self.plan.listed, *self.plan.references]):
            about = {"url": reference.url[: self.params.max_url_length], "page": reference.page, "alt": reference.alt}
            if reference.refused:
                rows.append({**about, "status": "refused", "reason": reference.refused})
                continue
            result = self.results[reference.url]
            if "kind" in result:
                if number >= len(self.plan.listed):
                    reason = "html" if result["kind"] == "page" else "not an image"
                    rows.append({**about, "status": "refused", "reason": reason})
                continue
            row = {**about, **result}
            name = result.get("image_id")
            if name is not None and name in first:
                reason = "same url" if reference.url in seen else "same bytes"
                row |= {**first[name], "status": "duplicate", "reason": reason}
            elif name is not None:
                first[name] = {key: result[key] for key in ("shard", "offset", "length")}
            seen.add(reference.url)
            rows.append(row)
        return rows
