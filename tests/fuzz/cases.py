"""What the fuzz tests share: how many cases they try, and the one property that all of them hold.

Every call either does what an independent oracle says, or refuses in one line: never a traceback, never a result that
is silently another. Each run tries a few hundred cases, the same ones every time. ``VAECF_FUZZ=20 pytest tests/fuzz``
tries twenty times as many, drawn anew; ``VAECF_FUZZ=1`` tries the usual ones and shrinks a case that fails to the least
one that does, which may take minutes.
"""

import contextlib
import io
import os
import sys
import warnings
from dataclasses import dataclass
from unittest import mock

from hypothesis import HealthCheck, Phase, currently_in_test_context, event, settings

import vaecf_lib as vc
from vaecf_lib import cli

TIMES = int(os.environ.get("VAECF_FUZZ", "1"))


def cases(n):
    """Decorate a test so that ``n`` cases are tried in every run."""
    return settings(
        max_examples=n * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        print_blob=True,
        phases=[p for p in Phase if p is not Phase.shrink or "VAECF_FUZZ" in os.environ],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


def count(outcome):
    """Let ``--hypothesis-show-statistics`` tell how often this came about."""
    if currently_in_test_context():
        event(outcome)


class Refused(str):
    """The one line that refused a call."""


def answer(function, *arguments, **keywords):
    """Return what a call of the library returns, or the line that refuses it; anything else is an error.

    Warnings are one-line UserWarnings.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = function(*arguments, **keywords)
        except vc.VaecfError as error:
            assert str(error).strip() and len(str(error).splitlines()) == 1, repr(str(error))
            result = Refused(error)
    count("refused" if isinstance(result, Refused) else "answered")
    for warning in caught:
        assert warning.category is UserWarning, warning
        assert len(str(warning.message).splitlines()) == 1, warning
    return result


@dataclass
class Done:
    """What a call of the command line left behind; ``refused`` is the line after "error: ", or None."""

    out: str
    err: str
    refused: Refused | None


def vaecf(*arguments):
    """Call the command line in this process: exit 0, or exit 2, nothing on stdout and one last line of error."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["vaecf", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        try:
            cli.main()
        except SystemExit as stopped:
            code = stopped.code or 0
    count(f"exit {code}")
    out, err = out.getvalue(), err.getvalue()
    lines = err.split("\n")[:-1]
    errors = [line for line in lines if line.startswith("error: ")]
    if code == 0:
        assert not errors, err
        return Done(out, err, None)
    assert code == 2 and out == "" and errors == lines[-1:], (code, out, err)
    return Done(out, err, Refused(errors[0].removeprefix("error: ")))
