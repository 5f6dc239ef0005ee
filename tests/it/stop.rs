//! Stopping: what is under way finishes, what would never finish ends at the deadline, and nothing waits for nothing.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::support::{
    Ended, Origin, PATIENCE, Program, Talk, Wire, field, full, gateway, gateway_and_client,
    gateway_that_says, ok, standalone, until,
};

const ANY: &str = "127.0.0.1:0";

/// Asks a program that has nothing to do to stop, and says how long it took.
#[track_caller]
fn check_idle(name: &str, mut program: Program, signal: &str) {
    let asked = Instant::now();
    program.signal(signal);
    let status = program.ended();
    let took = asked.elapsed();
    assert_eq!(status.code(), Some(0), "{name}: {}", program.lines(&[]).join("\n"));
    program.wait(&["event=stop", &format!("signal=SIG{signal}")]);
    program.wait(&["event=stopped"]);
    println!("idle {name} after SIG{signal}: {took:?}");
    if full() {
        assert!(took <= Duration::from_millis(50), "{name}: {took:?}");
    }
}

// proves S-45, S-43, S-47, S-55, S-68: whoever has nothing to do stops at once, in every state
#[test]
fn an_idle_program_stops_at_once() {
    for signal in ["TERM", "INT"] {
        let program = standalone();
        program.wait(&["event=ready"]);
        check_idle("standalone", program, signal);

        let program = Program::start(&["serve", "--listen", ANY]);
        program.wait(&["event=ready"]);
        check_idle("serve", program, signal);

        let (gateway, client) = gateway_and_client(&[]);
        check_idle("client", client, signal);
        // The goodbye was heard, and is no reason to wake anybody.
        gateway.wait(&["event=tun_down", "level=INFO"]);
        check_idle("gateway", gateway, signal);

        let (gateway, client) = gateway_and_client(&[]);
        check_idle("gateway with a client", gateway, signal);
        check_idle("client without a gateway", client, signal);

        // Somebody who has come to the tunnel's port and says nothing.
        let (gateway, client) = gateway_and_client(&[]);
        let stranger = Wire::connect(gateway.addr("tunnel"));
        check_idle("gateway with a stranger", gateway, signal);
        drop((stranger, client));

        // A gateway that takes the connection and says nothing.
        let mute = TcpListener::bind(ANY).expect("loopback has free ports");
        let url = format!("ws://{}", mute.local_addr().expect("it is bound"));
        let client = Program::start(&["client", "--gateway", &url]);
        let taken = mute.accept().expect("the client dials");
        check_idle("client of a mute gateway", client, signal);
        drop((taken, mute));

        // And one that never takes it.
        let (full_queue, waiting) = unconnectable();
        let addr = full_queue.local_addr().expect("it is bound").as_socket().expect("it is TCP");
        let client = Program::start(&["client", "--gateway", &format!("ws://{addr}")]);
        client.wait(&["event=ready"]);
        check_idle("client that is dialing", client, signal);
        drop((full_queue, waiting));
    }
}

/// A listener whose queue is full: a connection to it is neither taken nor refused.
fn unconnectable() -> (socket2::Socket, Vec<TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let any: SocketAddr = ANY.parse().expect("an address of ours");
    socket.bind(&any.into()).expect("loopback has free ports");
    socket.listen(0).expect("it is bound");
    let addr = socket.local_addr().expect("it is bound").as_socket().expect("it is TCP");
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(200)) {
        waiting.push(stream);
    }
    (socket, waiting)
}

/// An HTTP target that sends the first half of its answer, says so, and the rest when it is told to.
fn halting() -> (Origin, Receiver<()>, Sender<()>) {
    let (began, begun) = channel();
    let (go, wait) = channel();
    let wait = Mutex::new(wait);
    let origin = Origin::http(move |request, wire| {
        if request.path != "/half" {
            wire.send(ok(&request.path));
            return Talk::Goes;
        }
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
        began.send(()).ok();
        // The sender going away means go as well.
        wait.lock().expect("no holder panics").recv().ok();
        wire.try_send("after").ok();
        Talk::Goes
    });
    (origin, begun, go)
}

/// Waits until nobody listens there any more.
#[track_caller]
fn refused(addr: SocketAddr) {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(addr).is_ok() {
        assert!(Instant::now() < deadline, "{addr} still listens");
        std::thread::yield_now();
    }
}

// proves S-44, S-43, S-55, S-33, S-34: listeners close first, and a transfer that needs a little more completes
#[test]
fn a_gateway_finishes_what_is_under_way() {
    let (mut gateway, client) = gateway_and_client(&["--allow", "127.0.0.1"]);
    let (origin, begun, go) = halting();
    let listeners = ["http", "socks", "tunnel"].map(|name| gateway.addr(name));
    let mut user = Wire::connect(listeners[0]);
    user.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/half")));
    begun.recv_timeout(PATIENCE).expect("the target is asked");
    let mut idle = Wire::connect(listeners[0]);
    assert_eq!(idle.get(&origin.url("/x")).code, 200);

    gateway.signal("TERM");
    gateway.wait(&["event=stop"]);
    listeners.into_iter().for_each(refused);
    assert_eq!(idle.read_to_end(), (vec![], Ended::Fin), "who waits for nothing is closed at once");
    go.send(()).expect("it is waited for");
    let answer = user.response("GET");
    assert_eq!((answer.code, answer.text().as_str()), (200, "firstafter"));
    assert_eq!(gateway.ended().code(), Some(0));
    assert!(gateway.lines(&["had ended by itself"]).len() == 1, "{:#?}", gateway.lines(&[]));
    // It had been told, so it is no reason to wake anybody.
    client.wait(&["event=tun_down", "level=INFO"]);
    client.stop();
}

// proves S-44, S-38, S-39: a client that stops finishes its streams and gets no new ones
#[test]
fn a_client_finishes_what_is_under_way() {
    let (gateway, mut client) = gateway_and_client(&["--allow", "127.0.0.1"]);
    let (origin, begun, go) = halting();
    let http = gateway.addr("http");
    let mut user = Wire::connect(http);
    user.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/half")));
    begun.recv_timeout(PATIENCE).expect("the target is asked");

    client.signal("TERM");
    client.wait(&["event=stop"]);
    // From then on it is no client for anybody: said at once, not at the deadline.
    let mut late = Wire::connect(http);
    until("no client takes new streams", || late.get(&origin.url("/late")).code == 503);
    let other = gateway.client(&["--allow", "127.0.0.1"]);
    assert_eq!(late.get(&origin.url("/other")).text(), "/other");
    go.send(()).expect("it is waited for");
    let answer = user.response("GET");
    assert_eq!((answer.code, answer.text().as_str()), (200, "firstafter"));
    assert_eq!(client.ended().code(), Some(0));
    assert_eq!(client.lines(&["had ended by itself"]).len(), 1, "{:#?}", client.lines(&[]));
    other.stop();
    drop((user, late));
    gateway.stop();
}

// proves S-44: an answer that takes 200 ms more is waited for, whichever end stops
#[test]
fn an_answer_that_takes_a_little_longer_is_waited_for() {
    let serve = Program::start(&["serve", "--listen", ANY]);
    let url = format!("http://{}/delay/200", serve.addr("serve"));
    for end in ["gateway", "client"] {
        let gateway = gateway(&[]);
        let to = format!("ws://{}", gateway.addr("tunnel"));
        let args = ["client", "--gateway", &to, "--allow", "127.0.0.1"];
        let client = Program::start_with(&args, &[("ANYPROXY_LOG", "debug")]);
        client.wait(&["event=tun_up"]);
        let mut user = Wire::connect(gateway.addr("http"));
        user.send(format!("GET {url} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.wait(&["event=stream", "msg=established"]);
        let (mut stopping, other) = if end == "gateway" { (gateway, client) } else { (client, gateway) };
        stopping.signal("TERM");
        assert_eq!(user.response("GET").code, 200, "{end}");
        assert_eq!(stopping.ended().code(), Some(0), "{end}");
        assert_eq!(stopping.lines(&["had ended by itself"]).len(), 1, "{end}: {:#?}", stopping.lines(&[]));
        drop(user);
        other.stop_but_for(&["event=tun_down"]);
    }
    serve.stop();
}

// proves S-44, S-43, S-40: what would never end is ended at the deadline, and that is a good end of the program
#[test]
fn what_never_ends_is_ended_at_the_deadline() {
    for role in ["standalone", "gateway", "client"] {
        let echo = Origin::echo();
        let (mut stopping, other) = match role {
            "standalone" => (standalone(), None),
            "gateway" => {
                let (gateway, client) = gateway_and_client(&["--allow", "127.0.0.1"]);
                (gateway, Some(client))
            }
            _ => {
                let (gateway, client) = gateway_and_client(&["--allow", "127.0.0.1"]);
                (client, Some(gateway))
            }
        };
        let http = if role == "client" {
            other.as_ref().expect("a gateway").addr("http")
        } else {
            stopping.addr("http")
        };
        stopping.wait(&[if role == "client" { "event=tun_up" } else { "event=ready" }]);
        let mut user = Wire::http_connect(http, echo.addr());
        user.send("ping");
        assert_eq!(user.take(4), b"ping");
        let asked = Instant::now();
        stopping.signal("TERM");
        assert_eq!(
            user.read_to_end(),
            (vec![], Ended::Reset),
            "{role}: nobody may take this for all there was"
        );
        assert_eq!(stopping.ended().code(), Some(0), "{role}");
        println!("{role} with an endless stream: {:?}", asked.elapsed());
        assert!(asked.elapsed() >= Duration::from_millis(500), "{role}: it had until the deadline");
        assert_eq!(stopping.lines(&["was open after 500 ms"]).len(), 1, "{:#?}", stopping.lines(&[]));
        if let Some(other) = other {
            other.stop_but_for(&["event=tun_down", "event=group_empty"]);
        }
    }
}

// proves S-47: the second signal means now
#[test]
fn a_second_signal_ends_at_once() {
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let echo = Origin::echo();
        let mut program = standalone();
        let mut user = Wire::http_connect(program.addr("http"), echo.addr());
        user.send("ping");
        assert_eq!(user.take(4), b"ping");
        program.signal("TERM");
        program.wait(&["event=stop"]);
        program.signal(signal);
        assert_eq!(program.ended().code(), Some(code));
    }
}

// proves S-47: whoever takes a client for a gateway and wants it to load again learns that it does not, and still has it
#[test]
fn a_role_with_nothing_to_load_again_says_so_and_goes_on() {
    let serve = Program::start(&["serve", "--listen", ANY]);
    let (gateway, client) = gateway_and_client(&[]);
    for program in [serve, standalone(), client] {
        program.wait(&["event=ready"]);
        for n in 1..3 {
            program.signal("HUP");
            program.wait_nth(&["level=INFO", "event=reload", "nothing to load again"], n);
        }
        program.stop();
    }
    gateway.stop();
}

// proves S-47: a client that was started in a terminal ends with it, as by SIGTERM; terminal and shell may both say so
#[test]
fn a_client_ends_with_its_terminal() {
    let gateway = gateway(&[]);
    let url = format!("ws://{}", gateway.addr("tunnel"));
    let (_screen, terminal) = terminal();
    let mut client = Program::start_at(terminal, &["client", "--gateway", &url]);
    client.wait(&["event=tun_up"]);
    client.signal("HUP");
    client.signal("HUP");
    client.wait(&["level=INFO", "event=stop", "signal=SIGHUP"]);
    assert_eq!(client.ended().code(), Some(0), "{:#?}", client.lines(&[]));
    client.wait(&["event=stopped"]);
    gateway.wait(&["event=tun_down", "level=INFO"]);
    gateway.stop();
}

/// A terminal, from both sides.
fn terminal() -> (OwnedFd, File) {
    let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("there are terminals");
    grantpt(&screen).expect("it is ours");
    unlockpt(&screen).expect("it is ours");
    let name = ptsname(&screen, Vec::new())
        .expect("it has a name")
        .into_string()
        .expect("names of terminals are text");
    let terminal = File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(name);
    (screen, terminal.expect("it is unlocked"))
}

// proves S-43: the service manager is told when users may come, and when they may not
#[test]
fn the_service_manager_is_told() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket can be bound");
    socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
    let told = |what: &str| {
        let mut message = [0; 1024];
        loop {
            let len = socket.recv(&mut message).unwrap_or_else(|error| panic!("{what}: {error}"));
            let text = String::from_utf8_lossy(&message[..len]).into_owned();
            if text.lines().any(|line| line == what) {
                return text;
            }
        }
    };
    let env = [("NOTIFY_SOCKET", path.to_str().expect("paths of ours are text"))];
    let roles: [&[&str]; 3] = [
        &["standalone", "--http", ANY, "--socks", ANY, "--serve", ANY, "--tunnel", ANY],
        &["gateway", "--tunnel", ANY, "--http", ANY],
        &["serve", "--listen", ANY],
    ];
    for args in roles {
        let program = Program::start_with(args, &env);
        told("READY=1");
        // Ready means that every listener is bound: it was said before. (This test reads the log on another thread.)
        program.wait(&["event=ready"]);
        let name = if args[0] == "serve" { "serve" } else { "http" };
        let listening = program.lines(&["event=listen", &format!("name={name}")]);
        assert_eq!(listening.len(), 1, "{:#?}", program.lines(&[]));
        assert!(TcpStream::connect(program.addr(name)).is_ok());
        program.signal("TERM");
        told("STOPPING=1");
        stopped(program);
    }
    let gateway = gateway(&[]);
    let url = format!("ws://{}", gateway.addr("tunnel"));
    let client = Program::start_with(&["client", "--gateway", &url], &env);
    told("STATUS=the tunnel is up");
    client.signal("TERM");
    told("STOPPING=1");
    stopped(client);
    gateway.stop();
}

#[track_caller]
fn stopped(mut program: Program) {
    assert_eq!(program.ended().code(), Some(0), "{:#?}", program.lines(&[]));
}

/// Stops one end of a tunnel with an open stream and a forwarded port, and looks in which order it lets go of them: by force at the
/// deadline, or because the user has ended.
///
/// False when the user was too late, and was ended by force.
#[track_caller]
fn stops_in_order(gateway_stops: bool, by_force: bool) -> bool {
    let echo = Origin::echo();
    let gateway = gateway_that_says("debug", &[]);
    let (url, forward) = (format!("ws://{}", gateway.addr("tunnel")), format!("0:{}", echo.addr()));
    let args = ["client", "--gateway", &url, "--allow", "127.0.0.1", "--forward", &forward];
    let client = Program::start_with(&args, &[("ANYPROXY_LOG", "debug")]);
    client.wait(&["event=fwd_open"]);
    let mut user = Wire::http_connect(gateway.addr("http"), echo.addr());
    user.send("x");
    assert_eq!(user.take(1), b"x");
    let (mut stops, stays) = if gateway_stops { (gateway, client) } else { (client, gateway) };
    stops.signal("TERM");
    // Users that are there may end from then on; those that come are turned away.
    stops.wait(&[if gateway_stops { "event=fwd_close" } else { "event=stop" }]);
    if !by_force {
        user.finish();
        let ended = user.read_to_end();
        assert_eq!(stops.ended().code(), Some(0));
        if stops.lines(&["event=stopped", "was closed"]).len() == 1 {
            stays.stop_but_for(&["event="]);
            return false;
        }
        assert_eq!(ended, (vec![], Ended::Fin));
    } else {
        assert_eq!(stops.ended().code(), Some(0));
    }

    let conn_id = format!("conn_id={}", field(&stops.wait(&["event=stream", "msg=established"]), "conn_id"));
    let all = stops.lines(&[]);
    let at = |words: &[&str]| {
        let [line] = &stops.lines(words)[..] else { panic!("not one line with {words:?}: {all:#?}") };
        all.iter().position(|other| other == line).expect("it is one of them")
    };
    let stream = at(&["event=stream", &conn_id, "closing:"]);
    let (stop, down, stopped) = (at(&["event=stop"]), at(&["event=tun_down"]), at(&["event=stopped"]));
    assert!(stop < stream && stop < down, "nothing ends before it is asked to: {all:#?}");
    if gateway_stops {
        let port = at(&["event=fwd_close"]);
        assert!(stop < port && port < down && port < stream, "what lets users in ends first: {all:#?}");
    }
    assert_eq!(stopped, all.len() - 1, "who holds them all ends last: {all:#?}");
    stays.stop_but_for(&["event=tun_down", "event=group_empty", "event=connect"]);
    true
}

/// Tried again where the machine was too busy to end a user within the half second that a stop gives.
#[track_caller]
fn check_order(gateway_stops: bool, by_force: bool) {
    assert!((0..10).any(|_| stops_in_order(gateway_stops, by_force)), "no user ends by itself");
}

// proves S-23, S-33: on either end, by its own log: ports, then streams and their tunnel, then the program
#[test]
fn what_is_held_ends_before_who_holds_it() {
    check_order(true, true);
    check_order(true, false);
    check_order(false, true);
    check_order(false, false);
}
