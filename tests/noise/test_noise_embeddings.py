import pytest
import torch

from noise.embeddings import content_mask, perturb_embeddings
from noise.torch_seeding import torch_generator_for

START, END = 49406, 49407
TOKENS = torch.tensor([[START, 320, 1125, END, 0, 0], [START, END, 0, 0, 0, 0]])


def embeddings(batch=2, length=6, width=32):
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(0))


def generators(*names):
    return [torch_generator_for(1, name) for name in names]


def test_content_mask():
    assert content_mask(TOKENS).tolist() == [
        [False, True, True, False, False, False],
        [False] * 6,
    ]


def test_start_end_and_padding_stay():
    clean = embeddings()
    noisy = perturb_embeddings(clean, 0.5, generators("a", "b"), content_mask(TOKENS))
    changed = (noisy != clean).any(dim=-1)
    assert torch.equal(changed, content_mask(TOKENS))


def test_rate_0_changes_nothing():
    clean = embeddings()
    noisy = perturb_embeddings(clean, 0, generators("a", "b"))
    assert torch.equal(noisy, clean)
    assert noisy is not clean


def test_noise_is_relative_to_each_token():
    clean = embeddings(width=20_000) * torch.tensor([1e-3, 1.0, 5.0, 1.0, 1.0, 1.0]).view(1, 6, 1)
    noisy = perturb_embeddings(clean, 0.1, torch_generator_for(1, "a"))
    relative = (noisy - clean).std(dim=-1) / clean.std(dim=-1)
    torch.testing.assert_close(relative, torch.full((2, 6), 0.1), rtol=0.03, atol=0)


def test_a_text_keeps_its_noise_beside_other_texts_and_with_less_padding():
    clean, mask = embeddings(), content_mask(TOKENS)
    both = perturb_embeddings(clean, 0.5, generators("a", "b"), mask)
    alone = perturb_embeddings(clean[:1, :4], 0.5, generators("a"), mask[:1, :4])
    assert torch.equal(alone, both[:1, :4])


def test_one_generator_draws_for_the_texts_in_turn():
    noisy = perturb_embeddings(embeddings(), 0.5, torch_generator_for(1, "a"))
    again = perturb_embeddings(embeddings(), 0.5, torch_generator_for(1, "a"))
    assert torch.equal(noisy, again)
    shared = torch_generator_for(1, "a")
    rows = [perturb_embeddings(row[None], 0.5, shared) for row in embeddings()]
    assert torch.equal(torch.cat(rows), noisy)


def test_dtype_stays_and_gradient_passes():
    clean = embeddings().half()
    noisy = perturb_embeddings(clean, 0.5, generators("a", "b"))
    assert noisy.dtype == torch.float16
    full = perturb_embeddings(clean.float(), 0.5, generators("a", "b"))
    torch.testing.assert_close(noisy.float(), full, rtol=2e-3, atol=2e-3)

    learned = embeddings().requires_grad_()
    perturb_embeddings(learned, 0.5, generators("a", "b")).sum().backward()
    assert torch.equal(learned.grad, torch.ones_like(learned))


def test_global_random_state_is_left_alone():
    state = torch.get_rng_state()
    perturb_embeddings(embeddings(), 0.5, generators("a", "b"))
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_input():
    with pytest.raises(ValueError, match="rate -1 is out of range: give a finite number from 0"):
        perturb_embeddings(embeddings(), -1, generators("a", "b"))
    with pytest.raises(ValueError, match="1 generators for 2 texts"):
        perturb_embeddings(embeddings(), 0.1, generators("a"))
    with pytest.raises(ValueError, match=r"got \(6, 32\)"):
        perturb_embeddings(embeddings()[0], 0.1, torch_generator_for(1))
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        perturb_embeddings(embeddings(), 0.1, torch_generator_for(1), content_mask(TOKENS)[:, :3])
