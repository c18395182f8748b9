"""Every use of random numbers has a stream of its own."""

import re
from itertools import product
from pathlib import Path

import pytest
import torch

import vaepipe
from vaepipe.core import Purpose, Stream, by_row, row_seed, row_uniform, seeded, stream
from vaepipe.core.row_noise import row_sample

SEEDS = (0, 1, 2, 2**32, 20_240_229)
"""The last was the seed of the hash that splits rows."""
SAME_LOW_BITS, SAME_HIGH_BITS = (51336, 93954), (32618, 37244)
"""Ids whose streams of `Purpose.SAMPLES` at seed 0 agree in the low 32 bits, or in the others."""
CHOSEN = (Purpose.SPLITS, Purpose.BINARIZATION)
"""Data purposes with a chosen tag, which no generator of torch is seeded with."""


def streams(without=()):
    """Every purpose at every seed."""
    purposes = [purpose for purpose in Purpose if purpose not in without]
    return [stream(seed, purpose) for seed, purpose in product(SEEDS, purposes)]


def assert_unrelated(numbers):
    """Rows of `[streams, n]` uniform numbers are all different and uncorrelated, in all pairs."""
    n = numbers.shape[1]
    assert len(numbers.unique(dim=0)) == len(numbers)
    correlation = torch.corrcoef(numbers) - torch.eye(len(numbers))
    assert correlation.abs().max() < 5.5 / n**0.5  # of 25,000 pairs
    shifted = torch.corrcoef(torch.cat([numbers[:, 1:], numbers[:, :-1]]))
    assert (shifted - torch.eye(len(shifted))).abs().max() < 5.5 / (n - 1) ** 0.5


def test_all_pairs_of_purposes_give_unrelated_numbers_of_rows():
    """At equal and at different seeds, for the same ids."""
    ids = torch.arange(64)
    numbers = [row_uniform(own, ids, (64,)) for own in streams((Purpose.FIRST_WEIGHTS,))]
    assert_unrelated(torch.stack(numbers).double().flatten(1))


def test_all_pairs_of_purposes_give_unrelated_numbers_of_torch():
    numbers = []
    for own in streams(CHOSEN):
        with seeded(own):
            numbers.append(torch.rand(4096))
    assert_unrelated(torch.stack(numbers))


def test_all_pairs_of_purposes_give_unrelated_numbers_of_torch_row_by_row():
    draw = [by_row(lambda _: torch.rand(256), range(16), own) for own in streams(CHOSEN)]
    assert_unrelated(torch.stack([torch.cat(rows) for rows in draw]))


def test_parts_of_a_purpose_are_unrelated():
    own, ids = stream(3, Purpose.ANNEALING), torch.arange(64)
    keys = [("momenta", t) for t in range(30)] + [("accept", t) for t in range(30)] + [(), (0, 1)]
    numbers = [row_uniform(own.at(*key), ids, (64,)) for key in keys]
    assert_unrelated(torch.stack(numbers).double().flatten(1))
    assert stream(3, Purpose.ANNEALING, "accept", 2) == own.at("accept").at(2)


def test_numbers_that_results_were_published_with_are_kept():
    """Frozen binarization at the default seed, splits, and whatever a fit draws."""
    assert stream(0, Purpose.BINARIZATION) == Stream(0)
    assert stream(0, Purpose.SPLITS) == Stream(20_240_229)
    assert stream(7, Purpose.FIRST_WEIGHTS).word == row_seed(7, 0)
    assert stream(7, Purpose.ORDER_OF_ROWS).word == row_seed(7, 1)
    noise = row_seed(row_seed(row_seed(7, 2), 5), 3)
    assert stream(7, Purpose.TRAINING_NOISE, 5, 3).word == noise


@pytest.mark.parametrize("ids", [SAME_LOW_BITS, SAME_HIGH_BITS], ids=["low", "high"])
def test_rows_whose_seeds_differ_in_half_their_bits_draw_different_numbers(ids):
    """torch's own seeding of a CPU generator drops all but 32 bits."""
    words = [stream(0, Purpose.SAMPLES).at(number).word for number in ids]
    half = [word % 2**32 if ids is SAME_LOW_BITS else word >> 32 for word in words]
    assert half[0] == half[1] and words[0] != words[1]
    one, two = by_row(lambda _: torch.rand(1000), ids, stream(0, Purpose.SAMPLES))
    assert not torch.isclose(one, two, atol=1e-7).any()
    assert torch.corrcoef(torch.stack([one, two]))[0, 1].abs() < 4.5 / 1000**0.5


def test_rows_are_seeded_by_their_ids_alone_and_the_generator_is_put_back():
    before, own = torch.get_rng_state(), stream(1, Purpose.SAMPLES)
    whole = by_row(lambda place: (place, torch.randn(3)), [9, 4, 7], own)
    assert [place for place, _ in whole] == [0, 1, 2]
    (alone,) = by_row(lambda _: torch.randn(3), [7], own)
    assert torch.equal(alone, whole[2][1])
    with pytest.raises(KeyError):
        by_row(lambda _: {}["nothing"], [1], own)
    assert torch.equal(torch.get_rng_state(), before)


def test_first_numbers_of_rows_are_uniform_and_uncorrelated_along_ids():
    u = torch.stack(by_row(lambda _: torch.rand(4), range(5000), stream(0, Purpose.EVIDENCE)))
    assert ((u.mean(0) - 0.5) * (12 * 5000) ** 0.5).abs().max() < 4.5
    along = torch.corrcoef(torch.cat([u[1:], u[:-1]], 1).T).fill_diagonal_(0)
    assert along.abs().max() < 4.5 / 5000**0.5


@pytest.mark.parametrize(
    "use",
    [
        lambda seed: row_uniform(seed, torch.arange(2), (1,)),
        lambda seed: by_row(lambda place: place, [0], seed),
        lambda seed: seeded(seed).__enter__(),
        lambda seed: row_sample(
            torch.distributions.Normal(torch.zeros(2), torch.ones(2)), torch.arange(2), 1, seed
        ),
    ],
    ids=["row_uniform", "by_row", "seeded", "row_sample"],
)
def test_a_seed_without_a_purpose_is_a_type_error(use):
    with pytest.raises(TypeError, match=r"expected a Stream, got 3: .* with a purpose"):
        use(3)


BARE = re.compile(
    r"manual_seed\(|\bStream\(|default_rng\(|SeedSequence\(|RandomState\(|np\.random\.seed"
    r"|torch\.seed\(|^import random|^from random"
)
ALLOWED = {
    "core/noise.py": "seeds torch",
    "core/streams.py": "makes streams",
    "core/refine.py": "a stream drawn from a seeded generator",
    "pipeline/plan.py": "the search of a sweep, named in the seed's path",
}
"""Files that make streams or seed generators."""


def test_the_product_starts_no_stream_without_a_purpose():
    root, found = Path(vaepipe.__file__).parent, []
    plugins = root.parent / "plugins"
    for path in [*root.rglob("*.py"), *plugins.glob("*/vaepipe_*/*.py"), *plugins.glob("*/*.py")]:
        name = str(path.relative_to(root if path.is_relative_to(root) else plugins))
        if name.startswith("testing/") or path.name.startswith("test_") or name in ALLOWED:
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            numpy_of_a_stream = ".word" in line or "(_sequence(" in line
            if BARE.search(line) and ">>>" not in line and not numpy_of_a_stream:
                found.append(f"{name}:{number}: {line.strip()}")
    assert not found
