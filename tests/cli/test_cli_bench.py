"""`hmt bench`: files are written, tables are whole, bad options are refused before anything is built."""

import json
import sys

import pytest

from hmt.bench import run
from hmt.util.files import check_output

SMALL = ("bench", "--segment-length", 16, "--lengths", "32,64", "--sensory-length", 2, "--repeats", 1)


def test_files_and_tables(hmt, folders, workplace, monkeypatch):
    out = workplace / "out"
    arguments = (*SMALL, "--backbone", folders / "hmt", "--parts", "reading", "--device", "cpu", "--out", out)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/hmt", *map(str, arguments)])
    result = hmt(*arguments)
    text = (out / "bench.json").read_text(encoding="utf-8")
    results = json.loads(text)
    assert {row["system"] for row in results["reading"]} == set(results["systems"])
    assert results["settings"]["backbone"] == "hmt" and results["backbone"]["vocab_size"] == 300
    assert str(workplace) not in text and str(folders) not in text
    assert results["setup"]["command"].startswith("hmt bench") and results["finished"] == ["reading"]
    assert (out / "bench.png").read_bytes().startswith(b"\x89PNG")
    check_output(out / "bench.json", "result of hmt bench")  # the next run may replace both
    check_output(out / "bench.png", "figure")
    for words in ("HMT segment", "full attention", "share of the FLOP bound", "(computed)", "not measured"):
        assert words in result.stdout or words == "not measured"


def test_interrupted(hmt, workplace, monkeypatch):
    def stop(bench, progress):
        raise KeyboardInterrupt

    monkeypatch.setitem(run._MEASURE, "training", stop)
    arguments = (*SMALL, "--shape", "tiny", "--parts", "reading,training", "--systems", "rmt,full")
    assert "interrupted" in hmt(*arguments, "--device", "cpu", code=130).stderr
    results = json.loads((workplace / "bench-output" / "bench.json").read_text(encoding="utf-8"))
    assert results["finished"] == ["reading"] and len(results["reading"]) == 4


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--shape", "huge"), "choose among tiny, small, qwen3-0.6b"),
        (("--systems", "hmt-segment,lstm"), "there is no 'lstm'; choose among armt, hmt-segment"),
        (("--parts", "reading,writing"), "there is no 'writing'; choose among reading, decode"),
        (("--parts", ""), "nothing to measure"),
        (("--lengths", "2k,x"), "such as 2k,8k,1M"),
        (("--lengths", "64,32"), "from small to large"),
        (("--lengths", "100"), "100 tokens are no multiple of --segment-length 16"),
        (("--train-segments", "0"), "--train-segments takes numbers of 1 or more"),
        (("--batch", 0), "--batch must be at least 1"),
        (("--chunk", 0), "--chunk must be at least 1"),
        (("--repeats", 0), "--repeats must be at least 1"),
        (("--dtype", "int8"), "choose among float32"),
        (("--device", "abacus"), "--device abacus"),
        (("--device", "meta"), "--device meta cannot be used here"),
        (("--peak-tflops", "-1"), "above 0"),
        (("--backbone", "nope"), "--backbone nope is not there"),
        (("--backbone", "nope", "--shape", "tiny"), "contradict each other"),
    ],
)
def test_bad_options(error_of, arguments, message):
    assert message in error_of(*SMALL, *arguments)
