//! The pool: free nodes, and shells for linked `Bytes`, per thread, with a shared overflow.
//!
//! ```text
//!   Node::take ──▶ this thread's shelf ──(empty)──▶ shared shelf ──(empty or busy)──▶ allocator
//!   Node::drop ──▶ this thread's shelf ──(full)───▶ shared shelf ──(full or busy)───▶ allocator
//! ```
//! Both shelves are bounded in bytes. A shelf remembers, for each size, how few free nodes it ever had since the last
//! look: those were not needed, and half of them are freed. The look comes every [`POOL_TRIM_TAKES`] takes and with [`trim`].

use crate::limits::{
    NODE_BYTES_MIN, NODE_CLASSES_LEN, NODE_POOLED_BYTES_MAX, POOL_SHARED_BYTES_MAX, POOL_THREAD_BYTES_MAX,
    POOL_TRIM_TAKES, REST_PIECES_MAX, SHELLS_LEN_MAX,
};
use crate::piece::{Piece, Rest};
use std::cell::RefCell;
use std::collections::TryReserveError;
use std::sync::Mutex;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool::new()) };
}

static SHARED: Mutex<Shelf> = Mutex::new(Shelf::new(POOL_SHARED_BYTES_MAX));

/// Free nodes, by size.
#[expect(clippy::vec_box, reason = "a buffer takes the box as it is: nothing moves or allocates")]
struct Shelf {
    free: [Vec<Box<Piece>>; NODE_CLASSES_LEN],
    /// The fewest free nodes since the last trim. Invariant: `unused[class] <= free[class].len()`.
    unused: [usize; NODE_CLASSES_LEN],
    /// Invariant: the sum of all sizes in `free`, and `bytes <= bytes_max`.
    bytes: usize,
    bytes_max: usize,
}

struct Pool {
    shelf: Shelf,
    /// Invariant: each shows nothing, and `shells.len() <= SHELLS_LEN_MAX`.
    #[expect(clippy::vec_box, reason = "a buffer takes the box as it is: nothing moves or allocates")]
    shells: Vec<Box<Piece>>,
    takes: u32,
}

/// The class whose nodes hold at least `capacity` bytes; `None` beyond the largest.
fn class_for(capacity: usize) -> Option<usize> {
    if capacity > NODE_POOLED_BYTES_MAX {
        return None;
    }
    let size = capacity.max(NODE_BYTES_MIN).next_power_of_two();
    Some((size / NODE_BYTES_MIN).ilog2() as usize)
}

fn class_bytes(class: usize) -> usize {
    NODE_BYTES_MIN << class
}

/// A node of at least `capacity` bytes of initialised memory. What it holds is unspecified; nothing of it is readable.
pub(crate) fn take(capacity: usize) -> Box<Piece> {
    let Some(class) = class_for(capacity) else { return allocate(capacity) };
    // The thread-local is gone only while the thread ends; then there is no pool.
    let pooled = POOL.try_with(|pool| pool.borrow_mut().take(class)).ok().flatten();
    pooled.unwrap_or_else(|| allocate(class_bytes(class)))
}

/// As `take`, where there may be no such memory.
pub(crate) fn try_take(capacity: usize) -> Result<Box<Piece>, TryReserveError> {
    if class_for(capacity).is_some() {
        return Ok(take(capacity));
    }
    let mut memory = Vec::new();
    memory.try_reserve_exact(capacity)?;
    memory.resize(capacity, 0);
    Ok(Box::new(Piece::node(memory.into_boxed_slice())))
}

#[cold]
fn allocate(capacity: usize) -> Box<Piece> {
    Box::new(Piece::node(vec![0; capacity].into_boxed_slice()))
}

/// Takes a piece back that nothing hangs behind; frees it where the pool is full or does not keep that size.
pub(crate) fn give(mut piece: Box<Piece>) {
    debug_assert!(piece.rest.is_empty(), "what goes back goes back alone");
    piece.reset();
    piece.reserved = 0;
    if piece.rest.capacity() > REST_PIECES_MAX {
        piece.rest = Rest::new();
    }
    if piece.is_shared() {
        // Before the pool is borrowed: the last `Bytes` of a node gives that back too.
        piece.let_go();
        give_shell(piece);
    } else if let Some(class) = class_for(piece.capacity())
        && class_bytes(class) == piece.capacity()
    {
        let mut piece = Some(piece);
        // Where the thread is ending, the closure does not run and the piece is freed here.
        let _ending = POOL.try_with(|pool| {
            if let Some(piece) = piece.take() {
                pool.borrow_mut().give(class, piece);
            }
        });
    }
}

/// A piece that shows nothing, for a `Bytes`.
pub(crate) fn take_shell() -> Box<Piece> {
    let pooled = POOL.try_with(|pool| pool.borrow_mut().shells.pop()).ok().flatten();
    pooled.unwrap_or_else(|| Box::new(Piece::shell()))
}

fn give_shell(shell: Box<Piece>) {
    let mut shell = Some(shell);
    let _ending = POOL.try_with(|pool| {
        let shells = &mut pool.borrow_mut().shells;
        if shells.len() < SHELLS_LEN_MAX {
            shells.extend(shell.take());
        }
    });
}

/// Frees half of the pooled memory that this thread, and the shared overflow, did not need since the last look.
///
/// The pool does so by itself while it is in use; call this when a thread is about to be idle for long. Repeated
/// calls with nothing in between free everything.
///
/// # Examples
/// ```
/// drop(linkbuffer::Node::take(65536)); // now in the pool
/// linkbuffer::trim(); // seen, and not used since
/// linkbuffer::trim(); // freed
/// ```
pub fn trim() {
    let _ending = POOL.try_with(|pool| pool.borrow_mut().trim());
}

impl Pool {
    const fn new() -> Self {
        Self { shelf: Shelf::new(POOL_THREAD_BYTES_MAX), shells: Vec::new(), takes: 0 }
    }

    fn take(&mut self, class: usize) -> Option<Box<Piece>> {
        self.takes += 1;
        if self.takes >= POOL_TRIM_TAKES {
            self.trim();
        }
        // A busy or poisoned overflow is no overflow: nobody waits for it.
        self.shelf.take(class).or_else(|| SHARED.try_lock().ok()?.take(class))
    }

    fn give(&mut self, class: usize, node: Box<Piece>) {
        if let Err(node) = self.shelf.give(class, node)
            && let Ok(mut shared) = SHARED.try_lock()
        {
            drop(shared.give(class, node));
        }
    }

    fn trim(&mut self) {
        self.takes = 0;
        self.shelf.trim();
        if let Ok(mut shared) = SHARED.try_lock() {
            shared.trim();
        }
    }
}

impl Shelf {
    const fn new(bytes_max: usize) -> Self {
        let free = [const { Vec::new() }; NODE_CLASSES_LEN];
        Self { free, unused: [0; NODE_CLASSES_LEN], bytes: 0, bytes_max }
    }

    fn take(&mut self, class: usize) -> Option<Box<Piece>> {
        let node = self.free[class].pop()?;
        self.unused[class] = self.unused[class].min(self.free[class].len());
        self.bytes -= class_bytes(class);
        self.check();
        Some(node)
    }

    /// Keeps the node, or hands it back where there is no room for it.
    fn give(&mut self, class: usize, node: Box<Piece>) -> Result<(), Box<Piece>> {
        let bytes = self.bytes + class_bytes(class);
        if bytes > self.bytes_max {
            return Err(node);
        }
        self.bytes = bytes;
        self.free[class].push(node);
        self.check();
        Ok(())
    }

    /// Asserts the invariants in debug builds. O(classes).
    fn check(&self) {
        if cfg!(debug_assertions) {
            let bytes: usize =
                self.free.iter().enumerate().map(|(class, free)| free.len() * class_bytes(class)).sum();
            assert_eq!(self.bytes, bytes, "a shelf knows how much it keeps");
            assert!(self.bytes <= self.bytes_max, "a shelf is bounded");
            assert!(self.unused.iter().zip(&self.free).all(|(&unused, free)| unused <= free.len()));
        }
    }

    fn trim(&mut self) {
        for (class, free) in self.free.iter_mut().enumerate() {
            let surplus = self.unused[class].div_ceil(2);
            free.truncate(free.len() - surplus);
            self.unused[class] = free.len();
            self.bytes -= surplus * class_bytes(class);
            if surplus > 0 && free.is_empty() {
                // The list too; but not where its nodes are merely all in use.
                free.shrink_to_fit();
            }
        }
        self.check();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::cut;

    #[track_caller]
    fn check_class(capacity: usize, want: Option<usize>) {
        assert_eq!(class_for(capacity).map(class_bytes), want, "capacity {capacity}");
    }

    #[test]
    fn capacities_round_up_to_classes() {
        check_class(0, Some(512));
        check_class(1, Some(512));
        check_class(512, Some(512));
        check_class(513, Some(1024));
        check_class(16 * 1024, Some(16 * 1024));
        check_class(32 * 1024 + 1, Some(64 * 1024));
        check_class(64 * 1024, Some(64 * 1024));
        check_class(64 * 1024 + 1, None);
        check_class(usize::MAX, None);
    }

    fn full_shelf() -> Shelf {
        let mut shelf = Shelf::new(POOL_THREAD_BYTES_MAX);
        let class = NODE_CLASSES_LEN - 1;
        while shelf.give(class, allocate(class_bytes(class))).is_ok() {}
        shelf
    }

    #[test]
    fn shelf_is_bounded_in_bytes() {
        let mut shelf = full_shelf();
        assert_eq!(shelf.bytes, POOL_THREAD_BYTES_MAX);
        assert!(shelf.give(0, allocate(NODE_BYTES_MIN)).is_err());
    }

    #[test]
    fn shelf_gives_back_after_a_burst() {
        let class = NODE_CLASSES_LEN - 1;
        let mut shelf = full_shelf();
        shelf.trim();
        assert_eq!(shelf.bytes, POOL_THREAD_BYTES_MAX, "what has just come back is kept for a round");
        for _ in 0..16 {
            let in_use = shelf.take(class).expect("one is always kept while one is always used");
            shelf.give(class, in_use).expect("there is room for what was just taken");
            shelf.trim();
        }
        assert_eq!(shelf.bytes, NODE_POOLED_BYTES_MAX, "the one in use stays, the burst's are freed");
        shelf.trim();
        shelf.trim();
        assert_eq!(shelf.bytes, 0, "and that too once nobody uses it");
    }

    /// On a thread of its own, because the pool is the thread's.
    fn on_new_thread(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(test).join().expect("the test passes");
    }

    #[test]
    fn thread_pool_never_exceeds_its_limit() {
        on_new_thread(|| {
            let burst: Vec<_> = (0..64).map(|_| take(NODE_POOLED_BYTES_MAX)).collect();
            burst.into_iter().for_each(give);
            POOL.with(|pool| assert_eq!(pool.borrow().shelf.bytes, POOL_THREAD_BYTES_MAX));
            assert!(SHARED.lock().expect("no test panics with it").bytes <= POOL_SHARED_BYTES_MAX);
            trim();
            trim();
            POOL.with(|pool| assert_eq!(pool.borrow().shelf.bytes, POOL_THREAD_BYTES_MAX / 2));
        });
    }

    #[test]
    fn odd_sizes_are_not_kept() {
        on_new_thread(|| {
            give(allocate(1000));
            give(take(NODE_POOLED_BYTES_MAX + 1));
            POOL.with(|pool| assert_eq!(pool.borrow().shelf.bytes, 0));
        });
    }

    #[test]
    fn spare_shells_are_bounded_and_small() {
        on_new_thread(|| {
            (0..SHELLS_LEN_MAX + 9).for_each(|_| give(Box::new(Piece::shell())));
            POOL.with(|pool| assert_eq!(pool.borrow().shells.len(), SHELLS_LEN_MAX));
            POOL.with(|pool| pool.borrow_mut().shells.clear());
            for pieces in [REST_PIECES_MAX, REST_PIECES_MAX + 1] {
                let mut shell = Piece::shell();
                shell.rest = Rest::with_capacity(pieces);
                give(Box::new(shell));
                assert_eq!(take_shell().rest.capacity() > 0, pieces == REST_PIECES_MAX);
            }
        });
    }

    #[test]
    fn regular_use_trims_by_itself() {
        on_new_thread(|| {
            let rounds = cut(8, 2);
            let burst: Vec<_> = (0..rounds).map(|_| take(NODE_BYTES_MIN)).collect();
            burst.into_iter().for_each(give);
            for _ in 0..POOL_TRIM_TAKES as usize * rounds {
                give(take(NODE_BYTES_MIN));
            }
            POOL.with(|pool| assert_eq!(pool.borrow().shelf.bytes, NODE_BYTES_MIN));
        });
    }
}
