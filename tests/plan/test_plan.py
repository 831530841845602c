"""A plan multiplies sizes by unit costs, each of which says where it comes from."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from dinov2_core import cli
from dinov2_core.curation import search_faiss
from dinov2_core.errors import ConfigError
from dinov2_core.plan import machines, page, search, stages, unit_costs
from dinov2_core.stages import registry

ROOT = Path(__file__).resolve().parents[2]
H200 = machines.Machines("h200", 64, 2048, 20e9)
PAPER = stages.Pool(1.2e9)


def anchor(title: str) -> str:
    """The anchor that a Markdown heading gets."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_every_measured_cost_names_a_section_of_the_benchmarks_and_a_commit_of_this_repository() -> None:
    anchors = {anchor(t) for t in re.findall(r"^#+ (.*)", (ROOT / "docs" / "benchmarks.md").read_text(), re.M)}
    for name, one in unit_costs.read().known.items():
        if one.kind == "measured":
            file, _, section = one.source.partition("#")
            assert file == "docs/benchmarks.md", name
            assert section in anchors, name
            assert subprocess.run(["git", "cat-file", "-e", one.commit], cwd=ROOT, check=False).returncode == 0, name


def test_no_gpu_number_claims_to_be_measured_while_the_benchmarks_say_that_none_is() -> None:
    assert "No line here was measured on a GPU" in (ROOT / "docs" / "benchmarks.md").read_text()
    costs = unit_costs.read().known
    assert {costs[n].kind for n in costs if n.startswith("gpu") or n.endswith("efficiency")} == {"assumed"}


def test_dedup_and_retrieval_of_the_papers_pool_take_under_500_h200_hours() -> None:
    made = stages.stages(PAPER, H200, unit_costs.read())
    assert 100 < page.gpu_hours(made) < 500


def test_the_stages_are_those_of_the_pipeline_and_each_rests_on_something() -> None:
    made = stages.stages(PAPER, H200, unit_costs.read())
    assert {one.name for one in made} <= set(registry.STAGES)
    assert set(stages.DEDUP_AND_RETRIEVAL) <= {one.name for one in made}
    for one in made:
        assert one.uses
        assert max(one.gpu, one.core) > 0


def test_embedding_is_images_times_operations_over_rate() -> None:
    costs = unit_costs.read()
    made = {one.name: one for one in stages.stages(stages.Pool(1e9), H200, costs)}
    assert made["embeddings"].gpu * 3600 == pytest.approx(
        1e9 * costs["vitl14_flop"] / (costs["gpu_peak"] * costs["gpu_product"] * costs["embed_efficiency"])
    )
    assert made["embeddings"].hours(H200)["gpu"] == made["embeddings"].gpu / 64
    assert made["deduplicated_set"].hours(H200)["core"] == made["deduplicated_set"].core, "one process does it"


def test_work_is_linear_in_images_but_for_search() -> None:
    costs = unit_costs.read()
    one, ten = (stages.stages(stages.Pool(n), H200, costs) for n in (1e8, 1e9))
    for small, large in zip(one, ten, strict=True):
        if small.name not in ("copy_edges", "clusters", "curated_lvd"):
            assert large.gpu == pytest.approx(10 * small.gpu), small.name
            assert large.core == pytest.approx(10 * small.core), small.name


def test_partitions_stay_under_ten_thousand() -> None:
    assert [stages.Pool(n).partitions for n in (1, 1e5, 1e6, 1e9, 1e11)] == [1, 1, 10, 10_000, 10_000]


@pytest.mark.parametrize(("queries", "itself"), [(None, True), (1.7e7, False)])
def test_exact_search_is_planned_below_the_crossover_and_lists_above(queries: float | None, *, itself: bool) -> None:
    costs = unit_costs.read()
    at = search.crossover(queries, 512, 3e14, costs)
    below, above = (search.planned(queries or n, n, 512, 3e14, costs, itself=itself) for n in (at / 2, at * 2))
    assert (below.kind, above.kind) == ("exact", "ivf")
    assert 1e4 < at < 1e9


def test_lists_are_as_many_as_the_index_makes() -> None:
    for rows in (1000, 10**5, 10**9):
        assert search.lists(rows) == pytest.approx(search_faiss.lists_for(rows), abs=1)


def test_own_costs_replace_the_projects_and_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "costs.yaml"
    own = {"unit": "of product rate", "kind": "measured", "source": "our cluster", "commit": "abc"}
    file.write_text(yaml.safe_dump({"embed_efficiency": {"value": 0.25, **own}}))
    usual, mine = unit_costs.read(), unit_costs.read(str(file))
    hours = [{s.name: s.gpu for s in stages.stages(PAPER, H200, c)}["embeddings"] for c in (usual, mine)]
    assert hours[1] == pytest.approx(2 * hours[0])
    for body, said in (
        ({"embed_eficiency": {"value": 1.0, **own}}, "did you mean 'embed_efficiency'"),
        ({"embed_efficiency": {"value": 0.0, **own}}, "over zero"),
        ({"embed_efficiency": {"value": 1.0, **own, "unit": "hours"}}, "is in of product rate"),
        ({"embed_efficiency": {"value": 1.0, **own, "commit": ""}}, "a commit"),
    ):
        file.write_text(yaml.safe_dump(body))
        with pytest.raises(ConfigError, match=said):
            unit_costs.read(str(file))


def test_the_command_of_the_document_prints_stages_costs_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "plan.md").read_text()
    command = re.search(r"^dinov2 (plan .*)$", text, re.M)
    assert command
    assert cli.main(command[1].split()) == 0
    said = capsys.readouterr().out
    assert "dedup and retrieval: " in said
    assert "160 V100" in said
    assert "measured" in said
    assert "assumed" in said
    assert "no price for" not in said
    total = re.search(r"dedup and retrieval: (\d+) H200-hours", said)
    assert total
    assert total[0] in text, "the document shows another figure"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gpus", "h20:8"], "did you mean 'h200'"),
        (["--gpus", "h200"], "no number of GPUs"),
        (["--gpus", "h200:8", "--price", "gpus=3"], "did you mean 'gpu'"),
        (["--gpus", "h200:8", "--price", "gpu=x"], "is no price"),
        (["--gpus", "h200:0"], "needs a GPU"),
        (["--gpus", "h200:8", "--costs", "/no/such.yaml"], "not readable"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--images", "1e6", "--cores", "8", *arguments]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert said in told
