"""Sentences as integers: what is stored, whose words are known, what is refused."""

import numpy as np
import pytest

from vaepipe import files, registry
from vaepipe.core import DataSpec
from vaepipe.core.sequences import EOS, PAD, UNK
from vaepipe.data import shards
from vaepipe.data.lexicon import Lexicon
from vaepipe.data.text import Losses
from vaepipe.datasets.splits import by_id
from vaepipe.datasets.text import Text
from vaepipe.errors import DataError
from vaepipe.pipeline.stages import data

VERSE = "The owl, the cat.\n\nDon't   stop; the end!\nOwl?\n"


@pytest.fixture
def corpus(tmp_path):
    def write(content):
        path = tmp_path / "corpus.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def rows(dataset, split):
    found = list(dataset.examples(split))
    ids = np.concatenate([batch.column("id").to_numpy() for batch in found])
    x = [np.stack(batch.column("x").to_numpy(zero_copy_only=False)) for batch in found]
    return ids, np.concatenate(x)


def test_a_sentence_is_words_an_end_and_filling(corpus):
    dataset = Text(path=corpus(VERSE), length=7, splits={"train": 1.0})
    ids, x = rows(dataset, "train")
    words = dataset.lexicon().words
    assert words[:5] == ("<pad>", "<eos>", "<unk>", "the", "owl")
    assert ids.tolist() == [0, 1, 2]
    assert [words[int(v)] for v in x[0]] == ["the", "owl", ",", "the", "cat", ".", "<eos>"]
    assert x[2].tolist() == [4, words.index("?"), EOS, PAD, PAD, PAD, PAD]
    assert dataset.lexicon().read(x) == ["the owl , the cat .", "don't stop ; the end !", "owl ?"]


def test_a_longer_sentence_is_cut_and_has_no_end(corpus):
    _, x = rows(Text(path=corpus(VERSE), length=6, splits={"train": 1.0}), "train")
    assert not (x[0] == EOS).any()
    assert (x[2] == EOS).sum() == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"unit": "sentence"}, ["the owl , the cat .", "don't stop ; the end !", "owl ?"]),
        ({"lowercase": False}, ["The owl , the cat .", "Don't stop ; the end !", "Owl ?"]),
        ({"level": "character"}, ["the owl, the cat.", "don't stop; the end!", "owl?"]),
    ],
)
def test_units_levels_and_capitals(corpus, options, expected):
    dataset = Text(path=corpus(VERSE), length=40, splits={"train": 1.0}, **options)
    _, x = rows(dataset, "train")
    assert dataset.lexicon().read(x) == expected


def test_lines_of_a_sentence_are_joined(corpus):
    dataset = Text(path=corpus("One\ntwo. Three\n\nfour"), unit="sentence", splits={"train": 1.0})
    assert dataset.lexicon().read(rows(dataset, "train")[1]) == ["one two .", "three", "four"]


def test_words_are_known_from_the_training_split_only(corpus):
    path = corpus("\n".join(f"word{i} common" for i in range(200)))
    dataset = Text(path=path, length=4, vocabulary=500)
    known = set(dataset.lexicon().words)
    masks = by_id(np.arange(200), {"train": 0.8, "val": 0.1, "test": 0.1})
    for split, mask in masks.items():
        ids, x = rows(dataset, split)
        assert ids.tolist() == np.flatnonzero(mask).tolist()
        assert all((f"word{i}" in known) == (split == "train") for i in ids)
        assert ((x[:, 0] == UNK) == (split != "train")).all()
        assert (x[:, 1] == 3).all()


def test_the_vocabulary_is_by_frequency_then_alphabet_and_of_the_size_asked_for(corpus):
    path = corpus("b a\nb a\nc b\nd\n")
    dataset = Text(path=path, vocabulary=6, splits={"train": 1.0})
    assert dataset.lexicon().words[3:] == ("b", "a", "c")
    assert dataset.spec == DataSpec((20,), dataset.spec.support, 1, levels=6)
    _, x = rows(dataset, "train")
    assert x.max() < 6
    assert x[3].tolist()[:2] == [UNK, EOS]


def written(part, folder):
    folder.mkdir()
    manifest = data.write(part, folder)
    files.write_json(folder / "manifest.json", manifest)
    return manifest


@pytest.mark.parametrize(("vocabulary", "kind"), [(256, "uint8"), (300, "float32")])
def test_the_artifact_keeps_the_words_and_their_number(corpus, tmp_path, vocabulary, kind):
    path = corpus("\n".join(f"word{i} common" for i in range(300)))
    options = {"path": str(path), "length": 4, "vocabulary": vocabulary, "splits": {"train": 1.0}}
    part = registry.part("datasets", "text", options)
    manifest = written(part, tmp_path / "a")
    assert written(part, tmp_path / "b")["digest"] == manifest["digest"]
    spec = shards.load_spec(tmp_path / "a")
    assert (spec.shape, spec.support_name, spec.levels) == ((4,), "integer", vocabulary)
    split = shards.open_split(tmp_path / "a", "train")
    ids, x = split.take(split.units)
    assert x.dtype == kind
    lexicon = Lexicon.from_dict(manifest["lexicon"])
    assert len(lexicon.words) == vocabulary
    shown = lexicon.read(x)
    assert all(
        text in (f"word{i} common", "<unk> common") for i, text in zip(ids, shown, strict=True)
    )


def test_other_words_for_the_same_integers_are_another_artifact(corpus, tmp_path):
    digests = set()
    for number, text in enumerate(("a b\n", "a c\n")):
        options = {"path": str(corpus(text)), "splits": {"train": 1.0}}
        part = registry.part("datasets", "text", options)
        digests.add(written(part, tmp_path / str(number))["digest"])
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no sentence"),
        (b" \n\n", "no sentence"),
        (b"caf\xe9 x", "UTF-8 text, but byte 3"),
    ],
)
def test_a_file_that_is_no_text_is_refused(corpus, content, reason):
    with pytest.raises(DataError, match=reason):
        Text(path=corpus(content)).prepare()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.txt: expected a UTF-8 text file"):
        Text(path=tmp_path / "nothing.txt").prepare()


def test_the_only_file_of_the_text_folder_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("VAEPIPE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"expected one UTF-8 text file in .*text, found nothing"):
        Text().prepare()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("a\nb\nc")
    Text().prepare()
    (tmp_path / "text" / "b.txt").write_text("a b")
    with pytest.raises(DataError, match=r"found a\.txt, b\.txt"):
        Text().prepare()


def test_what_a_dataset_is_needs_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("VAEPIPE_DATA", str(tmp_path))
    assert Text(length=9, vocabulary=50).spec.shape == (9,)


PLAIN = ["the owl sat", "a cat ran far", "by the owl"]
STORED = {
    "CRLF": "\r\n".join(PLAIN),
    "byte order mark": "\ufeff" + "\n".join(PLAIN),
    "tabs": "\n".join(line.replace(" ", "\t") for line in PLAIN),
    "empty lines": "\n\n" + "\n \t\n\n".join(PLAIN) + "\n\n\n",
    "line separator": "\n".join(line.replace(" ", "\u2028") for line in PLAIN),
    "vertical tab": "\n".join(line.replace(" ", "\x0b", 1) for line in PLAIN),
    "form feed": "\x0c" + "\x0c\n".join(PLAIN),
    "next line": "\n".join(line.replace(" ", "\x85", 1) for line in PLAIN),
    "carriage return": "\n".join(line.replace(" ", "\r", 1) for line in PLAIN),
}


@pytest.mark.parametrize("level", ["word", "character"])
@pytest.mark.parametrize("stored", STORED)
def test_only_line_feeds_end_a_line_so_sentences_keep_their_numbers(corpus, stored, level):
    """`str.splitlines` ends lines at ten characters; `wc`, `grep` and editors at the line feed."""
    options = {"length": 20, "level": level, "splits": {"train": 1.0}}
    expected = rows(Text(path=corpus("\n".join(PLAIN)), **options), "train")
    found = rows(Text(path=corpus(STORED[stored]), **options), "train")
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other)


def test_a_very_long_line_is_one_sentence_and_is_counted_as_cut(corpus):
    dataset = Text(path=corpus("a b\n" + "owl " * 100_000 + "\nb a"), splits={"train": 1.0})
    ids, x = rows(dataset, "train")
    assert ids.tolist() == [0, 1, 2] and x.shape == (3, 20)
    assert dataset.losses("train").cut == 1


def test_losses_count_words_and_signs_that_are_stored(corpus):
    path = corpus("b a ! a b a\nb c ? d e f\n")
    dataset = Text(path=path, vocabulary=5, length=4, splits={"train": 1.0})
    assert dataset.lexicon().words[3:] == ("a", "b")
    assert dataset.losses("train") == Losses(sentences=2, cut=2, words=6, unknown=2, signs=2)
