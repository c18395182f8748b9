"""A recurrent encoder reads a sentence to its end, in both directions, and nothing after it."""

import pytest
import torch
from torch import nn

from vaepipe.core import SUPPORTS, DataSpec, build
from vaepipe.core.sequences import EOS, PAD, UNK, spoken
from vaepipe.errors import CompatibilityError
from vaepipe.networks.recurrent import Recurrent
from vaepipe.registry import part

VARIANTS = [
    {"cell": cell, "bidirectional": both, "layers": layers}
    for cell in ("lstm", "gru")
    for both in (False, True)
    for layers in (1, 2)
]


def network(length=6, levels=9, **options):
    return Recurrent((length,), (2, 3), levels=levels, hidden=4, embedding=3, **options)


def sentences(n=20, length=6, levels=9):
    """Sentences of every length, some without an end."""
    x = torch.randint(EOS + 1, levels, (n, length)).to(torch.get_default_dtype())
    ends = torch.randint(0, length + 2, (n,))
    at = torch.arange(length)
    return x.where(at < ends[:, None], PAD).where(at != ends[:, None], EOS)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_what_stands_after_the_end_changes_nothing(options):
    x, net = sentences(), network(**options)
    noise = torch.randint(0, 9, x.shape).to(x)
    other = torch.where(spoken(x), x, noise)
    assert not torch.equal(x, other)
    assert torch.equal(net(x), net(other))


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_sentence_is_read_the_same_in_more_room(options):
    x, short, long = sentences(), network(**options), network(length=11, **options)
    long.load_state_dict(short.state_dict())
    closed = x[(x == EOS).any(1)]
    wider = torch.cat([closed, torch.zeros(len(closed), 5)], 1)
    assert torch.allclose(short(closed), long(wider))


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_it_agrees_with_torch_on_packed_sequences(options):
    """Torch's own stacks, which sort and pack sentences, give the same last states."""
    x, net = sentences(), network(**options)
    kind = {"lstm": nn.LSTM, "gru": nn.GRU}[options["cell"]]
    shape = {"num_layers": options["layers"], "bidirectional": options["bidirectional"]}
    other = kind(3, 4, batch_first=True, **shape)
    for number, layer in enumerate(net.layers):
        for direction, one in zip(("", "_reverse"), layer, strict=False):
            for name, value in one.named_parameters():
                target = name.replace("l0", f"l{number}{direction}")
                other.get_parameter(target).data.copy_(value)
    lengths = spoken(x).sum(1)
    packed = nn.utils.rnn.pack_padded_sequence(
        net.embedding(x.long()), lengths, batch_first=True, enforce_sorted=False
    )
    last = other(packed)[1]
    last = last[0] if isinstance(last, tuple) else last
    states = last.unflatten(0, (options["layers"], -1))[-1]
    assert torch.allclose(net(x), net.head(states.transpose(0, 1).flatten(1)))


def test_the_last_word_and_the_first_matter():
    x = torch.tensor([[4.0, 5.0, 6.0, EOS, PAD, PAD]])
    for at in (0, 2):
        other = x.clone()
        other[0, at] = UNK
        assert not torch.allclose(network()(x), network()(other))


def test_real_sequences_are_read_whole():
    net = Recurrent((5, 2), (3,), hidden=4, bidirectional=True)
    v = torch.ones(7, 5, 2, requires_grad=True)
    net(v).sum().backward()
    assert (v.grad.abs().sum((0, 2)) > 0).all()


def test_without_an_end_all_integers_are_read():
    x = torch.tensor([[4.0, EOS, 5.0, 5.0, 5.0, 5.0]])
    other = torch.cat([x[:, :-1], torch.full((1, 1), 6.0)], 1)
    net = network(end=None)
    assert not torch.allclose(net(x), net(other))


def test_an_encoder_is_told_the_number_of_words():
    """And integers of several dimensions are no sentence."""
    parts = {
        "encoder": part("networks", "recurrent", {"hidden": 4}),
        "family": part("families", "diagonal_normal"),
        "prior": part("priors", "standard_normal"),
        "decoder": part("networks", "mlp", {"hidden": []}),
        "likelihood": part("likelihoods", "gaussian"),
    }
    words = DataSpec((6,), SUPPORTS["integer"], 10, levels=9)
    assert build((2,), words, **parts).inference.network.embedding.num_embeddings == 9
    images = DataSpec((1, 6, 6), SUPPORTS["integer"], 10, levels=256)
    with pytest.raises(CompatibilityError, match="sequences of integers"):
        build((2,), images, **parts)


def test_spoken_positions():
    x = torch.tensor([[EOS, PAD, EOS], [3, EOS, PAD], [3, 3, 3], [PAD, 3, EOS]])
    said = [[True, False, False], [True, True, False], [True] * 3, [True] * 3]
    assert spoken(x).tolist() == said
