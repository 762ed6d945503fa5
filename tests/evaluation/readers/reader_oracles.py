"""What readers are compared with: plain passes, one token after the other."""

from itertools import pairwise

import torch

LENGTH, VOCABULARY = 8, 60


def ids(number: int, seed: int = 0) -> list[int]:
    return torch.randint(VOCABULARY, (number,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.no_grad()
def direct(backbone, before: list[int], continuation: list[int]) -> list[float]:
    """Nats of a continuation by one plain pass of the backbone."""
    logits = backbone(torch.tensor([before + continuation])).logits[0].float()
    nats = -logits.log_softmax(-1)
    return [nats[len(before) - 1 + place, token].item() for place, token in enumerate(continuation)]


@torch.no_grad()
def one_by_one(model, before: list[int], continuation: list[int]) -> list[float]:
    """Nats of a continuation by feeding a new memory token by token: nothing can be known too early."""
    memory, nats, tokens = model.new_memory(1), [], before + continuation
    for token, following in pairwise(tokens):
        logits = model(torch.tensor([[token]]), past_key_values=memory, use_cache=True).logits
        nats.append(-logits[0, -1].float().log_softmax(-1)[following].item())
    return nats[len(before) - 1 :]
