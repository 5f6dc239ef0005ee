//! What passes once a connection is open, and how it ends.

use super::*;

#[test]
fn an_echo_in_pieces_of_every_size() {
    let event_loop = event_loop();
    let (server, client) = configs();
    let (addr, log) = secret(Probe::echo(), &server).serve(&event_loop);
    for piece in (1..40).chain([64, 100, 333, 1000, 5000]) {
        let mut user = chopped_user(addr, &client, piece);
        ask_user(&mut user, b"question");
        ask_user(&mut user, &vec![piece as u8; 3000]);
        user.conn.send_close_notify();
        user.flush().expect("flushed");
        assert_eq!(ends_properly(&mut user), b"");
        let closed = log.closed();
        assert_eq!((closed.reason, closed.unsent, closed.connected), (Reason::Peer, 0, true));
        assert!(closed.bytes_in > 3008 && closed.bytes_out > 3008, "records are counted");
    }
}

// proves L-06 with TLS: the rest of a record stands behind urgent data, at which a read stops
#[test]
fn what_stands_behind_urgent_data_is_read() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, _log) = secret(Probe::echo(), &server).serve(&event_loop);
    let mut user = user(addr, &client);
    ask_user(&mut user, b"begin");
    for question in [b"question", b"and more"] {
        user.conn.writer().write_all(question).expect("taken");
        let mut record = Vec::new();
        user.conn.write_tls(&mut record).expect("sealed");
        let (head, rest) = record.split_at(10);
        let socket = socket2::SockRef::from(&user.sock.0);
        let gate = support::gate::hold(&event_loop);
        socket.send(head).expect("sent");
        socket.send_out_of_band(b"!").expect("sent");
        socket.send(rest).expect("sent");
        drop(gate);
        let mut answer = [0; 8];
        user.read_exact(&mut answer).expect("answered");
        assert_eq!(&answer, question);
    }
}

// proves L-09 with TLS: 64 MiB through an echo whose reader starts late
#[test]
fn a_slow_reader_slows_the_sender_and_memory_stays_bounded() {
    const TOTAL: usize = 64 << 20;
    let event_loop = event_loop();
    let (server, client) = configs();
    let (congested, when_congested) = crossbeam_channel::unbounded();
    let most = Arc::new(AtomicUsize::new(0));
    let (addr, log) = secret(
        Probe::new({
            let most = most.clone();
            move |at, conn| {
                echo(at, conn)?;
                if conn.is_congested() {
                    congested.send(()).ok();
                }
                let (input, output) = conn.buffers();
                most.fetch_max(input.len() + output.len(), Ordering::Relaxed);
                Ok(())
            }
        }),
        &server,
    )
    .serve(&event_loop);
    // rustls' stream is one object, so the two directions share it by halves: a connection, and a socket for each.
    let mut stream = user(addr, &client);
    ask_user(&mut stream, b"begin");
    let StreamOwned { conn, sock } = stream;
    let conn = Arc::new(parking_lot::Mutex::new(conn));
    let writer = std::thread::spawn({
        let (conn, mut socket) = (conn.clone(), sock.0.try_clone().expect("a second handle"));
        move || {
            let mut at = 0;
            while at < TOTAL {
                let block: Vec<u8> = (at..at + 16_384).map(pattern).collect();
                at += block.len();
                let mut records = Vec::new();
                {
                    let mut conn = conn.lock();
                    conn.writer().write_all(&block).expect("taken");
                    while conn.wants_write() {
                        conn.write_tls(&mut records).expect("sealed");
                    }
                }
                socket.write_all(&records).expect("written");
            }
        }
    });
    when_congested.recv_timeout(PATIENCE).expect("the output reaches its high watermark");
    let (mut at, mut socket, mut block) = (0, sock.0, vec![0; 65_536]);
    while at < TOTAL {
        let n = socket.read(&mut block).expect("read");
        assert_ne!(n, 0, "the stream ended after {at} bytes");
        let mut records = &block[..n];
        while !records.is_empty() {
            let mut conn = conn.lock();
            conn.read_tls(&mut records).expect("taken");
            conn.process_new_packets().expect("records");
            let mut plain = [0; 16_384];
            while let Ok(n @ 1..) = conn.reader().read(&mut plain) {
                assert!(
                    plain[..n].iter().enumerate().all(|(i, byte)| *byte == pattern(at + i)),
                    "within {n} of {at}"
                );
                at += n;
            }
        }
    }
    writer.join().expect("all was taken");
    drop(socket);
    let closed = log.closed();
    assert!(closed.bytes_in > TOTAL as u64 && closed.bytes_out > TOTAL as u64);
    // Cut off, as nobody said that it would end.
    assert_eq!(closed.reason, Reason::Error(Fault { kind: ErrorKind::UnexpectedEof, errno: None }));
    let most = most.load(Ordering::Relaxed);
    assert!(most <= limits::OUTPUT_HIGH_BYTES + 2 * limits::READ_BYTES_MAX, "bounded: {most}");
}

// proves L-22 with TLS, the peer's end first
#[test]
fn the_peers_close_notify_is_the_end_of_its_stream_and_the_answer_still_goes_out() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, log) = secret(
        Probe::new(|at, conn| {
            if at == At::Request && conn.input_ended() {
                conn.output().write(&vec![7; 1 << 20]);
            }
            Ok(())
        }),
        &server,
    )
    .serve(&event_loop);
    let mut user = user(addr, &client);
    user.write_all(b"question").expect("written");
    user.conn.send_close_notify();
    user.flush().expect("flushed");
    user.sock.0.shutdown(Shutdown::Write).expect("FIN behind it");
    assert_eq!(ends_properly(&mut user), vec![7; 1 << 20]);
    log.expect(&[At::Prepare, At::Connect]);
    assert_eq!(log.find(|event| event.at == At::Request && event.ended).input, 8);
    let rest = log.rest();
    assert!(rest.iter().all(|event| event.at != At::Request), "once");
    let closed = rest.iter().find_map(|event| event.closed.clone()).unwrap_or_else(|| log.closed());
    assert_eq!(closed.reason, Reason::Peer);
}

// proves L-22 with TLS, our end first
#[test]
fn our_stream_can_end_and_reading_goes_on() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, log) = secret(
        Probe::new(|at, conn| {
            if at == At::Connect {
                conn.set_half_close(true);
                conn.output().write(b"last words");
                conn.shutdown_write();
            }
            Ok(())
        }),
        &server,
    )
    .serve(&event_loop);
    let mut user = user(addr, &client);
    assert_eq!(ends_properly(&mut user), b"last words");
    user.write_all(b"still here").expect("written");
    user.flush().expect("flushed");
    assert_eq!(log.find(|event| event.input == 10).at, At::Request);
    user.conn.send_close_notify();
    user.flush().expect("flushed");
    assert_eq!(log.closed().reason, Reason::Peer);
}

// proves L-14 with TLS: what came before the cut is handed over, and the cut is no end
#[test]
fn a_stream_that_is_cut_off_is_an_error() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, log) = secret(Probe::new(|_, _| Ok(())), &server).serve(&event_loop);
    let mut user = user(addr, &client);
    user.write_all(b"half a mess").expect("written");
    user.flush().expect("flushed");
    log.find(|event| event.at == At::Request && event.input == 11);
    user.sock.0.shutdown(Shutdown::Write).expect("shut down");
    let mut seen = Vec::new();
    let closed = loop {
        let event = log.next();
        seen.push((event.at, event.ended));
        if let Some(closed) = event.closed {
            break closed;
        }
    };
    assert_eq!(seen, [(At::Disconnect, false)]);
    assert_eq!(closed.reason, Reason::Error(Fault { kind: ErrorKind::UnexpectedEof, errno: None }));
}

// proves L-23 with TLS: a graceful close sends what is queued, then close_notify
#[test]
fn a_close_sends_what_is_queued_and_ends_the_stream_properly() {
    let event_loop = event_loop();
    let (server, client) = configs();
    let (addr, log) = secret(
        Probe::new(|at, conn| {
            if at == At::Request {
                conn.output().write_bytes(Bytes::from(vec![9; 8 << 20]));
                conn.close();
            }
            Ok(())
        }),
        &server,
    )
    .serve(&event_loop);
    let mut user = user(addr, &client);
    user.write_all(b"go").expect("written");
    user.flush().expect("flushed");
    assert_eq!(ends_properly(&mut user), vec![9; 8 << 20]);
    let closed = log.closed();
    assert_eq!((closed.reason, closed.unsent), (Reason::User, 0));
}

// proves L-23 with TLS: an abort drops what is queued, and the peer cannot take it for an end
#[test]
fn an_abort_is_not_taken_for_an_end() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, log) = secret(
        Probe::new(|at, conn| {
            if at == At::Request {
                conn.output().write_bytes(Bytes::from(vec![9; 1 << 20]));
                conn.abort();
            }
            Ok(())
        }),
        &server,
    )
    .serve(&event_loop);
    let mut user = user(addr, &client);
    user.write_all(b"go").expect("written");
    user.flush().expect("flushed");
    let error = user.read_to_end(&mut Vec::new()).expect_err("nobody said that this is all");
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof), "{error}");
    let closed = log.closed();
    assert_eq!(closed.reason, Reason::User);
}

// proves L-10 with TLS
#[test]
fn a_blocked_handler_stops_nobody_else() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (go, may_go) = crossbeam_channel::bounded::<()>(1);
    let (addr, log) = secret(
        Probe::new(move |at, conn| {
            if at == At::Request && conn.input().chunk() == b"wait" {
                poller::blocking(|| may_go.recv_timeout(PATIENCE))?;
            }
            echo(at, conn)
        }),
        &server,
    )
    .serve(&event_loop);
    let mut slow = user(addr, &client);
    slow.write_all(b"wait").expect("written");
    slow.flush().expect("flushed");
    log.handle();
    for _ in 0..3 {
        // A handshake and an answer, while the other one waits.
        ask_user(&mut user(addr, &client), b"at once");
    }
    go.send(()).expect("awaited");
    let mut answer = [0; 4];
    slow.read_exact(&mut answer).expect("answered");
    assert_eq!(&answer, b"wait");
}

// proves L-11 with TLS: a message that goes on by records, and is not consumed, does not move the read limit
#[test]
fn records_do_not_count_as_consumed() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, log) = secret(
        Probe::new(|at, conn| {
            if at == At::Connect {
                conn.set_read_timeout(Some(Duration::from_millis(100)))?;
            }
            Ok(())
        }),
        &server,
    )
    .serve(&event_loop);
    let mut user = user(addr, &client);
    // A byte in a record, for as long as anybody takes them.
    while user.write_all(b"x").and_then(|()| user.flush()).is_ok() {
        std::thread::yield_now();
    }
    assert_eq!(log.closed().reason, Reason::Timeout(Limit::Read));
}

#[test]
fn a_handler_can_wait_for_plaintext_and_for_the_end() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, log) = secret(
        Probe::new(|at, conn| {
            if at == At::Request && !conn.input().is_empty() {
                conn.wait_for(100_000)?;
                let all = conn.input().read_bytes(100_000)?;
                conn.output().write_bytes(all);
                conn.flush_all()?;
                let ended = conn.wait_for(1).expect_err("nothing follows");
                assert_eq!(ended.kind(), ErrorKind::UnexpectedEof);
                conn.output().write(b".");
            }
            Ok(())
        }),
        &server,
    )
    .serve(&event_loop);
    let all: Vec<u8> = (0..100_000).map(pattern).collect();
    let mut waiting = user(addr, &client);
    ask_user(&mut waiting, &all);
    waiting.conn.send_close_notify();
    waiting.flush().expect("flushed");
    assert_eq!(ends_properly(&mut waiting), b".");
    assert_eq!(log.closed().reason, Reason::Peer);

    // A damaged record ends the wait.
    let mut waiting = user(addr, &client);
    waiting.write_all(b"begin").expect("written");
    waiting.flush().expect("flushed");
    log.handle();
    waiting
        .sock
        .0
        .write_all(&[23, 3, 3, 0, 32])
        .and_then(|()| waiting.sock.0.write_all(&[0; 32]))
        .expect("written");
    assert_eq!(log.closed().reason, Reason::Tls("cannot decrypt peer's message".to_owned()));
}

/// A peer that breaks the protocol in the middle of a stream: what came before is handed over, the alert goes out.
#[test]
fn damage_is_an_error_with_an_alert_and_what_came_before_is_handed_over() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, log) = secret(Probe::new(|_, _| Ok(())), &server).serve(&event_loop);
    let mut user = user(addr, &client);
    user.write_all(b"good").expect("written");
    user.flush().expect("flushed");
    log.find(|event| event.at == At::Request && event.input == 4);
    user.conn.writer().write_all(b"more").expect("taken");
    let mut records = Vec::new();
    user.conn.write_tls(&mut records).expect("sealed");
    let good = records.len();
    user.conn.writer().write_all(b"damaged").expect("taken");
    user.conn.write_tls(&mut records).expect("sealed");
    records[good + 10] ^= 1;
    user.sock.0.write_all(&records).expect("written");
    log.find(|event| event.input == 8);
    let closed = log.closed();
    assert_eq!(closed.reason, Reason::Tls("cannot decrypt peer's message".to_owned()));
    let error = user.read(&mut [0; 1]).expect_err("an alert");
    let alert = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    assert_eq!(alert, Some(&rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac)));
}
