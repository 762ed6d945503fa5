"""LongBench: question answering, summaries, few-shot learning, counting and code over long texts.

Bai et al., "LongBench: A Bilingual, Multitask Benchmark for Long Context Understanding", ACL 2024,
https://github.com/THUDM/LongBench. Scores and lengths of answers are LongBench's; the words around text and
question are our own and fewer. MiniLongBench (https://github.com/MilkThink-Lab/MiniLongBench) is a choice of
its items, as prompts filled in; they become the same items.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from hmt.data.files import RECORDS, file_kind
from hmt.evaluation.tasks.base import AnswerTask, Item, Metric, Record, Setting
from hmt.evaluation.tasks.longbench_subsets import SCORES, SUBSETS, ask, divide, trim
from hmt.evaluation.tasks.rows import Row, check_fields, iter_rows, text_rows

# Both names lead to one repository on the hub, whose data are in a zip file that `datasets` does not read.
_HUB = ("zai-org/LongBench", "THUDM/LongBench")
_LAYOUTS = (("input", "context", "answers"), ("prompt", "gold"))  # LongBench, MiniLongBench


@dataclass(frozen=True, kw_only=True)
class LongBench(AnswerTask):
    """One item per row; rows with the same text are one group; `facts` hold the `subset`.

    The Chinese tasks other than lsht are left out: most of their scores need words cut by a dictionary.
    Answers of one line end with it, where LongBench lets them run on to their longest. ROUGE-L is that of
    `rouge_score`, without stems; LongBench takes another library's.

    Args:
        source: a folder of files called like the subsets, one such file, LongBench's `data.zip`, or a data
            set on the hub whose configurations are the subsets. None: LongBench itself.
        subset: a task of LongBench, with "_e" for that of LongBench-E; or "all": those that a folder or zip
            file has. The mean is then over items, not over subsets.
        limit: first items of each subset.
        max_new_tokens: 0 means LongBench's, by subset.
    """

    name: ClassVar[str] = "longbench"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("score"),)

    subset: str = "narrativeqa"
    max_new_tokens: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.subset != "all" and self.subset.removesuffix("_e") not in SUBSETS:
            raise ValueError(
                f"LongBench has no subset {self.subset!r} here; choose all or {', '.join(SUBSETS)}"
            )

    def items(self, setting: Setting) -> list[Item]:
        items: list[Item] = []
        for subset, rows in self._sources():
            groups: dict[str, str] = {}
            for number, row in enumerate(islice(rows, self.limit)):
                items.append(_item(row, subset, f"{subset}-{number}", groups, self.max_new_tokens))
        return items

    def score(self, record: Record) -> dict[str, float | None]:
        kind = SUBSETS[record["facts"]["subset"].removesuffix("_e")].kind
        return {"score": SCORES[kind](record["generated"], record)}

    def _sources(self) -> Iterator[tuple[str, Iterator[Row]]]:
        """Subsets and their rows."""
        source = self.source or _HUB[0]
        path = Path(source).expanduser()
        if source in _HUB and not path.exists():
            path = _download(source)
        if path.suffix == ".zip":
            yield from self._zip_rows(path)
        elif path.is_dir():
            files = {
                file.name.split(".")[0]: file for file in sorted(path.iterdir()) if file_kind(file) in RECORDS
            }
            for subset in self._choose(files, str(path)):
                yield subset, iter_rows(str(files[subset]), self.split, _LAYOUTS, self.name)
        elif self.subset != "all":
            config = "" if file_kind(path) in RECORDS or ":" in source else f":{self.subset}"
            yield self.subset, iter_rows(source + config, self.split, _LAYOUTS, self.name)
        else:
            raise ValueError(
                f"{source}: subset=all takes a folder or a data.zip; name one subset of this source"
            )

    def _zip_rows(self, path: Path) -> Iterator[tuple[str, Iterator[Row]]]:
        try:
            with zipfile.ZipFile(path) as archive:
                names = {Path(name).stem: name for name in archive.namelist() if name.endswith(".jsonl")}
                for subset in self._choose(names, str(path)):
                    text = archive.read(names[subset]).decode("utf-8")
                    yield subset, self._text_rows(text, f"{path}/{names[subset]}")
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is not a whole zip file: {error}") from error

    def _text_rows(self, text: str, where: str) -> Iterator[Row]:
        for place, values in text_rows(text, where, _LAYOUTS):
            check_fields(values, _LAYOUTS, place, self.name)
            yield Row(values, place)

    def _choose(self, there: Mapping[str, Any], where: str) -> list[str]:
        chosen = [name for name in SUBSETS if name in there] if self.subset == "all" else [self.subset]
        if not chosen or chosen[0] not in there:
            names = ", ".join(there) or "none"
            raise ValueError(f"{where} has no file of LongBench's {self.subset}; its files: {names}")
        return chosen


def _download(repository: str) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(repository, "data.zip", repo_type="dataset"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"LongBench could not be loaded from {repository} on the Hugging Face hub: {error}; get its "
            "data.zip and name it as source"
        ) from error


def _item(row: Row, subset: str, name: str, groups: dict[str, str], length: int) -> Item:
    own = row.get("task", row.get("dataset"))
    if isinstance(own, str) and own.removesuffix("_e") != subset.removesuffix("_e"):
        raise ValueError(f"{row.where} is a row of {own}, not of {subset}; set subset={own}")
    spec = SUBSETS[subset.removesuffix("_e")]
    classes = row.get("all_classes") or ()
    if "prompt" in row:
        context, question = divide(row.text("prompt"), spec)
        gold = row["gold"]
        if isinstance(gold, Mapping):
            classes, row = gold.get("all_classes") or (), Row(gold, row.where)
        answers = row.answers("answers" if isinstance(gold, Mapping) else "gold")
    else:
        context, question = trim(row.text("context"), spec), ask(spec, row["input"] or "")
        answers = row.answers("answers")
    if spec.kind == "classes" and not classes:
        raise ValueError(f"{row.where}: {subset} needs the names of all classes in 'all_classes'")
    return Item(
        id=name,
        group=groups.setdefault(context, name),
        facts={"subset": subset},
        context=context,
        question=question,
        answers=answers,
        stop=("\n",) if spec.line else (),
        max_new_tokens=length or spec.length,
        raw={"classes": list(classes)} if classes else {},
    )
