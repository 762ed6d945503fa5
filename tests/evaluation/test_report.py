"""Bytes, figures and the page."""

import base64
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from transformers import Gemma3TextConfig, GPT2Config, LlamaConfig

from hmt.evaluation import load_runs, write_runs
from hmt.evaluation.plot_style import COLOURS, look, save, spread, to_bytes
from hmt.evaluation.plots import axis_plot, heat_maps, position_plot, recall_map_plot
from hmt.evaluation.report import Run
from hmt.util.format import byte_text, count_text, plural
from hmt.util.kv_cache import kv_cache_bytes


def test_kv_cache_of_several_families():
    llama = LlamaConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2, head_dim=16
    )
    assert kv_cache_bytes(llama, 10, 2) == 2 * 3 * 2 * 16 * 2 * 10
    assert kv_cache_bytes(GPT2Config(n_embd=64, n_layer=3, n_head=8), 10, 2) == 2 * 3 * 64 * 2 * 10
    gemma = Gemma3TextConfig(
        num_hidden_layers=2,
        num_key_value_heads=1,
        head_dim=4,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
    )
    assert kv_cache_bytes(gemma, 100, 1) == 2 * 4 * (8 + 100)


class Page(HTMLParser):
    """Collects what the test asks about, and fails on tags that do not close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.links, self.words = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "img":
            self.images.append(values["src"])
            assert values["alt"]
        self.links += [values[name] for name in ("href", "src") if name in values and tag != "img"]
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def page_of(path):
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == [] and page.links == []
    for source in page.images:
        kind, data = source.split(",", 1)
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data, validate=True).startswith(b"\x89PNG")
    return page


def test_figures_are_png_or_svg_and_repeatable(tmp_path):
    lines = {"a name that is too long for the margin": {0: [3.0], 4: [2.0]}, "b": {0: [2.5], 4: [2.0]}}
    figure = axis_plot(lines, "History", "nats", "t", "plain")
    assert to_bytes(figure) == to_bytes(figure) and to_bytes(figure).startswith(b"\x89PNG")
    assert b"too long for the margin" in to_bytes(figure, "svg")  # text stays text
    for name in ("a.svg", "a.svg", "a.png", "a.png"):  # each may replace itself
        save(figure, tmp_path / "x" / name)
    (tmp_path / "x" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nof another program")
    with pytest.raises(ValueError, match="b.png is there and is no figure"):
        save(figure, tmp_path / "x" / "b.png")
    assert (tmp_path / "x" / "a.svg").read_bytes().startswith(b"<?xml")
    with pytest.raises(ValueError, match="png or .svg"):
        save(figure, tmp_path / "a.gif")


def test_extreme_values_can_be_drawn():
    to_bytes(recall_map_plot(np.full((3, 3), np.nan), "t"))
    to_bytes(axis_plot({"a": {0: [8e300]}, "b": {0: [4.0]}}, "History", "nats", "t", "perplexity"))
    to_bytes(axis_plot({"a": {0: [float("inf")]}, "b": {0: [4.0]}}, "History", "nats", "t", "perplexity"))


def test_chance_is_a_line_of_its_own_with_its_name():
    figure = axis_plot(
        {"a": {2: [90.0], 64: [50.0]}}, "Segments", "acc", "t", errors={"a": {2: (80, 99)}}, chance=3.1
    )
    (axes,) = figure.axes
    assert [list(line.get_ydata()) for line in axes.get_lines()][1] == [3.1, 3.1]
    assert {text.get_text() for text in axes.texts} == {"a", "chance (3.1)"}
    long = axis_plot({"a name that is too long for it": {2: [90.0], 64: [50.0]}}, "x", "y", "t", chance=3.1)
    assert long.axes[0].get_legend().get_lines()[1].get_linestyle() == "--"


def test_labels_are_pushed_apart():
    assert spread([0, 100, 50], 10) == [0, 100, 50]
    assert spread([50, 50], 10) == [45, 55]
    places = spread([3, 1, 2, 90], 10)
    assert sorted(places)[1] - sorted(places)[0] == 10 and places[1] < places[2] < places[0] < places[3]


def test_units():
    assert [byte_text(n) for n in (12, 1536, 2**30, 2**52)] == ["12 B", "1.5 KiB", "1 GiB", "4.1e+03 TiB"]
    assert [count_text(n) for n in (512, 2048, 2**20)] == ["512", "2k", "1M"]
    assert [plural(1, "token"), plural(2000, "token")] == ["1 token", "2,000 tokens"]


def estimated(mean):
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "weight": 10.0}


def run_of(label, shift=0.0, seed=0, only=("plain", "curve", "names", "grid"), **settings):
    """Three readers on tasks with no, one (numbers, names) and two axes."""
    shows = {"acc": ("higher", "percent"), "nats": ("lower", "perplexity")}
    metrics = [{"name": name, "better": better, "show": show} for name, (better, show) in shows.items()]
    places = {
        "plain": [],
        "curve": [{"history": h} for h in (0, 1, 16)],
        "names": [{"set": name} for name in ("short", "a name that is rather long", "other")],
        "grid": [{"segments": s, "depth": d} for s in (4, 16) for d in (0.0, 0.5)],
    }
    worth = {"HMT <a>": 0.6, "window 1 KiB": 0.4, "full": 0.5}
    tasks = {}
    for task, cells in ((name, places[name]) for name in only):
        axes = list(cells[0]) if cells else []
        scores = {name: {m: estimated(value + shift) for m in shows} for name, value in worth.items()}
        pairs = {
            a: {b: {m: estimated(worth[b] - worth[a]) for m in shows} for b in worth if b != a} for a in worth
        }
        tasks[task] = {
            "settings": {"seed": seed, **settings},
            "metrics": metrics[:1] if task in ("names", "grid") else metrics,
            "axes": axes,
            "readers": {
                name: {
                    "n": 10,
                    "metrics": scores[name],
                    "cells": [{"facts": facts, "n": 3, "metrics": scores[name]} for facts in cells],
                    "extras": {"by_position": {"0": [None, 1.0, 0.5], "16": [None, 0.9, 0.2]}}
                    if task == "curve"
                    else {},
                }
                for name in worth
            },
            "paired": pairs,
            "chance": {"acc": 0.25} if task == "grid" else {},
        }
        if axes == ["segments", "depth"]:
            curve = [{"facts": {"segments": n}, "n": 6} for n in (4, 16)]
            rows = [[None, 0.5], [1.0, 0.0]]
            for name, entry in tasks[task]["readers"].items():
                entry["curve"] = [{**cell, "metrics": scores[name]} for cell in curve]
                entry["extras"] = {"recall_map": {"segments": 2, "rows": rows}} if name == "full" else {}
        if len(axes) == 1:
            tasks[task]["paired_cells"] = {
                a: {b: [{"facts": f, "metrics": gaps} for f in cells] for b, gaps in of.items()}
                for a, of in pairs.items()
            }
    readers = {
        name: {"bytes_carried": None if name == "full" else 2048, "extra_parameters": 1_200_000,
               "flops_per_token": 3.4e9, "limit": 512 if name == "full" else None}
        for name in worth
    }  # fmt: skip
    setup = {
        "command": f"hmt eval {label}",
        "seed": seed,
        "devices": [{"name": "GPU X"}],
        "memory_total": 2**30,
    }
    return Run(label, {"format": 1, "readers": readers, "tasks": tasks, "setup": setup})


def test_one_run_of_tasks(tmp_path):
    files = write_runs([run_of("one")], tmp_path / "r.html", pngs=tmp_path / "png")
    page = page_of(tmp_path / "r.html")
    text = " ".join(page.words)
    for word in [
        "HMT <a>",
        "2 KiB",
        "grows",
        "1.2 M",
        "3.4 G",
        "512 tokens",
        "60.0",
        "50.0 to 70.0",
        "GPU X",
    ]:
        assert word in text
    assert f"{np.exp(0.6):.3f}" in text and f"{np.exp(0.5):.3f} to {np.exp(0.7):.3f}" in text
    assert text.count("Difference to window 1 KiB") == 4 and "+20.0" in text
    assert f"{100 * np.expm1(0.2):+.2f}" in text, "perplexities are compared in percent"
    # one or two metrics for each task with axes, their differences along one, and a map over two of them;
    # one within the segment, and one of recall
    assert len(page.images) == len(files) == 10
    assert {"grid-acc.png", "grid-acc-map.png", "grid-recall_map.png", "curve-by_position.png"} < {*files}
    for file, source in zip(files, page.images, strict=True):
        assert (tmp_path / "png" / file).read_bytes() == base64.b64decode(source.split(",")[1])


def test_runs_of_one_name_are_averaged(tmp_path):
    runs = [run_of("a", 0.0, only=["names"]), run_of("b", 0.1, seed=1, only=["names"])]
    write_runs(runs, tmp_path / "r.html", baseline="full")
    text = " ".join(page_of(tmp_path / "r.html").words)
    assert "65.0" in text and "± 7.1" in text and "50.0 to 70.0" not in text
    assert text.count("Difference to full") == 1 and "hmt eval a" in text and "hmt eval b" in text
    with pytest.raises(ValueError, match="no reader 'none' to compare with; choose from HMT <a>, window"):
        write_runs(runs, tmp_path / "r.html", baseline="none")


def test_runs_that_are_not_alike_stay_apart(tmp_path):
    other = run_of("big/run", 0.1, limit=5, only=["plain"])
    other.results["readers"]["HMT <a>"]["bytes_carried"] = 4096
    write_runs([run_of("a", limit=4, only=["plain"]), other], tmp_path / "r.html")
    text = " ".join(page_of(tmp_path / "r.html").words)
    assert "plain (limit 4)" in text and "plain (limit 5)" in text and "HMT <a> (big/run)" in text
    assert "± 7.1" not in text


def test_a_folder_may_stand_for_several_runs(tmp_path):
    for name, run in (("text", run_of("a", only=["curve"])), ("keys", run_of("b", only=["grid"]))):
        run.results["readers"]["HMT <a>"]["bytes_carried"] = len(name) + (name == "keys")
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(run.results))
    whole = {"title": "Both & <more>", "summary": "First.\n\nSecond <last>.", "runs": ["text", "keys"]}
    (tmp_path / "results.json").write_text(json.dumps(whole))
    runs = load_runs(tmp_path)
    assert [run.label for run in runs] == [str(tmp_path), "text", "keys"]
    write_runs(runs, tmp_path / "new" / "r.html")
    words = page_of(tmp_path / "new" / "r.html").words
    for word in (
        "Both & <more>",
        "First.",
        "Second <last>.",
        "curve",
        "grid",
        "HMT <a> (keys)",
        "Setup: keys",
    ):
        assert word in words
    write_runs(runs, tmp_path / "r.html", title="Mine")
    assert page_of(tmp_path / "r.html").words.count("Mine") == 2  # of the window, and on the page


def test_an_earlier_result_without_curves_can_still_be_shown(tmp_path):
    run = run_of("old", only=["grid"])
    for entry in run.results["tasks"]["grid"]["readers"].values():
        del entry["curve"]
    del run.results["tasks"]["grid"]["chance"]
    write_runs([run], tmp_path / "r.html")
    assert len(page_of(tmp_path / "r.html").images) == 2


def test_task_figures_with_gaps_and_single_points():
    to_bytes(axis_plot({"a": {4: [50.0]}, "b": {}}, "Segments", "acc", "t"))
    to_bytes(axis_plot({"a": {0: [3.0], 4: [2.0, 2.5]}, "b": {4: [90.0]}}, "h", "nats", "t", "perplexity"))
    figure = heat_maps({"a": {(4, 0.5): 10.0}, "b": {(8, 0.5): 30.0, (4, 1.0): 1.0}}, ("x", "y"), "acc")
    assert len({panel.images[0].norm for panel in figure.axes if panel.images}) == 1
    assert sorted(t.get_text() for a in figure.axes if a.images for t in a.texts) == [
        "1",
        "10",
        "30",
        *"–––––",
    ]
    wide = heat_maps(
        {"a": {(1, 1): 2.0, (2, 1): 5e4, (3, 1): float("inf")}}, ("x", "y"), "nats", "perplexity"
    )
    assert wide.axes[0].images[0].norm.vmax == 5e4
    to_bytes(wide)
    curve = position_plot({"a": [(1.5, None), (250.0, 3.0), (512.0, 2.0)]}, "nats", "t")
    assert len(to_bytes(curve)) < 200_000  # names stand beside the lines, not far away


def test_no_two_rows_look_alike():
    looks = [look(number) for number in range(64)]
    assert len({str(one) for one in looks}) == 64
    assert len({one["color"] for one in looks[: len(COLOURS)]}) == 16
    dark = [sum(w * c for w, c in zip((0.21, 0.72, 0.07), to_rgb(colour), strict=True)) for colour in COLOURS]
    assert max(dark) < 0.72  # on white
    figure = axis_plot({f"row {n}": {1: [n], 2: [n + 1]} for n in range(20)}, "x", "y", "title")
    drawn = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 2]
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in drawn}) == 20
