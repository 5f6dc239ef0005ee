"""One tunnel with its targets, started afresh and gone at the end of a `with`; and the load that is put on it."""

import contextlib
import json
import os
import random
import select
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass

import measure
import peers
from measure import CLIENT_CPU, SERVER_CPU, Failure, Process

START_SECONDS = 15
# Below the ports that the system gives to connections, so that a port that was free stays free for a second start.
PORTS = range(10_000, 32_000)
REQUEST = b"GET /plaintext HTTP/1.1\r\nHost: x\r\n\r\n"
ANSWER_END = b"Hello, World!"


@dataclass
class Tools:
    """Where the programs are."""

    programs: peers.Programs
    lab: str

    def of_lab(self, name):
        return os.path.join(self.lab, name)


@dataclass
class Face:
    """A port with what is spoken on it, as the client program wants to know."""

    port: int
    protocol: str


def free_ports(count):
    found = []
    while len(found) < count:
        port = random.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            if port not in found:
                probe.bind(("127.0.0.1", port))
                found.append(port)
    return found


class Tunnel:
    """The processes of one tunnel on one processor, its targets on the other."""

    def __init__(self, name, tools, meet_through=None, before=()):
        """`meet_through` is given the port where the tunnel's sides meet, and says where the client side dials instead;
        each of `before` goes before the command of its side."""
        self.name = name
        self.tools = tools
        self.meet_through = meet_through
        self.before = before

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="tunnel-"))
            self.stack = stack
            self.start_all()
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.stack.close()

    def start_all(self):
        found = free_ports(12)
        target = dict(zip(peers.FACES, found))
        front = target if self.name == peers.DIRECT else dict(zip(peers.FACES, found[3:]))
        self.ports = peers.Ports(front, target, found[6:])
        setup = peers.setup(self.name, self.tools.programs, self.ports, self.directory)
        if self.name in peers.TLS:
            peers.write_certificate(self.directory)
        for file, text in setup.files.items():
            with open(os.path.join(self.directory, file), "w") as out:
                out.write(text)
        # A direct connection has nothing between the two processors but the loopback interface.
        cpu = CLIENT_CPU if setup.commands else SERVER_CPU
        self.targets = [
            self.keep(Process([self.tools.of_lab("raw"), "--proto", face, "--port", str(target[face])], cpu))
            for face in ("http", "rpc")]
        self.targets.append(
            self.keep(Process([self.tools.of_lab("flow"), "--serve", "--port", str(target["bulk"])], cpu)))
        for face in peers.FACES:
            self.wait_for_port(target[face])
        befores = [*self.before, *([[]] * len(setup.commands))]
        self.commands = [[*before, *command] for before, command in zip(befores, setup.commands)]
        self.processes = []
        for at in range(len(self.commands)):
            if at == 1 and self.meet_through:
                dialed = str(self.meet_through(self.ports.own[0]))
                self.commands[1] = [a.replace(str(self.ports.own[0]), dialed) for a in self.commands[1]]
            self.processes.append(None)
            self.start(at)
        self.wait_until_it_works()
        # A tunnel may open its ports one after the other.
        for face in peers.FACES:
            self.wait_for_port(front[face])

    def keep(self, process):
        self.stack.callback(process.end)
        return process

    def start(self, at):
        """Starts a side, once more if it was killed."""
        self.processes[at] = self.keep(Process(self.commands[at], SERVER_CPU))

    def kill(self, at):
        """Kills a side without a warning."""
        self.processes[at].process.kill()
        self.processes[at].process.wait()

    def wait_for_port(self, port):
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                return socket.create_connection(("127.0.0.1", port), 1).close()
            if time.monotonic() > deadline:
                raise Failure(f"{self.name}: nothing listens on port {port}")
            time.sleep(0.01)

    def works(self):
        """Whether a request is answered through the tunnel."""
        answer = b""
        with contextlib.suppress(OSError), self.dial("http", 1) as user:
            user.sendall(REQUEST)
            while not answer.endswith(ANSWER_END) and (more := user.recv(4096)):
                answer += more
        return answer.endswith(ANSWER_END)

    def wait_until_it_works(self, most=START_SECONDS):
        """Seconds until a request was answered."""
        start = time.monotonic()
        while not self.works():
            for process in self.processes:
                if not process.is_running:
                    process.end()
                    raise Failure(f"{' '.join(process.command)}: has ended: {process.complained}")
            if time.monotonic() - start > most:
                raise Failure(f"{self.name}: no answer after {most} s")
            time.sleep(0.005)
        return time.monotonic() - start

    def dial(self, face, seconds):
        return socket.create_connection(("127.0.0.1", self.ports.front[face]), seconds)

    def face(self, name):
        return Face(self.ports.front[name], name)

    # What the system knows of it.

    def cpu_seconds(self):
        return sum(process.cpu_seconds() for process in self.processes)

    def resident_bytes(self):
        """Of each side."""
        return [process.resident_kib() * 1024 for process in self.processes]

    def descriptors(self):
        """Of each side."""
        return [process.descriptors() for process in self.processes]

    def settle(self, most=5):
        """Waits until the tunnel uses no processor time to speak of."""
        deadline = time.monotonic() + most
        while time.monotonic() < deadline:
            before = self.cpu_seconds()
            time.sleep(0.25)
            if self.cpu_seconds() - before < 0.005:
                return


class Meter:
    """Processor time of a tunnel between `start` and `stop`, and of anybody who has nothing to do with it."""

    def __init__(self, tunnel, loads=()):
        """`loads` are programs that put the load on it and go on running."""
        self.tunnel = tunnel
        self.own = [*tunnel.processes, *tunnel.targets, *loads]

    def read(self):
        return (
            self.tunnel.cpu_seconds(), sum(process.cpu_seconds() for process in self.own), measure.machine_busy_seconds(),
            time.monotonic())

    def start(self):
        self.before = self.read()

    def stop(self, more_own=0.0):
        """`more_own` are seconds of processes that have ended already."""
        cpu, own, busy, wall = (after - before for after, before in zip(self.read(), self.before))
        self.cpu = cpu
        self.foreign = max(0.0, busy - own - more_own) / wall * 100


class InstructionMeter:
    """User-space instructions of each side of a tunnel whose sides were started under `callgrinds`."""

    def __init__(self, tunnel, callgrinds):
        self.pairs = list(zip(tunnel.processes, callgrinds))

    def start(self):
        for process, callgrind in self.pairs:
            callgrind.start(process.pid)

    def stop(self, _more_own=0.0):
        self.sides = [callgrind.stop(process.pid) for process, callgrind in self.pairs]


def ask(tunnel, face, arguments, seconds, meter, errors_too=False):
    """Small requests while the meter runs; what the client reports of them. For `errors_too` see `measure.run_load`."""
    load, where = tunnel.tools.of_lab("load"), tunnel.face(face)
    measure.run_load(load, where, [*arguments, "--secs", "1"])
    meter.start()
    report = measure.run_load(load, where, [*arguments, "--secs", str(seconds)], errors_too)
    meter.stop(report["client_cpu"])
    if not report["requests"]:
        raise Failure("no request was answered")
    return report


def requests(tunnel, face, arguments, seconds, loads=()):
    """Small requests: what they took, with `us` of processor time of the tunnel for each, beside `loads`."""
    meter = Meter(tunnel, loads)
    report = ask(tunnel, face, arguments, seconds, meter, errors_too=True)
    return {
        "us": meter.cpu / report["requests"] * 1e6, "p50": report["fast"]["p50"], "p99": report["fast"]["p99"],
        "req_per_s": report["req_per_s"], "errors": report["errors"], "foreign": meter.foreign}


class Flow:
    """The `flow` program as a user of the tunnel; ended at the end of the `with`."""

    def __init__(self, tunnel, *arguments):
        address = f"127.0.0.1:{tunnel.ports.front['bulk']}"
        self.command = [tunnel.tools.of_lab("flow"), *arguments, "--connect", address]

    def __enter__(self):
        self.program = Process(
            self.command, CLIENT_CPU, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        return self

    def __exit__(self, *_):
        self.program.end()

    def line(self, seconds):
        """The next line that it prints."""
        out = self.program.process.stdout
        if select.select([out], [], [], seconds)[0]:
            line = out.readline().decode().strip()
            if line:
                return line
        self.program.end()
        raise Failure(f"{' '.join(self.command)}: says nothing: {self.program.complained}")

    def verdict(self, seconds):
        """What it says at the end of `--verify`; fails when a stream was not carried as it was sent."""
        verdict = json.loads(self.line(seconds))
        if faults := verdict["faults"]:
            raise Failure(f"{len(faults)} of {verdict['streams']} streams were not carried as they were sent: {faults[0]}")
        return verdict

    def must_run(self):
        """Fails when it has ended by itself, as it does when a stream broke."""
        if not self.program.is_running:
            self.program.end()
            raise Failure(f"{' '.join(self.command)}: has ended: {self.program.complained}")

    def go_on(self):
        """Ends its standard input, for which it waits."""
        self.program.process.stdin.close()


def bulk(tunnel, streams, up, seconds):
    """Streams without an end: what was carried in a second, and the processor time for 10^9 bytes."""
    direction = ["--up"] if up else []
    target = f"127.0.0.1:{tunnel.ports.target['bulk']}"
    with Flow(tunnel, "--bulk", *direction, "--target", target, "--streams", str(streams), "--warm", "1",
              "--secs", str(seconds)) as flow:
        expect(flow.line(20), "begun")
        meter = Meter(tunnel, [flow.program])
        meter.start()
        carried = json.loads(flow.line(seconds + 20))
        meter.stop()
    size, took = carried["bytes"], carried["secs"]
    if not size:
        raise Failure("nothing was carried")
    return {"gb_per_s": size / took / 1e9, "cpu_s_per_gb": meter.cpu / (size / 1e9), "foreign": meter.foreign}


def sent_by_target(tunnel):
    """Bytes that the bulk target has sent so far."""
    command = [tunnel.tools.of_lab("flow"), "--count", "--target", f"127.0.0.1:{tunnel.ports.target['bulk']}"]
    said = subprocess.run(
        command, capture_output=True, check=True, timeout=20, preexec_fn=measure.settle_on(CLIENT_CPU)).stdout
    return json.loads(said)["sent"]


def verify(tunnel, streams, size, seconds, *more):
    """Carries `size` bytes with every byte looked at; what `flow` says of it. A fault is a failure."""
    with Flow(tunnel, "--verify", "--streams", str(streams), "--bytes", str(size), *more) as flow:
        return flow.verdict(seconds)


def expect(said, wanted):
    if said != wanted:
        raise Failure(f"said {said!r} instead of {wanted!r}")
