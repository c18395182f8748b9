"""p(x | z) of sentences: a distribution, exact step by step, that never looks ahead."""

import itertools
import json

import numpy as np
import pytest
import torch
from vaepipe_text.sequence import SequenceLikelihood

from vaepipe.core import SUPPORTS, Conditional, DataSpec, LatentModel, frozen
from vaepipe.core.sequences import EOS, PAD, UNK
from vaepipe.errors import CompatibilityError
from vaepipe.evaluation import decoding
from vaepipe.families.normal import DiagonalNormal
from vaepipe.networks.mlp import MLP
from vaepipe.networks.recurrent import Recurrent
from vaepipe.priors.normal import StandardNormal

CELLS = pytest.mark.parametrize("cell", ["lstm", "gru"])


@pytest.fixture(autouse=True)
def _numbers():
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def made(length=4, levels=4, **options):
    """A head with weights far from their start, where words depend on words."""
    data = DataSpec((length,), SUPPORTS["integer"], 100, levels=levels)
    head = SequenceLikelihood(data, hidden=5, embedding=3, **options)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    return head


def every(length=4, levels=4):
    values = itertools.product(range(levels), repeat=length)
    return torch.tensor(list(values), dtype=torch.get_default_dtype())


@CELLS
def test_the_masses_of_all_sentences_add_up_to_one(cell):
    """Those that end and those that fill their room; anything else has none."""
    p, x = made(cell=cell)(torch.randn(3, 5)), every()
    mass = p.log_prob(x[:, None]).exp()
    torch.testing.assert_close(mass.sum(0), torch.ones(3), rtol=0, atol=1e-12)
    first = torch.where((x == EOS).any(1), (x == EOS).int().argmax(1), 4)
    stray = ((x != PAD) & (torch.arange(4) > first[:, None])).any(1)
    assert (mass[stray] == 0).all()
    assert (mass[~stray] > 0).all()


@CELLS
def test_draws_are_as_frequent_as_their_mass(cell):
    p, n = made(3, cell=cell)(torch.randn(5)), 40_000
    values, counts = p.sample((n,)).unique(dim=0, return_counts=True)
    mass = p.log_prob(values).exp()
    assert mass.sum() > 1 - 1e-2
    error = (mass * (1 - mass) / n).sqrt()
    assert (((counts / n - mass) / error).abs()[mass * n > 25] < 4.5).all()


@CELLS
def test_log_prob_is_the_sum_of_its_steps(cell):
    """Each the logit of the word that stands there, normalised, run one step after another."""
    head, h = made(5, 6, cell=cell), torch.randn(5)
    x = torch.tensor([3.0, 5.0, 2.0, EOS, PAD])
    p = head(h)
    state = p.start
    total, read = 0.0, head.levels
    for word in (3, 5, 2, EOS):
        given = head.reads(head.embedding.weight[read]) + head.hears(h)
        if cell == "lstm":
            i, f, o, g = (given + head.keeps(state[0])).chunk(4)
            memory = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
            state = (o.sigmoid() * memory.tanh(), memory)
        else:
            (r, u, n), (r_, u_, n_) = given.chunk(3), head.keeps(state[0]).chunk(3)
            r, u = (r + r_).sigmoid(), (u + u_).sigmoid()
            state = ((1 - u) * (n + r * n_).tanh() + u * state[0],)
        total, read = total + head.writes(state[0]).log_softmax(-1)[word], word
    torch.testing.assert_close(p.log_prob(x), total)
    torch.testing.assert_close(p.log_prob_each(x).sum(-1), total)
    assert p.log_prob_each(x)[-1] == 0


@CELLS
def test_no_step_looks_ahead(cell):
    """Another word at t changes no term before t; it changes its own and later ones."""
    p = made(6, 9, cell=cell)(torch.randn(2, 5))
    x = torch.randint(UNK + 1, 9, (6,)).double()
    before = p.log_prob_each(x)
    for t in range(6):
        other = x.clone()
        other[t] = UNK
        after = p.log_prob_each(other)
        assert torch.equal(after[:, :t], before[:, :t])
        assert (after[:, t:] != before[:, t:]).all()


@CELLS
def test_filling_costs_nothing(cell):
    """The same sentence in more room, with the same weights, has the same mass."""
    short, long = made(4, 6, cell=cell), made(9, 6, cell=cell)
    long.load_state_dict(short.state_dict())
    h, x = torch.randn(7, 5), torch.tensor([3.0, 5.0, EOS, PAD])
    wider = torch.cat([x, torch.full((5,), float(PAD))])
    torch.testing.assert_close(short(h).log_prob(x), long(h).log_prob(wider))


@CELLS
def test_many_draws_of_z_share_one_batch_of_sentences(cell):
    head, x = made(cell=cell), every()[:6]
    h = torch.randn(3, 6, 5)
    alone = [[head(h[i, j]).log_prob(x[j]) for j in range(6)] for i in range(3)]
    expected = torch.stack([torch.stack(row) for row in alone])
    torch.testing.assert_close(head(h).log_prob(x), expected)
    torch.testing.assert_close(head(h).expand((2, 3, 6)).log_prob(x), expected.expand(2, 3, 6))


def test_words_are_hidden_in_training_only():
    """Evaluation is deterministic; training reads unknown words, alike for all draws of z."""
    head, x = made(6, 9, word_dropout=0.5), torch.tensor([5.0, 6, 7, 8, 5, 6])
    plain = made(6, 9)
    plain.load_state_dict(head.state_dict())
    h = torch.randn(5)
    assert torch.equal(head.eval()(h).log_prob(x), plain(h).log_prob(x))
    head.train()
    several = torch.stack([head(h).log_prob(x) for _ in range(20)])
    assert several.unique().numel() > 10
    pair = head(h.expand(2, 5)).log_prob(x)
    torch.testing.assert_close(pair[0], pair[1])
    first = torch.stack([head(h).log_prob_each(x)[0] for _ in range(5)])
    assert first.unique().numel() == 1  # nothing is read before the first word


def test_every_hidden_word_is_read_as_the_unknown_one():
    head, h = made(6, 9, word_dropout=1 - 1e-12), torch.randn(5)
    x = torch.tensor([5.0, 6, 7, 8, 5, 6])
    unknown = made(6, 9)
    unknown.load_state_dict(head.state_dict())
    each = [unknown(h).log_prob_each(torch.tensor([UNK] * t + [x[t]] + [UNK] * (5 - t)).double())[t]
            for t in range(6)]  # fmt: skip
    torch.testing.assert_close(head(h).log_prob_each(x), torch.stack(each))


@CELLS
def test_greedy_writing_takes_the_likeliest_word_of_every_step(cell):
    p = made(5, 6, cell=cell)(torch.randn(20, 5))
    x = p.mode
    for t in range(5):
        at = torch.arange(6.0).reshape(-1, 1, 1)
        tried = torch.cat([x[:, :t].expand(6, 20, t), at.expand(6, 20, 1),
                           torch.zeros(6, 20, 4 - t)], -1)  # fmt: skip
        open_ = ~(x[:, :t] == EOS).any(1)
        best = p.log_prob_each(tried)[..., t].argmax(0)
        assert torch.equal(best[open_].double(), x[open_, t])
    assert (x.sum() > 0) and not (x == EOS).all()


def test_a_frozen_head_stays_frozen_when_the_sentence_comes_later():
    head, h = made(), torch.randn(5, requires_grad=True)
    frozen(head)(h).log_prob(every()[5]).backward()
    assert h.grad is not None and h.grad.any()
    assert all(parameter.grad is None for parameter in head.parameters())


@pytest.mark.parametrize("value", [0.5, -1.0, 4.0])
def test_what_is_no_word_is_refused(value):
    x = torch.tensor([3.0, value, 1, 0])
    with pytest.raises(ValueError, match="values other than 0, 1 … 3"):
        made()(torch.randn(5)).log_prob(x)


@pytest.mark.parametrize(
    ("shape", "levels"), [((4,), None), ((2, 2), 9), ((4,), 2)], ids=["endless", "image", "binary"]
)
def test_data_that_are_no_sentences_are_refused(shape, levels):
    with pytest.raises(CompatibilityError, match="sequences"):
        SequenceLikelihood(DataSpec(shape, SUPPORTS["integer"], 1, levels=levels))


def test_chunks_of_evidence_count_words_not_positions(monkeypatch):
    """A large vocabulary makes small chunks, and chunks change nothing."""
    data = DataSpec((4,), SUPPORTS["integer"], 100, levels=50)
    q, head = DiagonalNormal((2,)), SequenceLikelihood(data, hidden=5)
    model = LatentModel(
        Conditional(Recurrent((4,), q.feature_shape, levels=50, hidden=3), q, (4,)),
        StandardNormal((2,), data),
        Conditional(MLP((2,), (5,), hidden=[]), head, (2,)),
    )
    x, z, seen = torch.randint(0, 50, (3, 4)).double(), torch.randn(40, 3, 2), []
    whole = decoding.log_likelihood(model, x, z)
    forward = head.forward
    monkeypatch.setattr(head, "forward", lambda h: seen.append(len(h)) or forward(h))
    monkeypatch.setattr(decoding, "VALUES_AT_ONCE", 3000)
    torch.testing.assert_close(decoding.log_likelihood(model, x, z), whole)
    assert seen
    assert max(seen) * 3 * 50 <= 3000


PIPELINE = """
version: 1
name: tiny
seed: 3
compute: {{type: local}}
tracking: {{type: memory}}
stages:
  corpus: {{kind: data, dataset: {{type: text, path: {path}, length: 5, vocabulary: 12}}}}
  fit:
    kind: train
    data: corpus
    model:
      latent_shape: [2]
      encoder: {{type: recurrent, hidden: 8, embedding: 4}}
      family: {{type: diagonal_normal}}
      prior: {{type: standard_normal}}
      decoder: {{type: mlp, hidden: []}}
      likelihood: {{type: sequence, hidden: 8, embedding: 4}}
    objective: {{type: elbo, beta: 100.0}}
    optimizer: {{type: adam, lr: 1.0e-2}}
    batch_size: 32
    epochs: 2
    validation: {{examples: 20, k: 4}}
  score: {{kind: evaluate, model: fit, data: corpus, splits: [test], evidence: {{k: 4}}}}
  page: {{kind: report, of: [corpus, fit, score]}}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A pipeline over a made-up language that ran to its end; a beta that makes z useless."""
    from vaepipe.cli.view import View
    from vaepipe.pipeline import start

    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    words = np.array(["owl", "cat", "sat", "ran", "far", "by"])
    lines = [" ".join(rng.choice(words, rng.integers(1, 6))) for _ in range(200)]
    (folder / "corpus.txt").write_text("\n".join(lines))
    (folder / "tiny.yaml").write_text(PIPELINE.format(path=folder / "corpus.txt"))
    torch.set_default_dtype(torch.float32)
    with (folder / "shown.txt").open("w") as screen:
        view = View(screen, plain=True)
        start.prepare(folder / "tiny.yaml", [], folder / "ws").run(view)
        view.close()
    return folder


def test_a_bundle_brings_its_words_and_computes_the_same(tiny):
    from vaepipe.training import bundle

    torch.set_default_dtype(torch.float32)
    opened = bundle.load(tiny / "ws" / "tiny" / "fit" / "model")
    text = opened.lexicon.read(opened.model.sample(20).sample().numpy())
    known = set(opened.lexicon.words)
    assert set(" ".join(text).split()) <= known
    assert {"owl", "cat", "sat", "ran", "far", "by"} < known


def _journal(folder):
    return (folder / "journal.jsonl").read_text().splitlines()


def test_a_collapse_is_told_on_the_screen_in_the_journal_and_in_the_report(tiny):
    home = tiny / "ws" / "tiny"
    shown = (tiny / "shown.txt").read_text().splitlines()
    said = [line for line in shown if "warning" in line and "of the sentences are cut" not in line]
    assert [line.partition(": posterior")[0] for line in said] == ["fit: warning", "score: warning"]
    assert "collapse: val/rate" in said[0] and "collapse: test/rate" in said[1]
    events = [json.loads(line) for line in _journal(home / "fit")]
    assert [e["event"] for e in events if e["event"] not in ("epoch", "start")][-2:] == [
        "warning",
        "done",
    ]
    (text,) = json.loads((home / "fit" / "manifest.json").read_text())["warnings"]
    assert "warmup_epochs" in text
    page = (home / "page" / "report.html").read_text()
    assert page.count("posterior collapse: val/rate") == 1
    assert page.count("posterior collapse: test/rate") == 1
    assert "Sentences of the prior" in page


@pytest.mark.parametrize("ending", ["txt", "parquet"])
def test_sampled_sentences_can_be_read(tiny, ending):
    import pyarrow.parquet as pq
    from click.testing import CliRunner

    from vaepipe.cli.sample import command

    torch.set_default_dtype(torch.float32)
    output = tiny / f"samples.{ending}"
    model = str(tiny / "ws" / "tiny" / "fit" / "model")
    result = CliRunner().invoke(
        command, ["--model", model, "-n", "7", "--output", str(output)], standalone_mode=False
    )
    assert result.exception is None
    if ending == "txt":
        lines = output.read_text().splitlines()
    else:
        lines = pq.read_table(output).column("text").to_pylist()
    assert len(lines) == 7
    assert any("owl" in line for line in lines)


def test_an_evaluation_counts_words_and_says_the_perplexity(tiny):
    """exp(-log p(x) / words) over the whole split, ends of sentences included."""
    import pyarrow.parquet as pq

    table = pq.read_table(tiny / "ws" / "tiny" / "score" / "per_example.parquet")
    columns = {name: table.column(name).to_numpy() for name in ("id", "tokens", "log_evidence")}
    lines = (tiny / "corpus.txt").read_text().splitlines()
    words = [len(lines[i].split()) for i in columns["id"]]
    assert columns["tokens"].tolist() == [min(n + 1, 5) for n in words]
    summary = pq.read_table(tiny / "ws" / "tiny" / "score" / "summary.parquet").to_pylist()
    (row,) = [r for r in summary if r["metric"] == "perplexity"]
    expected = np.exp(-columns["log_evidence"].sum() / columns["tokens"].sum())
    assert row["value"] == pytest.approx(expected)
    assert 0 < row["se"] < row["value"] / 5
    assert 1 < expected < 12
