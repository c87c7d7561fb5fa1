"""What becomes of requests when the service is killed, ended or badly set up, and its database goes away."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.graphs.asking import asking, orders, refunds
from tests.graphs.model import until
from tests.graphs.service_process import ROOT, Shopkeeper, service
from tests.ledger.postgres_server import restartable, why_none

pytest.importorskip("fastapi", reason="pip install --editable '.[service]'")
pytestmark = pytest.mark.timeout(600)  # imports take a minute where the machine has other work


async def test_what_a_killed_process_left_another_one_ends_and_no_refund_is_made_twice(
    settings: dict[str, Any], model: Shopkeeper, shop: str, tmp_path: Path
):
    names = [f"E-{i}" for i in range(8)]
    model.open.clear()
    with service(tmp_path / "log", **settings, ask_before_refunds=False) as running:
        orders(shop, *names)
        async with httpx2.AsyncClient(base_url=running.address, timeout=120) as client:
            posts = [client.post("/requests", **asking(f"wait and refund {name}", id=name)) for name in names]
            asked = [asyncio.create_task(post) for post in posts]
            await until(lambda: all(model.sampled(f"Q: wait and refund {name}") for name in names))
            model.open.set()
            await until(lambda: any(refunds(shop, name) for name in names))
            running.end(signal.SIGKILL)
            await asyncio.gather(*asked, return_exceptions=True)
    with service(tmp_path / "log", **settings, ask_before_refunds=False) as running:
        async with httpx2.AsyncClient(base_url=running.address, timeout=120) as client:
            for name in names:
                answer = (await client.post("/requests", **asking(f"wait and refund {name}", id=name))).json()
                assert answer["answer"] == f"done: Q: wait and refund {name}", answer
    assert {name: refunds(shop, name) for name in names} == dict.fromkeys(names, 1)


async def test_told_to_end_it_waits_for_what_is_under_way(
    settings: dict[str, Any], model: Shopkeeper, shop: str, tmp_path: Path
):
    model.open.clear()
    with service(tmp_path / "log", **settings) as running:
        async with httpx2.AsyncClient(base_url=running.address, timeout=120) as client:
            asked = asyncio.create_task(client.post("/requests", **asking("wait for A-3")))
            await until(lambda: model.sampled("Q: wait for A-3") > 0)
            ending = asyncio.create_task(asyncio.to_thread(running.end))
            await until(lambda: "Shutting down" in running.log.read_text())
            model.open.set()
            assert (await asked).json()["answer"] == "done: Q: wait for A-3"
            await ending


async def test_deploys_do_not_use_up_the_attempts_of_requests_that_wait_in_line(
    settings: dict[str, Any], model: Shopkeeper, tmp_path: Path
):
    model.open.clear()
    at_once = {**settings, "max_working": 1, "drain_seconds": 0}
    for deploy in range(6):
        with service(tmp_path / f"log-{deploy}", **at_once) as running:
            async with httpx2.AsyncClient(base_url=running.address, timeout=120) as client:
                posts = [client.post("/requests", **asking("wait for A-2", id=f"line-{i}")) for i in range(2)]
                asked = [asyncio.create_task(post) for post in posts]
                await until(lambda seen=deploy: model.sampled("Q: wait for A-2") > seen)
                await asyncio.to_thread(running.end)
                await asyncio.gather(*asked, return_exceptions=True)
    model.open.set()
    with service(tmp_path / "log", **at_once) as running:
        async with httpx2.AsyncClient(base_url=running.address, timeout=120) as client:
            for i in range(2):
                done = (await client.post("/requests", **asking("wait for A-2", id=f"line-{i}"))).json()
                assert done["answer"] == "done: Q: wait for A-2", done


@pytest.mark.skipif(why_none() is not None, reason="no PostgreSQL")
async def test_a_restart_of_the_database_loses_no_request_and_makes_no_refund_twice(
    settings: dict[str, Any], model: Shopkeeper, tmp_path: Path
):
    names = [f"R-{i}" for i in range(12)]
    with restartable() as database:
        own = {**settings, "database": database.conninfo, "n": 4, "ask_before_refunds": False, "database_seconds": 0.5}
        with service(tmp_path / "log", **own) as running:
            orders(database.conninfo, *names)
            model.open.clear()
            async with httpx2.AsyncClient(base_url=running.address, timeout=120) as client:
                posts = [client.post("/requests", **asking(f"wait and refund {name}", id=name)) for name in names]
                asked = [asyncio.create_task(post) for post in posts]
                await until(lambda: all(model.sampled(f"Q: wait and refund {name}") for name in names))
                database.stop()
                model.open.set()
                await until(lambda: "was cut off" in running.log.read_text())
                assert (await client.get("/ready")).status_code == 503
                assert (await client.post("/requests", **asking("look at R-1"))).status_code == 503
                database.start()
                while (await client.get("/ready")).status_code != 200:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.1)
                await asyncio.gather(*asked, return_exceptions=True)
                for name in names:
                    done = (await client.post("/requests", **asking(f"wait and refund {name}", id=name))).json()
                    assert done["answer"] == f"done: Q: wait and refund {name}", done
        assert {name: refunds(database.conninfo, name) for name in names} == dict.fromkeys(names, 1)


def test_settings_that_cannot_be_end_it_before_the_first_request(tmp_path: Path):
    ran = _ended(ENTCENT_N="0", ENTCENT_TOOL_CALLING="foo", ENTCENT_MODEL="localhost:8080")
    assert "ENTCENT_DATABASE: Field required" in ran and "ENTCENT_N: Input should be greater" in ran
    assert "ENTCENT_TOOL_CALLING: Input should be 'native' or 'text'" in ran and "ENTCENT_MODEL: " in ran
    nobody = _ended(ENTCENT_DATABASE=f"host={tmp_path} user=me password=s3cret", ENTCENT_DATABASE_SECONDS="0.5")
    assert nobody.splitlines()[-1].startswith("error: ENTCENT_DATABASE: nothing answers") and "s3cret" not in nobody


def _ended(**environment: str) -> str:
    """What it says when it ends with exit code 2."""
    ran = subprocess.run(
        [sys.executable, "-m", "graphs.service"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    return ran.stderr
