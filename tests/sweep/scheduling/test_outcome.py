"""Where the time of a run went."""

from layer_atlas.sweep.scheduling.outcome import WorkerTime, device_times


def test_busy_share_is_of_the_wall_time_of_every_slot() -> None:
    times = [WorkerTime("cpu", 8.0, 6.0), WorkerTime("cpu", 8.0, 4.0), WorkerTime("cuda:1", 5, 2)]
    told = device_times(["cpu", "cpu", "cuda:0", "cuda:1"], times, wall=10.0)
    assert list(told) == ["cpu", "cuda:0", "cuda:1"]
    assert told["cpu"] == {"slots": 2, "workers": 2, "alive": 16, "busy": 10, "busy_share": 0.5}
    assert told["cuda:0"] == {"slots": 1, "workers": 0, "alive": 0, "busy": 0, "busy_share": 0}
    assert told["cuda:1"]["busy_share"] == 0.2
