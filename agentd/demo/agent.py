"""A small assistant as people write them: it searches, mails and tidies up. It knows nothing of what it runs under.

usage: agent.py SEARCH_URL SMTP_PORT FOLDER_TO_TIDY OTHER_PORT
"""

from __future__ import annotations

import os
import smtplib
import socket
import subprocess
import sys
import time
import urllib.request


def ended(status: int) -> str:
    return f"ended by signal {-status}" if status < 0 else f"exited with {status}"


def search(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return f"results: {answer.read().decode()}"


def mail(port: str, to: str) -> str:
    """Hand over a message."""
    try:
        with smtplib.SMTP("127.0.0.1", int(port), local_hostname="localhost", timeout=60) as server:
            server.sendmail("bot@example.com", to, f"To: {to}\r\nSubject: Q3 numbers\r\n\r\nAll good.\r\n")
    except OSError as error:
        return f"not sent: errno {error.errno}, {error.strerror}"
    return "sent"


def tidy(folder: str) -> str:
    try:
        return f"rm {ended(subprocess.run(['rm', '-rf', folder]).returncode)}"
    except OSError as error:
        return f"rm not started: errno {error.errno}, {error.strerror}"


def read_notes() -> str:
    with open("copy.txt", "wb") as copy:
        done = subprocess.run(["cat", "todo.txt", "notes.txt"], stdout=copy)
    return f"cat {ended(done.returncode)}, {os.path.getsize('copy.txt')} bytes in copy.txt"


def background(port: str) -> str:
    """Let a process that nobody waits for try a port."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(0.2)  # until the parent has gone and another process has adopted this one
            with socket.socket() as phone, open("background.log", "w") as log:
                print(os.getpid(), os.getsid(0), os.getppid(), phone.connect_ex(("127.0.0.1", int(port))), file=log)
        os._exit(0)
    os.wait()
    for _ in range(600):
        time.sleep(0.1)
        if os.path.exists("background.log") and os.path.getsize("background.log"):
            with open("background.log") as log:
                pid, session, parent, errno = log.read().split()
            return f"pid {pid} of session {session}, child of {parent}: connect says errno {errno}"
    return "nothing heard from it"


def main(url: str, smtp: str, folder: str, port: str) -> None:
    """Do the day's work."""
    print(f"[1] search the web: GET {url}", flush=True)
    print(" ->", search(url), flush=True)
    print("[2] send an e-mail to ceo@example.com", flush=True)
    print(" ->", mail(smtp, "ceo@example.com"), flush=True)
    print("[3] send an e-mail to everybody@example.com", flush=True)
    print(" ->", mail(smtp, "everybody@example.com"), flush=True)
    print(f"[4] tidy up: rm -rf {folder}", flush=True)
    print(" ->", tidy(folder), flush=True)
    print("[5] read todo.txt and notes.txt into copy.txt", flush=True)
    print(" ->", read_notes(), flush=True)
    print(f"[6] have a setsid, double-forked child connect to port {port}", flush=True)
    print(" ->", background(port), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
