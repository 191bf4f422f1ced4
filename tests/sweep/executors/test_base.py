"""What every worker finds in its environment, whoever starts it."""

import pytest

from layer_atlas.sweep.executors.base import environment


@pytest.mark.parametrize(("device", "seen"), [("cpu", ""), ("cuda", "4,5"), ("", "4,5")])
def test_a_worker_on_the_cpu_sees_no_gpu(device: str, seen: str) -> None:
    told = environment(device, threads=1, variables={"CUDA_VISIBLE_DEVICES": "4,5"})
    assert told["CUDA_VISIBLE_DEVICES"] == seen
