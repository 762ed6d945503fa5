"""TRL's SFTTrainer as it is: it trains on what it makes of `base_model` and the head."""

import datasets
import pytest
import torch

pytest.importorskip("trl")

import hmt

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.return_outputs=True.:FutureWarning"),
]

CHAT = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}w1 {% generation %}{{ m['content'] }}"
    "{% endgeneration %} {% else %}w0 {{ m['content'] }} {% endif %}{% endfor %}"
)


@pytest.fixture
def data(texts):
    """The texts in the forms that SFTTrainer takes; each falls apart into 8 words and up to 30 more."""
    words = [text.split()[: 30 + i] for i, text in enumerate(texts)]
    halves = [(" ".join(text[:8]), " " + " ".join(text[8:])) for text in words]
    return {
        "text": {"text": ["".join(half) for half in halves]},
        "completion": {"prompt": [a for a, _ in halves], "completion": [b for _, b in halves]},
        "chat": {
            "messages": [
                [{"role": "user", "content": a}, {"role": "assistant", "content": b.strip()}]
                for a, b in halves
            ]
        },
    }  # fmt: skip


@pytest.fixture
def sft(tokenizer, data, tmp_path):
    from trl import SFTConfig, SFTTrainer

    tokenizer.chat_template = CHAT

    def make(model, form="text", peft_config=None, **options):
        rows = datasets.Dataset.from_dict(data[form])
        defaults = {
            "max_steps": 1, "per_device_train_batch_size": 2, "logging_steps": 1, "learning_rate": 1e-2,
            "save_strategy": "no", "report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True,
            "max_length": 64, "gradient_checkpointing": False, "shuffle_dataset": False,
        }  # fmt: skip
        if "shuffle_dataset" not in SFTConfig.__dataclass_fields__:
            del defaults["shuffle_dataset"]
        config = SFTConfig(str(tmp_path / "sft"), **defaults | options)
        return SFTTrainer(
            model, args=config, train_dataset=rows, processing_class=tokenizer, peft_config=peft_config,
            eval_dataset=rows if options.get("eval_strategy") else None,
        )  # fmt: skip

    return make


def first_batch(trainer):
    torch.manual_seed(0)
    return next(iter(trainer.get_train_dataloader()))


@pytest.mark.parametrize("form,options", [
    ("text", {}),
    ("text", {"gradient_checkpointing": True}),
    ("text", {"packing": True, "packing_strategy": "wrapped", "max_length": 40}),
    ("text", {"loss_type": "dft"}),
    ("completion", {}),
    ("completion", {"completion_only_loss": False}),
    ("chat", {}),
    ("chat", {"assistant_only_loss": True}),
])  # fmt: skip
def test_it_minimises_the_loss_of_the_model(form, options, sft, make_model):
    model = make_model()
    trainer = sft(model, form, **options)
    batch = {name: value for name, value in first_batch(trainer).items()}
    count = (batch["labels"][:, 1:] != -100).sum()
    model.train()
    got = trainer.compute_loss(model, dict(batch), num_items_in_batch=count)
    want = type(model).forward(model, **batch).loss
    if options.get("loss_type") != "dft":
        assert got.item() == pytest.approx(want.item(), rel=1e-4)
    scored = (batch["labels"] != -100).sum() / batch["attention_mask"].sum()
    assert (scored < 0.9) == (form == "completion" and not options or "assistant_only_loss" in options)
    before = model.recall.query.weight.clone()
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 1 and not torch.equal(model.recall.query.weight, before)


def test_evaluation_and_a_model_that_loads(sft, make_model, tmp_path):
    model = make_model()
    trainer = sft(model, "text", eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=8)
    trainer.train()
    (evaluated,) = [e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e]
    (batch,) = trainer.get_eval_dataloader()
    with torch.no_grad():
        want = type(model).forward(model.eval(), **batch).loss.item()
    assert evaluated == pytest.approx(want, rel=1e-4)
    trainer.save_model(str(tmp_path / "model"))
    ids = torch.arange(3, 40)[None]
    assert torch.equal(hmt.load_model(tmp_path / "model")(ids).logits, type(model).forward(model, ids).logits)


def test_adapters(sft, make_model, tmp_path):
    from peft import LoraConfig, PeftModel

    memory = ["summary_prompt", "first_prompt", "recall"]
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=memory)
    trainer = sft(make_model(), "text", config, gradient_checkpointing=True)
    trainer.train()
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert len(trained) == 4 + 2 * 2 * 2 and all("lora_" in n or "modules_to_save" in n for n in trained)
    trainer.save_model(str(tmp_path / "adapter"))
    ids = torch.arange(3, 40)[None]
    loaded = PeftModel.from_pretrained(make_model(), str(tmp_path / "adapter"))
    assert torch.equal(loaded(ids).logits, trainer.model.eval()(ids).logits)
    assert not torch.equal(loaded(ids).logits, make_model()(ids).logits)


@pytest.mark.parametrize(
    "options", [{"packing": True, "max_length": 40}, {"padding_free": True, "max_length": None}]
)
def test_packed_texts_are_refused(options, sft, make_model):
    with pytest.raises(ValueError, match='packing_strategy="wrapped"'):
        sft(make_model(), "text", **options).train()


def test_gradient_checkpointing_where_it_cannot_be(sft, make_model):
    with pytest.raises(ValueError, match="turn that off and train with replay=True"):
        sft(make_model(recall_query="inline"), "text", gradient_checkpointing=True).train()
