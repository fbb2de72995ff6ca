"""What the channel costs: `python bench/ipc.py`. Starts one other process, prints figures.

Nothing here decides a test; the numbers in docs/ipc.md come from it.
"""

import argparse
import os
import select
import statistics
import subprocess
import sys
import time

from rayhost.ipc.channel import ChildFds, End, attach, create

PAYLOAD = bytes(200)
BURST = 16  # frames for each doorbell: the sequences of one engine step
ECHO, COUNT, STOP = 1, 2, 3  # kinds
IDLE_MS = 30_000


def wait(end: End) -> None:
    """Block until the channel needs attention, and see to the sender's part of it."""
    poll = select.poll()
    poll.register(end.receiver.data_fd, select.POLLIN)
    if end.sender.waiting_bytes:
        poll.register(end.sender.space_fd, select.POLLIN)
    if not poll.poll(IDLE_MS):
        raise TimeoutError("the other process went quiet")
    end.sender.on_space()


def serve(end: End) -> None:
    """Return ECHO frames, swallow COUNT frames and answer the last one, until STOP."""
    while True:
        wait(end)
        for frame in end.receiver.receive(256):
            if frame.kind == STOP:
                return
            if frame.kind == ECHO or frame.request_id == 1:
                end.sender.send(*frame)
        end.sender.flush()


def answer(end: End) -> None:
    """Wait for one frame."""
    while not end.receiver.receive(1):
        wait(end)


def one_process(rounds: int) -> tuple[float, float]:
    """Return the median us a frame for sending (with its flush) and for receiving."""
    near, child = create(os.getpid())
    far = attach(child)
    sending, receiving = [], []
    for _ in range(rounds):
        begin = time.perf_counter_ns()
        for n in range(BURST):
            near.sender.send(COUNT, n, PAYLOAD)
        near.sender.flush()
        middle = time.perf_counter_ns()
        far.receiver.receive(BURST)
        sending.append(middle - begin)
        receiving.append(time.perf_counter_ns() - middle)
    near.close()
    far.close()
    return (
        statistics.median(sending) / BURST / 1000,
        statistics.median(receiving) / BURST / 1000,
    )


def round_trips(end: End, rounds: int) -> list[float]:
    """Return the us of each round trip, shortest first."""
    times = []
    for n in range(rounds):
        begin = time.perf_counter_ns()
        end.sender.send(ECHO, n, PAYLOAD)
        end.sender.flush()
        answer(end)
        times.append((time.perf_counter_ns() - begin) / 1000)
    return sorted(times)


def frames_per_second(end: End, frames: int) -> float:
    """Return how many frames a second arrive when they are sent in bursts as fast as they go."""
    begin = time.perf_counter()
    for _ in range(frames // BURST):
        for _ in range(BURST):
            end.sender.send(COUNT, 0, PAYLOAD)
        while not end.sender.flush():
            wait(end)
    end.sender.send(COUNT, 1, b"")
    end.sender.flush()
    answer(end)
    return frames / (time.perf_counter() - begin)


def main() -> None:
    """Run as the measuring process or, with --child, as the other one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20_000)
    parser.add_argument("--frames", type=int, default=400_000)
    parser.add_argument("--child", metavar="CHANNEL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        end = attach(ChildFds.from_arg(options.child))
        serve(end)
        end.close()
        return

    sending, receiving = one_process(options.rounds)
    end, child = create(os.getpid())
    with subprocess.Popen(
        [sys.executable, __file__, "--child", child.to_arg()], pass_fds=child.fds
    ):
        child.close()
        times = round_trips(end, options.rounds)
        rate = frames_per_second(end, options.frames)
        end.sender.send(STOP, 0, b"")
        end.sender.flush()
    end.close()
    p50, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
    sys.stdout.write(
        f"one process, {len(PAYLOAD)}-byte payload, {BURST} for each doorbell:\n"
        f"  send {sending:.2f} us a frame, receive {receiving:.2f} us a frame\n"
        f"two processes:\n"
        f"  round trip p50 {p50:.1f} us, p99 {p99:.1f} us\n"
        f"  one way {rate:,.0f} frames/s\n"
    )


if __name__ == "__main__":
    main()
