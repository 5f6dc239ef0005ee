//! What the buffer allocates: nothing after warm-up, on the paths that serve requests and pass bytes on.
//!
//! The allocator counts per thread, and one test runs at a time: they share the pool's overflow.
#![allow(unsafe_code)] // `GlobalAlloc` is an unsafe trait; this one only counts and forwards to the system's.

use linkbuffer::limits::{POOL_SHARED_BYTES_MAX, POOL_THREAD_BYTES_MAX, REST_PIECES_MAX};
use linkbuffer::{LinkBuffer, Node};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::IoSlice;
use std::sync::{Mutex, MutexGuard, PoisonError};

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
    static LIVE_BYTES: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

fn count(allocations: usize, bytes: isize) {
    COUNT.set(COUNT.get() + allocations);
    LIVE_BYTES.set(LIVE_BYTES.get() + bytes);
}

// SAFETY: every call is passed on to the system's allocator as it is; the counters are plain cells that never allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as isize);
        // SAFETY: the caller keeps the contract of `alloc`, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as isize);
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(0, -(layout.size() as isize));
        // SAFETY: the memory came from the system's allocator with this layout, because all of it does.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const NODE_BYTES: usize = 64 * 1024;
const PIECE_BYTES: usize = 16 * 1024;

/// Keeps the other tests waiting, also after one has failed.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `cycle` until the pool is warm, and then 4,096 times: that is 64 MiB in pieces of 16 KiB, and beyond the pool's own
/// trimming; a few times under Miri, which is some hundred times slower and looks at each access. At most `max` allocations a cycle.
#[track_caller]
fn check(max: usize, mut cycle: impl FnMut()) {
    const CYCLES: usize = if cfg!(miri) { 8 } else { 4096 };
    let _alone = alone();
    (0..if cfg!(miri) { 8 } else { 64 }).for_each(|_| cycle());
    let before = COUNT.get();
    (0..CYCLES).for_each(|_| cycle());
    let allocated = COUNT.get() - before;
    assert!(allocated <= max * CYCLES, "{allocated} allocations in {CYCLES} cycles, {max} allowed in each");
}

/// A read of `n` bytes into the thread's node.
fn receive(input: &mut LinkBuffer, node: &mut Option<Node>, n: usize) {
    input.lend(node.take().unwrap_or_else(|| Node::take(NODE_BYTES)));
    input.inputs()[..n].fill(b'x');
    input.input_ack(n);
}

fn send(output: &mut LinkBuffer) {
    let mut slices = [IoSlice::new(&[]); 16];
    let count = output.io_slices(&mut slices);
    let sent = slices[..count].iter().map(|slice| slice.len()).sum();
    output.output_ack(sent);
}

#[test]
fn a_request_that_came_whole_costs_nothing() {
    let (mut input, mut node) = (LinkBuffer::new(), None);
    check(0, || {
        receive(&mut input, &mut node, 1000);
        assert_eq!(input.peek(1000).map(<[u8]>::len), Ok(1000));
        assert_eq!(input.skip(1000), Ok(()));
        node = input.reclaim();
        assert!(node.is_some());
    });
}

#[test]
fn a_request_that_came_in_parts_costs_nothing() {
    let (mut input, mut node) = (LinkBuffer::new(), None);
    check(0, || {
        for _ in 0..7 {
            receive(&mut input, &mut node, 300);
            node = input.reclaim();
        }
        assert_eq!(input.next(2100).map(<[u8]>::len), Ok(2100));
    });
}

#[test]
fn answers_cost_nothing() {
    let mut output = LinkBuffer::new();
    check(0, || {
        for _ in 0..100 {
            output.write(&[b'x'; 130]);
        }
        output.reserve(5000).fill(b'y');
        output.commit(5000);
        send(&mut output);
        assert!(output.is_empty());
    });
}

#[test]
fn a_relay_of_chains_allocates_and_copies_nothing() {
    let (mut input, mut output, mut node) = (LinkBuffer::new(), LinkBuffer::new(), None);
    check(0, || {
        receive(&mut input, &mut node, PIECE_BYTES);
        let address = input.chunk().as_ptr();
        output.append(input.split_to(PIECE_BYTES).expect("it was just received"));
        node = input.reclaim();
        assert_eq!(output.chunk().as_ptr(), address);
        send(&mut output);
        assert!(output.is_empty());
    });
}

#[test]
fn a_relay_of_framed_chains_allocates_and_copies_nothing() {
    let (mut input, mut output, mut node) = (LinkBuffer::new(), LinkBuffer::new(), None);
    check(0, || {
        let mut addresses = [std::ptr::null(); 4];
        for address in &mut addresses {
            receive(&mut input, &mut node, PIECE_BYTES);
            *address = input.chunk().as_ptr();
            output.write(&[b'h'; 12]);
            output.append(input.split_to(PIECE_BYTES).expect("it was just received"));
            node = input.reclaim();
        }
        let bodies = output.chunks().filter(|chunk| chunk.len() >= PIECE_BYTES).map(<[u8]>::as_ptr);
        assert!(bodies.eq(addresses), "the bodies lie where they were read");
        send(&mut output);
        assert!(output.is_empty());
    });
}

// The receiver takes less than it is offered, and many pieces wait for it: more than one send shows, and than the pool
// keeps a list for.
#[test]
fn a_relay_that_lags_allocates_and_copies_nothing() {
    let (mut input, mut output, mut node) = (LinkBuffer::new(), LinkBuffer::new(), None);
    let mut relay = |output: &mut LinkBuffer| {
        receive(&mut input, &mut node, PIECE_BYTES);
        let address = input.chunk().as_ptr();
        output.append(input.split_to(PIECE_BYTES).expect("it was just received"));
        node = input.reclaim();
        address
    };
    let waiting = REST_PIECES_MAX + 20;
    for _ in 0..waiting {
        relay(&mut output);
    }
    let (mut addresses, mut at) = (vec![std::ptr::null(); waiting + 1], 0);
    check(0, || {
        let address = std::mem::replace(&mut addresses[at % (waiting + 1)], relay(&mut output));
        // A send that ends within a piece, and goes on to within the next one.
        let sent = if at == 0 { PIECE_BYTES / 3 } else { PIECE_BYTES };
        let mut slices = [IoSlice::new(&[]); 16];
        assert_eq!(output.io_slices(&mut slices), 16);
        if at > waiting {
            assert_eq!(
                slices[0].as_ptr().wrapping_sub(PIECE_BYTES / 3),
                address,
                "it lies where it was read"
            );
        }
        output.output_ack(sent);
        at += 1;
    });
}

#[test]
fn a_relay_of_owned_bytes_allocates_their_owner_alone() {
    let (mut input, mut output, mut node) = (LinkBuffer::new(), LinkBuffer::new(), None);
    check(1, || {
        receive(&mut input, &mut node, PIECE_BYTES);
        let address = input.chunk().as_ptr();
        let bytes = input.read_chunk(usize::MAX).expect("it was just received");
        node = input.reclaim();
        assert_eq!(bytes.as_ptr(), address);
        output.write_bytes(bytes);
        send(&mut output);
    });
}

// proves L-27: an idle connection holds no buffer memory.
#[test]
fn idle_buffers_hold_nothing() {
    let _alone = alone();
    let count = if cfg!(miri) { 10 } else { 1000 };
    let mut buffers: Vec<(LinkBuffer, LinkBuffer)> = Vec::with_capacity(count);
    let mut node = Some(Node::take(NODE_BYTES));
    let before = LIVE_BYTES.get();
    for _ in 0..count {
        let (mut input, mut output) = (LinkBuffer::new(), LinkBuffer::new());
        receive(&mut input, &mut node, 100);
        node = input.reclaim();
        receive(&mut input, &mut node, 5000);
        output.write(input.next(5100).expect("it was just received"));
        node = input.reclaim();
        send(&mut output);
        buffers.push((input, output));
    }
    let held = LIVE_BYTES.get() - before;
    assert!(held < 64 * 1024, "{held} bytes: a few nodes in the pool, whatever the number of buffers");
}

#[test]
fn a_burst_is_given_back() {
    let _alone = alone();
    let before = LIVE_BYTES.get();
    let mut buffer = LinkBuffer::new();
    let burst = if cfg!(miri) { 8 << 20 } else { 64 << 20 };
    buffer.write(&vec![b'x'; burst]);
    assert!(LIVE_BYTES.get() - before >= burst as isize);
    send(&mut buffer);
    buffer.clear();
    let held = (LIVE_BYTES.get() - before) as usize;
    let lists = 64 * 1024;
    assert!(
        held <= POOL_THREAD_BYTES_MAX + POOL_SHARED_BYTES_MAX + lists,
        "{held} bytes are held after a burst"
    );
    (0..64).for_each(|_| linkbuffer::trim());
    let held = LIVE_BYTES.get() - before;
    assert!(held < lists as isize, "{held} bytes are held after the burst was forgotten");
}
