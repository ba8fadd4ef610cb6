"""Dividing an image among processes, or following only what leads into one function, changes
nothing."""

import dataclasses
import os
import signal

import pytest

from fullframe.cfi import shares, show
from fullframe.cfi.check import ImageChecker, check_image
from fullframe.cfi.files import engine_for
from fullframe.elf.image import Image
from tests.cfi.samples import library

#: Cold parts, hand-written code that jumps between FDEs, thunks.
NAMES = ["libgcc_s", "ld.so", "ld.so-i386"]


def told(path, jobs=1):
    image = Image.open(path)
    report = dataclasses.asdict(check_image(image, engine_for(image), jobs))
    del report["seconds"]
    return report


@pytest.mark.parametrize("name", NAMES)
def test_shares_tell_what_one_process_tells(name):
    path = library(name)
    alone = told(path)
    assert alone["functions"] > 100
    assert told(path, 2) == alone


@pytest.mark.parametrize("name", ["libc", "libstdc++"])
def test_what_was_divided_wrongly_is_checked_again(name, monkeypatch):
    path = library(name)
    alone = told(path)
    monkeypatch.setattr(shares, "_jumps", lambda checker: set())
    again = []
    check = shares._check

    def noted(checker, share):
        again.append(len(share))
        return check(checker, share)

    monkeypatch.setattr(shares, "_check", noted)
    assert told(path, 2) == alone
    assert again  # in this process: only what jumps out of its share is


_PARENT = os.getpid()


def _die(share):
    assert os.getpid() != _PARENT
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_leaves_it_to_one(monkeypatch):
    path = library("libgcc_s")
    alone = told(path)
    monkeypatch.setattr(shares, "_check_share", _die)
    assert told(path, 2) == alone


def test_groups_are_not_divided():
    image = Image.open(library("libc"))
    checker = ImageChecker(image)
    groups = shares.Groups(checker)
    divided = groups.divided(5)
    assert len(divided) == 5
    assert sorted(begin for share in divided for begin in share) == [
        fde.begin for fde in checker.fdes
    ]
    share_of = {begin: number for number, share in enumerate(divided) for begin in share}
    jumps = shares._jumps(checker)
    assert jumps
    for source, target in jumps:
        assert share_of[checker.fdes[source].begin] == share_of[checker.fdes[target].begin]
    work = [sum(checker.code.covering(begin).end - begin for begin in share) for share in divided]
    assert max(work) < 2 * min(work)


@pytest.mark.parametrize("name", ["libc", "libc-i386"])
def test_parts_are_told_by_one_byte(name):
    """What tells parts of functions by their first byte agrees with their rows."""
    image = Image.open(library(name))
    checker = ImageChecker(image, engine_for(image))
    entries, rows_of = checker.facts.entries, checker.engine.rows_of
    slowly = {
        fde.begin
        for fde in checker.fdes
        if entries.is_fragment(fde, rows_of(fde), bytes(image.read(fde.begin, 1)))
    }
    assert slowly == checker.parts
    assert sum(fde.begins_as_cie for fde in checker.fdes) > len(checker.fdes) // 2


def _runs(result):
    return [
        (run.begin, run.end, run.verdict, run.reason, repr(run.state), run.claim)
        for run in result.runs
    ]


@pytest.mark.parametrize("name", ["libgcc_s", "ld.so-i386"])
def test_a_function_alone_is_what_it_is_in_the_whole(name):
    image = Image.open(library(name))
    engine = engine_for(image)
    whole = ImageChecker(image, engine, thorough=True)
    results = {result.fde.begin: result for result in whole.results()}
    some = sorted(results)[::15] + sorted(whole.parts)[:8]
    for begin in some:
        found, left_out = show._follow_alone(ImageChecker(image, engine, thorough=True), begin)
        assert not left_out
        assert _runs(found) == _runs(results[begin])


def test_what_is_left_out_is_said(monkeypatch):
    image = Image.open(library("libc"))
    part = min(ImageChecker(image, engine_for(image)).parts)
    monkeypatch.setattr(show, "_MOST_CONNECTED", 0)
    monkeypatch.setattr(show, "_MOST_WHOLE_BYTES", 0)
    checker = ImageChecker(image, engine_for(image), thorough=True)
    found, left_out = show._follow_alone(checker, part)
    assert found.fde.begin == part
    assert "functions that" in left_out
