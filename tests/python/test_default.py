"""The client behind the module's own functions: where its locks are, what it has, and how tests get a fresh one."""

import asyncio
import inspect
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dlock
from dlock import sync
from polling import eventually, until


@pytest.fixture(autouse=True)
def _fresh_default_client() -> Iterator[None]:
    sync.reset_default_client()
    yield
    sync.reset_default_client()


def run(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DLOCK_") or name == "DLOCK_DIR"}
    words = [sys.executable, "-c", f"import dlock, dlock.sync\n{program}"]
    return subprocess.run(words, env=kept | variables, capture_output=True, text=True, check=False, timeout=60)


PROGRAMS = {
    "the default client": "with dlock.sync.lock('k'): print('ran')",
    "the asyncio one": "import asyncio\nasyncio.run(dlock.with_lock('k', lambda lease: print('ran')))",
    "a decorated function": "@dlock.locked('k')\ndef f(): print('ran')\nf()",
    "a client": "dlock.sync.Client(); print('ran')",
    "connect": "import asyncio\nasyncio.run(dlock.connect()); print('ran')",
    "health": "dlock.sync.health(); print('ran')",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_r15_dlock_require_url_refuses_to_run_on_local_unseen(program: str) -> None:
    for yes in ("1", "true", "ON"):
        refused = run(program, DLOCK_REQUIRE_URL=yes, DLOCK_URL="")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "InvalidOptions" in refused.stderr
        assert "DLOCK_URL" in refused.stderr
        assert "DLOCK_REQUIRE_URL" in refused.stderr
    for named in ({"DLOCK_REQUIRE_URL": "1", "DLOCK_URL": "local:"}, {"DLOCK_REQUIRE_URL": "0"}, {"DLOCK_REQUIRE_URL": ""}, {}):
        ran = run(program, **named)
        assert (ran.returncode, ran.stdout) == (0, "ran\n"), ran.stderr
    assert 'DLOCK_REQUIRE_URL: "sure"' in run(program, DLOCK_REQUIRE_URL="sure").stderr


def test_r15_require_url_is_an_option_too() -> None:
    refused = "import dlock\ntry:\n    {}\nexcept dlock.InvalidOptions as error:\n    print(error.field, error.code)"
    for call in (
        "dlock.configure(require_url=True)",
        "dlock.sync.configure(require_url=True)",
        "dlock.Client(require_url=True)",
        "dlock.sync.connect(require_url=True)",
    ):
        assert run(refused.format(call)).stdout == "url INVALID_OPTIONS\n", call
        assert run(refused.format(call), DLOCK_URL="memory:").stdout == "", call
    assert run("dlock.configure('local:', require_url=True); dlock.sync.lock('k').acquire().release()").returncode == 0
    with pytest.raises(dlock.InvalidOptions, match="require_url"):
        dlock.Client("memory:", require_url="yes")  # type: ignore[arg-type]


def test_r15_a_required_url_may_come_after_the_locks() -> None:
    program = """
lock = dlock.sync.lock("k")
dlock.configure("memory:late")
with lock:
    print(dlock.sync.Client("memory:late").is_locked("k"), dlock.stats().chosen_by)
"""
    ran = run(program, DLOCK_REQUIRE_URL="1")
    assert ran.stdout == "True argument\n", ran.stderr


def test_stats_and_health_name_the_backend_and_what_chose_it(tmp_path: Path) -> None:
    program = """
import json
client = dlock.sync.Client(URL)
health, stats = client.health(), client.stats()
assert (health.server, health.chosen_by) == (stats.server, stats.chosen_by)
dlock.sync.ping() if URL is None else dlock.configure(URL)
assert dlock.stats().chosen_by == dlock.sync.health().chosen_by == stats.chosen_by
print(json.dumps([stats.chosen_by, stats.server]))
"""
    place = f"local://{tmp_path}/locks"
    for url, variables, chosen_by, server in (
        (None, {}, "default", "local:"),
        (None, {"DLOCK_URL": ""}, "default", "local:"),
        (None, {"DLOCK_URL": place}, "variable", place),
        (place, {"DLOCK_URL": "memory:"}, "argument", place),
    ):
        ran = run(program.replace("URL)", f"{url!r})").replace("if URL", f"if {url!r}"), **variables)
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout)[0] == chosen_by
        assert json.loads(ran.stdout)[1].startswith("local:"), server
    secret = sync.Client("redis://me:geheim@127.0.0.1:1").stats()
    assert (secret.server, secret.chosen_by) == ("redis://127.0.0.1:1", "argument")


def test_the_default_says_so_once_to_who_listens(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="dlock"):
        sync.Client()
        sync.Client("memory:")
    said = [record.message for record in caplog.records if "DLOCK_URL" in record.message]
    assert len(said) == 1
    assert said[0].startswith("no URL was given and DLOCK_URL is not set: using `local:`")


def test_locks_made_before_configure_follow_it(key: str) -> None:
    lock, plain = dlock.lock(key), sync.lock(key, ttl=0.5)

    @dlock.locked(key + ":{order}")
    def ship(order: int) -> list[str]:
        return [found.key for found in sync.Client(f"memory:{key}").list_locks()]

    dlock.configure("etcd://127.0.0.1:1", connect_timeout=0.1)
    with pytest.raises(dlock.InvalidOptions, match=r"^ttl: 0\.5 s"):
        plain.acquire()  # options are checked once more, where the locks now are
    sync.reset_default_client()
    dlock.configure(f"memory:{key}")
    elsewhere = sync.Client(f"memory:{key}")
    with plain:
        assert elsewhere.is_locked(key)
        with pytest.raises(dlock.LockError, match="already in use") as late:
            dlock.configure("memory:")
        assert late.value.code == "ALREADY_CONFIGURED"
    assert ship(7) == [f"{key}:7"]

    async def main() -> None:
        async with lock:
            assert await dlock.Client(f"memory:{key}").is_locked(key)

    asyncio.run(main())


def test_the_environment_is_looked_at_by_the_first_operation(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = sync.lock(key)
    dlock.stats(), dlock.metrics(), dlock.sync.on("lost", print)
    monkeypatch.setenv("DLOCK_URL", f"memory:{key}")  # as `load_dotenv` does, after the imports
    with lock:
        assert sync.Client(f"memory:{key}").is_locked(key)
    assert dlock.stats().chosen_by == "variable"


def test_the_default_client_has_all_that_a_client_has(key: str) -> None:
    def names(of: object) -> set[str]:
        return {name for name in dir(of) if not name.startswith("_")}

    for module, client in ((dlock, dlock.Client), (sync, sync.Client)):
        missing = names(client) - names(module)
        assert missing == set()
        assert missing | {"configure", "connect", "reset_default_client"} <= set(module.__all__)
        for name in names(client):
            theirs, ours = (inspect.signature(getattr(of, name)) for of in (client, module))
            assert list(theirs.parameters)[1:] == list(ours.parameters), name
            assert inspect.iscoroutinefunction(getattr(client, name)) == inspect.iscoroutinefunction(getattr(module, name)), name


def test_the_default_client_does_what_a_client_does(key: str) -> None:
    dlock.configure(f"memory:{key}")

    async def main() -> None:
        heard: list[str] = []
        end = dlock.on("released", lambda event: heard.append(event.key))
        await dlock.ping()
        async with dlock.lock("k") as lease:
            held = await dlock.inspect("k")
            assert held.holder is not None
            assert held.holder.token == lease.token
            assert [found.key for found in await dlock.list_locks("k")] == ["k"]
            assert await dlock.is_locked("k")
            assert dlock.stats().held == 1
            assert "dlock_leases_held 1" in dlock.metrics()
            assert (await dlock.health()).status == "ok"
        taken = await dlock.lock("taken", renew=False).acquire()
        assert await dlock.force_release("taken", taken.token)

        async def told() -> bool:
            return bool(heard)

        await eventually(told, "the observer is called")
        end()
        await dlock.close(1)
        with pytest.raises(dlock.ClientClosed):
            await dlock.ping()
        dlock.reopen()
        await dlock.ping()

    asyncio.run(main())
    heard: list[str] = []
    sync.on("acquired", lambda event: heard.append(event.key))
    with sync.lock("k") as lease:
        assert sync.inspect("k").holder is not None
        assert [found.key for found in sync.list_locks()] == ["k"]
        assert sync.is_locked("k")
        assert (sync.stats().held, sync.health().status) == (1, "ok")
        assert sync.force_release("k", owner=lease.owner)
    until(lambda: heard == ["k"], "told")
    sync.close_on_signal(1)()
    sync.close()
    with pytest.raises(dlock.ClientClosed):
        sync.ping()
    sync.reopen()
    sync.ping()


def test_a_reset_gives_the_next_test_a_fresh_default_client(key: str) -> None:
    lock = sync.lock(key)
    tokens = []
    for name in ("one", "two"):
        dlock.configure(f"memory:{key}{name}")
        heard: list[str] = []
        sync.on("acquired", lambda event, heard=heard: heard.append(event.key))  # type: ignore[misc]
        lease = lock.acquire()
        tokens.append(lease.token)
        until(lambda heard=heard: heard == [key], "told")  # type: ignore[misc]
        assert (dlock.stats().acquired, dlock.stats().held) == (1, 1)
        sync.reset_default_client()
        assert (lease.status, dlock.stats().acquired) == ("lost", 0)
        assert not sync.Client(f"memory:{key}{name}").is_locked(key)
    sync.close()
    sync.reset_default_client()
    sync.ping()

    async def main() -> None:
        async with dlock.lock(key):
            await dlock.reset_default_client()
            dlock.configure("memory:")

    with pytest.raises(dlock.LockLost):
        asyncio.run(main())


def test_r13_locks_made_before_a_fork_follow_what_the_child_configures(key: str) -> None:
    lock = sync.lock(key)
    child = os.fork()
    if child == 0:
        dlock.configure(f"memory:{key}")
        with lock:
            os._exit(0 if sync.Client(f"memory:{key}").is_locked(key) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    sync.ping()
    child = os.fork()
    if child == 0:
        dlock.configure(f"memory:{key}")  # the parent has used its own
        with sync.lock(key):
            os._exit(0 if sync.Client(f"memory:{key}").is_locked(key) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_r01_the_directory_is_chosen_when_the_first_lock_is_taken(tmp_path: Path) -> None:
    """A program may make its locks first and read its settings later. All processes must agree on the directory."""
    program = (
        "import os\nlock, own = dlock.sync.lock('a'), dlock.sync.Client('local:').lock('b')\n"
        f"os.environ['DLOCK_DIR'] = {str(tmp_path)!r}\n"
        "with lock, own: print(sorted(name.rpartition(',')[2] for name in os.listdir(os.environ['DLOCK_DIR']) if ',' in name))"
    )
    ran = run(program, DLOCK_DIR="")
    assert ran.stdout.strip() == "['a', 'b']", ran.stderr
