"""Search under a budget: many candidates, few of them trained to the end, the best one packed. Start at `run.py`."""
