//! What is wrong with a command line, in one line.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory as _};

use super::Raw;

/// The first paragraph of clap's message, what may have been meant, and where there is help.
pub(super) fn one_line(error: &clap::Error, words: &[OsString]) -> String {
    let root = Raw::command();
    let (mut command, mut path) = (&root, "anyproxy".to_owned());
    for word in words.iter().skip(1) {
        let Some(next) = word.to_str().and_then(|word| command.find_subcommand(word)) else { break };
        command = next;
        path = format!("{path} {}", next.get_name());
    }
    let what = if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
        let of = path.strip_prefix("anyproxy ").map_or_else(String::new, |name| format!("{name}: "));
        format!("{of}no command given ({})", names.join(", "))
    } else {
        let text = error.to_string();
        let paragraph = text.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
        let words: Vec<&str> = paragraph.split_whitespace().collect();
        format!("{}{}", words.join(" "), meant(error, &root, command))
    };
    format!("anyproxy: {what}; see {path} --help")
}

/// What may have been meant in place of what `taken`, the command that was given, does not know.
fn meant(error: &clap::Error, root: &Command, taken: &Command) -> String {
    let unknown = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(flag))) => flag.as_str(),
        _ => "",
    };
    if unknown == "--password" {
        let file = if taken.get_arguments().any(|arg| arg.get_long() == Some("password-file")) {
            ": --password-file"
        } else {
            ""
        };
        return format!(", passwords come from files{file}");
    }
    let has = |command: &&Command| {
        command
            .get_arguments()
            .any(|arg| arg.get_long().is_some() && arg.get_long() == unknown.strip_prefix("--"))
    };
    let owners: Vec<&str> = root.get_subcommands().filter(has).map(Command::get_name).collect();
    if !owners.is_empty() {
        return format!(", but {unknown} belongs to {}", owners.join(", "));
    }
    let near = [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand];
    match near.iter().find_map(|kind| error.get(*kind)) {
        Some(ContextValue::String(near)) => format!(", did you mean {near}?"),
        Some(ContextValue::Strings(near)) => format!(", did you mean {}?", near.join(" or ")),
        _ => String::new(),
    }
}
