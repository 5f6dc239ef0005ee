"""The tunnels that are compared: what each is started with. Plain data in, commands and files out.

A tunnel carries connections to three faces, each a port where users knock (`front`), to the target behind it (`target`).
The first command of a tunnel is its server side, where users knock; what follows is its client side.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field

DIRECT, RELAY, SERIES, RATHOLE, ANYPROXY = "direct", "haproxy", "haproxy-2", "rathole", "anyproxy"
SERIES_TLS, ANYPROXY_TLS = "haproxy-2-tls", "anyproxy-tls"
PLAIN = [DIRECT, RELAY, SERIES, RATHOLE, ANYPROXY]
TLS = [SERIES_TLS, ANYPROXY_TLS]
NAMES = [*PLAIN, *TLS]

FACES = ("http", "rpc", "bulk")
SECRET = "of no worth"
# The longest that a stream of any test is silent, with some to spare.
SILENCE = "300s"
# More than any test has at once.
CONNS = 12_000


@dataclass
class Ports:
    """The ports of one tunnel: of each face at both ends, and some for the tunnel's own use."""

    front: dict
    target: dict
    own: list


@dataclass
class Setup:
    """What one tunnel is started with. A file's text goes into the scratch directory under its name."""

    commands: list
    files: dict = field(default_factory=dict)


class Programs:
    """Where the programs are, and why a tunnel cannot be had."""

    def __init__(self, anyproxy, rathole, haproxy=None, descriptors_max=4096):
        self.anyproxy = anyproxy
        self.rathole = rathole
        self.haproxy = haproxy or shutil.which("haproxy")
        self.descriptors_max = descriptors_max

    def missing(self, name):
        """Why the tunnel of this name cannot be started; None when it can."""
        if name in (RELAY, SERIES, SERIES_TLS) and not self.haproxy:
            return "haproxy is not installed (Debian's package is haproxy)"
        if name == RATHOLE and not os.access(self.rathole, os.X_OK):
            return "rathole could not be built"
        if name in (ANYPROXY, ANYPROXY_TLS) and not os.access(self.anyproxy, os.X_OK):
            return f"{self.anyproxy} is not there"
        if name in TLS and not shutil.which("openssl"):
            return "openssl is not installed"
        if name == ANYPROXY_TLS:
            for command, flag in (("gateway", "--tls-cert"), ("client", "--ca")):
                if not says(self.anyproxy, command, flag):
                    return f"this anyproxy has no `{command} {flag}`"
        return None

    def versions(self):
        """A line for each program."""
        yield first_line(self.anyproxy, "--version")
        if self.haproxy:
            yield first_line(self.haproxy, "-v")
        if os.access(self.rathole, os.X_OK):
            said = subprocess.run([self.rathole, "--version"], capture_output=True, text=True, check=False).stdout
            yield "rathole " + (re.search(r"Build Version:\s+(\S+)", said) or [None, "of an unknown version"])[1]


def first_line(*command):
    said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout.strip()
    return said.splitlines()[0] if said else f"{command[0]}: says nothing"


def says(program, command, flag):
    """Whether the help of a command names a flag."""
    if not os.access(program, os.X_OK):
        return False
    said = subprocess.run([program, command, "--help"], capture_output=True, text=True, check=False).stdout
    return flag in said.replace(",", " ").split()


def setup(name, programs, ports, directory):
    """What the tunnel `name` is started with."""
    if name == DIRECT:
        return Setup([])
    if name == RELAY:
        return haproxies(programs, directory, [(ports.front, ports.target, "", "")])
    if name in (SERIES, SERIES_TLS):
        between = dict(zip(FACES, ports.own))
        inward, outward = ("", "")
        if name == SERIES_TLS:
            # As in a tunnel: the near side knows the far one by its certificate.
            outward = f" ssl verify required ca-file {directory}/cert.pem sni str(localhost)"
            inward = f" ssl crt {directory}/both.pem"
        return haproxies(programs, directory, [
            (ports.front, between, "", outward), (between, ports.target, inward, "")])
    if name == RATHOLE:
        return ratholes(programs.rathole, ports, directory)
    return anyproxies(programs.anyproxy, ports, directory, tls=name == ANYPROXY_TLS)


def haproxies(programs, directory, hops):
    """Relays in series; each hop is (ports to listen on, ports to connect to, more for listening, more for connecting)."""
    files, commands = {}, []
    # Two descriptors each; with more than it can have, haproxy does not start.
    conns = min(CONNS, (programs.descriptors_max - 100) // 2)
    for hop, (here, there, bind, server) in enumerate(hops):
        faces = "".join(
            f"listen {face}\n  bind 127.0.0.1:{here[face]}{bind}\n  server target 127.0.0.1:{there[face]}{server}\n"
            for face in FACES)
        files[f"haproxy{hop}.cfg"] = (
            f"global\n  nbthread 1\n  maxconn {conns}\n"
            f"defaults\n  mode tcp\n  maxconn {conns}\n  timeout connect 10s\n"
            f"  timeout client {SILENCE}\n  timeout server {SILENCE}\n{faces}")
        commands.append([programs.haproxy, "-db", "-q", "-f", os.path.join(directory, f"haproxy{hop}.cfg")])
    return Setup(commands, files)


def ratholes(program, ports, directory):
    def services(side, key, by_face):
        return "".join(f'[{side}.services.{face}]\n{key} = "127.0.0.1:{by_face[face]}"\n' for face in FACES)

    meet = f"127.0.0.1:{ports.own[0]}"
    files = {
        "server.toml": f'[server]\nbind_addr = "{meet}"\ndefault_token = "{SECRET}"\n'
        + services("server", "bind_addr", ports.front),
        "client.toml": f'[client]\nremote_addr = "{meet}"\ndefault_token = "{SECRET}"\n'
        + services("client", "local_addr", ports.target),
    }
    return Setup([[program, f"--{side}", os.path.join(directory, f"{side}.toml")] for side in ("server", "client")], files)


def anyproxies(program, ports, directory, tls):
    meet, http = ports.own[:2]
    gateway = [program, "gateway", "--tunnel", f"127.0.0.1:{meet}", "--http", f"127.0.0.1:{http}"]
    client = [program, "client", "--gateway", f"ws://127.0.0.1:{meet}", "--allow", "127.0.0.1"]
    # As the relays are told: a reader that stops for a while is not to be given up.
    for side in (gateway, client):
        if says(program, side[1], "--write-stall-timeout"):
            side += ["--write-stall-timeout", SILENCE]
    for face in FACES:
        client += ["--forward", f"{ports.front[face]}:127.0.0.1:{ports.target[face]}"]
    if tls:
        cert, key = (os.path.join(directory, f"{name}.pem") for name in ("cert", "key"))
        gateway += ["--tls-cert", cert, "--tls-key", key]
        client[client.index("--gateway") + 1] = f"wss://localhost:{meet}"
        client += ["--ca", cert]
    return Setup([gateway, client])


def write_certificate(directory):
    """A certificate for localhost that signs itself: `cert.pem`, `key.pem`, and `both.pem` with the two."""
    cert, key, both = (os.path.join(directory, f"{name}.pem") for name in ("cert", "key", "both"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", key, "-out", cert],
        check=True, capture_output=True)
    os.chmod(key, 0o600)
    with open(both, "w") as file:
        for part in (cert, key):
            file.write(open(part).read())
    os.chmod(both, 0o600)
