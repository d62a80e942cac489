"""The command can be stopped from its first moment on."""

import signal
import subprocess
import sys

import pytest

#: Ways in which a program may be when the signal comes: it imports a module that catches everything, or has started a thread.
STATES = {
    "importing": """
        try:
            print("here", flush=True)
            time.sleep(30)
        except BaseException:
            time.sleep(30)
    """,
    "with a thread": """
        threading.Thread(target=time.sleep, args=(30,)).start()
        print("here", flush=True)
        time.sleep(30)
    """,
    "waiting": """
        print("here", flush=True)
        time.sleep(30)
    """,
}


@pytest.mark.parametrize("state", STATES)
def test_sigterm_before_the_server_serves_ends_it_at_once_with_0(state: str) -> None:
    code = f"import sys, threading, time, types\ndef main():{STATES[state]}\n"
    stand_in = "sys.modules['turnout_server.__main__'] = types.SimpleNamespace(main=main)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}{stand_in}from turnout_server import entry\nentry.main()"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    finally:
        process.kill()
        process.communicate()
