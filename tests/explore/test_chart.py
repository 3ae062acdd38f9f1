"""Charts: marks stand where their numbers say."""

import numpy as np

from vaecf_lib.explore import COLOURS, Chart


def test_svg_puts_points_where_they_belong():
    chart = Chart("x", "y", (0, 10), (0, 1)).points([0, 10], [0, 1])
    svg = chart.marks_svg()[0]
    assert 'cx="64" cy="292"' in svg and 'cx="626" cy="30"' in svg


def test_a_chart_may_be_taller():
    chart = Chart("x", "y", (0, 1), (0, 1), height=600).points([0], [0])
    assert 'viewBox="0 0 640 600"' in chart.svg("x") and 'cy="552"' in chart.marks_svg()[0]


def test_contours_hold_the_stated_mass():
    axis = np.linspace(-4, 4, 161)
    density = np.exp(-0.5 * (axis[:, None] ** 2 + axis**2))
    chart = Chart("x", "y", (-4, 4), (-4, 4)).contour(axis, axis, density, levels=(0.9, 0.5))
    radii = [np.hypot(mark[1], mark[2]).mean() for mark in chart.marks]
    assert np.allclose(radii, np.sqrt(-2 * np.log([0.1, 0.5])), rtol=0.01)


def test_empty_marks_draw_nothing():
    chart = Chart("x", "y", (0, 1), (0, 1)).line([], []).points([], [])
    assert "".join(chart.marks_svg()) == "" and chart.png()[:4] == b"\x89PNG"


def test_colours_stand_out_on_both_pages():
    def luminance(hexa):
        channels = [int(hexa[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for name, colour in COLOURS.items():
        for page in ("#ffffff", "#14181e"):
            light, dark = sorted((luminance(colour), luminance(page)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 3, f"{name} on {page}"
