//! Beginnings: handshakes, their limits and failures, and what they agree upon.

use super::*;

#[test]
fn handlers_see_what_was_agreed_upon_and_both_ends_export_the_same() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let mut client = ClientConfig::clone(&client);
    client.alpn_protocols = vec![b"other".to_vec(), b"echo".to_vec()];
    let (told, when_told) = crossbeam_channel::unbounded();
    let (addr, _log) = secret(
        Probe::new(move |at, conn| {
            if at == At::Connect {
                let tls = conn.tls().expect("there is TLS");
                let mut key = [0; 32];
                tls.export_keying_material(&mut key, b"EXPORTER-poller", b"context")?;
                assert!(!tls.is_handshaking());
                told.send((tls.protocol_version(), tls.alpn().map(<[u8]>::to_vec), key)).ok();
                assert_eq!((tls.server_name(), tls.peer_certificates()), (Some("localhost"), None));
            }
            echo(at, conn)
        }),
        &server,
    )
    .serve(&event_loop);
    let mut user = user(addr, &Arc::new(client));
    ask_user(&mut user, b"question");
    let key =
        user.conn.export_keying_material([0; 32], b"EXPORTER-poller", Some(b"context")).expect("exported");
    let agreed = when_told.recv_timeout(PATIENCE).expect("told");
    assert_eq!(agreed, (Some(ProtocolVersion::TLSv1_3), Some(b"echo".to_vec()), key));
}

#[test]
fn a_plain_connection_of_the_same_program_has_no_tls() {
    let event_loop = one_poll();
    let (addr, _log) = Probe::new(|at, conn| {
        assert!(conn.tls().is_none());
        echo(at, conn)
    })
    .serve(&event_loop);
    ask(&mut connect(addr), b"plain");
}

fn limited(engine: Result<Engine, tls::Error>, limit: Duration) -> Engine {
    engine.expect("an engine").with_handshake_timeout(limit).expect("not zero")
}

// Misuse: a limit of zero says what to do instead
#[test]
fn a_handshake_of_no_time_is_refused() {
    let (server, client) = configs();
    let accepted = Server::new(server).expect("a server").accept();
    for engine in [accepted, Client::new(client).connect("localhost")] {
        let error = engine.expect("an engine").with_handshake_timeout(Duration::ZERO).expect_err("zero");
        assert_eq!(error, tls::Error::NoTime);
        assert!(error.to_string().contains("give it time, or leave the limit out"), "{error}");
        assert_eq!(io::Error::from(error).kind(), ErrorKind::InvalidInput);
    }
}

// proves L-11 with TLS: a handshake that never ends, silent or slow, meets its limit
#[test]
fn a_handshake_that_does_not_end_times_out() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let server = Server::new(server).expect("a server");
    let short = move || limited(server.accept(), Duration::from_millis(30));
    let (addr, log) = with_tls(Probe::echo(), short).serve(&event_loop);
    for first in [0, 1, 100] {
        let mut hello = Vec::new();
        let name = ServerName::try_from("localhost").expect("a name");
        ClientConnection::new(client.clone(), name)
            .expect("a client")
            .write_tls(&mut hello)
            .expect("a hello");
        let mut user = connect(addr);
        user.write_all(&hello[..first]).expect("written");
        let closed = log.closed();
        assert_eq!(
            (closed.reason, closed.connected, closed.bytes_in),
            (Reason::Timeout(Limit::Handshake), false, first as u64)
        );
        assert_eq!(read_all(&mut user), b"");
    }
    // The dialed side, with a server that accepts and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let dialer = Client::new(client);
    let short = move || limited(dialer.connect("localhost"), Duration::from_millis(30));
    let addr = silent.local_addr().expect("an address");
    let (_, log) = dial(&event_loop, addr, with_tls(Probe::echo(), short));
    let closed = log.closed();
    assert_eq!((closed.reason, closed.connected), (Reason::Timeout(Limit::Handshake), false));
}

#[test]
fn a_limit_that_was_met_does_not_strike_later() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let server = Server::new(server).expect("a server");
    let limit = Duration::from_millis(500);
    let (addr, log) = with_tls(Probe::echo(), move || limited(server.accept(), limit)).serve(&event_loop);
    let mut user = user(addr, &client);
    ask_user(&mut user, b"question");
    // A timer of the same poll that is due after the limit.
    let (passed, when_passed) = crossbeam_channel::unbounded();
    event_loop.after(limit, move || passed.send(()).expect("awaited")).expect("a timer");
    when_passed.recv_timeout(PATIENCE).expect("the time passes");
    ask_user(&mut user, b"another");
    assert!(log.rest().iter().all(|event| event.closed.is_none()));
}

// proves T26: plain HTTP on the TLS port is a clean close
#[test]
fn plain_text_is_told_off_and_closed() {
    let event_loop = one_poll();
    let (server, _) = configs();
    let (addr, log) = secret(Probe::echo(), &server).serve(&event_loop);
    let mut user = connect(addr);
    user.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("written");
    assert_eq!(read_all(&mut user), [21, 3, 3, 0, 2, 2, 50], "an alert and an end");
    let closed = log.closed();
    assert_eq!(closed.reason, Reason::Tls("the peer does not speak TLS".to_owned()));
    assert_eq!(closed.reason.to_string(), "TLS: the peer does not speak TLS");
    assert!(!closed.connected);

    // The dialed side, to a server of plain text.
    let (plain, _log) = Probe::new(|at, conn| {
        if at == At::Connect {
            conn.output().write(b"220 ready\r\n");
        }
        Ok(())
    })
    .serve(&event_loop);
    let (_, log) = dial(&event_loop, plain, dialing(Probe::echo(), &configs().1, "localhost"));
    assert_eq!(log.closed().reason, Reason::Tls("the peer does not speak TLS".to_owned()));
}

#[test]
fn a_peer_that_vanishes_in_the_handshake_is_an_error() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, log) = secret(Probe::echo(), &server).serve(&event_loop);
    for with_reset in [false, true] {
        let mut hello = Vec::new();
        let name = ServerName::try_from("localhost").expect("a name");
        ClientConnection::new(client.clone(), name)
            .expect("a client")
            .write_tls(&mut hello)
            .expect("a hello");
        let mut user = connect(addr);
        user.write_all(&hello[..50]).expect("written");
        if with_reset {
            reset(user)
        } else {
            drop(user)
        }
        let closed = log.closed();
        let eof = Reason::Error(Fault { kind: ErrorKind::UnexpectedEof, errno: None });
        let reset = Reason::Error(Fault { kind: ErrorKind::ConnectionReset, errno: Some(libc::ECONNRESET) });
        assert_eq!((closed.reason, closed.connected), (if with_reset { reset } else { eof }, false));
    }
    let rest = log.rest();
    assert!(rest.iter().all(|event| !matches!(event.at, At::Connect | At::Disconnect)), "{rest:?}");
}

#[test]
fn a_certificate_is_replaced_while_the_server_runs() {
    let event_loop = event_loop();
    let (old_server, old_client) = configs();
    let (new_server, new_client) = configs();
    let server = Arc::new(Server::new(old_server).expect("a server"));
    let (addr, log) = with_tls(Probe::echo(), {
        let server = server.clone();
        move || server.accept().expect("an engine")
    })
    .serve(&event_loop);
    let mut first = user(addr, &old_client);
    ask_user(&mut first, b"first");
    server.replace(new_server).expect("replaced");
    ask_user(&mut user(addr, &new_client), b"second");
    let error = user(addr, &old_client).write_all(b"third").expect_err("it trusts the former one alone");
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
    let refused =
        log.find(|event| matches!(event.closed.as_ref().map(|it| &it.reason), Some(Reason::Tls(_))));
    let reason = refused.closed.expect("it is closed").reason;
    assert_eq!(reason, Reason::Tls("received fatal alert: UnknownCA".to_owned()));
    ask_user(&mut first, b"the first lives on");
}

#[test]
fn a_dialed_connection_speaks_tls_and_handles_send_through_it() {
    let event_loop = event_loop();
    let (server, client) = configs();
    let (addr, thread) = serve_one(&server, |stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("close_notify came");
        all
    });
    let (handle, log) = dial(&event_loop, addr, dialing(Probe::new(|_, _| Ok(())), &client, "localhost"));
    // Perhaps before the handshake is over: it waits for that.
    handle.send(Bytes::from_static(b"early ")).expect("taken");
    log.handle();
    let mut want = b"early ".to_vec();
    for round in 0..200usize {
        let mut bytes = Bytes::from(vec![round as u8; 10_000]);
        want.extend_from_slice(&bytes);
        while let Err(error) = handle.send(bytes) {
            let SendError::WouldBlock(back) = error else { panic!("it is open") };
            bytes = back;
            std::thread::yield_now();
        }
    }
    handle.close();
    assert!(thread.join().expect("served") == want);
    let closed = log.closed();
    assert_eq!((closed.reason, closed.unsent), (Reason::User, 0));
}

// proves L-23 with TLS: what was sent before the handshake was over leaves before the close, and the stream ends properly
#[test]
fn a_close_sends_what_was_sent_during_a_handshake() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (stop, gate) = gate::gate();
    let (addr, thread) = serve_one(&server, move |stream| {
        stop.wait();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("close_notify came");
        all
    });
    let (handle, log) = dial(&event_loop, addr, dialing(Probe::new(|_, _| Ok(())), &client, "localhost"));
    // The server has accepted and does not answer.
    gate.reached();
    handle.send(Bytes::from_static(b"early")).expect("taken");
    handle.close();
    gate.open();
    assert_eq!(thread.join().expect("served"), b"early");
    log.expect(&[At::Prepare, At::Connect]);
    let closed = log.closed();
    assert_eq!((closed.reason, closed.unsent, closed.connected), (Reason::User, 0, true));
}

// proves L-23 with TLS: a server's tickets, which come unasked and late, do not reset the connection behind our last word
#[test]
fn a_close_waits_for_the_tickets_that_are_to_come() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (stop, gate) = gate::gate();
    let (addr, thread) = serve_one(&server, move |stream| {
        let (conn, socket) = (&mut stream.conn, &mut stream.sock);
        while !conn.wants_write() {
            conn.read_tls(socket).expect("a hello");
            conn.process_new_packets().expect("a good one");
        }
        while conn.wants_write() {
            conn.write_tls(socket).expect("sent");
        }
        let mut sealed = Vec::new();
        socket.read_to_end(&mut sealed).expect("its stream ends");
        stop.wait();
        let mut rest = &sealed[..];
        while !rest.is_empty() {
            conn.read_tls(&mut rest).expect("it is all there");
            conn.process_new_packets().expect("the rest of the handshake and more");
        }
        assert!(conn.wants_write(), "the tickets");
        while conn.wants_write() {
            conn.write_tls(socket).expect("sent");
        }
        let mut all = Vec::new();
        conn.reader().read_to_end(&mut all).expect("close_notify came");
        all
    });
    let (handle, log) = dial(&event_loop, addr, dialing(Probe::new(|_, _| Ok(())), &client, "localhost"));
    handle.send(Bytes::from_static(b"last words")).expect("taken");
    handle.close();
    gate.reached();
    let (echo_addr, _echo_log) = Probe::echo().serve(&event_loop);
    ask(&mut connect(echo_addr), b"barrier");
    log.expect(&[At::Prepare, At::Connect]);
    assert!(log.rest().is_empty(), "it waits for the server");
    gate.open();
    assert_eq!(thread.join().expect("served"), b"last words");
    let closed = log.closed();
    assert_eq!((closed.reason, closed.unsent), (Reason::User, 0));
}

#[test]
fn a_dial_to_the_wrong_name_or_to_nobody_says_so() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, thread) =
        serve_one(&server, |stream| stream.read(&mut [0; 1]).expect_err("it is refused").to_string());
    let (_, log) = dial(&event_loop, addr, dialing(Probe::echo(), &client, "example.org"));
    let Reason::Tls(why) = log.closed().reason else { panic!("TLS is the reason") };
    assert!(why.contains("not valid for name") && why.contains("example.org"), "{why}");
    assert!(thread.join().expect("served").contains("BadCertificate"), "the alert arrives");

    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let (_, log) = dial(&event_loop, free, dialing(Probe::echo(), &client, "localhost"));
    let refused = Fault { kind: ErrorKind::ConnectionRefused, errno: Some(libc::ECONNREFUSED) };
    assert_eq!(log.closed().reason, Reason::Error(refused));
}

#[test]
fn both_ends_can_be_ours_and_many() {
    const CONNECTIONS: usize = 60;
    let event_loop = event_loop();
    let (server, client) = configs();
    let (addr, served) = secret(Probe::echo(), &server).serve(&event_loop);
    let asking = Probe::new(|at, conn| {
        match at {
            At::Connect => conn.output().write(&[5; 40_000]),
            At::Request if conn.input().len() == 40_000 => {
                assert!(conn.input().chunks().all(|chunk| chunk.iter().all(|byte| *byte == 5)));
                conn.close();
            }
            _ => {}
        }
        Ok(())
    });
    let (probe, log) = dialing(asking, &client, "localhost").start();
    for _ in 0..CONNECTIONS {
        event_loop.dial(addr, PATIENCE, probe.clone()).expect("dialed");
    }
    for _ in 0..CONNECTIONS {
        assert_eq!(log.closed().reason, Reason::User);
        assert_eq!(served.closed().reason, Reason::Peer);
    }
    wait_until_none(&event_loop);
}

// proves L-07 with TLS: what came with the end of the handshake is a request, though no event tells of it
#[test]
fn a_question_that_comes_with_the_handshake_is_answered() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, log) = secret(Probe::echo(), &server).serve(&event_loop);
    let mut user = user(addr, &client);
    user.conn.writer().write_all(b"question").expect("it waits for the handshake");
    let mut answer = [0; 8];
    user.read_exact(&mut answer).expect("answered");
    assert_eq!(&answer, b"question");
    user.conn.send_close_notify();
    user.flush().expect("flushed");
    log.expect(&[At::Prepare, At::Connect, At::Request]);
    assert_eq!(log.closed().reason, Reason::Peer);
}

#[test]
fn a_server_may_speak_first_and_progress_is_told() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (progress, when) = crossbeam_channel::unbounded();
    let (addr, _log) = secret(
        Probe::new(move |at, conn| {
            match at {
                At::Connect => {
                    conn.output().write(&[1; 100]);
                    conn.wake_on_progress();
                }
                At::Request => progress.send((conn.input().len(), conn.bytes_out())).expect("awaited"),
                _ => {}
            }
            Ok(())
        }),
        &server,
    )
    .serve(&event_loop);
    let mut user = user(addr, &client);
    let mut greeting = [0; 100];
    user.read_exact(&mut greeting).expect("greeted");
    let (input, sent) = when.recv_timeout(PATIENCE).expect("woken");
    assert_eq!(input, 0);
    assert!(sent > 100, "records: {sent}");
}

// proves L-29 with TLS: a handshake does not hold up the end, and open connections end properly
#[test]
fn a_stopping_event_loop_ends_handshakes_and_says_goodbye() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, log) = secret(Probe::echo(), &server).serve(&event_loop);
    let mut open = user(addr, &client);
    ask_user(&mut open, b"question");
    let mut silent = connect(addr);
    wait_until("both are there", || event_loop.connections() == 2);
    event_loop.shutdown(PATIENCE);
    assert_eq!(ends_properly(&mut open), b"");
    silent.read_to_end(&mut Vec::new()).ok();
    for _ in 0..2 {
        assert_eq!(log.closed().reason, Reason::Shutdown);
    }
}

/// A plain handler that hands each connection over to one with TLS, on another event loop, when it has heard `START`.
fn upgrade(server: &Arc<ServerConfig>) -> ([EventLoop; 2], SocketAddr, Log) {
    let [plain, secret_loop] = [one_poll(), one_poll()];
    let (probe, log) = secret(Probe::echo(), server).start();
    let remote = secret_loop.remote();
    let asked = Probe::new(move |at, conn| {
        if at == At::Request && conn.input().len() >= 5 {
            assert_eq!(conn.input().read_vec(5)?, b"START");
            let mut detached = conn.detach()?;
            // As if the kernel had not taken it.
            detached.unsent.write(b"go ahead");
            remote.adopt(detached, probe.clone())?;
        }
        Ok(())
    });
    let (addr, _) = asked.serve(&plain);
    ([plain, secret_loop], addr, log)
}

// proves L-28 with TLS: a connection goes over to it, and neither what was unsent nor what the peer sent ahead is lost
#[test]
fn a_plain_connection_goes_over_to_tls() {
    let (server, client) = configs();
    let (_loops, addr, log) = upgrade(&server);
    for sends_ahead in [true, false] {
        let mut user = user(addr, &client);
        let mut first = b"START".to_vec();
        if sends_ahead {
            user.conn.write_tls(&mut first).expect("a hello");
        }
        user.sock.0.write_all(&first).expect("written");
        let mut answer = [0; 8];
        user.sock.0.read_exact(&mut answer).expect("in the clear");
        assert_eq!(&answer, b"go ahead");
        ask_user(&mut user, b"for your eyes only");
        user.conn.send_close_notify();
        user.flush().expect("flushed");
        assert_eq!(log.closed().reason, Reason::Peer);
    }
}

// proves that what came in the clear, before TLS, is never taken for what came under its protection
#[test]
fn plain_bytes_ahead_of_the_handshake_never_reach_the_handler() {
    let (server, client) = configs();
    let (_loops, addr, log) = upgrade(&server);
    let mut hello = Vec::new();
    user(addr, &client).conn.write_tls(&mut hello).expect("a hello");
    let mut user = connect(addr);
    user.write_all(&[&b"STARTinjected"[..], &hello].concat()).expect("written");
    let mut answer = Vec::new();
    user.read_to_end(&mut answer).ok();
    assert!(answer.starts_with(b"go ahead\x15\x03\x03"), "an alert: {answer:?}");
    assert!(matches!(log.next().at, At::Prepare));
    let closed = log.expect(&[At::Close]).closed.expect("told");
    assert_eq!(
        (closed.reason, closed.connected),
        (Reason::Tls("the peer does not speak TLS".to_owned()), false)
    );
}
