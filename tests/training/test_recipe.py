"""Stages and recipes as data."""

import json

import pytest

from hmt.training import Recipe, Stage, paper_recipe


def stage(**fields):
    return Stage(**{"name": "memory", "segments": 4, "steps": 700, **fields})


@pytest.mark.parametrize("decay", [0.9, 0.7])
def test_learning_rate_of_table_7(decay):
    factors = [stage(lr_decay=decay).lr_factor(step) for step in (0, 99, 100, 199, 200, 699)]
    assert factors == pytest.approx([1, 1, decay, decay, decay**2, decay**6])


def test_warm_up_grows_to_the_learning_rate():
    factors = [stage(warmup_steps=3).lr_factor(step) for step in range(5)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_recall_weight_is_dropped_after_its_share_of_the_steps():
    weights = [
        stage(steps=10, recall_loss_weight=0.5, recall_loss_until=0.3).recall_weight(i) for i in range(5)
    ]
    assert weights == [0.5, 0.5, 0.5, 0, 0]
    assert stage(steps=10, recall_loss_weight=0.5).recall_weight(9) == 0.5


def test_paper_recipe_is_that_of_the_paper():
    first, second = paper_recipe(bptt_depth=15).stages
    assert (first.steps, first.segments, first.recall) == (200, 2, False)
    assert (second.steps, second.segments, second.recall, second.bptt_depth) == (500, 15, True, 15)
    assert paper_recipe().batch_size == 2 and paper_recipe().lora_r == 8
    assert [s.name for s in paper_recipe(stage1_steps=0).stages] == ["memory"]


def test_curriculum_shares_steps_decay_and_recall_loss():
    recipe = paper_recipe(
        curriculum=[2, 4, 8],
        recall_loss_weight=0.5,
        recall_loss_until=0.5,
        recall_targets="ngram",
        warmup_steps=5,
    )
    parts = recipe.stages[1:]
    assert [part.segments for part in parts] == [part.bptt_depth for part in parts] == [2, 4, 8]
    assert [part.steps for part in parts] == [166, 167, 167]
    assert [part.warmup_steps for part in parts] == [5, 0, 0]
    rates = [part.lr_factor(step) for part in parts for step in range(part.steps)][5:]
    weights = [part.recall_weight(step) for part in parts for step in range(part.steps)]
    whole = stage(steps=500, recall_loss_weight=0.5, recall_loss_until=0.5)
    assert rates == [whole.lr_factor(step) for step in range(5, 500)]
    assert weights == [whole.recall_weight(step) for step in range(500)]
    assert [part.segments for part in paper_recipe(curriculum=[2, 4], segments=6).stages[1:]] == [6, 6]


def test_json_round_trip(tmp_path):
    recipe = paper_recipe(curriculum=[2, 4], tuning="lora", seed=3, eval_steps=7)
    for _ in range(2):  # its own file may be replaced
        recipe.save(tmp_path / "recipe.json")
    assert Recipe.load(tmp_path / "recipe.json") == recipe
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        Recipe.load(tmp_path / "recipe.json")


def test_copying_comes_before_the_papers_stages():
    recipe = paper_recipe(copy_steps=3, repetition_steps=4, segments=16, bptt_depth=8, batch_size=4)
    copying, repeated, recurrence, memory = recipe.stages
    assert (copying.name, copying.steps, copying.segments, copying.repetition) == ("copying", 3, 2, 1.0)
    assert copying.batch_size == 4 * 16 // 2
    assert (repeated.name, repeated.steps, repeated.segments, repeated.repetition) == (
        "repetition",
        4,
        16,
        0.3,
    )
    assert repeated.bptt_depth == 8 and repeated.batch_size is None
    for stage in (copying, repeated):
        assert stage.recall and stage.recall_loss_weight == 0.1 and stage.recall_negatives
    assert (recurrence.repetition, memory.repetition, memory.recall_loss_weight) == (0.0, 0.0, 0.0)
    assert recipe.recall_targets == "given"
    assert paper_recipe().recall_targets is None
    (only, *_) = paper_recipe(repetition_steps=1, repetition=0.5, recall_loss_weight=0.7).stages
    assert (only.name, only.repetition, only.recall_loss_weight) == ("repetition", 0.5, 0.7)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rte": 1.0}, "no field 'learning_rte' .did you mean 'learning_rate'"),
        ({"segments": 0}, "segments must be at least 1"),
        ({"steps": 1.5}, "steps must be a int"),
        ({"recall": 1}, "recall must be a bool"),
        ({"name": "a/b"}, "stage name"),
        ({"learning_rate": float("nan")}, "finite"),
        ({"learning_rate": 0.0}, "above 0"),
        ({"lr_decay": 1.5}, "lr_decay"),
        ({"lr_schedule": "staircase"}, "choose one of steps, linear"),
        ({"lr_schedule": "cosine_with_min_lr"}, "choose one of steps, linear"),  # it wants more than steps
        ({"lr_schedule": "constant", "warmup_steps": 3}, "choose 'constant_with_warmup'"),
        ({"lr_schedule": "linear", "lr_decay": 0.7}, "lr_decay is of lr_schedule 'steps'"),
        ({"recall_loss_until": 2.0}, "fraction"),
        ({"recall_loss_weight": 0.5}, "needs recall_targets"),
        ({"repetition": 1.5}, "share of segments"),
        ({"repetition": 0.5, "segments": 1}, "at least 2 segments"),
    ],
)
def test_wrong_stages(fields, message):
    values = {"name": "memory", "segments": 4, "steps": 10}
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict({"stages": [{**values, **fields}]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tunning": "full"}, "did you mean 'tuning'"),
        ({"tuning": "half"}, "tuning is"),
        ({"recall_targets": "guess"}, "recall_targets is"),
        ({"batch_size": 0}, "batch_size"),
        ({"min_segments": 9}, "min_segments"),
        ({"stage1_steps": 0, "stage2_steps": 0}, "at least one stage"),
        ({"curriculum": [2, 4, 8], "stage2_steps": 2}, "fewer than the 3 depths"),
        ({"copy_steps": 2, "recall_targets": "ngram"}, "recall_targets='given'"),
    ],
)
def test_wrong_recipes(options, message):
    with pytest.raises(ValueError, match=message):
        paper_recipe(**options)


def test_missing_fields():
    with pytest.raises(ValueError, match="Stage lacks segments, steps"):
        Recipe.from_dict({"stages": [{"name": "memory"}]})
    with pytest.raises(ValueError, match="named fields"):
        Recipe.from_dict({"stages": [3]})
