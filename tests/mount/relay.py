#!/usr/bin/env python3
"""relay.py PORT: listens on a free port of loopback, prints it, and passes each connection on to PORT, waiting while nobody listens there.
A kernel's client whose connection is refused waits seconds before it tries again: with this, a server is killed a hundred times in a minute."""
import socket, sys, threading, time

def connect(port):
    while True:
        try:
            return socket.create_connection(('127.0.0.1', port))
        except OSError:
            time.sleep(0.01)

def pump(a, b):
    try:
        while data := a.recv(1 << 20):
            b.sendall(data)
    except OSError:
        pass
    for s in a, b:
        try:
            s.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

def serve(client, port):
    server = connect(port)
    for s in client, server:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    back = threading.Thread(target=pump, args=(server, client))
    back.start()
    pump(client, server)
    back.join()
    client.close()
    server.close()

listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
while True:
    client, _ = listener.accept()
    threading.Thread(target=serve, args=(client, int(sys.argv[1])), daemon=True).start()
