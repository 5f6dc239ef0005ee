//! `crossbeam_utils::atomic::AtomicCell` with a lock inside, for those that cannot have the real one.
//!
//! The checkers do not see into it, and Miri objects to it: it swaps a pointer as an integer, and the pointer that comes
//! back has lost its claim to the memory.

use super::Mutex;

pub(crate) struct AtomicCell<T>(Mutex<T>);

impl<T> AtomicCell<T> {
    pub(crate) fn new(value: T) -> AtomicCell<T> {
        AtomicCell(Mutex::new(value))
    }

    pub(crate) fn swap(&self, value: T) -> T {
        std::mem::replace(&mut *self.0.lock(), value)
    }
}

impl<T: Default> AtomicCell<T> {
    pub(crate) fn take(&self) -> T {
        self.swap(T::default())
    }
}
