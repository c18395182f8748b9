"""What an encoding draws has nothing to do with what the data drew."""

import numpy as np
import torch
from untrained import Run, rows_of, save_model, write

from vaepipe.datasets.digits import Digits


def test_draws_are_not_those_that_binarized_the_examples(tmp_path):
    """Default seeds, one latent coordinate per pixel: noise and pixel of a place are unrelated."""
    digits = Digits()
    (batch,) = digits.examples("train")
    x = np.array(batch["x"].to_pylist(), np.uint8).reshape(-1, 1, 8, 8)
    ids = batch["id"].to_numpy()
    model = save_model(tmp_path / "m", (1, 8, 8), (64,), dataset=("digits", {}))
    Run(model)(write(tmp_path / "x.parquet", x, ids), tmp_path / "z", with_=["sample:1"])
    found = rows_of(tmp_path / "z")
    mean, scale, z = (np.array(found[n].to_pylist()) for n in ("mean", "scale", "sample_0"))
    pixels = digits.frozen(torch.tensor(x), torch.tensor(ids)).numpy().reshape(len(x), -1)
    grey = x.reshape(len(x), -1) / 16
    free = (grey > 0) & (grey < 1)  # the others do not depend on what was drawn
    noise = (z - mean) / scale
    assert abs(np.corrcoef(noise[free], (pixels - grey)[free])[0, 1]) < 0.03
    assert abs(np.corrcoef(noise.ravel(), pixels.ravel())[0, 1]) < 0.03
    assert np.isclose(noise.mean(), 0, atol=0.02) and np.isclose(noise.std(), 1, atol=0.02)
