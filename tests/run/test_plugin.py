"""A prior from another distribution is one more alternative of a sweep, and nothing else."""

import json

import pyarrow.parquet as pq


def test_an_installed_prior_is_swept_over_like_a_built_in(place):
    place.edit(
        tune={
            "space": {
                "model.prior": {
                    "grid": [{"type": "standard_normal"}, {"type": "student_t", "df": 4.0}]
                }
            }
        },
        final={"settings": "tune"},
        score=None,
        codes=None,
    )
    code, _, err = place.run()
    assert code == 0, err
    rows = pq.read_table(place.home / "tune" / "trials.parquet").to_pylist()
    assert [json.loads(row["setting.model.prior"])["type"] for row in rows] == [
        "standard_normal",
        "student_t",
    ]
    assert {row["status"] for row in rows} == {"done"}
    card = json.loads((place.home / "tune" / rows[1]["model"] / "model.json").read_text())
    assert card["model"]["prior"]["distribution"] == "vaepipe-student-t"
    assert card["model"]["prior"]["options"] == {"df": 4.0}


def test_its_option_is_checked_and_searched(place):
    place.edit(tune={"space": {"model.prior": {"grid": [{"type": "student_t", "fd": 4.0}]}}})
    code, _, err = place.run()
    assert code == 2
    assert "fd" in err and "Did you mean 'df'?" in err


def test_the_command_line_lists_and_shows_it(place):
    code, out, _ = place.vaepipe("plugins", "list", "priors")
    assert code == 0
    assert "student_t" in out and "vaepipe-student-t" in out
    code, out, _ = place.vaepipe("plugins", "show", "priors", "student_t", "--json")
    assert code == 0
    assert "df" in json.dumps(json.loads(out))


LIAR = '''
import torch
from torch.distributions import Independent, Normal
from vaepipe.core import Conditional, DataSpec, Prior, PriorDraw


class Shifted(Normal):
    def log_prob(self, value):
        return super().log_prob(value) + 0.1


class LiarPrior(Prior):
    """A density that does not integrate to one."""

    def __init__(self, latent_shape: tuple[int, ...], data: DataSpec, *, scale: float = 1.0):
        super().__init__()
        self.loc = torch.nn.Parameter(torch.zeros(latent_shape))
        self.scale = scale

    def forward(self, inference: Conditional) -> PriorDraw:
        scale = torch.full_like(self.loc, self.scale)
        return PriorDraw(Independent(Shifted(self.loc, scale), self.loc.ndim))
'''


def test_the_contract_passes_an_honest_plugin_and_names_the_promise_a_liar_breaks(place):
    code, out, _ = place.vaepipe("plugins", "check", "priors", "student_t", "--set", "df=4.0")
    assert code == 0
    assert "BROKEN" not in out and "its mass is one" in out
    folder = place.folder / "site"
    info = folder / "liar-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "liar.py").write_text(LIAR)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: liar\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vaepipe.priors]\nliar = liar:LiarPrior\n")
    code, out, err = place.vaepipe(
        "plugins", "check", "priors", "liar", "--json", PYTHONPATH=folder
    )
    assert code == 4, err
    broken = [answer["question"] for answer in json.loads(out) if not answer["kept"]]
    assert "its mass is one" in broken and len(broken) < len(json.loads(out))
