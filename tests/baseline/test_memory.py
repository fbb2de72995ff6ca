"""How much memory may be used: recorded files of both cgroup versions."""

from pathlib import Path

from rayhost.baseline import memory

V2 = ("memory.max", "memory.current", "inactive_file")


def cgroup(folder: Path, limit: str) -> Path:
    (folder / "memory.max").write_text(limit)
    (folder / "memory.current").write_text("300\n")
    (folder / "memory.stat").write_text("anon 200\ninactive_file 80\nactive_file 20\n")
    return folder


def test_idle_page_cache_counts_as_free(tmp_path: Path) -> None:
    assert memory.cgroup_room(cgroup(tmp_path, "1000\n"), *V2) == 780


def test_a_group_without_a_limit_says_nothing(tmp_path: Path) -> None:
    assert memory.cgroup_room(cgroup(tmp_path, "max\n"), *V2) is None
    assert memory.cgroup_room(tmp_path / "none", *V2) is None


def test_a_group_over_its_limit_has_no_room(tmp_path: Path) -> None:
    (cgroup(tmp_path, "100\n") / "memory.stat").write_text("anon 300\n")
    assert memory.cgroup_room(tmp_path, *V2) == 0


def test_what_a_process_holds_is_read_in_bytes() -> None:
    status = "Name:\tx\nVmHWM:\t    300 kB\nVmRSS:\t    200 kB\nRssAnon:\t     50 kB\n"
    assert memory.parse_status(status) == memory.Held(200 << 10, 50 << 10, 300 << 10)


def test_this_process_holds_something_and_may_take_more() -> None:
    held = memory.held()
    assert 0 < held.anonymous <= held.resident <= held.peak
    assert memory.available() > 0
