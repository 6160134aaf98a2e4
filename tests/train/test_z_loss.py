"""The z term (PaLM, section 5) and its gradient against autograd on plain logits, in shared bins and with a head that runs in chunks."""

from __future__ import annotations

import pytest
import torch

from sightline.model import vlm
from sightline.model.vlm import Model

Z = 0.3


def plain(model: Model, batch) -> dict[str, torch.Tensor]:
    """Both terms from whole logits, by torch's own functions."""
    hidden = model.hidden(batch).flatten(0, 1)[batch.answers]
    logits = hidden @ model.language_model.model.get_output_embeddings().weight.T
    logp = torch.log_softmax(logits, -1)[torch.arange(len(logits)), batch.targets]
    return {"answer": -(batch.weights * logp).sum(), "z": Z * (batch.weights * torch.logsumexp(logits, -1) ** 2).sum()}


@pytest.mark.parametrize("rows_at_once", [None, 3], ids=["whole", "chunked"])
@pytest.mark.parametrize("pack", [True, False], ids=["packed", "apart"])
def test_gradients_are_those_of_plain_logits(world, pack: bool, rows_at_once: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Model = world.model()
    if rows_at_once is not None:
        monkeypatch.setattr(vlm, "HEAD_BYTES", rows_at_once * 4 * model._vocabulary)
    feed = world.feed(world.stage(pack=pack, objective={"kind": "answer-likelihood", "z_loss": Z}))
    [batch] = feed.micro_batches(0)
    found, gradients = [], []
    for sums in (lambda: feed.objective(model, batch).sums, lambda: plain(model, batch)):
        terms = sums()
        model.zero_grad()
        terms["z"].backward(retain_graph=True)
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        found.append({name: float(term.detach()) for name, term in terms.items()})
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 20
    for name, gradient in gradients[1].items():
        assert torch.allclose(gradients[0][name], gradient, atol=1e-4 * max(1.0, gradient.abs().max().item())), name
