//! `anyproxy logs`: what a log says, on one screen.
//!
//! ```text
//!  file or stdin ── blocks ──▶ lines ── parse ──▶ Summary ── report ──▶ one screen
//! ```
//! Memory is bounded whatever the log holds: fixed histograms, tables that forget their rarest keys, one block of
//! input. A line that is not ours is counted and shown by number, never fatal.

pub mod histogram;
pub mod parse;
mod report;
mod summary;
pub mod top;

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, Read, Write};
use std::path::{Path, PathBuf};

pub use summary::Summary;

use crate::limits::{REPORT_BLOCK_BYTES, REPORT_LINE_BYTES_MAX};
use parse::Fault;

/// What came of it, for the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// At least one line was ours.
    Found,
    /// No line was.
    NothingFound,
}

/// Why there is no summary.
#[derive(Debug)]
pub enum LogsError {
    /// An input cannot be read.
    Read(PathBuf, io::Error),
    /// The summary cannot be written.
    Write(io::Error),
}

impl fmt::Display for LogsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogsError::Read(path, error) => write!(f, "{}: {error}", path.display()),
            LogsError::Write(error) => write!(f, "standard output: {error}"),
        }
    }
}

impl std::error::Error for LogsError {}

/// Reads the files in order, `-` being standard input, and writes their common summary.
///
/// # Errors
/// When a file cannot be read (then nothing is written), or the summary cannot be written.
pub fn run(files: &[PathBuf], out: &mut dyn Write) -> Result<Outcome, LogsError> {
    let mut summary = Summary::default();
    for path in files {
        let read = if path == Path::new("-") {
            scan("(stdin)", &mut io::stdin().lock(), &mut summary)
        } else {
            File::open(path).and_then(|mut file| scan(&path.to_string_lossy(), &mut file, &mut summary))
        };
        read.map_err(|error| LogsError::Read(path.clone(), error))?;
    }
    let text = report::render(&summary);
    out.write_all(&text).and_then(|()| out.flush()).map_err(LogsError::Write)?;
    Ok(if summary.matched() == 0 { Outcome::NothingFound } else { Outcome::Found })
}

/// Adds the lines of `input` to `summary`; `name` says where a bad line stands.
///
/// # Errors
/// Those of reading.
pub fn scan(name: &str, input: &mut dyn Read, summary: &mut Summary) -> io::Result<()> {
    let mut block = vec![0; REPORT_BLOCK_BYTES];
    let mut kept = 0; // Bytes of an unfinished line at the block's head: kept <= REPORT_LINE_BYTES_MAX
    let mut overlong = false; // The unfinished line was given up, and what follows of it is passed over
    let mut number = 1; // Of the line being read
    loop {
        let read = match input.read(&mut block[kept..]) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let filled = kept + read;
        let mut at = 0;
        while at < filled {
            let len = (&block[at..filled]).skip_until(b'\n')?;
            let line = &block[at..at + len];
            let body = line.strip_suffix(b"\n");
            // Only at the end of the input is a line without its newline all there will be.
            if body.is_none() && read > 0 {
                break;
            }
            if !std::mem::take(&mut overlong) {
                add_line(name, number, body.unwrap_or(line), summary);
            }
            number += 1;
            at += len;
        }
        if read == 0 {
            return Ok(());
        }
        kept = filled - at;
        if kept > REPORT_LINE_BYTES_MAX && !std::mem::replace(&mut overlong, true) {
            summary.add_fault(name, number, Fault::TooLong);
        }
        if overlong {
            kept = 0;
        }
        block.copy_within(at..at + kept, 0);
    }
}

fn add_line(name: &str, number: u64, line: &[u8], summary: &mut Summary) {
    if line.is_empty() {
        return;
    }
    let parsed = if line.len() > REPORT_LINE_BYTES_MAX { Err(Fault::TooLong) } else { parse::parse(line) };
    match parsed {
        Ok(line) => summary.add(&line),
        Err(fault) => summary.add_fault(name, number, fault),
    }
}

#[cfg(test)]
mod tests;
