"""An echo server with a thread for each client."""
import socket
import sys
import threading


def echo(conn):
    with conn:
        try:
            while data := conn.recv(64 * 1024):
                conn.sendall(data)
        except OSError:
            pass  # This client is gone, and no other one.


listener = socket.create_server(("127.0.0.1", 0), backlog=128)
print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)


def serve():
    while True:
        conn, _ = listener.accept()
        threading.Thread(target=echo, args=(conn,), daemon=True).start()


threading.Thread(target=serve, daemon=True).start()
sys.stdin.read()
