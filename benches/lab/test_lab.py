"""Tests of what the drivers decide: figures, goals, what tunnels are started with, and the listening between two sides.

    python3 -m unittest -v test_lab        # in this directory; `cargo test` of the lab runs it too
"""

import collections
import contextlib
import io
import os
import socket
import subprocess
import tempfile
import types
import unittest

import figures
import measure
import peers
import tunnel
import workloads
from figures import Goal

ROWS = {
    "direct": [{"p50": 10, "req_per_s": 100}],
    "one": [{"p50": 30, "req_per_s": 40}, {"p50": 20, "req_per_s": 50}, {"p50": 70}],
    "two": [{"p50": 50, "req_per_s": 25}],
}


class Figures(unittest.TestCase):
    def test_best_is_the_lowest_but_of_rates_the_highest(self):
        self.assertEqual(figures.both(ROWS["one"], "p50"), (20, 30))
        self.assertEqual(figures.both(ROWS["one"], "req_per_s"), (50, 45))
        self.assertEqual(figures.both(ROWS["one"], "p99"), (None, None))

    def test_ratios_are_of_best_to_best_and_median_to_median(self):
        for of, base, over, wanted in [
            (("one", "p50"), ("two", "p50"), None, (0.4, 0.6)),
            (("one", "p50"), ("two", "p50"), "direct", (0.25, 0.5)),
            (("one", "p50"), None, None, (20, 30)),
            (("one", "p50"), ("none", "p50"), None, (None, None)),
            (("one", "p50"), ("two", "p50"), "none", (None, None)),
        ]:
            with self.subTest(of=of, base=base, over=over):
                self.assertEqual(figures.ratios(ROWS, of, base, over), wanted)

    def test_a_goal_is_met_by_both_or_missed(self):
        for factor, says, missed in [(0.7, "| met |", 0), (0.5, "| MISSED by the median only |", 1), (0.3, "| MISSED |", 1)]:
            with self.subTest(factor=factor):
                verdicts, out = figures.Verdicts(), io.StringIO()
                with contextlib.redirect_stdout(out):
                    verdicts.table([Goal(("one", "p50"), "<=", factor, ("two", "p50"))], ROWS)
                self.assertIn(says, out.getvalue())
                self.assertEqual(verdicts.missed, missed)

    def test_what_was_not_measured_is_said_and_counts_when_its_rows_are_there(self):
        for of, base, over, says, unmeasured in [
            (("none", "p50"), None, None, "| not measured |", 0),
            (("one", "p50"), ("none", "p50"), None, "| not measured |", 0),
            (("one", "p50"), ("two", "p50"), "none", "| not measured |", 0),
            (("none", "p50"), ("empty", "p50"), None, "| not measured |", 0),
            (("empty", "p50"), None, None, "| NOT MEASURED |", 1),
            (("one", "p99"), None, None, "| NOT MEASURED |", 1),
            (("one", "p50"), ("two", "p99"), None, "| NOT MEASURED |", 1),
            (("one", "p50"), ("two", "p50"), "empty", "| NOT MEASURED |", 1),
        ]:
            with self.subTest(of=of, base=base, over=over):
                verdicts, out = figures.Verdicts(), io.StringIO()
                with contextlib.redirect_stdout(out):
                    verdicts.table([Goal(of, "<", 1, base, over)], {**ROWS, "empty": []})
                self.assertIn(says, out.getvalue())
                self.assertEqual((verdicts.unmeasured, verdicts.missed), (unmeasured, 0))
                self.assertEqual(verdicts.are_good, not unmeasured)


class Functions(unittest.TestCase):
    def test_the_most_costly_come_first_and_what_is_next_to_nothing_is_left_out(self):
        counts = collections.Counter({"a": 100, "b": 3000, "c": 4, "d": 900})
        self.assertEqual(measure.most_of(counts, 100, 20), [("b", 30), ("d", 9), ("a", 1)])
        self.assertEqual(measure.most_of(counts, 100, 1), [("b", 30)])


class Peers(unittest.TestCase):
    def setUp(self):
        front, target = ({face: first + at for at, face in enumerate(peers.FACES)} for first in (11_001, 12_001))
        self.ports = peers.Ports(front, target, list(range(13_001, 13_007)))
        self.programs = peers.Programs("/x/anyproxy", "/x/rathole", haproxy="/x/haproxy", descriptors_max=4096)

    def test_every_face_has_both_its_ports_somewhere(self):
        for name in peers.NAMES:
            if name == peers.DIRECT:
                continue
            with self.subTest(name=name):
                setup = peers.setup(name, self.programs, self.ports, "/scratch")
                self.assertEqual(len(setup.commands), 1 if name == peers.RELAY else 2)
                text = " ".join([*setup.files.values(), *(word for command in setup.commands for word in command)])
                for port in [*self.ports.front.values(), *self.ports.target.values()]:
                    self.assertIn(str(port), text)

    def test_only_loopback_is_named(self):
        for name in peers.NAMES:
            setup = peers.setup(name, self.programs, self.ports, "/scratch")
            text = " ".join([*setup.files.values(), *(word for command in setup.commands for word in command)])
            self.assertNotIn("0.0.0.0", text)
            self.assertNotIn("[::]", text)

    def test_tls_is_asked_for_by_those_who_have_it(self):
        plain = peers.setup(peers.ANYPROXY, self.programs, self.ports, "/scratch")
        encrypted = peers.setup(peers.ANYPROXY_TLS, self.programs, self.ports, "/scratch")
        self.assertIn("ws://127.0.0.1:13001", plain.commands[1])
        self.assertIn("wss://localhost:13001", encrypted.commands[1])
        self.assertIn("--tls-cert", encrypted.commands[0])
        series = peers.setup(peers.SERIES_TLS, self.programs, self.ports, "/scratch")
        self.assertIn("ssl verify required", series.files["haproxy0.cfg"])
        self.assertIn("ssl crt", series.files["haproxy1.cfg"])

    def test_what_is_not_there_is_said(self):
        self.assertIn("could not be built", self.programs.missing(peers.RATHOLE))
        self.assertIn("is not there", self.programs.missing(peers.ANYPROXY))
        self.assertIsNone(self.programs.missing(peers.DIRECT))
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "anyproxy")
            with open(path, "w") as file:
                file.write("#!/bin/sh\necho '--tls-certificate, --tunnel'\n")
            os.chmod(path, 0o700)
            self.assertTrue(peers.says(path, "gateway", "--tunnel"))
            self.assertFalse(peers.says(path, "gateway", "--tls-cert"))


class System(unittest.TestCase):
    def test_all_but_idle_time_is_busy(self):
        # User, nice, system, idle, waiting, interrupts of both kinds, stolen; those of guests are in the first two already.
        self.assertEqual(measure.busy_ticks("cpu  1 20 300 4000 50000 600000 7000000 80000000 9 9\n"), 87600321)


class Load(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.addCleanup(self.scratch.cleanup)
        self.server = tunnel.Face(1, "http")

    def program(self, script, name="load"):
        """A program that does what the script says; its path."""
        path = os.path.join(self.scratch.name, name)
        with open(path, "w") as file:
            file.write(f"#!/bin/sh\n{script}\n")
        os.chmod(path, 0o700)
        return path

    def test_errors_are_a_failure_unless_the_caller_reads_them(self):
        good = self.program("""echo '{"errors":0}'""")
        self.assertEqual(measure.run_load(good, self.server, [])["errors"], 0)
        bad = self.program("""echo '{"errors":2}'""")
        with self.assertRaisesRegex(measure.Failure, "2 errors"):
            measure.run_load(bad, self.server, [])
        self.assertEqual(measure.run_load(bad, self.server, [], errors_too=True)["errors"], 2)

    def test_memory_of_a_process_that_has_ended_is_a_failure(self):
        process = measure.Process(["cat"], measure.CLIENT_CPU, stdin=subprocess.PIPE)
        self.addCleanup(process.end)
        self.assertGreater(process.resident_kib(), 0)
        process.process.stdin.close()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self.assertRaisesRegex(measure.Failure, "cat: has ended"):
            process.resident_kib()
        process.process.wait()
        with self.assertRaisesRegex(measure.Failure, "cat: has ended"):
            process.resident_kib()

    def test_held_connections_that_are_gone_are_a_failure(self):
        with measure.held_connections(self.program("echo ready; cat"), self.server, 1):
            pass
        gone = measure.held_connections(self.program("echo ready; cat; echo it is gone >&2; exit 1"), self.server, 1)
        with self.assertRaisesRegex(measure.Failure, "it is gone"), gone:
            pass
        with self.assertRaisesRegex(measure.Failure, "what was first"), gone:
            raise measure.Failure("what was first")

    def test_a_stream_that_is_not_whole_is_a_failure(self):
        nowhere = types.SimpleNamespace(
            tools=tunnel.Tools(None, self.scratch.name), ports=peers.Ports({"bulk": 1}, {"bulk": 2}, []))
        self.program("""echo '{"streams":3,"up":1,"down":2,"faults":[]}'""", "flow")
        self.assertEqual(tunnel.verify(nowhere, 3, 3, 20)["down"], 2)
        self.program("""echo '{"streams":3,"up":1,"down":2,"faults":["stream 1 at 0: broke"]}'; exit 1""", "flow")
        with self.assertRaisesRegex(measure.Failure, "1 of 3 streams .*: stream 1 at 0: broke"):
            tunnel.verify(nowhere, 3, 3, 20)


class Listening(unittest.TestCase):
    def test_what_passes_is_written_down_and_passes(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            listener = workloads.Listener()
            port = listener.meet(server.getsockname()[1])
            with socket.create_connection(("127.0.0.1", port)) as near, server.accept()[0] as far:
                near.sendall(b"ask")
                self.assertEqual(far.recv(9), b"ask")
                far.sendall(b"answer")
                self.assertEqual(near.recv(9), b"answer")
                near.shutdown(socket.SHUT_WR)
                self.assertEqual(far.recv(9), b"")
            listener.close()
        self.assertEqual([piece[1:] for piece in listener.pieces], [("to server", 3), ("to client", 6)])


if __name__ == "__main__":
    unittest.main()
