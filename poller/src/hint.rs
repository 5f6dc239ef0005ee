//! What is known of callbacks before they run: whether others of their kind have blocked.
//!
//! When the monitor finds a callback to block that has not announced it, the listener it belongs to is hinted from then
//! on, or the type of handler that was dialed with: the monitor then needs one look instead of two (see `monitor`).
//! Nothing is paid by callbacks that do not block.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::Arc;

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// Whether callbacks were found to block without announcing it.
#[derive(Default)]
pub(crate) struct Hint(AtomicBool);

impl Hint {
    pub(crate) fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Says whether it is news.
    pub(crate) fn learn(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }
}

/// The hints of the handlers that were dialed with on one poll, by their types.
#[derive(Default)]
pub(crate) struct Dialed(Mutex<HashMap<TypeId, Arc<Hint>>>);

impl Dialed {
    pub(crate) fn hint<H: 'static>(&self) -> Arc<Hint> {
        self.0.lock().entry(TypeId::of::<H>()).or_default().clone()
    }
}
