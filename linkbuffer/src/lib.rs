//! A zero-copy linked buffer.
#![forbid(unsafe_code)]
