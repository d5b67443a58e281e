"""exec by a tagged process: judged by the file really loaded and by every argument, before its first instruction."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import harness, probes
from tests.live.harness import Host
from tests.live.probes import Compiler, Result, Run, assert_allowed, assert_denied, untagged

pytestmark = pytest.mark.root

# What an attempt runs: says so, and leaves a mark. argv[1] is where.
EFFECT = r"""
int main(int argc, char **argv)
{
	int fd = open(argv[1], O_CREAT | O_WRONLY, 0600);

	return fd < 0 ? 3 : 0;
}
"""
SPAWN = "attempt(lambda: os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(sys.argv[1], sys.argv[2:], {}), 0)[1]))"


class Ground:
    """A folder with a program `bad` that the policy denies, and its twin `good`."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.folder = folder
        for name in ("denied/bad", "free/good", "free/tool"):
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(program.read_bytes())
            path.chmod(0o755)
        self.bad, self.good, self.tool = folder / "denied/bad", folder / "free/good", folder / "free/tool"
        self._effects = 0

    def effect(self) -> Path:
        """Where the next program leaves its mark."""
        self._effects += 1
        return self.folder / f"effect-{self._effects}"


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, compiler: Compiler) -> Ground:
    """Programs to run."""
    return Ground(tmp_path_factory.mktemp("exec"), compiler.program(EFFECT))


@pytest.fixture(scope="module")
def live(ground: Ground) -> Iterator[Host]:
    """An agent that may run anything but `bad`, scripts called *.no, and `tool` with a forbidden argument."""
    denied = [{"tool": "bad"}, {"tool": "loader"}]
    tools = {
        "bad": {
            "run": [{"exec": [f"{ground.folder}/denied/**", "**/*.no"]}],
            "argument": [
                {"exec": ["**/tool"], "args": ["--forbidden*"]},
                {"exec": ["**/dash"], "args": ["*.inner"]},
            ],
        }
    }
    with harness.enforcing(ground.folder, {"bot": harness.agent(deny=denied, but=["loader"])}, tools) as host:
        yield host


def child_denied(run: Run, **wanted: object) -> dict[str, object]:
    """The program that the probe spawned was killed by agentd, with one record; the record."""
    assert run.result() is Result.ALLOWED, run  # the probe itself lives
    assert run.value == str(-signal.SIGKILL), run
    assert len(run.denials) == 1, run
    record = run.denials[0]
    assert {name: record[name] for name in wanted} == wanted
    assert (record["point"], record["guarantee"], record["action"]) == ("exec", "contained", "kill")
    return record


def spawn(program: str | Path, *argv: str | Path) -> list[str]:
    return probes.python(SPAWN, program, *(argv or (program,)))


def control(command: list[str], effect: Path) -> None:
    """Untagged, the program runs and leaves its mark."""
    run = untagged(command)
    assert run.result() is Result.ALLOWED and run.value == "0", run
    assert effect.exists()
    effect.unlink()


def test_a_denied_program_never_runs(live: Host, ground: Ground) -> None:
    """A program that is denied by path dies before its first instruction, and one record names it."""
    effect = ground.effect()
    command = spawn(ground.bad, "bad", effect)
    control(command, effect)
    record = child_denied(live.run(command), object=str(ground.bad), tool_name="bad", rule="bot/deny/0")
    assert record["process"]["argv"] == ["bad", str(effect)]  # type: ignore[index]
    assert not effect.exists()


def test_an_allowed_program_runs(live: Host, ground: Ground) -> None:
    """The same program under a name that the policy allows runs, and nothing is recorded against it."""
    effect = ground.effect()
    run = live.run(spawn(ground.good, "good", effect))
    assert_allowed(run)
    assert run.value == "0" and effect.exists()


@pytest.mark.parametrize("how", ["symlink", "relative", "dotdot", "slashes", "proc-root", "fd"])
def test_other_names_of_a_denied_program(live: Host, ground: Ground, how: str) -> None:
    """However a denied program is named, it is judged by the file that is loaded."""
    effect, link = ground.effect(), ground.folder / "free/link"
    link.unlink(missing_ok=True)
    link.symlink_to(ground.bad)
    name = {
        "symlink": str(link),
        "relative": os.path.relpath(ground.bad, "/"),
        "dotdot": f"{ground.folder}/free/../denied/./bad",
        "slashes": f"/{ground.folder}//denied///bad",
        "proc-root": f"/proc/self/root{ground.bad}",
        "fd": "/proc/self/fd/9",
    }[how]
    opener = f"os.chdir('/'); os.dup2(os.open({str(ground.bad)!r}, os.O_RDONLY), 9)\n"
    command = probes.python(opener + SPAWN, name, "bad", effect)
    control(command, effect)
    child_denied(live.run(command), object=str(ground.bad))
    assert not effect.exists()


@pytest.mark.parametrize("how", ["copy", "rename", "hardlink"])
def test_a_program_under_another_path_is_judged_by_that_path(
    live: Host, ground: Ground, compiler: Compiler, how: str
) -> None:
    """A copy, a renamed file or a hard link is another path: allowed where the path is, denied where the path is."""
    for place, allowed in (("free", True), ("denied", False)):
        source = ground.folder / f"source-{how}"
        source.write_bytes(compiler.program(EFFECT).read_bytes())
        source.chmod(0o755)
        made, effect = ground.folder / place / f"{how}-made", ground.effect()
        if how == "copy":
            made.write_bytes(source.read_bytes())
            made.chmod(0o755)
        elif how == "rename":
            source.rename(made)
        else:
            made.unlink(missing_ok=True)
            os.link(source, made)
        command = spawn(made, "x", effect)
        control(command, effect)
        run = live.run(command)
        if allowed:
            assert_allowed(run)
            assert run.value == "0" and effect.exists()
        else:
            child_denied(run, object=str(made))
            assert not effect.exists()


# 4 KB and 8 KB are sizes of the pieces in which the kernel reads the arguments.
ARGUMENTS: dict[str, list[str]] = {
    "1": ["--forbidden"],
    "4": ["a", "b", "c", "--forbidden"],
    "20": [str(i) for i in range(19)] + ["--forbidden"],
    "long": ["--forbidden=" + "x" * 5000],
    "past 4 KB": ["x" * 4090, "--forbidden"],
    "across 4 KB": ["x" * n for n in (3000, 1080)] + ["--forbidden=y"],
    "past 8 KB": ["x" * 100] * 90 + ["--forbidden"],
    "past 100 KB": ["x" * 1000] * 101 + ["--forbidden"],
    "past 250 KB": ["x" * 1000] * 250 + ["--forbidden"],
}


@pytest.mark.parametrize("where", ARGUMENTS)
def test_a_forbidden_argument_is_found_anywhere(live: Host, ground: Ground, where: str) -> None:
    """A forbidden argument ends the program wherever it stands, and without it the same command line works."""
    argv = ARGUMENTS[where]
    effect = ground.effect()
    code = "argv = ['tool', sys.argv[2], *eval(sys.stdin.read())]\n" + SPAWN.replace("sys.argv[2:]", "argv")
    code = code.replace("sys.stdin.read()", f"open({str(ground.folder / 'argv')!r}).read()")
    (ground.folder / "argv").write_text(repr(argv))
    command = probes.python(code, ground.tool, effect)
    control(command, effect)
    record = child_denied(live.run(command), operation="argument", object=str(ground.tool))
    assert bool(record["metadata"].get("argv_cut")) == (sum(map(len, argv)) > 4000)  # type: ignore[attr-defined]
    assert not effect.exists()
    harmless = [word.replace("--forbidden", "--permitted") for word in argv]
    (ground.folder / "argv").write_text(repr(harmless))
    run = live.run(command)
    assert_allowed(run)
    assert run.value == "0" and effect.exists()


def test_arguments_that_are_not_the_forbidden_one(live: Host, ground: Ground) -> None:
    """argv[0] is no argument, the environment isn't one, and a longer or shorter word is another word."""
    effect = ground.effect()
    code = "os.environ['X'] = '--forbidden'\n" + SPAWN.replace("{}", "{'--forbidden': '--forbidden'}")
    run = live.run(
        probes.python(code, ground.tool, "--forbidden", effect, "-forbidden", "--forbidde", "x--forbidden", "")
    )
    assert_allowed(run)
    assert run.value == "0"


def test_too_many_arguments_where_they_decide(live: Host, ground: Ground) -> None:
    """Where arguments decide and there are more than 256 KiB of them, the exec is unresolved and killed."""
    effect = ground.effect()
    code = "argv = ['tool', sys.argv[2], *(['x' * 1000] * 300)]\n" + SPAWN.replace("sys.argv[2:]", "argv")
    command = probes.python(code, ground.tool, effect)
    control(command, effect)
    record = child_denied(live.run(command))
    assert "could not be resolved" in str(record["reason"])
    assert not effect.exists()


def test_too_many_arguments_where_they_do_not_decide(live: Host, ground: Ground) -> None:
    """Where no argument could change the decision, any number of them is fine."""
    effect = ground.effect()
    code = "argv = ['good', sys.argv[2], *(['x' * 1000] * 300)]\n" + SPAWN.replace("sys.argv[2:]", "argv")
    run = live.run(probes.python(code, ground.good, effect))
    assert_allowed(run)
    assert run.value == "0" and effect.exists()


MEMFD = """
fd = os.memfd_create("helper", 0)
os.write(fd, open(sys.argv[1], "rb").read())
pid = os.fork()
if not pid:
    argv = (ctypes.c_char_p * 3)(b"helper", sys.argv[2].encode(), None)
    libc.syscall(ctypes.c_long(322), fd, b"", argv, (ctypes.c_char_p * 1)(None), 0x1000)
    os._exit(98)
attempt(lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_program_in_memory(live: Host, ground: Ground) -> None:
    """execveat of a memfd is judged by what it is, and not by a path that it doesn't have."""
    effect = ground.effect()
    command = probes.python(MEMFD, ground.good, effect)
    control(command, effect)
    record = child_denied(live.run(command), tool_name="loader")
    assert str(record["object"]).startswith("anon:") and "memfd:helper" in str(record["object"])
    assert not effect.exists()


def test_a_deleted_program(live: Host, ground: Ground) -> None:
    """A program whose file was deleted before the exec is still judged by the path it had."""
    effect, doomed = ground.effect(), ground.folder / "denied/doomed"
    code = """
fd = os.open(sys.argv[1], os.O_RDONLY)
os.rename(sys.argv[1], sys.argv[1]) ; os.unlink(sys.argv[1])
pid = os.fork()
if not pid:
    argv = (ctypes.c_char_p * 3)(b"doomed", sys.argv[2].encode(), None)
    libc.syscall(ctypes.c_long(322), fd, b"", argv, (ctypes.c_char_p * 1)(None), 0x1000)
    os._exit(98)
attempt(lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    command = probes.python(code, doomed, effect)
    for tagged in (False, True):
        doomed.write_bytes(ground.bad.read_bytes())
        doomed.chmod(0o755)
        if tagged:
            child_denied(live.run(command), tool_name="bad", object=str(doomed))
            assert not effect.exists()
        else:
            control(command, effect)


@pytest.mark.parametrize("name, interpreter", [("free/x.no", "good"), ("free/x.yes", "bad"), ("free/x.ok", "good")])
def test_a_script_is_judged_by_itself_and_by_its_interpreter(
    live: Host, ground: Ground, name: str, interpreter: str
) -> None:
    """A script runs only if its interpreter and its own path are both allowed."""
    script, effect = ground.folder / name, ground.effect()
    program = ground.bad if interpreter == "bad" else "/bin/sh"
    script.write_text(f"#!{program}\n: > $1\n")
    script.chmod(0o755)
    command = probes.python(SPAWN, script, "x", effect)
    if interpreter == "good":  # `bad` takes the script's name for its own argument
        control(command, effect)
    run = live.run(command)
    if name.endswith(".ok"):
        assert_allowed(run)
        assert run.value == "0" and effect.exists()
    else:
        record = child_denied(run, object=str(ground.bad if interpreter == "bad" else script))
        assert bool(record["metadata"].get("script")) == (interpreter == "good")  # type: ignore[attr-defined]
        assert not effect.exists()


@pytest.mark.parametrize("how", ["relative", "symlink", "descriptor"])
def test_other_names_of_a_denied_script(live: Host, ground: Ground, how: str) -> None:
    """A denied script is recognised by relative names, symlinks and descriptors."""
    script, effect = ground.folder / "free/y.no", ground.effect()
    script.write_text("#!/bin/sh\n: > $1\n")
    script.chmod(0o755)
    setup, name = f"os.chdir({str(ground.folder)!r})\n", "free/../free/y.no"
    if how == "symlink":
        link = ground.folder / "free/y.link"
        link.unlink(missing_ok=True)
        link.symlink_to("y.no")
        name = str(link)
    elif how == "descriptor":
        setup, name = f"os.dup2(os.open({str(script)!r}, os.O_RDONLY), 9)\n", "/proc/self/fd/9"
    command = probes.python(setup + SPAWN, name, "x", effect)
    control(command, effect)
    child_denied(live.run(command))
    assert not effect.exists()


def test_a_script_whose_interpreter_is_a_script(live: Host, ground: Ground) -> None:
    """In a chain of scripts the inner one is an argument of the interpreter that is loaded, and is judged as one."""
    effect = ground.effect()
    for inner, outer in (("deep.inner", "deep.outer"), ("fine.thing", "fine.outer")):
        (ground.folder / "free" / inner).write_text("#!/bin/sh\n: > $2\n")
        (ground.folder / "free" / outer).write_text(f"#!{ground.folder}/free/{inner}\n")
        for name in (inner, outer):
            (ground.folder / "free" / name).chmod(0o755)
        command = spawn(ground.folder / "free" / outer, "x", effect)
        control(command, effect)
        run = live.run(command)
        if inner == "deep.inner":
            child_denied(run, operation="argument", object="/usr/bin/dash")
            assert not effect.exists()
        else:
            assert_allowed(run)
            assert run.value == "0" and effect.exists()


THREAD = """
static char **args;
static void *run(void *unused)
{
	say("attempt\\n");
	execv(args[1], args + 1);
	result(-1);
	return 0;
}
int main(int argc, char **argv)
{
	pthread_t thread;

	args = argv;
	pthread_create(&thread, 0, run, 0);
	pthread_join(thread, 0);
	return 0;
}
"""


def test_exec_from_a_thread_that_does_not_lead(live: Host, ground: Ground, compiler: Compiler) -> None:
    """A thread other than the leader that execs a denied program ends the process; an allowed one runs."""
    probe, effect = compiler.program(THREAD), ground.effect()
    command = [probe, ground.bad, effect]
    assert untagged(command).status == 0 and effect.exists()
    effect.unlink()
    assert_denied(live.run(command), killed_by=signal.SIGKILL, object=str(ground.bad), point="exec")
    assert not effect.exists()
    run = live.run([probe, ground.good, effect])
    assert run.status == 0 and effect.exists() and not run.denials


SPAWNS = {
    "vfork": "pid = vfork(); if (!pid) { execv(argv[1], argv + 1); _exit(98); }",
    "posix_spawn": "char *none[] = {0}; if (posix_spawn(&pid, argv[1], 0, 0, argv + 1, none)) return 4;",
    "fork": "pid = fork(); if (!pid) { execv(argv[1], argv + 1); _exit(98); }",
    "clone": "pid = syscall(SYS_clone, 0x4011 /* CLONE_VFORK|SIGCHLD */, 0, 0, 0, 0);"
    "if (!pid) { execv(argv[1], argv + 1); _exit(98); }",
}


@pytest.mark.parametrize("how", SPAWNS)
def test_every_way_to_start_a_program(live: Host, ground: Ground, compiler: Compiler, how: str) -> None:
    """vfork, posix_spawn, fork and clone: the denied program never runs, its parent goes on, an allowed one runs."""
    source = f"""
int main(int argc, char **argv)
{{
	int pid, status;

	{SPAWNS[how]}
	say("attempt\\n");
	waitpid(pid, &status, 0);
	result(WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status));
	return 0;
}}
"""
    probe, effect = compiler.program(source), ground.effect()
    command = [str(probe), str(ground.bad), str(effect)]
    control(command, effect)
    run = live.run(command)
    assert run.status == 0 and run.value == "1009", run
    assert [record["object"] for record in run.denials] == [str(ground.bad)]
    assert not effect.exists()
    run = live.run([probe, ground.good, effect])
    assert run.value == "0" and effect.exists() and not run.denials
