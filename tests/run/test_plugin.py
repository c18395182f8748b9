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
