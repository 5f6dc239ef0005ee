//! Operations on the buffer, compared with a queue of bytes: those of the crate's model test.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../linkbuffer/src/tests/ops.rs"]
mod ops;

// The invariants are asserted by the buffer itself, because the fuzzer builds with debug assertions.
fuzz_target!(|bytes: &[u8]| {
    ops::run(bytes, |_| ());
});
