"""The same as a plain loop."""

from hmt.systems.loops import collect, embed, run_backbone, segments


def reference(model, ids, labels=None):
    """One stream, int64 [T]."""
    logits = []
    for start, segment in segments(ids, model.config.segment_length):
        number = int(ids[start - 1]) % (model.config.most + 1) if start else 0
        parts = [embed(model, ids[start - number : start]), embed(model, segment)]
        logits.append(run_backbone(model, parts)[1][number:])
    return collect(logits, labels, [], [])
