"""The report and the records behind it, from the command line on small micrographs."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from frazil.picking import read_star, write_star
from frazil_trainer.cli import main
from frazil_trainer.evaluation import Evaluation
from frazil_trainer.evaluation import records as record_module

HOSTILE = "<script>alert(1)</script>&\"'"
RECIPE = """
seed = 1
epochs = 1
batch = 2
[network]
architecture = "mlp"
[examples]
kind = "drawn"
[optimiser]
kind = "sgd"
[[data]]
folder = "real"
diameter_angstrom = 48
other_labels = ["_few"]
validation = ["m1", "m2"]
[[data]]
folder = "sim"
diameter_angstrom = 48
validation = ["s1"]
"""


class Page(HTMLParser):
    """Elements of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_scene: Callable, write_mrc: Callable) -> Path:
    """Data, a recipe, and another picker's files of one of three micrographs."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "recipe.toml").write_text(RECIPE)
    for i, place in enumerate(("real/m1", "real/m2", "sim/s1")):
        scene = make_scene((320, 448), seed=i)
        file = folder / f"{place}.mrc"
        file.parent.mkdir(exist_ok=True)
        write_mrc(file, scene.pixels)
        write_star(file.with_suffix(".star"), scene.truth)
        write_star(file.with_name(f"{file.stem}_few.star"), scene.truth.select(np.arange(8)))
    (folder / "other").mkdir()
    picks = (folder / "real" / "m2.star").read_bytes()
    (folder / "other" / "m2_picks.star").write_bytes(picks)
    return folder


@pytest.fixture(scope="module")
def evaluated(folder: Path, blob_model: Path) -> Path:
    """A folder with the report, the figures and the table of a model and two other pickers, one of them ill named."""
    out = folder / "out"
    out.mkdir()
    options = ["--model", blob_model, "--picks", folder / "other", "--picks", f"{HOSTILE}={folder / 'other'}"]
    options += ["--html", out / "r.html", "--json", out / "r.json", "--markdown", out / "r.md", "--overlays", "2"]
    run("evaluate", "--recipe", folder / "recipe.toml", "--data", folder, *options)
    return out


def run(*arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["frazil-train", *(str(a) for a in arguments)])
        with pytest.raises(SystemExit, match=r"^0$"):
            main()


@pytest.fixture(scope="module")
def text(evaluated: Path) -> str:
    return (evaluated / "r.html").read_text("utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_figures_are_typed_and_tell_their_schema(evaluated):
    read = msgspec.json.decode((evaluated / "r.json").read_bytes(), type=Evaluation)
    assert read.schema == record_module.SCHEMA == 1
    assert [picker.name for picker in read.pickers] == ["blob", "other", HOSTILE]
    assert [picker.model is not None for picker in read.pickers] == [True, False, False]
    model, other, _ = (row for row in read.rows if (row.folder, row.labels) == ("real", ".star"))
    assert (model.particles, model.threshold, len(model.micrographs), model.missing) == (24, 0.5, 2, ())
    assert model.half.micro.f1 > 0.9
    assert other.half.micro.f1 == 1
    assert (len(other.micrographs), other.missing, other.particles) == (1, ("m1",), 12)
    assert {row.labels for row in read.rows} == {".star", "_few.star"}
    assert [row.picker for row in read.rows if row.folder == "sim"] == ["blob"]


def test_histogram_and_curve_agree_with_the_row(evaluated):
    read = msgspec.json.decode((evaluated / "r.json").read_bytes(), type=Evaluation)
    for curves in read.curves:
        (row,) = (
            r for r in read.rows if (r.picker, r.folder, r.labels) == (curves.picker, curves.folder, curves.labels)
        )
        edge = list(curves.histogram.edges).index(row.threshold)
        assert sum(curves.histogram.hits[edge:]) == sum(one.hits for one in row.micrographs)
        assert sum(curves.histogram.hits[edge:]) + sum(curves.histogram.false_picks[edge:]) == row.picks
        assert max(curves.half.recall) >= row.half.micro.recall - 1e-4


def test_the_same_command_writes_the_same_report(folder, evaluated, blob_model, tmp_path):
    options = ["--model", blob_model, "--picks", folder / "other", "--picks", f"{HOSTILE}={folder / 'other'}"]
    run(
        "evaluate",
        "--recipe",
        folder / "recipe.toml",
        "--data",
        folder,
        *options,
        "--html",
        tmp_path / "r.html",
        "--overlays",
        "2",
    )
    assert (tmp_path / "r.html").read_bytes() == (evaluated / "r.html").read_bytes()


def test_every_element_is_closed(page):
    assert page.open == []


def test_report_needs_nothing_from_outside(text, page):
    assert re.findall(r"https?:|//\w|@import|url\(", re.sub(r'src="data:image/jpeg;base64,[^"]*"', "", text)) == []
    for tag in ("script", "link", "iframe", "object", "base", "form"):
        assert page.all(tag) == []
    sources = [a["src"] for a in page.all("img")]
    assert sources
    assert all(source and source.startswith("data:image/jpeg;base64,") for source in sources)
    assert {name for _, attributes in page.elements for name in attributes if name.startswith("on")} == set()
    assert all(link["href"].startswith("#") for link in page.all("a"))


def test_policy_allows_the_style_of_the_page_and_carried_pictures_alone(text, page):
    (policy,) = (a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert not any("style" in attributes for _, attributes in page.elements)


def test_names_are_text_and_never_markup(text, page):
    assert "<script" not in text
    assert html.escape(HOSTILE) in text.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")
    assert any(HOSTILE in (a.get("aria-label") or "") for a in page.all("svg"))


def test_links_and_labels_lead_somewhere_and_every_id_is_there_once(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"] for a in page.all("a")} <= {f"#{one}" for one in ids}
    assert {a["for"] for a in page.all("label")} <= set(ids)


def test_report_tells_what_few_micrographs_are_worth(text):
    assert "What the intervals of 2 micrographs are worth" in text
    assert "with a probability of 50 % at most, not 95 %" in text


def test_overlays_show_a_micrograph_of_each_set_and_the_marks_of_every_picker(text, page):
    pictures = [
        cv2.imdecode(np.frombuffer(base64.b64decode((a["src"] or "").split(",")[1]), np.uint8), cv2.IMREAD_UNCHANGED)
        for a in page.all("img")
    ]
    assert [picture.shape for picture in pictures] == [(320, 448), (320, 448)]
    marks = [a["aria-label"] for a in page.all("svg") if a.get("class") == "marks"]
    assert marks == ["blob on m1", "blob on s1"]
    counts = re.findall(r"(\d+) hits, (\d+) missed, (\d+) false", text)
    assert [int(hits) + int(missed) for hits, missed, _ in counts] == [12, 12]
    first = re.search(r'class="marks".*?</svg>', text, re.DOTALL)
    assert first is not None
    drawn = {name: path.count("M") for name, path in re.findall(r'class="(hit|miss|false)" d="([^"]*)"', first[0])}
    assert [drawn.get(name, 0) for name in ("hit", "miss", "false")] == [int(n) for n in counts[0]]


def test_marks_lie_where_picks_and_particles_are(folder, tmp_path):
    # One pick is right, one is not; eleven particles are missed.
    truth = read_star(folder / "real" / "m1.star")
    y, x = truth.y[0], truth.x[0]
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "m1.csv").write_text(f"x,y\n{x},{y}\n1,2\n")
    out = tmp_path / "r.html"
    run("evaluate", "--recipe", folder / "recipe.toml", "--data", folder, "--picks", tmp_path / "p", "--html", out)
    text = out.read_text("utf-8")
    assert "1 hits, 11 missed, 1 false" in text
    (hit,) = re.findall(r'class="hit" d="M(\S+) (\S+)a(\S+) ', text)
    assert (float(hit[0]) + float(hit[2]), float(hit[1])) == pytest.approx((x + 0.5, y + 0.5), abs=0.6)


def test_overlays_can_be_left_out(folder, blob_model, tmp_path):
    out = tmp_path / "r.html"
    run(
        "evaluate",
        "--recipe",
        folder / "recipe.toml",
        "--data",
        folder,
        "--model",
        blob_model,
        "--html",
        out,
        "--overlays",
        "0",
    )
    assert "<img" not in out.read_text("utf-8")


def test_markdown_has_a_line_for_each_row(evaluated):
    read = msgspec.json.decode((evaluated / "r.json").read_bytes(), type=Evaluation)
    assert len((evaluated / "r.md").read_text("utf-8").splitlines()) == 2 + len(read.rows)


def test_every_field_of_the_figures_is_documented(repository: Path):
    text = (repository / "docs" / "reference" / "evaluation.md").read_text("utf-8")
    names = [getattr(record_module, name) for name in record_module.__all__]
    structs = [one for one in names if isinstance(one, type)]
    fields = {field.encode_name for struct in structs for field in msgspec.structs.fields(struct)}
    assert {"schema", "rows", "average_precision", "f1_flipped"} <= fields
    assert sorted(name for name in fields if f"`{name}`" not in text) == []


@pytest.mark.parametrize("option", ["--html", "--json", "--markdown"])
def test_file_that_cannot_be_written_is_one_line(monkeypatch, capsys, folder, option, tmp_path):
    arguments = ["evaluate", "--recipe", folder / "recipe.toml", "--data", folder, "--picks", folder / "other"]
    arguments += [option, tmp_path / "missing" / "r"]
    monkeypatch.setattr(sys, "argv", ["frazil-train", *(str(a) for a in arguments)])
    with pytest.raises(SystemExit, match=r"^1$"):
        main()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("frazil-train: error: ")
    assert "missing/r: cannot be written: No such file or directory" in last


def test_no_picker_is_one_line(monkeypatch, capsys, folder):
    monkeypatch.setattr(
        sys, "argv", ["frazil-train", "evaluate", "--recipe", str(folder / "recipe.toml"), "--data", str(folder)]
    )
    with pytest.raises(SystemExit, match=r"^1$"):
        main()
    assert capsys.readouterr().err == (
        "frazil-train: error: expected a picker to score, found none; give --model or --picks\n"
    )
