"""Whatever step a process is killed at, the next one completes the model, and leaves nothing else behind."""

import json
import subprocess
import sys

import torch
from loopback_hub import client_environment
from safetensors.torch import load_file

# Counts what changes the file system, and kills the process at one of these steps. Forks, as importing takes longest.
SCRIPT = """
import json, os, random, signal, sys
import huggingface_hub.hf_api, huggingface_hub.utils
from huggingface_hub import constants
from consisti2v_cli.weights import fetch, remove_model
import consisti2v_cli.weights.convert

repo, home, samples = sys.argv[1], sys.argv[2], int(sys.argv[3])
CHANGES = {"os.rename", "os.remove", "os.symlink", "os.mkdir", "os.rmdir", "open"}
steps, crash_at = 0, None

def step(event, arguments):
    global steps
    if event not in CHANGES or event == "open" and not (isinstance(arguments[2], int) and arguments[2] & os.O_CREAT):
        return
    path = str(arguments[0])
    if path.startswith(home) or not os.path.isabs(path):  # within a folder that is being removed
        steps += 1
        if steps == crash_at:
            os.kill(os.getpid(), signal.SIGKILL)

def run(cache, work, at=None):
    '''In a process of its own; returns how many steps it took, or None where it was killed.'''
    global crash_at
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        crash_at = at
        constants.HF_HUB_CACHE = cache
        sys.addaudithook(step)
        work()
        os.write(writer, str(steps).encode())
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 100)
    _, status = os.waitpid(child, 0)
    os.close(reader)
    assert said or at and os.waitstatus_to_exitcode(status) == -signal.SIGKILL, (at, status)
    return int(said) if said else None

def tree(cache):
    found = {}
    for place, _, names in os.walk(cache):
        for name in names:
            path = os.path.join(place, name)
            content = os.readlink(path) if os.path.islink(path) else open(path, "rb").read()
            found[os.path.relpath(path, cache)] = content if isinstance(content, str) else hash(content)
    return found

def whole():
    fetch(repo, dtype="fp16", drop_originals=True)

os.makedirs(home)
count = run(f"{home}/undisturbed", whole)
expected = tree(f"{home}/undisturbed")
moments = random.Random(3).sample(range(1, count + 1), samples)
wrong = []
for moment in moments:
    cache = f"{home}/{moment}"
    assert run(cache, whole, moment) is None
    run(cache, whole)
    if tree(cache) != expected:
        wrong.append([moment, sorted(tree(cache).keys() ^ expected.keys())])

def removed():
    remove_model(repo)

cache = f"{home}/removed"
run(cache, whole)
for moment in (2, 7, 12, 17):
    assert run(cache, removed, moment) is None
    run(cache, whole)
    if tree(cache) != expected:
        wrong.append(["removed", moment, sorted(tree(cache).keys() ^ expected.keys())])
print(json.dumps([count, wrong]))
"""


def test_a_crash_at_any_step_is_mended_by_the_next_start(hub, tmp_path):
    part = hub.files / "text_encoder"
    torch.save(load_file(part / "model.safetensors"), part / "pytorch_model.bin")
    (part / "model.safetensors").unlink()
    shown = subprocess.run(
        [sys.executable, "-c", SCRIPT, hub.repo, str(tmp_path / "caches"), "8"],
        env=client_environment(hub.address, tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    count, wrong = json.loads(shown.stdout)
    assert count > 60
    assert not wrong
