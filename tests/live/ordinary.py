"""What coding agents run all day, as scripts: each prints the same every time."""

# ruff: noqa: E501  # a script that is broken to fit is another script
from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import Final

NEEDED: Final = ("node", "npm", "gcc", "make", "curl")  # programs that may not be there

# name: script. PORT is the web server's. Whatever it prints must be the same each time.
ORDINARY: Final = {
    "git": """
        git init -q r && cd r && echo one > a && git add a && git commit -qm first && echo two >> a && git diff
        git commit -qam second && git log --oneline && git branch topic && git checkout -q topic && git branch
        git mv a b && git commit -qm third && git checkout -q main && git merge -q topic && git tag v1 && git status
        git stash list; git clone -q . ../clone && git -C ../clone log --oneline && git -C ../clone pull -q
        git rebase -q HEAD~1; git reset -q --hard v1 && git clean -fdq && git gc -q && git fsck && git worktree add -q ../w topic
        git config core.pager cat && git show --stat HEAD && git grep two && git archive HEAD | tar t""",
    "git push to a folder": """
        git init -q --bare origin.git && git clone -q origin.git c 2>/dev/null; cd c && echo x > x && git add x
        git commit -qm x && git push -q origin HEAD:main && git ls-remote origin && git fetch -q && git log origin/main --oneline""",
    "venv and pip": """
        /usr/bin/python3 -m venv v && v/bin/pip install -q --no-index ../hello-1.0-py3-none-any.whl && v/bin/python -c 'import hello'
        v/bin/pip list --format=freeze && v/bin/hello && v/bin/pip uninstall -qy hello && v/bin/pip check""",
    "pytest": f"""
        printf 'import tempfile\\ndef test_a(tmp_path):\\n    (tmp_path / "x").write_text("x")\\n' > test_a.py
        {sys.executable} -m pytest -q test_a.py | sed 's/ in .*//'; ls .pytest_cache""",
    "python": """
        /usr/bin/python3 - <<'END'
import concurrent.futures, hashlib, json, logging, multiprocessing, os, shutil, sqlite3, ssl, subprocess, tempfile, threading
import asyncio, ctypes, pathlib, platform, random, socket, urllib.request, uuid, zoneinfo
with sqlite3.connect("x.db") as base:
    base.execute("create table t (x)"); base.executemany("insert into t values (?)", [(n,) for n in range(100)])
    print(base.execute("select sum(x) from t").fetchone())
threads = [threading.Thread(target=pathlib.Path(f"t{n}").write_text, args=("x",)) for n in range(20)]
[t.start() for t in threads]; [t.join() for t in threads]; print(len(list(pathlib.Path(".").glob("t*"))))
with multiprocessing.Pool(3) as pool: print(pool.map(abs, [-1, -2, -3]))
with concurrent.futures.ProcessPoolExecutor(2) as pool: print(list(pool.map(abs, [-4, -5])))
print(subprocess.check_output(["sort", "-r"], input=b"a\\nb\\n"))
with tempfile.TemporaryDirectory() as folder: shutil.make_archive(folder + "/a", "zip", "."); print(os.listdir(folder))
ssl.create_default_context(); print(asyncio.run(asyncio.sleep(0, "slept"))); print(zoneinfo.ZoneInfo("Europe/Berlin"))
END
        /usr/bin/python3 -m json.tool <<< '{"a": 1}'; /usr/bin/python3 -m unittest 2>&1 | head -1""",
    "gcc and make": """
        printf '#include <stdio.h>\\nint main(void) { puts("hello"); return 0; }\\n' > m.c
        printf 'm: m.o\\n\\tgcc -o m m.o\\nm.o: m.c\\n\\tgcc -O2 -g -c m.c\\nclean:\\n\\trm -f m m.o\\n' > Makefile
        make -s && ./m && make -s clean && gcc -pthread -fsanitize=undefined m.c -o s && ./s && gcc -shared -fPIC -o l.so m.c && ls""",
    "node": """
        node -e 'const fs = require("fs"), cp = require("child_process"), os = require("os");
            fs.writeFileSync("o", "x"); fs.renameSync("o", "p"); fs.mkdirSync("d/e", {recursive: true});
            fs.rmSync("d", {recursive: true}); console.log(cp.execSync("echo from a child").toString(), fs.readdirSync("."));
            const worker = new (require("worker_threads").Worker)("console.log(\\"from a worker\\")", {eval: true});
            worker.on("exit", () => cp.spawn("bash", ["-c", "echo from a late child"], {stdio: "inherit"}));
            require("dns").lookup("localhost", () => {});'
        printf 'const http = require("http"); const s = http.createServer((q, r) => r.end("served\\\\n"));
            s.listen(0, "127.0.0.1", () => http.get({port: s.address().port, host: "127.0.0.1"}, r => {
            r.pipe(process.stdout); r.on("end", () => s.close()); }));' > s.js && node s.js""",
    "npm": """
        npm init -y > /dev/null && npm pkg set scripts.hello='echo hello from npm' && npm run -s hello && mkdir dep
        echo '{"name": "dep", "version": "1.0.0"}' > dep/package.json && npm install -s --offline ./dep && ls node_modules
        npm ls; npm run -s missing; npm pack -s ./dep""",
    "curl": "curl -sS http://127.0.0.1:PORT/ && curl -sS -o page http://127.0.0.1:PORT/x && cat page; curl -s http://127.0.0.1:9/",
    "shell": r"""
        cat <<< here; cat <<END | tr a-z A-Z | sort -r
b
a
END
        diff <(printf '1\n2\n') <(printf '1\n3\n'); f=$(mktemp) && echo x > $f && rm $f; d=$(mktemp -d) && rmdir $d
        for n in 1 2 3; do echo $n; done | while read n; do echo "got $n"; done | tee out | tail -1; wc -l < out
        mkdir -p a/b && touch a/b/c && cp -a a x && mv x y && ln -s b a/link && ln a/b/c a/hard && chmod 755 a/b/c && find . | sort
        trap 'echo bye' EXIT; (sleep 0.1; echo later) & wait; set -o pipefail; false | true; echo $?; echo 5 | awk '{print $1 * 2}'
        seq 5 | xargs -n 2 echo; sed -i s/got/has/ out && grep -c has out; exec 3> three && echo x >&3 && cat three; date +%s > /dev/null
        ls -la / > /dev/null; df . > /dev/null; id -un; uname > /dev/null; env | grep -c HOME; nohup true; timeout 5 echo in time; nproc > n
        printf 'a\0b' | od -c; head -c 100 /dev/urandom | sha256sum > /dev/null; test -w . && echo writable; ulimit -n > n; tty; stty 2> n""",
    "login shell": "bash -lc 'echo in a login shell; cd; pwd; type ls' | sed 's/agentd-test-[^/]*/X/'",
    "archives": """
        mkdir d && echo x > d/a && tar czf d.tgz d && rm -r d && tar xzf d.tgz && cat d/a && tar cf - d | tar tf -
        gzip -k d/a && zcat d/a.gz && /usr/bin/python3 -m zipfile --create d.zip d &&
        /usr/bin/python3 -m zipfile --list d.zip | cut -c1-10""",
    "searching": """
        mkdir -p s/t && echo needle > s/t/f && grep -rn needle . && find . -name f -exec cat {} + && find . -type f -print0 | xargs -0 wc -c
        find . -name f -delete && ls -R s; grep -rl nothing /etc/hosts; perl -ne 'print if /h/' <<< hay; awk 'END {print NR}' /etc/passwd > n""",
    "a server": """
        /usr/bin/python3 -u -m http.server --bind 127.0.0.1 0 > log 2>&1 & server=$!
        until grep -q Serving log; do sleep 0.05; done; p=$(sed 's/.*port \\([0-9]*\\).*/\\1/' log | head -1)
        echo page > index.html; curl -s http://127.0.0.1:$p/; curl -s http://localhost:$p/index.html; kill $server; wait $server; echo $?""",
    "what agents write": """
        mkdir -p ~/.claude/projects ~/.cache/x && echo '{}' > ~/.claude.json.tmp && mv ~/.claude.json.tmp ~/.claude.json
        echo x > ~/.claude/projects/x && rm ~/.claude/projects/x && cat ~/.claude.json; echo cached > ~/.cache/x/y && cat ~/.cache/x/y""",
}  # fmt: skip


def make_wheel(path: Path) -> None:
    """The package that "venv and pip" installs."""
    with zipfile.ZipFile(path, "w") as wheel:
        info = "hello-1.0.dist-info"
        wheel.writestr("hello.py", "def main():\n    print('hello from a wheel')\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: hello\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/entry_points.txt", "[console_scripts]\nhello = hello:main\n")
        wheel.writestr(f"{info}/RECORD", "")
