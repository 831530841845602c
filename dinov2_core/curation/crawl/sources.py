"""What one crawl batch is asked to fetch: its folder of archives, pages, lists, sitemaps and images, read in order.

Nothing is fetched here and nothing is stored; the result is a :class:`Plan`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import fsspec
import pyarrow.parquet as pq

from dinov2_core.curation.crawl import archives, pages
from dinov2_core.curation.crawl.fetch import Limits, classify
from dinov2_core.curation.crawl.pages import Reference
from dinov2_core.curation.crawl.sitemaps import UnsafeSitemapError, locations
from dinov2_core.errors import UserError
from dinov2_core.images.sets import IMAGE_SUFFIXES, printable

ARCHIVES = (".warc", ".warc.gz", ".warc.zst")
PAGES = (".html", ".htm")
LISTS = (".txt", ".csv", ".parquet")
SITEMAPS = (".xml", ".xml.gz")
URL_COLUMNS = ("url", "image_url", "page_url", "loc")
WHOLE_FILE = -1


@dataclass(frozen=True)
class Held:
    """Bytes that the sources already hold: a record of an archive, or (``WHOLE_FILE``) an image file."""

    file: str
    position: int


@dataclass
class Plan:
    """``listed``: URLs of pages or images, to be looked at; ``references``: images on pages that were read;
    ``held``: URL → where its bytes already are; ``problems``: ``(url, status, reason)`` of what cannot be used."""

    listed: list[Reference] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)
    problems: list[tuple[str, str, str]] = field(default_factory=list)
    pages: int = 0
    repeated: int = 0
    beyond: int = 0

    def add_page(self, text: str, url: str, *, limit: int, opted_out: bool = False, source: str = "") -> None:
        """Add the references of one page; ``source`` names it where it has no URL."""
        page = pages.extract(text, url, limit=limit, opted_out=opted_out)
        self.pages += 1
        self.repeated += page.repeated
        self.beyond += page.beyond
        self.references += page.references
        if page.problem:
            self.problems.append((url or source, "refused", page.problem))
        if page.beyond:
            self.problems.append((url or source, "refused", "more images than the page limit"))


@dataclass(frozen=True)
class Reader:
    """Reads the files of a batch. ``honoured``: opt-out directives of a page's header that speak for its images."""

    fs: fsspec.AbstractFileSystem
    base: str
    limits: Limits
    page_limit: int
    agent: str
    honoured: frozenset[str]

    def read(self, names: Iterable[str]) -> Plan:
        """The plan of the files ``names`` (relative to ``base``), in the order given."""
        plan = Plan()
        for name in names:
            kind = next((add for suffixes, add in self._kinds() if name.lower().endswith(suffixes)), None)
            if kind is None:
                plan.problems.append((printable(name), "refused", "unknown kind of source"))
                continue
            try:
                kind(plan, name)
            except (OSError, ValueError) as error:
                # Half an archive is still half an archive; what was read of it stays.
                plan.problems.append((printable(name), "failed", "damaged source"))
                if isinstance(error, PermissionError):
                    raise UserError(
                        f"cannot be read: {error}", where=f"{self.base}/{name}", todo="check permissions or credentials"
                    ) from error
        referenced = {reference.url for reference in plan.references}
        plan.references += [Reference(url, "") for url in plan.held if url not in referenced]
        return plan

    def held_bytes(self, held: Held) -> bytes:
        """The bytes that ``held`` stands for."""
        with self.fs.open(f"{self.base}/{held.file}", "rb") as f:
            if held.position == WHOLE_FILE:
                return f.read(self.limits.max_bytes + 1)
            return archives.read_at(f, held.position, max_bytes=self.limits.max_bytes)

    def _kinds(self) -> tuple[tuple[tuple[str, ...], Callable[[Plan, str], None]], ...]:
        return (
            (ARCHIVES, self._archive),
            (PAGES, self._page),
            (LISTS, self._list),
            (SITEMAPS, self._sitemap),
            (IMAGE_SUFFIXES, self._image),
        )

    def _archive(self, plan: Plan, name: str) -> None:
        with self.fs.open(f"{self.base}/{name}", "rb") as f:
            for record in archives.records(f, max_bytes=self.limits.max_bytes, agent=self.agent):
                if record.problem:
                    plan.problems.append((record.url, "failed", record.problem))
                    continue
                outcome = classify(record.data, self.limits, page=True, html=record.html)
                if outcome.kind == "page":
                    text = pages.decode_html(record.data, record.charset)
                    opted_out = bool(record.directives & self.honoured & pages.PAGE_OPT_OUT)
                    plan.add_page(text, record.url, limit=self.page_limit, opted_out=opted_out)
                elif outcome.kind == "image":
                    if record.directives & self.honoured:
                        plan.problems.append((record.url, "refused", "opted out"))
                    else:
                        plan.held.setdefault(record.url, Held(name, record.position))
                else:
                    plan.problems.append((record.url, "refused", outcome.reason))

    def _page(self, plan: Plan, name: str) -> None:
        with self.fs.open(f"{self.base}/{name}", "rb") as f:
            data = f.read(self.limits.max_page_bytes + 1)
        if len(data) > self.limits.max_page_bytes:
            plan.problems.append((name, "refused", "page too large"))
            return
        # A saved page has no address of its own: without <base>, its relative references are refused as "bad url".
        plan.add_page(pages.decode_html(data), "", limit=self.page_limit, source=name)

    def _list(self, plan: Plan, name: str) -> None:
        path = f"{self.base}/{name}"
        if name.endswith(".parquet"):
            with self.fs.open(path, "rb") as f:
                file = pq.ParquetFile(f)
                column = _url_column(file.schema_arrow.names, path)
                for batch in file.iter_batches(columns=[column]):
                    plan.listed += [Reference(str(u), "") for u in batch.column(0).to_pylist() if u]
            return
        with self.fs.open(path, "rb") as raw:
            text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="")
            if name.endswith(".csv"):
                reader = csv.DictReader(text)
                column = _url_column(list(reader.fieldnames or ()), path)
                plan.listed += [Reference(row[column].strip(), "") for row in reader if row[column]]
            else:
                lines = (line.strip() for line in text)
                plan.listed += [Reference(line, "") for line in lines if line and not line.startswith("#")]

    def _sitemap(self, plan: Plan, name: str) -> None:
        with self.fs.open(f"{self.base}/{name}", "rb") as f:
            data = f.read(self.limits.max_bytes + 1)
        try:
            plan.listed += [Reference(url, "") for url in locations(data, max_bytes=self.limits.max_bytes)]
        except UnsafeSitemapError:
            plan.problems.append((name, "refused", "unsafe sitemap"))

    def _image(self, plan: Plan, name: str) -> None:
        plan.held[printable(name)] = Held(name, WHOLE_FILE)


def _url_column(names: list[str], path: str) -> str:
    found = next((n for n in names if n.lower() in URL_COLUMNS), None)
    if found is None:
        raise UserError(
            f"no column of URLs (one of {', '.join(URL_COLUMNS)}) among {', '.join(names) or 'none'}",
            where=path,
            todo="rename the column",
        )
    return found
