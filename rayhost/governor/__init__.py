"""The memory governor: what models cost, what the box has, and what to do about it.

`costs`, `fit` and `decide` are pure; `readings` is the thin shell that reads the kernel.
"""
