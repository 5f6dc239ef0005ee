//! The pool: free nodes, and shells for linked `Bytes`, per thread, with a shared overflow.
//!
//! ```text
//!   Node::take ──▶ spare ──(none)──────▶ this thread's shelf ──(empty)──▶ shared shelf ──(empty or busy)──▶ allocator
//!   Node::drop ──▶ spare ──(had one)───▶ this thread's shelf ──(full)───▶ shared shelf ──(full or busy)───▶ allocator
//! ```
//! The spare of a size is the node that came back last. Most buffers never need more: a node for an answer that goes out whole.
//! Taking it and giving it back is little more than moving a pointer; all other nodes lie on shelves.
//!
//! The pool is bounded in bytes. A shelf remembers, for each size, how few free nodes it ever had since the last
//! look: those were not needed, and half of them are freed. The look comes every [`POOL_TRIM_CALLS`] times that the pool was
//! used, also by a thread that only gives back what others took, and with [`trim`]; a spare that two looks see is freed.

use crate::limits::{
    NODE_BYTES_MIN, NODE_CLASSES_LEN, NODE_POOLED_BYTES_MAX, POOL_SHARED_BYTES_MAX, POOL_SPARES_BYTES_MAX,
    POOL_THREAD_BYTES_MAX, POOL_TRIM_CALLS, REST_PIECES_MAX, SHELLS_LEN_MAX,
};
use crate::piece::{Piece, Rest};
use std::cell::{Cell, RefCell};
use std::sync::Mutex;

thread_local! {
    static POOL: Pool = const { Pool::new() };
}

static SHARED: Mutex<Shelf> = Mutex::new(Shelf::new(POOL_SHARED_BYTES_MAX));

const _: () =
    assert!(POOL_SPARES_BYTES_MAX == class_bytes(NODE_CLASSES_LEN) - NODE_BYTES_MIN, "a spare of each size");

struct Pool {
    /// `reserved` of a spare node is 1 when a look has seen it since it came back.
    spares: [Cell<Option<Box<Piece>>>; NODE_CLASSES_LEN],
    /// How often it was used since the last look, but for what was only put into an empty place for a spare.
    calls: Cell<u32>,
    shelves: RefCell<Shelves>,
}

/// Invariant: the nodes and all possible spares together are <= POOL_THREAD_BYTES_MAX, and the shells <= SHELLS_LEN_MAX.
struct Shelves {
    nodes: Shelf,
    /// Invariant: each shows nothing.
    shells: List,
}

/// Free nodes, by size.
struct Shelf {
    lists: [List; NODE_CLASSES_LEN],
    /// Invariant: the sum of all sizes in `lists`, and `bytes <= bytes_max`.
    bytes: usize,
    bytes_max: usize,
}

/// What lies free of one size.
#[expect(clippy::vec_box, reason = "a buffer takes the box as it is: nothing moves or allocates")]
struct List {
    free: Vec<Box<Piece>>,
    /// The fewest that were free since the last trim. Invariant: `unused <= free.len()`.
    unused: usize,
}

/// The class whose nodes hold at least `capacity` bytes; `None` beyond the largest.
#[inline]
const fn class_for(capacity: usize) -> Option<usize> {
    if capacity > NODE_POOLED_BYTES_MAX {
        return None;
    }
    let size = if capacity < NODE_BYTES_MIN { NODE_BYTES_MIN } else { capacity.next_power_of_two() };
    Some((size / NODE_BYTES_MIN).ilog2() as usize)
}

const fn class_bytes(class: usize) -> usize {
    NODE_BYTES_MIN << class
}

/// The class of a node of exactly `capacity` bytes, as its piece keeps it: `NODE_CLASSES_LEN` for one that is not pooled.
pub(crate) fn class_of(capacity: usize) -> u8 {
    class_for(capacity).filter(|&class| class_bytes(class) == capacity).unwrap_or(NODE_CLASSES_LEN) as u8
}

/// A node of at least `capacity` bytes of initialised memory. What it holds is unspecified; nothing of it is readable.
#[inline]
pub(crate) fn take(capacity: usize) -> Box<Piece> {
    let Some(class) = class_for(capacity) else { return allocate(capacity) };
    // The thread-local is gone only while the thread ends; then there is no pool.
    let spare = POOL.try_with(|pool| {
        pool.count();
        pool.spares[class].take()
    });
    match spare {
        Ok(Some(mut node)) => {
            node.reserved = 0;
            node
        }
        _ => take_from_shelf(class),
    }
}

#[inline(never)]
fn take_from_shelf(class: usize) -> Box<Piece> {
    let pooled = POOL.try_with(|pool| pool.shelves.borrow_mut().take(class, &SHARED)).ok().flatten();
    pooled.unwrap_or_else(|| allocate(class_bytes(class)))
}

#[cold]
fn allocate(capacity: usize) -> Box<Piece> {
    Box::new(Piece::node(vec![0; capacity].into_boxed_slice()))
}

/// Takes a piece back that nothing hangs behind; frees it where the pool is full or does not keep that size.
#[inline]
pub(crate) fn give(mut piece: Box<Piece>) {
    debug_assert!(piece.rest.is_empty(), "what goes back goes back alone");
    piece.reset();
    piece.reserved = 0;
    let class = usize::from(piece.class());
    if class >= NODE_CLASSES_LEN || piece.rest.capacity() > REST_PIECES_MAX {
        return give_unusual(piece);
    }
    let mut node = Some(piece);
    // Where the thread is ending, the closure does not run and the node is freed here.
    if let Ok(Some(before)) = POOL.try_with(|pool| pool.spares[class].replace(node.take())) {
        give_to_shelf(class, before);
    }
}

#[inline(never)]
fn give_to_shelf(class: usize, node: Box<Piece>) {
    let mut node = Some(node);
    let _ending = POOL.try_with(|pool| {
        pool.count();
        if let Some(mut node) = node.take() {
            node.reserved = 0;
            pool.shelves.borrow_mut().give(class, node, &SHARED);
        }
    });
}

/// Takes back a shell, a node that is not pooled, or a piece that many others hung behind.
#[inline(never)]
fn give_unusual(mut piece: Box<Piece>) {
    if piece.rest.capacity() > REST_PIECES_MAX {
        piece.rest = Rest::new();
    }
    let class = usize::from(piece.class());
    if class < NODE_CLASSES_LEN {
        give_to_shelf(class, piece);
    } else if piece.is_shared() {
        // Before the pool is borrowed: the last `Bytes` of a node gives that back too.
        piece.let_go();
        let mut shell = Some(piece);
        let _ending = POOL.try_with(|pool| {
            pool.count();
            let shells = &mut pool.shelves.borrow_mut().shells;
            if shells.free.len() < SHELLS_LEN_MAX {
                shells.free.extend(shell.take());
            }
        });
    }
}

/// A piece that shows nothing, for a `Bytes`.
pub(crate) fn take_shell() -> Box<Piece> {
    let pooled = POOL.try_with(|pool| {
        pool.count();
        pool.shelves.borrow_mut().shells.take()
    });
    pooled.ok().flatten().unwrap_or_else(|| Box::new(Piece::shell()))
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
    let _ending = POOL.try_with(Pool::trim);
}

impl Pool {
    const fn new() -> Self {
        Self {
            spares: [const { Cell::new(None) }; NODE_CLASSES_LEN],
            calls: Cell::new(0),
            shelves: RefCell::new(Shelves::new()),
        }
    }

    #[inline]
    fn count(&self) {
        let calls = self.calls.get() + 1;
        self.calls.set(calls);
        if calls >= POOL_TRIM_CALLS {
            self.trim();
        }
    }

    #[cold]
    fn trim(&self) {
        self.calls.set(0);
        let mut shelves = self.shelves.borrow_mut();
        for spare in &self.spares {
            // Freed where the look before saw it too.
            spare.set(spare.take().filter(|node| node.reserved == 0).map(|mut node| {
                node.reserved = 1;
                node
            }));
        }
        shelves.trim(&SHARED);
    }
}

// A busy or poisoned overflow is no overflow: nobody waits for it.
impl Shelves {
    const fn new() -> Self {
        Self { nodes: Shelf::new(POOL_THREAD_BYTES_MAX - POOL_SPARES_BYTES_MAX), shells: List::new() }
    }

    fn trim(&mut self, shared: &Mutex<Shelf>) {
        self.nodes.trim();
        self.shells.trim();
        if let Ok(mut shared) = shared.try_lock() {
            shared.trim();
        }
    }

    fn take(&mut self, class: usize, shared: &Mutex<Shelf>) -> Option<Box<Piece>> {
        self.nodes.take(class).or_else(|| shared.try_lock().ok()?.take(class))
    }

    fn give(&mut self, class: usize, node: Box<Piece>, shared: &Mutex<Shelf>) {
        if let Err(node) = self.nodes.give(class, node)
            && let Ok(mut shared) = shared.try_lock()
        {
            drop(shared.give(class, node));
        }
    }
}

impl Shelf {
    const fn new(bytes_max: usize) -> Self {
        Self { lists: [const { List::new() }; NODE_CLASSES_LEN], bytes: 0, bytes_max }
    }

    fn take(&mut self, class: usize) -> Option<Box<Piece>> {
        let node = self.lists[class].take()?;
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
        self.lists[class].free.push(node);
        self.check();
        Ok(())
    }

    fn trim(&mut self) {
        for (class, list) in self.lists.iter_mut().enumerate() {
            self.bytes -= list.trim() * class_bytes(class);
        }
        self.check();
    }

    /// Asserts the invariants in debug builds. O(classes).
    fn check(&self) {
        if cfg!(debug_assertions) {
            let sizes =
                self.lists.iter().enumerate().map(|(class, list)| list.free.len() * class_bytes(class));
            assert_eq!(self.bytes, sizes.sum(), "a shelf knows how much it keeps");
            assert!(self.bytes <= self.bytes_max, "a shelf is bounded");
            assert!(
                self.lists.iter().all(|list| list.unused <= list.free.len()),
                "no more is unused than is free"
            );
        }
    }
}

impl List {
    const fn new() -> Self {
        Self { free: Vec::new(), unused: 0 }
    }

    fn take(&mut self) -> Option<Box<Piece>> {
        let piece = self.free.pop()?;
        self.unused = self.unused.min(self.free.len());
        Some(piece)
    }

    /// Frees half of what was not needed since the last time, and returns how many that were.
    fn trim(&mut self) -> usize {
        let surplus = self.unused.div_ceil(2);
        self.free.truncate(self.free.len() - surplus);
        self.unused = self.free.len();
        if surplus > 0 && self.free.is_empty() {
            // The list too; but not where all of its pieces are merely in use.
            self.free = Vec::new();
        }
        surplus
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

    /// What this thread keeps: on its shelf, and of spares.
    fn kept() -> (usize, usize) {
        POOL.with(|pool| {
            let spares = pool.spares.iter().map(|spare| {
                let node = spare.take();
                let bytes = node.as_ref().map_or(0, |node| node.capacity());
                spare.set(node);
                bytes
            });
            (pool.shelves.borrow().nodes.bytes, spares.sum())
        })
    }

    fn spare_shells() -> usize {
        POOL.with(|pool| pool.shelves.borrow().shells.free.len())
    }

    #[test]
    fn thread_pool_never_exceeds_its_limit() {
        on_new_thread(|| {
            let sizes = (0..NODE_CLASSES_LEN).map(class_bytes);
            let burst: Vec<_> = sizes.chain([NODE_POOLED_BYTES_MAX; 64]).map(take).collect();
            burst.into_iter().for_each(give);
            let (shelf, spares) = kept();
            assert_eq!(spares, POOL_SPARES_BYTES_MAX);
            assert!(shelf + spares <= POOL_THREAD_BYTES_MAX);
            assert!(shelf + spares > POOL_THREAD_BYTES_MAX - NODE_POOLED_BYTES_MAX, "and comes near it");
            assert!(SHARED.lock().expect("no test panics with it").bytes <= POOL_SHARED_BYTES_MAX);
            trim();
            assert_eq!(kept(), (shelf, spares), "what has just come back is kept for a round");
            trim();
            let (shelf_then, spares_then) = kept();
            assert!(shelf_then <= shelf / 2 && spares_then == 0);
        });
    }

    #[test]
    fn one_node_in_use_is_the_spare() {
        on_new_thread(|| {
            let node = take(NODE_POOLED_BYTES_MAX);
            let address = node.bytes().as_ptr();
            give(node);
            assert_eq!(kept(), (0, NODE_POOLED_BYTES_MAX));
            let node = take(NODE_POOLED_BYTES_MAX);
            assert_eq!(node.bytes().as_ptr(), address);
            give(take(NODE_POOLED_BYTES_MAX));
            give(node);
            assert_eq!(kept(), (NODE_POOLED_BYTES_MAX, NODE_POOLED_BYTES_MAX));
            assert_eq!(take(NODE_POOLED_BYTES_MAX).bytes().as_ptr(), address, "the last one comes first");
        });
    }

    #[test]
    fn a_thread_that_only_gives_back_trims_too() {
        on_new_thread(|| {
            // Once, as a burst would leave it; from then on others take what this thread gives back.
            let burst: Vec<_> = (0..8).map(|_| take(NODE_POOLED_BYTES_MAX)).collect();
            burst.into_iter().for_each(give);
            let before = kept();
            let odd = REST_PIECES_MAX + 1;
            for _ in 0..2 * POOL_TRIM_CALLS {
                let mut shell = Piece::shell();
                shell.rest = Rest::with_capacity(odd);
                give(Box::new(shell));
            }
            let (before, after) = (before.0 + before.1, kept().0 + kept().1);
            assert!(after <= before / 2, "{before} bytes, then {after}");
        });
    }

    #[test]
    fn nothing_is_left_when_it_is_trimmed_again_and_again() {
        on_new_thread(|| {
            let burst: Vec<_> = (0..NODE_CLASSES_LEN)
                .flat_map(|class| [take(class_bytes(class)), take(class_bytes(class))])
                .collect();
            burst.into_iter().for_each(give);
            (0..9).for_each(|_| give(Box::new(Piece::shell())));
            assert!(kept().0 > 0 && kept().1 > 0 && spare_shells() == 9);
            (0..6).for_each(|_| trim());
            assert_eq!((kept(), spare_shells()), ((0, 0), 0));
            POOL.with(|pool| {
                let shelves = pool.shelves.borrow();
                let lists = shelves.nodes.lists.iter().chain([&shelves.shells]);
                assert!(lists.into_iter().all(|list| list.free.capacity() == 0), "the lists are gone too");
            });
        });
    }

    // One thread takes and another gives back: what does not fit the one's shelf serves the other.
    #[test]
    fn a_thread_takes_what_another_gave_to_the_overflow() {
        let shared = Mutex::new(Shelf::new(POOL_SHARED_BYTES_MAX));
        let class = NODE_CLASSES_LEN - 1;
        let address = |node: &Piece| node.bytes().as_ptr() as usize;
        let addresses: Vec<_> = std::thread::scope(|scope| {
            let giving = scope.spawn(|| {
                let burst: Vec<_> = (0..20).map(|_| allocate(class_bytes(class))).collect();
                let addresses = burst.iter().map(|node| address(node)).collect();
                let mut shelves = Shelves::new();
                burst.into_iter().for_each(|node| shelves.give(class, node, &shared));
                addresses
            });
            giving.join().expect("it gives")
        });
        let mut shelves = Shelves::new();
        let node = shelves.take(class, &shared).expect("the shelf of the thread that gave was full");
        assert!(addresses.contains(&address(&node)));
        let is_busy = shared.lock().expect("nobody panics with it");
        assert!(shelves.take(class, &shared).is_none(), "nobody waits for the overflow");
        shelves.give(class, node, &shared);
        drop(is_busy);
        assert!(shelves.take(class, &shared).is_some(), "it was kept");
    }

    #[test]
    fn the_overflow_is_trimmed_with_any_threads_shelf() {
        let shared = Mutex::new(Shelf::new(POOL_SHARED_BYTES_MAX));
        let class = NODE_CLASSES_LEN - 1;
        while shared.lock().expect("nobody panics with it").give(class, allocate(class_bytes(class))).is_ok()
        {
        }
        let mut want = POOL_SHARED_BYTES_MAX;
        for round in 0..8 {
            Shelves::new().trim(&shared);
            if round > 0 {
                want = want / 2 / class_bytes(class) * class_bytes(class);
            }
            assert_eq!(shared.lock().expect("nobody panics with it").bytes, want);
        }
        assert_eq!(want, 0);
    }

    #[test]
    fn odd_sizes_are_not_kept() {
        on_new_thread(|| {
            give(allocate(1000));
            give(take(NODE_POOLED_BYTES_MAX + 1));
            assert_eq!(kept(), (0, 0));
        });
    }

    #[test]
    fn spare_shells_are_bounded_and_small() {
        on_new_thread(|| {
            (0..SHELLS_LEN_MAX + 9).for_each(|_| give(Box::new(Piece::shell())));
            assert_eq!(spare_shells(), SHELLS_LEN_MAX);
            POOL.with(|pool| pool.shelves.borrow_mut().shells = List::new());
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
            for _ in 0..POOL_TRIM_CALLS as usize * rounds {
                give(take(NODE_BYTES_MIN));
            }
            let (shelf, spares) = kept();
            assert_eq!(shelf + spares, NODE_BYTES_MIN);
        });
    }
}
