"""Printed figures and tables: labels, alt text, names taken as text."""

import pandas as pd
import pytest

import vaecf_lib as vc
from vaecf_lib import plots


@pytest.mark.parametrize("text", ["<!--<script>", "</script><b>", "$a$ and $b_$"])
def test_names_in_printed_figures_are_text(text):
    run = vc.Run(None, "ndcg@100", [{"ndcg@100": 0.1}], best_epoch=1)
    figures = [
        plots.bars([text, "b"], [0.1, 0.2])[0],
        plots.learning_curves({text: run}, "ndcg@100")[0],
        plots.rank_diagram(pd.Series({text: 1.0, "b": 2.0, "c": 3.0}), 0.5)[0],
    ]
    for figure in figures:
        assert plots.show(figure, "names").png[:4] == b"\x89PNG"


def test_figures_carry_their_alt_text():
    figure, axes = plots.bars(["a", "b"], [0.1, 0.2], [0.01, 0.02], "x")
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b"]
    data, metadata = plots.show(figure, "two bars")._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == "two bars" and data["text/plain"] == "two bars"


def test_learning_curves_label_every_line():
    runs = {
        name: vc.Run(None, "ndcg@100", [{"ndcg@100": v} for v in values], best_epoch=2)
        for name, values in (("one", [0.1, 0.3, 0.3]), ("two", [0.2, 0.3, 0.301]))
    }
    _, axes = plots.learning_curves(runs, "ndcg@100", ceiling=0.4)
    texts = {t.get_text(): t.xy[1] for t in axes.texts}
    assert {"one", "two", "best attainable"} == set(texts)
    assert texts["two"] - texts["one"] > 0.01, "labels of close lines are pushed apart"


def test_tables_have_a_header_over_every_column():
    frame = pd.DataFrame({"x": [1.0, 2.0]}, index=["a", "b"])
    html = plots.table(frame, "system")._repr_html_()
    assert "<th>system</th>" in html and "<th></th>" not in html
    assert "system" in repr(plots.table(frame, "system")) and "<th></th>" not in plots.table(frame)._repr_html_()


def test_rank_diagram_joins_what_cannot_be_told_apart():
    ranks = pd.Series({"first": 1.0, "second": 1.6, "third": 3.0, "last": 4.4})
    figure, axes = plots.rank_diagram(ranks, 1.5)
    joined = [line.get_xdata() for line in axes.lines if line.get_linewidth() == 4]
    assert [[round(x + e, 2) for x, e in zip(ends, (0.03, -0.03), strict=True)] for ends in joined] == [
        [1.0, 1.6],
        [1.6, 3.0],
        [3.0, 4.4],
    ]
    plots.plt.close(figure)
