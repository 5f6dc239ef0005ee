//! The units of `packaging/`, alone and with every drop-in of `docs/OPERATIONS.md`: the command lines that they come to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyproxy::cli::{self, Command};

/// The lines of a unit that decide what is run, with those of a drop-in behind them.
struct Unit {
    variables: BTreeMap<String, String>,
    /// The names of what is loaded: a file that is not there keeps the service from starting.
    credentials: BTreeSet<String>,
    command: String,
}

/// The words of `Environment=`: a space parts them, but not within quotation marks.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let (quoted, plain): (Vec<_>, Vec<_>) =
        text.split('"').enumerate().partition(|(number, _)| number % 2 == 1);
    let plain = plain.into_iter().flat_map(|(_, text)| text.split_whitespace());
    plain.chain(quoted.into_iter().map(|(_, text)| text))
}

impl Unit {
    fn read(unit: &str, drop_in: &str) -> Unit {
        let mut read =
            Unit { variables: BTreeMap::new(), credentials: BTreeSet::new(), command: String::new() };
        let (unit, drop_in) = (unit.replace("\\\n", " "), drop_in.replace("\\\n", " "));
        for (key, value) in unit.lines().chain(drop_in.lines()).filter_map(|line| line.split_once('=')) {
            match (key, value) {
                ("Environment", value) => read.variables.extend(words(value).map(|word| {
                    let (name, value) = word.split_once('=').expect("NAME=VALUE");
                    (name.to_owned(), value.to_owned())
                })),
                ("LoadCredential", "") => read.credentials.clear(),
                ("LoadCredential", value) => {
                    let (name, _) = value.split_once(':').expect("NAME:PATH");
                    read.credentials.insert(name.to_owned());
                }
                ("ExecStart", value) => value.clone_into(&mut read.command),
                _ => {}
            }
        }
        read
    }

    /// The words that the program is given: `${NAME}` is one word or within one, `$NAME` as many as it has.
    fn run(&self, directory: &str) -> Vec<String> {
        let variable = |name: &str| match name {
            "CREDENTIALS_DIRECTORY" => directory.to_owned(),
            name => self.variables.get(name).expect("the unit sets it").replace("%d", directory),
        };
        let expand = |word: &str| -> Vec<String> {
            if let Some((before, rest)) = word.split_once("${") {
                let (name, after) = rest.split_once('}').expect("'}' behind '${'");
                return vec![format!("{before}{}{after}", variable(name))];
            }
            match word.strip_prefix('$') {
                Some(name) => variable(name).split_whitespace().map(str::to_owned).collect(),
                None => vec![word.to_owned()],
            }
        };
        self.command.split_whitespace().flat_map(expand).collect()
    }
}

/// Blocks of `ini` in a text.
fn blocks(text: &str) -> Vec<&str> {
    let begun = text.split("```ini\n").skip(1);
    begun.map(|rest| rest.split("```").next().expect("a block ends")).collect()
}

#[test]
fn every_drop_in_makes_a_command_line_that_can_be_used() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).expect("it is there");
    let (gateway, client) =
        (read("packaging/anyproxy-gateway.service"), read("packaging/anyproxy-client.service"));
    let dir = tempfile::tempdir().expect("a directory can be made");
    let password = dir.path().join("password");
    anyproxy::secret_file::create(&password, 0o600, b"secret\n").expect("nothing is there");
    let path = dir.path().to_str().expect("paths of temporary files are text");

    let pin = format!("sha256:{}", "0".repeat(64));
    let text = read("docs/OPERATIONS.md").replace("sha256:...", &pin);
    let drop_ins = blocks(&text);
    let mut with_keys = 0;
    for drop_in in ["", "ANYPROXY_GATEWAY"].iter().chain(&drop_ins) {
        let unit = if drop_in.contains("ANYPROXY_GATEWAY") { &client } else { &gateway };
        let unit = Unit::read(unit, drop_in);
        let words = unit.run(path);
        let used = |name: &String| words.contains(&format!("{path}/{name}"));
        assert!(unit.credentials.iter().all(used), "{:?} of {words:?}", unit.credentials);
        let given = words.iter().filter_map(|word| word.strip_prefix(path)?.strip_prefix('/'));
        assert!(given.clone().all(|name| unit.credentials.contains(name)), "{words:?}");
        let command = cli::parse(&words);
        assert!(matches!(command, Ok(Command::Gateway(_) | Command::Client(_))), "{words:?}: {command:?}");
        if let Ok(Command::Gateway(cli::Gateway { keys: Some(_), group, tls, .. })) = command {
            // All of it is loaded again from where it is, and there is no password that opens everything.
            assert!(group.is_none() && tls.is_some() && given.count() == 0, "{words:?}");
            with_keys += 1;
        }
    }
    assert_eq!(with_keys, 1, "one example has keys and TLS together");
}
