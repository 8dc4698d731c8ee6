"""Settings are documented and checked before the first request."""

import ast
import dataclasses
import inspect
import math
from itertools import pairwise

import pytest

from tile_cache.errors import SourceError
from tile_cache.fetch import settings as fetch_settings
from tile_cache.fetch.settings import FetchReport, FetchSettings


def test_every_setting_is_documented():
    tree = ast.parse(inspect.getsource(fetch_settings))
    (body,) = (n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "FetchSettings")
    documented = {
        field.target.id
        for field, after in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and str(ast.literal_eval(after.value))
    }
    assert documented == {f.name for f in dataclasses.fields(FetchSettings)}


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0},
        {"rate_per_s": 0},
        {"rate_per_s": math.nan},
        {"attempts": -1},
        {"deadline_s": 0},
        {"max_redirects": -1},
        {"give_up_after": 0},
        {"backoff_s": -0.1},
    ],
)
def test_bad_value_is_refused_with_its_name(wrong):
    with pytest.raises(SourceError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        FetchSettings(**wrong)


def test_contact_comes_from_the_environment_unless_set():
    environ = {"TILEBEAM_CONTACT": " me@example.org "}
    assert FetchSettings.from_environment(environ).contact == "me@example.org"
    assert FetchSettings.from_environment(environ, contact=None, concurrency=2).contact == "me@example.org"
    assert FetchSettings.from_environment(environ, contact="you@example.org").contact == "you@example.org"
    assert FetchSettings.from_environment({}).contact == ""


def test_report_counts_failures_and_keeps_a_few_examples():
    report = FetchReport()
    for n in range(1000):
        report.fail((n, 0, 12), "HTTP 500" if n % 2 else "image cut off")
    assert report.failed == report.done == 1000
    assert report.reasons == {"HTTP 500": 500, "image cut off": 500}
    assert len(report.examples) == 20
