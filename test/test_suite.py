"""Evaluating one input: equal seeds give equal bits, and settings and files are told apart."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dino_tracker_ros.evaluation.baselines import flows_at_hand
from dino_tracker_ros.evaluation.inputs import BagOptions, Input, find_inputs, fingerprint
from dino_tracker_ros.evaluation.methods import FLOW_NAMES
from dino_tracker_ros.evaluation.plan import Plan
from dino_tracker_ros.evaluation.report.results import ClipResult
from dino_tracker_ros.evaluation.suite import default_jobs, evaluate_input
from dino_tracker_ros.evaluation.synthetic import make_clip, write_clip
from dino_tracker_ros.tracking.settings import Settings, describe, preset, with_values


@pytest.fixture
def made_input(photo, tmp_path) -> Input:
    """Six small frames with known tracks."""
    photos = (photo[:240, :320], np.ascontiguousarray(photo[240:, 180:]))
    write_clip(make_clip(112, 84, length=6, tracks=8, photos=photos), tmp_path / "made")
    inputs, failures = find_inputs([tmp_path / "made"], "strided", BagOptions())
    assert not failures
    return inputs[0]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.weights
def test_equal_seeds_give_equal_bits_on_several_threads(weights_cache, made_input, two_threads):
    settings = with_values(preset("cpu"), {"optimizer.iterations": 4, "device": "cpu"})
    plan = Plan("cpu", settings)
    runs = [evaluate_input(made_input, plan) for _ in range(2)]
    runs.append(evaluate_input(made_input, replace(plan, seeds=(1,))))
    methods = []
    for run in runs:
        assert isinstance(run, ClipResult), run
        methods.append(run.methods[0])
    first, again, other = methods
    for name in ("points", "occluded", "confidence"):
        assert np.array_equal(getattr(first.tracks, name), getattr(again.tracks, name)), name
    assert not np.array_equal(first.tracks.confidence, other.tracks.confidence)
    assert not torch.are_deterministic_algorithms_enabled()


def test_fingerprints_tell_files_and_plans_apart(made_input):
    assert fingerprint(made_input) == fingerprint(made_input)
    before = fingerprint(made_input)
    file = made_input.source / "gt.npz"
    os.utime(file, ns=(0, 0))
    assert fingerprint(made_input) != before
    settings = preset("cpu")
    plan = Plan("cpu", settings)
    others = [
        replace(plan, settings=with_values(settings, {"optimizer.seed": 1})),
        replace(plan, mode="first"),
        replace(plan, seeds=(0,)),
        replace(plan, flows=("dis",)),
        replace(plan, rate=1.0),
        replace(plan, rate=1.0, params_file=file),
        replace(plan, tracks=file),
    ]
    assert len({each.fingerprint for each in (plan, *others)}) == 8
    # Where results are kept has no part in what they are.
    assert replace(plan, folder=Path("elsewhere")).fingerprint == plan.fingerprint


def test_default_jobs_share_the_cores_and_a_replay_has_them_all(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 17)
    plan = Plan("cpu", preset("cpu"))
    assert default_jobs(plan) == 4
    assert default_jobs(replace(plan, rate=1.0)) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert default_jobs(plan) == 1


def test_default_jobs_are_one_for_each_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert default_jobs(Plan("robot", preset("robot"))) == 3
    fixed = with_values(preset("robot"), {"device": "cuda:1"})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert default_jobs(Plan("robot", fixed)) == 1


def test_raft_is_a_baseline_where_its_weights_are(monkeypatch, tmp_path):
    monkeypatch.setenv("DINO_TRACKER_CACHE", str(tmp_path))
    assert flows_at_hand(preset("cpu")) == ("dis",)
    small = with_values(preset("cpu"), {"flow.method": "raft_small"})
    assert flows_at_hand(small) == ("dis", "raft_small")


@pytest.mark.weights
def test_the_larger_raft_is_taken(weights_cache):
    assert flows_at_hand(preset("cpu")) == ("dis", "raft_large")


def test_every_flow_has_a_name_in_the_table():
    choices = next(info.choices for info in describe(Settings()) if info.name == "flow.method")
    assert set(FLOW_NAMES) == set(choices)
