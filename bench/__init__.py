"""Measurements that a person runs; nothing in the product imports them, no test depends on one."""
