//! Guards the architecture by reading the source tree.
//!
//! Each rule is a function from a file's path and text to its faults, tried on made-up text at the end of this file.

use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 100;

/// A rule: takes a path relative to the root, with its text, and adds `line: fault` for each fault.
type Rule = fn(&Path, &str, &mut Vec<String>);

// proves S-14, S-15, S-20, S-46, S-64, S-74: results, waiting, stop flags, length, and every size in one file
#[test]
fn the_tree_keeps_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = text_files(root);
    assert!(files.len() > 20, "the tree was not found at {}", root.display());
    let rules: &[Rule] = &[
        no_unsafe,
        sans_io,
        limits_in_one_file,
        no_unwrap,
        no_silence,
        no_blocking,
        no_private_stop_flags,
        short_files,
        short_functions,
        no_foreign_words,
    ];
    let mut faults = Vec::new();
    for (path, text) in &files {
        for rule in rules {
            let mut found = Vec::new();
            rule(path, text, &mut found);
            faults.extend(found.into_iter().map(|fault| format!("{}:{fault}", path.display())));
        }
    }
    for head in ["src/lib.rs", "src/main.rs", "linkbuffer/src/lib.rs", "poller/src/lib.rs"] {
        let forbids = |text: &str| text.lines().any(|line| line == "#![forbid(unsafe_code)]");
        if !files.iter().any(|(path, text)| path == Path::new(head) && forbids(text)) {
            faults.push(format!("{head}: wants #![forbid(unsafe_code)]"));
        }
    }
    for (file, flag) in STOP_FLAGS {
        let has = |text: &str| {
            code(text).any(|(_, line)| {
                line.contains(&format!("{flag}: bool")) || line.contains(&format!("{flag}: Mutex<bool>"))
            })
        };
        if !files.iter().any(|(path, text)| path == Path::new(file) && has(text)) {
            faults.push(format!("{file}: {flag} is listed as a stop flag, and is none any more"));
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// The README shows how to begin, and the commands it shows are those that exist.
#[test]
fn the_readme_has_its_two_commands() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).expect("there is a README");
    for command in ["cargo run --release -- standalone", "cargo test"] {
        assert!(readme.lines().any(|line| line.trim() == command), "README.md lacks the line `{command}`");
    }
    for word in readme.split(['`', '(', ')', ' ', '\n']).filter(|word| is_script(word)) {
        assert!(root.join(word).exists(), "README.md names {word}, which is not there");
    }
}

fn is_script(word: &str) -> bool {
    ["scripts/", "packaging/", "docs/"].iter().any(|dir| word.starts_with(dir)) && !word.contains(['*', '<'])
}

/// All text files but what is generated, relative to the root.
fn text_files(root: &Path) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("the tree can be read") {
            let path = entry.expect("the tree can be read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let hidden = name.starts_with('.') && name != ".ci" && name != ".gitignore";
            if hidden || name == "target" || name == "Cargo.lock" || name.ends_with(".log") {
                continue;
            }
            if path.is_dir() {
                dirs.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let relative = path.strip_prefix(root).expect("it was found below the root");
                files.push((relative.to_owned(), text));
            }
        }
    }
    files.sort();
    files
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

/// Files that hold nothing but tests.
fn is_test(path: &Path) -> bool {
    let test_name = path.file_stem().is_some_and(|stem| {
        let stem = stem.to_string_lossy();
        stem == "tests" || stem.ends_with("_tests")
    });
    test_name || path.components().any(|c| ["tests", "benches", "fuzz"].iter().any(|d| c.as_os_str() == *d))
}

/// The lines before the tests that stand in the same file, numbered from 1, without comments and with string contents left out.
fn code(text: &str) -> impl Iterator<Item = (usize, String)> {
    let begins_tests = |line: &str| {
        let line = line.trim_start();
        line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test")
    };
    let mut lines = text.lines().enumerate().peekable();
    // Only a module of tests is the end of the code: not a field, a function or a block for tests, nor tests in another file.
    let mut before_tests = true;
    std::iter::from_fn(move || {
        let (i, line) = lines.next()?;
        let below = lines.peek().map_or("", |(_, below)| below.trim());
        before_tests &= !(begins_tests(line) && below.starts_with("mod ") && !below.ends_with(';'));
        before_tests.then(|| (i + 1, without_strings(line)))
    })
}

fn without_strings(line: &str) -> String {
    let mut out = String::new();
    let mut in_string = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_string => {
                chars.next();
            }
            '\'' if !in_string && chars.peek() == Some(&'"') => {
                chars.next();
            }
            '"' => in_string = !in_string,
            '/' if !in_string && chars.peek() == Some(&'/') => break,
            _ if in_string => {}
            _ => out.push(c),
        }
    }
    out
}

/// The words of a line of code.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

/// The files that may hold `unsafe`, each for a reason that its head gives.
/// The lab's sets two options of a socket that no safe interface has, in a measuring tool outside the product's tree.
/// Two tests count what is allocated, for which the language has an unsafe trait.
const UNSAFE_ALLOWED: [&str; 3] =
    ["linkbuffer/tests/allocations.rs", "poller/tests/storm.rs", "benches/lab/src/option.rs"];

/// No `unsafe`, tests included, but where it is allowed.
fn no_unsafe(path: &Path, text: &str, faults: &mut Vec<String>) {
    if !is_rust(path) || UNSAFE_ALLOWED.iter().any(|allowed| path == Path::new(allowed)) {
        return;
    }
    for (i, line) in text.lines().enumerate() {
        if words(&without_strings(line)).any(|word| word == "unsafe") {
            faults.push(format!("{}: unsafe", i + 1));
        }
    }
}

/// Protocol code has no reactor, no socket and no clock.
fn sans_io(path: &Path, text: &str, faults: &mut Vec<String>) {
    if !path.starts_with("src/proto") || !is_rust(path) || is_test(path) {
        return;
    }
    const FORBIDDEN: [&str; 8] = [
        "poller::",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "UnixStream",
        "Instant::now",
        "SystemTime::now",
        "std::thread",
    ];
    for (i, line) in code(text) {
        for word in FORBIDDEN.iter().filter(|word| line.contains(**word)) {
            faults.push(format!("{i}: {word} inside the protocol code"));
        }
    }
}

/// Limits are constants whose names end in a unit, and stand together.
fn limits_in_one_file(path: &Path, text: &str, faults: &mut Vec<String>) {
    if !is_rust(path) || is_test(path) || path.ends_with("limits.rs") || path.starts_with("poller/examples") {
        return;
    }
    for (i, line) in code(text) {
        let mut rest = words(&line).skip_while(|word| *word != "const").skip(1);
        let Some(name) = rest.next() else { continue };
        let is_name = name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
        let is_limit =
            ["_MAX", "_MIN", "_BYTES", "_MS", "_SECS", "_LEN"].iter().any(|end| name.ends_with(end));
        if is_name && is_limit {
            faults.push(format!("{i}: {name} belongs into limits.rs"));
        }
    }
}

/// A fault of the world's is an error, and a fault of ours names the invariant that it breaks.
fn no_unwrap(path: &Path, text: &str, faults: &mut Vec<String>) {
    if !is_rust(path) || is_test(path) {
        return;
    }
    for (i, line) in code(text) {
        if line.contains(".unwrap()") {
            faults.push(format!("{i}: unwrap outside tests"));
        }
    }
}

/// Every result is looked at (S-14). The compiler says so of most; these are the ways around it.
fn no_silence(path: &Path, text: &str, faults: &mut Vec<String>) {
    if !is_rust(path) || is_test(path) {
        return;
    }
    let lines: Vec<&str> = text.lines().collect();
    for (i, line) in code(text) {
        let line = line.trim();
        let commented = |i: usize| lines[..i].iter().rev().take(4).any(|line| line.contains("//"));
        // Where not looking is meant, a comment says why.
        let dropped = line.starts_with("let _ =") || line.ends_with(".ok();") && !line.contains('=');
        if dropped && !commented(i) {
            faults.push(format!("{i}: a result that nobody looks at, and no word why"));
        }
    }
}

/// What runs on the event loop waits for nobody (S-20, S-54): neither between a look at something and its use, nor otherwise.
fn no_blocking(path: &Path, text: &str, faults: &mut Vec<String>) {
    const ON_THE_LOOP: [&str; 6] =
        ["src/client", "src/gateway", "src/tunnel", "src/proto", "src/relay.rs", "src/serve"];
    // They wait on threads of their own: that is what they are for.
    const OWN_THREADS: [&str; 1] = ["src/client/resolve"];
    let among = |list: &[&str]| list.iter().any(|dir| path.starts_with(dir));
    if !is_rust(path) || is_test(path) || !among(&ON_THE_LOOP) || among(&OWN_THREADS) {
        return;
    }
    const FORBIDDEN: [&str; 12] = [
        "sleep(",
        ".recv()",
        "recv_timeout(",
        "thread.join(",
        "to_socket_addrs(",
        "rt::look_up(",
        "wait_for(",
        "TcpStream::connect",
        "read_to_string(",
        "read_to_end(",
        "File::",
        "park(",
    ];
    for (i, line) in code(text) {
        for word in FORBIDDEN.iter().filter(|word| line.contains(**word)) {
            faults.push(format!("{i}: {word} on the event loop"));
        }
    }
}

/// What says of a thing that it stops or has ended, each with the one who sets it: the event loop stops connections by their handlers
/// (`on_shutdown`), and whoever owns a thing ends it. A component that stops by a flag of its own is none of these.
const STOP_FLAGS: [(&str, &str); 20] = [
    // Told by `on_shutdown` of the connection that has it.
    ("src/gateway/ingress/http.rs", "stopping"),
    ("src/proto/http/proxy.rs", "stopping"),
    ("src/proto/http/proxy/response.rs", "stopping"),
    ("src/serve/exchange.rs", "stopping"),
    ("src/tunnel/mod.rs", "stopping"),
    // The peer or this side drains; the protocol says so.
    ("src/proto/session/mod.rs", "draining"),
    ("src/proto/session/mod.rs", "peer_draining"),
    // What a protocol's machine has seen: the end of an input, a STOP, a connection that is not to be used again.
    ("src/gateway/ingress/http.rs", "ended"),
    ("src/proto/http/proxy.rs", "closed"),
    ("src/proto/http/proxy.rs", "user_ended"),
    ("src/proto/stream.rs", "stopped"),
    ("src/relay.rs", "ended"),
    ("src/relay.rs", "finished"),
    // Set once by the carrier's `on_close`, with the streams that it ends.
    ("src/tunnel/mod.rs", "lost"),
    ("src/tunnel/stream.rs", "closed"),
    // Set by the stream's one owner.
    ("src/tunnel/stream.rs", "left"),
    // Set by the owner of a stream that is reached for, for a dial that begins on another thread at that moment.
    ("src/client/upstream/mod.rs", "unwanted"),
    // Set by the one who owns the port, and looked at behind the same lock as its flows.
    ("src/gateway/forward/udp.rs", "closed"),
    // Threads beside the event loop: set when their one owner is dropped or closed.
    ("src/access.rs", "closed"),
    ("src/client/resolve/mod.rs", "closed"),
];

/// One scope ends everything (S-46): nothing has a stop flag of its own but what is listed, and no flag is shared without a lock.
fn no_private_stop_flags(path: &Path, text: &str, faults: &mut Vec<String>) {
    const WORDS: [&str; 20] = [
        "stop",
        "stopping",
        "stopped",
        "closed",
        "closing",
        "lost",
        "cancel",
        "cancelled",
        "done",
        "ended",
        "dead",
        "quit",
        "gone",
        "running",
        "alive",
        "finished",
        "draining",
        "shutdown",
        "left",
        "unwanted",
    ];
    if !is_rust(path) || is_test(path) || !path.starts_with("src") {
        return;
    }
    for (i, line) in code(text) {
        if words(&line).any(|word| word == "AtomicBool") {
            faults.push(format!("{i}: a flag that is shared without a lock"));
        }
        let Some((names, kind)) = line.split_once(": ") else { continue };
        let name = words(names).last().unwrap_or_default();
        let is_flag =
            ["bool", "Mutex<bool>", "Cell<bool>", "Arc<Mutex<bool>>"].contains(&kind.trim_end_matches(','));
        let listed = STOP_FLAGS.iter().any(|(file, flag)| path == Path::new(file) && *flag == name);
        // Of `peer_draining` the last part says what it is; `keep_alive` is a word of HTTP.
        let kind = name.rsplit('_').next().unwrap_or_default();
        if is_flag && name != "keep_alive" && WORDS.contains(&kind) && !listed {
            faults.push(format!(
                "{i}: {name} is a stop flag of its own: end it with the event loop, or list it"
            ));
        }
    }
}

/// A function that one can see whole (S-64): its length is what is reported of its complexity.
fn short_functions(path: &Path, text: &str, faults: &mut Vec<String>) {
    if !is_rust(path) || is_test(path) {
        return;
    }
    for (i, name, lines) in functions(text) {
        if lines > FUNCTION_LINES_MAX {
            faults.push(format!("{i}: {name} has {lines} lines, at most {FUNCTION_LINES_MAX}"));
        }
    }
}

/// Where each function begins, its name, and its lines, by the layout that rustfmt gives: it ends at the brace below its `fn`.
fn functions(text: &str) -> Vec<(usize, String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let last = code(text).map(|(i, _)| i).last().unwrap_or(0);
    let mut found = Vec::new();
    for (i, line) in lines[..last].iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let mut words = words(line).skip_while(|word| *word != "fn").skip(1);
        let begins = without_strings(line).split_whitespace().any(|word| word == "fn");
        let Some(name) = words.next().filter(|_| begins) else { continue };
        // What a trait only asks for has no body.
        let signature = lines[i..].iter().find(|line| line.ends_with([';', '{', '}']));
        if signature.is_none_or(|line| line.ends_with([';', '}'])) {
            continue;
        }
        let ends = |line: &&str| line.len() == indent + 1 && line.ends_with('}');
        if let Some(len) = lines[i..].iter().position(ends) {
            found.push((i + 1, name.to_owned(), len + 1));
        }
    }
    found
}

// proves S-64: nothing is let pass by the build, and it reports complexity (here) and coverage
#[test]
fn the_build_lets_no_warning_pass_and_reports_complexity_and_coverage() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(read("scripts/check").contains("cargo clippy --workspace --all-targets -- -D warnings"));
    assert!(
        read(".ci/run").contains("scripts/check") && read("scripts/nightly").contains("scripts/coverage")
    );
    // The lints by which no result is ignored and no fault of the world's is unwrapped (S-14), for every package.
    let manifest = read("Cargo.toml");
    for lint in ["all = { level = \"warn\"", "unwrap_used = \"warn\"", "let_underscore_must_use = \"warn\""] {
        assert!(manifest.contains(lint), "Cargo.toml lacks {lint}");
    }
    for package in ["Cargo.toml", "poller/Cargo.toml", "linkbuffer/Cargo.toml"] {
        assert!(read(package).contains("[lints]\nworkspace = true"), "{package} has lints of its own");
    }
    let mut all: Vec<(usize, String)> = Vec::new();
    for (path, text) in text_files(root).iter().filter(|(path, _)| is_rust(path) && !is_test(path)) {
        let named = |(i, name, lines)| (lines, format!("{}:{i} {name}", path.display()));
        all.extend(functions(text).into_iter().map(named));
    }
    all.sort_unstable();
    assert!(all.len() > 500, "{} functions", all.len());
    let at = |share: usize| all[(all.len() - 1) * share / 100].0;
    println!(
        "{} functions: {} lines at the median, {} at the 90th percentile; the longest:",
        all.len(),
        at(50),
        at(90)
    );
    all.iter().rev().take(10).for_each(|(lines, name)| println!("{lines:>5} {name}"));
}

/// A file that one can read in one go.
fn short_files(path: &Path, text: &str, faults: &mut Vec<String>) {
    let lines = text.lines().count();
    if is_rust(path) && lines > LINES_MAX {
        faults.push(format!("{lines}: more than {LINES_MAX} lines"));
    }
}

/// Nothing of the machine it was written on, and no package registry, so that it builds anywhere.
fn no_foreign_words(path: &Path, text: &str, faults: &mut Vec<String>) {
    // In two halves, so that this file keeps its own rule.
    const FOREIGN: [(&str, &str); 10] = [
        ("/ro", "ot/"),
        ("/ho", "me/"),
        ("/wo", "rk/"),
        ("/tmp/", "wt"),
        ("/tmp/", "target"),
        ("crates", ".io"),
        ("docs", ".rs"),
        ("npmjs", ".org"),
        ("pypi", ".org"),
        ("proxy.golang", ".org"),
    ];
    let foreign: Vec<String> = FOREIGN.iter().map(|(a, b)| [*a, *b].concat()).collect();
    for (i, line) in text.lines().enumerate() {
        for word in foreign.iter().filter(|word| line.contains(word.as_str())) {
            faults.push(format!("{}: {word:?} in {}", i + 1, path.display()));
        }
    }
}

#[track_caller]
fn check(rule: Rule, path: &str, text: &str, want_faults: usize) {
    let mut faults = Vec::new();
    rule(Path::new(path), text, &mut faults);
    assert_eq!(faults.len(), want_faults, "{path}: {text:?}: {faults:?}");
}

#[test]
fn the_rules_find_what_they_forbid() {
    check(no_unsafe, "src/a.rs", &["un", "safe { x() }"].concat(), 1);
    check(no_unsafe, "src/a.rs", "#![forbid(unsafe_code)] // unsafe \nlet x = \"unsafe\";", 0);
    check(sans_io, "src/proto/a.rs", "use poller::Handle;\nlet t = Instant::now();", 2);
    check(sans_io, "src/proto/a.rs", "// poller::\n#[cfg(test)]\nmod tests { Instant::now() }", 0);
    check(sans_io, "src/a.rs", "use poller::Handle;", 0);
    check(limits_in_one_file, "src/a.rs", "    pub(crate) const QUEUE_LEN_MAX: usize = 3;", 1);
    check(limits_in_one_file, "src/a.rs", "const A_BYTES: u8 = 1; const fn len() {}", 1);
    check(limits_in_one_file, "src/a.rs", "const NAMES: u8 = 1;\nlet x = limits::QUEUE_LEN_MAX;", 0);
    check(limits_in_one_file, "src/limits.rs", "const A_MAX: u8 = 1;", 0);
    check(limits_in_one_file, "src/a/tests.rs", "const A_MAX: u8 = 1;", 0);
    check(no_unwrap, "src/a.rs", "let x = y.unwrap();", 1);
    check(no_unwrap, "src/a.rs", "y.unwrap_or(1); // .unwrap()\n#[cfg(test)]\nmod tests {\ny.unwrap();", 0);
    check(no_unwrap, "src/a.rs", "struct A {\n    #[cfg(test)]\n    steps: usize,\n}\ny.unwrap();", 1);
    check(no_unwrap, "tests/it/a.rs", "y.unwrap();", 0);
    check(no_silence, "src/a.rs", "    let _ = x();\n\n\n\n\n    sink.send(1).ok();", 2);
    check(
        no_silence,
        "src/a.rs",
        "// Nobody may be there.\nsink.send(1).ok();\nlet x = y.ok();\nlet _held = z;",
        0,
    );
    check(no_silence, "tests/it/a.rs", "let _ = x();", 0);
    check(no_blocking, "src/gateway/a.rs", "thread::sleep(second);\nlet x = queue.recv();", 2);
    check(no_blocking, "src/client/resolve/mod.rs", "work.wait_for(state, time)", 0);
    check(no_blocking, "src/access.rs", "while let Ok(x) = queue.recv() {", 0);
    check(
        no_private_stop_flags,
        "src/relay.rs",
        "    stopping: bool,\n    pub(super) closed: Mutex<bool>,",
        2,
    );
    check(no_private_stop_flags, "src/relay.rs", "use std::sync::atomic::{AtomicBool, AtomicU8};", 1);
    check(
        no_private_stop_flags,
        "src/relay.rs",
        "    ended: bool,\n    stopping: usize,\n    wide: bool,",
        0,
    );
    check(
        no_unwrap,
        "src/a.rs",
        "#[cfg(test)]\nmod tests;\n#[cfg(test)]\npub(crate) fn f() {}\ny.unwrap();",
        1,
    );
    let function = |lines: usize| {
        format!("impl A {{\n    pub fn f() {{\n{}    }}\n}}\n", "        x();\n".repeat(lines - 2))
    };
    check(short_functions, "src/a.rs", &function(FUNCTION_LINES_MAX + 1), 1);
    check(short_functions, "src/a.rs", &function(FUNCTION_LINES_MAX), 0);
    check(short_files, "src/a.rs", &"\n".repeat(LINES_MAX + 1), 1);
    check(short_files, "src/a.rs", &"\n".repeat(LINES_MAX), 0);
    check(no_foreign_words, "a.md", &["see /ho", "me/me/x and crates", ".io"].concat(), 2);
    check(no_foreign_words, "a.md", "see /etc/anyproxy", 0);
}
