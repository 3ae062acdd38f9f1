"""Studies that exist are valid: every option belongs to its row's system, split or training."""

import pytest

import vaecf_lib as vc
from vaecf_lib.lab.studies import STUDIES, systems_there, with_exact
from vaecf_lib.lab.study import Row, Study


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (Row("svd"), "unknown model 'svd'"),
        (Row("mult-vae", {"gamma": 1}), "no option 'gamma' of mult-vae"),
        (Row("mult-vae", {"beta": -1}), "mult-vae: beta=-1: must be a number of at least 0"),
        (Row("mult-vae", {"schedule": "cosine"}), "one: an option stands in the wrong place"),
        (Row("mult-vae", fit={"beta": 1}), "one: an option stands in the wrong place"),
        (Row("mult-vae", split={"lr": 1}), "one: an option stands in the wrong place"),
        (Row("mult-vae", {"n_heldout": 5}), "one: an option stands in the wrong place"),
    ],
)
def test_a_row_that_could_not_run_is_refused(row, message):
    with pytest.raises(vc.ConfigError, match=message):
        Study("strong", {"planted": {}}, {"one": row})


def test_a_data_set_and_what_was_chosen_on_it_are_checked_too():
    rows = {"one": Row("mult-vae")}
    with pytest.raises(vc.ConfigError, match="split_strong: n_heldout=0"):
        Study("strong", {"planted": {"n_heldout": 0}}, rows)
    with pytest.raises(vc.ConfigError, match="no option 'train'"):
        Study("strong", {"planted": {"train": 0.5}}, rows)
    with pytest.raises(vc.ConfigError, match="no option 'gamma'"):
        Study("strong", {"planted": {}}, rows, chosen={"planted": {"one": Row("mult-vae", {"gamma": 1})}})
    for chosen in ({"ml-1m": {}}, {"planted": {"two": Row("mult-vae")}}):
        with pytest.raises(vc.ConfigError, match=r"has no data set '.*', or not all of the rows chosen there"):
            Study("strong", {"planted": {}}, rows, chosen=chosen)


def test_a_row_changed_keeps_the_rest():
    row = Row("autorec-i", {"penalty": 0.1, "lr": 0.01}, fit={"schedule": "cosine"}, epochs=30)
    assert row.but(penalty=1.0) == Row("autorec-i", {"penalty": 1.0, "lr": 0.01}, fit={"schedule": "cosine"}, epochs=30)
    assert row.but(fit={"schedule": "constant"}, epochs=0) == Row(
        "autorec-i", {"penalty": 0.1, "lr": 0.01}, fit={"schedule": "constant"}, epochs=0
    )
    assert row.options["penalty"] == 0.1


def test_settings_are_of_all_three_and_chosen_by_data_set():
    study = STUDIES["hyvae"]
    assert study.rows_on("douban")["biased-mf"].options["penalty"] == 0.2
    assert study.rows_on("ml-1m")["biased-mf"].options["penalty"] == 0.05
    assert list(study.rows_on("douban")) == list(study.rows)
    settings = study.settings("douban", study.rows_on("douban")["autorec-i"])
    assert settings == {"published": False, "penalty": 0.02, "items_per_batch": 500, "lr": 0.003, "schedule": "cosine"}
    assert study.full_protocol == "ratings/80" and STUDIES["recvae"].full_protocol == "strong"


def test_studies_take_up_systems_as_they_arrive():
    assert systems_there("mult-vae", "not-yet", seeds=1) == {"mult-vae": Row("mult-vae", seeds=1)}
    exact = with_exact("mult-vae", "ncf", "sivae", "not-yet")
    assert (
        exact["mult-vae, n_choose_k"] == Row("mult-vae", {"likelihood": "n_choose_k"})
        and "ncf, n_choose_k" not in exact
    )
    assert "cdae" in STUDIES["weak-baselines"].rows and "mult-vae" in STUDIES["gowalla"].rows
    assert STUDIES["gowalla"].metrics[0] == "recall_all@20", "what is printed for it divides by all targets"
