"""The optimiser is torch's AdamW to the last bit, and training loads no compiler."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ctvr_bench.methods.shared.adamw import AdamW

TRAINS = """
import sys, tempfile
from pathlib import Path
from tests.speed.peak_memory import run
from tests.stores import small_store
run(small_store(), sys.argv[1], 2, Path(tempfile.mkdtemp()))
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""


@pytest.mark.parametrize("fused", [True, False])
def test_weights_and_state_are_those_of_torchs_own(fused: bool) -> None:
    def trained(kind: type[torch.optim.AdamW]) -> tuple[list[torch.Tensor], torch.optim.AdamW]:
        generator = torch.Generator().manual_seed(0)
        weights = [torch.randn(size, generator=generator).requires_grad_() for size in ((5, 3), (4,))]
        groups = [{"params": [weight], "lr": rate} for weight, rate in zip(weights, (0.1, 0.03), strict=True)]
        optimiser = kind(groups, weight_decay=0.2, eps=1e-6, fused=fused)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 / (1 + step))
        for _ in range(4):
            optimiser.zero_grad()
            sum((weight**3).sum() for weight in weights).backward()
            optimiser.step()
            schedule.step()
        return weights, optimiser

    (ours, optimiser), (theirs, expected) = trained(AdamW), trained(torch.optim.AdamW)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
    state, wanted = optimiser.state_dict(), expected.state_dict()
    assert state["param_groups"] == wanted["param_groups"]
    torch.testing.assert_close(state["state"], wanted["state"], rtol=0, atol=0)
    optimiser.load_state_dict(wanted)
    expected.load_state_dict(state)
    optimiser.step()
    expected.step()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("method", ["finetune", "structalign[epochs=1]"])
def test_a_run_does_not_load_torchs_compiler(method: str) -> None:
    command = [sys.executable, "-c", TRAINS, method]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"
