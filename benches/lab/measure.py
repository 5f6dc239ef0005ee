"""Starting servers and the client, and reading what the system knows of them."""

import collections
import contextlib
import glob
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

CPUS = sorted(os.sched_getaffinity(0))
SERVER_CPU, CLIENT_CPU = CPUS[0], CPUS[-1]
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
START_SECONDS = 10
NICENESS = -15
DESCRIPTORS = 65_536
# What a thread's work is called by, from beginning to end.
OUTERMOST = ("std::sys::backtrace::", "poller::pool::", "poller::worker::lead")


class Failure(Exception):
    """A measurement that could not be taken, with the reason."""


# What a measurement can end with and the others go on: also a file or a program of the system that does not answer.
FAILURES = (Failure, OSError, subprocess.SubprocessError)


def end_by_signals():
    """Lets the signals that end this program end what it has started, too: by leaving every `with`."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _: sys.exit(128 + number))


def descriptors_max():
    """How many descriptors a child may have; who may raise the limit gets enough for every workload."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < DESCRIPTORS:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, DESCRIPTORS))
        except (ValueError, PermissionError):
            return hard
    return max(hard, DESCRIPTORS)


def settle_on(cpu):
    """What a child does before it becomes a server or the client: one processor, before others, many descriptors."""

    def prepare():
        os.sched_setaffinity(0, {cpu})
        most = descriptors_max()
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        try:
            os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
        except PermissionError:
            pass  # Only the spread of the figures suffers; the foreign share says by how much.

    return prepare


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


class Process:
    """One process, pinned to a processor, with what it says to its standard error kept."""

    def __init__(self, command, cpu, **pipes):
        self.command = command
        self.complaints = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command, stderr=self.complaints, preexec_fn=settle_on(cpu),
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **pipes})

    def end(self, by=signal.SIGTERM):
        """Ends it, and reads the last that it said into `complained`. Can be called again."""
        if self.complaints.closed:
            return
        if self.process.poll() is None:
            self.process.send_signal(by)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        self.complaints.seek(0)
        self.complained = self.complaints.read().strip()[-300:]
        self.complaints.close()

    @property
    def is_running(self):
        return self.process.poll() is None

    @property
    def pid(self):
        return self.process.pid

    def cpu_seconds(self):
        """All that the process has used, threads that have ended included, to the nanosecond."""
        process_clock = (~self.pid << 3) | 2  # See clock_getcpuclockid(3); 2 is what the scheduler counted.
        return time.clock_gettime(process_clock)

    def switches(self):
        """How often its threads went to sleep, and how often they were interrupted, by thread."""
        found = {}
        for path in glob.glob(f"/proc/{self.pid}/task/*/status"):
            try:
                text = open(path).read()
            except OSError:
                continue  # The thread has ended.
            counts = [int(n) for n in re.findall(r"voluntary_ctxt_switches:\s+(\d+)", text)]
            found[path] = tuple(counts)
        return found

    def resident_kib(self):
        found = None
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{self.pid}/status") as status:
            found = re.search(r"VmRSS:\s+(\d+)", status.read())
        if not found:
            # Until it is waited for, there is a status without memory.
            raise Failure(f"{' '.join(self.command)}: has ended")
        return int(found[1])

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))


class Server(Process):
    """One server process, started afresh, pinned to its processor, and gone at the end of the `with`."""

    def __init__(self, command, protocol, before=()):
        self.port = free_port()
        self.command = [*before, *command, "--port", str(self.port), "--proto", protocol]
        self.protocol = protocol

    def __enter__(self):
        super().__init__(self.command, SERVER_CPU)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                pass
            if not self.is_running or time.monotonic() > deadline:
                self.end()
                raise Failure(f"{' '.join(self.command)}: does not listen: {self.complained}")
            time.sleep(0.01)

    def __exit__(self, *_):
        self.end()


def load_command(load, server, arguments):
    return [load, "--port", str(server.port), "--proto", server.protocol, *arguments]


def run_load(load, server, arguments, errors_too=False):
    """Runs the client to its end; what it reported, with its own processor time as `client_cpu`.

    Errors of its connections are a failure; with `errors_too` they are for the caller, who reads them in the report.
    """
    client = subprocess.Popen(
        load_command(load, server, arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, preexec_fn=settle_on(CLIENT_CPU))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        out, err = client.communicate()
    except BaseException:
        client.kill()
        client.wait()
        raise
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if client.returncode != 0:
        raise Failure(f"{' '.join(client.args)}: {err.strip()[-300:]}")
    report = json.loads(out)
    if report["errors"] and not errors_too:
        raise Failure(f"{' '.join(client.args)}: {report['errors']} errors")
    report["client_cpu"] = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    return report


def machine_busy_seconds():
    """Processor time that anybody used, on all processors; of a virtual machine also what its host gave to others."""
    with open("/proc/stat") as stat:
        return busy_ticks(stat.readline()) / TICKS_PER_SECOND


def busy_ticks(line):
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line.split()[1:9])
    return user + nice + system + irq + softirq + steal


def sample(load, server, arguments, warm_up):
    """One interval of load on a running server."""
    if warm_up:
        run_load(load, server, [*arguments, "--secs", "1"])
    busy, wall = machine_busy_seconds(), time.monotonic()
    cpu, switches = server.cpu_seconds(), server.switches()
    report = run_load(load, server, arguments, errors_too=True)
    cpu = server.cpu_seconds() - cpu
    switches = [sum(s[0] for s in group.values()) for group in (server.switches(), switches)]
    wall = time.monotonic() - wall
    busy = machine_busy_seconds() - busy
    requests = report["requests"]
    if requests == 0:
        raise Failure(f"{' '.join(server.command)}: no request was answered")
    figures = {
        "req_per_s": report["req_per_s"],
        "us": cpu / requests * 1e6,
        "sleeps": (switches[0] - switches[1]) / requests,
        "errors": report["errors"],
        "client_us": report["client_cpu"] / requests * 1e6,
        "foreign": max(0.0, busy - cpu - report["client_cpu"]) / wall * 100,
        "firehose_mb_per_s": report["firehose_bytes"] / report["secs"] / 1e6,
    }
    for prefix, part in (("", report), ("first_", report["first"]), ("later_", report["later"])):
        figures[prefix + "req_per_s"] = part["req_per_s"]
        for quantile in ("p50", "p99", "p999", "max"):
            figures[prefix + quantile] = (part["fast"] or {}).get(quantile)
    figures["slow_p50"] = (report["slow"] or {}).get("p50")
    return figures


def idle_memory(load, server, conns):
    """Resident bytes for each of many idle connections, and KiB before, with and after them."""
    run_load(load, server, ["--conns", "64", "--secs", "0.5"])
    time.sleep(0.5)
    before = server.resident_kib()
    with held_connections(load, server, conns):
        time.sleep(2)
        held = server.resident_kib()
    time.sleep(1)
    return (held - before) * 1024 / conns, before, held, server.resident_kib()


class held_connections:
    """Connections that were used once and are idle for the length of the `with`.

    At its end each is used once more, and one that is gone is a failure: what was measured was not what it should be.
    """

    def __init__(self, load, server, conns):
        self.command = load_command(load, server, ["--idle", str(conns)])

    def __enter__(self):
        self.client = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=settle_on(CLIENT_CPU))
        if self.client.stdout.readline().strip() != "ready":
            raise Failure(f"{' '.join(self.command)}: {self.client.communicate()[1].strip()[-300:]}")

    def __exit__(self, kind, *_):
        if kind:
            self.client.kill()
        said = self.client.communicate("")[1]
        if self.client.returncode and not kind:
            raise Failure(f"{' '.join(self.command)}: {said.strip()[-300:]}")


def wake_ups(server, seconds):
    """How often any thread of the process ran in the meantime; a thread that came or went counts as one."""
    before = server.switches()
    time.sleep(seconds)
    return differences(before, server.switches())


def differences(before, after):
    """How often any thread ran between two counts of switches."""
    return sum(1 for path in before.keys() ^ after.keys()) + sum(
        sum(after[path]) - sum(before[path]) for path in before.keys() & after.keys())


class Callgrind:
    """Counts the user-space instructions of one process that is started behind `before`."""

    def __init__(self, directory, name):
        for tool in ("valgrind", "callgrind_control", "callgrind_annotate"):
            if shutil.which(tool) is None:
                raise Failure(f"{tool} is not installed")
        self.out = os.path.join(directory, name)
        self.before = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={self.out}"]
        self.dumps = 0

    def start(self, pid):
        self.control("--zero", pid)

    def stop(self, pid):
        """Instructions since the start: all of them, and by function."""
        self.control("--dump", pid)
        self.dumps += 1
        dump = f"{self.out}.{self.dumps}"
        total = int(re.search(r"^(?:totals|summary):\s+(\d+)", open(dump).read(), re.M)[1])
        listed = subprocess.run(
            ["callgrind_annotate", "--auto=no", "--threshold=100", dump], check=True, capture_output=True, text=True).stdout
        by_function = collections.Counter()
        # A line is `count (share) file:function [object]`; a function has a line for each file whose code it contains.
        for count, name in re.findall(r"^\s*([\d,]+)\s+\([^)]*\)\s+\S*?:([^/\n].*?)(?: \[.*\])?$", listed, re.M):
            by_function[name] += int(count.replace(",", ""))
        # A function that never returned has everything that it called, and so next to everything of its thread.
        return total, collections.Counter(
            {name: n for name, n in by_function.items() if n < total * 0.99 and not name.startswith(OUTERMOST)})

    def control(self, order, pid):
        subprocess.run(["callgrind_control", order, str(pid)], check=True, capture_output=True)


def most_of(by_function, units, count):
    """The functions that most instructions belong to, with how many for each unit."""
    return [(name, n / units) for name, n in by_function.most_common(count) if n / units >= 0.05]


def instructions(load, command, protocol, depth, requests, functions):
    """User-space instructions for each request under callgrind, and the functions that most of them belong to."""
    with tempfile.TemporaryDirectory() as directory:
        callgrind = Callgrind(directory, "callgrind")
        arguments = ["--conns", "64", "--pipeline", str(depth), "--requests"]
        with Server(command, protocol, before=callgrind.before) as server:
            run_load(load, server, [*arguments, str(requests // 10)])
            callgrind.start(server.pid)
            report = run_load(load, server, [*arguments, str(requests)])
            total, by_function = callgrind.stop(server.pid)
    return total / report["requests"], most_of(by_function, report["requests"], functions)
