"""What we rely on in DVC: our call replaces its command; order, lock, cache and errors stay DVC's."""

import hashlib
import os
from pathlib import Path

import pytest

from flows.runtime import versioning
from flows.runtime.versioning import Versions
from flows.versions import contents
from tasks.errors import BadInput, BadParams, GateFailed
from tests.flows.project import Project

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # DVC's own use of pygtrie


class Toy:
    """Does what the stages of the toy project do, without Prefect, and records the order."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.restored: list[str] = []
        self.keys: dict[str, str] = {}

    def __call__(self, versions: Versions) -> None:
        self.ran.append(versions.stage)
        self.keys[versions.stage] = versions.key
        name = versions.stage
        for folder in (name, f"reports/{name}", *(["models/total"] if name == "total" else [])):
            Path("data", folder).mkdir(parents=True)
            Path("data", folder, "a.txt").write_text(name + str(versions.deps))
        Path(f"data/reports/{name}.json").write_text("{}")

    def restore(self, versions: Versions) -> None:
        self.restored.append(versions.stage)


def reproduce(to: str | None = None) -> Toy:
    toy = Toy()
    versioning.reproduce(toy, toy.restore, to)
    return toy


def test_stages_run_in_the_order_of_dvc_yaml_and_then_no_more(project: Project) -> None:
    assert versioning.stages() == ["words", "letters", "lines", "total"] or versioning.stages()[-1] in (
        "total",
        "lines",
    )
    ran = reproduce().ran
    assert sorted(ran) == ["letters", "lines", "total", "words"]
    assert ran.index("words") < ran.index("letters") < ran.index("total")
    assert versioning.stale() == []
    assert reproduce().ran == []


def test_dvc_finds_everything_up_to_date_after_us(project: Project) -> None:
    reproduce()
    assert "up to date" in project.run("dvc", "status")
    assert "Running stage" not in project.run("dvc", "repro")


def test_to_runs_only_what_the_stage_needs(project: Project) -> None:
    assert versioning.stages("letters") == ["words", "letters"]
    assert reproduce("letters").ran == ["words", "letters"]
    with pytest.raises(BadParams, match=r"no stage 'leters'; did you mean 'letters'\? available: .*"):
        versioning.stages("leters")


def test_a_param_reruns_exactly_the_stages_it_touches(project: Project) -> None:
    before = reproduce()
    project.set_params(letters="times: 2")
    after = reproduce()
    assert after.ran == ["letters", "total"]
    assert after.keys["letters"] != before.keys["letters"]
    assert versioning.stale() == []


def test_what_was_computed_before_is_restored(project: Project) -> None:
    first = reproduce()
    project.set_params(letters="times: 2")
    reproduce()
    project.set_params()
    again = reproduce()
    assert (first.restored, again.ran, sorted(again.restored)) == ([], [], ["letters", "total"])


def test_outs_are_removed_before_a_stage_runs_and_errors_are_raised_unchanged(project: Project) -> None:
    reproduce()
    project.set_params(words="times: 2")

    def fail(versions: Versions) -> None:
        assert not Path("data/words").exists()
        raise GateFailed("below")

    with pytest.raises(GateFailed, match=r"^below$"):
        versioning.reproduce(fail, lambda _: None)
    assert "words" in versioning.stale()


def test_other_commands_stay_dvcs_own(project: Project) -> None:
    dvc_yaml = Path("dvc.yaml").read_text()
    shell = "\n  shell:\n    cmd: echo hello > data/hello\n    outs: [data/hello]\n"
    project.write("dvc.yaml", dvc_yaml + shell)
    assert "shell" not in reproduce("shell").ran
    assert Path("data/hello").read_text() == "hello\n"


def test_a_second_run_is_refused_while_the_first_holds_its_files(project: Project) -> None:
    outputs: list[str] = []

    def run_dvc_meanwhile(versions: Versions) -> None:
        if versions.stage == "words":
            outputs.append(project.run("dvc", "repro", "words", code=255))
        Toy()(versions)

    versioning.reproduce(run_dvc_meanwhile, lambda _: None, "words")
    assert "PID" in outputs[0]


def test_the_key_of_the_checkpoints_depends_on_all_inputs(project: Project) -> None:
    keys = reproduce().keys
    with versioning.current("letters") as versions:
        assert versions.key == keys["letters"]
        assert versions.out_tags()["dvc.out.data/letters"].endswith(".dir")
        assert versions.tags()["git.dirty"] == "false"
    project.set_params(letters="times: 2")
    with versioning.current("letters") as versions:
        assert versions.key != keys["letters"]


def test_what_dvc_cannot_do_is_one_message(project: Project) -> None:
    project.write("dvc.yaml", "stages: [1]")
    with pytest.raises(BadInput, match=r"dvc\.yaml"):
        versioning.stages()


def test_a_file_that_a_killed_command_left_is_named_with_the_remedy(project: Project) -> None:
    project.write(".dvc/tmp/rwlock", "")
    with pytest.raises(BadInput, match=r"'\.dvc/tmp/rwlock'.*remove the file and run the command again"):
        versioning.reproduce(lambda versions: None, lambda versions: None)


def test_a_missing_file_that_no_stage_makes_is_one_message(project: Project) -> None:
    project.write("dvc.yaml", Path("dvc.yaml").read_text().replace("tasks/letters]", "tasks/letters, absent.txt]"))
    with pytest.raises(BadInput, match=r"absent\.txt is missing.*depends on it"):
        reproduce()


def test_an_experiment_is_committed_outside_the_branch(project: Project) -> None:
    head, reproduced = project.git("rev-parse", "HEAD"), reproduce()
    project.write("tasks/new.py", "NEW = 1\n")
    project.git("add", "tasks/new.py")
    for path in ("big", ".env", "token.txt", "tasks/untracked.py"):
        project.write(path, "PASSWORD=canary-4711")
    before = project.git("status", "--porcelain"), Path(".git/index").read_bytes()
    commit = contents.save_experiment("trial")
    assert reproduced.ran
    assert (project.git("status", "--porcelain"), Path(".git/index").read_bytes()) == before
    assert project.git("rev-parse", "HEAD") == head
    committed = project.git("ls-tree", "-r", "--name-only", str(commit)).split()
    assert {"dvc.lock", "tasks/new.py", "data/reports/words.json"} <= set(committed)
    assert not {"big", ".env", "token.txt", "tasks/untracked.py", "data/words/a.txt"} & set(committed)
    assert "trial" in project.run("dvc", "exp", "list")
    with versioning.current("words") as versions:
        md5 = versions.out_tags()["dvc.out.data/words"]
    assert (contents.commit_with(md5), contents.commit_with("0" * 32)) == (commit, "")


def test_paths_outside_the_deps_are_reported(project: Project) -> None:
    project.write("extra/a.txt", "x")
    with versioning.current("words") as versions:
        paths = ("extra/a.txt", "extra/*.txt", "extra/a*", "data/raw/a.txt", "data/raw", "data/raw/*.txt", "no/file")
        assert versions.untracked(paths) == ["extra/a.txt", "extra"]


def test_a_failed_stage_leaves_its_old_outputs(project: Project) -> None:
    reproduce()
    before = Path("data/words/a.txt").read_text()
    project.set_params(words="times: 2")

    def fail(versions: Versions) -> None:
        project.write("data/words/half.txt", "half")
        raise BadInput("the disk is gone")

    with pytest.raises(BadInput, match="the disk is gone"):
        versioning.reproduce(fail, lambda _: None)
    assert [path.name for path in Path("data/words").iterdir()] == ["a.txt"]
    assert Path("data/words/a.txt").read_text() == before
    assert "words" in versioning.stale()


def test_outputs_are_in_the_cache_before_a_stage_counts_as_committed(project: Project) -> None:
    committed: list[str] = []

    def check(stage: str) -> None:
        assert f"data/{stage}" in Path("dvc.lock").read_text()
        committed.append(stage)

    versioning.reproduce(Toy(), lambda _: None, "letters", check)
    assert committed == ["words", "letters"]


def flip_bit(path: Path) -> None:
    """Change a byte as a disk does it, without a new time."""
    status = path.stat()
    path.chmod(0o644)
    with open(path, "r+b") as file:
        first = file.read(1)[0]
        file.seek(0)
        file.write(bytes([first ^ 1]))
    path.chmod(status.st_mode)  # DVC trusts the objects of its cache that are read-only
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_flipped_bit_is_noticed_and_restored(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    reproduce()
    file = Path("data/words/a.txt")
    before = file.read_bytes()
    flip_bit(file)
    with versioning.current("letters") as versions:
        versions.verify_inputs()
        assert file.read_bytes() == before
        assert "data/words/a.txt was damaged on the disk" in capsys.readouterr().err
        flip_bit(file)
        md5 = hashlib.md5(before).hexdigest()
        flip_bit(Path(".dvc/cache/files/md5", md5[:2], md5[2:]))
        with pytest.raises(BadInput, match=r"data/words/a\.txt \(of the stage words\).*dvc repro --force"):
            versions.verify_inputs()


def test_a_damaged_object_of_the_cache_is_removed_when_it_is_restored(project: Project) -> None:
    reproduce("words")
    body = Path("data/words/a.txt").read_bytes()
    md5 = hashlib.md5(body).hexdigest()
    project.set_params(words="times: 2")
    reproduce("words")
    flip_bit(Path(".dvc/cache/files/md5", md5[:2], md5[2:]))
    project.set_params()
    with pytest.raises(BadInput, match="objects of DVC's cache for the stage words were damaged"):
        reproduce("words")
    assert reproduce("words").ran == ["words"]
