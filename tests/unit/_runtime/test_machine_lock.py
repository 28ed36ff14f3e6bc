"""Locks by name on this machine. How they end with a process: tests/life/test_cache."""

from __future__ import annotations

import gc
import os
import tempfile
import time

import pytest

from wsgi_defer._runtime import machine_lock
from wsgi_defer._runtime.clock import monotonic
from wsgi_defer._runtime.machine_lock import MachineLock, folder

from ...helpers.programs import descriptors


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A directory for temporary files of their own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(machine_lock, "_next_sweep", [0.0])
    return tmp_path / f"wsgi_defer-{os.geteuid()}"


def test_one_has_it(home):
    """And nobody else, in this thread neither, until it is given back."""
    before = descriptors()
    lock = MachineLock.take("a\udc80 name")
    assert (lock.until, lock.token) == (0.0, "")
    assert MachineLock.take("a\udc80 name") is None
    other = MachineLock.take("another name")
    assert other is not None
    other.free()
    lock.free()
    lock.free()  # no effect
    assert list(home.iterdir()) == []
    MachineLock.take("a\udc80 name").free()
    assert descriptors() == before


def test_word_for_the_next_one():
    """How long the name is kept, and the token of one that has died."""
    MachineLock.take("name").free(keep=100)
    lock = MachineLock.take("name")
    until = lock.until
    assert 0 < until - monotonic() <= 100
    assert lock.token == ""
    lock.put_back()
    lock = MachineLock.take("name")
    assert lock.until == until
    lock.note("token")
    del lock  # as by an exception
    gc.collect()
    lock = MachineLock.take("name")
    assert (lock.until, lock.token) == (until, "token")
    lock.free()
    lock = MachineLock.take("name")
    assert (lock.until, lock.token) == (0.0, "")
    lock.put_back()


def test_a_reboot_frees_names(monkeypatch):
    """The monotonic clock begins anew."""
    MachineLock.take("name").free(keep=100)
    monkeypatch.setattr(machine_lock, "_boot", lambda: "the next one")
    lock = MachineLock.take("name")
    assert lock.until == 0
    lock.free()


def test_where_the_kernel_does_not_count_boots(monkeypatch):
    """A reboot of such a system empties its directory for temporary files."""
    machine_lock._boot.cache_clear()
    monkeypatch.setattr(machine_lock, "BOOT", "/nowhere")
    try:
        MachineLock.take("name").free(keep=100)
        assert machine_lock._boot() == "-"
        lock = MachineLock.take("name")
        assert lock.until
        lock.free()
    finally:
        machine_lock._boot.cache_clear()


@pytest.mark.parametrize("flaw", ["open", "link", "file", "stranger"])
def test_a_directory_of_somebody_else(home, monkeypatch, flaw):
    """It is not used, and the message says what to do."""
    if flaw == "open":
        home.mkdir()
        home.chmod(0o750)
    elif flaw == "link":
        other = home.with_name("other")
        other.mkdir(0o700)
        home.symlink_to(other)
    elif flaw == "file":
        home.write_text("")
        home.chmod(0o600)
    else:
        home.with_name(f"wsgi_defer-{os.geteuid() + 1}").mkdir(0o700)
        user = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: user)
    with pytest.raises(PermissionError, match="Remove it, or set TMPDIR"):
        MachineLock.take("name")


def test_the_directory_is_private(home):
    """And so are its files."""
    MachineLock.take("name").free(keep=100)
    assert folder() == str(home)
    assert home.stat().st_mode & 0o777 == 0o700
    [file] = home.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_link_is_not_followed(home):
    """Even in there."""
    MachineLock.take("name").free(keep=100)
    [file] = home.iterdir()
    file.unlink()
    file.symlink_to(home / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        MachineLock.take("name")


def test_one_that_was_removed_meanwhile(monkeypatch):
    """Between open() and flock(), its last holder may remove the file."""
    first = MachineLock.take("name")
    lock, locked = machine_lock._lock, []

    def slow_lock(path, create=0):
        fd = os.open(path, os.O_RDWR | create, 0o600)
        if not locked:
            first.free()
        locked.append(fd)
        os.close(fd)
        return lock(path, create) if len(locked) > 1 else os.open(os.devnull, 0)

    monkeypatch.setattr(machine_lock, "_lock", slow_lock)
    monkeypatch.setattr(os, "fstat", lambda fd, fstat=os.fstat: _unlinked(fstat(fd)))
    second = MachineLock.take("name")
    assert len(locked) == 2
    second.free()


def _unlinked(found):
    """That of a device, as if it had been removed."""
    if found.st_rdev:
        return os.stat_result([*found[:3], 0, *found[4:]])
    return found


def test_files_that_nobody_needs_are_removed(home, monkeypatch):
    """Once in a while; not those whose name is kept, or that are taken."""
    old = time.time() - 2 * machine_lock.SWEEP
    MachineLock.take("kept").free(keep=100)
    MachineLock.take("over").free(keep=1e-9)
    held = MachineLock.take("held")
    held.note("token")
    for path in home.iterdir():
        os.utime(path, (old, old))
    MachineLock.take("new").free(keep=1e-9)
    assert len(list(home.iterdir())) == 4  # it has looked a moment ago
    monkeypatch.setattr(machine_lock, "_next_sweep", [0.0])
    MachineLock.take("any").free()
    assert len(list(home.iterdir())) == 3
    held.free()
    assert len(list(home.iterdir())) == 2


def test_a_child_has_no_part_in_it():
    """Its parent has the lock, and the child may outlive it."""
    lock = MachineLock.take("name")
    ready, wait = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        lock.free()  # no effect
        os.write(ready[1], b"!")
        os.read(wait[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        assert MachineLock.take("name") is None
        os.close(lock._fd)  # as when it is killed
        lock._fd = -1
        again = MachineLock.take("name")
        assert again is not None
        again.free()
    finally:
        os.write(wait[1], b"!")
        assert os.waitpid(child, 0)[1] == 0
        for fd in (*ready, *wait):
            os.close(fd)
