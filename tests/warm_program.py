"""`consisti2v` without the seconds that its libraries take to import: a server has them.

The server: `python warm_program.py serve SOCKET`. The client, which stands for the program:
`python warm_program.py call SOCKET ARGUMENT...`. For each call the server makes a copy of itself, which runs the real
command line in the client's folder, with the client's environment, standard input, output and error.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

LENGTH = 8  # bytes that say how long a request is


def serve(address: str) -> None:
    """Answer each call with a copy of this process, until it is ended. The socket appears when it is ready."""
    from consisti2v_cli import render  # noqa: F401
    from consisti2v_cli.weights import require
    from consisti2v_cli.weights.load import load_model

    load_model(require("sketch"), device="cpu", dtype="fp32", attention="sdpa")  # imports what is imported late
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the copies: they answer themselves
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address + ".part")
        server.listen()
        os.rename(address + ".part", address)
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                answer(connection)
            connection.close()


def answer(connection: socket.socket) -> None:
    """Run what one call asks for, send the exit code, and end."""
    from consisti2v_cli.commands import main

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, streams, _, _ = socket.recv_fds(connection, LENGTH, 3)
    request = json.loads(connection.makefile("rb").read(int.from_bytes(message, "big")))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    code: object = 1
    try:
        main(request["arguments"])
    except SystemExit as ended:
        code = ended.code
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        connection.sendall(bytes([code if isinstance(code, int) else 1]))
        os._exit(0)


def call(address: str, arguments: list[str]) -> int:
    """Let the server run a command line. Returns its exit code."""
    request = {"folder": os.getcwd(), "environment": dict(os.environ), "arguments": arguments}
    message = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [len(message).to_bytes(LENGTH, "big")], [0, 1, 2])
        connection.sendall(message)
        code = connection.recv(1)
    return code[0] if code else 1


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(call(sys.argv[2], sys.argv[3:]))
