//! How many frames without anything in them a peer may send.

use super::*;

/// The real time is read once and never looked at again: only differences matter.
#[allow(clippy::disallowed_methods)]
fn base() -> Instant {
    Instant::now()
}

// proves T14: control frames and frames with nothing in them have a rate, and beyond it the WebSocket is over
#[test]
fn frames_that_carry_nothing_have_a_rate() {
    let idle = [
        masked_frame(0x89, b""),
        masked_frame(0x8a, b"unasked"),
        masked_frame(0x82, b""),
        masked_frame(0x02, b""),
        masked_frame(0x00, b""),
        masked_frame(0x80, b""),
    ];
    let per_s = WEBSOCKET_IDLE_FRAMES_PER_S_MAX as usize;
    for piece in [1, 100, usize::MAX] {
        let mut now = base();
        let mut server = open_server();
        for _ in 0..5 {
            // A whole second's worth at once, and what carries something is free.
            let frames: Vec<u8> = idle.iter().cycle().take(per_s / 6 * 6).flatten().copied().collect();
            for bytes in frames.chunks(piece) {
                server.handle_input(&mut buffer(bytes)).unwrap();
                assert_eq!(server.handle_time(now), Ok(()));
            }
            let full = masked_frame(0x82, b"x").repeat(10 * per_s);
            server.handle_input(&mut buffer(&full)).unwrap();
            assert_eq!(server.handle_time(now), Ok(()));
            now += std::time::Duration::from_secs(1);
        }
        output(&mut server);
        let frames: Vec<u8> = idle.iter().cycle().take(per_s + 1).flatten().copied().collect();
        let mut result = Ok(());
        for bytes in frames.chunks(piece) {
            server.handle_input(&mut buffer(bytes)).unwrap();
            output(&mut server);
            result = result.and(server.handle_time(now));
            if result.is_err() {
                break;
            }
        }
        assert_eq!((result, server.is_closed()), (Err(Error::Flood), true));
        assert_eq!(output(&mut server), close_frame(1008));
        assert_eq!(server.handle_time(now), Ok(()), "it is reported once");
        assert!(!Error::Flood.to_string().is_empty());
    }
}
