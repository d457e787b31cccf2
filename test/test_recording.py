"""Work recorded on a GPU is the work itself; elsewhere it is just called."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dino_tracker_ros.tracking.recording import WARM_UP, Recording, own_stream, unrecorded

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU")


def noisy_descent(device: torch.device) -> tuple[nn.Linear, torch.Generator, Recording[Tensor]]:
    """A layer, and a recording of a loss that draws random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.Linear(8, 4).to(device)
    generator = torch.Generator(device=device).manual_seed(1)

    def work(given: Tensor) -> Tensor:
        noise = torch.rand(given.shape, generator=generator, device=device)
        loss = layer(given + noise).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    return layer, generator, Recording(work, layer.parameters(), generator)


def given(device: torch.device, call: int) -> Tensor:
    return torch.full((16, 8), 0.1 * call, device=device)


def test_gradients_do_not_add_up_from_call_to_call() -> None:
    layer, generator, recording = noisy_descent(CPU)
    for _ in range(WARM_UP + 2):
        recording(given(CPU, 1))
    generator.manual_seed(1)
    recording(given(CPU, 1))
    last = layer.weight.grad
    alone, _, once = noisy_descent(CPU)
    once(given(CPU, 1))
    assert last is not None and alone.weight.grad is not None
    assert torch.equal(last, alone.weight.grad)


def test_a_cpu_records_nothing_and_has_no_stream_of_its_own() -> None:
    _, _, recording = noisy_descent(CPU)
    with own_stream(CPU):
        values = [recording(given(CPU, call)) for call in range(WARM_UP + 3)]
    assert not recording.recorded
    assert len({value.data_ptr() for value in values}) == len(values)


def run_on_gpu(calls: int) -> tuple[list[float], list[Tensor], bool]:
    """Losses and gradients of some calls, and whether the last one was a replay."""
    device = torch.device("cuda", torch.cuda.current_device())
    layer, _, recording = noisy_descent(device)
    losses, gradients = [], []
    with own_stream(device):
        for call in range(calls):
            losses.append(float(recording(given(device, call))))
            assert layer.weight.grad is not None
            gradients.append(layer.weight.grad.clone())
    return losses, gradients, recording.recorded


@needs_gpu
def test_a_replay_computes_what_a_call_does() -> None:
    """Other input and other random numbers every time."""
    recorded = run_on_gpu(WARM_UP + 4)
    with unrecorded():
        called = run_on_gpu(WARM_UP + 4)
    assert (recorded[2], called[2]) == (True, False)
    assert len(set(recorded[0])) == WARM_UP + 4
    assert recorded[0] == called[0]
    assert all(torch.equal(a, b) for a, b in zip(recorded[1], called[1], strict=True))


@needs_gpu
def test_work_that_cannot_be_recorded_is_called(caplog: pytest.LogCaptureFixture) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    recording = Recording(lambda values: values[values > 0].sum())  # its size is fetched
    with own_stream(device):
        sums = [float(recording(torch.full((3,), 1.0 + n, device=device))) for n in range(5)]
    assert sums == [3.0, 6.0, 9.0, 12.0, 15.0]
    assert not recording.recorded
    assert len(caplog.records) == 1 and "unrecorded" in caplog.text
