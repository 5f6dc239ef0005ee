"""What is measured of a tunnel. Each function takes a running tunnel and the options, and gives figures by name."""

import contextlib
import random
import selectors
import socket
import statistics
import tempfile
import threading
import time

import measure
import tunnel as tunnels
from peers import ANYPROXY

MIB = 1 << 20
# Connections that are there before the idle ones are counted, so that what a program takes once is not theirs.
IDLE_BEFORE = 100
# A relay takes two descriptors for each, which is soon more than it may have; what each costs is seen with fewer.
IDLE_OF_PEERS = 1000
STOPPED_BYTES = 64 * MIB
SIDES = ("server", "client")
INTACT_BYTES = 500_000_000
COUNTED_BYTES = 100_000_000
RESTART_PAUSE_SECONDS = 2


def bulk(tunnel, options):
    figures = {}
    for name, streams, up in (("down1", 1, False), ("down8", 8, False), ("up1", 1, True), ("up8", 8, True)):
        put(figures, name, tunnels.bulk(tunnel, streams, up, options.secs))
        tunnel.settle()
    return figures


def bulk_down(tunnel, options):
    figures = {}
    for name, streams in (("down1", 1), ("down8", 8)):
        put(figures, name, tunnels.bulk(tunnel, streams, False, options.secs))
        tunnel.settle()
    return figures


def small(tunnel, options):
    figures = {}
    for conns in (1, 64):
        put(figures, f"conns{conns}", tunnels.requests(tunnel, "http", ["--conns", str(conns)], options.secs))
    return figures


def churn(tunnel, options):
    return tunnels.requests(tunnel, "http", ["--conns", "8", "--churn"], options.secs)


def beside(conns):
    """Messages of 64 bytes on `conns` connections, alone and beside one stream that carries as much as it can."""

    def run(tunnel, options):
        small_ones = ["--conns", str(conns), "--size", "64"]
        figures = {}
        put(figures, "alone", tunnels.requests(tunnel, "rpc", small_ones, options.secs))
        with bulk_in_background(tunnel, options.secs + 60) as bulk_one:
            before, start = tunnels.sent_by_target(tunnel), time.monotonic()
            put(figures, "beside", tunnels.requests(tunnel, "rpc", small_ones, options.secs, [bulk_one.program]))
            sent, took = tunnels.sent_by_target(tunnel) - before, time.monotonic() - start
            bulk_one.must_run()
        figures["bulk_gb_per_s"] = sent / took / 1e9
        tunnel.settle()
        return {name: value for name, value in figures.items() if not name.endswith("_us")}

    return run


@contextlib.contextmanager
def bulk_in_background(tunnel, seconds, streams=1):
    """Bulk streams down for the length of the `with`, by the program that it gives."""
    target = f"127.0.0.1:{tunnel.ports.target['bulk']}"
    with tunnels.Flow(tunnel, "--bulk", "--target", target, "--warm", "0.5", "--secs", str(seconds),
                      "--streams", str(streams)) as flow:
        tunnels.expect(flow.line(20), "begun")
        yield flow


def stopped(name, tools, options):
    """Seven streams beside one whose reader reads nothing for some time, and whether that one is whole afterwards.

    What they are held against are seven in a second tunnel without such a reader, in turn with them: a machine that is
    slower for a while is so for both.
    """
    with tunnels.Tunnel(name, tools) as tunnel, tunnels.Tunnel(name, tools) as other:
        before = tunnel.resident_bytes()
        stop = time.monotonic() + options.stop_secs
        size = ["--streams", "1", "--bytes", str(STOPPED_BYTES), "--down", "--seed", "5"]
        with tunnels.Flow(tunnel, "--verify", "--hold", *size) as reader:
            tunnels.expect(reader.line(20), "held")
            tunnel.settle()
            # Read now, because what the seven take stays with the processes for a while.
            grown = [after - first for after, first in zip(tunnel.resident_bytes(), before)]
            rates = {tunnel: [], other: []}
            while not rates[other] or time.monotonic() + 2 * (options.secs + 1) < stop:
                for each in rates:
                    rates[each].append(tunnels.bulk(each, 7, False, options.secs)["gb_per_s"])
            time.sleep(max(0.0, stop - time.monotonic()))
            reader.go_on()
            reader.verdict(90)
    beside, alone = (statistics.median(rates[each]) for each in (tunnel, other))
    return {
        "alone_gb_per_s": alone, "beside_gb_per_s": beside,
        "kept": statistics.median(one / two for one, two in zip(rates[tunnel], rates[other])),
        "server_grown_mib": grown[0] / MIB, "client_grown_mib": grown[1] / MIB}


def idle(tunnel, options):
    """Memory and descriptors for each of many streams that have been used once."""
    load, face = tunnel.tools.of_lab("load"), tunnel.face("http")
    streams = options.idle_streams if tunnel.name == ANYPROXY else min(IDLE_OF_PEERS, options.idle_streams)
    with measure.held_connections(load, face, IDLE_BEFORE):
        time.sleep(1)
        memory, descriptors = tunnel.resident_bytes(), tunnel.descriptors()
        with measure.held_connections(load, face, streams):
            time.sleep(2)
            memory = [after - before for after, before in zip(tunnel.resident_bytes(), memory)]
            descriptors = [after - before for after, before in zip(tunnel.descriptors(), descriptors)]
    figures = {"streams": streams, "bytes": sum(memory) / streams, "descriptors": sum(descriptors) / streams}
    for side, name in zip(memory, SIDES):
        figures[f"{name}_bytes"] = side / streams
    return figures


def restart(tunnel, _):
    """Seconds from the start of a server side that was killed until a request is answered."""
    tunnel.kill(0)
    time.sleep(RESTART_PAUSE_SECONDS)
    tunnel.start(0)
    return {"back_s": tunnel.wait_until_it_works(20)}


def kills(tunnel, options):
    """Each side killed under load again and again, started again at once; then nothing is stuck."""
    # What the first request has left open for a while is not the tunnel's own.
    tunnel.settle()
    descriptors = tunnel.descriptors()
    took = {0: [], 1: []}
    for turn in range(2 * options.kills):
        side = turn % 2
        with bulk_in_background(tunnel, 600, streams=4):
            time.sleep(random.uniform(0.05, 0.3))
            tunnel.kill(side)
            tunnel.start(side)
            took[side].append(tunnel.wait_until_it_works(20))
    tunnels.verify(tunnel, 20, 20_000_000, 120)
    tunnel.settle()
    left = wait_for_few(tunnel.descriptors, descriptors)
    figures = {"left_descriptors": max(now - before for now, before in zip(left, descriptors))}
    for side, name in enumerate(SIDES):
        figures[f"{name}_p50"] = statistics.median(took[side])
        figures[f"{name}_p99"] = sorted(took[side])[-1 - len(took[side]) // 100]
    return figures


def wait_for_few(count, wanted, seconds=10):
    """The counts when none is above `wanted`, or what they are after some time."""
    deadline = time.monotonic() + seconds
    while any(now > most for now, most in zip(count(), wanted)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return count()


def intact(tunnel, _):
    whole = tunnels.verify(tunnel, 100, INTACT_BYTES, 300)
    return {"gb_per_s": (whole["up"] + whole["down"]) / whole["secs"] / 1e9}


class Listener:
    """A relay for the connection between a tunnel's sides, that writes down when how much went which way.

    Two processes talk through it as they would without it, but for a copy of each piece; so it counts what an idle
    tunnel says without rights that counting packets would need.
    """

    def __init__(self):
        self.pieces = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.closed = threading.Event()

    def meet(self, port):
        """Begins to relay to the port; where to dial instead."""
        self.port = port
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        return self.listener.getsockname()[1]

    def close(self):
        self.closed.set()
        self.thread.join()
        self.listener.close()

    def run(self):
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
            selector.register(self.listener, selectors.EVENT_READ)
            while not self.closed.is_set():
                for key, _ in selector.select(0.1):
                    if key.data is None:
                        near = stack.enter_context(self.listener.accept()[0])
                        far = stack.enter_context(socket.create_connection(("127.0.0.1", self.port)))
                        selector.register(near, selectors.EVENT_READ, ("to server", far))
                        selector.register(far, selectors.EVENT_READ, ("to client", near))
                        continue
                    direction, other = key.data
                    piece = b""
                    with contextlib.suppress(OSError):
                        piece = key.fileobj.recv(MIB)
                        other.sendall(piece)
                    if piece:
                        self.pieces.append((time.monotonic(), direction, len(piece)))
                    else:
                        selector.unregister(key.fileobj)
                        with contextlib.suppress(OSError):
                            other.shutdown(socket.SHUT_WR)


def quiet(name, tools, options):
    """What an idle tunnel says, and how often its processes run; starts the tunnel itself, to listen between its sides."""
    listener = Listener()
    with tunnels.Tunnel(name, tools, listener.meet) as tunnel:
        measure.run_load(tools.of_lab("load"), tunnel.face("http"), ["--conns", "8", "--secs", "1"])
        # Lingering connections and what is freed later have had their time.
        time.sleep(5)
        runs = [process.switches() for process in tunnel.processes]
        start = time.monotonic()
        time.sleep(options.quiet_secs)
        end = time.monotonic()
        runs = [measure.differences(before, process.switches()) for before, process in zip(runs, tunnel.processes)]
    listener.close()
    said = [(at, way, size) for at, way, size in listener.pieces if start <= at <= end]
    asked = [size for _, way, size in said if way == "to client"]
    answered = [size for _, way, size in said if way == "to server"]
    per_15_s = 15 / (end - start)
    return {
        "to_client": len(asked) * per_15_s, "to_server": len(answered) * per_15_s,
        "bytes": sum(asked + answered) * per_15_s,
        "server_runs": runs[0] * per_15_s, "client_runs": runs[1] * per_15_s}


def instructions(name, tools, options):
    """User-space instructions of each side: for each small request, new stream, and KiB carried."""
    figures, lists = {}, []
    with tempfile.TemporaryDirectory() as directory:
        callgrinds = [measure.Callgrind(directory, side) for side in SIDES]
        with tunnels.Tunnel(name, tools, before=[callgrind.before for callgrind in callgrinds]) as tunnel:

            def count(what, run):
                meter = tunnels.InstructionMeter(tunnel, callgrinds)
                units = run(meter)
                for side, (total, by_function) in zip(SIDES, meter.sides):
                    figures[f"{what}_{side}"] = total / units
                    lists.append((f"{what}, {side}", measure.most_of(by_function, units, options.functions)))

            def asked(*arguments):
                return lambda meter: tunnels.ask(tunnel, "http", arguments, options.secs, meter)["requests"]

            def carried(way):
                def run(meter):
                    # So many and no more, because to begin and to end the counting takes a while.
                    meter.start()
                    whole = tunnels.verify(tunnel, 8, COUNTED_BYTES, 300, way)
                    meter.stop()
                    return (whole["up"] + whole["down"]) / 1024

                return run

            count("request", asked("--conns", "64"))
            count("stream", asked("--conns", "8", "--churn"))
            count("down_kib", carried("--down"))
            count("up_kib", carried("--up"))
    return {**figures, "lists": lists}


def put(figures, prefix, more):
    for name, value in more.items():
        if name in ("errors", "foreign"):
            figures[name] = max(figures.get(name, 0), value)
        else:
            figures[f"{prefix}_{name}"] = value
