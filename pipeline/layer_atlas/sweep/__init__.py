"""The sweep as processes: planning, scheduling, executors, workers, reports on them."""
