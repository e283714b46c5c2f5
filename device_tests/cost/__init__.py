"""The cost guard: instructions that doorstep itself takes, compared with a committed baseline.

Times on a shared machine vary by tens of percent, instruction counts by far less than one:
`python -m device_tests.cost --check`. Engine and tokenizer library are taken off, see `walk.py`.
"""
