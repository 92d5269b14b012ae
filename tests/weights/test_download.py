"""Downloads over a network that fails: with real HTTP, real processes, and kills."""

import json
import random
import signal
import subprocess
import sys
from itertools import pairwise

import pytest
from loopback_hub import CHUNK, LISTING, Trouble, client_environment, hub_hash, same_files, wait_until

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"


def begins(requests):
    """Where in the file each answer began."""
    return [int(asked.range.removeprefix("bytes=").removesuffix("-")) if asked.range else 0 for asked in requests]


def partial(client, name=UNET):
    """What has come of a file so far."""
    return client.storage / "blobs" / f"{hub_hash(client.hub.files / name)}.consisti2v.incomplete"


def kill_during(client, name, count):
    """Fetch until a process has so many bytes more of a file, and kill it; returns how many it has then."""
    client.hub.trouble[name].append(Trouble(stall_after=count))
    had = partial(client, name).stat().st_size if partial(client, name).exists() else 0
    process = client.start()
    client.hub.wait_for(name, had + count, client.storage)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return partial(client, name).stat().st_size


def test_a_cut_connection_goes_on_where_it_was_cut(hub, client, tiny_model):
    hub.trouble[UNET].extend([Trouble(cut_after=300_000), Trouble(cut_after=0), Trouble(cut_after=200_000)])
    result = client.fetch()
    assert same_files(result.path, tiny_model)
    assert begins(hub.gets(UNET)) == [0, 300_000, 300_000, 500_000]
    assert len(result.notices) == 3
    assert all(UNET in notice and "cut" in notice for notice in result.notices)
    assert begins(hub.gets(VAE)) == [0]


def test_an_end_without_a_length_is_noticed(hub, client, tiny_model):
    hub.trouble[UNET].append(Trouble(cut_after=300_000, without_length=True))
    assert same_files(client.fetch().path, tiny_model)
    assert begins(hub.gets(UNET)) == [0, 300_000]


def test_a_killed_download_goes_on_where_it_stopped(hub, client, tiny_model):
    have = kill_during(client, UNET, 400_000)
    assert have == 400_000
    result = client.fetch()
    assert same_files(result.path, tiny_model)
    assert begins(hub.gets(UNET)) == [0, have]
    assert not partial(client).exists()
    done = [done for stage, done, _ in result["reports"] if stage == "downloading"]
    assert done == sorted(done)  # what was here counts from the beginning
    assert result["reports"][-1] == ["downloading", result["reports"][-1][2], result["reports"][-1][2]]


def test_kills_at_random_moments(hub, client, tiny_model):
    """Seeded; every start goes on, and the last one, undisturbed, completes the model."""
    size = (tiny_model / UNET).stat().st_size
    dice = random.Random(7)
    moments = sorted(dice.sample(range(1, size), 5))
    ends = [kill_during(client, UNET, later - earlier) for earlier, later in pairwise([0, *moments])]
    assert ends == moments
    kill_during(client, VAE, CHUNK)
    assert same_files(client.fetch().path, tiny_model)
    assert begins(hub.gets(UNET)) == [0, *moments]
    assert begins(hub.gets(VAE)) == [0, CHUNK]


def test_a_part_that_was_not_asked_for_is_not_taken(hub, client, tiny_model):
    """An answer that begins elsewhere says nothing about the file: it is not damaged, and asked for again."""
    hub.trouble[UNET].extend([Trouble(cut_after=300_000), Trouble(begin=100_000)])
    result = client.fetch()
    assert same_files(result.path, tiny_model)
    assert begins(hub.gets(UNET)) == [0, 300_000, 0]
    assert not any("damaged" in notice for notice in result.notices)


@pytest.mark.parametrize("name", [UNET, "unet/config.json"])
def test_wrong_bytes_are_fetched_again(hub, client, tiny_model, name):
    hub.trouble[name].append(Trouble(wrong_bytes=True))
    result = client.fetch()
    assert same_files(result.path, tiny_model)
    assert len(hub.gets(name)) == 2
    (notice,) = result.notices
    assert name in notice
    assert "damaged" in notice


def test_bytes_that_are_always_wrong_are_an_error_that_names_the_file(hub, client):
    hub.always[UNET] = Trouble(wrong_bytes=True)
    result = client.fetch()
    assert result["code"] == 3
    assert UNET in result.text
    assert "damaged" in result.text
    assert len(hub.gets(UNET)) == 2
    assert not (client.storage / "blobs" / hub_hash(hub.files / UNET)).exists()
    assert not partial(client).exists()


def test_a_partial_file_that_is_wrong_is_thrown_away(hub, client, tiny_model):
    partial(client).parent.mkdir(parents=True)
    partial(client).write_bytes(b"\0" * 300_000)
    assert same_files(client.fetch().path, tiny_model)
    assert begins(hub.gets(UNET)) == [300_000, 0]


def test_a_partial_file_that_is_too_long_is_thrown_away(hub, client, tiny_model):
    partial(client).parent.mkdir(parents=True)
    partial(client).write_bytes((tiny_model / UNET).read_bytes() + b"more")
    assert same_files(client.fetch().path, tiny_model)
    assert begins(hub.gets(UNET)) == [0]


def test_a_server_without_ranges_begins_anew(hub, client, tiny_model):
    hub.always[UNET] = Trouble(ignore_range=True)
    hub.trouble[UNET].append(Trouble(cut_after=300_000))
    result = client.fetch()
    assert same_files(result.path, tiny_model)
    assert [asked.range for asked in hub.gets(UNET)] == [None, "bytes=300000-"]
    assert any("anew" in notice for notice in result.notices)


def test_a_stalled_stream_is_asked_again(hub, client, tiny_model):
    hub.trouble[UNET].append(Trouble(stall_after=300_000))
    result = client.fetch(env={"HF_HUB_DOWNLOAD_TIMEOUT": "1"})
    assert same_files(result.path, tiny_model)
    assert begins(hub.gets(UNET)) == [0, 300_000]
    assert "nothing came for 1 s" in result.notices[0]


@pytest.mark.parametrize("name", [UNET, LISTING])
def test_a_server_in_trouble_is_asked_again(hub, client, tiny_model, name):
    hub.trouble[name].extend([Trouble(status=500), Trouble(status=503), Trouble(status=408)])
    result = client.fetch()
    assert same_files(result.path, tiny_model)
    assert len(result.notices) == 3
    assert all(status in notice for status, notice in zip(("500", "503", "408"), result.notices, strict=True))


@pytest.mark.parametrize("name", [UNET, LISTING])
def test_a_server_that_stays_in_trouble_is_an_error(hub, client, name):
    hub.trouble[UNET].append(Trouble(cut_after=300_000))
    hub.always[name] = Trouble(status=502)
    result = client.fetch()
    assert result["code"] == 3
    assert "502" in result.text
    assert "consisti2v fetch-weights somebody/tiny" in result.text
    assert "\n" not in result.text
    if name == UNET:
        assert partial(client).stat().st_size == 300_000


@pytest.mark.parametrize("name", [UNET, LISTING])
def test_a_busy_hub_is_given_the_time_it_asks_for(hub, client, tiny_model, name):
    asked = [{"Retry-After": "0.25"}, {"RateLimit": '"api";r=0;t=0'}, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}]
    hub.trouble[name].extend(Trouble(status=429, headers=headers) for headers in asked)
    result = client.fetch()
    assert same_files(result.path, tiny_model)
    waits = ("in 0.25 s", "in 0 s", "in 0 s")
    assert all("429" in notice and wait in notice for wait, notice in zip(waits, result.notices, strict=True))


def test_a_hub_that_asks_for_an_hour_is_not_waited_for(hub, client):
    hub.trouble[UNET].append(Trouble(status=429, headers={"Retry-After": "3600"}))
    result = client.fetch()
    assert result["code"] == 3
    assert "3600 s" in result.text


REFUSALS = [
    (Trouble(status=401, headers={"X-Error-Code": "RepoNotFound"}), ["somebody/tiny", "hf auth login"]),
    (Trouble(status=401, headers={"X-Error-Code": "GatedRepo"}), ["ask for access", "hf auth login"]),
    (
        Trouble(status=401, headers={"X-Error-Message": "Invalid credentials in Authorization header"}),
        ["token", "hf auth login"],
    ),
    (Trouble(status=403), ["ask for access", "hf auth login"]),
    (Trouble(status=404, headers={"X-Error-Code": "RepoNotFound"}), ["check the name"]),
    (Trouble(status=404, headers={"X-Error-Code": "EntryNotFound"}), ["though it lists them"]),
    (Trouble(status=418), ["418"]),
]


@pytest.mark.parametrize("name", [UNET, LISTING])
def test_refusals_say_what_to_do(hub, client, name):
    hub.trouble[name].extend(trouble for trouble, _ in REFUSALS)
    for result, (_, words) in zip(client.fetch_often(len(REFUSALS)), REFUSALS, strict=True):
        assert result["code"] == 3
        assert all(word in result.text for word in words)
        assert "\n" not in result.text
        assert not result.notices  # they are final


def test_an_unknown_revision_is_named(hub, client):
    result = client.fetch(revision="v9")
    assert result["code"] == 3
    assert "'v9'" in result.text


def test_something_that_is_no_hub(hub, client):
    hub.always[LISTING] = Trouble(body=b"<html>Please log in to the hotel's network</html>")
    assert "not as a hub" in client.fetch().text


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "nonsense"])
def test_no_hub_at_all(hub, client, address):
    result = client.fetch(env={"HF_ENDPOINT": address})
    assert result["code"] == 3
    assert "\n" not in result.text


TOKEN = "hf_a_secret_of_mine"


def test_a_private_repository_needs_a_token_which_goes_nowhere_else(hub, client, tiny_model):
    hub.needs_token = TOKEN
    refused = client.fetch()
    assert "hf auth login" in refused.text

    hub.always[UNET] = Trouble(redirect=True)
    hub.trouble[UNET].append(Trouble(redirect=True, cut_after=100_000))
    client.home.mkdir(exist_ok=True)
    (client.home / "token").write_text(TOKEN)  # where `hf auth login` keeps it
    hub.requests.clear()
    result = client.fetch()
    assert same_files(result.path, tiny_model)
    ports = [server.server_port for server in hub.servers]
    at_home = [asked for asked in hub.requests if asked.port == ports[0] and "harnesses" not in asked.path]
    elsewhere = [asked for asked in hub.requests if asked.port == ports[1]]
    assert {asked.authorization for asked in at_home} == {f"Bearer {TOKEN}"}
    assert {asked.authorization for asked in elsewhere} == {None}
    assert any(asked.path.endswith(UNET) for asked in elsewhere)
    assert TOKEN not in json.dumps(result)


@pytest.mark.parametrize("token", [TOKEN, TOKEN + "\u00e9"])
def test_a_token_is_never_printed(hub, client, token):
    hub.always[LISTING] = Trouble(status=403, headers={"X-Error-Message": "no"})
    shown = subprocess.run(
        [sys.executable, "-m", "consisti2v_cli", "fetch-weights", hub.repo, "-vv"],
        env=client_environment(hub.address, client.home, HF_TOKEN=token),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert shown.returncode == 3
    assert "Traceback" in shown.stderr
    assert TOKEN not in shown.stderr
    assert shown.stdout == ""


def two_processes(client):
    """One that stands in the middle of a download, and one that waits for it."""
    client.hub.trouble[UNET].append(Trouble(hold_after=300_000))
    first = client.start()
    client.hub.wait_for(UNET, 300_000, client.storage)
    second = client.start()
    wait_until(lambda: client.log.is_file() and "waiting" in client.log.read_text(), "the second process")
    return first, second


def test_two_processes_fetch_each_file_once(hub, client, tiny_model):
    processes = two_processes(client)
    hub.go_on.set()
    results = [client.result(process) for process in processes]
    assert all(same_files(result.path, tiny_model) for result in results)
    for name in (UNET, VAE, "unet/config.json"):
        assert begins(hub.gets(name)) == [0]


def test_a_process_that_was_killed_locks_nobody_out(hub, client, tiny_model):
    first, second = two_processes(client)
    first.kill()
    first.communicate()
    assert same_files(client.result(second).path, tiny_model)
    assert begins(hub.gets(UNET))[1] > 0


def test_too_small_a_disk_is_noticed_before_anything_is_fetched(hub, client):
    hub.claims[UNET] = 10**15
    result = client.fetch()
    assert result["code"] == 1
    assert "1000000.00 GB" in result.text
    assert "HF_HOME" in result.text
    assert not hub.gets(UNET)


def test_a_disk_that_fills_up_keeps_what_has_come(hub, client, tiny_model):
    result = client.result(client.start(largest_file=500_000))
    assert result["code"] == 1
    assert "full" in result.text
    assert partial(client).stat().st_size == 500_000
    assert same_files(client.fetch().path, tiny_model)
    assert begins(hub.gets(UNET)) == [0, 500_000]


def test_a_list_without_hashes_is_made_up_for(hub, client, tiny_model):
    hub.plain_listing = True
    result = client.fetch()
    assert same_files(result.path, tiny_model)
    assert {link.name for link in (client.storage / "blobs").iterdir()} == {
        hub_hash(file) for file in tiny_model.rglob("*") if file.is_file()
    }


def test_a_cache_that_cannot_be_made(hub, client):
    client.home.mkdir()
    client.cache.write_text("a file")
    result = client.fetch()
    assert result["code"] == 1
    assert str(client.cache) in result.text
