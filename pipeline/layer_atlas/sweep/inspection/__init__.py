"""What an output folder holds, found out from outside: progress, failures, leftovers, soundness."""
