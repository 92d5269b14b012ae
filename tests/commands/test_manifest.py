"""Manifests: every row is made as the command line would make it; bad rows name their line and stop nobody."""

import json
import shutil

import pytest

from consisti2v_cli.media.metadata import read_recipe
from consisti2v_cli.recipe import from_json

SMALL = ["--size", "64x48", "--frames", "3", "--steps", "1", "--seed", "7"]


@pytest.fixture
def place(tmp_path, boat):
    """A folder with photos, for the manifest to lie in."""
    folder = tmp_path / "lists"
    (folder / "photos").mkdir(parents=True)
    for name in ("a.jpg", "photos/b.jpg", "photos/c.jpg"):
        shutil.copy(boat, folder / name)
    return folder


@pytest.fixture
def planned(call, tiny_model, place):
    """Plan the run of a manifest: planned("list.csv", content, *arguments) -> the result, and the JSON objects."""

    def planned(name, content, *arguments, command="animate"):
        (place / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        arguments = [*arguments, "--manifest", place / name, "--model", tiny_model, "-o", "out/", *SMALL]
        shown = call(command, *arguments, "--dry-run", "--json")
        return shown, [json.loads(line) for line in shown.stdout.splitlines()]

    return planned


def test_rows_are_made(call, tiny_model, place, tmp_path):
    rows = ["a.jpg,waves,one,,", "photos/b.jpg,,two/{name},2,mp4 gif", "photos/,a fog,,,webp"]
    (place / "list.csv").write_text("\n".join(["input,prompt,output,steps,format", *rows]))
    manifest = ["--manifest", place / "list.csv", "--model", tiny_model, *SMALL]
    made = call("animate", "clouds", *manifest, "-o", "out/")
    assert made.returncode == 0, made.stderr
    names = ["one.mp4", "two/b.mp4", "two/b.gif", "b.webp", "c.webp"]
    assert made.stdout.splitlines() == [f"out/{name}" for name in names]
    recipes = [from_json(read_recipe(tmp_path / "out" / name)) for name in names]
    assert [recipe.prompt for recipe in recipes] == ["waves", "clouds", "clouds", "a fog", "a fog"]
    assert [recipe.steps for recipe in recipes] == [1, 2, 2, 1, 1]
    again = call("animate", "clouds", *manifest, "-o", "out/")
    assert (again.returncode, again.stdout) == (0, "")
    assert "Made already: out/one.mp4" in again.stderr


def test_values_are_read_as_on_the_command_line(planned, tmp_path):
    header = "input,prompt,Seed,layout_strength,--layout-cutoff,frameinit,size,no-metadata,background,negative\n"
    shown, plans = planned("list.csv", header + "a.jpg,x,3,700,0.5,no,32x48,,#000000, blurred \na.jpg,x,,,,,,,,\n")
    assert shown.returncode == 0, shown.stderr
    expected = {"seed": 3, "layout_strength": 700, "layout_cutoff": 0.5, "frameinit": False, "width": 32, "height": 48}
    expected |= {"background": "#000000", "negative": " blurred "}
    recipe, plain = (plan["recipe"] for plan in plans)
    assert {name: recipe[name] for name in expected} == expected
    assert (plain["seed"], plain["width"], plain["frameinit"], plain["negative"]) == (7, 64, True, "")


def test_json_lines(planned):
    rows = [
        {"input": "a.jpg", "prompt": "böat \N{SAILBOAT}", "steps": 2, "frameinit": False, "format": ["gif", "webm"]},
        {"input": "photos/b.jpg", "prompt": None, "no_frameinit": True, "motion": "4", "guidance": 2.5},
    ]
    for name in ("list.jsonl", "list.ndjson", "list"):
        shown, plans = planned(name, "\n\n".join(map(json.dumps, rows)) + "\n", "clouds")
        assert shown.returncode == 0, shown.stderr
        assert plans[0]["outputs"] == ["out/a.gif", "out/a.webm"]
        first, second = (plan["recipe"] for plan in plans)
        assert (first["prompt"], first["steps"], first["frameinit"]) == ("böat \N{SAILBOAT}", 2, False)
        assert (second["prompt"], second["frameinit"], second["motion"], second["guidance"]) == (
            "clouds",
            False,
            4,
            2.5,
        )


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "dos"])
def test_tables_as_programs_write_them(planned, mark, separator, end):
    lines = [["input", "prompt"], ["a.jpg", '"waves, foam; ""spray"""'], ["", ""], ["photos/b.jpg", "größer"]]
    shown, plans = planned("list.csv", mark + end.join(map(separator.join, lines)).encode() + end.encode())
    assert shown.returncode == 0, shown.stderr
    assert [plan["recipe"]["prompt"] for plan in plans] == ['waves, foam; "spray"', "größer"]


def test_prompts_from_files_lie_beside_the_manifest(planned, place):
    (place / "words.txt").write_text("slow waves")
    _, plans = planned("list.csv", "input,prompt\na.jpg,@words.txt\n")
    assert plans[0]["recipe"]["prompt"] == "slow waves"


def test_a_recipe_in_a_row(planned, place):
    (place / "old.json").write_text('{"prompt": "old", "seed": 99, "steps": 9, "frames": 5, "command": "animate"}')
    shown, plans = planned(
        "list.csv", "input,recipe,steps\na.jpg,old.json,\na.jpg,old.json,4\na.jpg,none.json,\n", "new"
    )
    assert [(plan["recipe"]["prompt"], plan["recipe"]["steps"]) for plan in plans] == [("new", 1), ("new", 4)]
    assert "line 4: The recipe" in shown.stderr


def test_options_of_other_commands_are_columns_there(planned):
    content = "input,prompt,direction,amount\na.jpg,x,up-left,0.5\n"
    _, (plan,) = planned("list.csv", content, command="pan")
    assert (plan["recipe"]["direction"], plan["recipe"]["amount"]) == ("up-left", 0.5)
    shown, plans = planned("list.csv", content)
    assert (shown.returncode, plans) == (2, [])
    assert "unknown column 'direction'" in shown.stderr
    _, plans = planned("list.csv", "input,prompt,out,center\na.jpg,x,yes,\na.jpg,x,,0.2;0.3\n", command="zoom")
    assert [plan["recipe"]["zoom"] for plan in plans] == ["out"]
    _, (plan,) = planned("list.csv", 'input,prompt,center,in\na.jpg,x,"0.2,0.3",no\n', command="zoom")
    assert (plan["recipe"]["center_x"], plan["recipe"]["zoom"]) == (0.2, "out")


BAD = [
    ("input,steps\na.jpg,0\n", "Invalid value for '--steps': '0' is not possible; possible: whole numbers 1 to 500"),
    ("input,steps\na.jpg,many\n", "'many' is not possible"),
    ("input,size\na.jpg,big\n", "Invalid value for '--size': 'big' is no size"),
    ("input,size\na.jpg,100x100\n", "width is 100"),
    ("input,sampler\na.jpg,euler\n", "'--sampler'"),
    ("input,format\na.jpg,avi\n", "'--format'"),
    ("input,frameinit\na.jpg,perhaps\n", "'--frameinit'"),
    ("input,background\na.jpg,blurple\n", "blurple"),
    ("input,device\na.jpg,tpu\n", "cpu, cuda, mps"),
    ("input,model\na.jpg,no such model\n", "no such model"),
    ("input,seed\na.jpg,+1\n", "seed is +1"),
    ('{"input": "a.jpg", "speed": 3}\n', "unknown column 'speed'"),
    ('{"input": "a.jpg", "promt": "x"}\n', "unknown column 'promt'; did you mean prompt?"),
    ("input,prompt\nnowhere.jpg,x\n", "nowhere.jpg"),
    ("input,prompt\n-,x\n", "-, which is no file"),
    ("input,prompt\n,x\n", "input is missing"),
    ("input,prompt\na.jpg,@nowhere.txt\n", "nowhere.txt"),
    ("input,prompt\na.jpg,x,y,z\n", "4 cells"),
    ("input,output\na.jpg,../x\n", "output '../x'"),
    ("input,output\na.jpg,/tmp/x\n", "output '/tmp/x'"),
    ("input,output\na.jpg,C:x\n", "output 'C:x'"),
    ("input,output\na.jpg,x.avi\n", "unknown format .avi"),
    ("input,output\na.jpg,{nam}\n", "{nam}"),
    ('input,output\na.jpg,"x\ny"\n', "not printed"),
    ('{"input": "a.jpg", "steps": {}}\n', "{} must be text or a number"),
    ('{"input": "a.jpg", "steps": [1, 2]}\n', "[1, 2] must be one"),
    ('{"input": "a.jpg", "size": true}\n', "True must be one"),
    ('{"input": 3}\n', "input = 3 must be text"),
    ('{"input": "a\\u0000.jpg"}\n', "cannot be read"),
    ('{"input": "a.jpg"\n', "not valid JSON"),
    ("[1]\n", "a JSON object is expected"),
    ('{"input": "a.jpg", "\\u001b[2J": 1}\n', "unknown column"),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_bad_rows_name_their_line_and_the_others_are_made(planned, content, message):
    table = content.startswith("input")
    good = "photos/b.jpg\n" if table else '{"input": "photos/b.jpg"}\n'
    shown, plans = planned("list.csv" if table else "list.jsonl", content + good, "waves")
    assert shown.returncode == 1, shown
    assert [plan["outputs"] for plan in plans] == [["out/b.mp4"]]
    (error,) = [line for line in shown.stderr.splitlines() if line.startswith("Error: ")]
    assert f"list.{'csv, line 2' if table else 'jsonl, line 1'}" in error
    assert message in error
    assert "\x1b" not in shown.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.csv", "", "lists nothing"),
        ("list.csv", "input,prompt\n", "lists nothing"),
        ("list.csv", "file,prompt\na.jpg,x\n", "no column input"),
        ("list.csv", "input,steps,STEPS\na.jpg,1,2\n", "column steps twice"),
        ("list.csv", "input,promt\na.jpg,x\na.jpg,y\n", "unknown column 'promt'; did you mean prompt?"),
        ("list.csv", "input,stpes\na.jpg,3\n", "did you mean steps?"),
        ("list.csv", "input,quux\na.jpg,3\n", "possible: input, prompt, output and options."),
        ("list.csv", "input,overwrite\na.jpg,yes\n", "unknown column 'overwrite'"),
        ("list.csv", "input,json\na.jpg,yes\n", "unknown column 'json'"),
        ("list.csv", "input,manifest\na.jpg,other.csv\n", "unknown column 'manifest'"),
        ("list.csv", 'input,prompt\na.jpg,"x\n', "not valid CSV"),
        ("list.csv", b"input,prompt\na.jpg,gr\xf6\xdfer\n", "not UTF-8"),
        ("list.jsonl", "\n\n", "lists nothing"),
    ],
)
def test_manifests_that_cannot_be_read(planned, name, content, message):
    shown, plans = planned(name, content, "waves")
    assert (shown.returncode, plans) == (2, [])
    assert message in shown.stderr
    assert len(shown.stderr.splitlines()) <= 2


def test_rows_without_a_prompt_fail_where_there_is_no_other(planned):
    shown, plans = planned("list.csv", "input,prompt\na.jpg,\nphotos/b.jpg,x\n")
    assert shown.returncode == 1
    assert [plan["input"] for plan in plans] == ["b.jpg"]
    assert "line 2" in shown.stderr
    assert "no prompt" in shown.stderr


def test_images_beside_a_manifest(planned, boat):
    _, plans = planned("list.csv", "input,prompt\na.jpg,fog\n", boat, "waves")
    assert [(plan["input"], plan["recipe"]["prompt"]) for plan in plans] == [("boat.jpg", "waves"), ("a.jpg", "fog")]


def test_rows_have_budgets_of_their_own(planned):
    _, plans = planned("list.csv", "input,vram\na.jpg,\na.jpg,0.1\n", "waves")
    assert [plan["plan"] == "all at once" for plan in plans] == [True, False]


def test_models_change_where_rows_say_so(call, tiny_model, model_copy, place, tmp_path):
    rows = [("a.jpg", ""), ("photos/b.jpg", model_copy), ("photos/c.jpg", tmp_path / "no-model")]
    (place / "list.csv").write_text("input,model\n" + "".join(f"{name},{model}\n" for name, model in rows))
    made = call("animate", "x", "--manifest", place / "list.csv", "--model", tiny_model, *SMALL, "--json")
    assert made.returncode == 1
    models = [json.loads(line)["recipe"]["model"] for line in made.stdout.splitlines()]
    assert models == [tiny_model.name, model_copy.name]
    assert "line 4" in made.stderr
    assert made.stderr.count("loading 3/3") == 2


def test_a_damaged_model_fails_its_rows_only(call, tiny_model, model_copy, place):
    weights = model_copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    (place / "list.csv").write_text(f"input,model\na.jpg,{model_copy}\nphotos/b.jpg,\n")
    made = call("animate", "x", "--manifest", place / "list.csv", "--model", tiny_model, *SMALL)
    assert (made.returncode, made.stdout) == (1, "b.mp4\n")
    assert "line 2" in made.stderr
