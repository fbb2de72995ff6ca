"""What can be wrong with a host before and while it serves, one thought a file.

Each file has a thin `read` of this machine, below a root that tests replace, and a pure check over
what was read. `rayhost.cli.doctor` puts them together; nothing here changes anything.
"""
