"""Stages that stand in for those of the acceptance, in a module that a process can import."""

import os
import time


def good(is_dry):
    yield "first", True, {"figure": 1.5}, ""
    yield "second", None, {"is_dry": is_dry}, ""


def bad(is_dry):
    yield "it", False, {}, "is wrong"


def hangs(is_dry):
    yield "before", True, {}, ""
    time.sleep(600)


def crashes(is_dry):
    yield "before", True, {}, ""
    os._exit(7)
