//! The `anyproxy` program.
#![forbid(unsafe_code)]

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyproxy::cli::{self, Command, Stop};
use anyproxy::logs::{self, LogsError, Outcome};
use anyproxy::{logfmt, logging, run};

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Ok(command) => dispatch(command),
        Err(Stop::Show(text)) => print(&text),
        Err(Stop::Usage(line)) => fail(2, &line),
    }
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever closes the pipe has read enough.
        Err(error) if !logging::quiet(&error) => fail(1, &format!("anyproxy: standard output: {error}")),
        _ => ExitCode::SUCCESS,
    }
}

fn dispatch(command: Command) -> ExitCode {
    match command {
        Command::Logs(logs) => match logs::run(&logs.files, &mut io::stdout().lock()) {
            Ok(Outcome::Found) => ExitCode::SUCCESS,
            Ok(Outcome::NothingFound) => ExitCode::from(1),
            Err(LogsError::Write(error)) if logging::quiet(&error) => ExitCode::SUCCESS,
            Err(error @ LogsError::Write(_)) => fail(1, &format!("anyproxy: logs: {error}")),
            Err(error) => fail(2, &format!("anyproxy: logs: {error}")),
        },
        Command::Check(config) => match run::check(&config) {
            Ok((text, reached)) => match io::stdout().write_all(text.as_bytes()) {
                Err(error) if !logging::quiet(&error) => {
                    fail(1, &format!("anyproxy: standard output: {error}"))
                }
                _ => ExitCode::from(u8::from(!reached)),
            },
            Err(run::Fault::Usage(line) | run::Fault::Failed(line)) => {
                fail(2, &format!("anyproxy: check: {line}"))
            }
        },
        Command::Standalone(config) => role("standalone", || run::standalone(&config)),
        Command::Gateway(config) => role("gateway", || run::gateway(config)),
        Command::Client(config) => role("client", || run::client(&config)),
        Command::Cert(config) => tool("cert", run::cert(&config)),
        Command::Passwd(config) => end("passwd", run::passwd(&config, &mut io::stdout())),
        Command::Serve(config) => role("serve", || run::serve(&config)),
    }
}

/// Prints the one line that a tool has made.
fn tool(name: &str, made: Result<String, run::Fault>) -> ExitCode {
    match made {
        Ok(line) => print(&format!("{line}\n")),
        Err(fault) => end(name, Err(fault)),
    }
}

/// Runs a role to its end.
fn role(name: &str, run: impl FnOnce() -> Result<(), run::Fault>) -> ExitCode {
    if let Err(error) = logging::init(logfmt::Stamp::of_stderr()) {
        return fail(2, &format!("anyproxy: {error}"));
    }
    end(name, run())
}

/// The status, and for a fault the line that says it.
fn end(name: &str, ended: Result<(), run::Fault>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(run::Fault::Usage(line)) => fail(2, &format!("anyproxy: {name}: {line}")),
        Err(run::Fault::Failed(line)) => fail(1, &format!("anyproxy: {name}: {line}")),
    }
}

/// The last line, on standard error. The journal has to know that it is an error: a service that cannot start says nothing else.
fn fail(status: u8, line: &str) -> ExitCode {
    let priority = logfmt::Stamp::of_stderr().priority(log::Level::Error);
    eprintln!("{priority}{}", logfmt::printable(line));
    ExitCode::from(status)
}
