"""A model reads every text with its own words, whoever wrote it and however it is stored."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from untrained import rows_of, save_model, vaepipe

from vaepipe import files
from vaepipe.pipeline.stages import data
from vaepipe.registry import part

SAME = 60
"""Sentences that two corpora share."""
WORDS = [f"w{i:02d}" for i in range(20)]
LENGTH = 9


def sentences(count, words, seed):
    """Some words are common and some are rare, by their order."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, len(words) + 1)
    lengths = rng.integers(2, 8, count)
    return [" ".join(rng.choice(words, n, p=share / share.sum())) for n in lengths]


def artifact(folder, path, **options):
    """What a data stage leaves."""
    folder.mkdir()
    options = {"path": str(path), "length": LENGTH, "vocabulary": 23, **options}
    manifest = data.write(part("datasets", "text", options), folder)
    files.write_json(folder / "manifest.json", {**manifest, "kind": "data"})
    return manifest


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two corpora as text and as artifacts, and a model of the first one's words."""
    folder = tmp_path_factory.mktemp("words")
    first = sentences(300, WORDS, 0)
    (folder / "a.txt").write_text("\n".join(first))
    other = first[:SAME] + sentences(300, WORDS[::-1], 1)
    (folder / "b.txt").write_text("\n".join(other))
    manifests = [artifact(folder / name, folder / f"{name}.txt") for name in "ab"]
    save_model(
        folder / "m",
        shape=(LENGTH,),
        support="integer",
        levels=23,
        likelihood="categorical",
        dataset=("text", {"path": "gone.txt", "length": LENGTH, "vocabulary": 23}),
        lexicon=manifests[0]["lexicon"],
    )
    assert manifests[0]["lexicon"] != manifests[1]["lexicon"]
    return folder


def encoded(capfd, model, source, output, *words):
    code, _, err = vaepipe(
        capfd, "encode", "--model", model, "--input", source, "--output", output, *words
    )
    assert code == 0, err
    return rows_of(output).sort_by("id"), err


def latents(table):
    """Latents of the sentences that both corpora have, by id."""
    found = dict(zip(table["id"].to_pylist(), table["mean"].to_pylist(), strict=True))
    return np.array([found[number] for number in range(SAME)])


def same(one, other):
    """Other batches change the last bits; other words change everything."""
    return np.abs(one - other).max() < 1e-6


@pytest.fixture(scope="module")
def expected(home):
    from untrained import Run

    Run(home / "m")(home / "a", home / "expected")
    return latents(rows_of(home / "expected"))


@pytest.mark.parametrize("source", ["a.txt", "b.txt", "b", "text.parquet", "folder", "fo*/*.txt"])
def test_the_same_sentences_have_the_same_latents(home, expected, capfd, tmp_path, source):
    lines = (home / "b.txt").read_text().splitlines()
    texts = pa.array([f"  {line.upper()} " for line in lines]).dictionary_encode()
    table = pa.table({"id": np.arange(len(lines)), "x": texts})
    pq.write_table(table, home / "text.parquet")
    (home / "folder").mkdir(exist_ok=True)
    (home / "folder" / "0.txt").write_text("\n".join(lines[:25]))
    (home / "folder" / "1.txt").write_text("\n".join(lines[25:]))
    table, err = encoded(capfd, home / "m", home / source, tmp_path / "out")
    assert same(latents(table), expected)
    assert "warning" not in err
    code, out, _ = vaepipe(capfd, "latents", "verify", tmp_path / "out")
    assert code == 0, out


def test_evaluate_and_reconstruct_read_with_the_models_words(home, capfd, tmp_path):
    scores, texts = [], []
    for source in ("a", "a.txt", "b", "b.txt"):
        words = ["--model", home / "m", "--data", home / source, "--k", 4]
        splits = [] if "." in source else [w for s in ("train", "val") for w in ("--split", s)]
        output = tmp_path / f"scores-{source}"
        code, _, err = vaepipe(capfd, "evaluate", *words, *splits, "--output", output)
        assert code == 0, err
        table = pq.read_table(output / "per_example.parquet").to_pydict()
        found = zip(table["id"], table["log_evidence"], table["tokens"], strict=True)
        scores.append({number: rest for number, *rest in found if number < SAME})
        output = tmp_path / f"made-{source}.parquet"
        number = min(set(scores[0]) & set(scores[-1]))
        words = ["--model", home / "m", "--input", home / source, "--id", number]
        words += [] if "." in source else ["--split", "train"]
        code, _, err = vaepipe(capfd, "reconstruct", *words, "--output", output)
        assert code == 0, err
        texts.append(pq.read_table(output).to_pydict())
    for found in scores[1:]:
        common = set(scores[0]) & set(found)
        assert len(common) > 40
        gaps = [np.subtract(found[number], scores[0][number]) for number in common]
        assert np.abs(gaps).max() < 1e-4
    assert texts[0] == texts[1] == texts[2] == texts[3]
    assert texts[0]["id"] == [number]
    first = (home / "b.txt").read_text().splitlines()[texts[0]["id"][0]]
    assert texts[0]["text"] == [first]


def test_words_that_the_data_lost_are_not_guessed(home, capfd, tmp_path):
    artifact(tmp_path / "few", home / "b.txt", vocabulary=13)
    words = ["--model", home / "m", "--output", tmp_path / "out"]
    code, _, err = vaepipe(capfd, "encode", *words, "--input", tmp_path / "few")
    assert code == 2 and "Traceback" not in err
    assert "the model has 10 words that are outside the vocabulary of the data" in err
    assert "Give the text itself" in err
    assert not (tmp_path / "out" / "_manifest.json").exists()


def test_words_that_the_model_does_not_have_either_are_unknown_to_it(
    home, expected, capfd, tmp_path
):
    """A data stage with more words than the model: every number has a word, or is unknown."""
    lines = (home / "b.txt").read_text().splitlines()
    (tmp_path / "more.txt").write_text("\n".join([*lines, *sentences(300, ["owl", "cat"], 2)]))
    artifact(tmp_path / "more", tmp_path / "more.txt", vocabulary=25)
    table, err = encoded(capfd, home / "m", tmp_path / "more", tmp_path / "out")
    assert same(latents(table), expected)
    assert "of the words are not in the vocabulary of 23" in err


@pytest.mark.parametrize("options", [{"lowercase": False}, {"level": "character"}])
def test_data_that_were_read_otherwise_are_refused(home, capfd, tmp_path, options):
    artifact(tmp_path / "other", home / "a.txt", **options)
    words = ["--model", home / "m", "--data", tmp_path / "other", "--output", tmp_path / "out"]
    code, _, err = vaepipe(capfd, "evaluate", *words)
    assert code == 2 and "the model reads text with `level: word, lowercase: true`" in err


def test_numbers_in_files_are_taken_for_the_models_words_and_that_is_said(
    home, expected, capfd, tmp_path
):
    found = pa.concat_tables(
        pq.read_table(path) for path in sorted((home / "a").glob("*/*.parquet"))
    )
    pq.write_table(found, tmp_path / "numbers.parquet")
    table, err = encoded(capfd, home / "m", tmp_path / "numbers.parquet", tmp_path / "out")
    assert same(latents(table), expected)
    assert "numbers are taken for those of the model's own words" in err


def test_a_model_of_pictures_reads_no_text(model, capfd, home, tmp_path):
    words = ["encode", "--model", model, "--output", tmp_path / "out"]
    code, _, err = vaepipe(capfd, *words, "--input", home / "a.txt")
    assert code == 2 and "a.txt: column 'x': expected numbers, got text" in err
    code, _, err = vaepipe(capfd, *words, "--input", home / "a")
    assert code == 2 and "Traceback" not in err
    assert "fitted to numbers that are not words, the data hold sentences" in err


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"caf\xe9 x", "expected UTF-8 text, but byte 3"), (b" \n\r\n", "no rows")],
)
def test_a_file_that_is_no_text_is_refused(home, capfd, tmp_path, content, reason):
    (tmp_path / "bad.txt").write_bytes(content)
    words = ["--model", home / "m", "--input", tmp_path / "bad.txt", "--output", tmp_path / "out"]
    code, _, err = vaepipe(capfd, "encode", *words)
    assert code == 2 and reason in err and "bad.txt" in err and "Traceback" not in err


def test_rows_without_words_are_bad_rows(home, capfd, tmp_path):
    texts = ["w00 w01", None, " \t", "w02"]
    pq.write_table(pa.table({"id": np.arange(4), "said": texts}), tmp_path / "x.parquet")
    words = ["--column", "said", "--on-bad-row", "quarantine"]
    table, _ = encoded(capfd, home / "m", tmp_path / "x.parquet", tmp_path / "out", *words)
    assert table["id"].to_pylist() == [0, 3]
    bad = pq.read_table(tmp_path / "out" / "_bad")
    assert bad["reason"].to_pylist() == ["null", "no words"]


def test_a_foreign_text_is_told_to_be_unknown(home, capfd, tmp_path):
    (tmp_path / "long.txt").write_text("\n".join(["owl " * 12, "w00 cat"] * 50))
    table, err = encoded(capfd, home / "m", tmp_path / "long.txt", tmp_path / "out")
    assert table.num_rows == 100
    said = json.loads((tmp_path / "out" / "_manifest.json").read_text())["warnings"]
    assert "91% of the words are not in the vocabulary of 23" in said[0]
    assert "50% of the sentences are cut: they have 9 words or more" in said[1]
    assert all(f"encode: warning: {text}" in err for text in said)
    words = ["--model", home / "m", "--input", tmp_path / "long.txt"]
    code, _, err = vaepipe(capfd, "reconstruct", *words, "--output", tmp_path / "o.txt")
    assert code == 0 and said[0] in err


PIPELINE = """
version: 1
name: two
seed: 0
compute: {{type: local}}
tracking: {{type: memory}}
stages:
  a: {{kind: data, dataset: {{type: text, path: {home}/a.txt, length: 9, vocabulary: 23}}}}
  b: {{kind: data, dataset: {{type: text, path: {home}/b.txt, length: 9, vocabulary: 23}}}}
  fit:
    kind: train
    data: a
    model:
      latent_shape: [2]
      encoder: {{type: mlp, hidden: [8]}}
      family: {{type: diagonal_normal}}
      prior: {{type: standard_normal}}
      decoder: {{type: mlp, hidden: [8]}}
      likelihood: {{type: categorical}}
    objective: {{type: elbo}}
    optimizer: {{type: adam, lr: 1.0e-3}}
    epochs: 1
    batch_size: 64
  again: {{kind: train, settings: fit, data: {again}, start: fit}}
  codes_a: {{kind: encode, model: fit, data: a}}
  codes_b: {{kind: encode, model: fit, data: b}}
  score: {{kind: evaluate, model: fit, data: b, splits: [test], evidence: {{k: 4}}}}
  page: {{kind: report, of: [a, fit, score]}}
"""


def test_stages_read_other_data_with_the_models_words(home, capfd, tmp_path):
    """Weights belong to words too: a fit does not begin with those of another vocabulary."""
    for name in "ab":
        text = PIPELINE.format(home=home, again=name)
        (tmp_path / f"{name}.yaml").write_text(text)
    words = ["--workspace", tmp_path / "ws"]
    code, _, err = vaepipe(capfd, "run", tmp_path / "a.yaml", *words)
    assert code == 0, err
    folder = tmp_path / "ws" / "two"
    found = [latents(rows_of(folder / name)) for name in ("codes_a", "codes_b")]
    assert same(*found)
    code, _, err = vaepipe(capfd, "run", tmp_path / "b.yaml", *words)
    assert code == 2 and "Traceback" not in err
    assert "start: 'fit' and data 'b' have not the same words" in err


def test_a_data_stage_tells_what_its_numbers_do_not_say(capfd, tmp_path):
    """Chinese has no spaces: a line is one long word."""
    rng = np.random.default_rng(0)
    letters = [chr(0x4E00 + i) for i in range(200)]
    lines = ["".join(rng.choice(letters, rng.integers(6, 40))) + "。" for _ in range(300)]
    (tmp_path / "zh.txt").write_text("\n".join(lines))
    options = f"path: {tmp_path}/zh.txt, vocabulary: 120"
    text = "version: 1\nname: zh\nseed: 0\nstages:\n"
    for name, level in (("words", "word"), ("letters", "character")):
        text += f"  {name}: {{kind: data, dataset: {{type: text, {options}, level: {level}}}}}\n"
    text += "  page: {kind: report, of: [words, letters]}\n"
    text += "compute: {type: local}\ntracking: {type: memory}\n"
    (tmp_path / "zh.yaml").write_text(text)
    words = ["--workspace", tmp_path / "ws"]
    code, out, err = vaepipe(capfd, "run", tmp_path / "zh.yaml", *words)
    assert code == 0, err
    folder = tmp_path / "ws" / "zh"
    known = {
        n: json.loads((folder / n / "manifest.json").read_text()) for n in ("words", "letters")
    }
    train = known["words"]["counts"]["train"]
    share = known["words"]["losses"]["train"]["unknown_words"]
    assert share == pytest.approx((train - 116) / train)  # one value is the full stop
    assert known["words"]["losses"]["val"]["unknown_words"] == 1
    assert known["words"]["losses"]["train"]["cut_sentences"] == 0
    ids = [i for i, line in enumerate(lines) if len(line) >= 20]
    cut = sum(
        known["letters"]["losses"][s]["cut_sentences"] * n
        for s, n in known["letters"]["counts"].items()
    )
    assert cut == pytest.approx(len(ids))
    (said,) = known["words"]["warnings"]
    assert f"{share:.0%} of the words" in said and "`level: character`" in said
    assert f"words: warning: {said}" in out + err
    page = (folder / "page" / "report.html").read_text()
    assert "are read as &lt;unk&gt;" in page and "cut sentences of train" in page
    assert any("Fit with a larger `length`" in text for text in known["letters"]["warnings"])
