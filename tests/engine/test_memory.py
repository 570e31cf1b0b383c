"""The allocator takes its settings where there is one that has them."""

import platform

from sfam_bench.engine.memory import keep_memory


def test_glibc_is_told_and_others_are_left_alone():
    assert keep_memory() is (platform.libc_ver()[0] == "glibc")
