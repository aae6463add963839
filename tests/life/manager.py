"""Holds listening sockets and runs a program on them, as a service manager does (sd_listen_fds(3)).

usage: manager.py NAME:NAME... PROGRAM ARGS...    then `start` or `stop` on standard input, one a line
It prints the ports first, then `started PID` or `stopped CODE`.
"""
import fcntl
import os
import signal
import socket
import sys

names, command = sys.argv[1], sys.argv[2:]
sockets = [socket.create_server(('127.0.0.1', 0), backlog=512) for _ in names.split(':')]
print(*(one.getsockname()[1] for one in sockets), flush=True)


def start():
    pid = os.fork()
    if pid:
        return pid
    # First out of the way, then to their places: a place may be another socket's number here.
    spare = [fcntl.fcntl(one.fileno(), fcntl.F_DUPFD, 100) for one in sockets]
    for place, one in enumerate(spare, start=3):
        os.dup2(one, place)
        os.close(one)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(spare)), LISTEN_FDNAMES=names)
    os.execvp(command[0], command)


pid = None
for line in sys.stdin:
    if line.strip() == 'start':
        pid = start()
        print('started', pid, flush=True)
    elif pid:
        os.kill(pid, signal.SIGTERM)
        print('stopped', os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        pid = None
if pid:
    os.kill(pid, signal.SIGKILL)
